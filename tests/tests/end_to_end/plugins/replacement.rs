//! Plugins that are replaced while requests pass them.

use gateway_tests::client::RawClient;
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{FORM, ask, form, module_bytes, variant};
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

const CONNECTIONS: usize = 8;
const REPLACEMENTS: usize = 50;

async fn replace(gateway: &TestGateway, module: &[u8], number: usize) {
    let settings = format!(r#"{{"pluginConfig": {{"name": "v{number}"}}}}"#);
    // Now and then only the configuration is new, which is a new version as well.
    let other = variant(module, &(number / 8).to_string());
    let body = form(&[("module", &other), ("settings", settings.as_bytes())]);
    let (status, shown) = ask(gateway, "PUT", "/plugins/changing", FORM, &body).await.unwrap();
    assert!(status == 200 || status == 201, "{status} {shown}");
}

/// Asks until told to stop; gives the number of requests. Each of them was answered, and by one version.
async fn requests(mut client: RawClient, stop: Arc<AtomicBool>, served: Arc<AtomicUsize>) {
    while !stop.load(Relaxed) {
        let response = client.get("test.example.dev", "/").await.unwrap();
        assert_eq!(response.status, 200);
        let (request, response) = (response.header_values("x-seen"), response.header_values("x-trace"));
        assert_eq!((request.len(), &request), (1, &response), "the request's plugin and the response's");
        served.fetch_add(1, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_request_fails_while_a_plugin_is_replaced() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(|request| Answer::new(200).header("x-seen", request.header_values("x-trace").join(",")));
    let gateway = Setup::new().workers(2).file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let module = module_bytes("probe");
    replace(&gateway, &module, 0).await;

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(requests(gateway.client().await.unwrap(), Arc::clone(&stop), Arc::clone(&served)));
    }
    for number in 1..=REPLACEMENTS {
        let before = served.load(Relaxed);
        replace(&gateway, &module, number).await;
        // What was acknowledged is what the next request gets.
        let response = gateway.client().await.unwrap().get("test.example.dev", "/").await.unwrap();
        assert_eq!(response.header("x-trace"), Some(&*format!("v{number}")));
        eventually("requests between two replacements", async || Ok((served.load(Relaxed) > before).then_some(())))
            .await
            .unwrap();
    }
    stop.store(true, Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }

    let requests = served.load(Relaxed);
    assert!(requests >= REPLACEMENTS, "{requests} requests");
    // Every version but the last is gone with its instances.
    gateway.metric_becomes("gateway_plugin_instances", &[("plugin", "changing")], 4.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_plugin_failed_streams_total", &[]), 0.0);
    assert_eq!(metrics.sum("gateway_limit_exceeded_total", &[("limit", "plugin_instances")]), 0.0);
    assert!(metrics.sum("gateway_plugin_memory_bytes", &[]) < 4.0 * 4e6);
}
