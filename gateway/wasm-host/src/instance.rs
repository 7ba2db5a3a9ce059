//! One live VM of a plugin: the callbacks of HTTP streams, ticks, and what happens when one fails.

mod answers;
mod connections;

use std::task::{Context, Poll};
use std::time::Duration;

use wasmtime::{Store, TypedFunc, WasmParams, WasmResults};

use crate::callbacks::{Exports, OnHeaders};
use crate::contexts::{ContextId, Contexts, ROOT};
use crate::exchange::{Action, Exchange, Half, Phase};
use crate::fields::Fields;
use crate::state::{Retirement, State};
use crate::trap::Trap;

/// One live VM of a plugin on one worker: many streams at a time, one thread at a time.
///
/// A stream's life: [`open`](Self::open), callbacks, [`close`](Self::close). While the stream runs its
/// exchange is attached here only during this plugin's callbacks and while the stream is paused by
/// this plugin; in between the HTTP layer detaches it, to lend it to the next plugin. A plugin can
/// touch no exchange that is not attached to it.
///
/// After a [`Trap`] the instance is dead: every further call answers the same trap at once.
/// [`detach`](Self::detach) still works.
pub struct Instance {
    vm: Vm,
    exports: Exports,
}

/// A store and whether plugin code may still run in it.
struct Vm {
    store: Store<State>,
    life: Life,
    /// What it died of.
    trap: Option<Trap>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    /// A callback is running; found afterwards, one ended in a panic of the host.
    Inside,
    Dead,
}

impl Instance {
    pub(crate) fn new(store: Store<State>, exports: Exports) -> Self {
        Self { vm: Vm { store, life: Life::Alive, trap: None }, exports }
    }

    /// Opens a stream context (`on_context_create`). On a trap the exchange comes back.
    pub fn open(&mut self, exchange: Box<Exchange>) -> Result<ContextId, (Box<Exchange>, Trap)> {
        if let Err(trap) = self.vm.alive() {
            return Err((exchange, trap));
        }
        let context = self.vm.contexts().open(exchange);
        if let Some(create) = self.exports.on_context_create.as_ref().filter(|_| self.exports.keeps_streams) {
            let params = (context.number(), ROOT);
            if let Err(trap) = self.vm.enter("proxy_on_context_create", create, Some(context), params) {
                // It was attached three lines above, and nothing but `close` takes it away.
                return match self.vm.contexts().close(context) {
                    Some(exchange) => Err((exchange, trap)),
                    None => Ok(context),
                };
            }
        }
        Ok(context)
    }

    /// Attaches an exchange to its context. A closed context or a dead instance answers it back.
    pub fn attach(&mut self, context: ContextId, exchange: Box<Exchange>) -> Result<(), Box<Exchange>> {
        self.vm.contexts().attach(context, exchange).map_or(Ok(()), Err)
    }

    /// Takes the exchange of a context away, also from a dead instance.
    pub fn detach(&mut self, context: ContextId) -> Option<Box<Exchange>> {
        self.vm.contexts().detach(context)
    }

    /// The exchange attached to a context.
    pub fn exchange(&mut self, context: ContextId) -> Option<&mut Exchange> {
        self.vm.contexts().exchange_mut(context)
    }

    /// `on_request_headers`. As all callbacks: [`Action::Continue`] without entering the plugin if the
    /// module does not export it.
    pub fn on_request_headers(&mut self, context: ContextId, end_of_stream: bool) -> Result<Action, Trap> {
        const NAME: &str = "proxy_on_request_headers";
        let Some(function) = &self.exports.on_request_headers else {
            return self.vm.alive().map(|()| Action::Continue);
        };
        let exchange = self.vm.begin(NAME, context, Phase::RequestHeaders, end_of_stream)?;
        let count = number(Fields::Request(&exchange.request).count());
        let returned = self.vm.headers(NAME, function, context, count, end_of_stream)?;
        Ok(self.finish(context, returned, Half::Request, head_action))
    }

