//! How a callback fails, and what the failure was.

use std::fmt;
use std::ops::Deref;

use thiserror::Error;

use crate::deadline::Cut;

/// A callback that did not return. The instance is dead (except after [`TrapKind::Detached`]): drop
/// it, and treat its streams by the plugin's failure policy.
///
/// A pointer: it is part of what every callback returns, and nearly never there.
#[derive(Clone, Debug, Error)]
#[error("{}: {}", self.callback, self.message)]
pub struct Trap(Box<TrapReason>);

/// What a [`Trap`] says.
#[derive(Clone, Debug)]
pub struct TrapReason {
    /// What kind of failure.
    pub kind: TrapKind,
    /// The callback that failed, by its name in the ABI.
    pub callback: &'static str,
    /// What happened, for the operator.
    pub message: String,
}

/// What kind of failure a [`Trap`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrapKind {
    /// The plugin's code failed: an abort, a bad access, a stack overflow, a forbidden host call.
    Trap,
    /// More CPU time than [`Limits::callback_cpu`](crate::Limits::callback_cpu).
    CpuDeadline,
    /// More wall time than [`Limits::callback_wall`](crate::Limits::callback_wall).
    WallDeadline,
    /// The plugin failed after it was refused memory beyond
    /// [`Limits::memory_bytes`](crate::Limits::memory_bytes).
    Memory,
    /// The plugin called `proc_exit`.
    Exit,
    /// The caller's mistake: the context is closed or has no exchange attached. The plugin was not
    /// entered and the instance lives.
    Detached,
}

impl TrapKind {
    /// A stable name for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::CpuDeadline => "cpu-deadline",
            Self::WallDeadline => "wall-deadline",
            Self::Memory => "memory",
            Self::Exit => "exit",
            Self::Detached => "detached",
        }
    }
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `proc_exit` was called with this code.
#[derive(Clone, Copy, Debug, Error)]
#[error("the plugin exited with code {0}")]
pub(crate) struct Exit(pub(crate) u32);

/// The guest's allocator had no memory to give.
#[derive(Clone, Copy, Debug, Error)]
#[error("the plugin's allocator returned no memory for {0} bytes")]
pub(crate) struct OutOfMemory(pub(crate) usize);

impl Deref for Trap {
    type Target = TrapReason;

    fn deref(&self) -> &TrapReason {
        &self.0
    }
}

impl Trap {
    #[cold]
    fn new(kind: TrapKind, callback: &'static str, message: String) -> Self {
        Self(Box::new(TrapReason { kind, callback, message }))
    }

    /// Explains an error that wasmtime returned from `callback`. `memory_refused` says whether the
    /// plugin was refused memory in that callback.
    pub(crate) fn explain(callback: &'static str, error: &wasmtime::Error, memory_refused: bool) -> Self {
        let kind = if let Some(cut) = error.downcast_ref::<Cut>() {
            match cut {
                Cut::Cpu(_) => TrapKind::CpuDeadline,
                Cut::Wall(_) => TrapKind::WallDeadline,
            }
        } else if error.is::<Exit>() {
            TrapKind::Exit
        } else if memory_refused || error.is::<OutOfMemory>() {
            TrapKind::Memory
        } else {
            TrapKind::Trap
        };
        let mut message = error.root_cause().to_string();
        if kind == TrapKind::Memory && memory_refused {
            message.push_str(", after it was refused memory beyond its limit");
        }
        Self::new(kind, callback, message)
    }

    /// The host panicked in an earlier callback, so the instance may be in any state.
    pub(crate) fn panicked() -> Self {
        let message = "the host panicked, please report this as a bug of the gateway";
        Self::new(TrapKind::Trap, "an earlier callback", message.to_owned())
    }

    pub(crate) fn detached(callback: &'static str) -> Self {
        let message = "the context is closed or no exchange is attached to it";
        Self::new(TrapKind::Detached, callback, message.to_owned())
    }
}
