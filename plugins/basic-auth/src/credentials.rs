//! What a client sends: `Authorization: Basic` and the base64 of `user:password` (RFC 7617 section 2).

/// A user name and a password. Nothing says yet that they are right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Vec<u8>,
}

impl Credentials {
    /// Reads the value of the header; `None` if it is anything else than Basic credentials in UTF-8.
    pub(crate) fn parse(value: &[u8]) -> Option<Credentials> {
        let value = value.trim_ascii();
        let end = value.iter().position(|byte| *byte == b' ')?;
        let (scheme, token) = value.split_at_checked(end)?;
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let plain = base64(token.trim_ascii_start())?;
        let colon = plain.iter().position(|byte| *byte == b':')?;
        let (user, password) = plain.split_at_checked(colon)?;
        let user = std::str::from_utf8(user).ok()?.to_owned();
        let password = password.get(1..)?.to_vec();
        let text = std::str::from_utf8(&password).ok()?;
        let controls = user.chars().chain(text.chars()).any(char::is_control);
        (!controls).then_some(Credentials { user, password })
    }
}

/// Decodes base64 (RFC 4648 section 4), strictly: one text for one value.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    let digits = text.get(..text.len() - padding)?;
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut held) = (0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_examples_of_the_specification_are_read() {
        let read = |value: &str| {
            Credentials::parse(value.as_bytes()).map(|c| (c.user, String::from_utf8(c.password).unwrap()))
        };
        let aladdin = Some(("Aladdin".to_owned(), "open sesame".to_owned()));
        assert_eq!(read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), aladdin);
        assert_eq!(read("bASIC   QWxhZGRpbjpvcGVuIHNlc2FtZQ== "), aladdin);
        assert_eq!(read("Basic dGVzdDoxMjPCow=="), Some(("test".to_owned(), "123\u{a3}".to_owned())));
        assert_eq!(read("Basic YTpiOmM="), Some(("a".to_owned(), "b:c".to_owned())), "a password may have colons");
        assert_eq!(read("Basic Og=="), Some((String::new(), String::new())));
    }

    #[test]
    fn everything_else_is_nothing() {
        for value in [
            "",
            "Basic",
            "Basic ",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "BasicQWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            // Not base64: alphabet, length, padding, bits behind the end.
            "Basic YTpi_w==",
            "Basic YTpiY",
            "Basic YTpiY===",
            "Basic =YTp",
            "Basic YTo=YTo=",
            "Basic YTpiYx==",
            // No colon, control characters, not UTF-8.
            "Basic YWJj",
            "Basic YQo6Yg==",
            "Basic YTpiCg==",
            "Basic /zpi",
        ] {
            assert_eq!(Credentials::parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(Credentials::parse(&[0xff; 40]), None);
    }
}
