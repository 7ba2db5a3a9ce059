//! Several plugins: in which order they run, where, and on what.

use super::get;
use gateway_tests::gateway::Setup;
use gateway_tests::plugins::probe;
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;
use std::net::{Ipv4Addr, SocketAddr};

#[tokio::test]
async fn phases_then_priorities_then_age_and_responses_backwards() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let created = |plugin: String, time: &str| {
        plugin.replace("namespace: default", &format!("namespace: default, creationTimestamp: '{time}'"))
    };
    let plugins = [
        probe("unset-late", "", ""),
        probe("unset-early", "", ""),
        created(probe("unset-young", "", ""), "2024-05-01T00:00:00Z"),
        created(probe("unset-old", "", ""), "2023-05-01T00:00:00Z"),
        probe("everywhere", "", "").replace("namespace: default", "namespace: istio-system"),
        probe("negative", "", "priority: -5"),
        probe("ten", "", "priority: 10"),
        probe("stats", "", "phase: STATS"),
        probe("authz", "", "phase: AUTHZ\npriority: -1000"),
        probe("authn", "", "phase: AUTHN"),
        probe("authn-first", "", "phase: AUTHN\npriority: 1"),
    ];
    let gateway =
        Setup::new().file("all.yaml", everything_to(&upstream)).file("plugins.yaml", plugins.concat()).start().await;
    let gateway = gateway.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let expected = [
        "authn-first",
        "authn",
        "authz",
        "stats",
        "ten",
        "negative",
        "unset-old",
        "unset-young",
        "unset-late",
        "unset-early",
        "everywhere",
    ];
    let response = get(&mut gateway.client().await.unwrap(), "/", "").await;
    assert_eq!(upstream.received(1).await.unwrap()[0].header_values("x-trace"), expected);
    let mut seen = response.header_values("x-trace");
    seen.reverse();
    assert_eq!(seen, expected);

    // What operators see is what runs.
    let listed = gateway.admin_json("/plugins").await.unwrap();
    let names: Vec<_> = listed["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["name"]).collect();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn plugins_of_others_and_of_other_ports_do_not_run() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    // The port that is bound counts, so this test has to choose one.
    let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let ports = format!("match: [{{mode: SERVER}}, {{ports: [{{number: {port}}}]}}]");
    let plugins = [
        probe("selected", "", "selector: {matchLabels: {istio: ingressgateway}}"),
        probe("not-selected", "", "selector: {matchLabels: {istio: egressgateway}}"),
        probe("elsewhere", "", "").replace("namespace: default", "namespace: team"),
        probe("declared-port", "", "match: [{ports: [{number: 81}]}]"),
        probe("server", "", "match: [{mode: SERVER}]"),
        probe("this-port", "", &ports),
    ];
    let two_ports =
        GATEWAY.replace("servers:", "servers:\n  - port: {number: 81, name: two, protocol: HTTP}\n    hosts: ['*']");
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream).replace(GATEWAY, &two_ports))
        .file("plugins.yaml", plugins.concat())
        .options(|options| {
            options.config.bind.insert(81, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        })
        .start()
        .await
        .unwrap();
    let mut one = gateway.client().await.unwrap();
    assert_eq!(get(&mut one, "/", "").await.header_values("x-trace"), ["selected"]);
    let mut other = gateway_tests::client::RawClient::connect(gateway.address(81).unwrap()).await.unwrap();
    assert_eq!(get(&mut other, "/", "").await.header_values("x-trace"), ["this-port", "selected"]);
}

