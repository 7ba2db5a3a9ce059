//! The headers of HTTP/2 frames (RFC 9113 4.1), for floods that cost the client little and us much.
//!
//! Two accounts. A control frame costs one from the first; new streams, data either way and time earn some back, so
//! that what a client has to send for its requests is never too much. A reset stream costs one from the second; answers
//! that were sent and time earn some back. What is in the frames is h2's business, and so are the limits that need it
//! (sizes, streams at once, CONTINUATION, tiny DATA).

use super::limits;

/// Follows the bytes of one connection, which begin with the preface.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes until the next frame begins.
    skip: u64,
    header: [u8; HEADER],
    /// So many bytes of `header` have come.
    have: usize,
    frames: Account,
    resets: Account,
    streams: u64,
    open_head: bool,
}

/// Which account is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// [`limits::HTTP2_CONTROL_FRAMES`]
    Frames,
    /// [`limits::HTTP2_RESETS`]
    Resets,
}

/// Length of a frame's header.
const HEADER: usize = 9;
const PREFACE: u64 = 24;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const CONTINUATION: u8 = 9;
}
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// With padding, so many bytes may be nothing else.
const MAY_BE_PADDING: u64 = 256;

#[derive(Debug)]
struct Account {
    left: u32,
    most: u32,
    /// When it was last filled up, in ticks.
    filled: u64,
}

impl Account {
    fn new(most: u32, now: u64) -> Self {
        Self { left: most, most, filled: now }
    }

    fn earn(&mut self, frames: u32) {
        self.left = self.left.saturating_add(frames).min(self.most);
    }

    /// Takes one. False: there is none.
    fn pay(&mut self, now: u64, per_tick: u32) -> bool {
        if now != self.filled {
            let ticks = u32::try_from(now.saturating_sub(self.filled)).unwrap_or(u32::MAX);
            self.filled = now;
            self.earn(ticks.saturating_mul(per_tick));
        }
        let paid = self.left > 0;
        self.left = self.left.saturating_sub(1);
        paid
    }
}