    /// `on_request_body`, about everything that [`Exchange::request_body`] holds.
    pub fn on_request_body(&mut self, context: ContextId, end_of_stream: bool) -> Result<Action, Trap> {
        const NAME: &str = "proxy_on_request_body";
        let Some(function) = &self.exports.on_request_body else { return self.vm.alive().map(|()| Action::Continue) };
        let exchange = self.vm.begin(NAME, context, Phase::RequestBody, end_of_stream)?;
        let params = (context.number(), number(exchange.request_body.len()), u32::from(end_of_stream));
        let returned = self.vm.enter(NAME, function, Some(context), params)?;
        Ok(self.finish(context, returned, Half::Request, body_action))
    }

    /// `on_request_trailers`. [`Exchange::request_trailers`] holds them.
    pub fn on_request_trailers(&mut self, context: ContextId) -> Result<Action, Trap> {
        const NAME: &str = "proxy_on_request_trailers";
        let Some(function) = &self.exports.on_request_trailers else {
            return self.vm.alive().map(|()| Action::Continue);
        };
        let exchange = self.vm.begin(NAME, context, Phase::RequestTrailers, true)?;
        let count = number(exchange.request_trailers.as_ref().map_or(0, heads::HeaderList::len));
        let params = (context.number(), count);
        let returned = self.vm.enter(NAME, function, Some(context), params)?;
        Ok(self.finish(context, returned, Half::Request, trailer_action))
    }

    /// `on_response_headers`. [`Exchange::response`] holds them.
    pub fn on_response_headers(&mut self, context: ContextId, end_of_stream: bool) -> Result<Action, Trap> {
        const NAME: &str = "proxy_on_response_headers";
        let Some(function) = &self.exports.on_response_headers else {
            return self.vm.alive().map(|()| Action::Continue);
        };
        let exchange = self.vm.begin(NAME, context, Phase::ResponseHeaders, end_of_stream)?;
        let count = number(exchange.response.as_ref().map_or(0, |head| Fields::Response(head).count()));
        let returned = self.vm.headers(NAME, function, context, count, end_of_stream)?;
        Ok(self.finish(context, returned, Half::Response, head_action))
    }

    /// `on_response_body`, about everything that [`Exchange::response_body`] holds.
    pub fn on_response_body(&mut self, context: ContextId, end_of_stream: bool) -> Result<Action, Trap> {
        const NAME: &str = "proxy_on_response_body";
        let Some(function) = &self.exports.on_response_body else { return self.vm.alive().map(|()| Action::Continue) };
        let exchange = self.vm.begin(NAME, context, Phase::ResponseBody, end_of_stream)?;
        let params = (context.number(), number(exchange.response_body.len()), u32::from(end_of_stream));
        let returned = self.vm.enter(NAME, function, Some(context), params)?;
        Ok(self.finish(context, returned, Half::Response, body_action))
    }

    /// `on_response_trailers`. [`Exchange::response_trailers`] holds them.
    pub fn on_response_trailers(&mut self, context: ContextId) -> Result<Action, Trap> {
        const NAME: &str = "proxy_on_response_trailers";
        let Some(function) = &self.exports.on_response_trailers else {
            return self.vm.alive().map(|()| Action::Continue);
        };
        let exchange = self.vm.begin(NAME, context, Phase::ResponseTrailers, true)?;
        let count = number(exchange.response_trailers.as_ref().map_or(0, heads::HeaderList::len));
        let params = (context.number(), count);
        let returned = self.vm.enter(NAME, function, Some(context), params)?;
        Ok(self.finish(context, returned, Half::Response, trailer_action))
    }

    /// `on_log` of a stream that is over. In a chain Envoy calls it for every plugin before any of them hears `on_done`.
    /// Connections are logged by [`Instance::close`].
    pub fn log(&mut self, context: ContextId) -> Result<(), Trap> {
        const NAME: &str = "proxy_on_log";
        self.vm.alive()?;
        let Some(first) = self.vm.contexts().log(context) else { return Err(Trap::detached(NAME)) };
        match &self.exports.on_log {
            Some(log) if first => self.vm.enter(NAME, log, Some(context), context.number()),
            _ => Ok(()),
        }
    }

