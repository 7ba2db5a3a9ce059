//! Istio's request metrics, counted per destination.
//!
//! Labels depend on where a request went, which is known when its route is compiled, and on how it ended,
//! which is not. So a route holds a [`Destination`], and that keeps one child per way of ending (protocol,
//! code, flags, gRPC status), the recently used ones first. There is no end of codes that a hostile upstream can
//! think of, so children are bounded twice:
//!
//! * a worker keeps 16 per destination. A new one pushes out the least recently used, whose counts are kept
//!   under the same labels for the whole process, so no series ever goes backwards;
//! * of series that no worker counts in any more, 48 are kept per destination. Beyond that the one unused the
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
    directory::{Parts, Shared, lock},
    histogram::{BYTE_BOUNDS, IstioHistogram, MILLISECOND_BOUNDS},
    streams::StreamCells,
};
use crate::snapshot::Cluster;

/// Children that a worker keeps per destination.
const WORKER_CHILDREN: usize = 16;
/// Series without a worker that the process keeps per destination.
const UNUSED_LINES: usize = 48;

/// Handle of one worker to count requests that went to one service, or nowhere.
#[derive(Debug)]
pub struct Destination {
    series: Arc<DestinationSeries>,
    streams: Arc<StreamCells>,
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
pub(super) struct DestinationSeries {
    lines: Mutex<Lines>,
    /// What is counted while it goes on.
    pub(super) streams: Shared<StreamCells>,
}

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
        Self { streams: series.streams.join(), series, children: RefCell::default() }
    }

    /// gRPC messages have come from a client, and from the service.
    pub fn messages(&self, request: u64, response: u64) {
        self.streams.request_messages.add(request);
        self.streams.response_messages.add(response);
    }

    pub(super) fn streams(&self) -> &StreamCells {
        &self.streams
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
        self.series.streams.leave(&self.streams);
        let mut lines = lock(&self.series.lines);
        for (key, child) in self.children.get_mut().drain(..) {
            lines.let_go(key, &child);
        }
    }
}

impl DestinationSeries {
    /// A new child for a worker, which gives back the one it replaces.
    fn exchange(&self, oldest: Option<(ChildKey, Arc<Child>)>, key: ChildKey) -> Arc<Child> {
        let mut lines = lock(&self.lines);
        // In this order: letting go may end a series, and that must not be the one that is wanted.
        let child = lines.by_key.entry(key).or_default().parts.join();
        if let Some((key, child)) = oldest {
            lines.let_go(key, &child);
        }
        child
    }

