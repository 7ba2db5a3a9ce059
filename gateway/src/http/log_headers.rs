//! Which headers of a request and its response, and what of the state of plugins, are copied for the access log: what its
//! format shows.

use heads::{HeaderList, Key};
use http::{HeaderMap, HeaderName};

use super::plugins::Filters;
use crate::telemetry::{AccessLog, Captured};

/// What the format of the access log shows, each with its slot.
pub(crate) struct LogHeaders {
    request: Vec<(usize, Key)>,
    response: Vec<(usize, Key)>,
    trailers: Vec<(usize, Key)>,
    filter_state: Vec<(usize, Box<str>)>,
    slots: usize,
}

impl LogHeaders {
    pub(crate) fn new(log: &AccessLog) -> Self {
        let wanted = log.wanted();
        let names = |list: &[(usize, Box<str>)]| {
            // The format was checked: every name is one.
            list.iter().filter_map(|(slot, name)| Some((*slot, HeaderName::try_from(&**name).ok()?.into()))).collect()
        };
        let all = [&wanted.request, &wanted.response, &wanted.trailers, &wanted.filter_state];
        Self {
            slots: all.into_iter().flatten().map(|(slot, _)| slot + 1).max().unwrap_or(0),
            request: names(&wanted.request),
            response: names(&wanted.response),
            trailers: names(&wanted.trailers),
            filter_state: wanted.filter_state.clone(),
        }
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    pub(super) fn copy_request(&self, headers: &HeaderList, into: &mut Captured) {
        copy(&self.request, headers, into);
    }

    pub(super) fn copy_response(&self, headers: &HeaderList, into: &mut Captured) {
        copy(&self.response, headers, into);
    }

    pub(super) fn copy_trailers(&self, trailers: &HeaderMap, into: &mut Captured) {
        for (slot, name) in &self.trailers {
            into.set(*slot, trailers.get(name.name()).map(|value| value.as_bytes()));
        }
    }

    /// What plugins have set in the course of a request, if the format shows any of that.
    pub(super) fn copy_filter_state(&self, filters: &Filters, into: &mut Captured) {
        if !self.filter_state.is_empty() {
            filters.look(|properties| {
                for (slot, name) in &self.filter_state {
                    into.set(*slot, properties.stored(name.as_bytes()));
                }
            });
        }
    }
}

/// The first value of each, as in Envoy.
fn copy(wanted: &[(usize, Key)], headers: &HeaderList, into: &mut Captured) {
    for (slot, name) in wanted {
        into.set(*slot, headers.get(name).map(|value| value.as_bytes()));
    }
}
