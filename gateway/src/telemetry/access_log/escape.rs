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
    if all_plain(value, first_plain) {
        out.extend_from_slice(value);
    } else {
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
    if all_plain(value, b' ') {
        out.extend_from_slice(value);
    } else {
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

/// Nearly every value is plain. A loop without a way out is one that the compiler makes 16 bytes wide; measured,
/// that takes a quarter off a JSON line.
fn all_plain(value: &[u8], first: u8) -> bool {
    value.iter().fold(true, |all, byte| all & is_plain(*byte, first))
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