#[tokio::test]
async fn plugins_see_answers_that_no_upstream_gave() {
    let routes = "
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new}
  - match: [{uri: {prefix: /direct}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - match: [{uri: {prefix: /gone}}]
    route: [{destination: {host: nowhere}}]";
    let gateway = Setup::new()
        .file("all.yaml", GATEWAY.to_owned() + &virtual_service("routes", &["test.example.dev"], routes))
        .file("plugin.yaml", probe("p", "response_body=upper", ""))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    for (path, status, body) in
        [("/old", 301, ""), ("/direct", 418, "SHORT AND STOUT"), ("/gone", 503, ""), ("/unknown", 404, "")]
    {
        let response = get(&mut client, path, "").await;
        assert_eq!((response.status, response.text().as_str()), (status, body), "{path}");
        assert_eq!(response.header_values("x-trace"), ["p"], "{path}");
    }
    let response = get(&mut client, "/direct", "x-probe-p: request_headers=set::authority,other.example.dev").await;
    assert_eq!((response.status, response.header("x-trace")), (404, Some("p")), "another host has no routes");
}

#[tokio::test]
async fn a_changed_path_or_host_is_routed_as_such() {
    let (one, two) = (Upstream::start(Protocol::Http1).await.unwrap(), Upstream::start(Protocol::Http1).await.unwrap());
    let to = |service: &str| format!("  - route: [{{destination: {{host: {service}}}}}]");
    let by_path =
        format!("  - match: [{{uri: {{prefix: /two}}}}]\n    route: [{{destination: {{host: two}}}}]\n{}", to("one"));
    let configuration = GATEWAY.to_owned()
        + &service("one", &[&one])
        + &service("two", &[&two])
        + &virtual_service("test", &["test.example.dev"], &by_path)
        + &virtual_service("other", &["other.example.dev"], &to("two"));
    let gateway =
        Setup::new().file("all.yaml", configuration).file("plugin.yaml", probe("p", "", "")).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for (count, (script, path, host)) in [
        ("request_headers=set::path,/two/x?y=1", "/two/x?y=1", "test.example.dev"),
        ("request_headers=set::authority,other.example.dev", "/", "other.example.dev"),
        // Also when the change comes late.
        ("request_headers=set::path,/two;request_headers=pause", "/two", "test.example.dev"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(get(&mut client, "/", &format!("x-probe-p: {script}")).await.status, 200);
        let request = two.received(count + 1).await.unwrap().pop().unwrap();
        assert_eq!((request.target.as_str(), request.header("host")), (path, Some(host)));
    }
    assert!(one.requests().is_empty());
    // A method that would frame the response differently than the client expects does no harm.
    let response = get(&mut client, "/", "x-probe-p: request_headers=set::method,HEAD").await;
    assert_eq!((response.status, response.body.len()), (200, 0));
    assert_eq!(get(&mut client, "/", "").await.status, 200);
}

#[tokio::test]
async fn properties_are_those_of_the_stream() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .file("plugin.yaml", probe("p", "", "pluginName: the-root"))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    let script =
        |at: &str, names: &[&str]| -> String { names.iter().map(|name| format!("{at}=property:{name};")).collect() };
    let request =
        ["request.path", "request.host", "request.method", "request.headers.x-a", "plugin_name", "plugin_root_id"];
    let response = ["response.code", "upstream.address", "source.address", "request.protocol", "no.such"];
    let headers = format!(
        "x-a: b\r\nx-probe-p: {}{}",
        script("request_headers", &request),
        script("response_headers", &response)
    );
    let answer = get(&mut client, "/path?q=1", &headers).await;
    let sent = upstream.received(1).await.unwrap().remove(0);
    assert_eq!(
        sent.header_values("x-property"),
        [
            "request.path=/path?q=1",
            "request.host=test.example.dev",
            "request.method=GET",
            "request.headers.x-a=b",
            "plugin_name=default.p",
            "plugin_root_id=the-root"
        ]
    );
    let properties = answer.header_values("x-property");
    assert_eq!(properties[0], "response.code=200");
    assert_eq!(properties[1], format!("upstream.address={}", upstream.address()));
    assert!(properties[2].starts_with("source.address=127.0.0.1:"), "{properties:?}");
    assert_eq!(properties[3..], ["request.protocol=HTTP/1.1", "no.such=none"]);
}
