//! `gateway plugin inspect` and `check`: what a gateway would say of a module, without a gateway.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::{
    Failure, Output, print, push,
    settings::{SettingsArgs, name_flag},
};
use crate::plugins::{self, ApiError, Contents, Inspection, Limits, Size, Trial};

/// Start a plugin once as an upload would be, with its configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The module (.wasm).
    file: PathBuf,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The report on a module, and why it would be refused.
pub(super) fn inspect(file: &Path, output: Output) -> Result<(String, Option<Failure>), Failure> {
    let bytes = push::read_file(file)?;
    let inspection = plugins::inspect(&bytes, &Limits::default()).map_err(|error| Failure::told(&error))?;
    let refused = inspection.refusals.first().map(Failure::told);
    let text = match output {
        Output::Table => table(&inspection),
        _ => print::one(&value(&inspection)?, output),
    };
    Ok((text, refused))
}

/// The report on a trial, and why an upload would be refused.
pub(super) fn check(check: &Check, output: Output) -> Result<(String, Option<Failure>), Failure> {
    let bytes = push::read_file(&check.file)?;
    let settings = check.settings.read()?;
    // Its name is only for its own log.
    let name = push::name_of(&check.file).unwrap_or_else(|_| "check".to_owned());
    let trial = plugins::check(&name, &bytes, &settings, &Limits::default()).map_err(|error| Failure::told(&error))?;
    let refused = trial.error.as_ref().map(Failure::told).map(name_flag);
    let text = match output {
        Output::Table => trial_table(&trial),
        _ => print::one(&value(&trial)?, output),
    };
    Ok((text, refused))
}

fn value(report: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(report).map_err(|error| Failure::new(error.to_string()))
}

/// One line per fact.
#[derive(Default)]
struct Facts(String);

impl Facts {
    fn add(&mut self, name: &str, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<12} {}", print::printable(text));
    }

    fn list(&mut self, name: &str, items: &[String]) {
        if !items.is_empty() {
            self.add(name, &items.join(", "));
        }
    }

    fn refusals(&mut self, refusals: &[ApiError]) {
        for refusal in refusals {
            self.add("refused", &format!("{} ({})", refusal.message, refusal.code));
        }
    }
}

fn table(inspection: &Inspection) -> String {
    let mut facts = Facts::default();
    describe(&mut facts, inspection);
    if inspection.refusals.is_empty() {
        facts.add("refused", "no; `gateway plugin check` starts it");
    }
    facts.0
}

fn trial_table(trial: &Trial) -> String {
    let mut facts = Facts::default();
    describe(&mut facts, &trial.module);
    if let Some(start) = &trial.start {
        for line in &start.log {
            facts.add("log", &format!("[{}] {}", line.level, line.message));
        }
        facts.add("start", &format!("{:.1} ms", start.micros as f64 / 1000.0));
        if let Some(bytes) = start.memory_bytes {
            facts.add("memory", &format!("{} after the start", size(bytes as u64)));
        }
    }
    match &trial.error {
        None => facts.add("accepted", "yes"),
        Some(_) => facts.add("accepted", "no"),
    }
    facts.0
}

fn describe(facts: &mut Facts, inspection: &Inspection) {
    facts.add("digest", &inspection.digest);
    match &inspection.contents {
        Some(contents) => describe_contents(facts, inspection.bytes, contents),
        None => facts.add("size", &size(inspection.bytes as u64)),
    }
    facts.refusals(&inspection.refusals);
}

fn describe_contents(facts: &mut Facts, bytes: usize, contents: &Contents) {
    let Contents { functions, code_bytes, data_bytes, .. } = contents;
    let parts = format!("{functions} functions of {}, data of {}", size(*code_bytes as u64), size(*data_bytes as u64));
    facts.add("size", &format!("{}: {parts}", size(bytes as u64)));
    facts.add("abi", contents.abi.as_deref().unwrap_or("none that is known"));
    for (field, values) in &contents.producers {
        facts.list(field, values);
    }
    match &contents.memory {
        Some(Size { min, max: Some(max) }) => facts.add("memory", &format!("{}, at most {}", size(*min), size(*max))),
        Some(Size { min, max: None }) => facts.add("memory", &format!("{} or more", size(*min))),
        None => facts.add("memory", "none"),
    }
    for Size { min, max } in &contents.tables {
        let max = max.map_or("or more".to_owned(), |max| format!("at most {max}"));
        facts.add("table", &format!("{min} elements, {max}"));
    }
    facts.list("callbacks", &contents.callbacks);
    facts.list("exports", &contents.other_exports);
    for (module, names) in &contents.imports {
        facts.add("imports", &format!("{module}: {}", names.join(", ")));
    }
    facts.add("wasi", if contents.wasi { "used" } else { "not used" });
    let sections: Vec<_> =
        contents.custom_sections.iter().map(|section| format!("{} ({} bytes)", section.name, section.bytes)).collect();
    facts.list("sections", &sections);
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
