//! What operators see of plugins.

use super::get;
use gateway_tests::gateway::Setup;
use gateway_tests::plugins::probe;
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;

#[tokio::test]
async fn calls_times_and_memory_are_counted_per_plugin() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .workers(2)
        .file("all.yaml", everything_to(&upstream))
        .file("plugins.yaml", probe("a", "", "") + &probe("b", "request_headers=reply:403", ""))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    for _ in 0..3 {
        assert_eq!(get(&mut client, "/", "").await.status, 403);
    }
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    client.response().await.unwrap();
    let labels = [("namespace", "default"), ("plugin", "a")];
    gateway.metric_becomes("gateway_plugin_streams_total", &labels, 4.0).await.unwrap();
    gateway.metric_becomes("probe_logged_streams", &[("plugin", "default.a")], 4.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    for (plugin, callback, count) in [
        ("a", "request_headers", 4.0),
        ("a", "request_body", 0.0),
        ("a", "response_headers", 4.0),
        ("a", "response_body", 4.0),
        ("a", "log", 4.0),
        ("a", "close", 4.0),
        ("b", "request_headers", 4.0),
        ("b", "close", 4.0),
    ] {
        let labels = [("plugin", plugin), ("callback", callback)];
        let name = "gateway_plugin_callback_duration_seconds_count";
        assert_eq!(metrics.sum(name, &labels), count, "{plugin} {callback}");
        assert_eq!(metrics.sum("gateway_plugin_callback_duration_seconds_sum", &labels) > 0.0, count > 0.0);
    }
    assert_eq!(metrics.sum("gateway_plugin_local_responses_total", &[("plugin", "b")]), 4.0);
    // Two workers, each with one that serves and one to replace it.
    assert_eq!(metrics.sum("gateway_plugin_instances", &labels), 4.0);
    assert!(metrics.sum("gateway_plugin_memory_bytes", &labels) >= 4.0 * 65536.0);
    // The plugin's own: one of each kind, summed over workers.
    assert_eq!(metrics.sum("probe_open_streams", &[("plugin", "default.a")]), 0.0);
    assert_eq!(metrics.sum("probe_request_body_bytes_count", &[("plugin", "default.a")]), 0.0);

    let view = gateway.admin_json("/plugins/a").await.unwrap();
    let stats = &view["stats"];
    assert_eq!((&stats["streams"], &stats["traps"], &stats["deadlines"]), (&4.into(), &0.into(), &0.into()));
    assert!(stats["memoryBytes"].as_u64().unwrap() >= 4 * 65536, "{stats}");
    assert!(stats["p50Micros"].as_f64().unwrap() <= stats["p99Micros"].as_f64().unwrap(), "{stats}");
}

#[tokio::test]
async fn a_histogram_of_a_plugin_is_exported_with_its_observations() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugins.yaml", probe("a", "", ""))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
    client.response().await.unwrap();
    gateway.metric_becomes("probe_request_body_bytes_count", &[], 1.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("probe_request_body_bytes_sum", &[]), 5.0);
    assert_eq!(metrics.sum("probe_request_body_bytes_bucket", &[("le", "+Inf")]), 1.0);
}

#[tokio::test]
async fn a_timer_runs_on_every_worker_also_when_nothing_happens() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .workers(2)
        .file("all.yaml", everything_to(&upstream))
        .file("plugins.yaml", probe("a", "start=tick", ""))
        .start()
        .await
        .unwrap();
    gateway.metric_becomes("probe_first_ticks", &[("plugin", "default.a")], 2.0).await.unwrap();
}
