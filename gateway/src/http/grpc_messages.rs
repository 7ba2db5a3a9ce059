//! Counts gRPC messages in a body without keeping any of it.
//!
//! A message is a flag, its length in four bytes, and so many bytes (gRPC over HTTP/2, "Length-Prefixed-Message"); a
//! body may be cut anywhere. A body that is something else counts something meaningless and harms nothing.

/// Bytes before a message.
const PREFIX: u8 = 5;

/// A place in a body.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GrpcMessages {
    /// Messages that have begun.
    count: u64,
    /// Bytes of the message that are still to come.
    left: u32,
    /// Bytes of the prefix that have come.
    prefix: u8,
}

impl GrpcMessages {
    /// Messages whose prefix is complete.
    pub(super) fn count(self) -> u64 {
        self.count
    }

    /// The next bytes of the body.
    pub(super) fn feed(&mut self, mut data: &[u8]) {
        loop {
            // While the prefix is incomplete, `left` is as much of the length as has come.
            if self.prefix == 0 {
                let skipped = data.len().min(self.left as usize);
                self.left -= skipped as u32;
                data = data.get(skipped..).unwrap_or_default();
            }
            let Some((byte, rest)) = data.split_first() else { return };
            if self.prefix > 0 {
                self.left = self.left << 8 | u32::from(*byte);
            }
            data = rest;
            self.prefix += 1;
            if self.prefix == PREFIX {
                self.prefix = 0;
                self.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(messages: &[Vec<u8>]) -> Vec<u8> {
        let one = |message: &Vec<u8>| [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        messages.iter().flat_map(one).collect()
    }

    #[test]
    fn empty_messages_and_incomplete_ones() {
        let mut messages = GrpcMessages::default();
        messages.feed(&body(&[vec![], vec![], vec![1, 2, 3]]));
        assert_eq!(messages.count(), 3);
        messages.feed(&[0, 0, 0, 0]);
        assert_eq!(messages.count(), 3);
        messages.feed(&[9]);
        messages.feed(&[0; 8]);
        assert_eq!(messages.count(), 4);
        let mut huge = GrpcMessages::default();
        huge.feed(&[0, 255, 255, 255, 255]);
        huge.feed(&[0; 1000]);
        assert_eq!(huge.count(), 1);
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            pieces in prop::collection::vec(1_usize..50, 1..50),
        ) {
            let body = body(&messages);
            let mut counted = GrpcMessages::default();
            let mut rest = &body[..];
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*piece));
                counted.feed(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(counted.count(), messages.len() as u64);
        }
    }
}
