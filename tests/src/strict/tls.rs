//! Group F: TLS. What a client in clear text can get wrong, hellos that are made by hand, clients and services with
//! certificates that are not as they should be. Rows about time are tests of their own (`rows`).

use super::{Case, HOST, Shown};
use crate::server::Protocol::Http1;

/// The parts of a ClientHello that somebody wants otherwise.
struct Hello {
    /// Of the record, and of the message.
    versions: [u16; 2],
    /// What `supported_versions` offers; empty: there is no such extension.
    supported: Vec<u16>,
    suites: Vec<u16>,
    compression: Vec<u8>,
    /// Type and data of what comes besides.
    extensions: Vec<(u16, Vec<u8>)>,
}

const TLS13: u16 = 0x0304;
const TLS12: u16 = 0x0303;

impl Hello {
    /// One that is as it should be.
    fn right() -> Hello {
        Hello {
            versions: [0x0301, TLS12],
            supported: vec![TLS13, TLS12],
            suites: vec![0x1301, 0x1302, 0xc02b, 0xc02c],
            compression: vec![0],
            extensions: vec![name(HOST)],
        }
    }

    /// One for an older version.
    fn old(version: u16, suites: &[u16]) -> Hello {
        Hello {
            versions: [0x0301.min(version), version],
            supported: Vec::new(),
            suites: suites.to_vec(),
            ..Hello::right()
        }
    }

    fn with(mut self, kind: u16, data: Vec<u8>) -> Hello {
        self.extensions.push((kind, data));
        self
    }

    /// The message, without records around it.
    fn message(&self) -> Vec<u8> {
        let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        let key: Vec<_> = [&[0, 29][..], &long(&BASE_POINT)].concat();
        let mut extensions = vec![
            (10, long(&words(&[29, 23]))),
            (13, long(&words(&[0x0403, 0x0804, 0x0401, 0x0503]))),
            (51, long(&key)),
        ];
        if !self.supported.is_empty() {
            extensions.push((43, short(&words(&self.supported))));
        }
        extensions.extend(self.extensions.iter().cloned());
        let extensions: Vec<_> =
            extensions.iter().flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), long(data)].concat()).collect();
        let body = [
            self.versions[1].to_be_bytes().to_vec(),
            vec![7; 32],
            short(&[9; 32]),
            long(&words(&self.suites)),
            short(&self.compression),
            long(&extensions),
        ]
        .concat();
        let length = (body.len() as u32).to_be_bytes();
        [&[1, length[1], length[2], length[3]][..], &body].concat()
    }

    /// In records of at most so many bytes.
    fn in_records(&self, most: usize) -> Vec<u8> {
        self.message().chunks(most).flat_map(|piece| record(22, self.versions[0], piece)).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        self.in_records(1 << 14)
    }
}

/// A public key that everybody can compute with (RFC 7748 6.1).
const BASE_POINT: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 9;
    point
};

fn record(kind: u8, version: u16, data: &[u8]) -> Vec<u8> {
    [&[kind][..], &version.to_be_bytes(), &long(data)].concat()
}

fn short(data: &[u8]) -> Vec<u8> {
    [&[data.len() as u8][..], data].concat()
}

fn long(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u16).to_be_bytes()[..], data].concat()
}

fn name(host: &str) -> (u16, Vec<u8>) {
    (0, long(&[&[0][..], &long(host.as_bytes())].concat()))
}

fn named(host: &str) -> Hello {
    Hello { extensions: vec![name(host)], ..Hello::right() }
}

