//! Who may talk to the admin API: callers that address it by a name of this machine.
//!
//! A web page cannot choose the `Host` and `Origin` that a browser sends, so a page of somebody else,
//! also one that points its own name at 127.0.0.1 (DNS rebinding), is told apart by them. This is no
//! authentication: that is [`super::token`].

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Extension, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Uri, header};

use super::reply::Failure;
use crate::plugins::ApiError;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Lets a request pass or answers 403.
pub(super) async fn own_callers_only(Extension(ends): Extension<Ends>, request: Request, next: Next) -> Response {
    match check(request.uri(), request.headers(), ends.local.ip()) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    }
}

fn check(uri: &Uri, headers: &HeaderMap, local: IpAddr) -> Result<(), ApiError> {
    let foreign = |name: &str, value: &str| {
        let message = format!(
            "{name} {value:?} is not this gateway's; use localhost, a loopback address or the address the admin API listens on"
        );
        Err(ApiError::new(403, "foreign-caller", message).at(name))
    };
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next().map(|host| host.to_str()), hosts.next()) {
        (Some(Ok(host)), None) => host,
        (Some(_), _) => return foreign("host", "(malformed or repeated)"),
        (None, _) => return foreign("host", ""),
    };
    if !is_own(host, local) {
        return foreign("host", host);
    }
    // A target in absolute form overrides Host (RFC 9112 3.2.2).
    if let Some(authority) = uri.authority().filter(|authority| !is_own(authority.as_str(), local)) {
        return foreign("host", authority.as_str());
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("(malformed)");
        let same = origin.strip_prefix("http://").is_some_and(|authority| authority.eq_ignore_ascii_case(host));
        if !same {
            return foreign("origin", origin);
        }
    }
    Ok(())
}

/// Whether `authority` (host with or without port) names this machine or the address `local`.
fn is_own(authority: &str, local: IpAddr) -> bool {
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, rest)) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    if !port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    match host.parse::<IpAddr>() {
        Ok(ip) => {
            let (ip, local) = (ip.to_canonical(), local.to_canonical());
            ip.is_loopback() || ip == local
        }
        Err(_) => bracketed.is_none() && host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const LOCAL: &str = "10.1.2.3";

    fn allowed(uri: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check(&uri.parse().unwrap(), &map, LOCAL.parse().unwrap()).is_ok()
    }

    #[test]
    fn only_names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:15000",
            "127.0.0.1",
            "127.8.8.8:1",
            "[::1]",
            "[::1]:15000",
            "10.1.2.3:15000",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(allowed("/plugins", &[("host", host)]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.1.2.4",
            "0.0.0.0",
            "[::]",
            "[::1]x",
            "localhost:80@evil.example",
            "[localhost]",
            "user@localhost",
            "::1",
            "127.1",
            "localhost:port",
        ] {
            assert!(!allowed("/plugins", &[("host", host)]), "{host}");
        }
        assert!(!allowed("/plugins", &[]), "no host at all");
        assert!(!allowed("/plugins", &[("host", "localhost"), ("host", "localhost")]), "two hosts");
        assert!(!allowed("http://evil.example/plugins", &[("host", "localhost")]), "absolute form");
    }

    #[test]
    fn only_pages_of_this_api() {
        let host = ("host", "localhost:15000");
        assert!(allowed("/plugins", &[host, ("origin", "http://localhost:15000")]));
        for origin in ["http://localhost:3000", "http://evil.example", "null", "https://localhost:15000", "file://", ""]
        {
            assert!(!allowed("/plugins", &[host, ("origin", origin)]), "{origin}");
        }
    }
}
