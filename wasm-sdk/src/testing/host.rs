//! The host of one stream, in memory.

use super::message::{Fields, canonical};
use super::{Message, services};
use crate::host::{Host, Map, Pairs, Side, Status};
use crate::stream::{Action, Stream};
use crate::{HeaderValue, Plugin, Reply, is_legal_name, is_legal_value};
use std::cell::{Cell, RefCell};

/// The status for names and values that are not legal, and for what cannot be changed now.
const BAD_ARGUMENT: Status = 2;

/// What it knows of the stream.
#[derive(Default)]
pub(crate) struct MemoryHost {
    /// By the numbers of [`Map`].
    maps: [RefCell<Fields>; 4],
    /// The body that is held of the message that is passing.
    held: RefCell<Vec<u8>>,
    pub(super) reply: RefCell<Option<Reply>>,
    /// The headers of the message that is passing have been handed on.
    pub(super) headers_gone: Cell<bool>,
    /// Trailers can be changed: the body is complete.
    complete: Cell<bool>,
    /// The stream is over.
    finished: Cell<bool>,
    pub(super) calls: Cell<usize>,
}

impl MemoryHost {
    /// Sends a message through the plugin and gives back what comes out, unless there is a reply then.
    pub(super) fn pass<P: Plugin>(&self, stream: &mut Stream<P>, side: Side, message: Message) -> Message {
        let Message { headers, chunks, trailers } = message;
        let mut passed = Message::default();
        let has_trailers = !trailers.is_empty();
        self.map(side.headers()).replace(headers);
        self.map(side.trailers()).replace(trailers);
        self.headers_gone.set(false);
        self.complete.set(false);

        stream.on_headers(self, side, chunks.is_empty() && !has_trailers);
        self.headers_gone.set(self.reply.borrow().is_none());
        let last = chunks.len().saturating_sub(1);
        for (index, chunk) in chunks.into_iter().enumerate() {
            if self.reply.borrow().is_some() {
                break;
            }
            self.held.borrow_mut().extend(chunk);
            let (len, end) = (self.held.borrow().len(), index == last && !has_trailers);
            self.complete.set(end);
            if stream.on_body(self, side, len, end) == Action::Continue {
                passed.chunks.push(self.held.take());
            }
        }
        if has_trailers && self.reply.borrow().is_none() {
            self.complete.set(true);
            stream.on_trailers(self, side);
        }
        let rest = self.held.take();
        if !rest.is_empty() {
            passed.chunks.push(rest);
        }
        passed.headers = self.map(side.headers()).borrow().clone();
        passed.trailers = self.map(side.trailers()).borrow().clone();
        passed
    }

    /// The stream is over; this is what the client got.
    pub(super) fn finish<P: Plugin>(&self, stream: &mut Stream<P>, response: &Message) {
        self.map(Map::ResponseHeaders).replace(response.headers.clone());
        self.map(Map::ResponseTrailers).replace(response.trailers.clone());
        self.finished.set(true);
        stream.on_log(self);
    }

    fn map(&self, map: Map) -> &RefCell<Fields> {
        let [request, request_trailers, response, response_trailers] = &self.maps;
        match map {
            Map::RequestHeaders => request,
            Map::RequestTrailers => request_trailers,
            Map::ResponseHeaders => response,
            Map::ResponseTrailers => response_trailers,
        }
    }

    /// The same, to change it.
    fn writable(&self, map: Map) -> Result<&RefCell<Fields>, Status> {
        self.count();
        let trailers = matches!(map, Map::RequestTrailers | Map::ResponseTrailers);
        if self.finished.get() || (trailers && !self.complete.get()) {
            return Err(BAD_ARGUMENT);
        }
        Ok(self.map(map))
    }

    fn count(&self) {
        self.calls.set(self.calls.get() + 1);
    }

    /// A name and a value as the host would store them.
    fn entry(name: &str, value: &[u8]) -> Result<(String, HeaderValue), Status> {
        let name = canonical(name);
        let legal = is_legal_name(name.strip_prefix(':').unwrap_or(&name)) && is_legal_value(value);
        if legal { Ok((name, HeaderValue::from(value.to_vec()))) } else { Err(BAD_ARGUMENT) }
    }
}

impl Host for MemoryHost {
    fn field(&self, map: Map, name: &str) -> Result<Option<HeaderValue>, Status> {
        self.count();
        let name = canonical(name);
        let fields = self.map(map).borrow();
        Ok(fields.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone()))
    }

    fn fields(&self, map: Map) -> Result<Pairs, Status> {
        self.count();
        let fields = self.map(map).borrow();
        Ok(fields.iter().map(|(n, v)| (n.clone().into_bytes(), v.as_bytes().to_vec())).collect())
    }

    fn add_field(&self, map: Map, name: &str, value: &[u8]) -> Result<(), Status> {
        let fields = self.writable(map)?;
        fields.borrow_mut().push(MemoryHost::entry(name, value)?);
        Ok(())
    }

    fn set_field(&self, map: Map, name: &str, value: &[u8]) -> Result<(), Status> {
        let fields = self.writable(map)?;
        let (name, value) = MemoryHost::entry(name, value)?;
        let mut fields = fields.borrow_mut();
        let place = fields.iter().position(|(n, _)| *n == name).unwrap_or(fields.len());
        fields.retain(|(n, _)| *n != name);
        fields.insert(place, (name, value));
        Ok(())
    }

    fn remove_field(&self, map: Map, name: &str) -> Result<(), Status> {
        let fields = self.writable(map)?;
        let name = canonical(name);
        fields.borrow_mut().retain(|(n, _)| *n != name);
        Ok(())
    }

    fn body(&self, _: Side, start: usize, max: usize) -> Result<Vec<u8>, Status> {
        self.count();
        Ok(self.held.borrow().iter().skip(start).take(max).copied().collect())
    }

    fn set_body(&self, _: Side, size: usize, bytes: &[u8]) -> Result<(), Status> {
        self.count();
        let mut held = self.held.borrow_mut();
        let size = size.min(held.len());
        held.splice(..size, bytes.iter().copied());
        Ok(())
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, Status> {
        self.count();
        Ok(services::property(&path.join(".")))
    }

    fn reply(&self, reply: &Reply) -> Result<(), Status> {
        self.count();
        // The first answer counts, as in Envoy.
        self.reply.borrow_mut().get_or_insert_with(|| reply.clone());
        Ok(())
    }
}