/// A request for one of the services that are spoken to over TLS; nothing reaches those in clear text.
fn secured(what: &str, name: &str) -> Case {
    let request = format!("GET /secured/{name} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    Case::http1("F-10", what, request).only(&[Http1]).gets("503, open")
}

pub(super) fn cases() -> Vec<Case> {
    let hello = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let sslv2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10].into_iter().chain([7; 0x25]).collect::<Vec<_>>();
    let fallback = Hello::old(0x0302, &[0xc009, 0x5600]);
    vec![
        Case::http1("F-9", "the beginning of a TLS handshake on a port in clear text", hello).gets("400, closed"),
        Case::into_tls("F-1", "SSL 2", sslv2).gets("alert decode_error, closed"),
        Case::into_tls("F-1", "SSL 3", Hello::old(0x0300, &[0x0035, 0xc009]).bytes())
            .gets("alert protocol_version, closed"),
        Case::into_tls("F-1", "TLS 1.0", Hello::old(0x0301, &[0xc009, 0xc00a]).bytes())
            .gets("alert protocol_version, closed"),
        Case::into_tls("F-1", "TLS 1.1", Hello::old(0x0302, &[0xc009, 0xc00a]).bytes())
            .gets("alert protocol_version, closed"),
        Case::into_tls("F-1", "TLS_FALLBACK_SCSV", fallback.bytes()).gets("alert protocol_version, closed"),
        Case::into_tls(
            "F-1",
            "NULL, EXPORT and RC4 only",
            Hello::old(TLS12, &[0x0002, 0x0003, 0x0005, 0xc006, 0xc007]).bytes(),
        )
        .gets("alert handshake_failure, closed"),
        Case::into_tls("F-1", "CBC only", Hello::old(TLS12, &[0xc009, 0xc00a, 0xc023, 0xc024]).bytes())
            .gets("alert handshake_failure, closed"),
        Case::into_tls("F-1", "TLS 1.3 with compression", Hello { compression: vec![0, 1], ..Hello::right() }.bytes())
            .gets("alert illegal_parameter, closed"),
        Case::into_tls("F-1", "no compression method at all", Hello { compression: vec![], ..Hello::right() }.bytes())
            .gets("alert decode_error, closed"),
        Case::into_tls("F-2", "as it should be", Hello::right().bytes()).gets("ServerHello"),
        Case::into_tls("F-2", "in records of a byte (CVE-2024-11738)", Hello::right().in_records(1))
            .gets("ServerHello"),
        Case::into_tls(
            "F-2",
            "GREASE",
            Hello { suites: vec![0x0a0a, 0x1301], ..Hello::right() }.with(0x1a1a, vec![0]).bytes(),
        )
        .gets("ServerHello")
        .because("nginx has no TLS 1.3 here, and no suite of TLS 1.2 is offered"),
        Case::into_tls("F-2", "an address as name", named("127.0.0.1").bytes()).gets("ServerHello"),
        Case::into_tls("F-2", "an empty name", named("").bytes()).gets("alert decode_error, closed"),
        Case::into_tls("F-2", "two names", Hello::right().with(0, name("b.example.dev").1).bytes())
            .gets("alert decode_error, closed"),
        Case::into_tls("F-2", "60 KB of extensions", Hello::right().with(0xff77, vec![0; 60_000]).bytes())
            .gets("closed"),
        Case::into_tls(
            "F-2",
            "10,000 extensions",
            (0..10_000).fold(Hello::right(), |hello, number| hello.with(0x4000 + number, Vec::new())).bytes(),
        )
        .gets("closed"),
        Case::into_tls("F-2", "more behind the hello", [Hello::right().bytes(), b"trailing junk".to_vec()].concat())
            .gets("ServerHello"),
        Case::into_tls("F-2", "a record that is too long", record(22, 0x0301, &[1; 20_000]))
            .gets("alert decode_error, closed"),
        Case::into_tls("F-2", "an empty record", record(22, 0x0301, &[])).gets("alert decode_error, closed"),
        Case::into_tls("F-2", "data instead of a hello", record(23, TLS12, b"data")).gets("closed"),
        Case::into_tls("F-2", "an alert instead of a hello", record(21, TLS12, &[2, 40])).gets("closed"),
        Case::into_tls("F-2", "HTTP/1.1 on a port for TLS", get).gets("alert decode_error, closed"),
        Case::shows("F-4", "a ticket of a server that lets everybody in (CVE-2025-23419)", Shown::Ticket),
        Case::shows("F-5", "a certificate that is right", Shown::Right).gets("200").reaches(&["GET /"]),
        Case::shows("F-5", "no certificate", Shown::Nothing),
        Case::shows("F-5", "a certificate of an authority that nobody knows", Shown::OfAnother),
        Case::shows("F-5", "an expired certificate", Shown::Expired),
        Case::shows("F-5", "a certificate that is not valid yet", Shown::Early),
        Case::shows("F-5", "a certificate for servers", Shown::ForServers),
        Case::shows("F-5", "a revoked certificate", Shown::Revoked),
        secured("a service over TLS", "right").gets("200, open"),
        secured("the service has a certificate of an authority that nobody trusts", "of-another"),
        secured("the service has a certificate for another name", "other-name"),
        secured("the service has a certificate for clients", "for-clients"),
        secured("the service has an expired certificate", "expired"),
        secured("the service answers in clear text (CVE-2026-1642)", "in-clear"),
        Case::into_tls(
            "F-8",
            "data that is encrypted with nothing behind a hello (0-RTT)",
            [Hello::right().with(42, Vec::new()).bytes(), record(23, TLS12, &[7; 64])].concat(),
        )
        .gets("ServerHello"),
        Case::into_tls("F-9", "the preface of HTTP/2 on a port for TLS", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .gets("alert decode_error, closed"),
        Case::into_tls(
            "F-9",
            "ALPN without a common protocol",
            Hello::right().with(16, long(&short(b"nonsense"))).bytes(),
        )
        .gets("ServerHello")
        .because("it goes on as HTTP/1.1, as in Envoy"),
        Case::into_tls("F-9", "ALPN without a protocol", Hello::right().with(16, long(&[])).bytes())
            .gets("alert decode_error, closed"),
    ]
}
