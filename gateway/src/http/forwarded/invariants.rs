//! What holds for forwarding headers, whatever a client sends: for property tests here and for the fuzzer in
//! `tests/fuzz`.

use std::net::{IpAddr, Ipv6Addr};

use heads::HeaderList;
use http::HeaderValue;

use super::{X_FORWARDED_FOR, X_FORWARDED_PROTO, append_peer, client, proto};

const PEER: &str = "192.0.2.9";

/// Reads and sets headers. The first byte says how many proxies are trusted; the rest are lines of `x-forwarded-for`, or
/// of `x-forwarded-proto` if they begin with `p`.
///
/// # Panics
/// The entry is not the one that is meant, counted from the right; it depends on what stands left of it; or something of
/// the chain is lost.
pub(crate) fn check(bytes: &[u8]) {
    let Some((trusted, lines)) = bytes.split_first() else { return };
    let trusted = u32::from(*trusted % 8) + 1;
    let mut headers = HeaderList::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let (name, line) = match line {
            [b'p', rest @ ..] => (&X_FORWARDED_PROTO, rest),
            _ => (&X_FORWARDED_FOR, line),
        };
        let Ok(value) = HeaderValue::from_bytes(line) else { continue };
        headers.append(name, value);
    }
    let entries = entries(&headers);

    let found = client(&headers, trusted);
    let place = entries.len().checked_sub(trusted as usize);
    let entry = place.and_then(|place| str::from_utf8(&entries[place]).ok()?.trim_ascii().parse::<IpAddr>().ok());
    assert_eq!(found, entry.map(|address| address.to_canonical()));
    if let Some(IpAddr::V6(address)) = found {
        assert_eq!(Ipv6Addr::to_ipv4_mapped(&address), None, "one address has one form");
    }

    // What a client makes up stands on the left of what proxies have seen.
    let mut forged = HeaderList::new();
    forged.append(&X_FORWARDED_FOR, HeaderValue::from_static("198.51.100.1, 198.51.100.2"));
    for value in headers.get_all(&X_FORWARDED_FOR) {
        forged.append(&X_FORWARDED_FOR, value.clone());
    }
    if place.is_some() {
        assert_eq!(client(&forged, trusted), found);
    }

    match proto(&headers) {
        Some(scheme) => {
            let values: Vec<_> = headers.get_all(&X_FORWARDED_PROTO).collect();
            assert!(values.len() == 1 && values[0].as_bytes().eq_ignore_ascii_case(scheme.as_str().as_bytes()));
        }
        None => assert!(headers.get_all(&X_FORWARDED_PROTO).count() != 1 || !is_scheme(&headers)),
    }

    append_peer(&mut headers, &HeaderValue::from_static(PEER));
    assert_eq!(headers.get_all(&X_FORWARDED_FOR).count(), 1);
    let after = self::entries(&headers);
    assert_eq!(after.split_last(), Some((&PEER.as_bytes().to_vec(), &*entries)));
    assert_eq!(client(&headers, 1).map(|address| address.to_string()).as_deref(), Some(PEER));
    assert_eq!(client(&headers, trusted + 1), found, "one proxy more, one entry more");
}

fn is_scheme(headers: &HeaderList) -> bool {
    let value = headers.get(&X_FORWARDED_PROTO).map(HeaderValue::as_bytes).unwrap_or_default();
    value.eq_ignore_ascii_case(b"http") || value.eq_ignore_ascii_case(b"https")
}

/// The whole chain, in order.
fn entries(headers: &HeaderList) -> Vec<Vec<u8>> {
    let lines = headers.get_all(&X_FORWARDED_FOR);
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn proxies_are_counted_from_the_right(
            trusted in any::<u8>(),
            lines in prop::collection::vec(
                "(p(http|https|HTTP|x,y)|(1\\.1\\.1\\.1|::ffff:1\\.2\\.3\\.4|2001:db8::1|x|)(, ?(2\\.2\\.2\\.2|\"|y)){0,3})",
                0..5,
            ),
        ) {
            check(&[&[trusted][..], lines.join("\n").as_bytes()].concat());
        }
    }
}
