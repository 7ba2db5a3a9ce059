//! What a client's HTTP/2 frames cost, for floods that cost the client little and us much.
//!
//! Two accounts. A control frame costs one from the first; new streams, data either way and time earn some back, so
//! that what a client has to send for its requests is never too much. A reset stream costs one from the second; answers
//! that were sent and time earn some back. What is in the frames is h2's business, and so are the limits that need it
//! (sizes, streams at once, CONTINUATION, tiny DATA).

use super::limits;
use crate::net::frames::{Account, END_HEADERS, END_STREAM, Header, Walk, kind};

/// Follows the bytes of one connection, which begin with the preface.
#[derive(Debug)]
pub(crate) struct Frames {
    walk: Walk,
    counts: Counts,
}

#[derive(Debug)]
struct Counts {
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

const PREFACE: u64 = 24;

impl Frames {
    /// Begins with the preface. `now` is a time in ticks of the worker's clock.
    pub(crate) fn new(now: u64) -> Self {
        Self {
            walk: Walk::new(PREFACE),
            counts: Counts {
                frames: Account::new(limits::HTTP2_CONTROL_FRAMES, now),
                resets: Account::new(limits::HTTP2_RESETS, now),
                streams: 0,
                open_head: false,
            },
        }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// The client floods the connection; with it the place behind the last frame that was in order, if that is within
    /// these bytes.
    pub(crate) fn check(&mut self, bytes: &[u8], now: u64) -> Result<(), (Flood, Option<usize>)> {
        let Self { walk, counts } = self;
        walk.over(bytes, |header, begin| {
            counts.frame(header, now).map_err(|flood| (flood, begin.filter(|_| !counts.open_head)))
        })
    }

    /// Something was sent to the client: pieces of bodies, and whole answers.
    pub(crate) fn earn(&mut self, pieces: u32, answers: u32) {
        self.counts.frames.earn(pieces.saturating_mul(limits::HTTP2_FRAMES_PER_PIECE));
        self.counts.resets.earn(answers);
    }

    /// How many heads have begun.
    pub(crate) fn heads(&self) -> u64 {
        self.counts.streams
    }

    /// Whether a head has begun and not ended.
    pub(crate) fn is_in_head(&self) -> bool {
        self.counts.open_head
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

impl Counts {
    fn frame(&mut self, header: Header, now: u64) -> Result<(), Flood> {
        let costs = match header.kind {
            kind::DATA => {
                let empty = header.is_empty_data();
                if !empty {
                    self.frames.earn(1);
                }
                empty && header.flags & END_STREAM == 0
            }
            kind::HEADERS => {
                self.streams += 1;
                self.open_head = header.flags & END_HEADERS == 0;
                self.frames.earn(limits::HTTP2_FRAMES_PER_STREAM);
                false
            }
            kind::CONTINUATION => {
                self.open_head = header.flags & END_HEADERS == 0;
                true
            }
            kind::RST_STREAM if !self.resets.pay(now, limits::HTTP2_RESETS_PER_TICK) => return Err(Flood::Resets),
            _ => true,
        };
        if costs && !self.frames.pay(now, limits::HTTP2_FRAMES_PER_TICK) { Err(Flood::Frames) } else { Ok(()) }
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
