//! The host of a request: exactly one, and a valid one (RFC 9112 3.2, RFC 9113 8.3.1).

use heads::{HeaderList, header};
use http::{HeaderValue, Version, uri::Authority};

use super::reply::Reply;

/// Exactly one valid host, in the list of fields. An absolute target and HTTP/2's `:authority` win over the
/// header, which must then agree or be absent in HTTP/2 (RFC 9112 3.2.2, RFC 9113 8.3.1).
pub(super) fn set(headers: &mut HeaderList, authority: Option<&Authority>, version: Version) -> Result<(), Box<Reply>> {
    let (first, second) = {
        let mut values = headers.get_all(&header::HOST);
        (values.next(), values.next())
    };
    if second.is_some() {
        return Err(Reply::bad_request("http1.codec_error"));
    }
    if let Some(authority) = authority {
        // An absolute target is no reason to leave it out (RFC 9112 3.2).
        if first.is_none() && version == Version::HTTP_11 {
            return Err(Reply::bad_request("missing_host_header"));
        }
        let name = authority.as_str();
        if version == Version::HTTP_2
            && first.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
        {
            return Err(Reply::bad_request("http2.conflicting_host"));
        }
        if first.is_none_or(|host| host.as_bytes() != name.as_bytes()) {
            let value = HeaderValue::try_from(name).map_err(|_| Reply::bad_request("invalid_host"))?;
            headers.insert(&header::HOST, value);
        }
    }
    match headers.get(&header::HOST) {
        None => Err(Reply::bad_request("missing_host_header")),
        Some(host) if is_authority(host.as_bytes()) => Ok(()),
        Some(_) => Err(Reply::bad_request("invalid_host")),
    }
}

/// `host [ ":" port ]` without user information (RFC 3986 3.2). Names are as long as DNS allows, and nothing in them is
/// escaped: who does not decode it sees another host.
fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, behind) = rest.split_at(end);
            let valid = str::from_utf8(address).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok());
            match (valid, &behind[1..]) {
                (true, []) => return true,
                (true, [b':', port @ ..]) => (b"v6".as_slice(), port),
                _ => return false,
            }
        }
        _ => match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, b"".as_slice()),
        },
    };
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte);
    !host.is_empty() && host.len() <= 255 && host.iter().all(name) && (port.is_empty() || is_port(port))
}

fn is_port(digits: &[u8]) -> bool {
    let number = |number: u32, digit: &u8| digit.is_ascii_digit().then(|| number * 10 + u32::from(*digit - b'0'));
    digits.len() <= 5 && digits.iter().try_fold(0, number).is_some_and(|number| number <= u32::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn hosts_are_checked() {
        for host in ["a", "a.example.com", "a:80", "1.2.3.4:8080", "[::1]", "[2001:db8::1]:443", "a_b"] {
            assert!(is_authority(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "a b",
            "a@b",
            "a,b",
            "a/b",
            "a:80x",
            "a:123456",
            "a:65536",
            "a%2eb",
            "[::1",
            "[x]",
            "[::1]x",
            "a:1:2",
            "[fe80::1%25eth0]",
            "a\u{e9}",
        ] {
            assert!(!is_authority(host.as_bytes()), "{host}");
        }
        assert!(!is_authority("a".repeat(256).as_bytes()));
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderList {
        let mut map = HeaderList::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn one_host_and_only_one() {
        let http1 = |pairs: &[(&'static str, &'static str)], authority: Option<&'static str>| {
            let mut headers = map(pairs);
            let authority = authority.map(Authority::from_static);
            set(&mut headers, authority.as_ref(), Version::HTTP_11)
                .map(|()| headers[&header::HOST].to_str().unwrap().to_owned())
                .ok()
        };
        assert_eq!(http1(&[("host", "a.com")], None).unwrap(), "a.com");
        assert_eq!(http1(&[("host", "a.com")], Some("b.com:1")).unwrap(), "b.com:1");
        assert_eq!(http1(&[], None), None);
        assert_eq!(http1(&[], Some("b.com")), None);
        assert_eq!(http1(&[("host", "a"), ("host", "a")], None), None);
        assert_eq!(http1(&[("host", "")], None), None);
        let mut headers = map(&[("host", "b.com")]);
        assert!(set(&mut headers, Some(&Authority::from_static("a.com")), Version::HTTP_2).is_err());
        let mut headers = HeaderList::new();
        assert!(set(&mut headers, Some(&Authority::from_static("a.com")), Version::HTTP_2).is_ok());
        assert_eq!(headers[&header::HOST], "a.com");
    }
}
