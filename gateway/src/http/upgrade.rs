//! Upgrades: what a client asks for, and what becomes of its connection when the upstream agrees.
//!
//! Only WebSocket is passed on (RFC 6455; Istio's gateway allows it on every route). The client's bytes behind its head
//! wait in the connection until the upstream has answered 101: before that they could as well be the next request
//! (CVE-2026-2833). Then both connections are let go of and their bytes are copied in the task of the client's
//! connection, for as long as both sides like: a new configuration does not end them, the end of the drain time does.

use std::rc::Rc;

use bytes::Bytes;
use heads::{HeaderList, header};
use http::{HeaderValue, Method};

use super::{
    body::{ClientBytes, RequestBody},
    limits::Limits,
    record::Record,
};
use crate::{
    net::{End, Ended, Stream, Tunnel},
    telemetry::{Limit, ResponseFlags},
    upstream,
};

/// The protocol that is passed on.
pub(super) const PROTOCOL: &str = "websocket";
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");
const WEBSOCKET: HeaderValue = HeaderValue::from_static(PROTOCOL);

/// The upstream's side of a connection after its 101.
pub(super) type Upgraded = upstream::Upgraded<RequestBody>;

/// What a request with `Connection: upgrade` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing that we would do: the request is an ordinary one.
    Nothing,
    WebSocket,
    /// Something that needs a tunnel we do not have.
    Foreign,
}

/// Reads the `Upgrade` headers. `h2c` is ignored (served as HTTP/1.1), and so is what is no WebSocket handshake because
/// of its method or because it has a body.
pub(super) fn asked(method: &Method, headers: &HeaderList) -> Asked {
    let mut asked = Asked::Nothing;
    for value in headers.get_all(&header::UPGRADE) {
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            asked = match asked {
                _ if token.is_empty() || token.eq_ignore_ascii_case(b"h2c") => asked,
                Asked::Nothing if token.eq_ignore_ascii_case(PROTOCOL.as_bytes()) => Asked::WebSocket,
                _ => return Asked::Foreign,
            };
        }
    }
    let has_body = || {
        headers.contains_key(&header::TRANSFER_ENCODING)
            || headers.get(&header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
    };
    if asked == Asked::WebSocket && (method != Method::GET || has_body()) {
        return Asked::Nothing;
    }
    asked
}

/// Says in a head that it is part of a WebSocket handshake; without its hop-by-hop headers it would not be.
pub(super) fn mark(headers: &mut HeaderList) {
    headers.insert(&header::CONNECTION, UPGRADE);
    headers.insert(&header::UPGRADE, WEBSOCKET);
}

/// Whether a head is marked.
pub(super) fn is_marked(headers: &HeaderList) -> bool {
    headers.get(&header::UPGRADE) == Some(&WEBSOCKET)
}

/// Takes the mark off.
pub(super) fn unmark(headers: &mut HeaderList) {
    headers.remove(&header::CONNECTION);
    headers.remove(&header::UPGRADE);
}

/// A connection that becomes a tunnel as soon as the client has its 101.
pub(super) struct Switch {
    upstream: Upgraded,
    record: Record,
}

impl Switch {
    pub(super) fn new(upstream: Upgraded, mut record: Record) -> Box<Self> {
        // Both sides agreed; how it ends is said when it does.
        record.complete = true;
        Box::new(Self { upstream, record })
    }

    /// Copies until the end. When the future is dropped (the gateway ends), what was copied so far is counted, too.
    /// `client_read_ahead` is what was read of the client's connection behind its head.
    pub(super) async fn run(self, client: Stream, client_read_ahead: Bytes, limits: &Limits) {
        let Self { upstream, record } = self;
        let Upgraded { stream, read_ahead, active: _active } = upstream;
        if let Err(error) = client.keep_alive() {
            tracing::debug!(%error, "a WebSocket's client is not asked whether it is still there");
        }
        let tunnel = Tunnel::new(End { stream: client, read_ahead: client_read_ahead }, End { stream, read_ahead });
        let mut counted = Counted { tunnel, record };
        let ended = counted.tunnel.run(limits.upgrade_half_closed_timeout).await;
        let record = &mut counted.record;
        match ended {
            Ended::Closed | Ended::Filtered => {}
            Ended::Client(error) => {
                tracing::debug!(%error, "the client of an upgraded connection is gone");
                record.flags = ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION;
                record.details = "downstream_remote_disconnect".into();
            }
            Ended::Upstream(error) => {
                tracing::debug!(%error, "the upstream of an upgraded connection is gone");
                record.flags = ResponseFlags::UPSTREAM_CONNECTION_TERMINATION;
                record.details = "upstream_reset_after_response_started{connection_termination}".into();
            }
            Ended::HalfClosed => {
                record.limit_exceeded(Limit::UpgradeHalfClosedTime);
                record.flags = ResponseFlags::STREAM_IDLE_TIMEOUT;
                record.details = "stream_idle_timeout".into();
            }
        }
    }
}

/// A tunnel whose bytes end up in the record, however it ends.
struct Counted {
    tunnel: Tunnel,
    record: Record,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let received = ClientBytes::default();
        received.count.set(self.tunnel.received());
        self.record.request_body = Some(Rc::new(received));
        self.record.response_body_bytes = self.tunnel.sent();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn of(method: &Method, fields: &[(&'static str, &'static str)]) -> Asked {
        let mut headers = HeaderList::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        asked(method, &headers)
    }

    #[test]
    fn only_websockets_are_passed_on() {
        for (value, expected) in [
            ("websocket", Asked::WebSocket),
            ("WebSocket", Asked::WebSocket),
            ("h2c, websocket", Asked::WebSocket),
            ("h2c", Asked::Nothing),
            ("", Asked::Nothing),
            ("websocket, websocket", Asked::Foreign),
            ("websocket/13", Asked::Foreign),
            ("foo", Asked::Foreign),
            ("h2c, foo", Asked::Foreign),
        ] {
            assert_eq!(of(&Method::GET, &[("upgrade", value)]), expected, "{value}");
        }
        assert_eq!(of(&Method::GET, &[]), Asked::Nothing);
        assert_eq!(of(&Method::GET, &[("upgrade", "websocket"), ("upgrade", "tls/1.3")]), Asked::Foreign);
    }

    #[test]
    fn a_handshake_is_a_get_without_a_body() {
        let upgrade = ("upgrade", "websocket");
        assert_eq!(of(&Method::POST, &[upgrade]), Asked::Nothing);
        assert_eq!(of(&Method::GET, &[upgrade, ("content-length", "0")]), Asked::WebSocket);
        assert_eq!(of(&Method::GET, &[upgrade, ("content-length", "5")]), Asked::Nothing);
        assert_eq!(of(&Method::GET, &[upgrade, ("transfer-encoding", "chunked")]), Asked::Nothing);
    }
}
