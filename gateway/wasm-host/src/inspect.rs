//! Reads what a module declares, before anything is compiled: ABI version, imports, exports, memory.
//!
//! Every problem is collected, so that whoever uploads a module fixes them in one go. Code is only
//! looked at to estimate how long compiling it would take: that cannot be interrupted, and small
//! modules can be made that take hours.

use wasmparser::{
    CompositeInnerType, CustomSectionReader, ExternalKind, FuncType, FunctionBody, KnownCustom, MemoryType, Operator,
    Parser, Payload, ProducersSectionReader, TableType, TypeRef, ValType,
};

use crate::abi::AbiVersion;
use crate::callbacks::{self, Callbacks};
use crate::host;
use crate::log;
use crate::module::ModuleError;

/// What a module declares.
#[derive(Debug)]
pub(crate) struct Outline {
    pub(crate) abi: AbiVersion,
    pub(crate) callbacks: Callbacks,
    pub(crate) edits_bodies: bool,
    pub(crate) reads_heads: bool,
    pub(crate) reads_properties: bool,
    pub(crate) makes_calls: bool,
}

/// Most functions, types, imports and exports that a module may declare, of each. A function costs the
/// compiler about 7 KB of memory, however small it is.
const MAX_DECLARATIONS: usize = 50_000;

/// Most effort of compiling, as [`Effort`] counts it: tens of seconds.
const MAX_EFFORT: u64 = 4_000_000_000;

/// Most custom sections that are told of. They cost nothing else.
const MAX_CUSTOM: usize = 1_000;

