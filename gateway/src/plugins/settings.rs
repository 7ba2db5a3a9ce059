//! The settings of an upload: the fields of WasmPlugin's spec that make sense without a resource.
//!
//! They are kept as the JSON object that users wrote, so that reading them back, changing some of them
//! and storing them needs one representation only. [`Settings::parse`] turns the object into what the
//! rest of the gateway works with and finds everything that is wrong with it.

use std::borrow::Cow;

use bytes::Bytes;
use proxy_wasm_host::Isolation;
use serde_json::{Map, Value};

use super::{ApiError, Budgets, Override, Scope};
use crate::snapshot::{FailStrategy, Phase};

/// Settings as a JSON object in the form of WasmPlugin's spec.
pub type Spec = Map<String, Value>;

/// What the settings mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Settings {
    pub(crate) root_id: String,
    pub(crate) configuration: Bytes,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) phase: Phase,
    pub(crate) priority: Option<i32>,
    pub(crate) network: bool,
    pub(crate) fail_strategy: FailStrategy,
    pub(crate) ports: Vec<u16>,
    pub(crate) terms: Terms,
}

/// What WasmPlugin's spec has no field for. In a resource these are annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// `limits`: what the plugin may use, where that is not what every plugin may.
    pub budgets: Budgets,
    /// `allowedCapabilities`: the host functions and callbacks that it is restricted to, as in Envoy. `None`: all.
    pub allowed_capabilities: Option<Vec<String>>,
    /// `isolation`: who shares an instance.
    pub isolation: Isolation,
    /// `hosts` and `routes`: the requests it sees.
    pub scope: Scope,
    /// `overrides`: other configurations for some of them. The first that fits counts.
    pub overrides: Vec<Override>,
}

impl Terms {
    /// What annotations of resources begin with; behind it stands the name of the setting.
    pub(crate) const PREFIX: &str = "plugin.gateway/";
    /// The settings.
    pub(crate) const NAMES: [&str; 6] = ["limits", "isolation", "allowedCapabilities", "hosts", "routes", "overrides"];

    /// Reads one of the settings; `field` is where it stands, for people. Whether there is such a setting.
    pub(crate) fn set(&mut self, name: &str, field: &str, value: &Value, mistakes: &mut Mistakes) -> bool {
        match name {
            "limits" => self.budgets = Budgets::read(field, value, mistakes),
            "isolation" => match value.as_str() {
                Some("worker") => self.isolation = Isolation::Worker,
                Some("request") => self.isolation = Isolation::Request,
                _ => mistakes.add(field, "must be worker or request"),
            },
            "allowedCapabilities" => self.allowed_capabilities = capabilities(field, value, mistakes),
            "hosts" => self.scope.hosts = Scope::hosts(field, value, mistakes),
            "routes" => self.scope.routes = Scope::routes(field, value, mistakes),
            "overrides" => self.overrides = Override::list(field, value, mistakes),
            _ => return false,
        }
        true
    }

    /// Adds what is set to settings.
    pub(super) fn write(&self, spec: &mut Spec) {
        if let Some(budgets) = self.budgets.write() {
            spec.insert("limits".into(), budgets);
        }
        if self.isolation == Isolation::Request {
            spec.insert("isolation".into(), "request".into());
        }
        if let Some(allowed) = &self.allowed_capabilities {
            spec.insert("allowedCapabilities".into(), allowed.clone().into());
        }
        self.scope.write(spec);
        if !self.overrides.is_empty() {
            spec.insert("overrides".into(), self.overrides.iter().map(Override::write).collect());
        }
    }
}

/// Names of host functions and callbacks. As in Envoy, none at all is no restriction.
fn capabilities(field: &str, value: &Value, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let name = |value: &Value| value.as_str().filter(|name| name.len() <= 64).map(ToOwned::to_owned);
    let names = value.as_array().filter(|list| list.len() <= 256).and_then(|list| list.iter().map(name).collect());
    let Some(names): Option<Vec<String>> = names else {
        mistakes.add(
            field,
            "must be a list of host functions and callbacks, such as proxy_log and proxy_on_request_headers",
        );
        return None;
    };
    (!names.is_empty()).then_some(names)
}

/// Most environment variables, longest name and longest value (Istio's validation).
const MAX_ENV: usize = 256;
const MAX_ENV_NAME: usize = 256;
const MAX_ENV_VALUE: usize = 2048;

/// Writes the fields of `patch` over those of `spec`; `null` takes a field back to its default.
pub(crate) fn apply(spec: &mut Spec, patch: &Spec) {
    for (name, value) in patch {
        if value.is_null() {
            spec.shift_remove(name);
        } else {
            spec.insert(name.clone(), value.clone());
        }
    }
}