    /// Ends a stream: `on_log` if that has not been, `on_done`, `on_delete`, the order of Envoy's HTTP streams; for a
    /// connection `on_done`, `on_log`, `on_delete`. Answers the
    /// exchange if one was attached. After a trap it is still there to be detached.
    pub fn close(&mut self, context: ContextId) -> Result<Option<Box<Exchange>>, Trap> {
        self.vm.alive()?;
        let mut is_connection = false;
        if let Some(exchange) = self.exchange(context) {
            exchange.phase = Phase::Log;
            is_connection = exchange.is_connection;
        }
        if !is_connection {
            self.log(context)?;
        }
        if let Some(done) = &self.exports.on_done {
            // What it returns matters for root contexts only.
            self.vm.enter("proxy_on_done", done, Some(context), context.number())?;
        }
        if is_connection {
            self.log(context)?;
        }
        if let Some(delete) = self.exports.on_delete.as_ref().filter(|_| self.exports.keeps_streams) {
            self.vm.enter("proxy_on_delete", delete, Some(context), context.number())?;
        }
        Ok(self.vm.contexts().close(context))
    }

    /// Tells the root context that the instance is not needed any more: `on_done`, and if that does not postpone it,
    /// `on_delete`. False: it is postponed; the instance goes on, and [`Instance::is_retired`] turns true.
    pub fn retire(&mut self) -> Result<bool, Trap> {
        self.vm.alive()?;
        if self.vm.store.data().retirement == Retirement::Serving {
            let done = match &self.exports.on_done {
                // A plugin may call `proxy_done` right here.
                Some(done) => {
                    self.vm.store.data_mut().retirement = Retirement::Postponed;
                    self.vm.enter("proxy_on_done", done, None, ROOT)? != 0
                }
                None => true,
            };
            if done {
                self.vm.store.data_mut().retirement = Retirement::Done;
            }
        }
        if !self.is_retired() {
            return Ok(false);
        }
        if let Some(delete) = &self.exports.on_delete {
            self.vm.enter("proxy_on_delete", delete, None, ROOT)?;
        }
        Ok(true)
    }

    /// Whether the plugin has done what it postponed: call [`Instance::retire`] again.
    pub fn is_retired(&self) -> bool {
        self.vm.store.data().retirement == Retirement::Done
    }

    /// `on_tick` of the root context. Call it every [`Instance::tick_period`], the first time one
    /// period after the plugin asked for it.
    pub fn on_tick(&mut self) -> Result<(), Trap> {
        self.vm.alive()?;
        match &self.exports.on_tick {
            Some(tick) => self.vm.enter("proxy_on_tick", tick, None, ROOT),
            None => Ok(()),
        }
    }

    /// The next queue that the plugin has registered and that has got an item: call [`Instance::on_queue_ready`]. From
    /// the first time on this instance is one that hears of them.
    pub fn poll_queue_ready(&self, cx: &Context<'_>) -> Poll<u32> {
        self.vm.store.data().inbox.poll(cx)
    }

    /// `on_queue_ready` of the root context.
    pub fn on_queue_ready(&mut self, queue: u32) -> Result<(), Trap> {
        self.vm.alive()?;
        match &self.exports.on_queue_ready {
            Some(ready) => self.vm.enter("proxy_on_queue_ready", ready, None, (ROOT, queue)),
            None => Ok(()),
        }
    }

    /// How often the plugin wants to be woken at present; may change in any callback.
    pub fn tick_period(&self) -> Option<Duration> {
        self.vm.store.data().tick_period.filter(|_| self.exports.on_tick.is_some())
    }

