//! Plugins that cannot be used, as problems of the configuration.
//!
//! `GW0301`: a plugin cannot be used. `GW0303`: its module is being fetched. `GW0302`: something about uploads is not as it should be.

use super::{
    Attached, Declaration, Origin,
    resolve::{Cause, Failure, Version},
};
use crate::config::problem::{Level, Problem};

/// A version that cannot be used, and what serves instead.
pub(super) fn unusable(declaration: &Declaration, failure: &Failure, instead: Option<&Version>) -> Problem {
    let consequence = match instead {
        Some(version) => format!("the version before, {}, keeps serving", version.digest.with_algorithm()),
        None => format!("its requests are treated by {}", declaration.fail_strategy.as_str()),
    };
    let (level, code, message) = match failure.cause {
        Cause::Fetching => (Level::Info, "GW0303", format!("{}; until then {consequence}", failure.message)),
        _ => (Level::Error, "GW0301", format!("plugin cannot be used: {}; {consequence}", failure.message)),
    };
    let resource = declaration.resource();
    match &declaration.origin {
        Origin::Upload => Problem { level, code, ..of_uploads(resource, message) },
        Origin::Resource { kind, place } => {
            let (file, line) = match place.rsplit_once(':').map(|(file, line)| (file, line.parse())) {
                Some((file, Ok(line))) => (file, line),
                _ => (place.as_str(), 0),
            };
            Problem {
                level,
                code,
                resource,
                file: file.to_owned(),
                line,
                field: match *kind {
                    "TrafficExtension" => format!("spec.wasm.{}", failure.field),
                    _ => format!("spec.{}", failure.field),
                },
                message,
            }
        }
    }
}

impl Declaration {
    /// What problems name it by.
    pub(super) fn resource(&self) -> String {
        let kind = match &self.origin {
            Origin::Resource { kind, .. } => kind,
            Origin::Upload => "Upload",
        };
        format!("{kind} {}/{}", self.namespace, self.name)
    }
}

impl Attached {
    /// Something about the settings of an upload that probably was not meant.
    pub(crate) fn of_upload(&self, setting: &str, message: String) -> Problem {
        let resource = format!("Upload {}/{}", self.plugin.namespace, self.plugin.name);
        Problem { field: setting.to_owned(), ..of_uploads(resource, message) }
    }
}

/// An upload that a resource of the same name hides.
pub(super) fn hidden_upload(namespace: &str, name: &str, place: &str) -> Problem {
    let message = format!("the WasmPlugin of the same name ({place}) takes its place; rename or remove one of them");
    of_uploads(format!("Upload {namespace}/{name}"), message)
}

/// What was wrong with the store when it was opened.
pub(super) fn store_note(note: &str) -> Problem {
    of_uploads(String::new(), note.to_owned())
}

fn of_uploads(resource: String, message: String) -> Problem {
    let (file, field) = ("uploads".to_owned(), String::new());
    Problem { level: Level::Warning, code: "GW0302", resource, file, line: 0, field, message }
}