impl Settings {
    /// Reads a spec; `host_env` looks up variables of this process for `valueFrom: HOST`.
    ///
    /// All mistakes are reported: the first in the error's `field`, the others in its message.
    pub(crate) fn parse(spec: &Spec, host_env: impl Fn(&str) -> Option<String>) -> Result<Self, ApiError> {
        let mut settings = Self::default();
        let mut mistakes = Mistakes::default();
        for (name, value) in spec {
            match name.as_str() {
                "pluginName" => match value.as_str() {
                    Some(text) if text.len() <= 256 => text.clone_into(&mut settings.root_id),
                    _ => mistakes.add(name, "must be a string of at most 256 bytes"),
                },
                "pluginConfig" => settings.configuration = configuration(name, value, &mut mistakes),
                "phase" => match value.as_str().and_then(phase) {
                    Some(phase) => settings.phase = phase,
                    None => mistakes.add(name, "must be AUTHN, AUTHZ, STATS or UNSPECIFIED_PHASE"),
                },
                "failStrategy" => match value.as_str().and_then(fail_strategy) {
                    Some(strategy) => settings.fail_strategy = strategy,
                    None => mistakes.add(name, "must be FAIL_CLOSE, FAIL_OPEN or FAIL_RELOAD"),
                },
                "priority" => match value.as_i64().and_then(|number| i32::try_from(number).ok()) {
                    Some(number) => settings.priority = Some(number),
                    None => mistakes.add(name, "must be a whole number of 32 bits"),
                },
                "vmConfig" => settings.environment = environment(value, &host_env, &mut mistakes),
                "match" => settings.ports = ports(value, &mut mistakes),
                "type" => match value.as_str() {
                    Some("HTTP" | "UNSPECIFIED_PLUGIN_TYPE") => {}
                    Some("NETWORK") => settings.network = true,
                    _ => mistakes.add(name, "must be HTTP or NETWORK"),
                },
                "url" | "sha256" | "imagePullPolicy" | "imagePullSecret" | "verificationKey" => {
                    mistakes.add(name, "does not apply to an upload, whose module is in the request");
                }
                "selector" | "targetRef" | "targetRefs" => {
                    mistakes.add(name, "does not apply to an upload, which always belongs to this gateway");
                }
                _ if settings.terms.set(name, name, value, &mut mistakes) => {}
                _ => mistakes.add(
                    name,
                    "unknown setting; there are pluginName, pluginConfig, phase, priority, failStrategy, vmConfig, match, type, \
                     limits, isolation, allowedCapabilities, hosts, routes and overrides",
                ),
            }
        }
        mistakes.none(settings)
    }
}

/// `pluginConfig` as the plugin gets it.
pub(super) fn configuration(field: &str, value: &Value, mistakes: &mut Mistakes) -> Bytes {
    match value.as_object() {
        // As Istio: a configuration without fields is none.
        Some(object) if object.is_empty() => Bytes::new(),
        Some(_) => Bytes::from(value.to_string()),
        None => {
            mistakes.add(field, "must be an object");
            Bytes::new()
        }
    }
}

/// A variable of this process, for `valueFrom: HOST`.
pub(crate) fn host_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The phase users call `name`.
fn phase(name: &str) -> Option<Phase> {
    [Phase::Authn, Phase::Authz, Phase::Stats, Phase::Unspecified].into_iter().find(|phase| phase.as_str() == name)
}

/// The strategy users call `name`.
fn fail_strategy(name: &str) -> Option<FailStrategy> {
    [FailStrategy::Close, FailStrategy::Open, FailStrategy::Reload].into_iter().find(|known| known.as_str() == name)
}

