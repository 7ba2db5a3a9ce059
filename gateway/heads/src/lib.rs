//! Heads of HTTP messages, as the request path and plugins have them.
//!
//! [`HeaderList`] is what `http::HeaderMap` is elsewhere. A message has a dozen fields, and most of what a gateway asks
//! for is not among them: a flat list with a word that says what is certainly missing answers that without hashing
//! anything. It also keeps all fields in the order in which they came, as Envoy does. HTTP/2 connections, trailers
//! on their way and everything that is not the request path stay with `http::HeaderMap`; `From` leads to and fro.
//!
//! Knows no sockets, no configuration, and does not judge what a head says.

pub mod header;
mod list;
mod name;
mod names;

use std::fmt;

use http::uri::PathAndQuery;
use http::{Method, StatusCode};

pub use list::{HeaderList, IntoIter, Iter};
pub use name::{Key, Named};
pub use names::{Known, Names};

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// `:method`
    pub method: Method,
    /// `:path`: path and query in origin form.
    pub target: PathAndQuery,
    /// `:scheme`
    pub scheme: Scheme,
    /// All other fields. Always holds `host`: it *is* `:authority`.
    pub headers: HeaderList,
}

/// The head of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// `:status`
    pub status: StatusCode,
    /// All other fields.
    pub headers: HeaderList,
}

/// The scheme of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The scheme as it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
