//! What instances share: data, queues, metrics; and what the limits do to them.

use proxy_wasm_host::{Exchange, Instance, Limits, MetricValue, Plugin, PluginSettings, Quota, Shared};

use crate::fixture::{run, run_on, scripted, shared};
use crate::script::{N, On, Out, Program, Read, b, kept, program, results, script};

const GET: &str = "proxy_get_shared_data";
const SET: &str = "proxy_set_shared_data";

/// Runs a program in a plugin of this name and `vm_id`.
fn run_in(shared: &Shared, vm_id: &str, limits: Limits, program: Program) -> (Instance, Box<Exchange>) {
    let settings = PluginSettings { vm_id: vm_id.to_owned(), limits, ..script(On::RequestHeaders, program).settings() };
    let mut instance = Plugin::new(scripted(), settings, shared.clone()).instantiate().unwrap();
    let exchange = run_on(&mut instance);
    (instance, exchange)
}

#[test]
fn shared_data_is_compared_and_swapped() {
    let exchange = run(program()
        .call(GET, [b("k"), Out(0), Out(1), Out(2)])
        .call(SET, [b("k"), b("one"), N(99)])
        .call(GET, [b("k"), Out(0), Out(1), Out(2)])
        .keep("one")
        .call(SET, [b("k"), b(""), Read(2)])
        .call(SET, [b("k"), b("three"), Read(2)])
        .call(GET, [b("k"), Out(0), Out(1), Out(2)])
        .keep("two")
        .call(SET, [b("k"), b("four"), N(0)]));
    assert_eq!(results(&exchange, On::RequestHeaders), [1, 0, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!((kept(&exchange, "one"), kept(&exchange, "two")), (&b"one"[..], &b""[..]));
}

#[test]
fn shared_data_belongs_to_the_vm_id() {
    let (shared, _) = shared();
    let (_alive, _) = run_in(&shared, "a", Limits::default(), program().call(SET, [b("k"), b("v"), N(0)]));
    let get = || program().call(GET, [b("k"), Out(0), Out(1), Out(2)]);
    assert_eq!(results(&run_in(&shared, "a", Limits::default(), get()).1, On::RequestHeaders), [0]);
    assert_eq!(results(&run_in(&shared, "b", Limits::default(), get()).1, On::RequestHeaders), [1]);
}

#[test]
fn shared_data_is_limited_with_an_answer_that_sdks_survive() {
    let (shared, _) = shared();
    let limits = Limits { shared_data_keys: 2, shared_data_bytes: 10, ..Limits::default() };
    let fill = program()
        .call(SET, [b("a"), b("1234567890"), N(0)])
        .call(SET, [b("a"), b("1"), N(0)])
        .call(SET, [b("b"), b("2"), N(0)])
        .call(SET, [b("c"), b("3"), N(0)]);
    let (_alive, exchange) = run_in(&shared, "", limits, fill);
    assert_eq!(results(&exchange, On::RequestHeaders), [8, 0, 0, 8]);
    let quotas = shared.quotas();
    assert_eq!((quotas.len(), quotas[0].quota, quotas[0].refused), (1, Quota::SharedData, 2));
    assert_eq!((&*quotas[0].plugin, quotas[0].quota.as_str()), ("scripted", "shared-data"));
}

#[test]
fn queues_connect_plugins() {
    let (shared, _) = shared();
    let register = program()
        .call("proxy_register_shared_queue", [b("q"), Out(0)])
        .call("proxy_register_shared_queue", [b("q"), Out(1)])
        .call("proxy_set_property", [b("ids"), N(0x8000), N(16)])
        .call("proxy_resolve_shared_queue", [b(""), b("q"), Out(2)])
        .call("proxy_dequeue_shared_queue", [Read(0), Out(3), Out(4)]);
    let (_alive, exchange) = run_in(&shared, "a", Limits::default(), register);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 0, 7]);
    let ids = kept(&exchange, "ids");
    assert_eq!(ids[..4], ids[8..12], "the same queue");

    let use_it = program()
        .call("proxy_resolve_shared_queue", [b("a"), b("missing"), Out(0)])
        .call("proxy_resolve_shared_queue", [b(""), b("q"), Out(0)])
        .call("proxy_resolve_shared_queue", [b("a"), b("q"), Out(0)])
        .call("proxy_enqueue_shared_queue", [Read(0), b("one")])
        .call("proxy_enqueue_shared_queue", [Read(0), b("")])
        .call("proxy_enqueue_shared_queue", [N(0), b("x")])
        .call("proxy_dequeue_shared_queue", [Read(0), Out(3), Out(4)])
        .call("keep", [b("item"), Out(3), Out(4)])
        .call("proxy_dequeue_shared_queue", [Read(0), Out(3), Out(4)])
        .call("proxy_dequeue_shared_queue", [Read(0), Out(3), Out(4)])
        .call("proxy_dequeue_shared_queue", [N(0), Out(3), Out(4)]);
    let (_, exchange) = run_in(&shared, "b", Limits::default(), use_it);
    assert_eq!(results(&exchange, On::RequestHeaders), [1, 1, 0, 0, 0, 1, 0, 0, 0, 7, 1]);
    assert_eq!(kept(&exchange, "item"), b"one");
}

