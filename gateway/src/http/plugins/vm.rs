//! One instance of a plugin and the streams that wait in it: callbacks are measured, its timer and its calls are carried
//! out, and when it traps everybody who waits in it hears of it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    rc::{Rc, Weak},
    task::{Poll, Waker},
    time::Duration,
};

use proxy_wasm_host::{ContextId, Half, Instance, Limits, Trap, TrapKind};
use tokio::task::AbortHandle;

use super::{
    calls::Going,
    live::{Live, limits},
    weight::Weight,
};
use crate::{
    http::{Cluster, serving::Config},
    stopwatch::Reading,
    telemetry::{Callback, Limit, PluginStats, WorkerTelemetry},
};

/// A tick shorter than this would keep a worker busy with nothing else.
const SHORTEST_TICK: Duration = Duration::from_millis(10);

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
    /// What its memory may grow to before it is replaced.
    room: usize,
    full: Cell<bool>,
    /// Another takes the new streams.
    replaced: Cell<bool>,
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
    pub(super) fn new(instance: Instance, live: &Rc<Live>, shared: bool) -> Rc<Self> {
        let vm = Rc::new(Self {
            memory: Cell::new(instance.memory_bytes()),
            room: room(instance.memory_bytes(), live.limits().memory_bytes),
            full: Cell::new(false),
            replaced: Cell::new(false),
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
    pub(super) fn retire(self: &Rc<Self>) {
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

    /// A stream has ended: notes what memory there is now.
    pub(super) fn record_memory(self: &Rc<Self>) {
        let now = self.instance.borrow().memory_bytes();
        let before = self.memory.replace(now);
        if now != before {
            self.stats.memory_changed(before, now);
            if now > self.room && self.shared && !self.full.replace(true) {
                tracing::info!(
                    plugin = %self.name, bytes = now, limit = self.limits().memory_bytes,
                    "plugin instance has filled most of its memory; new streams go to a fresh one"
                );
            }
        }
        if self.replaced.get() {
            self.end_if_idle();
        }
    }

    /// Whether it should be replaced before it is out of memory.
    pub(super) fn is_full(&self) -> bool {
        self.full.get()
    }

    /// Another has taken its place: it ends with the last of its streams.
    pub(super) fn replaced(self: &Rc<Self>) {
        self.replaced.set(true);
        self.end_if_idle();
    }

    fn end_if_idle(self: &Rc<Self>) {
        if !self.dead.get() && self.instance.borrow().open_streams() == 0 && self.replaced.take() {
            self.retire();
        }
    }
}

/// Seven eighths of the limit. A plugin that begins with half of it or more is never replaced for its size.
fn room(first: usize, limit: usize) -> usize {
    if first > limit / 2 { usize::MAX } else { limit - limit / 8 }
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
