//! The PROXY protocol, versions 1 and 2: what a load balancer that passes bytes on says first about its client
//! (`gatewayTopology.proxyProtocol`; the format is haproxy's doc/proxy-protocol.txt).
//!
//! Where it is wanted it is required: whoever could leave it out could also choose what it says. Exactly the header is
//! read and nothing behind it, so TLS and HTTP do not know of it. Nothing in a header is believed that is not used, and
//! what is not used (TLVs) is skipped by its length alone.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::limits;

const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, with its line end.
const V1_BYTES: usize = 107;
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
/// The longest pair of addresses of version 2 that is read (IPv6); of Unix sockets nothing is.
const V2_ADDRESS_BYTES: usize = 36;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing: the balancer speaks for itself (a health check), or its client has no address that we know.
    Nothing,
    /// The client, and where it connected to.
    Addresses { client: SocketAddr, destination: SocketAddr },
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it does not begin with a PROXY protocol header: {0}")]
    Malformed(&'static str),
    #[error("its PROXY protocol header is longer than {} bytes", limits::PROXY_HEADER_BYTES)]
    TooLarge,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header of a fresh connection.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Said, Refused> {
    let mut header = [0; V1_BYTES];
    let mut len = 0;
    loop {
        let room = header.get_mut(len..).unwrap_or_default();
        // Only looked at: what follows the header is not ours.
        let seen = stream.peek(room).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let parsed = parse(header.get(..len + seen).unwrap_or_default())?;
        let ours = match &parsed {
            Parsed::Incomplete => seen,
            Parsed::Complete { bytes, .. } => bytes.saturating_sub(len).min(seen),
        };
        stream.read_exact(header.get_mut(len..len + ours).unwrap_or_default()).await?;
        len += ours;
        if let Parsed::Complete { said, bytes } = parsed {
            skip(stream, bytes.saturating_sub(len)).await?;
            return Ok(said);
        }
    }
}

/// Reads bytes that say nothing to us.
async fn skip(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let mut left = bytes as u64;
    while left > 0 {
        let read = tokio::io::copy(&mut (&mut *stream).take(left), &mut tokio::io::sink()).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read.min(left);
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// So far it is a header, and all of the bytes belong to it.
    Incomplete,
    /// `bytes` is the length of the header, which may be more than there is: the rest says nothing to us.
    Complete { said: Said, bytes: usize },
}

fn parse(bytes: &[u8]) -> Result<Parsed, Refused> {
    let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
    if begins(V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins(V1_PREFIX) {
        parse_v1(bytes)
    } else {
        Err(Refused::Malformed("neither version's first bytes"))
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 1024 80\r\n`
fn parse_v1(bytes: &[u8]) -> Result<Parsed, Refused> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < V1_BYTES { Ok(Parsed::Incomplete) } else { Err(Refused::TooLarge) };
    };
    let line = bytes.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Refused::Malformed("no CR LF"))?;
    let line = str::from_utf8(line).map_err(|_| Refused::Malformed("not text"))?;
    let mut words = line.split(' ').skip(1);
    let said = match words.next() {
        // Whatever else it says.
        Some("UNKNOWN") => Said::Nothing,
        Some("TCP4") => addresses::<Ipv4Addr>(words)?,
        Some("TCP6") => addresses::<Ipv6Addr>(words)?,
        _ => return Err(Refused::Malformed("an unknown protocol")),
    };
    Ok(Parsed::Complete { said, bytes: end + 1 })
}

fn addresses<'a, A>(mut words: impl Iterator<Item = &'a str>) -> Result<Said, Refused>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut address = || words.next()?.parse::<A>().ok().map(Into::into);
    let (client, destination) = (address(), address());
    let mut port = || port(words.next()?);
    let (from, to) = (port(), port());
    match (client, destination, from, to, words.next()) {
        (Some(client), Some(destination), Some(from), Some(to), None) => {
            Ok(Said::Addresses { client: SocketAddr::new(client, from), destination: SocketAddr::new(destination, to) })
        }
        _ => Err(Refused::Malformed("not two addresses and two ports")),
    }
}

/// A port as it is written: digits, without a zero in front.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, Refused> {
    let (Some(&[command, family]), Some(&[high, low])) = (bytes.get(12..14), bytes.get(14..16)) else {
        return Ok(Parsed::Incomplete);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if V2_FIXED_BYTES + len > limits::PROXY_HEADER_BYTES {
        return Err(Refused::TooLarge);
    }
    let bytes_of_header = V2_FIXED_BYTES + len;
    let nothing = Ok(Parsed::Complete { said: Said::Nothing, bytes: bytes_of_header });
    match command {
        // LOCAL: whatever else it says.
        0x20 => return nothing,
        // PROXY
        0x21 => {}
        _ => return Err(Refused::Malformed("an unknown version or command")),
    }
    let needed = match family {
        // Unspecified, and Unix sockets.
        0x00 | 0x31 | 0x32 => return nothing,
        0x11 => 12,
        0x21 => V2_ADDRESS_BYTES,
        _ => return Err(Refused::Malformed("an unknown protocol")),
    };
    if len < needed {
        return Err(Refused::Malformed("shorter than its addresses"));
    }
    let Some(block) = bytes.get(V2_FIXED_BYTES..V2_FIXED_BYTES + needed) else { return Ok(Parsed::Incomplete) };
    let said = if family == 0x11 { addresses_v4(block) } else { addresses_v6(block) };
    let said = said.ok_or(Refused::Malformed("shorter than its addresses"))?;
    Ok(Parsed::Complete { said, bytes: bytes_of_header })
}

fn addresses_v4(block: &[u8]) -> Option<Said> {
    let (client, rest) = block.split_first_chunk::<4>()?;
    let (destination, ports) = rest.split_first_chunk::<4>()?;
    with_ports(Ipv4Addr::from(*client).into(), Ipv4Addr::from(*destination).into(), ports)
}

fn addresses_v6(block: &[u8]) -> Option<Said> {
    let (client, rest) = block.split_first_chunk::<16>()?;
    let (destination, ports) = rest.split_first_chunk::<16>()?;
    with_ports(Ipv6Addr::from(*client).into(), Ipv6Addr::from(*destination).into(), ports)
}

fn with_ports(client: IpAddr, destination: IpAddr, ports: &[u8]) -> Option<Said> {
    let &[a, b, c, d] = ports else { return None };
    Some(Said::Addresses {
        client: SocketAddr::new(client, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn said(bytes: &[u8]) -> Option<(Said, usize)> {
        match parse(bytes) {
            Ok(Parsed::Complete { said, bytes }) => Some((said, bytes)),
            Ok(Parsed::Incomplete) | Err(_) => None,
        }
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let len = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &len, block].concat()
    }

    fn written(client: SocketAddr, destination: SocketAddr) -> (String, Vec<u8>) {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let v4 = client.is_ipv4();
        let ports = [client.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
        let block = [octets(client.ip()), octets(destination.ip()), ports].concat();
        let text = format!(
            "PROXY {} {} {} {} {}\r\n",
            if v4 { "TCP4" } else { "TCP6" },
            client.ip(),
            destination.ip(),
            client.port(),
            destination.port()
        );
        (text, v2(0x21, if v4 { 0x11 } else { 0x21 }, &block))
    }

    #[test]
    fn headers_that_say_nothing() {
        assert_eq!(said(b"PROXY UNKNOWN\r\nGET"), Some((Said::Nothing, 15)));
        assert_eq!(said(b"PROXY UNKNOWN ffff::1 x y z\r\n"), Some((Said::Nothing, 29)));
        for header in [v2(0x20, 0x00, b""), v2(0x20, 0x11, b"xx"), v2(0x21, 0x00, b"tlv"), v2(0x21, 0x31, &[7; 216])] {
            assert_eq!(said(&header), Some((Said::Nothing, header.len())));
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
            "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY \r\n",
            "PROXY\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(&[b"PROXY ".as_slice(), &[b'x'; 101]].concat()).is_err());
        for bad in [
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x21, 0x41, &[0; 12]),
            v2(0x21, 0x11, &vec![0; limits::PROXY_HEADER_BYTES]),
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tlvs_belong_to_the_header_and_are_not_read() {
        let (_, plain) = written("192.0.2.1:1024".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let with_tlvs = v2(0x21, 0x11, &[&plain[16..], &[4, 0xff, 0xff, 1]].concat());
        let (said_plain, _) = said(&plain).unwrap();
        assert_eq!(said(&with_tlvs), Some((said_plain, plain.len() + 4)));
        // Also while they are still to come.
        assert_eq!(said(&with_tlvs[..plain.len()]), Some((said_plain, plain.len() + 4)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(client: u32, destination: u32, six: (u128, u128), ports: (u16, u16), split: usize) {
            let v4 = |ip: u32, port| SocketAddr::new(Ipv4Addr::from(ip).into(), port);
            let v6 = |ip: u128, port| SocketAddr::new(Ipv6Addr::from(ip).into(), port);
            for (client, destination) in
                [(v4(client, ports.0), v4(destination, ports.1)), (v6(six.0, ports.0), v6(six.1, ports.1))]
            {
                let (text, binary) = written(client, destination);
                for header in [text.into_bytes(), binary] {
                    let expected = Some((Said::Addresses { client, destination }, header.len()));
                    let more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
                    prop_assert_eq!(said(&more), expected);
                    let part = split % header.len();
                    prop_assert_eq!(parse(&header[..part]).unwrap(), Parsed::Incomplete);
                }
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>, command: u8, family: u8, len: u16) {
            let _ = parse(&bytes);
            let _ = parse(&[V1_PREFIX, &bytes].concat());
            let fixed = [&V2_SIGNATURE[..], &[command, family], &len.to_be_bytes(), &bytes].concat();
            if let Ok(Parsed::Complete { bytes, .. }) = parse(&fixed) {
                prop_assert!(bytes <= limits::PROXY_HEADER_BYTES);
            }
        }
    }
}
