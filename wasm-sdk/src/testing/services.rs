//! What a host offers beside streams, in memory: shared by all gateways of a thread, as by the workers of one gateway.

use crate::host::Status;
use crate::metrics::Kind;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

const NOT_FOUND: Status = 1;
const BAD_ARGUMENT: Status = 2;
const EMPTY: Status = 7;
const CAS_MISMATCH: Status = 8;

/// Everything that is kept.
#[derive(Default)]
struct World {
    gateways: usize,
    metrics: Vec<Metric>,
    shared: BTreeMap<String, (Vec<u8>, u32)>,
    last_version: u32,
    queues: Vec<(String, VecDeque<Vec<u8>>)>,
    /// Queues that have got an item, once for each.
    ready: VecDeque<u32>,
    tick_period: Duration,
    properties: BTreeMap<String, Vec<u8>>,
}

struct Metric {
    kind: Kind,
    name: String,
    /// Of a histogram: how many observations there are.
    value: u64,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// A gateway begins to use it.
pub(super) fn enter() {
    WORLD.with_borrow_mut(|world| world.gateways += 1);
}

/// A gateway has gone; what the last one leaves behind goes, too.
pub(super) fn leave() {
    // At the end of its thread there may be nothing left to forget.
    let _ = WORLD.try_with(|world| {
        let world = &mut *world.borrow_mut();
        world.gateways = world.gateways.saturating_sub(1);
        if world.gateways == 0 {
            *world = World::default();
        }
    });
}

/// The value of a metric, for a test.
pub(super) fn metric(name: &str) -> Option<u64> {
    WORLD.with_borrow(|world| world.metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value))
}

/// The tick period in use.
pub(super) fn tick_period() -> Duration {
    WORLD.with_borrow(|world| world.tick_period)
}

/// The next queue whose plugin has not been told of an item.
pub(super) fn next_ready() -> Option<u32> {
    WORLD.with_borrow_mut(|world| world.ready.pop_front())
}

pub(super) fn set_property(path: &str, value: &[u8]) {
    WORLD.with_borrow_mut(|world| world.properties.insert(path.to_owned(), value.to_vec()));
}

pub(super) fn property(path: &str) -> Option<Vec<u8>> {
    WORLD.with_borrow(|world| world.properties.get(path).cloned())
}

pub(crate) fn define_metric(kind: Kind, name: &str) -> Result<u32, Status> {
    WORLD.with_borrow_mut(|world| {
        let found = world.metrics.iter().position(|metric| metric.name == name && metric.kind == kind);
        let index = found.unwrap_or_else(|| {
            world.metrics.push(Metric { kind, name: name.to_owned(), value: 0 });
            world.metrics.len() - 1
        });
        Ok(index as u32)
    })
}

fn change_metric(id: u32, change: impl FnOnce(&mut Metric) -> Result<(), Status>) -> Result<(), Status> {
    WORLD.with_borrow_mut(|world| change(world.metrics.get_mut(id as usize).ok_or(NOT_FOUND)?))
}

pub(crate) fn record_metric(id: u32, value: u64) -> Result<(), Status> {
    change_metric(id, |metric| {
        metric.value = match metric.kind {
            Kind::Counter => metric.value.saturating_add(value),
            Kind::Gauge => value,
            Kind::Histogram => metric.value + 1,
        };
        Ok(())
    })
}

pub(crate) fn increment_metric(id: u32, by: i64) -> Result<(), Status> {
    change_metric(id, |metric| {
        if metric.kind == Kind::Histogram || (metric.kind == Kind::Counter && by < 0) {
            return Err(BAD_ARGUMENT);
        }
        metric.value = metric.value.saturating_add_signed(by);
        Ok(())
    })
}

pub(crate) fn read_metric(id: u32) -> Result<u64, Status> {
    WORLD.with_borrow(|world| world.metrics.get(id as usize).map(|metric| metric.value).ok_or(NOT_FOUND))
}

pub(crate) fn shared(key: &str) -> Result<Option<(Vec<u8>, u32)>, Status> {
    WORLD.with_borrow(|world| Ok(world.shared.get(key).cloned()))
}

pub(crate) fn set_shared(key: &str, value: &[u8], cas: u32) -> Result<(), Status> {
    WORLD.with_borrow_mut(|world| {
        // A key that does not exist yet takes any number.
        if cas != 0 && world.shared.get(key).is_some_and(|(_, version)| *version != cas) {
            return Err(CAS_MISMATCH);
        }
        world.last_version += 1;
        world.shared.insert(key.to_owned(), (value.to_vec(), world.last_version));
        Ok(())
    })
}

pub(crate) fn register_queue(name: &str) -> Result<u32, Status> {
    find_queue("", name).or_else(|_| {
        WORLD.with_borrow_mut(|world| {
            world.queues.push((name.to_owned(), VecDeque::new()));
            Ok(world.queues.len() as u32)
        })
    })
}

pub(crate) fn find_queue(_vm_id: &str, name: &str) -> Result<u32, Status> {
    WORLD.with_borrow(|world| {
        let found = world.queues.iter().position(|(known, _)| known == name);
        found.map(|index| index as u32 + 1).ok_or(NOT_FOUND)
    })
}

fn with_queue<R>(
    queue: u32,
    work: impl FnOnce(&mut VecDeque<Vec<u8>>, &mut VecDeque<u32>) -> Result<R, Status>,
) -> Result<R, Status> {
    WORLD.with_borrow_mut(|world| {
        let index = (queue as usize).checked_sub(1).ok_or(NOT_FOUND)?;
        let (_, items) = world.queues.get_mut(index).ok_or(NOT_FOUND)?;
        work(items, &mut world.ready)
    })
}

pub(crate) fn push(queue: u32, item: &[u8]) -> Result<(), Status> {
    with_queue(queue, |items, ready| {
        items.push_back(item.to_vec());
        ready.push_back(queue);
        Ok(())
    })
}

pub(crate) fn pop(queue: u32) -> Result<Vec<u8>, Status> {
    with_queue(queue, |items, _| items.pop_front().ok_or(EMPTY))
}

pub(crate) fn set_tick_period(milliseconds: u32) -> Result<(), Status> {
    WORLD.with_borrow_mut(|world| world.tick_period = Duration::from_millis(milliseconds.into()));
    Ok(())
}

pub(crate) fn now() -> Result<u64, Status> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