#[test]
fn queues_are_limited() {
    let (shared, _) = shared();
    let limits = Limits { queues: 1, queue_items: 2, queue_bytes: 4, ..Limits::default() };
    let fill = program()
        .call("proxy_register_shared_queue", [b("q"), Out(0)])
        .call("proxy_register_shared_queue", [b("r"), Out(1)])
        .call("proxy_enqueue_shared_queue", [Read(0), b("12345")])
        .call("proxy_enqueue_shared_queue", [Read(0), b("1")])
        .call("proxy_enqueue_shared_queue", [Read(0), b("1")])
        .call("proxy_enqueue_shared_queue", [Read(0), b("1")]);
    let (_alive, exchange) = run_in(&shared, "", limits, fill);
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 10, 1, 0, 0, 1]);
    assert_eq!(shared.quotas()[0].refused, 3);
}

#[test]
fn metrics_are_added_up_over_instances_and_can_be_exported() {
    let (shared, _) = shared();
    let measure = || {
        program()
            .call("proxy_define_metric", [N(0), b("calls"), Out(0)])
            .call("proxy_define_metric", [N(1), b("open"), Out(1)])
            .call("proxy_define_metric", [N(2), b("time"), Out(2)])
            .call("proxy_define_metric", [N(3), b("bad kind"), Out(3)])
            .call("proxy_define_metric", [N(0), b(b"\xff"), Out(3)])
            .call("proxy_increment_metric", [Read(0), N(2)])
            .call("proxy_record_metric", [Read(0), N(3)])
            .call("proxy_increment_metric", [Read(0), N(u32::MAX)])
            .call("proxy_record_metric", [Read(1), N(7)])
            .call("proxy_increment_metric", [Read(1), N(u32::MAX)])
            .call("proxy_record_metric", [Read(2), N(30)])
            .call("proxy_increment_metric", [Read(2), N(1)])
            .call("proxy_get_metric", [Read(0), Out(4)])
            .call("proxy_get_metric", [Read(2), Out(5)])
            .call("proxy_get_metric", [N(12345), Out(5)])
            .call("proxy_record_metric", [N(0), N(1)])
            .call("proxy_set_property", [b("value"), N(0x8020), N(8)])
    };
    let (_one, exchange) = run_in(&shared, "", Limits::default(), measure());
    assert_eq!(results(&exchange, On::RequestHeaders), [0, 0, 0, 2, 2, 0, 0, 2, 0, 0, 0, 2, 0, 2, 1, 1, 0]);
    assert_eq!(kept(&exchange, "value"), 5u64.to_le_bytes());
    let (_two, exchange) = run_in(&shared, "", Limits::default(), measure());
    assert_eq!(kept(&exchange, "value"), 10u64.to_le_bytes(), "the same metric");

    let samples = shared.metrics();
    let names: Vec<_> = samples.iter().map(|sample| (&*sample.plugin, &*sample.name)).collect();
    assert_eq!(names, [("scripted", "calls"), ("scripted", "open"), ("scripted", "time")]);
    assert_eq!((&samples[0].value, &samples[1].value), (&MetricValue::Counter(10), &MetricValue::Gauge(6)));
    let MetricValue::Histogram(time) = &samples[2].value else { panic!("{samples:?}") };
    assert_eq!((time.count, time.sum, time.buckets[4], time.buckets[5]), (2, 60, 0, 2));
}

#[test]
fn metrics_beyond_the_limit_take_values_and_are_not_exported() {
    let (shared, _) = shared();
    let flood = (0..50u32).fold(program(), |program, index| {
        program
            .call("proxy_define_metric", [N(0), b(format!("m{index}")), Out(0)])
            .call("proxy_increment_metric", [Read(0), N(1)])
    });
    let (_alive, exchange) = run_in(&shared, "", Limits { metrics: 10, ..Limits::default() }, flood);
    assert!(results(&exchange, On::RequestHeaders).iter().all(|status| *status == 0));
    assert_eq!(shared.metrics().len(), 10);
    assert_eq!((shared.quotas()[0].quota, shared.quotas()[0].refused), (Quota::Metrics, 40));
}
