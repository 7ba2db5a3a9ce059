//! The one wasmtime engine of a process: its settings, the host functions, and the thread that
//! advances its epoch. Knows no particular plugin.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use thiserror::Error;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, Linker, PoolingAllocationConfig};

use crate::deadline::TICK;
use crate::host;
use crate::instrument;
use crate::state::State;

/// Size of a plugin's stack, host functions included. Workers' threads must have room for it: the
/// default of 2 MiB has.
const STACK_BYTES: usize = 512 << 10;

/// Memory that a slot keeps committed for the next instance.
const KEEP_RESIDENT: usize = 128 << 10;

/// How often the deadline thread looks whether the engine is still there while it has nothing to watch.
const LOOK: Duration = Duration::from_secs(1);

/// How large the pool of instances is.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Instances that can live at once, of all plugins on all workers, spares and those being
    /// prepared included. Default 1,000.
    pub max_instances: u32,
    /// The most linear memory that any plugin's limit may allow. It costs address space only.
    /// Default 1 GiB, at most 4 GiB.
    pub max_memory_bytes: usize,
    /// The most elements in one table. Default 100,000.
    pub max_table_elements: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_instances: 1_000, max_memory_bytes: 1 << 30, max_table_elements: 100_000 }
    }
}

/// Compiles and runs modules. One per process; cloning is cheap.
#[derive(Clone)]
pub struct Engine {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Arc<Linker<State>>,
    pub(crate) clock: Arc<Clock>,
    pooling: bool,
}

/// Tells the deadline thread whether there is anything to watch: without instances it stands still.
#[derive(Default)]
pub(crate) struct Clock {
    living: AtomicUsize,
    /// The thread stands still, or is about to: the first instance has to wake it. Not so between two ticks, because there
    /// may be an instance for each request.
    stopped: AtomicBool,
    lock: Mutex<()>,
    wanted: Condvar,
}

/// An instance that lives.
pub(crate) struct Living(Arc<Clock>);

impl Clock {
    pub(crate) fn join(self: &Arc<Self>) -> Living {
        // Either we see that it has stopped, or it sees us before it does.
        if self.living.fetch_add(1, SeqCst) == 0 && self.stopped.load(SeqCst) {
            drop(self.lock.lock());
            self.wanted.notify_one();
        }
        Living(Arc::clone(self))
    }

    /// Waits a tick, or for as long as there are no instances, but no longer than [`LOOK`].
    fn wait(&self) {
        if self.living.load(SeqCst) > 0 {
            return thread::sleep(TICK);
        }
        self.stopped.store(true, SeqCst);
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.wanted.wait_timeout_while(lock, LOOK, |()| self.living.load(SeqCst) == 0));
        self.stopped.store(false, SeqCst);
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.living.fetch_sub(1, SeqCst);
    }
}

/// The engine could not be made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// wasmtime refused the settings or this machine.
    #[error("the WebAssembly engine cannot be set up on this machine: {0}")]
    Setup(String),
    /// The thread that enforces deadlines could not be started.
    #[error("the thread that enforces plugin deadlines cannot be started; check the limit on threads: {0}")]
    Ticker(std::io::Error),
}

impl Engine {
    /// Sets up the engine and starts its deadline thread, which ends when the last clone, module and
    /// instance of the engine is gone.
    ///
    /// Instances live in a pool whose address space is reserved now (4 GiB each, so that plugins
    /// need no bounds checks; reserved, not used). Where the system refuses that, a warning says so
    /// and instances are allocated one by one, with bounds checks.
    pub fn new(options: &EngineOptions) -> Result<Self, EngineError> {
        let (wasmtime, pooling) = match wasmtime::Engine::new(&config(Some(options))) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::warn!(
                    %error,
                    instances = options.max_instances,
                    "cannot reserve the address space for the plugin pool (check `ulimit -v` and vm.overcommit_memory, \
                     or allow fewer instances); plugins are allocated one by one, which makes them slower"
                );
                let engine =
                    wasmtime::Engine::new(&config(None)).map_err(|error| EngineError::Setup(format!("{error:#}")))?;
                (engine, false)
            }
        };
        let mut linker = Linker::new(&wasmtime);
        host::register(&mut linker).map_err(|error| EngineError::Setup(format!("{error:#}")))?;
        let clock = Arc::default();
        start_ticker(&wasmtime, &clock).map_err(EngineError::Ticker)?;
        Ok(Self { wasmtime, linker: Arc::new(linker), clock, pooling })
    }

    /// A number for all that compiled code depends on besides the module: wasmtime's version, the settings, the
    /// processor, and what this crate changes in a module before. Where it is another, [`Module::restore`](crate::Module::restore) refuses what was compiled.
    pub fn compatibility(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        instrument::VERSION.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether instances come from a pool. If not, reserving its address space failed.
    pub fn is_pooling(&self) -> bool {
        self.pooling
    }
}

fn config(pool: Option<&EngineOptions>) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .memory_init_cow(true)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_custom_page_sizes(false)
        .wasm_relaxed_simd(false)
        .wasm_wide_arithmetic(false);
    if let Some(options) = pool {
        // 32-bit addresses cannot leave this range, so the compiler leaves bounds checks out.
        config.memory_reservation(4 << 30).memory_may_move(false);
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(options.max_instances)
            .total_memories(options.max_instances)
            .total_tables(options.max_instances)
            .max_memories_per_module(1)
            .max_tables_per_module(1)
            .max_memory_size(options.max_memory_bytes)
            .table_elements(options.max_table_elements)
            .max_core_instance_size(8 << 20)
            // Where the kernel can say which pages were written, only those are zeroed, wherever they are. Plugins write to
            // the end of a stack of 1 MiB first, and an instance for every request would touch its pages anew each time.
            .pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(KEEP_RESIDENT)
            .table_keep_resident(KEEP_RESIDENT);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    } else {
        // Address space is short: take what is used, check bounds, move memory that grows.
        config.memory_reservation(0).memory_guard_size(0).guard_before_linear_memory(false).memory_may_move(true);
    }
    config
}

fn start_ticker(engine: &wasmtime::Engine, clock: &Arc<Clock>) -> Result<(), std::io::Error> {
    let (engine, clock) = (engine.weak(), Arc::clone(clock));
    thread::Builder::new()
        .name("plugin-deadlines".to_owned())
        .stack_size(64 << 10)
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                clock.wait();
            }
        })
        .map(drop)
}
