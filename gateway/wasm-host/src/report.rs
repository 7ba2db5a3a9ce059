//! What a module is, for people: everything it declares, who made it, and what speaks against it.

use wasmparser::{ExternalKind, TypeRef};

use crate::abi::AbiVersion;
use crate::callbacks;
use crate::host;
use crate::inspect::{Sections, read};
use crate::log;
use crate::module::ModuleError;

/// What a module declares. Names come from the module, so they are cut and may hold anything.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Size of the module.
    pub bytes: usize,
    /// The ABI it is written for, if this host knows it.
    pub abi: Option<AbiVersion>,
    /// What it needs, ordered by name, each once.
    pub imports: Vec<Import>,
    /// What it offers, in its own order: all functions of the ABI, and at most 1,000 others.
    pub exports: Vec<Export>,
    /// Its memory: what it begins with and what it may grow to, in bytes.
    pub memory: Option<Range>,
    /// Its tables: what they begin with and what they may grow to, in elements.
    pub tables: Vec<Range>,
    /// Functions with code.
    pub functions: usize,
    /// Bytes of code.
    pub code_bytes: usize,
    /// Bytes of data that its memory begins with.
    pub data_bytes: usize,
    /// Who made it: language, compiler, SDK.
    pub producers: Vec<Producer>,
    /// Sections that are not WebAssembly's own. At most 1,000.
    pub custom_sections: Vec<CustomSection>,
    /// Why [`Module::compile`](crate::Module::compile) refuses it; the first is what it answers. It may find more
    /// that only the compiler sees.
    pub refusals: Vec<ModuleError>,
}

/// Something that a module needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// `env` or one of WASI's names.
    pub module: String,
    /// Name of the function.
    pub name: String,
    /// Whether this host has it.
    pub provided: bool,
}

/// Something that a module offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Whether it is a function.
    pub function: bool,
    /// Whether it is a function of the ABI that the host calls on an event.
    pub callback: bool,
}

/// A size with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// To begin with.
    pub min: u64,
    /// The most it asks for; `None`: as much as it gets.
    pub max: Option<u64>,
}

/// An entry of the producers section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// `language`, `processed-by` or `sdk`.
    pub field: String,
    /// `Rust`, `clang`, …
    pub name: String,
    /// Of what is named.
    pub version: String,
}

/// A section that is not WebAssembly's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomSection {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: usize,
}

/// Most exports that are told of and mean nothing to this host.
const MAX_OTHERS: usize = 1_000;
/// Longest name that is shown.
const MAX_NAME: usize = 200;
const PAGE: u64 = 64 << 10;

impl Report {
    /// Reads a module (binary format). Compiles and runs nothing.
    ///
    /// # Errors
    /// It is not WebAssembly, or declares too much to be read.
    pub fn of(wasm: &[u8]) -> Result<Self, ModuleError> {
        let sections = read(wasm)?;
        let abi = sections.abi();
        let range = |min: u64, max: Option<u64>, unit: u64| Range {
            min: min.saturating_mul(unit),
            max: max.map(|max| max.saturating_mul(unit)),
        };
        let mut imports: Vec<_> = sections.imports.iter().map(import).collect();
        imports.sort();
        imports.dedup();
        let mut others = 0..MAX_OTHERS;
        let exports = sections.exports.iter().map(|(name, kind, _)| export(name, *kind, abi));
        let exports = exports.filter(|export| export.callback || others.next().is_some()).collect();
        Ok(Self {
            bytes: wasm.len(),
            abi,
            imports,
            exports,
            memory: sections.memory.map(|memory| range(memory.initial, memory.maximum, PAGE)),
            tables: sections.tables.iter().map(|table| range(table.initial, table.maximum, 1)).collect(),
            functions: sections.bodies,
            code_bytes: sections.code_bytes,
            data_bytes: sections.data_bytes,
            producers: producers(&sections),
            custom_sections: sections
                .custom
                .iter()
                .map(|(name, bytes)| CustomSection { name: shown(name), bytes: *bytes })
                .collect(),
            refusals: sections.refusals(),
        })
    }

    /// Whether it uses WASI.
    pub fn uses_wasi(&self) -> bool {
        self.imports.iter().any(|import| import.module.starts_with("wasi"))
    }
}

fn shown(name: &str) -> String {
    log::text(name.as_bytes(), MAX_NAME).into_owned()
}

fn import((module, name, ty): &(&str, &str, TypeRef)) -> Import {
    let provided = matches!(ty, TypeRef::Func(_)) && host::provides(module, name);
    Import { module: shown(module), name: shown(name), provided }
}

fn export(name: &str, kind: ExternalKind, abi: Option<AbiVersion>) -> Export {
    let function = kind == ExternalKind::Func;
    let known = || callbacks::signature(name, abi.unwrap_or(AbiVersion::V0_2_1)).is_some();
    let event = name.starts_with("proxy_on_") || name == "proxy_validate_configuration";
    let callback = function && event && name != "proxy_on_memory_allocate" && known();
    Export { name: shown(name), function, callback }
}

/// The producers section, as far as it can be read: it is a matter of courtesy, so its mistakes are nobody's problem.
fn producers(sections: &Sections<'_>) -> Vec<Producer> {
    const MOST: usize = 100;
    let mut producers = Vec::new();
    for field in sections.producers.clone().into_iter().flatten().map_while(Result::ok) {
        for value in field.values.into_iter().map_while(Result::ok).take(MOST - producers.len()) {
            let (name, version) = (shown(value.name), shown(value.version));
            producers.push(Producer { field: shown(field.name), name, version });
        }
    }
    producers
}