fn environment(
    value: &Value,
    host_env: &impl Fn(&str) -> Option<String>,
    mistakes: &mut Mistakes,
) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = Vec::new();
    let list = match value.as_object().map(|object| (object.get("env"), object.keys().all(|key| key == "env"))) {
        Some((Some(Value::Array(list)), true)) if list.len() <= MAX_ENV => list,
        Some((None, true)) => return environment,
        _ => {
            mistakes.add("vmConfig", "must be {\"env\": [{\"name\": …, \"value\": …}]} with at most 256 variables");
            return environment;
        }
    };
    for (index, entry) in list.iter().enumerate() {
        let field = format!("vmConfig.env[{index}]");
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let unknown = |object: &Spec| object.keys().any(|key| !matches!(key.as_str(), "name" | "value" | "valueFrom"));
        if entry.as_object().is_none_or(unknown) {
            mistakes.add(&field, "must be an object with name, value and valueFrom");
            continue;
        }
        let Some(name) = text("name").filter(|name| !name.is_empty() && name.len() <= MAX_ENV_NAME) else {
            mistakes.add(&format!("{field}.name"), "must be a string of 1 to 256 bytes");
            continue;
        };
        if name.contains(['=', '\0']) || environment.iter().any(|(known, _)| known == name) {
            mistakes.add(&format!("{field}.name"), "must not contain '=' or NUL and must not repeat");
            continue;
        }
        let resolved = match (text("valueFrom").unwrap_or("INLINE"), entry.get("value")) {
            ("INLINE", value) => match value.map_or(Some(""), Value::as_str) {
                Some(value) if value.len() <= MAX_ENV_VALUE && !value.contains('\0') => Some(value.to_owned()),
                _ => {
                    mistakes.add(&format!("{field}.value"), "must be a string of at most 2048 bytes without NUL");
                    None
                }
            },
            // As Envoy: a variable that this process does not have is left out.
            ("HOST", None) => host_env(name).filter(|value| !value.contains('\0')),
            ("HOST", Some(_)) => {
                mistakes.add(&format!("{field}.value"), "must be absent with valueFrom HOST");
                None
            }
            _ => {
                mistakes.add(&format!("{field}.valueFrom"), "must be INLINE or HOST");
                None
            }
        };
        environment.extend(resolved.map(|value| (name.to_owned(), value)));
    }
    environment
}

