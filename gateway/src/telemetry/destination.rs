//! Istio's request metrics, counted per destination.
//!
//! Labels depend on where a request went, which is known when its route is compiled, and on how it ended,
//! which is not. So a route holds a [`Destination`], and that keeps one child per way of ending (protocol,
//! code, flags, gRPC status), the recently used ones first. There is no end of codes that a hostile upstream can
//! think of, so children are bounded twice:
//!
//! * a worker keeps 32 per destination. A new one pushes out the least recently used, whose counts are kept
//!   under the same labels for the whole process, so no series ever goes backwards;
//! * of series that no worker counts in any more, 96 are kept per destination. Beyond that the one unused the
//!   longest is added to one series with `response_code="other"`, so the destination's sum never goes backwards.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    ResponseFlags,
    cells::Cells,
    directory::{Parts, lock},
    histogram::{BYTE_BOUNDS, IstioHistogram, MILLISECOND_BOUNDS},
};
use crate::snapshot::Cluster;

/// Children that a worker keeps per destination.
const WORKER_CHILDREN: usize = 32;
/// Series without a worker that the process keeps per destination.
const UNUSED_LINES: usize = 96;

/// Handle of one worker to count requests that went to one service, or nowhere.
#[derive(Debug)]
pub struct Destination {
    series: Arc<DestinationSeries>,
    /// Most recently used first.
    children: RefCell<Vec<(ChildKey, Arc<Child>)>>,
}

/// How one request ended.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    /// What was spoken.
    pub protocol: RequestProtocol,
    /// Status code sent to the client; 0 if none was sent.
    pub code: u16,
    /// What was special.
    pub flags: ResponseFlags,
    /// gRPC status of the response. Only counted for [`RequestProtocol::Grpc`]; beyond 16 it becomes `unknown`.
    pub grpc_status: Option<u16>,
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Size of the request, head included.
    pub request_bytes: u64,
    /// Size of the response, head included.
    pub response_bytes: u64,
}

/// The label `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestProtocol {
    /// Anything over HTTP that is not gRPC.
    Http,
    /// `content-type: application/grpc…`
    Grpc,
}

/// The service that requests went to, as labels say it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ServiceLabels {
    /// `destination_service`
    pub(super) host: Arc<str>,
    /// `destination_service_name`
    pub(super) name: Arc<str>,
    /// `destination_service_namespace`
    pub(super) namespace: Arc<str>,
}

/// What a child is found by: protocol, code, flags and gRPC status, packed into one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ChildKey(u64);

/// The numbers of one child.
#[derive(Debug, Default)]
pub(super) struct Child {
    /// In microseconds. Every request is in here once, so its count is `istio_requests_total`.
    pub(super) duration: IstioHistogram,
    /// In bytes.
    pub(super) request_bytes: IstioHistogram,
    /// In bytes.
    pub(super) response_bytes: IstioHistogram,
}

/// One destination as the whole process counts it.
#[derive(Debug, Default)]
pub(super) struct DestinationSeries(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    by_key: HashMap<ChildKey, Line>,
    /// How often a line was let go of; orders [`Line::unused_since`].
    let_go: u64,
}

/// One series of a destination.
#[derive(Debug, Default)]
struct Line {
    parts: Parts<Child>,
    unused_since: u64,
}

impl Destination {
    pub(super) fn new(series: Arc<DestinationSeries>) -> Self {
        Self { series, children: RefCell::default() }
    }

    /// Counts one finished request.
    pub fn observe(&self, observation: &Observation) {
        let key = ChildKey::new(observation);
        let mut children = self.children.borrow_mut();
        match children.iter().position(|(known, _)| *known == key) {
            Some(0) => {}
            Some(position) => {
                if let Some(until_here) = children.get_mut(..=position) {
                    until_here.rotate_right(1);
                }
            }
            None => {
                let oldest = if children.len() < WORKER_CHILDREN { None } else { children.pop() };
                children.insert(0, (key, self.series.exchange(oldest, key)));
            }
        }
        if let Some((_, child)) = children.first() {
            let micros = u64::try_from(observation.duration.as_micros()).unwrap_or(u64::MAX);
            child.duration.observe(micros, &MILLISECOND_BOUNDS);
            child.request_bytes.observe(observation.request_bytes, &BYTE_BOUNDS);
            child.response_bytes.observe(observation.response_bytes, &BYTE_BOUNDS);
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        let mut lines = lock(&self.series.0);
        for (key, child) in self.children.get_mut().drain(..) {
            lines.let_go(key, &child);
        }
    }
}

impl DestinationSeries {
    /// A new child for a worker, which gives back the one it replaces.
    fn exchange(&self, oldest: Option<(ChildKey, Arc<Child>)>, key: ChildKey) -> Arc<Child> {
        let mut lines = lock(&self.0);
        if let Some((key, child)) = oldest {
            lines.let_go(key, &child);
        }
        lines.by_key.entry(key).or_default().parts.join()
    }

