//! Which route a request takes.

use std::{rc::Rc, sync::Arc};

use heads::RequestHead;
use http::header;

use super::{
    connection::Connection,
    request::X_FORWARDED_PROTO,
    secured,
    serving::{PinnedRoute, Serving},
};
use crate::snapshot::{RequestView, RouteId};

/// The route for a head, or `None`: no virtual host, or none of its rules.
pub(super) fn find(connection: &Connection, serving: &Serving, head: &RequestHead) -> Option<Rc<PinnedRoute>> {
    serving.config.route(find_id(connection, serving, head)?)
}

/// As [`find`], for who does not need the route itself.
pub(super) fn find_id(connection: &Connection, serving: &Serving, head: &RequestHead) -> Option<RouteId> {
    let authority = authority(head);
    let host = secured::hosts(connection, serving)?.find(authority)?;
    if let Some(redirect) = host.https_redirect.filter(|_| !came_over_https(head)) {
        return Some(redirect);
    }
    host.routes.find(&RequestView {
        path: head.target.path(),
        query: head.target.query(),
        method: head.method.as_str(),
        authority,
        scheme: head.scheme.as_str(),
        headers: &head.headers,
    })
}

/// The name of the virtual host that a head is for.
pub(super) fn domain(connection: &Connection, serving: &Serving, head: &RequestHead) -> Option<Arc<str>> {
    let host = secured::hosts(connection, serving)?.find(authority(head))?;
    Some(Arc::clone(&host.domain))
}

/// What `x-forwarded-proto` says: ours, or that of a proxy that is trusted.
fn came_over_https(head: &RequestHead) -> bool {
    head.headers.get(&X_FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The host of a request with its port.
pub(super) fn authority(head: &RequestHead) -> &str {
    head.headers.get(&header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}
