//! Which headers of a request and its response are copied for the access log: those that its format shows.

use http::{HeaderMap, HeaderName};

use crate::telemetry::{AccessLog, Captured};

/// The headers that the format of the access log shows, each with its slot.
pub(crate) struct LogHeaders {
    request: Vec<(usize, HeaderName)>,
    response: Vec<(usize, HeaderName)>,
    trailers: Vec<(usize, HeaderName)>,
}

impl LogHeaders {
    pub(crate) fn new(log: &AccessLog) -> Self {
        let wanted = log.wanted();
        let names = |list: &[(usize, Box<str>)]| {
            // The format was checked: every name is one.
            list.iter().filter_map(|(slot, name)| Some((*slot, HeaderName::try_from(&**name).ok()?))).collect()
        };
        Self { request: names(&wanted.request), response: names(&wanted.response), trailers: names(&wanted.trailers) }
    }

    pub(super) fn copy_request(&self, headers: &HeaderMap, into: &mut Captured) {
        copy(&self.request, headers, into);
    }

    pub(super) fn copy_response(&self, headers: &HeaderMap, into: &mut Captured) {
        copy(&self.response, headers, into);
    }

    pub(super) fn copy_trailers(&self, trailers: &HeaderMap, into: &mut Captured) {
        copy(&self.trailers, trailers, into);
    }
}

/// The first value of each, as in Envoy.
fn copy(wanted: &[(usize, HeaderName)], headers: &HeaderMap, into: &mut Captured) {
    for (slot, name) in wanted {
        into.set(*slot, headers.get(name).map(|value| value.as_bytes()));
    }
}
