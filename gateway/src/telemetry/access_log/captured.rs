//! Copies of what a line will show of a request, in one buffer: header values that a format asks for, and other text.

use smallvec::SmallVec;

/// The headers that a format asks for: the slot of the value in [`Captured`], and the name in lower case; and what it asks
/// for of the filter state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedHeaders {
    /// Of the request.
    pub request: Vec<(usize, Box<str>)>,
    /// Of the response.
    pub response: Vec<(usize, Box<str>)>,
    /// Of the response's trailers.
    pub trailers: Vec<(usize, Box<str>)>,
    /// Of what plugins have set, by name, without `wasm.`.
    pub filter_state: Vec<(usize, Box<str>)>,
}

/// Values of [`WantedHeaders`], and other text of the same request. Copies, because a kept header value would keep the whole buffer that it was read into.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    bytes: Vec<u8>,
    /// Where the value of a slot is; nothing for a header that is not there.
    spans: SmallVec<[Option<Span>; 8]>,
}

/// Where some text is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span(u32, u32);

/// Bytes that are usual.
const ROOM: usize = 320;

impl Captured {
    /// Makes so many slots at once.
    pub fn make_slots(&mut self, slots: usize) {
        self.spans.resize(slots, None);
    }

    /// Keeps a copy of the value of a slot in place of what was there.
    pub fn set(&mut self, slot: usize, value: Option<&[u8]>) {
        if self.get(slot) == value {
            return;
        }
        if self.spans.len() <= slot {
            self.spans.resize(slot + 1, None);
        }
        let span = value.map(|value| self.keep(value));
        if let Some(place) = self.spans.get_mut(slot) {
            *place = span;
        }
    }

    /// Keeps a copy of other text. Past 4 GiB, which no request has, nothing is kept.
    pub fn keep(&mut self, text: &[u8]) -> Span {
        let (start, end) = (self.bytes.len(), self.bytes.len() + text.len());
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) else { return Span::default() };
        if self.bytes.capacity() == 0 {
            // Enough most of the time: growing step by step costs a tenth of a line.
            self.bytes.reserve(ROOM);
        }
        self.bytes.extend_from_slice(text);
        Span(start, end)
    }

    /// What was kept.
    #[must_use]
    pub fn kept(&self, Span(start, end): Span) -> &[u8] {
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    /// The value of a slot.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&[u8]> {
        self.spans.get(slot).copied().flatten().map(|span| self.kept(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_set_in_any_order_and_may_change() {
        let mut captured = Captured::default();
        assert_eq!(captured.get(0), None);
        captured.set(9, Some(b"nine"));
        captured.set(0, Some(b""));
        captured.set(3, Some(b"three"));
        assert_eq!((captured.get(9), captured.get(0), captured.get(1)), (Some(&b"nine"[..]), Some(&b""[..]), None));
        captured.set(3, Some(b"3"));
        captured.set(9, None);
        assert_eq!((captured.get(3), captured.get(9), captured.get(100)), (Some(&b"3"[..]), None, None));
        let before = captured.bytes.len();
        captured.set(3, Some(b"3"));
        assert_eq!(captured.bytes.len(), before, "the same again takes no room");
        let (path, none) = (captured.keep(b"/path"), Span::default());
        captured.set(4, Some(b"four"));
        assert_eq!((captured.kept(path), captured.kept(none)), (&b"/path"[..], &b""[..]));
    }
}
