//! The ABI's form of a header map: `u32 count`, then `count` times `u32` length of name and value, then each name and
//! value followed by a zero byte; all little-endian (proxy-wasm specification v0.2.1, "serialized map").

use crate::host::Pairs;

/// Writes a map.
pub(crate) fn encode(headers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let sizes = headers.iter().map(|(name, value)| name.len() + value.len() + 10);
    let mut bytes = Vec::with_capacity(4 + sizes.sum::<usize>());
    // Lengths fit: the memory of a plugin is addressed with 32 bits.
    bytes.extend((headers.len() as u32).to_le_bytes());
    for (name, value) in headers {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in headers {
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(value);
        bytes.push(0);
    }
    bytes
}

/// Reads a map; `None` if it is malformed. No bytes at all are the empty map.
pub(crate) fn decode(bytes: &[u8]) -> Option<Pairs> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let count = number(bytes, 0)?;
    let mut at = count.checked_mul(8)?.checked_add(4)?;
    let mut headers = Vec::with_capacity(count.min(bytes.len() / 10 + 1));
    for index in 0..count {
        let mut part = |length_at| {
            let end = at.checked_add(number(bytes, length_at)?)?;
            let text = bytes.get(at..end)?.to_vec();
            at = end.checked_add(1)?;
            Some(text)
        };
        let name = part(4 + index * 8)?;
        let value = part(8 + index * 8)?;
        headers.push((name, value));
    }
    Some(headers)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_survive_the_round_trip() {
        let map = vec![(":path".to_owned(), b"/".to_vec()), ("x".to_owned(), vec![]), ("x".to_owned(), vec![0xff, 0])];
        let decoded = decode(&encode(&map)).unwrap_or_default();
        let expected: Vec<_> = map.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        assert_eq!(decoded, expected);
        assert_eq!(decode(&encode(&[])), Some(vec![]));
        assert_eq!(decode(&[]), Some(vec![]));
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let bytes = encode(&[("ab".to_owned(), b"c".to_vec())]);
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'a', b'b', 0, b'c', 0]);
    }

    #[test]
    fn malformed_maps_are_refused_without_a_panic() {
        let whole = encode(&[("name".to_owned(), b"value".to_vec()), ("a".to_owned(), b"b".to_vec())]);
        for cut in 1..whole.len() - 1 {
            assert_eq!(decode(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(decode(&[0xff; 64]), None);
    }
}
