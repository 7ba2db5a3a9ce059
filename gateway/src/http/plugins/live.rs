//! A plugin version on one worker: the instance that serves, and configured spares.
//!
//! A crash kills the instance. The streams that were in it fail by the plugin's policy, the next request
//! takes the spare, and another spare is ordered from the control side, where start-up code may take its
//! time. Until it comes the plugin's streams fail by policy: a crash never turns protection off.
//!
//! An instance that has filled most of the memory it may have (its memory never shrinks) is replaced before it crashes:
//! new streams go to the spare, and it ends with the streams that it has.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, LazyLock},
};

use proxy_wasm_host::{Callbacks, Instance, Isolation, Limits, StartFailure};
use tokio::sync::mpsc;

use super::{vm::Vm, weight::Weight};
use crate::{
    http::serving::Config,
    snapshot::{self, Code, FailStrategy, PluginId},
    stopwatch::Reading,
    telemetry::{Limit, PluginStats, WorkerTelemetry},
};

/// Wish for one more configured instance.
pub(crate) struct SpareOrder {
    /// Which worker wants it.
    pub(crate) worker: usize,
    /// Of which version.
    pub(crate) id: PluginId,
    /// What to instantiate.
    pub(crate) plugin: proxy_wasm_host::Plugin,
}

/// Configured instances of one plugin version for one worker.
pub(crate) struct Prepared {
    /// Which version.
    pub(crate) id: PluginId,
    /// The first serves, the others are spares.
    pub(crate) instances: Vec<Instance>,
}

/// All plugin versions of a worker.
pub(crate) struct PluginSet {
    worker: usize,
    orders: mpsc::UnboundedSender<SpareOrder>,
    telemetry: Rc<WorkerTelemetry>,
    live: RefCell<HashMap<PluginId, Rc<Live>>>,
    /// Bytes that plugins of this worker hold back.
    held: Rc<Cell<usize>>,
    /// What is served now: whom plugins call.
    config: Rc<RefCell<Option<Rc<Config>>>>,
}

/// A plugin's place in the chain of a listener.
#[derive(Clone)]
pub(crate) struct Link {
    pub(super) live: Rc<Live>,
    pub(super) fail: FailStrategy,
}

impl PluginSet {
    pub(crate) fn new(
        worker: usize,
        orders: mpsc::UnboundedSender<SpareOrder>,
        telemetry: Rc<WorkerTelemetry>,
    ) -> Self {
        // The first reading takes its time; no request is to wait for it.
        Reading::now();
        let (live, held, config) = (RefCell::default(), Rc::default(), Rc::default());
        Self { worker, orders, telemetry, live, held, config }
    }

    /// Takes over new versions, before a configuration refers to them.
    pub(crate) fn install(&self, plugins: &[Arc<snapshot::Plugin>], prepared: Vec<Prepared>) {
        let mut instances: HashMap<_, _> = prepared.into_iter().map(|ready| (ready.id, ready.instances)).collect();
        let mut live = self.live.borrow_mut();
        for plugin in plugins {
            live.entry(plugin.id)
                .or_insert_with(|| Live::new(plugin, instances.remove(&plugin.id).unwrap_or_default(), self));
        }
    }

    /// Calls of plugins go to the services of this configuration from now on.
    pub(crate) fn serve(&self, config: &Rc<Config>) {
        *self.config.borrow_mut() = Some(Rc::clone(config));
    }

    /// Forgets versions that the current configuration does not use; streams in flight keep theirs.
    pub(crate) fn retain(&self, plugins: &[Arc<snapshot::Plugin>]) {
        self.live.borrow_mut().retain(|id, _| plugins.iter().any(|plugin| plugin.id == *id));
    }

    /// A spare has come.
    pub(crate) fn add_spare(&self, id: PluginId, spare: Option<Instance>) {
        if let Some(live) = self.live.borrow().get(&id) {
            live.ordered.set(false);
            if let Some(spare) = spare {
                live.stats.instance_started(spare.memory_bytes());
                live.spares.borrow_mut().push(spare);
            } else {
                live.stats.start_failed();
            }
        }
    }

    /// The place of a plugin in a chain.
    pub(crate) fn link(&self, plugin: &Arc<snapshot::Plugin>) -> Link {
        let known = self.live.borrow().get(&plugin.id).map(Rc::clone);
        let live = known.unwrap_or_else(|| {
            let live = Live::new(plugin, Vec::new(), self);
            self.live.borrow_mut().insert(plugin.id, Rc::clone(&live));
            live
        });
        // Plugins that want to be woken are, also when there are no requests.
        if live.callbacks.tick || live.callbacks.queue_ready || live.makes_calls() {
            live.vm();
        }
        Link { live, fail: plugin.fail_strategy }
    }
}

/// One plugin version.
pub(super) struct Live {
    pub(super) id: PluginId,
    /// `namespace/name`
    pub(super) name: String,
    /// What can be instantiated; `None`: nothing could be loaded.
    pub(super) plugin: Option<proxy_wasm_host::Plugin>,
    pub(super) callbacks: Callbacks,
    pub(super) stats: Rc<PluginStats>,
    pub(super) telemetry: Rc<WorkerTelemetry>,
    current: RefCell<Option<Rc<Vm>>>,
    spares: RefCell<Vec<Instance>>,
    ordered: Cell<bool>,
    orders: mpsc::UnboundedSender<SpareOrder>,
    worker: usize,
    pub(super) held: Rc<Cell<usize>>,
    pub(super) config: Rc<RefCell<Option<Rc<Config>>>>,
    /// Every stream has an instance of its own.
    isolated: bool,
}

