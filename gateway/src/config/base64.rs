//! Base64 (RFC 4648, section 4), for the `bytes` of a fixed response.

/// Decodes text with padding; `None` if it is malformed. The URL alphabet is accepted too, as by protobuf's JSON.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end();
    let bare = text.trim_end_matches('=');
    let padded = text.len() - bare.len();
    if bare.len() % 4 == 1 || (padded > 0 && !text.len().is_multiple_of(4)) || padded > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(bare.len() * 3 / 4);
    let mut bits = 0_u32;
    let mut count = 0;
    for byte in bare.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4648_vectors() {
        for (text, plain) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob"), ("Zm9vYmFy\n", "foobar")]
        {
            assert_eq!(decode(text).as_deref(), Some(plain.as_bytes()), "{text}");
        }
        for bad in ["Z", "Zg=", "Zm9v====", "Zm9*", "Z===", "Zm 9v"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode("-_+/"), Some(vec![0xfb, 0xff, 0xbf]));
    }
}
