//! A file's text → resources, each with what is wrong with it.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{
    decode::{Decoded, decode},
    path::Path,
    problem::{BEYOND_LIMIT, Level, Problem},
    resources::{AnyResource, DEFAULT_NAMESPACE, Origin, Resource, TRAFFIC_EXTENSION},
    validate::{self, Report},
    yaml::{self, Value},
};
use crate::istio::{self, Metadata, Object};

/// Problems of one file that are kept; beyond that only their number is.
const MAX_PROBLEMS: usize = 1000;

/// Kind, namespace and name.
pub(crate) type Key = (&'static str, String, String);

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The resources in the order of the file.
    pub(crate) entries: Vec<Entry>,
    /// Whether there is text that could not be read, so that resources may be missing.
    pub(crate) broken: bool,
    /// What is wrong with the file itself.
    pub(crate) problems: Vec<Problem>,
}

/// A resource whose kind, namespace and name could be read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) origin: Origin,
    /// `None` if it must not be used.
    pub(crate) resource: Option<AnyResource>,
    pub(crate) problems: Vec<Problem>,
}

/// Reads the text of a file.
pub(crate) fn read(file: &str, bytes: &[u8]) -> Contents {
    let mut reader = Reader { file: file.into(), contents: Contents::default() };
    match text(bytes) {
        // Somebody is about to write it.
        Ok("") => {
            reader.contents.broken = true;
            let message = "the file is empty; resources that it had stay in use until it has some again, or is deleted";
            reader.note(Level::Warning, "GW0008", 0, message.to_owned());
        }
        Ok(text) => {
            for document in yaml::documents(text) {
                match document {
                    Ok(document) => reader.document(&document.value, &Arc::new(document.positions)),
                    Err(error) if error.beyond_limit => reader.broken(BEYOND_LIMIT, error.line, error.message),
                    Err(error) => reader.broken("GW0002", error.line, format!("not YAML: {}", error.message)),
                }
            }
        }
        Err(line) => reader.broken("GW0002", line, "not UTF-8 text; save the file as UTF-8".to_owned()),
    }
    reader.contents.limit(file)
}

/// The text without a byte order mark, or the line that is not UTF-8.
fn text(bytes: &[u8]) -> Result<&str, usize> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        valid.iter().filter(|byte| **byte == b'\n').count() + 1
    })
}

impl Contents {
    fn limit(mut self, file: &str) -> Self {
        let mut room = MAX_PROBLEMS;
        let mut dropped = 0;
        let all = std::iter::once(&mut self.problems).chain(self.entries.iter_mut().map(|entry| &mut entry.problems));
        for problems in all {
            dropped += problems.len().saturating_sub(room);
            problems.truncate(room);
            room -= problems.len();
        }
        if dropped > 0 {
            self.problems.push(Problem {
                level: Level::Warning,
                code: "GW0001",
                resource: String::new(),
                file: file.to_owned(),
                line: 0,
                field: String::new(),
                message: format!("{dropped} further problems of this file are not shown"),
            });
        }
        self
    }
}

/// A TrafficExtension is used as the WasmPlugin that it would have been; only its kind says where its fields stand.
#[allow(clippy::needless_pass_by_value, reason = "it stands beside the variants of AnyResource")]
fn traffic_extension(resource: Arc<Resource<istio::TrafficExtension<Value>>>) -> AnyResource {
    let spec = istio::WasmPlugin::from(&resource.spec);
    AnyResource::WasmPlugin(Arc::new(resource.with(spec)))
}

struct Reader {
    file: Arc<str>,
    contents: Contents,
}

impl Reader {
    fn broken(&mut self, code: &'static str, line: usize, message: String) {
        self.contents.broken = true;
        self.note(Level::Error, code, line, message);
    }

    fn note(&mut self, level: Level, code: &'static str, line: usize, message: String) {
        let file = self.file.to_string();
        self.contents.problems.push(Problem {
            level,
            code,
            resource: String::new(),
            file,
            line,
            field: String::new(),
            message,
        });
    }

