//! What to run: a module with its settings and the state it shares with other instances.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::InstancePre;

use crate::capabilities;
use crate::instance::Instance;
use crate::shared::{PluginScope, SharedData};
use crate::start::{self, StartError};
use crate::state::State;
use crate::{Limits, LogLevel, Module, Shared};

/// One version of a plugin. Cloning is cheap.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

/// Everything that is the same for all instances.
pub(crate) struct Inner {
    pub(crate) module: Module,
    /// The module with the host functions that it may call, or why there is none.
    pub(crate) pre: Result<InstancePre<State>, String>,
    pub(crate) settings: PluginSettings,
    pub(crate) shared: Shared,
    /// Shared data of the `vm_id`.
    pub(crate) data: Arc<SharedData>,
    /// Metrics and refusal counts of the plugin.
    pub(crate) scope: Arc<PluginScope>,
}

/// The settings of a plugin.
#[derive(Clone, Debug)]
pub struct PluginSettings {
    /// Names the plugin in logs and metrics, and is the property `plugin_name`. Versions of one plugin
    /// have the same name and share its metrics.
    pub name: String,
    /// The property `plugin_root_id`, by which modules with several root contexts choose one
    /// (WasmPlugin's `pluginName`).
    pub root_id: String,
    /// Plugins with the same `vm_id` share data and queues, and only they.
    pub vm_id: String,
    /// What `on_vm_start` is given.
    pub vm_configuration: Bytes,
    /// What `on_configure` is given.
    pub configuration: Bytes,
    /// Environment variables of the plugin, in order. NUL bytes cut them short.
    pub environment: Vec<(String, String)>,
    /// The least severe level that is logged; what `proxy_get_log_level` answers.
    pub log_level: LogLevel,
    /// What the plugin may use.
    pub limits: Limits,
    /// Names of the host functions and callbacks that the plugin is restricted to (`proxy_log`, `fd_write`,
    /// `proxy_on_request_headers`, …), as Envoy's `allowed_capabilities`. `None`: all.
    pub allowed_capabilities: Option<Vec<String>>,
}

impl PluginSettings {
    /// Settings with this name, an empty configuration and default limits.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            root_id: String::new(),
            vm_id: String::new(),
            vm_configuration: Bytes::new(),
            configuration: Bytes::new(),
            environment: Vec::new(),
            log_level: LogLevel::Info,
            limits: Limits::default(),
            allowed_capabilities: None,
        }
    }
}

impl Inner {
    /// Whether the plugin may have a callback.
    pub(crate) fn allows(&self, callback: &str) -> bool {
        let allowed = self.settings.allowed_capabilities.as_ref();
        allowed.is_none_or(|allowed| allowed.iter().any(|name| name == callback))
    }
}

impl Plugin {
    /// Puts a module and its settings together. Runs nothing.
    pub fn new(module: Module, settings: PluginSettings, shared: Shared) -> Self {
        let data = shared.data(&settings.vm_id);
        let scope = shared.scope(&settings.name);
        let pre = match &settings.allowed_capabilities {
            None => Ok(module.pre().clone()),
            Some(allowed) => capabilities::restrict(&module, allowed).map_err(|error| format!("{error:#}")),
        };
        Self(Arc::new(Inner { module, pre, settings, shared, data, scope }))
    }

    /// Makes and configures an instance: start-up code of the module, `on_context_create` of the root
    /// context, `on_vm_start`, `on_configure`. May take as long as [`Limits::start_wall`], so do it on a
    /// control thread and hand the instance over.
    pub fn instantiate(&self) -> Result<Instance, StartError> {
        start::start(&self.0)
    }

    /// The module.
    pub fn module(&self) -> &Module {
        &self.0.module
    }

    /// The settings.
    pub fn settings(&self) -> &PluginSettings {
        &self.0.settings
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.0.settings.name)
            .field("module", &self.0.module)
            .finish_non_exhaustive()
    }
}
