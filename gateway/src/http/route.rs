//! Which route a request takes.

use std::rc::Rc;

use http::header;
use proxy_wasm_host::RequestHead;

use super::serving::{PinnedRoute, Serving};
use crate::snapshot::RequestView;

/// The route for a head, or `None`: no virtual host, or none of its rules.
pub(super) fn find(serving: &Serving, head: &RequestHead) -> Option<Rc<PinnedRoute>> {
    let authority = authority(head);
    let host = serving.listener.hosts.find(authority)?;
    let id = host.routes.find(&RequestView {
        path: head.target.path(),
        query: head.target.query(),
        method: head.method.as_str(),
        authority,
        scheme: head.scheme.as_str(),
        headers: &head.headers,
    })?;
    serving.config.route(id)
}

/// The host of a request with its port.
pub(super) fn authority(head: &RequestHead) -> &str {
    head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}
