//! The start of an instance: from a compiled module to a configured root context.
//!
//! Order (proxy-wasm-cpp-host): instantiation with the module's start function; `_initialize`, then
//! `main`, or `_start` if there is no `_initialize`; `on_context_create` of the root;
//! `on_vm_start`; `proxy_validate_configuration`; `on_configure`. All of it has one time budget.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use wasmtime::{Memory, PoolConcurrencyLimitError, Store, TypedFunc, UpdateDeadline, WasmParams, WasmResults};

use crate::callbacks::{Exports, find};
use crate::contexts::ROOT;
use crate::deadline::Budget;
use crate::guest::{SMALL_ANSWER, SMALL_ANSWERS};
use crate::image::{self, Blank, Image};
use crate::instance::Instance;
use crate::instrument::START;
use crate::plugin::Inner;
use crate::state::{Stage, State};
use crate::trap::Exit;
use crate::{Trap, TrapKind};

/// A plugin that did not start.
#[derive(Clone, Debug, Error)]
pub struct StartError {
    /// Why.
    pub failure: StartFailure,
    /// The last lines the plugin logged while it started: this is where SDKs say what is wrong with
    /// a configuration. At most 20 lines of 1 KiB, from outside, not escaped.
    pub log: Vec<String>,
}

/// Why a plugin did not start.
#[derive(Clone, Debug, Error)]
pub enum StartFailure {
    /// Its code failed.
    #[error("the plugin failed while starting, in {0}")]
    Trap(Trap),
    /// It used up [`Limits::start_cpu`](crate::Limits::start_cpu) or `start_wall`.
    #[error("the plugin took too long to start, in {0}")]
    Deadline(Trap),
    /// It needs more memory than [`Limits::memory_bytes`](crate::Limits::memory_bytes).
    #[error("the plugin needs more memory than its limit of {limit} bytes to start: {reason}")]
    Memory {
        /// The limit.
        limit: usize,
        /// What it asked for.
        reason: String,
    },
    /// `on_vm_start` returned false.
    #[error("the plugin refused to start: on_vm_start returned false; check the VM configuration")]
    Refused,
    /// `on_configure` (or `proxy_validate_configuration`) returned false.
    #[error("the plugin refused its configuration: {0} returned false; check pluginConfig")]
    ConfigurationRefused(&'static str),
    /// The host functions that it may not call could not be taken away.
    #[error("the plugin cannot be restricted to allowedCapabilities: {0}")]
    Capabilities(String),
    /// Every request would have to wait for its start-up code, and that takes longer than a callback may.
    #[error(
        "isolation: request would configure the plugin anew for every request, because {reason}, and that takes longer than \
         a callback may ({limit:?} of CPU time); raise limits.callbackCpu or leave isolation out"
    )]
    TooSlowToIsolate {
        /// Why no copy of a configured instance can be made.
        reason: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The engine's pool of instances is used up.
    #[error("too many plugin instances are alive: {0}; raise the limit on instances, or load fewer plugins")]
    Instances(String),
}

impl StartError {
    /// A stable name for the kind of error.
    pub fn code(&self) -> &'static str {
        match self.failure {
            StartFailure::Trap(_) => "plugin-start-trap",
            StartFailure::Deadline(_) => "plugin-start-deadline",
            StartFailure::Memory { .. } => "plugin-memory",
            StartFailure::Refused => "plugin-start-refused",
            StartFailure::ConfigurationRefused(_) => "plugin-configuration-refused",
            StartFailure::TooSlowToIsolate { .. } => "plugin-isolation-too-slow",
            StartFailure::Instances(_) => "plugin-instances-exhausted",
            StartFailure::Capabilities(_) => "plugin-capabilities",
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.failure)?;
        if let Some(last) = self.log.last() {
            write!(f, " (its last log line: {})", last.escape_debug())?;
        }
        Ok(())
    }
}

/// Starts an instance.
pub(crate) fn start(plugin: &Arc<Inner>) -> Result<Instance, StartError> {
    let limits = &plugin.settings.limits;
    start_within(plugin, Budget { cpu: limits.start_cpu, wall: limits.start_wall })
}

/// Starts an instance with another budget of time than what is usual.
pub(crate) fn start_within(plugin: &Arc<Inner>, budget: Budget) -> Result<Instance, StartError> {
    let mut store = store(plugin, budget);
    let started = link(&mut store, plugin).and_then(|(instance, exports)| {
        configure(&mut store, plugin, &instance, &exports)?;
        Ok(exports)
    });
    match started {
        Ok(exports) => {
            store.data_mut().started();
            Ok(Instance::new(store, exports))
        }
        Err(failure) => Err(StartError { failure, log: store.data_mut().start_lines() }),
    }
}

/// Starts an instance to see what that changes in it.
pub(crate) fn image(plugin: &Arc<Inner>) -> Result<Image, StartError> {
    let limits = &plugin.settings.limits;
    let mut store = store(plugin, Budget { cpu: limits.start_cpu, wall: limits.start_wall });
    let started = link(&mut store, plugin).and_then(|(instance, exports)| {
        let memory = store.data().memory;
        let blank = Blank::of(&mut store, &instance, memory);
        configure(&mut store, plugin, &instance, &exports)?;
        Ok(Image::of(&mut store, &instance, &blank, plugin))
    });
    image::release_pages(&mut store);
    started.map_err(|failure| StartError { failure, log: store.data_mut().start_lines() })
}

