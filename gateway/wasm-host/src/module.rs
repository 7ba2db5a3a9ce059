//! A compiled, checked module: everything about a plugin that depends on its bytes alone.

use std::sync::Arc;

use thiserror::Error;
use wasmtime::{InstancePre, Linker, ModuleExport};

use crate::abi::AbiVersion;
use crate::engine::Clock;
use crate::inspect::inspect;
use crate::instrument::{Uncopyable, instrument};
use crate::state::State;
use crate::{Callbacks, Engine};

/// A module ready to be instantiated. Cloning is cheap.
#[derive(Clone)]
pub struct Module(Arc<Inner>);

struct Inner {
    engine: Engine,
    pre: InstancePre<State>,
    abi: AbiVersion,
    callbacks: Callbacks,
    edits_bodies: bool,
    reads_heads: bool,
    reads_properties: bool,
    makes_calls: bool,
    size: usize,
    uncopyable: Option<Uncopyable>,
}

/// Why a module was refused. [`ModuleError::code`] is stable; messages say what to change.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ModuleError {
    /// Larger than [`Module::MAX_BYTES`].
    #[error("the module has {0} bytes, more than the {max} allowed; strip debug information, or build it optimised for size", max = Module::MAX_BYTES)]
    TooLarge(usize),
    /// Not a valid WebAssembly module.
    #[error("not a valid WebAssembly module: {0}")]
    Malformed(String),
    /// No export names a supported ABI version.
    #[error(
        "the module does not declare an ABI version this gateway knows; it must export one of proxy_abi_version_0_1_0, proxy_abi_version_0_2_0, proxy_abi_version_0_2_1 (declared: {declared})"
    )]
    AbiUnknown {
        /// The markers it does export, or "none".
        declared: String,
    },
    /// It imports what this host does not provide.
    #[error("the module imports what the gateway does not provide: {imports}")]
    ImportUnknown {
        /// `module.name`, comma-separated, all of them.
        imports: String,
    },
    /// It imports a host function with another signature.
    #[error("the module imports a host function with a wrong type: {0}")]
    ImportType(String),
    /// A callback is exported with a signature that is not the ABI's.
    #[error("the module exports callbacks with a wrong type: {exports}")]
    ExportType {
        /// What they must be, all of them.
        exports: String,
    },
    /// No exported memory called `memory`.
    #[error("the module exports no memory called `memory`")]
    MemoryMissing,
    /// Neither `malloc` nor `proxy_on_memory_allocate`.
    #[error(
        "the module exports neither `malloc` nor `proxy_on_memory_allocate`, so the gateway cannot return data to it"
    )]
    AllocatorMissing,
    /// Needs more than a module may.
    #[error("the module is too demanding: {0}")]
    Limits(String),
}

impl ModuleError {
    /// A stable name for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "module-too-large",
            Self::Malformed(_) => "module-malformed",
            Self::AbiUnknown { .. } => "module-abi-unknown",
            Self::ImportUnknown { .. } => "module-import-unknown",
            Self::ImportType(_) => "module-import-type",
            Self::ExportType { .. } => "module-export-type",
            Self::MemoryMissing => "module-memory-missing",
            Self::AllocatorMissing => "module-allocator-missing",
            Self::Limits(_) => "module-limits",
        }
    }
}

impl Module {
    /// The largest module that is accepted, in bytes. Modules of standard Go have 2.5 to 7 MB.
    pub const MAX_BYTES: usize = 32 << 20;

    /// Checks and compiles a module (binary format). Takes milliseconds to seconds of CPU on all
    /// cores: keep it off threads that serve requests.
    pub fn compile(engine: &Engine, wasm: &[u8]) -> Result<Self, ModuleError> {
        if wasm.len() > Self::MAX_BYTES {
            return Err(ModuleError::TooLarge(wasm.len()));
        }
        inspect(wasm)?;
        wasmtime::Module::validate(&engine.wasmtime, wasm)
            .map_err(|error| ModuleError::Malformed(format!("{error:#}")))?;
        // Valid, so what is refused now is a matter of size.
        let (instrumented, uncopyable) = instrument(wasm)?;
        let module = wasmtime::Module::from_binary(&engine.wasmtime, &instrumented)
            .map_err(|error| ModuleError::Limits(format!("{error:#}")))?;
        Self::link(engine, wasm, &module, uncopyable)
    }

