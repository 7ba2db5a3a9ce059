//! The streams that are open in one instance, and the exchanges attached to them.
//!
//! A [`ContextId`] carries the place in the table, so that attaching, detaching and every callback are
//! one index operation. Only a number that comes from the plugin has to be searched for.

use crate::Exchange;
use crate::exchange::{Effects, Half, Phase};

/// The plugin's root context. There is one per instance.
pub(crate) const ROOT: u32 = 1;

/// One open stream of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId {
    id: u32,
    slot: u32,
}

impl ContextId {
    /// The number by which the plugin knows the stream; what its log lines show.
    pub fn number(self) -> u32 {
        self.id
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// 0 while the slot is free.
    id: u32,
    /// Already in the list of woken streams.
    woken: bool,
    /// The plugin has logged it, or is about to.
    logged: bool,
    exchange: Option<Box<Exchange>>,
    request: Pause,
    response: Pause,
    /// What the plugin decided about a stream that it pauses while the exchange was lent to another plugin.
    away: Option<Box<Effects>>,
}

/// Whether the plugin holds one half of its stream up. Belongs to the plugin and not to the exchange: one that
/// lets go of a stream must not let it pass another that pauses it, too.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    paused: bool,
    resumed: bool,
}

impl Slot {
    fn pause(&mut self, half: Half) -> &mut Pause {
        match half {
            Half::Request => &mut self.request,
            Half::Response => &mut self.response,
        }
    }
}

/// The table of open streams.
#[derive(Debug)]
pub(crate) struct Contexts {
    slots: Vec<Slot>,
    free: Vec<u32>,
    next: u32,
    wrapped: bool,
    woken: Vec<ContextId>,
}