    fn document(&mut self, value: &Value, positions: &Arc<yaml::Positions>) {
        let origin = |base: String| Origin { file: Arc::clone(&self.file), positions: Arc::clone(positions), base };
        let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        match value.get("items").and_then(Value::as_sequence) {
            Some(items) if is_list => {
                let items: Vec<_> = (0..).zip(items).map(|(at, item)| (item, origin(format!("items[{at}]")))).collect();
                for (item, origin) in items {
                    self.object(item, origin);
                }
            }
            _ => {
                let origin = origin(String::new());
                self.object(value, origin);
            }
        }
    }

    fn object(&mut self, value: &Value, origin: Origin) {
        let line = origin.line("");
        let header = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (header("apiVersion"), header("kind"));
        if version.is_empty() || kind.is_empty() {
            let message = "not a Kubernetes object: apiVersion and kind are required".to_owned();
            return self.broken("GW0003", line, message);
        }
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        match (group, kind) {
            ("networking.istio.io", _) if !matches!(version, "v1" | "v1beta1" | "v1alpha3") => {
                self.broken(
                    "GW0003",
                    line,
                    format!("{group} has the versions v1, v1beta1 and v1alpha3, not {version}"),
                );
            }
            ("networking.istio.io", "Gateway") => {
                self.resource(value, origin, "Gateway", AnyResource::Gateway, validate::gateway);
            }
            ("networking.istio.io", "VirtualService") => {
                self.resource(value, origin, "VirtualService", AnyResource::VirtualService, validate::virtual_service);
            }
            ("networking.istio.io", "ServiceEntry") => {
                self.resource(value, origin, "ServiceEntry", AnyResource::ServiceEntry, validate::service_entry);
            }
            ("networking.istio.io", "DestinationRule") => {
                let wrap = AnyResource::DestinationRule;
                self.resource(value, origin, "DestinationRule", wrap, validate::destination_rule);
            }
            ("extensions.istio.io", "WasmPlugin") => {
                self.resource(value, origin, "WasmPlugin", AnyResource::WasmPlugin, validate::wasm_plugin);
            }
            ("extensions.istio.io", "TrafficExtension") => {
                self.resource(value, origin, TRAFFIC_EXTENSION, traffic_extension, validate::traffic_extension);
            }
            ("security.istio.io", "AuthorizationPolicy") => {
                let wrap = AnyResource::AuthorizationPolicy;
                self.resource(value, origin, "AuthorizationPolicy", wrap, validate::authorization_policy);
            }
            ("security.istio.io", "RequestAuthentication") => {
                let wrap = AnyResource::RequestAuthentication;
                self.resource(value, origin, "RequestAuthentication", wrap, validate::request_authentication);
            }
            ("", "Service") => self.resource(value, origin, "Service", AnyResource::Service, validate::service),
            ("discovery.k8s.io", "EndpointSlice") => self.endpoint_slice(value, origin),
            ("", "Secret") => self.secret(value, origin),
            ("", "ConfigMap") => self.config_map(value, origin),
            _ => self.skipped(group, kind, line),
        }
    }

    /// A kind that is not read: harmless, unless it is one of Istio's that would act here.
    fn skipped(&mut self, group: &str, kind: &str, line: usize) {
        let (level, code, reason) = match (group, kind) {
            ("security.istio.io", "PeerAuthentication") | ("networking.istio.io", "Sidecar" | "WorkloadGroup") => {
                (Level::Info, "GW0004", "it does not act at gateways")
            }
            ("networking.istio.io" | "security.istio.io" | "telemetry.istio.io" | "extensions.istio.io", _) => {
                (Level::Warning, "GW0101", "not supported in this version, ignored")
            }
            _ => (Level::Info, "GW0004", "this gateway does not read the kind, skipped"),
        };
        self.note(level, code, line, format!("{kind}: {reason}"));
    }