    /// The machine code, for [`Module::restore`] in this process or a later one.
    pub fn serialize(&self) -> Result<Vec<u8>, ModuleError> {
        self.0.pre.module().serialize().map_err(|error| ModuleError::Limits(format!("{error:#}")))
    }

    /// The module that `wasm` was compiled to before, without compiling it once more. Code of another version of
    /// wasmtime, other settings or another processor is refused; see [`Engine::compatibility`].
    ///
    /// # Safety
    /// `compiled` must be, to the last bit, what [`Module::serialize`] gave for this very `wasm`: it is machine code
    /// that runs as it is.
    pub unsafe fn restore(engine: &Engine, wasm: &[u8], compiled: &[u8]) -> Result<Self, ModuleError> {
        // SAFETY: the caller's promise is the one that is asked for here.
        let module = unsafe { wasmtime::Module::deserialize(&engine.wasmtime, compiled) }
            .map_err(|error| ModuleError::Malformed(format!("{error:#}")))?;
        let (_, uncopyable) = instrument(wasm)?;
        Self::link(engine, wasm, &module, uncopyable)
    }

    fn link(
        engine: &Engine,
        wasm: &[u8],
        module: &wasmtime::Module,
        uncopyable: Option<Uncopyable>,
    ) -> Result<Self, ModuleError> {
        let outline = inspect(wasm)?;
        // All names are known, so what does not fit is a type.
        let pre =
            engine.linker.instantiate_pre(module).map_err(|error| ModuleError::ImportType(format!("{error:#}")))?;
        Ok(Self(Arc::new(Inner {
            engine: engine.clone(),
            pre,
            abi: outline.abi,
            callbacks: outline.callbacks,
            edits_bodies: outline.edits_bodies,
            reads_heads: outline.reads_heads,
            reads_properties: outline.reads_properties,
            makes_calls: outline.makes_calls,
            size: wasm.len(),
            uncopyable,
        })))
    }

    /// The ABI version the module was written for.
    pub fn abi(&self) -> AbiVersion {
        self.0.abi
    }

    /// Which HTTP callbacks the module exports.
    pub fn callbacks(&self) -> Callbacks {
        self.0.callbacks
    }

    /// Whether the module imports the function that changes bodies. If not, a body leaves it as long as it came.
    pub fn edits_bodies(&self) -> bool {
        self.0.edits_bodies
    }

    /// Whether the module may read heads in `on_log`, long after they have been sent: it exports that callback, and
    /// imports functions that read.
    pub fn reads_late(&self) -> bool {
        self.0.callbacks.log && self.0.reads_heads
    }

    /// Whether the module may read the head of the request when it has been sent: in callbacks about the response, or
    /// in `on_log`. (Envoy shows it in `on_log` only.)
    pub fn reads_request_late(&self) -> bool {
        let Callbacks { log, response_headers, response_body, response_trailers, .. } = self.0.callbacks;
        (log || response_headers || response_body || response_trailers) && self.0.reads_heads
    }

    /// Whether the module imports functions that read properties, by themselves or in expressions. If not, nobody asks for [`Properties`](crate::Properties).
    pub fn reads_properties(&self) -> bool {
        self.0.reads_properties
    }

    /// Whether the module imports functions that call other services. If not, [`Instance::take_outbound`](crate::Instance::take_outbound)
    /// never answers anything.
    pub fn makes_calls(&self) -> bool {
        self.0.makes_calls
    }

    /// Size of the module as it was given, in bytes.
    pub fn size(&self) -> usize {
        self.0.size
    }

    pub(crate) fn pre(&self) -> &InstancePre<State> {
        &self.0.pre
    }

    pub(crate) fn linker(&self) -> &Linker<State> {
        &self.0.engine.linker
    }

    /// Why instances cannot be copied, if they cannot.
    pub(crate) fn uncopyable(&self) -> Option<Uncopyable> {
        self.0.uncopyable
    }

    /// An export, to be found in instances without a look-up by name.
    pub(crate) fn export(&self, name: &str) -> Option<ModuleExport> {
        self.0.pre.module().get_export_index(name)
    }

    pub(crate) fn clock(&self) -> &Arc<Clock> {
        &self.0.engine.clock
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        &self.0.engine.wasmtime
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("abi", &self.0.abi).field("size", &self.0.size).finish_non_exhaustive()
    }
}
