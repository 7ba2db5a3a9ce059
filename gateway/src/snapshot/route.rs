//! What a matched route does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use proxy_wasm_host::Metadata;

use super::{ClusterId, HeaderOps, RetryPolicy};

/// A compiled route of a VirtualService.
#[derive(Debug)]
pub struct Route {
    /// `http[].name`, joined with the match's name by a dot; the access log's `%ROUTE_NAME%`. Empty if none is given.
    pub name: Arc<str>,
    /// `namespace/name` of the VirtualService.
    pub virtual_service: Arc<str>,
    /// What plugins are told of where it comes from.
    pub metadata: Option<Arc<Metadata>>,
    /// What is done with the request.
    pub action: Action,
    /// Edits of the request head, after the destination's (see [`Destination::request_headers`]).
    pub request_headers: HeaderOps,
    /// Edits of the response head, after the destination's.
    pub response_headers: HeaderOps,
}

/// What is done with a request.
#[derive(Debug)]
pub enum Action {
    /// Send it to a cluster.
    Forward(Forward),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Answer with a fixed response.
    Direct(DirectResponse),
}

/// Sending to one of several clusters.
#[derive(Debug)]
pub struct Forward {
    /// At least one. Weights are relative; a lone destination gets everything.
    pub destinations: Box<[Destination]>,
    /// Sum of the weights; 0 only with a lone destination.
    pub total_weight: u64,
    /// Change of the path. `:authority` is changed through [`HeaderOps`] on `host`.
    pub path_rewrite: Option<PathRewrite>,
    /// `rewrite.authority`.
    pub authority_rewrite: Option<HeaderValue>,
    /// Limit for the whole request until the response ends. `None`: no limit, Istio's default.
    pub timeout: Option<Duration>,
    /// When a request is sent again.
    pub retry: RetryPolicy,
}

/// One weighted destination.
#[derive(Debug)]
pub struct Destination {
    /// Share of [`Forward::total_weight`].
    pub weight: u32,
    /// The cluster; `None` if no ServiceEntry or Service has that host and port: 503, flag NC.
    pub cluster: Option<ClusterId>,
    /// The name that the cluster has or would have, `outbound|80||host`.
    pub cluster_name: Arc<str>,
    /// What plugins are told of the cluster.
    pub metadata: Option<Arc<Metadata>>,
    /// Edits of the request head. With one destination Istio appends them to the route's, so that they win;
    /// compilation does the same and leaves this empty. With several they run before the route's.
    pub request_headers: HeaderOps,
    /// Edits of the response head; same order.
    pub response_headers: HeaderOps,
}

/// How the path changes on the way upstream. The query is kept.
#[derive(Debug)]
pub enum PathRewrite {
    /// Replaces the matched prefix, whose length in bytes is given, literally.
    Prefix {
        /// Length of the matched prefix.
        matched: usize,
        /// What takes its place.
        replacement: Box<str>,
    },
    /// Replaces the whole path (exact and regex matches).
    Whole(Box<str>),
    /// Replaces every occurrence of a pattern.
    Regex {
        /// What is searched for.
        pattern: regex::Regex,
        /// Substitution in the syntax of the `regex` crate (`${1}`).
        replacement: Box<str>,
    },
}

/// A redirect. What is `None` stays as in the request.
#[derive(Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// New path; the query is kept unless this contains `?`.
    pub path: Option<PathRewrite>,
    /// New host, with its port if it has one.
    pub authority: Option<Box<str>>,
    /// Port in the location.
    pub port: RedirectPort,
    /// New scheme.
    pub scheme: Option<&'static str>,
}

/// Where the port of a redirect comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// The request's, but `:80` and `:443` are dropped when the scheme changes away from theirs.
    Keep,
    /// This one, left out if it is the scheme's default.
    Number(u16),
    /// The declared port of the listener, left out if it is the scheme's default.
    Listener,
}

/// A response that needs no upstream.
#[derive(Debug)]
pub struct DirectResponse {
    /// Status code.
    pub status: StatusCode,
    /// Body, `text/plain` unless the route's response headers say otherwise.
    pub body: Bytes,
}