    /// The sums over all workers.
    pub(super) fn totals(&self) -> BTreeMap<ChildKey, Child> {
        let sum = |line: &Line| {
            let total = Child::default();
            line.parts.add_to(&total);
            total
        };
        lock(&self.lines).by_key.iter().map(|(key, line)| (*key, sum(line))).collect()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn ended(code: u16) -> Observation {
        Observation {
            protocol: RequestProtocol::Http,
            code,
            flags: ResponseFlags::NONE,
            grpc_status: None,
            duration: Duration::from_millis(3),
            request_bytes: 100,
            response_bytes: 1000,
        }
    }

    fn count(series: &DestinationSeries, key: ChildKey) -> Option<u64> {
        series.totals().get(&key).map(|child| child.duration.count())
    }

    fn sums(series: &DestinationSeries) -> (u64, u64, u64) {
        series.totals().values().fold((0, 0, 0), |(requests, micros, bytes), child| {
            (requests + child.duration.count(), micros + child.duration.sum(), bytes + child.response_bytes.sum())
        })
    }

    #[test]
    fn labels_say_how_a_request_ended() {
        let labels = |observation: Observation| ChildKey::new(&observation).labels();
        let flags = ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
        assert_eq!(labels(Observation { flags, ..ended(503) }), ["http", "503", "", "UF,URX"]);
        assert_eq!(labels(Observation { grpc_status: Some(5), ..ended(200) }), ["http", "200", "", "-"]);
        let grpc = |grpc_status| Observation { protocol: RequestProtocol::Grpc, grpc_status, ..ended(200) };
        assert_eq!(labels(grpc(Some(16))), ["grpc", "200", "16", "-"]);
        assert_eq!(labels(grpc(Some(17))), ["grpc", "200", "unknown", "-"]);
        assert_eq!(labels(grpc(Some(u16::MAX))), ["grpc", "200", "unknown", "-"]);
        assert_eq!(labels(grpc(None)), ["grpc", "200", "", "-"]);
        assert_eq!(ChildKey::OTHER.labels(), ["unknown", "other", "", "other"]);
    }

    #[test]
    fn a_child_that_a_worker_evicts_keeps_its_counts_and_labels() {
        let series = Arc::new(DestinationSeries::default());
        let (here, there) = (Destination::new(Arc::clone(&series)), Destination::new(Arc::clone(&series)));
        let watched = ChildKey::new(&ended(200));
        here.observe(&ended(200));
        there.observe(&ended(200));
        for code in 300..300 + WORKER_CHILDREN as u16 {
            here.observe(&ended(code));
        }
        assert_eq!(here.children.borrow().len(), WORKER_CHILDREN);
        assert!(here.children.borrow().iter().all(|(key, _)| *key != watched), "the least recently used is evicted");
        assert_eq!(count(&series, watched), Some(2));
        here.observe(&ended(200));
        assert_eq!(count(&series, watched), Some(3));
        drop((here, there));
        assert_eq!(count(&series, watched), Some(3));
    }

    #[test]
    fn what_is_used_stays() {
        let series = Arc::new(DestinationSeries::default());
        let destination = Destination::new(Arc::clone(&series));
        for code in 100..1000 {
            destination.observe(&ended(200));
            destination.observe(&ended(code));
        }
        assert_eq!(destination.children.borrow()[1].0, ChildKey::new(&ended(200)));
        assert_eq!(count(&series, ChildKey::new(&ended(200))), Some(901));
    }

    #[test]
    fn a_series_that_comes_back_does_not_make_room_for_itself() {
        let series = Arc::new(DestinationSeries::default());
        let destination = Destination::new(Arc::clone(&series));
        let all = (WORKER_CHILDREN + UNUSED_LINES) as u16;
        (100..100 + all).for_each(|code| destination.observe(&ended(code)));
        assert_eq!(series.totals().len(), usize::from(all), "the shelf is full, 100 is next to go");
        destination.observe(&ended(100));
        assert_eq!(count(&series, ChildKey::new(&ended(100))), Some(2));
        assert_eq!(count(&series, ChildKey::OTHER), None);
        destination.observe(&ended(99));
        assert_eq!(count(&series, ChildKey::new(&ended(101))), None);
        assert_eq!(count(&series, ChildKey::OTHER), Some(1));
    }

    #[test]
    fn codes_without_end_make_a_bounded_number_of_series_and_lose_nothing() {
        let series = Arc::new(DestinationSeries::default());
        let workers: Vec<_> = (0..3).map(|_| Destination::new(Arc::clone(&series))).collect();
        let mut observed = 0;
        for round in 0..8_u16 {
            for code in 100..1000_u16 {
                let flags = ResponseFlags::from_bits(u32::from(code.wrapping_mul(round)));
                workers[usize::from(code) % 3].observe(&Observation { flags, ..ended(code) });
                observed += 1;
            }
            assert!(series.totals().len() <= 3 * WORKER_CHILDREN + UNUSED_LINES + 1);
            assert_eq!(sums(&series), (observed, observed * 3000, observed * 1000));
        }
        assert!(count(&series, ChildKey::OTHER).unwrap() > 0);
        drop(workers);
        assert!(series.totals().len() <= UNUSED_LINES + 1);
        assert_eq!(sums(&series).0, observed);
    }

    /// What is exported now, after checking it against what was exported before.
    fn advance(series: &DestinationSeries, before: &BTreeMap<ChildKey, u64>) -> BTreeMap<ChildKey, u64> {
        let now: BTreeMap<_, _> =
            series.totals().into_iter().map(|(key, child)| (key, child.duration.count())).collect();
        for (key, count) in before {
            assert!(now.get(key).is_none_or(|now| now >= count), "{:?} went backwards", key.labels());
        }
        assert!(before.get(&ChildKey::OTHER) <= now.get(&ChildKey::OTHER));
        now
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever workers do, the destination's sum is exact, and a series may end but never goes backwards.
        #[test]
        fn nothing_goes_backwards(
            steps in prop::collection::vec((0_usize..3, 100_u16..220, prop::bool::weighted(0.01)), 1..400),
        ) {
            let series = Arc::new(DestinationSeries::default());
            let worker = || Destination::new(Arc::clone(&series));
            let mut workers = [worker(), worker(), worker()];
            // Begin with the shelf of unused series full.
            (100..220).for_each(|code| workers[0].observe(&ended(code)));
            let mut before = advance(&series, &BTreeMap::new());
            for ((index, code, restart), observed) in steps.iter().zip(121..) {
                if *restart {
                    workers[*index] = worker();
                    before = advance(&series, &before);
                }
                workers[*index].observe(&ended(*code));
                before = advance(&series, &before);
                prop_assert_eq!(before.values().sum::<u64>(), observed);
            }
        }
    }
}
