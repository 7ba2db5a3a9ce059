//! What to run: a module with its settings and the state it shares with other instances.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use wasmtime::InstancePre;

use crate::capabilities;
use crate::image::Image;
use crate::instance::Instance;
use crate::shared::{PluginScope, SharedData};
use crate::start::{self, StartError, StartFailure};
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
    /// Where fresh instances come from, once that has been found out.
    fresh: OnceLock<Fresh>,
}

/// How an instance of its own is made for a stream.
enum Fresh {
    Copied(Image),
    Configured,
}

/// How [`Plugin::fresh`] makes an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshWay {
    /// As a copy of one that has been configured, of which so many bytes of memory are written.
    Copied(usize),
    /// By running the start-up code again, for this reason.
    Configured(&'static str),
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
    /// Who shares an instance.
    pub isolation: Isolation,
}

/// Who shares an instance, and with it whatever the plugin keeps in its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// All streams of a worker.
    #[default]
    Worker,
    /// Nobody: every stream has an instance of its own ([`Plugin::fresh`]).
    Request,
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
            isolation: Isolation::Worker,
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
        Self(Arc::new(Inner { module, pre, settings, shared, data, scope, fresh: OnceLock::new() }))
    }

    /// Makes and configures an instance: start-up code of the module, `on_context_create` of the root
    /// context, `on_vm_start`, `on_configure`. May take as long as [`Limits::start_wall`], so do it on a
    /// control thread and hand the instance over.
    pub fn instantiate(&self) -> Result<Instance, StartError> {
        start::start(&self.0)
    }

    /// Finds out how [`Plugin::fresh`] makes instances, which takes as long as [`Plugin::instantiate`].
    ///
    /// A copy is the rule. A module that changes its tables is configured anew for every stream, on the thread that asks,
    /// so its whole start-up has the time of one callback; one that needs longer is refused.
    pub fn prepare_fresh(&self) -> Result<FreshWay, StartError> {
        if self.0.fresh.get().is_none() {
            let fresh = match self.0.module.uncopyable() {
                None => Fresh::Copied(start::image(&self.0)?),
                Some(uncopyable) => {
                    start::start_within(&self.0, start::callback_budget(&self.0)).map_err(|mut error| {
                        if let StartFailure::Deadline(_) = error.failure {
                            let limit = self.0.settings.limits.callback_cpu;
                            error.failure = StartFailure::TooSlowToIsolate { reason: uncopyable.reason(), limit };
                        }
                        error
                    })?;
                    Fresh::Configured
                }
            };
            // Somebody else may have been faster, with the same.
            let _ = self.0.fresh.set(fresh);
        }
        Ok(self.fresh_way())
    }

    /// What [`Plugin::prepare_fresh`] has found out.
    pub fn fresh_way(&self) -> FreshWay {
        match (self.0.fresh.get(), self.0.module.uncopyable()) {
            (Some(Fresh::Copied(image)), _) => FreshWay::Copied(image.bytes()),
            (_, Some(uncopyable)) => FreshWay::Configured(uncopyable.reason()),
            (_, None) => FreshWay::Configured("no copy has been made"),
        }
    }

    /// An instance that holds what a configured one holds and nothing that any stream left, within the time of one
    /// callback. It has no timer and hears of no queues. Whatever was drawn at random when the copied instance was
    /// configured, the seed of a generator for example, is the same in all copies.
    pub fn fresh(&self) -> Result<Instance, StartError> {
        match self.0.fresh.get() {
            Some(Fresh::Copied(image)) => image.instantiate(&self.0),
            _ => start::start_within(&self.0, start::callback_budget(&self.0)),
        }
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
