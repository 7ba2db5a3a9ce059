//! Looking at a module and trying it out before any gateway has it: what `gateway plugin inspect` and `check` show.
//!
//! The trial is the one that an upload goes through, with the same errors.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use proxy_wasm_host::{Engine, EngineOptions, LogLine, LogSink, Module, ModuleError, Range, Report};
use serde::Serialize;

use super::{
    ApiError, Declaration, Digest, Limits, Spec, prepare,
    settings::{Settings, host_variable},
    upload::Upload,
};

/// What a module is and what speaks against it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// `sha256:…`
    pub digest: String,
    /// Size of the module.
    pub bytes: usize,
    /// What can be said of a module that can be read.
    #[serde(flatten)]
    pub contents: Option<Contents>,
    /// Why the gateway refuses it, in its own words; empty if it does not.
    pub refusals: Vec<ApiError>,
}

/// What a module declares.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    /// ABI version; `null`: none that is known.
    pub abi: Option<String>,
    /// Functions that the gateway calls on events.
    pub callbacks: Vec<String>,
    /// Everything else that it exports.
    pub other_exports: Vec<String>,
    /// What it imports, by module.
    pub imports: BTreeMap<String, Vec<String>>,
    /// What of that the gateway does not have.
    pub unknown_imports: Vec<String>,
    /// Whether it uses WASI, of which the gateway has what runtimes need: no files, no sockets.
    pub wasi: bool,
    /// In bytes.
    pub memory: Option<Size>,
    /// In elements.
    pub tables: Vec<Size>,
    /// Functions with code.
    pub functions: usize,
    /// Bytes of code.
    pub code_bytes: usize,
    /// Bytes of data that memory begins with.
    pub data_bytes: usize,
    /// Languages, compilers, SDKs with their versions, as the module names them.
    pub producers: BTreeMap<String, Vec<String>>,
    /// Custom sections with their sizes in bytes.
    pub custom_sections: Vec<Section>,
}

/// A size with a limit.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// To begin with.
    pub min: u64,
    /// The most it asks for; `null`: as much as it gets.
    pub max: Option<u64>,
}

/// A custom section.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: usize,
}

/// What came of a trial.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// What was tried.
    pub module: Inspection,
    /// Whether an upload would be accepted.
    pub accepted: bool,
    /// Why not.
    #[serde(flatten)]
    pub error: Option<ApiError>,
    /// `null` if it was not started.
    pub start: Option<Start>,
}

/// How an instance started.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// From instantiation to its configuration, in microseconds.
    pub micros: u64,
    /// Its memory afterwards; `null` if it failed.
    pub memory_bytes: Option<usize>,
    /// What it logged.
    pub log: Vec<Line>,
}

/// A line that a plugin logged.
#[derive(Debug, Serialize)]
pub struct Line {
    /// How important it says it is.
    pub level: String,
    /// Its text, from outside.
    pub message: String,
}

/// Lines of a trial that are kept. What it may log in a second is limited besides.
const MAX_LINES: usize = 1_000;

/// Reads and compiles a module. Takes up to seconds of CPU.
///
/// # Errors
/// WebAssembly cannot run on this machine.
pub fn inspect(wasm: &[u8], limits: &Limits) -> Result<Inspection, ApiError> {
    Ok(look(wasm, limits)?.0)
}

/// Starts one instance with these settings, in the form of WasmPlugin's spec, as an upload under `name` would.
/// Blocks as long as the limits of starting allow.
///
/// # Errors
/// WebAssembly cannot run on this machine.
pub fn check(name: &str, wasm: &[u8], settings: &Spec, limits: &Limits) -> Result<Trial, ApiError> {
    let (module, compiled) = look(wasm, limits)?;
    let Some(compiled) = compiled else {
        let error = module.refusals.first().cloned();
        return Ok(Trial { module, accepted: false, error, start: None });
    };
    let upload = Upload::new(Digest::of(wasm), wasm.len() as u64, settings.clone(), String::new());
    let settings = match Settings::parse(settings, host_variable) {
        Ok(settings) => Declaration::of_upload("default", name, &upload, settings).start_settings(&limits.running),
        Err(error) => return Ok(Trial { module, accepted: false, error: Some(error), start: None }),
    };
    let log = Arc::new(Kept::default());
    let begin = Instant::now();
    let started = prepare::sandbox(compiled, settings, Arc::clone(&log) as _);
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let memory_bytes = started.as_ref().ok().map(proxy_wasm_host::Instance::memory_bytes);
    let error = started.err().map(|error| ApiError::from(&error));
    let start = Start { micros, memory_bytes, log: log.take() };
    Ok(Trial { module, accepted: error.is_none(), error, start: Some(start) })
}

