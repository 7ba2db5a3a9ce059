//! The callbacks of the host: the plugin with its configuration once per root context, a [`Stream`] for each request.

use super::abi::{self, Abi};
use crate::host::Side;
use crate::log::Level;
use crate::stream::{self, Action, Stream};
use crate::streams::{Roots, Streams};
use crate::{HostError, Plugin, Queue, Result, config};
use std::alloc::{Layout, alloc};
use std::cell::RefCell;
use std::rc::Rc;

/// Everything that a module remembers; one static of [`__export!`](crate::__export).
pub struct Module<P: Plugin, S>(RefCell<Contexts<P, S>>);

/// The contexts of the ABI, by the numbers that the host gave them.
struct Contexts<P: Plugin, S> {
    roots: Roots<P>,
    streams: S,
}

// SAFETY: a static has to be `Sync`. A WebAssembly module without shared memory, which is what this one is, has one thread.
unsafe impl<P: Plugin, S> Sync for Module<P, S> {}

/// The numbers of `proxy_action_t`.
impl From<Action> for u32 {
    fn from(action: Action) -> u32 {
        match action {
            Action::Continue => 0,
            Action::Pause => 1,
        }
    }
}

impl<P: Plugin, S: Streams<P>> Module<P, S> {
    /// Before anything has happened.
    #[allow(clippy::new_without_default, reason = "only made by a macro, as a constant")]
    pub const fn new() -> Self {
        Module(RefCell::new(Contexts { roots: Roots::new(), streams: S::NONE }))
    }

    /// A root context begins if it has no parent, else a stream of that root.
    #[inline]
    pub fn on_context_create(&self, context: u32, parent: u32) {
        let contexts = &mut *self.0.borrow_mut();
        if parent == 0 {
            contexts.roots.set(context, None);
        } else {
            contexts.streams.begin(context, parent, &contexts.roots);
        }
    }

    /// The configuration of a root context is there, `size` bytes of it. Answers whether the plugin takes it.
    pub fn on_configure(&self, root: u32, size: usize) -> u32 {
        let bytes = abi::configuration(size);
        let bytes = bytes.map_err(|status| HostError::new("reading the configuration", status).into());
        match bytes.and_then(|bytes| config::parse(&bytes)).and_then(P::configure) {
            Ok(plugin) => {
                self.0.borrow_mut().roots.set(root, Some(Rc::new(plugin)));
                1
            }
            Err(error) => {
                crate::error!("configuration refused: {error}");
                0
            }
        }
    }

    /// The head of a message.
    pub fn on_headers(&self, context: u32, side: Side, end: bool) -> u32 {
        self.stream(context, |stream| stream.on_headers(&Abi, side, end))
    }

    /// A part of a body, with everything that is held of it.
    pub fn on_body(&self, context: u32, side: Side, size: usize, end: bool) -> u32 {
        self.stream(context, |stream| stream.on_body(&Abi, side, size, end))
    }

    /// The trailers of a message.
    pub fn on_trailers(&self, context: u32, side: Side) -> u32 {
        self.stream(context, |stream| stream.on_trailers(&Abi, side))
    }

    /// A stream is over.
    pub fn on_log(&self, context: u32) {
        let contexts = &mut *self.0.borrow_mut();
        contexts.streams.with(context, &contexts.roots, |stream| stream.on_log(&Abi));
    }

    /// A context ends.
    pub fn on_delete(&self, context: u32) {
        let contexts = &mut *self.0.borrow_mut();
        if !contexts.streams.end(context) {
            contexts.roots.remove(context);
        }
    }

    /// The tick period has passed.
    pub fn on_tick(&self, root: u32) {
        self.root(root, "tick", P::on_tick);
    }

    /// A registered queue has a new item.
    pub fn on_queue_ready(&self, root: u32, queue: u32) {
        self.root(root, "queue", |plugin| plugin.on_queue(&Queue::with_id(queue)));
    }

    #[inline(always)]
    fn stream(&self, context: u32, callback: impl FnOnce(&mut Stream<P>) -> Action) -> u32 {
        let contexts = &mut *self.0.borrow_mut();
        match contexts.streams.with(context, &contexts.roots, callback) {
            Some(action) => action.into(),
            // A mistake of the host, and no reason to let a request pass.
            None => {
                stream::fail(&Abi, "the plugin has no configuration, or the stream is unknown");
                Action::Pause.into()
            }
        }
    }

    fn root(&self, root: u32, what: &str, callback: impl FnOnce(&P) -> Result<()>) {
        let plugin = self.0.borrow().roots.get(root).map(Rc::clone);
        if let Some(Err(error)) = plugin.map(|plugin| callback(&plugin)) {
            crate::error!("{what}: {error}");
        }
    }
}

/// Runs when the module is loaded.
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        match panic.location() {
            Some(location) => crate::log::write(Level::Critical, format_args!("panic at {location}: {message}")),
            None => crate::log::write(Level::Critical, format_args!("panic: {message}")),
        }
    }));
}

/// Memory for what the host answers; `abi` takes it over as a vector of exactly this capacity. Null if there is none.
pub fn allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // SAFETY: the layout is not of size 0.
        Ok(layout) if size > 0 => unsafe { alloc(layout) },
        _ => std::ptr::null_mut(),
    }
}