/// The union of all `match[].ports`; empty means every port.
fn ports(value: &Value, mistakes: &mut Mistakes) -> Vec<u16> {
    let Some(list) = value.as_array() else {
        mistakes.add("match", "must be a list");
        return Vec::new();
    };
    let mut ports = Vec::new();
    let (mut every, mut any_mode) = (list.is_empty(), list.is_empty());
    for (index, entry) in list.iter().enumerate() {
        let field = format!("match[{index}]");
        let unknown = |object: &Spec| object.keys().any(|key| !matches!(key.as_str(), "mode" | "ports"));
        if entry.as_object().is_none_or(unknown) {
            mistakes.add(&field, "must be an object with mode and ports");
            continue;
        }
        match entry.get("mode").map_or(Some("UNDEFINED"), Value::as_str) {
            Some("UNDEFINED" | "CLIENT" | "CLIENT_AND_SERVER") => any_mode = true,
            Some("SERVER") => continue,
            _ => {
                mistakes.add(&format!("{field}.mode"), "must be CLIENT, SERVER or CLIENT_AND_SERVER");
                any_mode = true;
                continue;
            }
        }
        match entry.get("ports") {
            None => every = true,
            Some(Value::Array(list)) if list.is_empty() => every = true,
            Some(Value::Array(list)) => {
                for (position, port) in list.iter().enumerate() {
                    let number =
                        port.get("number").and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
                    match number {
                        Some(number) if number > 0 => ports.push(number),
                        _ => mistakes.add(
                            &format!("{field}.ports[{position}]"),
                            "must be {\"number\": N} with N from 1 to 65535",
                        ),
                    }
                }
            }
            Some(_) => mistakes.add(&format!("{field}.ports"), "must be a list"),
        }
    }
    if !any_mode {
        mistakes.add("match", "mode SERVER never applies to a gateway; use CLIENT or leave it out");
    }
    if every {
        ports.clear();
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Everything that was found, in order.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<(String, Cow<'static, str>)>);

impl Mistakes {
    pub(crate) fn add(&mut self, field: &str, text: impl Into<Cow<'static, str>>) {
        self.0.push((field.to_owned(), text.into()));
    }

    /// Field and mistake, in order.
    pub(crate) fn into_list(self) -> Vec<(String, Cow<'static, str>)> {
        self.0
    }

    pub(super) fn none<T>(self, value: T) -> Result<T, ApiError> {
        let mut found = self.0.into_iter();
        let Some((field, mut message)) = found.next().map(|(field, text)| (field, text.into_owned())) else {
            return Ok(value);
        };
        for (field, text) in found {
            message.push_str("; ");
            message.push_str(&field);
            message.push_str(": ");
            message.push_str(&text);
        }
        Err(ApiError::new(400, "settings-invalid", message).at(field))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn spec(value: &Value) -> Spec {
        value.as_object().unwrap().clone()
    }

    fn parse(value: &Value) -> Result<Settings, ApiError> {
        Settings::parse(&spec(value), |name| (name == "HOME").then(|| "/home/gateway".to_owned()))
    }

    #[test]
    fn everything_set() {
        let settings = parse(&json!({
            "pluginName": "root", "pluginConfig": {"b": 1, "a": [true, null]}, "phase": "AUTHZ", "priority": -3,
            "failStrategy": "FAIL_OPEN", "type": "HTTP",
            "vmConfig": {"env": [{"name": "A", "value": "1"}, {"name": "HOME", "valueFrom": "HOST"}, {"name": "NONE", "valueFrom": "HOST"}]},
            "match": [{"mode": "CLIENT", "ports": [{"number": 8443}, {"number": 8080}]}, {"mode": "SERVER"}, {"ports": [{"number": 8080}]}],
        }))
        .unwrap();
        assert_eq!(settings.root_id, "root");
        assert_eq!(
            settings.configuration, r#"{"b":1,"a":[true,null]}"#,
            "compact, keys in the order they were written"
        );
        assert_eq!(settings.environment, [("A".into(), "1".into()), ("HOME".into(), "/home/gateway".into())]);
        assert_eq!((settings.phase, settings.priority), (Phase::Authz, Some(-3)));
        assert_eq!(settings.fail_strategy, FailStrategy::Open);
        assert_eq!(settings.ports, [8080, 8443]);
    }

    #[test]
    fn nothing_set_is_wasmplugins_defaults() {
        assert_eq!(parse(&json!({})).unwrap(), Settings::default());
        assert_eq!(parse(&json!({"pluginConfig": {}, "match": [{}], "vmConfig": {}})).unwrap(), Settings::default());
        assert_eq!(parse(&json!({"match": [{"ports": [{"number": 1}]}, {}]})).unwrap().ports, [0u16; 0]);
    }

    #[test]
    fn mistakes_name_their_field() {
        let cases = [
            (json!({"phase": "authn"}), "phase"),
            (json!({"priority": 3_000_000_000u64}), "priority"),
            (json!({"priority": "1"}), "priority"),
            (json!({"failStrategy": "OPEN"}), "failStrategy"),
            (json!({"pluginConfig": "text"}), "pluginConfig"),
            (json!({"pluginName": 1}), "pluginName"),
            (json!({"url": "file:///x"}), "url"),
            (json!({"selector": {}}), "selector"),
            (json!({"type": "TCP"}), "type"),
            (json!({"pluginconfig": {}}), "pluginconfig"),
            (json!({"vmConfig": {"environment": []}}), "vmConfig"),
            (json!({"vmConfig": {"env": [{"value": "1"}]}}), "vmConfig.env[0].name"),
            (json!({"vmConfig": {"env": [{"name": "A", "value": 1}]}}), "vmConfig.env[0].value"),
            (json!({"vmConfig": {"env": [{"name": "A"}, {"name": "A"}]}}), "vmConfig.env[1].name"),
            (json!({"vmConfig": {"env": [{"name": "A", "valueFrom": "SECRET"}]}}), "vmConfig.env[0].valueFrom"),
            (json!({"match": [{"ports": [{"number": 0}]}]}), "match[0].ports[0]"),
            (json!({"match": [{"mode": "SERVER"}]}), "match"),
            (json!({"match": [{"mode": "BOTH"}]}), "match[0].mode"),
            (json!({"limits": {"memory": "2Gi"}}), "limits.memory"),
            (json!({"isolation": "stream"}), "isolation"),
            (json!({"hosts": []}), "hosts"),
            (json!({"hosts": ["a", "a:80"]}), "hosts[1]"),
            (json!({"routes": ["shop"]}), "routes[0]"),
            (json!({"overrides": [{"pluginConfig": {}}]}), "overrides[0]"),
            (json!({"overrides": [{"hosts": ["a"], "config": {}}]}), "overrides[0].config"),
            (json!({"overrides": [{"hosts": ["a"], "pluginConfig": []}]}), "overrides[0].pluginConfig"),
        ];
        for (value, field) in cases {
            let error = parse(&value).unwrap_err();
            assert_eq!(
                (error.status, error.code, error.field.as_deref()),
                (400, "settings-invalid", Some(field)),
                "{value}"
            );
        }
        let both = parse(&json!({"phase": 1, "priority": "x"})).unwrap_err();
        assert!(both.message.contains("AUTHN") && both.message.contains("priority: must be"), "{}", both.message);
    }

    #[test]
    fn a_patch_keeps_what_it_does_not_name_and_null_resets() {
        let mut kept = spec(&json!({"phase": "AUTHN", "priority": 1, "pluginConfig": {"a": 1, "b": 2}}));
        apply(&mut kept, &spec(&json!({"priority": null, "pluginConfig": {"c": 3}})));
        assert_eq!(Value::Object(kept), json!({"phase": "AUTHN", "pluginConfig": {"c": 3}}));
    }
}