/// The time that one callback has.
pub(crate) fn callback_budget(plugin: &Inner) -> Budget {
    let limits = &plugin.settings.limits;
    Budget { cpu: limits.callback_cpu, wall: limits.callback_wall }
}

/// A store for an instance whose start may take so long.
pub(crate) fn store(plugin: &Arc<Inner>, budget: Budget) -> Store<State> {
    let mut store = Store::new(plugin.module.engine(), State::new(plugin.clone(), budget));
    store.limiter(|state| &mut state.growth);
    store.epoch_deadline_callback(|mut store| {
        store.data_mut().deadline.tick()?;
        Ok(UpdateDeadline::Continue(1))
    });
    store.set_epoch_deadline(1);
    store
}

/// Makes the instance. No code of the plugin runs yet.
pub(crate) fn link(store: &mut Store<State>, plugin: &Inner) -> Result<(wasmtime::Instance, Exports), StartFailure> {
    let pre = plugin.pre.as_ref().map_err(|why| StartFailure::Capabilities(why.clone()))?;
    let instance = pre.instantiate(&mut *store).map_err(|error| failure(store, "instantiation", &error))?;
    let allocator =
        find(&instance, &mut *store, "malloc").or_else(|| find(&instance, &mut *store, "proxy_on_memory_allocate"));
    let memory = instance.get_memory(&mut *store, "memory");
    let small_answers = small_answers(store, &instance, memory);
    let state = store.data_mut();
    state.memory = memory;
    state.allocator = allocator;
    state.small_answers = small_answers;
    let exports = Exports::of(&instance, &mut *store, plugin);
    Ok((instance, exports))
}

/// Where the module wants short answers, if it says so; nowhere outside its memory, which never shrinks.
fn small_answers(store: &mut Store<State>, instance: &wasmtime::Instance, memory: Option<Memory>) -> Option<u32> {
    let place = instance.get_global(&mut *store, SMALL_ANSWERS)?.get(&mut *store).i32()?.cast_unsigned();
    let end = (place as usize).checked_add(SMALL_ANSWER)?;
    (place > 0 && end <= memory?.data_size(&*store)).then_some(place)
}

/// Runs the start-up code and configures the root context.
fn configure(
    store: &mut Store<State>,
    plugin: &Inner,
    instance: &wasmtime::Instance,
    exports: &Exports,
) -> Result<(), StartFailure> {
    if let Some(start) = find::<(), ()>(instance, &mut *store, START) {
        call(store, "instantiation", Some(&start), ())?;
    }
    initialize(store, instance)?;

    store.data_mut().stage = Stage::VmStart;
    call(store, "proxy_on_context_create", exports.on_context_create.as_ref(), (ROOT, 0))?;
    let size = length(&plugin.settings.vm_configuration);
    if call(store, "proxy_on_vm_start", exports.on_vm_start.as_ref(), (ROOT, size))? == Some(0) {
        return Err(StartFailure::Refused);
    }
    store.data_mut().stage = Stage::Configure;
    let size = length(&plugin.settings.configuration);
    let steps = [
        ("proxy_validate_configuration", &exports.validate_configuration),
        ("proxy_on_configure", &exports.on_configure),
    ];
    for (name, step) in steps {
        if call(store, name, step.as_ref(), (ROOT, size))? == Some(0) {
            return Err(StartFailure::ConfigurationRefused(name));
        }
    }
    Ok(())
}

/// The start-up code of the module's language.
fn initialize(store: &mut Store<State>, instance: &wasmtime::Instance) -> Result<(), StartFailure> {
    if let Some(initialize) = find::<(), ()>(instance, &mut *store, "_initialize") {
        call(store, "_initialize", Some(&initialize), ())?;
        if let Some(main) = find::<(u32, u32), u32>(instance, &mut *store, "main") {
            call(store, "main", Some(&main), (0, 0))?;
        } else if let Some(main) = find::<(), u32>(instance, &mut *store, "__main_void") {
            call(store, "__main_void", Some(&main), ())?;
        }
    } else if let Some(start) = find::<(), ()>(instance, &mut *store, "_start") {
        store.set_epoch_deadline(1);
        match start.call(&mut *store, ()) {
            // A command ends its main function by exiting; the module is used on all the same.
            Err(error) if error.downcast_ref().is_some_and(|Exit(code)| *code == 0) => {}
            Err(error) => return Err(failure(store, "_start", &error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn call<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    name: &'static str,
    function: Option<&TypedFunc<P, R>>,
    params: P,
) -> Result<Option<R>, StartFailure> {
    let Some(function) = function else { return Ok(None) };
    store.set_epoch_deadline(1);
    function.call(&mut *store, params).map(Some).map_err(|error| failure(store, name, &error))
}

pub(crate) fn failure(store: &Store<State>, name: &'static str, error: &wasmtime::Error) -> StartFailure {
    if error.is::<PoolConcurrencyLimitError>() {
        return StartFailure::Instances(error.to_string());
    }
    let state = store.data();
    let trap = Trap::explain(name, error, state.growth.refused);
    match trap.kind {
        TrapKind::CpuDeadline | TrapKind::WallDeadline => StartFailure::Deadline(trap),
        TrapKind::Memory => StartFailure::Memory { limit: state.limits().memory_bytes, reason: trap.to_string() },
        TrapKind::Trap | TrapKind::Exit | TrapKind::Detached => StartFailure::Trap(trap),
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
