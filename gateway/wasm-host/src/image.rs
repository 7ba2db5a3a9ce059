//! What a configured instance holds, so that a fresh one can be made without running start-up code: `isolation: request`.
//!
//! A copy is an ordinary instance of the module with the bytes of memory and the globals written over that the start-up
//! changed. Its memory is the pool's, which is zeroed between instances; what is copied is a few pages for most modules.
//! State of the host that belongs to the root context (timer, queues) is not copied: one instance has it and serves it.

use std::sync::Arc;

use wasmtime::{Extern, Global, Memory, ModuleExport, Store, Val};

use crate::instance::Instance;
use crate::instrument::PREFIX;
use crate::plugin::Inner;
use crate::start::{self, StartError};
use crate::state::State;

/// How finely memory is compared. A page of the system is the least that a write costs anyway.
const PIECE: usize = 4096;

/// What is different in a configured instance from one that has only been instantiated.
pub(crate) struct Image {
    pages: u64,
    /// Addresses and what stands there, in order.
    memory: Vec<(usize, Box<[u8]>)>,
    globals: Vec<(ModuleExport, Val)>,
}

/// What an instance holds before its start-up code runs.
pub(crate) struct Blank {
    memory: Vec<u8>,
    globals: Vec<Option<u128>>,
}

impl Blank {
    /// Reads an instance.
    pub(crate) fn of(store: &mut Store<State>, instance: &wasmtime::Instance, memory: Option<Memory>) -> Self {
        Self {
            memory: memory.map_or_else(Vec::new, |memory| memory.data(&*store).to_vec()),
            globals: globals(store, instance).into_iter().map(|(_, value)| bits(&value)).collect(),
        }
    }
}

impl Image {
    /// The difference that the start-up of a plugin made.
    pub(crate) fn of(store: &mut Store<State>, instance: &wasmtime::Instance, blank: &Blank, plugin: &Inner) -> Self {
        let Some(memory) = store.data().memory else {
            return Self { pages: 0, memory: Vec::new(), globals: Vec::new() };
        };
        let mut changed = Vec::new();
        let mut run: Option<(usize, usize)> = None;
        let data = memory.data(&*store);
        for (at, piece) in (0..).step_by(PIECE).zip(data.chunks(PIECE)) {
            let before = blank.memory.get(at..at + piece.len());
            if before.map_or_else(|| piece.iter().all(|byte| *byte == 0), |before| before == piece) {
                continue;
            }
            run = match run {
                Some((start, end)) if end == at => Some((start, at + piece.len())),
                other => {
                    changed.extend(other);
                    Some((at, at + piece.len()))
                }
            };
        }
        changed.extend(run);
        let copy = |(start, end): (usize, usize)| (start, Box::from(data.get(start..end).unwrap_or_default()));
        let image = changed.into_iter().map(copy).collect();
        let pages = memory.size(&*store);
        let globals = globals(store, instance)
            .into_iter()
            .zip(&blank.globals)
            .filter(|((_, value), before)| bits(value) != **before)
            .filter_map(|((name, value), _)| Some((plugin.module.export(&name)?, value)))
            .collect();
        Self { pages, memory: image, globals }
    }

    /// Bytes that are copied into a fresh instance.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// A fresh instance that holds the same.
    pub(crate) fn instantiate(&self, plugin: &Arc<Inner>) -> Result<Instance, StartError> {
        let mut store = start::store(plugin, start::callback_budget(plugin));
        let (instance, exports) = match start::link(&mut store, plugin) {
            Ok(linked) => linked,
            Err(failure) => return Err(StartError { failure, log: Vec::new() }),
        };
        if let Some(memory) = store.data().memory {
            let more = self.pages.saturating_sub(memory.size(&store));
            if more > 0 {
                memory.grow(&mut store, more).map_err(|error| StartError {
                    failure: start::failure(&store, "instantiation", &error),
                    log: Vec::new(),
                })?;
            }
            let data = memory.data_mut(&mut store);
            for (at, bytes) in &self.memory {
                if let Some(place) = data.get_mut(*at..at + bytes.len()) {
                    place.copy_from_slice(bytes);
                }
            }
        }
        for (export, value) in &self.globals {
            if let Some(Extern::Global(global)) = instance.get_module_export(&mut store, export) {
                // Of the type that it was read with.
                let _ = global.set(&mut store, *value);
            }
        }
        store.data_mut().started();
        Ok(Instance::new(store, exports))
    }
}

/// Gives the memory of an instance that is not used any more back to the system. All of it has been read here, so all of
/// its pages are mapped, and whoever gets the place in the pool next would pay for each of them.
pub(crate) fn release_pages(store: &mut Store<State>) {
    if let Some(memory) = store.data().memory {
        let data = memory.data_mut(store);
        // SAFETY: these pages belong to the instance alone, none of whose code runs any more, and hold plain bytes; they
        // are what they were before it began now, as after the pool's own use of the same call.
        unsafe { libc::madvise(data.as_mut_ptr().cast(), data.len(), libc::MADV_DONTNEED) };
    }
}

/// The mutable globals of an instance, by name of their export.
fn globals(store: &mut Store<State>, instance: &wasmtime::Instance) -> Vec<(String, Val)> {
    let found: Vec<(String, Global)> = instance
        .exports(&mut *store)
        .filter(|export| export.name().starts_with(PREFIX))
        .filter_map(|export| Some((export.name().to_owned(), export.into_global()?)))
        .collect();
    found.into_iter().map(|(name, global)| (name, global.get(&mut *store))).collect()
}

/// A value to compare; `None` for references, which are not copied.
fn bits(value: &Val) -> Option<u128> {
    match value {
        Val::I32(value) => Some(u128::from(value.cast_unsigned())),
        Val::I64(value) => Some(u128::from(value.cast_unsigned())),
        Val::F32(bits) => Some(u128::from(*bits)),
        Val::F64(bits) => Some(u128::from(*bits)),
        Val::V128(value) => Some(value.as_u128()),
        _ => None,
    }
}
