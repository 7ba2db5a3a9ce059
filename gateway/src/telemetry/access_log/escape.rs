//! Bytes that somebody else chose, made harmless for a line of text and for a JSON string.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// How much of one value is shown.
const MAX_VALUE: usize = 16 * 1024;
/// What follows a value that was cut.
const CUT: &[u8] = b"...";

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends `value` for a text line: everything but printable ASCII becomes `\xHH`, and so do `"` and `\`, so that
/// quotes always close and the original can be told (nginx's `escape=default`). Spaces are escaped too where they
/// separate columns.
pub(super) fn text(value: &[u8], keep_spaces: bool, out: &mut Vec<u8>) {
    let first_plain = if keep_spaces { b' ' } else { b'!' };
    let (value, cut) = limited(value);
    let begin = out.len();
    if !append(value, first_plain, out) {
        out.truncate(begin);
        for byte in value {
            if is_plain(*byte, first_plain) {
                out.push(*byte);
            } else {
                out.extend_from_slice(b"\\x");
                hex(*byte, out);
            }
        }
    }
    out.extend_from_slice(cut);
}

/// Appends `value` as a JSON string with its quotes. UTF-8 stays as it is, but control characters (also U+007F to
/// U+009F) and line separators become `\uXXXX`. A byte that is not UTF-8 becomes the four characters `\xHH`
/// (in JSON: `\\xHH`), because JSON has no bytes and the replacement character would not tell which it was.
pub(super) fn json(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    json_part(value, out);
    out.push(b'"');
}

/// A part of a JSON string: [`json`] without the quotes.
pub(super) fn json_part(value: &[u8], out: &mut Vec<u8>) {
    let (value, cut) = limited(value);
    let begin = out.len();
    if !append(value, b' ', out) {
        out.truncate(begin);
        for chunk in value.utf8_chunks() {
            chunk.valid().chars().for_each(|character| json_character(character, out));
            for byte in chunk.invalid() {
                out.extend_from_slice(b"\\\\x");
                hex(*byte, out);
            }
        }
    }
    out.extend_from_slice(cut);
}

/// Appends `value` as protobuf's JSON writes a message of bytes: Envoy's form for what plugins have set.
pub(super) fn typed(value: &[u8], out: &mut Vec<u8>) {
    let (value, cut) = limited(value);
    out.extend_from_slice(br#"{"@type":"type.googleapis.com/google.protobuf.BytesValue","value":""#);
    out.extend_from_slice(STANDARD.encode(value).as_bytes());
    out.extend_from_slice(cut);
    out.extend_from_slice(br#""}"#);
}

fn json_character(character: char, out: &mut Vec<u8>) {
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        character if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => {
            out.extend_from_slice(b"\\u");
            for byte in (character as u16).to_be_bytes() {
                hex(byte, out);
            }
        }
        character => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Whether a byte may stand as it is: printable ASCII from `first` on, except what ends or escapes a string.
fn is_plain(byte: u8, first: u8) -> bool {
    (first..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\')
}

/// As [`is_plain`], for eight bytes at once. In each byte, the upper bit of the difference tells whether it is smaller than
/// what was subtracted; what one byte borrows from the next makes a difference only if it is not plain itself.
/// (Anderson, "Bit Twiddling Hacks": "Determine if a word has a byte less than n".)
fn all_plain(bytes: [u8; 8], first: u8) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const UPPER: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(bytes);
    let has_less = |word: u64, than: u8| word.wrapping_sub(EACH * u64::from(than)) & !word;
    let has = |byte: u8| has_less(word ^ (EACH * u64::from(byte)), 1);
    (word | has_less(word, first) | has(b'"') | has(b'\\') | has(0x7f)) & UPPER == 0
}

/// Appends `value` as it is, and says whether it may stand so. Nearly every value may, and nearly every one is short, so
/// it is looked at and copied in one go, in pieces of a length that the compiler knows: that saves a call to copy a few
/// bytes and a loop over each of them. The last piece overlaps with the one before.
#[inline(always)]
fn append(value: &[u8], first: u8, out: &mut Vec<u8>) -> bool {
    out.reserve(value.len());
    let Some(last) = value.last_chunk::<8>() else {
        out.extend_from_slice(value);
        return value.iter().fold(true, |all, byte| all & is_plain(*byte, first));
    };
    let end = out.len() + value.len();
    let mut plain = all_plain(*last, first);
    for piece in value.as_chunks::<8>().0 {
        out.extend_from_slice(piece);
        plain &= all_plain(*piece, first);
    }
    out.truncate(end - last.len());
    out.extend_from_slice(last);
    plain
}

fn limited(value: &[u8]) -> (&[u8], &'static [u8]) {
    match value.split_at_checked(MAX_VALUE) {
        Some((shown, rest)) if !rest.is_empty() => (shown, CUT),
        _ => (value, b""),
    }
}

fn hex(byte: u8, out: &mut Vec<u8>) {
    for nibble in [byte >> 4, byte & 15] {
        out.extend(HEX.get(usize::from(nibble)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn as_text(value: &[u8], keep_spaces: bool) -> String {
        let mut out = Vec::new();
        text(value, keep_spaces, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn as_json(value: &[u8]) -> String {
        let mut out = Vec::new();
        json(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn hostile_values() {
        assert_eq!(as_text(b"curl/8 (x)", true), "curl/8 (x)");
        assert_eq!(as_text(b"a b", false), "a\\x20b");
        assert_eq!(as_text(b"\"\\\r\n\x1b[31m\xff\xc3\xa9", true), "\\x22\\x5C\\x0D\\x0A\\x1B[31m\\xFF\\xC3\\xA9");
        assert_eq!(as_json(b"\"\\\r\n\t\x1b"), r#""\"\\\r\n\t\u001B""#);
        assert_eq!(as_json("é\u{9b}\u{2028}\u{7f}😀".as_bytes()), "\"é\\u009B\\u2028\\u007F😀\"");
        assert_eq!(as_json(b"a\xffb"), r#""a\\xFFb""#);
    }

    #[test]
    fn long_values_are_cut() {
        let long = vec![b'a'; MAX_VALUE + 1];
        assert_eq!(as_text(&long, true).len(), MAX_VALUE + CUT.len());
        assert!(as_json(&long).ends_with("aaa...\""));
        assert!(as_text(&long[1..], true).ends_with("aaa"));
        // A character that is cut in half is no reason for invalid UTF-8.
        let halved = [vec![b'a'; MAX_VALUE - 1], "é".into()].concat();
        assert!(as_json(&halved).ends_with("a\\\\xC3...\""));
    }

    #[test]
    fn eight_bytes_are_plain_if_each_is() {
        for first in [b' ', b'!'] {
            for byte in 0..=255 {
                for at in 0..8 {
                    for around in [b'a', b'!', b'~', b'#', b'[', b']', b'"', 0, 0x80] {
                        let mut bytes = [around; 8];
                        bytes[at] = byte;
                        let each = bytes.iter().all(|byte| is_plain(*byte, first));
                        assert_eq!(all_plain(bytes, first), each, "{bytes:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn values_of_every_length_are_appended() {
        let all: Vec<u8> = (0..100).map(|n| b'!' + n % 0x40 + n % 7).filter(|byte| is_plain(*byte, b'!')).collect();
        for length in 0..all.len() {
            let value = &all[..length];
            let mut out = b"before".to_vec();
            assert!(append(value, b'!', &mut out));
            assert_eq!(out, [b"before", value].concat());
            for at in 0..length {
                let mut other = value.to_vec();
                other[at] = b'"';
                assert!(!append(&other, b'!', &mut out), "{length} {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn text_is_printable_and_can_be_undone(value in prop::collection::vec(any::<u8>(), 0..200), keep in any::<bool>()) {
            let shown = as_text(&value, keep);
            prop_assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"'));
            prop_assert!(keep || !shown.contains(' '));
            let mut pieces = shown.split('\\');
            let mut undone = pieces.next().unwrap().as_bytes().to_vec();
            for piece in pieces {
                undone.push(u8::from_str_radix(&piece[1..3], 16).unwrap());
                undone.extend_from_slice(&piece.as_bytes()[3..]);
            }
            prop_assert_eq!(undone, value);
        }

        #[test]
        fn json_is_what_a_parser_reads_back(value in any::<String>()) {
            prop_assert_eq!(serde_json::from_str::<String>(&as_json(value.as_bytes())).unwrap(), value);
        }

        #[test]
        fn json_of_any_bytes_is_valid_and_one_line(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let shown = as_json(&value);
            prop_assert!(serde_json::from_str::<String>(&shown).is_ok());
            prop_assert!(!shown.contains(char::is_control));
        }
    }
}