impl Live {
    fn new(plugin: &snapshot::Plugin, mut instances: Vec<Instance>, set: &PluginSet) -> Rc<Self> {
        instances.reverse();
        let code = match &plugin.code {
            Code::Loaded(plugin) => Some(plugin.clone()),
            Code::Unavailable { .. } => None,
        };
        let stats = set.telemetry.plugin(&plugin.namespace, &plugin.name, &plugin.digest);
        for instance in &instances {
            stats.instance_started(instance.memory_bytes());
        }
        Rc::new(Self {
            id: plugin.id,
            name: format!("{}/{}", plugin.namespace, plugin.name),
            callbacks: code.as_ref().map(|plugin| plugin.module().callbacks()).unwrap_or_default(),
            isolated: code.as_ref().is_some_and(|plugin| plugin.settings().isolation == Isolation::Request),
            plugin: code,
            stats,
            telemetry: Rc::clone(&set.telemetry),
            current: RefCell::default(),
            spares: RefCell::new(instances),
            ordered: Cell::new(false),
            orders: set.orders.clone(),
            worker: set.worker,
            held: Rc::clone(&set.held),
            config: Rc::clone(&set.config),
        })
    }

    /// Whether there is code at all.
    pub(super) fn is_loaded(&self) -> bool {
        self.plugin.is_some()
    }

    /// The module may change bodies, so their length is not known before they have passed.
    pub(super) fn edits_bodies(&self) -> bool {
        self.plugin.as_ref().is_some_and(|plugin| plugin.module().edits_bodies())
    }

    /// It may read heads when the stream is over.
    pub(super) fn reads_late(&self) -> bool {
        self.plugin.as_ref().is_some_and(|plugin| plugin.module().reads_late())
    }

    /// It may read the head of the request when that has been sent.
    pub(super) fn reads_request_late(&self) -> bool {
        self.plugin.as_ref().is_some_and(|plugin| plugin.module().reads_request_late())
    }

    /// It may ask what is known of a stream besides its messages.
    pub(super) fn reads_properties(&self) -> bool {
        self.plugin.as_ref().is_some_and(|plugin| plugin.module().reads_properties())
    }

    /// It may call other services, also while it starts.
    pub(super) fn makes_calls(&self) -> bool {
        self.plugin.as_ref().is_some_and(|plugin| plugin.module().makes_calls())
    }

    /// What it may do to a stream. A plugin without code does nothing.
    pub(super) fn limits(&self) -> &Limits {
        limits(self.plugin.as_ref())
    }

    pub(super) fn limit_exceeded(&self, limit: Limit) {
        self.telemetry.counters().limit_exceeded(limit);
    }

    /// For a new stream, of which nothing is held back.
    pub(super) fn weight(&self) -> Weight {
        Weight::new(&self.held)
    }

    /// The instance for a new stream; `None` if there is none.
    pub(super) fn stream_vm(self: &Rc<Self>) -> Option<Rc<Vm>> {
        if !self.isolated {
            return self.vm();
        }
        match self.plugin.as_ref()?.fresh() {
            Ok(instance) => {
                self.stats.instance_started(instance.memory_bytes());
                Some(Vm::new(instance, self, false))
            }
            Err(error) => {
                if let StartFailure::Instances(_) = error.failure {
                    self.limit_exceeded(Limit::PluginInstances);
                } else {
                    self.stats.start_failed();
                }
                tracing::warn!(plugin = %self.name, %error, "no instance for a request; it fails by the failStrategy");
                None
            }
        }
    }

    /// The instance that all streams share, or that only has a timer and queues if they do not; `None` while a crashed
    /// one is being replaced.
    pub(super) fn vm(self: &Rc<Self>) -> Option<Rc<Vm>> {
        if let Some(vm) = &*self.current.borrow()
            && !vm.dead.get()
            && !(vm.is_full() && self.has_spare())
        {
            return Some(Rc::clone(vm));
        }
        let next = self.spares.borrow_mut().pop().map(|instance| Vm::new(instance, self, true));
        if self.spares.borrow().is_empty() && !self.ordered.get() {
            self.order();
        }
        if next.is_none() {
            self.limit_exceeded(Limit::PluginInstances);
        }
        if let Some(old) = self.current.replace(next.clone()).filter(|old| !old.dead.get()) {
            old.replaced();
        }
        next
    }

    /// Whether there is a spare. If not, one is on its way.
    fn has_spare(&self) -> bool {
        let none = self.spares.borrow().is_empty();
        if none && !self.ordered.get() {
            self.order();
        }
        !none
    }

    fn order(&self) {
        if let Some(plugin) = &self.plugin {
            let order = SpareOrder { worker: self.worker, id: self.id, plugin: plugin.clone() };
            // Fails only while everything is shutting down.
            self.ordered.set(self.orders.send(order).is_ok());
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(vm) = self.current.take().filter(|vm| !vm.dead.get()) {
            vm.retire();
        }
        for spare in self.spares.get_mut() {
            self.stats.instance_ended(spare.memory_bytes());
        }
    }
}

pub(super) fn limits(plugin: Option<&proxy_wasm_host::Plugin>) -> &Limits {
    static NONE: LazyLock<Limits> = LazyLock::new(Limits::default);
    plugin.map_or(&*NONE, |plugin| &plugin.settings().limits)
}