/// The module compiled, too, if nothing speaks against it.
fn look(wasm: &[u8], limits: &Limits) -> Result<(Inspection, Option<Module>), ApiError> {
    let mut inspection = Inspection {
        digest: Digest::of(wasm).with_algorithm(),
        bytes: wasm.len(),
        contents: None,
        refusals: Vec::new(),
    };
    if wasm.len() > limits.module_bytes {
        inspection.refusals.push(ApiError::module_too_large(limits.module_bytes));
        return Ok((inspection, None));
    }
    let report = match Report::of(wasm) {
        Ok(report) => report,
        Err(error) => {
            inspection.refusals.push(refusal(&error));
            return Ok((inspection, None));
        }
    };
    inspection.refusals.extend(report.refusals.iter().map(refusal));
    let mut compiled = None;
    if inspection.refusals.is_empty() {
        let options = EngineOptions { max_instances: 1, ..EngineOptions::default() };
        let engine = Engine::new(&options).map_err(|error| ApiError::new(500, "internal", error.to_string()))?;
        match Module::compile(&engine, wasm) {
            Ok(module) => compiled = Some(module),
            Err(error) => inspection.refusals.push(refusal(&error)),
        }
    }
    inspection.contents = Some(report.into());
    Ok((inspection, compiled))
}

fn refusal(error: &ModuleError) -> ApiError {
    ApiError::new(422, error.code(), error.to_string()).at("module")
}

impl From<Report> for Contents {
    fn from(report: Report) -> Self {
        let wasi = report.uses_wasi();
        let (callbacks, other): (Vec<_>, Vec<_>) = report.exports.into_iter().partition(|export| export.callback);
        let names = |exports: Vec<proxy_wasm_host::Export>| exports.into_iter().map(|export| export.name).collect();
        let unknown = report.imports.iter().filter(|import| !import.provided);
        let mut contents = Self {
            abi: report.abi.map(|abi| abi.to_string()),
            callbacks: names(callbacks),
            other_exports: names(other),
            imports: BTreeMap::new(),
            unknown_imports: unknown.map(|import| format!("{}.{}", import.module, import.name)).collect(),
            wasi,
            memory: report.memory.map(Size::from),
            tables: report.tables.into_iter().map(Size::from).collect(),
            functions: report.functions,
            code_bytes: report.code_bytes,
            data_bytes: report.data_bytes,
            producers: BTreeMap::new(),
            custom_sections: Vec::new(),
        };
        for import in report.imports {
            contents.imports.entry(import.module).or_default().push(import.name);
        }
        for producer in report.producers {
            let text = format!("{} {}", producer.name, producer.version);
            contents.producers.entry(producer.field).or_default().push(text.trim_end().to_owned());
        }
        let section = |section: proxy_wasm_host::CustomSection| Section { name: section.name, bytes: section.bytes };
        contents.custom_sections = report.custom_sections.into_iter().map(section).collect();
        contents
    }
}

impl From<Range> for Size {
    fn from(Range { min, max }: Range) -> Self {
        Self { min, max }
    }
}

/// The log of a trial.
#[derive(Default)]
struct Kept(Mutex<Vec<Line>>);

impl Kept {
    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl LogSink for Kept {
    fn log(&self, line: LogLine<'_>) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MAX_LINES {
            lines.push(Line { level: line.level.to_string(), message: line.message.to_owned() });
        }
    }
}
