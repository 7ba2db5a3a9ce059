//! A module as it is compiled: what it says, with two things more that only the host can reach.
//!
//! * Mutable globals are exported, so that a configured instance can be copied.
//! * The start function is an export like any other and does not run by itself, so that a copy can be filled before any
//!   code of the plugin runs.
//!
//! Nothing else is touched; sections are copied as they are.

use wasm_encoder::{ExportKind, ExportSection, RawSection};
use wasmparser::{ExternalKind, Operator, Parser, Payload, ValType};

use crate::module::ModuleError;

/// Counts the ways in which modules are changed here: code that was compiled after another change is not used.
pub(crate) const VERSION: u32 = 1;

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
            Payload::CodeSectionEntry(body) => {
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
                if let Some((id, range)) = other.as_section() {
                    out.section(&RawSection { id, data: wasm.get(range).unwrap_or_default() });
                }
            }
        }
    }
    Ok((out.finish(), uncopyable))
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
