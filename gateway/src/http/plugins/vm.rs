//! A plugin version on one worker: the instance that serves, and configured spares.
//!
//! A trap kills the instance. The streams that were in it fail by the plugin's policy, the next request
//! takes the spare, and another spare is ordered from the control side, where start-up code may take its
//! time. Until it comes the plugin's streams fail by policy: a crash never turns protection off.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    rc::{Rc, Weak},
    sync::{Arc, LazyLock},
    task::{Poll, Waker},
    time::Duration,
};

use proxy_wasm_host::{Callbacks, ContextId, Half, Instance, Isolation, Limits, StartFailure, Trap, TrapKind};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{calls::Going, weight::Weight};
use crate::{
    http::{Cluster, serving::Config},
    snapshot::{self, Code, FailStrategy, PluginId},
    stopwatch::Reading,
    telemetry::{Callback, Limit, PluginStats, WorkerTelemetry},
};

/// A tick shorter than this would keep a worker busy with nothing else.
const SHORTEST_TICK: Duration = Duration::from_millis(10);

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
    plugin: Option<proxy_wasm_host::Plugin>,
    pub(super) callbacks: Callbacks,
    pub(super) stats: Rc<PluginStats>,
    telemetry: Rc<WorkerTelemetry>,
    current: RefCell<Option<Rc<Vm>>>,
    spares: RefCell<Vec<Instance>>,
    ordered: Cell<bool>,
    orders: mpsc::UnboundedSender<SpareOrder>,
    worker: usize,
    held: Rc<Cell<usize>>,
    config: Rc<RefCell<Option<Rc<Config>>>>,
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
    fn makes_calls(&self) -> bool {
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
        self.current.replace(next.clone());
        next
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

fn limits(plugin: Option<&proxy_wasm_host::Plugin>) -> &Limits {
    static NONE: LazyLock<Limits> = LazyLock::new(Limits::default);
    plugin.map_or(&*NONE, |plugin| &plugin.settings().limits)
}

/// An instance and the streams that wait in it.
pub(super) struct Vm {
    instance: RefCell<Instance>,
    live: Weak<Live>,
    stats: Rc<PluginStats>,
    telemetry: Rc<WorkerTelemetry>,
    name: String,
    pub(super) dead: Cell<bool>,
    waiting: RefCell<HashMap<(ContextId, Half), Waker>>,
    /// Its memory as it was last counted.
    memory: Cell<usize>,
    /// It postponed its end; the task keeps it for so long.
    leaving: Cell<bool>,
    kept: Cell<Option<AbortHandle>>,
    calls: bool,
    going: RefCell<Going>,
    /// Outlives the place in the chain, for what is still under way.
    code: Option<proxy_wasm_host::Plugin>,
    held: Rc<Cell<usize>>,
    config: Rc<RefCell<Option<Rc<Config>>>>,
    /// The module has a timer, and this is the instance to run it.
    ticks: bool,
    /// Takes new streams, so that another has to take its place when it dies.
    shared: bool,
    period: Cell<Option<Duration>>,
    ticker: RefCell<Option<AbortHandle>>,
    /// Tells it of items in its queues.
    listener: Cell<Option<AbortHandle>>,
}

impl Vm {
    /// `shared`: it is not for one stream alone.
    fn new(instance: Instance, live: &Rc<Live>, shared: bool) -> Rc<Self> {
        let vm = Rc::new(Self {
            memory: Cell::new(instance.memory_bytes()),
            instance: RefCell::new(instance),
            live: Rc::downgrade(live),
            stats: Rc::clone(&live.stats),
            telemetry: Rc::clone(&live.telemetry),
            name: live.name.clone(),
            dead: Cell::new(false),
            waiting: RefCell::default(),
            leaving: Cell::new(false),
            kept: Cell::new(None),
            calls: live.makes_calls(),
            going: RefCell::default(),
            code: live.plugin.clone(),
            held: Rc::clone(&live.held),
            config: Rc::clone(&live.config),
            ticks: live.callbacks.tick && shared,
            shared,
            period: Cell::new(None),
            ticker: RefCell::default(),
            listener: Cell::default(),
        });
        if vm.ticks {
            vm.update_ticker();
        }
        vm.make_calls();
        if live.callbacks.queue_ready && shared {
            vm.listen();
        }
        vm
    }

    /// Works on the instance without running plugin code.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Instance) -> R) -> R {
        work(&mut self.instance.borrow_mut())
    }

    /// Runs a callback: measures it, wakes the streams it resumed, and buries the instance if it trapped. `mark` is when
    /// our work for it began, and when it ended afterwards: in a chain that is where the next one begins, so that the
    /// clock is read once for each.
    pub(super) fn call<R, E: Failure>(
        self: &Rc<Self>,
        which: Callback,
        mark: &mut Reading,
        callback: impl FnOnce(&mut Instance) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut instance = self.instance.borrow_mut();
        let result = callback(&mut instance);
        let ended = Reading::now();
        self.stats.callback(which, ended.nanos_since(std::mem::replace(mark, ended)));
        if let Err(failure) = &result {
            drop(instance);
            self.bury(failure.trap());
        } else {
            if instance.has_woken() {
                self.wake(&mut instance);
            }
            drop(instance);
            if self.ticks {
                self.update_ticker();
            }
            if self.calls {
                self.make_calls();
            }
            if self.leaving.get() {
                self.leave();
            }
        }
        result
    }

    /// Wakes the streams that a callback about another has decided something about.
    #[cold]
    fn wake(&self, instance: &mut Instance) {
        for context in instance.take_woken() {
            for half in [Half::Request, Half::Response] {
                if let Some(stream) = self.waiting.borrow_mut().remove(&(context, half)) {
                    stream.wake();
                }
            }
        }
    }

    /// Runs a callback that stands alone.
    pub(super) fn call_now<R, E: Failure>(
        self: &Rc<Self>,
        which: Callback,
        callback: impl FnOnce(&mut Instance) -> Result<R, E>,
    ) -> Result<R, E> {
        self.call(which, &mut Reading::now(), callback)
    }

    /// Wakes `waker` when something happens to a stream that is paused here.
    pub(super) fn wait(&self, context: ContextId, half: Half, waker: &Waker) {
        self.waiting.borrow_mut().insert((context, half), waker.clone());
    }

    /// Nobody waits for that half any more.
    pub(super) fn forget(&self, context: ContextId, half: Half) {
        self.waiting.borrow_mut().remove(&(context, half));
    }

    /// Nobody waits for the stream any more.
    pub(super) fn forget_both(&self, context: ContextId) {
        let mut waiting = self.waiting.borrow_mut();
        // It nearly always is, and two lookups cost a tenth of what a small plugin does.
        if !waiting.is_empty() {
            waiting.remove(&(context, Half::Request));
            waiting.remove(&(context, Half::Response));
        }
    }

    /// A trap has ended this instance: everybody who waits in it has to know.
    fn bury(&self, trap: &Trap) {
        if trap.kind == TrapKind::Detached || self.dead.replace(true) {
            return;
        }
        match trap.kind {
            TrapKind::CpuDeadline => {
                self.stats.deadline();
                self.telemetry.counters().limit_exceeded(Limit::PluginCpuTime);
            }
            TrapKind::WallDeadline => {
                self.stats.deadline();
                self.telemetry.counters().limit_exceeded(Limit::PluginWallTime);
            }
            TrapKind::Memory => {
                self.stats.trap();
                self.telemetry.counters().limit_exceeded(Limit::PluginMemory);
            }
            TrapKind::Trap | TrapKind::Exit | TrapKind::Detached => self.stats.trap(),
        }
        tracing::warn!(
            plugin = %self.name, kind = %trap.kind, callback = trap.callback, message = %trap.message,
            "plugin instance failed and is replaced; its streams fail by their failStrategy"
        );
        if let Some(ticker) = self.ticker.borrow_mut().take() {
            ticker.abort();
        }
        for (_, stream) in self.waiting.borrow_mut().drain() {
            stream.wake();
        }
        drop(self.going.take());
        // The next request must not be the one that finds out.
        if let Some(live) = self.live.upgrade().filter(|_| self.shared) {
            live.vm();
        }
    }

    /// Has the plugin told of items that come into its queues, from whichever thread.
    fn listen(self: &Rc<Self>) {
        let vm = Rc::downgrade(self);
        let listener = tokio::task::spawn_local(async move {
            loop {
                let ready = poll_fn(|cx| match vm.upgrade() {
                    Some(vm) => vm.instance.borrow().poll_queue_ready(cx).map(Some),
                    None => Poll::Ready(None),
                });
                let Some(queue) = ready.await else { return };
                let Some(vm) = vm.upgrade() else { return };
                if vm.call_now(Callback::QueueReady, |instance| instance.on_queue_ready(queue)).is_err() {
                    return;
                }
            }
        });
        self.listener.set(Some(listener.abort_handle()));
    }

    /// Follows the plugin's wish to be called regularly.
    fn update_ticker(self: &Rc<Self>) {
        let period = self.instance.borrow().tick_period();
        if self.period.replace(period) == period {
            return;
        }
        let ticker = period.map(|period| {
            let vm = Rc::downgrade(self);
            let period = period.max(SHORTEST_TICK);
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(period).await;
                    let Some(vm) = vm.upgrade() else { return };
                    if vm.call_now(Callback::Tick, Instance::on_tick).is_err() {
                        return;
                    }
                }
            })
            .abort_handle()
        });
        if let Some(old) = self.ticker.replace(ticker) {
            old.abort();
        }
    }

    /// Begins what the plugin has asked of other services.
    fn make_calls(self: &Rc<Self>) {
        let wanted = {
            let mut instance = self.instance.borrow_mut();
            if !instance.has_outbound() {
                return;
            }
            instance.take_outbound()
        };
        self.going.borrow_mut().carry_out(self, wanted);
    }

    /// Nobody needs it any more. A plugin that is not done yet may go on for as long as it may pause a stream.
    fn retire(self: &Rc<Self>) {
        let done = self.call_now(Callback::Close, Instance::retire);
        if matches!(done, Ok(false)) && tokio::runtime::Handle::try_current().is_ok() {
            self.leaving.set(true);
            let (vm, longest) = (Rc::clone(self), self.limits().pause);
            let keep = tokio::task::spawn_local(async move {
                tokio::time::sleep(longest).await;
                drop(vm);
            });
            self.kept.set(Some(keep.abort_handle()));
        }
    }

    /// Ends it if it is done now.
    fn leave(self: &Rc<Self>) {
        if self.instance.borrow().is_retired() && self.leaving.take() {
            // A trap is dealt with where every callback ends.
            let _ = self.call_now(Callback::Close, Instance::retire);
            if let Some(keep) = self.kept.take() {
                keep.abort();
            }
        }
    }

    /// A call has ended by itself.
    pub(super) fn end_call(&self, token: u32) {
        self.going.borrow_mut().forget(token);
    }

    /// The service that the plugin names so, in the configuration of now.
    pub(super) fn cluster(&self, name: &str) -> Option<Rc<Cluster>> {
        let config = self.config.borrow();
        let config = config.as_ref()?;
        let id = config.snapshot.call_names.find(name)?;
        config.cluster(id).map(|(cluster, _)| Rc::clone(cluster))
    }

    pub(super) fn stats(&self) -> &PluginStats {
        &self.stats
    }

    /// `namespace/name`
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn limits(&self) -> &Limits {
        limits(self.code.as_ref())
    }

    pub(super) fn limit_exceeded(&self, limit: Limit) {
        self.telemetry.counters().limit_exceeded(limit);
    }

    /// For an answer, of which nothing has come.
    pub(super) fn weight(&self) -> Weight {
        Weight::new(&self.held)
    }

    pub(super) fn record_memory(&self) {
        let now = self.instance.borrow().memory_bytes();
        self.stats.memory_changed(self.memory.replace(now), now);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        for task in [self.ticker.take(), self.listener.take()].into_iter().flatten() {
            task.abort();
        }
        self.stats.instance_ended(self.memory.get());
    }
}

/// What a failed callback says.
pub(super) trait Failure {
    /// How the instance died.
    fn trap(&self) -> &Trap;
}

impl Failure for Trap {
    fn trap(&self) -> &Trap {
        self
    }
}

impl<T> Failure for (T, Trap) {
    fn trap(&self) -> &Trap {
        &self.1
    }
}