    /// Streams that callbacks about *others* resumed, answered, or reset since the last call, each once.
    /// Their exchanges' [`effects`](Exchange::effects) say what to do.
    pub fn take_woken(&mut self) -> impl Iterator<Item = ContextId> + '_ {
        self.vm.contexts().take_woken()
    }

    /// Streams that were opened and not closed.
    pub fn open_streams(&self) -> usize {
        self.vm.store.data().contexts.len()
    }

    /// Whether [`Instance::take_woken`] has any.
    pub fn has_woken(&self) -> bool {
        self.vm.store.data().contexts.has_woken()
    }

    /// Whether a callback has trapped.
    pub fn is_dead(&self) -> bool {
        self.vm.life != Life::Alive
    }

    /// Size of the linear memory, in bytes. Memory never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.vm.store.data().memory.map_or(0, |memory| memory.data_size(&self.vm.store))
    }

    /// Whether the plugin has resumed this half of a stream since it paused it. Says so once.
    pub fn take_resumed(&mut self, context: ContextId, half: Half) -> bool {
        self.vm.contexts().take_resumed(context, half)
    }

    /// What a returned number means, together with what the callback did.
    fn finish(&mut self, context: ContextId, returned: u32, half: Half, action: fn(u32) -> Action) -> Action {
        let contexts = self.vm.contexts();
        let Some(exchange) = contexts.exchange_mut(context) else { return Action::Pause };
        let (interrupted, action) = (exchange.effects.interrupts(), action(returned));
        // A resume in the callback itself is used up by it.
        let pauses = contexts.settle(context, half, action != Action::Continue);
        match (interrupted, pauses) {
            (true, _) => Action::Pause,
            (false, true) => action,
            (false, false) => Action::Continue,
        }
    }
}

/// 1 is the ABI's pause; 2 was Envoy's "continue and end the stream" and acts as continue; 3, 4 and
/// everything above stop all iteration.
fn head_action(returned: u32) -> Action {
    match returned {
        0 | 2 => Action::Continue,
        _ => Action::Pause,
    }
}

fn body_action(returned: u32) -> Action {
    match returned {
        0 => Action::Continue,
        1 => Action::Pause,
        2 => Action::PauseWatermark,
        _ => Action::PauseDiscard,
    }
}

fn trailer_action(returned: u32) -> Action {
    if returned == 0 { Action::Continue } else { Action::Pause }
}

impl Vm {
    /// The trap that killed the instance, if one has.
    fn alive(&self) -> Result<(), Trap> {
        if self.life == Life::Alive {
            return Ok(());
        }
        Err(self.trap.clone().unwrap_or_else(Trap::panicked))
    }

    fn contexts(&mut self) -> &mut Contexts {
        &mut self.store.data_mut().contexts
    }

    /// Prepares the exchange of a context for a callback.
    fn begin(
        &mut self,
        callback: &'static str,
        context: ContextId,
        phase: Phase,
        end_of_stream: bool,
    ) -> Result<&mut Exchange, Trap> {
        self.alive()?;
        let exchange = self.contexts().exchange_mut(context).ok_or_else(|| Trap::detached(callback))?;
        exchange.phase = phase;
        exchange.end_of_stream = end_of_stream;
        Ok(exchange)
    }

    /// Runs plugin code about a stream, or about the root context. This is the only way into a started
    /// plugin.
    fn enter<P: WasmParams, R: WasmResults>(
        &mut self,
        callback: &'static str,
        function: &TypedFunc<P, R>,
        context: Option<ContextId>,
        params: P,
    ) -> Result<R, Trap> {
        self.store.data_mut().enter(context);
        self.store.set_epoch_deadline(1);
        self.life = Life::Inside;
        match function.call(&mut self.store, params) {
            Ok(returned) => {
                self.life = Life::Alive;
                Ok(returned)
            }
            Err(error) => {
                let trap = Trap::explain(callback, &error, self.store.data().growth.refused);
                self.life = Life::Dead;
                self.trap = Some(trap.clone());
                // Others may hear of what is in its queues.
                self.store.data().inbox.close();
                Err(trap)
            }
        }
    }

    /// As [`Vm::enter`], for either form of a header callback.
    fn headers(
        &mut self,
        callback: &'static str,
        function: &OnHeaders,
        context: ContextId,
        count: u32,
        end_of_stream: bool,
    ) -> Result<u32, Trap> {
        let id = context.number();
        match function {
            OnHeaders::V0_1(function) => self.enter(callback, function, Some(context), (id, count)),
            OnHeaders::V0_2(function) => {
                self.enter(callback, function, Some(context), (id, count, u32::from(end_of_stream)))
            }
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