impl Frames {
    /// Begins with the preface. `now` is a time in ticks of the worker's clock.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            skip: PREFACE,
            header: [0; HEADER],
            have: 0,
            frames: Account::new(limits::HTTP2_CONTROL_FRAMES, now),
            resets: Account::new(limits::HTTP2_RESETS, now),
            streams: 0,
            open_head: false,
        }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// The client floods the connection; with it the place behind the last frame that was in order, if that is within
    /// these bytes.
    pub(crate) fn check(&mut self, bytes: &[u8], now: u64) -> Result<(), (Flood, Option<usize>)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if self.skip > 0 {
                let here = rest.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= here as u64;
                at += here;
                continue;
            }
            let missing = HEADER - self.have;
            let here = rest.len().min(missing);
            if let (Some(to), Some(from)) = (self.header.get_mut(self.have..self.have + here), rest.get(..here)) {
                to.copy_from_slice(from);
            }
            let begin = (self.have == 0).then_some(at);
            self.have += here;
            at += here;
            if self.have == HEADER {
                self.have = 0;
                self.frame(now).map_err(|flood| (flood, begin.filter(|_| !self.open_head)))?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, now: u64) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.header;
        let length = u64::from(u32::from_be_bytes([0, a, b, c]));
        self.skip = length;
        let costs = match kind {
            kind::DATA => {
                let empty = length == 0 || (flags & PADDED != 0 && length <= MAY_BE_PADDING);
                if !empty {
                    self.frames.earn(1);
                }
                empty && flags & END_STREAM == 0
            }
            kind::HEADERS => {
                self.streams += 1;
                self.open_head = flags & END_HEADERS == 0;
                self.frames.earn(limits::HTTP2_FRAMES_PER_STREAM);
                false
            }
            kind::CONTINUATION => {
                self.open_head = flags & END_HEADERS == 0;
                true
            }
            kind::RST_STREAM if !self.resets.pay(now, limits::HTTP2_RESETS_PER_TICK) => return Err(Flood::Resets),
            _ => true,
        };
        if costs && !self.frames.pay(now, limits::HTTP2_FRAMES_PER_TICK) { Err(Flood::Frames) } else { Ok(()) }
    }

    /// Something was sent to the client: pieces of bodies, and whole answers.
    pub(crate) fn earn(&mut self, pieces: u32, answers: u32) {
        self.frames.earn(pieces.saturating_mul(limits::HTTP2_FRAMES_PER_PIECE));
        self.resets.earn(answers);
    }

    /// How many heads have begun.
    pub(crate) fn heads(&self) -> u64 {
        self.streams
    }

    /// Whether a head has begun and not ended.
    pub(crate) fn is_in_head(&self) -> bool {
        self.open_head
    }

    /// Frames after which h2 ends the connection with ENHANCE_YOUR_CALM, as if they had come from the client: a head
    /// in too many pieces. h2 has no other way to be asked for that from outside.
    pub(crate) fn calm() -> Vec<u8> {
        let frame = |kind: u8| [0, 0, 0, kind, 0, 0x7f, 0xff, 0xff, 0xff];
        let mut frames = frame(kind::HEADERS).to_vec();
        // h2 accepts a quarter more than its largest header list needs in frames of the smallest size.
        let enough = limits::HTTP2_HEADER_LIST_BYTES / 16_384 * 2 + 8;
        frames.extend((0..enough).flat_map(|_| frame(kind::CONTINUATION)));
        frames
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_are_counted_in_any_split(lengths in prop::collection::vec(0usize..40, 1..60), piece in 1usize..30) {
            let mut bytes = vec![0; 24];
            for length in &lengths {
                bytes.extend([0, 0, *length as u8, 1, 4, 0, 0, 0, 1]);
                bytes.extend(vec![7; *length]);
            }
            let mut frames = Frames::new(0);
            for piece in bytes.chunks(piece) {
                prop_assert!(frames.check(piece, 0).is_ok());
            }
            prop_assert_eq!(frames.heads(), lengths.len() as u64);
        }
    }

    /// A frame without a payload.
    fn frame(kind: u8, flags: u8) -> [u8; 9] {
        [0, 0, 0, kind, flags, 0, 0, 0, 1]
    }

    #[test]
    fn floods_are_told_from_work() {
        let mut frames = Frames::new(0);
        frames.check(&[0; 24], 0).unwrap();
        for _ in 0..limits::HTTP2_CONTROL_FRAMES {
            frames.check(&frame(6, 0), 0).unwrap();
        }
        // With time, and with what is done for the client, there may be more.
        frames.check(&frame(6, 0), 1).unwrap();
        for _ in 1..limits::HTTP2_FRAMES_PER_TICK {
            frames.check(&frame(8, 0), 1).unwrap();
        }
        frames.earn(1, 0);
        for _ in 0..limits::HTTP2_FRAMES_PER_PIECE {
            frames.check(&frame(8, 0), 1).unwrap();
        }
        let bytes = [frame(0, 1), frame(4, 0)].concat();
        assert_eq!(frames.check(&bytes, 1), Err((Flood::Frames, Some(9))), "the place behind what is in order");

        let mut frames = Frames::new(0);
        frames.check(&[0; 24], 0).unwrap();
        for _ in 0..limits::HTTP2_RESETS {
            frames.check(&[frame(1, 5), frame(3, 0)].concat(), 0).unwrap();
        }
        frames.earn(0, 1);
        frames.check(&frame(3, 0), 0).unwrap();
        assert_eq!(frames.check(&frame(3, 0), 0), Err((Flood::Resets, Some(0))));

        // The header of a frame may come in two pieces; then there is no place before it.
        let mut frames = Frames::new(0);
        frames.check(&[0; 24], 0).unwrap();
        (0..limits::HTTP2_CONTROL_FRAMES).for_each(|_| frames.check(&frame(0, 0), 0).unwrap());
        frames.check(&frame(9, 4)[..5], 0).unwrap();
        assert_eq!(frames.check(&frame(9, 4)[5..], 0), Err((Flood::Frames, None)));
    }
}