    /// The sums over all workers.
    pub(super) fn totals(&self) -> BTreeMap<ChildKey, Child> {
        let sum = |line: &Line| {
            let total = Child::default();
            line.parts.add_to(&total);
            total
        };
        lock(&self.0).by_key.iter().map(|(key, line)| (*key, sum(line))).collect()
    }
}

impl Lines {
    /// A worker is done with a child. Its counts stay, at first under their own labels.
    fn let_go(&mut self, key: ChildKey, child: &Arc<Child>) {
        self.let_go += 1;
        if let Some(line) = self.by_key.get_mut(&key) {
            line.parts.leave(child);
            line.unused_since = self.let_go;
        }
        let unused = || self.by_key.iter().filter(|(key, line)| **key != ChildKey::OTHER && line.parts.holders() == 0);
        if unused().count() > UNUSED_LINES
            && let Some(oldest) = unused().min_by_key(|(_, line)| line.unused_since).map(|(key, _)| *key)
            && let Some(oldest) = self.by_key.remove(&oldest)
        {
            self.by_key.entry(ChildKey::OTHER).or_default().parts.keep(&oldest.parts);
        }
    }
}

impl Cells for Child {
    fn absorb(&self, other: &Self) {
        self.duration.absorb(&other.duration);
        self.request_bytes.absorb(&other.request_bytes);
        self.response_bytes.absorb(&other.response_bytes);
    }
}

impl ServiceLabels {
    /// The labels of a cluster's service; without a cluster all `unknown`: the client's Host is no label.
    pub(super) fn of(cluster: Option<&Cluster>) -> Self {
        match cluster {
            Some(cluster) => Self {
                host: Arc::clone(&cluster.host),
                name: Arc::clone(&cluster.service_name),
                namespace: Arc::clone(&cluster.service_namespace),
            },
            None => Self { host: "unknown".into(), name: "unknown".into(), namespace: "unknown".into() },
        }
    }
}

impl ChildKey {
    /// Whatever no longer has a series of its own. No observation packs to this.
    pub(super) const OTHER: Self = Self(u64::MAX);
    /// The response was gRPC without a status, or the request was not gRPC.
    const NO_GRPC_STATUS: u8 = 0x40;
    /// A status that gRPC does not define.
    const UNKNOWN_GRPC_STATUS: u8 = 0x41;

    fn new(observation: &Observation) -> Self {
        let (protocol, grpc_status) = match (observation.protocol, observation.grpc_status) {
            (RequestProtocol::Http, _) => (0, Self::NO_GRPC_STATUS),
            (RequestProtocol::Grpc, None) => (1, Self::NO_GRPC_STATUS),
            (RequestProtocol::Grpc, Some(status @ 0..=16)) => (1, status as u8),
            (RequestProtocol::Grpc, Some(_)) => (1, Self::UNKNOWN_GRPC_STATUS),
        };
        let [a, b, c, d] = observation.flags.bits().to_be_bytes();
        let [high, low] = observation.code.to_be_bytes();
        Self(u64::from_be_bytes([protocol, grpc_status, high, low, a, b, c, d]))
    }

    /// Values of `request_protocol`, `response_code`, `grpc_response_status` and `response_flags`.
    pub(super) fn labels(self) -> [String; 4] {
        if self == Self::OTHER {
            return ["unknown".into(), "other".into(), String::new(), "other".into()];
        }
        let [protocol, grpc_status, high, low, a, b, c, d] = self.0.to_be_bytes();
        let protocol = if protocol == 0 { "http" } else { "grpc" };
        let grpc_status = match grpc_status {
            Self::NO_GRPC_STATUS => String::new(),
            Self::UNKNOWN_GRPC_STATUS => "unknown".into(),
            status => status.to_string(),
        };
        let flags = ResponseFlags::from_bits(u32::from_be_bytes([a, b, c, d]));
        [protocol.into(), u16::from_be_bytes([high, low]).to_string(), grpc_status, flags.to_string()]
    }
}
