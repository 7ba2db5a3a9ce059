//! A module as it is compiled: what it says, with three things more.
//!
//! * What fills and copies memory calls functions that do it in pieces ([`bulk`]).
//! * Mutable globals are exported, so that a configured instance can be copied.
//! * The start function is an export like any other and does not run by itself, so that a copy can be filled before any
//!   code of the plugin runs.
//!
//! Nothing else is touched; sections are copied as they are.

use std::borrow::Cow;

use wasm_encoder::{CodeSection, Encode as _, ExportKind, ExportSection, RawSection, SectionId};
use wasmparser::{BinaryReader, ExternalKind, FunctionBody, Operator, Parser, Payload, TypeRef, ValType};

use crate::bulk;
use crate::module::ModuleError;

/// Counts the ways in which modules are changed here: code that was compiled after another change is not used.
pub(crate) const VERSION: u32 = 2;

/// What the names of the added exports begin with.
pub(crate) const PREFIX: &str = "gateway:";
/// The start function.
pub(crate) const START: &str = "gateway:start";

/// Why instances of a module cannot be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uncopyable {
    Tables,
    References,
    Globals,
}

/// Most mutable globals of a module whose instances are copied. Compilers make one to a handful.
const MAX_GLOBALS: usize = 10_000;

impl Uncopyable {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Tables => "the module changes its tables while it runs",
            Self::References => "the module keeps references in its globals",
            Self::Globals => "the module has more than 10,000 mutable globals",
        }
    }
}

/// Adds the exports. Says, too, whether instances of the module can be copied.
pub(crate) fn instrument(wasm: &[u8]) -> Result<(Vec<u8>, Option<Uncopyable>), ModuleError> {
    let mut uncopyable = None;
    let mut start = None;
    let mut globals = Vec::new();
    let (mut types, mut functions, mut bodies) = (0_u32, 0_u32, Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::StartSection { func, .. } => start = Some(func),
            // None is imported: the host provides functions only.
            Payload::GlobalSection(reader) => {
                for (index, global) in (0..).zip(reader) {
                    let ty = global?.ty;
                    if !ty.mutable {
                        continue;
                    }
                    match ty.content_type {
                        ValType::Ref(_) => uncopyable = Some(Uncopyable::References),
                        _ => globals.push(index),
                    }
                }
            }
            Payload::TypeSection(reader) => {
                for group in reader {
                    // A module that declares more than fit was refused before.
                    types = types.saturating_add(group?.types().len() as u32);
                }
            }
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    functions += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                }
            }
            Payload::FunctionSection(reader) => functions = functions.saturating_add(reader.count()),
            Payload::CodeSectionEntry(body) => {
                bodies.push(body.clone());
                let mut operators = body.get_operators_reader()?;
                while uncopyable.is_none() && !operators.eof() {
                    if changes_tables(&operators.read()?) {
                        uncopyable = Some(Uncopyable::Tables);
                    }
                }
            }
            _ => {}
        }
    }
    if globals.len() > MAX_GLOBALS {
        globals.clear();
        uncopyable = Some(Uncopyable::Globals);
    }
    let code = in_pieces(wasm, &bodies, functions)?;
    let mut out = wasm_encoder::Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match &payload {
            Payload::StartSection { .. } => {}
            Payload::ExportSection(reader) => {
                let mut exports = ExportSection::new();
                for export in reader.clone() {
                    let export = export?;
                    exports.export(export.name, kind(export.kind), export.index);
                }
                for index in &globals {
                    exports.export(&format!("{PREFIX}global:{index}"), ExportKind::Global, *index);
                }
                if let Some(function) = start {
                    exports.export(START, ExportKind::Func, function);
                }
                out.section(&exports);
            }
            other => {
                let Some((id, range)) = other.as_section() else { continue };
                let data = wasm.get(range).unwrap_or_default();
                match &code {
                    Some(code) if id == SectionId::Code as u8 => out.section(code),
                    Some(_) => out.section(&RawSection { id, data: &with_entries(id, data, types)? }),
                    None => out.section(&RawSection { id, data }),
                };
            }
        }
    }
    Ok((out.finish(), uncopyable))
}

/// The code with bulk operations in pieces; `None`: there are none.
fn in_pieces(wasm: &[u8], bodies: &[FunctionBody<'_>], functions: u32) -> Result<Option<CodeSection>, ModuleError> {
    let mut code = CodeSection::new();
    let mut changed = false;
    for body in bodies {
        match bulk::rewritten(wasm, body, functions)? {
            Some(text) => {
                changed = true;
                code.raw(&text);
            }
            None => {
                code.raw(body.as_bytes());
            }
        }
    }
    if !changed {
        return Ok(None);
    }
    for function in bulk::functions() {
        code.function(&function);
    }
    Ok(Some(code))
}

/// The section with the type of the added functions, which is the `types`th, and with their declarations.
fn with_entries(id: u8, data: &[u8], types: u32) -> Result<Cow<'_, [u8]>, ModuleError> {
    let mut more = Vec::new();
    let count = if id == SectionId::Type as u8 {
        // A function of three numbers without a result.
        more.extend([0x60, 3, 0x7f, 0x7f, 0x7f, 0]);
        1
    } else if id == SectionId::Function as u8 {
        (0..bulk::FUNCTIONS).for_each(|_| types.encode(&mut more));
        bulk::FUNCTIONS
    } else {
        return Ok(data.into());
    };
    let mut reader = BinaryReader::new(data, 0);
    let entries = reader.read_var_u32()?;
    let mut section = Vec::new();
    (entries + count).encode(&mut section);
    section.extend_from_slice(data.get(reader.original_position()..).unwrap_or_default());
    section.extend(more);
    Ok(section.into())
}

fn kind(kind: ExternalKind) -> ExportKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
    }
}

fn changes_tables(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
    )
}