    fn resource<T: DeserializeOwned + Default>(
        &mut self,
        value: &Value,
        origin: Origin,
        kind: &'static str,
        wrap: fn(Arc<Resource<T>>) -> AnyResource,
        check: fn(&Resource<T>, &mut Report<'_, T>),
    ) {
        let Decoded { value, mistakes, unknown } = decode::<Object<T>>(value);
        let decoded = Decoded { value: value.map(|object| (object.metadata, object.spec)), mistakes, unknown };
        self.decoded(decoded, origin, kind, wrap, check);
    }

    /// An EndpointSlice has no `spec`.
    fn endpoint_slice(&mut self, value: &Value, origin: Origin) {
        let Decoded { value, mistakes, unknown } = decode::<istio::EndpointSlice>(value);
        let decoded = Decoded { value: value.map(|slice| (slice.metadata.clone(), slice)), mistakes, unknown };
        self.decoded(decoded, origin, "EndpointSlice", AnyResource::EndpointSlice, validate::endpoint_slice);
    }

    /// A Secret has no `spec` either, and what is wrong with it is said without its contents.
    fn secret(&mut self, value: &Value, origin: Origin) {
        let Decoded { value, mut mistakes, unknown } = decode::<istio::Secret>(value);
        for (_, message) in &mut mistakes {
            "has the wrong type; `data` and `stringData` are mappings of names to text".clone_into(message);
        }
        let decoded = Decoded { value: value.map(|secret| (secret.metadata.clone(), secret)), mistakes, unknown };
        self.decoded(decoded, origin, "Secret", AnyResource::Secret, validate::secret);
    }

    fn config_map(&mut self, value: &Value, origin: Origin) {
        let Decoded { value, mistakes, unknown } = decode::<istio::ConfigMap>(value);
        let decoded = Decoded { value: value.map(|map| (map.metadata.clone(), map)), mistakes, unknown };
        self.decoded(decoded, origin, "ConfigMap", AnyResource::ConfigMap, validate::config_map);
    }

    fn decoded<T>(
        &mut self,
        decoded: Decoded<(Metadata, T)>,
        origin: Origin,
        kind: &'static str,
        wrap: fn(Arc<Resource<T>>) -> AnyResource,
        check: fn(&Resource<T>, &mut Report<'_, T>),
    ) {
        let Some((metadata, spec)) = decoded.value else {
            for (field, message) in decoded.mistakes {
                self.broken("IST0106", origin.line(&field), format!("Schema validation error: {field}: {message}"));
            }
            return;
        };
        let namespace = if metadata.namespace.is_empty() { DEFAULT_NAMESPACE.to_owned() } else { metadata.namespace };
        let resource = Arc::new(Resource {
            kind,
            namespace,
            name: metadata.name,
            labels: metadata.labels,
            annotations: metadata.annotations,
            created: metadata.creation_timestamp.filter(|time| !time.is_empty()),
            spec,
            origin: origin.clone(),
        });
        if resource.name.is_empty() {
            let problem = resource.problem(
                Level::Error,
                "IST0106",
                &Path::Root.key("metadata"),
                "Schema validation error: metadata.name is required",
            );
            self.contents.broken = true;
            self.contents.problems.push(problem);
            return;
        }
        let mut report = Report::new(&resource);
        for (field, message) in decoded.mistakes {
            report.mistake(field, &message);
        }
        // Kubernetes' kinds and policies that are only looked into have many fields that are not modelled.
        if matches!(kind, "Gateway" | "VirtualService" | "ServiceEntry" | "DestinationRule" | "WasmPlugin")
            || kind == TRAFFIC_EXTENSION
        {
            for (field, meant) in decoded.unknown {
                report.unknown_field(field, meant);
            }
        }
        // What could not be decoded is missing in the value: checking it would report that once more.
        if !report.rejected() {
            validate::metadata(&resource, &mut report);
            check(&resource, &mut report);
        }
        let (problems, rejected) = report.finish();
        let key = (kind, resource.namespace.clone(), resource.name.clone());
        let resource = (!rejected).then(|| wrap(resource));
        self.contents.entries.push(Entry { key, origin, resource, problems });
    }
}
