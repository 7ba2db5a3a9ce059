//! The serialised form of a header map: `u32 count`, then `count` × (`u32` name length, `u32` value
//! length), then for each pair the name, a zero byte, the value and a zero byte. Little-endian.
//!
//! Pure functions over byte slices. What comes from a plugin is hostile: nothing here allocates, and
//! [`decode`] checks every length before it hands out a slice.

use thiserror::Error;

/// Most bytes of a map from a plugin (as in proxy-wasm-cpp-host, limits.h).
const MAX_BYTES: usize = 1 << 20;
/// Most pairs of a map from a plugin (ibid.).
const MAX_PAIRS: usize = 1024;

/// One name and value.
pub(crate) type Pair<'a> = (&'a [u8], &'a [u8]);

/// Why a map from a plugin was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Malformed {
    #[error("the map has more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the map has more than {MAX_PAIRS} pairs")]
    TooMany,
    #[error("the map ends before what its lengths promise")]
    Truncated,
    #[error("a name or value does not end with a zero byte")]
    Unterminated,
}

/// Bytes that [`encode`] needs for these pairs.
pub(crate) fn encoded_len<'a>(pairs: impl Iterator<Item = Pair<'a>>) -> usize {
    pairs.fold(4, |sum, (name, value)| sum + 8 + name.len() + 1 + value.len() + 1)
}

/// Writes the pairs that `pairs` iterates over, the same ones every time, into `out`. It must have
/// exactly [`encoded_len`] bytes; with any other length what does not fit is left out.
pub(crate) fn encode<'a, I: Iterator<Item = Pair<'a>>>(pairs: impl Fn() -> I, out: &mut [u8]) {
    let mut writer = Writer { out };
    writer.put(&u32_len(pairs().count()));
    for (name, value) in pairs() {
        writer.put(&u32_len(name.len()));
        writer.put(&u32_len(value.len()));
    }
    for (name, value) in pairs() {
        writer.put(name);
        writer.put(&[0]);
        writer.put(value);
        writer.put(&[0]);
    }
}

fn u32_len(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

struct Writer<'a> {
    out: &'a mut [u8],
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some((head, tail)) = std::mem::take(&mut self.out).split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            self.out = tail;
        }
    }
}

/// The pairs of a map that a plugin passed. No bytes at all are an empty map.
pub(crate) fn decode(map: &[u8]) -> Result<impl Iterator<Item = Pair<'_>>, Malformed> {
    if map.len() > MAX_BYTES {
        return Err(Malformed::TooLong);
    }
    let (count, rest) = if map.is_empty() { (0, map) } else { split_u32(map)? };
    if count > MAX_PAIRS {
        return Err(Malformed::TooMany);
    }
    let (lengths, data) = rest.split_at_checked(count * 8).ok_or(Malformed::Truncated)?;
    let pairs = Pairs { lengths, data };
    let mut check = pairs.clone();
    while !check.lengths.is_empty() {
        check.step()?;
    }
    Ok(pairs)
}

#[derive(Clone)]
struct Pairs<'a> {
    lengths: &'a [u8],
    data: &'a [u8],
}

impl<'a> Pairs<'a> {
    fn step(&mut self) -> Result<Pair<'a>, Malformed> {
        let (name_length, lengths) = split_u32(self.lengths)?;
        let (value_length, lengths) = split_u32(lengths)?;
        let (name, data) = split_terminated(self.data, name_length)?;
        let (value, data) = split_terminated(data, value_length)?;
        *self = Self { lengths, data };
        Ok((name, value))
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        self.step().ok()
    }
}

fn split_u32(bytes: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let (head, tail) = bytes.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
    let value = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| Malformed::TooLong)?;
    Ok((value, tail))
}

fn split_terminated(bytes: &[u8], length: usize) -> Result<(&[u8], &[u8]), Malformed> {
    let (head, tail) = bytes.split_at_checked(length).ok_or(Malformed::Truncated)?;
    match tail.split_first() {
        Some((0, tail)) => Ok((head, tail)),
        Some(_) => Err(Malformed::Unterminated),
        None => Err(Malformed::Truncated),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let pairs = || pairs.iter().map(|(name, value)| (&name[..], &value[..]));
        let mut out = vec![0xff; encoded_len(pairs())];
        encode(pairs, &mut out);
        out
    }

    #[test]
    fn the_layout_is_that_of_the_specification() {
        let map = encoded(&[(b"a".to_vec(), b"bc".to_vec()), (b"d".to_vec(), Vec::new())]);
        assert_eq!(map, b"\x02\0\0\0\x01\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0a\0bc\0d\0\0");
    }

    #[test]
    fn nothing_is_an_empty_map() {
        assert_eq!(decode(b"").unwrap().count(), 0);
        assert_eq!(decode(b"\0\0\0\0").unwrap().count(), 0);
    }

    #[test]
    fn lies_are_refused() {
        for (map, error) in [
            (&b"\0"[..], Malformed::Truncated),
            (b"\0\0\0\x80", Malformed::TooMany),
            (b"\x01\x04\0\0", Malformed::TooMany),
            (b"\x01\0\0\0", Malformed::Truncated),
            (b"\x01\0\0\0\xff\xff\xff\xff\0\0\0\0a\0\0", Malformed::Truncated),
            (b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0b", Malformed::Truncated),
            (b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a=b\0", Malformed::Unterminated),
        ] {
            assert_eq!(decode(map).map(Iterator::count), Err(error), "{map:?}");
        }
        assert_eq!(decode(&vec![0; MAX_BYTES + 1]).map(Iterator::count), Err(Malformed::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)), 0..20)
        ) {
            let map = encoded(&pairs);
            let decoded: Vec<_> = decode(&map).unwrap().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(decoded, pairs);
        }

        #[test]
        fn arbitrary_bytes_never_panic(map in prop::collection::vec(0u8..4, 0..64)) {
            if let Ok(pairs) = decode(&map) {
                prop_assert!(pairs.count() <= MAX_PAIRS);
            }
        }
    }
}