/// Sections of interest, as they were read.
#[derive(Default)]
pub(crate) struct Sections<'a> {
    types: Vec<Option<FuncType>>,
    /// Type of every function, imported ones first.
    functions: Vec<u32>,
    pub(crate) imports: Vec<(&'a str, &'a str, TypeRef)>,
    pub(crate) exports: Vec<(&'a str, ExternalKind, u32)>,
    pub(crate) memory: Option<MemoryType>,
    pub(crate) tables: Vec<TableType>,
    /// Functions with code.
    pub(crate) bodies: usize,
    pub(crate) code_bytes: usize,
    pub(crate) data_bytes: usize,
    /// Name and size of custom sections.
    pub(crate) custom: Vec<(&'a str, usize)>,
    pub(crate) producers: Option<ProducersSectionReader<'a>>,
    effort: Effort,
}

/// An estimate of how long compiling takes beyond what is proportional to the size. Measured with
/// Cranelift 0.135: it grows with the square of the branches of one function, and a hundred times as
/// fast with the square of its loops, each of which checks the deadline.
#[derive(Default)]
struct Effort {
    total: u64,
    /// Of the function with the largest share: effort, loops, branches.
    worst: (u64, u64, u64),
}

/// Reads the outline of a module and checks it against the ABI. [`crate::Report`] shows all of it.
pub(crate) fn inspect(wasm: &[u8]) -> Result<Outline, ModuleError> {
    let sections = read(wasm)?;
    if let Some(refusal) = sections.refusals().into_iter().next() {
        return Err(refusal);
    }
    // Without one there was a refusal.
    let abi = sections.abi().unwrap_or(AbiVersion::V0_2_1);
    let functions = sections.exports.iter().filter(|(_, kind, _)| *kind == ExternalKind::Func);
    let imports = |names: &[&str]| sections.imports.iter().any(|(_, name, _)| names.contains(name));
    let edits_bodies = imports(&["proxy_set_buffer_bytes"]);
    let reads_heads = imports(&[
        "proxy_get_header_map_value",
        "proxy_get_header_map_pairs",
        "proxy_get_header_map_size",
        "proxy_get_property",
        // Expressions name properties, heads among them.
        "proxy_call_foreign_function",
    ]);
    let reads_properties = imports(&["proxy_get_property", "proxy_call_foreign_function"]);
    let makes_calls = imports(&["proxy_http_call", "proxy_grpc_call", "proxy_grpc_stream"]);
    let callbacks = Callbacks::of(functions.map(|(name, _, _)| *name));
    Ok(Outline { abi, callbacks, edits_bodies, reads_heads, reads_properties, makes_calls })
}

/// Reads all of a module, and checks no more than it has to for that.
pub(crate) fn read(wasm: &[u8]) -> Result<Sections<'_>, ModuleError> {
    if !wasm.starts_with(b"\0asm") {
        return Err(ModuleError::Malformed("it does not begin with the bytes of a WebAssembly module".to_owned()));
    }
    let mut sections = Sections::default();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::Version { encoding: wasmparser::Encoding::Component, .. } => {
                return Err(ModuleError::Malformed(
                    "it is a component; proxy-wasm needs a core module (for Rust: crate type cdylib, target wasm32-wasip1)".to_owned(),
                ));
            }
            Payload::TypeSection(reader) => {
                limit("types", sections.types.len(), reader.count())?;
                for group in reader {
                    for sub in group?.into_types() {
                        sections.types.push(match sub.composite_type.inner {
                            CompositeInnerType::Func(function) => Some(function),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(reader) => {
                limit("imports", sections.imports.len(), reader.count())?;
                for import in reader.into_imports() {
                    let import = import?;
                    if let TypeRef::Func(index) = import.ty {
                        sections.functions.push(index);
                    }
                    sections.imports.push((import.module, import.name, import.ty));
                }
            }
            Payload::FunctionSection(reader) => {
                limit("functions", sections.functions.len(), reader.count())?;
                for index in reader {
                    sections.functions.push(index?);
                }
            }
            Payload::ExportSection(reader) => {
                limit("exports", sections.exports.len(), reader.count())?;
                for export in reader {
                    let export = export?;
                    sections.exports.push((export.name, export.kind, export.index));
                }
            }
            Payload::TableSection(reader) => {
                limit("tables", sections.tables.len(), reader.count())?;
                for table in reader {
                    sections.tables.push(table?.ty);
                }
            }
            Payload::MemorySection(reader) => {
                if let Some(memory) = reader.into_iter().next() {
                    sections.memory = Some(memory?);
                }
            }
            Payload::DataSection(reader) => sections.data_bytes += reader.range().len(),
            Payload::CodeSectionStart { range, .. } => sections.code_bytes += range.len(),
            Payload::CodeSectionEntry(body) => {
                sections.bodies += 1;
                sections.effort.add(&body)?;
            }
            Payload::CustomSection(reader) => sections.add_custom(&reader),
            _ => {}
        }
    }
    Ok(sections)
}

/// Checks a section before it is read. A module that is not valid may repeat one, so all are counted.
fn limit(what: &str, so_far: usize, more: u32) -> Result<(), ModuleError> {
    let count = so_far.saturating_add(more as usize);
    if count <= MAX_DECLARATIONS {
        return Ok(());
    }
    Err(ModuleError::Limits(format!("it declares {count} {what}, more than {MAX_DECLARATIONS}")))
}

/// Names from the module for a message, which must stay readable whatever the module contains.
fn listed<T: AsRef<str>>(names: &[T], separator: &str) -> String {
    const MOST: usize = 20;
    let mut list: Vec<_> = names.iter().take(MOST).map(|name| log::text(name.as_ref().as_bytes(), 200)).collect();
    if names.len() > MOST {
        list.push(format!("and {} more", names.len() - MOST).into());
    }
    list.join(separator)
}

impl Effort {
    fn add(&mut self, body: &FunctionBody<'_>) -> Result<(), ModuleError> {
        let (mut loops, mut branches) = (0u64, 0u64);
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            match operators.read()? {
                Operator::Loop { .. } => loops += 1,
                Operator::If { .. } | Operator::Block { .. } | Operator::BrIf { .. } | Operator::BrTable { .. } => {
                    branches += 1;
                }
                _ => {}
            }
        }
        // The size limit keeps both below 2^25.
        let effort = 100 * loops * loops + branches * branches;
        self.total = self.total.saturating_add(effort);
        self.worst = self.worst.max((effort, loops, branches));
        Ok(())
    }

    fn check(&self) -> Result<(), ModuleError> {
        if self.total > MAX_EFFORT {
            let (_, loops, branches) = self.worst;
            return Err(ModuleError::Limits(format!(
                "its functions branch too much to be compiled in reasonable time; the worst has {loops} loops and {branches} branches"
            )));
        }
        Ok(())
    }
}

impl<'a> Sections<'a> {
    fn add_custom(&mut self, reader: &CustomSectionReader<'a>) {
        if self.custom.len() < MAX_CUSTOM {
            self.custom.push((reader.name(), reader.data().len()));
        }
        if let KnownCustom::Producers(producers) = reader.as_known() {
            self.producers = Some(producers);
        }
    }
}

impl Sections<'_> {
    /// The ABI version it declares, if this host knows it.
    pub(crate) fn abi(&self) -> Option<AbiVersion> {
        self.exports.iter().find_map(|(name, _, _)| AbiVersion::from_export(name))
    }

    /// Everything that speaks against the module, the most telling first.
    pub(crate) fn refusals(&self) -> Vec<ModuleError> {
        let mut refusals = Vec::new();
        let abi = self.abi();
        if abi.is_none() {
            refusals.push(ModuleError::AbiUnknown { declared: self.declared_abi() });
        }
        let unknown = self.unknown_imports();
        if !unknown.is_empty() {
            refusals.push(ModuleError::ImportUnknown { imports: listed(&unknown, ", ") });
        }
        refusals.extend(self.effort.check().err());
        let wrong = abi.map(|abi| self.wrong_exports(abi)).unwrap_or_default();
        if !wrong.is_empty() {
            refusals.push(ModuleError::ExportType { exports: listed(&wrong, "; ") });
        }
        if !self.has("memory", ExternalKind::Memory) {
            refusals.push(ModuleError::MemoryMissing);
        }
        if !self.has("malloc", ExternalKind::Func) && !self.has("proxy_on_memory_allocate", ExternalKind::Func) {
            refusals.push(ModuleError::AllocatorMissing);
        }
        refusals
    }

    fn has(&self, name: &str, kind: ExternalKind) -> bool {
        self.exports.iter().any(|(export, exported, _)| *export == name && *exported == kind)
    }

    /// ABI markers this host does not know, for the message.
    fn declared_abi(&self) -> String {
        let markers: Vec<_> = self
            .exports
            .iter()
            .map(|(name, _, _)| *name)
            .filter(|name| name.starts_with("proxy_abi_version_"))
            .collect();
        if markers.is_empty() { "none".to_owned() } else { listed(&markers, ", ") }
    }

    fn unknown_imports(&self) -> Vec<String> {
        let mut unknown: Vec<_> = self
            .imports
            .iter()
            .filter(|(module, name, ty)| !matches!(ty, TypeRef::Func(_)) || !host::provides(module, name))
            .map(|(module, name, _)| format!("{module}.{name}"))
            .collect();
        unknown.sort();
        unknown.dedup();
        unknown
    }

    /// Callbacks whose type is not the ABI's.
    fn wrong_exports(&self, abi: AbiVersion) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, kind, index) in &self.exports {
            let Some((params, result)) = callbacks::signature(name, abi) else { continue };
            let right = *kind == ExternalKind::Func
                && self.function_type(*index).is_some_and(|function| {
                    function.params().len() == params
                        && function.results().len() == usize::from(result)
                        && function.params().iter().chain(function.results()).all(|ty| *ty == ValType::I32)
                });
            if !right {
                let result = if result { "one i32 result" } else { "no result" };
                wrong.push(format!("{name} must be a function with {params} i32 parameters and {result}"));
            }
        }
        wrong
    }

    fn function_type(&self, function: u32) -> Option<&FuncType> {
        let index = *self.functions.get(function as usize)?;
        self.types.get(index as usize)?.as_ref()
    }
}

impl From<wasmparser::BinaryReaderError> for ModuleError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Malformed(error.to_string())
    }
}