impl Contexts {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), next: ROOT + 1, wrapped: false, woken: Vec::new() }
    }

    /// A new context with this exchange attached. Numbers count up as in Envoy; plugins keep them in
    /// maps, so one is not given again while it could be confused with an open stream.
    pub(crate) fn open(&mut self, exchange: Box<Exchange>) -> ContextId {
        let id = self.next_number();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            // One slot takes more than one byte of guest memory, so there are fewer than 2^32.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            (place.id, place.exchange) = (id, Some(exchange));
        }
        ContextId { id, slot }
    }

    fn next_number(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = self.next.checked_add(1).unwrap_or_else(|| {
                self.wrapped = true;
                ROOT + 1
            });
            if !self.wrapped || self.find(id).is_none() {
                return id;
            }
        }
    }

    /// Forgets a context; answers what was attached.
    pub(crate) fn close(&mut self, context: ContextId) -> Option<Box<Exchange>> {
        let slot = self.slot_mut(context)?;
        let exchange = slot.exchange.take();
        // The next stream in this place finds nothing.
        (slot.id, slot.woken, slot.logged, slot.away) = (0, false, false, None);
        (slot.request, slot.response) = Default::default();
        self.free.push(context.slot);
        exchange
    }

    /// The stream is over, and the plugin logs it. Answers whether for the first time; `None`: there is no such stream.
    pub(crate) fn log(&mut self, context: ContextId) -> Option<bool> {
        let slot = self.slot_mut(context)?;
        if let Some(exchange) = &mut slot.exchange {
            exchange.phase = Phase::Log;
        }
        Some(!std::mem::replace(&mut slot.logged, true))
    }

    /// Attaches an exchange. Answers it back if the context is closed.
    pub(crate) fn attach(&mut self, context: ContextId, mut exchange: Box<Exchange>) -> Option<Box<Exchange>> {
        match self.slot_mut(context) {
            Some(slot) => {
                if let Some(away) = slot.away.take() {
                    exchange.effects.absorb(*away);
                }
                slot.exchange.replace(exchange)
            }
            None => Some(exchange),
        }
    }

    /// Takes the attached exchange away.
    pub(crate) fn detach(&mut self, context: ContextId) -> Option<Box<Exchange>> {
        self.slot_mut(context)?.exchange.take()
    }

    /// The attached exchange.
    pub(crate) fn exchange(&self, context: ContextId) -> Option<&Exchange> {
        let slot = self.slots.get(context.slot as usize)?;
        if slot.id == context.id { slot.exchange.as_deref() } else { None }
    }

    /// The attached exchange, to change it.
    pub(crate) fn exchange_mut(&mut self, context: ContextId) -> Option<&mut Exchange> {
        self.slot_mut(context)?.exchange.as_deref_mut()
    }

    /// Where the plugin's wishes about a stream go: to its exchange, or to a place of their own for as long as that is
    /// elsewhere. `None`: the stream is not the plugin's to decide now.
    pub(crate) fn effects_mut(&mut self, context: ContextId) -> Option<&mut Effects> {
        let slot = self.slot_mut(context)?;
        match &mut slot.exchange {
            Some(exchange) => Some(&mut exchange.effects),
            None if slot.request.paused || slot.response.paused => Some(slot.away.get_or_insert_default()),
            None => None,
        }
    }

    /// The plugin resumes one half of a stream. Without effect if it does not hold that up; `inside`: it is the half
    /// whose callback is running, and the callback may still decide to pause.
    pub(crate) fn resume(&mut self, context: ContextId, half: Half, inside: bool) -> bool {
        let Some(slot) = self.slot_mut(context) else { return false };
        let pause = slot.pause(half);
        pause.resumed |= pause.paused || inside;
        pause.resumed
    }

    /// A callback about one half has returned, and wants to pause or not. Answers whether it does.
    pub(crate) fn settle(&mut self, context: ContextId, half: Half, pause: bool) -> bool {
        let Some(slot) = self.slot_mut(context) else { return pause };
        let resumed = std::mem::take(&mut slot.pause(half).resumed);
        slot.pause(half).paused = pause && !resumed;
        pause && !resumed
    }

    /// Whether a paused half was resumed since it was paused; it is not paused any more then.
    pub(crate) fn take_resumed(&mut self, context: ContextId, half: Half) -> bool {
        let Some(slot) = self.slot_mut(context) else { return false };
        let resumed = slot.pause(half).resumed;
        if resumed {
            *slot.pause(half) = Pause::default();
        }
        resumed
    }

    /// The open context with a number that the plugin named.
    pub(crate) fn find(&self, id: u32) -> Option<ContextId> {
        if id == 0 {
            return None;
        }
        let slot = self.slots.iter().position(|slot| slot.id == id)?;
        Some(ContextId { id, slot: u32::try_from(slot).ok()? })
    }

    /// Notes that a stream other than the calling one has something to carry out.
    pub(crate) fn wake(&mut self, context: ContextId) {
        if let Some(slot) = self.slot_mut(context)
            && !std::mem::replace(&mut slot.woken, true)
        {
            self.woken.push(context);
        }
    }

    /// Open contexts.
    pub(crate) fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// Whether there are woken streams.
    pub(crate) fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Takes the list of woken streams.
    pub(crate) fn take_woken(&mut self) -> std::vec::Drain<'_, ContextId> {
        let slots = &mut self.slots;
        // Some may have been closed since; their places may be other streams' now.
        self.woken.retain(|context| {
            let slot = slots.get_mut(context.slot as usize).filter(|slot| slot.id == context.id);
            slot.map(|slot| slot.woken = false).is_some()
        });
        self.woken.drain(..)
    }

    fn slot_mut(&mut self, context: ContextId) -> Option<&mut Slot> {
        self.slots.get_mut(context.slot as usize).filter(|slot| slot.id == context.id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use heads::HeaderList;
    use http::Method;
    use http::uri::PathAndQuery;

    use super::*;
    use crate::{RequestHead, Scheme};

    fn exchange(path: &'static str) -> Box<Exchange> {
        Exchange::new(RequestHead {
            method: Method::GET,
            target: PathAndQuery::from_static(path),
            scheme: Scheme::Http,
            headers: HeaderList::new(),
        })
    }

    #[test]
    fn a_place_is_reused_but_its_old_name_is_not() {
        let mut contexts = Contexts::new();
        let first = contexts.open(exchange("/1"));
        let second = contexts.open(exchange("/2"));
        assert_eq!((first.number(), second.number()), (2, 3));
        assert!(contexts.close(first).is_some());
        let third = contexts.open(exchange("/3"));
        assert_eq!((third.number(), third.slot), (4, first.slot));
        assert!(contexts.exchange(first).is_none());
        assert!(contexts.detach(first).is_none());
        assert!(contexts.close(first).is_none());
        assert!(contexts.attach(first, exchange("/x")).is_some(), "handed back");
        assert_eq!(contexts.exchange(third).unwrap().request.target, "/3");
        assert_eq!(contexts.find(3), Some(second));
        assert_eq!(contexts.find(2), None);
        assert_eq!(contexts.find(0), None);
        assert_eq!(contexts.find(ROOT), None);
    }

    #[test]
    fn numbers_in_use_are_skipped_after_the_wrap() {
        let mut contexts = Contexts::new();
        let old = contexts.open(exchange("/"));
        contexts.next = u32::MAX;
        assert_eq!(contexts.open(exchange("/")).number(), u32::MAX);
        assert_eq!(contexts.open(exchange("/")).number(), old.number() + 1);
    }

    #[test]
    fn a_stream_is_woken_once() {
        let mut contexts = Contexts::new();
        let context = contexts.open(exchange("/"));
        contexts.wake(context);
        contexts.wake(context);
        assert_eq!(contexts.take_woken().collect::<Vec<_>>(), [context]);
        assert_eq!(contexts.take_woken().count(), 0);
        contexts.wake(context);
        contexts.close(context);
        let next = contexts.open(exchange("/"));
        contexts.wake(next);
        assert_eq!(contexts.take_woken().collect::<Vec<_>>(), [next], "not the one that was closed");
    }
}
