//! Istio's MeshConfig, as far as it concerns a gateway now: the access log, and what stands in front of the gateway.

use std::{fs, path::Path};

use super::{
    topology::{FIELD, GatewayTopology},
    yaml::{self, Value},
};
use crate::telemetry::{AccessLogOptions, LogFormat, LogSink};

/// What `--mesh-config` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshConfig {
    /// `accessLogFile`; empty: no access log, Istio's default.
    pub access_log_file: String,
    /// `accessLogEncoding` and `accessLogFormat`.
    pub access_log_format: LogFormat,
    /// `defaultConfig.gatewayTopology`
    pub gateway_topology: GatewayTopology,
}

/// Why a mesh configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MeshConfigError {
    /// The file cannot be read.
    #[error("--mesh-config {path}: {error}")]
    Read {
        /// As given.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file does not say what it should.
    #[error("--mesh-config {path}:{line}: {message}")]
    Contents {
        /// As given.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

impl MeshConfig {
    /// Reads a bare MeshConfig, or the `istio` ConfigMap that holds one under `data.mesh`.
    pub fn read(path: &Path) -> Result<Self, MeshConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|error| MeshConfigError::Read { path: path.display().to_string(), error })?;
        Self::parse(&text).map_err(|(line, message)| MeshConfigError::Contents {
            path: path.display().to_string(),
            line,
            message,
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let Some(document) = yaml::documents(text).into_iter().next() else { return Ok(Self::default()) };
        let document = document.map_err(|error| (error.line, error.message))?;
        if document.value.get("kind").and_then(Value::as_str) == Some("ConfigMap") {
            let mesh = document.value.get("data").and_then(|data| data.get("mesh")).and_then(Value::as_str);
            return Self::parse(mesh.ok_or((1, "the ConfigMap has no data.mesh".to_owned()))?);
        }
        if document.value.as_mapping().is_none() {
            return Err((1, "expected a mapping such as `accessLogFile: /dev/stdout`".to_owned()));
        }
        let text = |field: &str| match document.value.get(field) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err((1, format!("{field} must be text"))),
        };
        let line = |field: &str| document.positions.line(field);
        let access_log_format = match (text("accessLogEncoding")?.as_str(), text("accessLogFormat")?) {
            ("" | "TEXT", format) if format.is_empty() => LogFormat::Text,
            ("" | "TEXT", format) => LogFormat::CustomText(format),
            ("JSON", format) if format.is_empty() => LogFormat::Json,
            ("JSON", format) => LogFormat::CustomJson(serde_json::from_str(&format).map_err(|error| {
                (
                    line("accessLogFormat"),
                    format!("accessLogFormat must be a JSON object for accessLogEncoding JSON: {error}"),
                )
            })?),
            (other, _) => {
                let message = format!("accessLogEncoding must be TEXT or JSON, not {other:?}");
                return Err((line("accessLogEncoding"), message));
            }
        };
        access_log_format.check().map_err(|errors| (line("accessLogFormat"), format!("accessLogFormat: {errors}")))?;
        let topology = document.value.get("defaultConfig").and_then(|config| config.get("gatewayTopology"));
        let gateway_topology = match topology {
            None | Some(Value::Null) => GatewayTopology::default(),
            Some(topology) => {
                let field = |path: &str| (line(&format!("{FIELD}.{path}")), format!("{FIELD}.{path}"));
                GatewayTopology::parse(topology, field)?
            }
        };
        Ok(Self { access_log_file: text("accessLogFile")?, access_log_format, gateway_topology })
    }

    /// The access log that is wanted.
    #[must_use]
    pub fn access_log(&self) -> Option<AccessLogOptions> {
        let sink = match self.access_log_file.as_str() {
            "" => return None,
            "/dev/stdout" => LogSink::Stdout,
            "/dev/stderr" => LogSink::Stderr,
            path => LogSink::File(path.into()),
        };
        let format = self.access_log_format.clone();
        Some(AccessLogOptions { format, sink, ..AccessLogOptions::default() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_access_log_is_off_by_default() {
        assert!(MeshConfig::parse("").unwrap().access_log().is_none());
        assert!(MeshConfig::parse("enableTracing: true\n").unwrap().access_log().is_none());
    }

    #[test]
    fn bare_and_in_a_config_map() {
        let bare = "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n";
        let wrapped =
            "kind: ConfigMap\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    accessLogEncoding: JSON\n";
        for text in [bare, wrapped] {
            let log = MeshConfig::parse(text).unwrap().access_log().unwrap();
            assert_eq!((log.format, log.sink), (LogFormat::Json, LogSink::Stdout));
        }
    }

    #[test]
    fn formats_of_users() {
        let format = |text: &str| MeshConfig::parse(text).unwrap().access_log_format;
        assert_eq!(format("accessLogFormat: '%PROTOCOL%'"), LogFormat::CustomText("%PROTOCOL%".to_owned()));
        let LogFormat::CustomJson(members) =
            format("accessLogEncoding: JSON\naccessLogFormat: '{\"a\": \"%PROTOCOL%\"}'")
        else {
            unreachable!("it is JSON")
        };
        assert_eq!(members["a"], "%PROTOCOL%");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(MeshConfig::parse("accessLogEncoding: XML").unwrap_err().1.contains("TEXT or JSON"));
        let text = "accessLogFile: /dev/stdout\naccessLogFormat: '%FOO% %REQ%'\n";
        let (line, message) = MeshConfig::parse(text).unwrap_err();
        assert!(line == 2 && message.contains("%FOO%") && message.contains("%REQ%"), "{line}: {message}");
        assert!(MeshConfig::parse("accessLogEncoding: JSON\naccessLogFormat: '[1]'").is_err());
        assert!(MeshConfig::parse("kind: ConfigMap").unwrap_err().1.contains("data.mesh"));
        assert!(MeshConfig::parse("- a").is_err());
    }
}
