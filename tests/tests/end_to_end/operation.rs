//! What operators see and do: metrics, the admin API, the log.

use gateway::telemetry::{LogFormat, SourceIdentity};
use gateway_tests::body::Outgoing;
use gateway_tests::certificates::Authority;
use gateway_tests::client::{RawClient, unused_address};
use gateway_tests::eventually;
use gateway_tests::gateway::Setup;
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, everything_to, https_gateway, secret, virtual_service};
use gateway_tests::server::Protocol::{Http1, Http2};
use gateway_tests::tls::TlsClient;
use gateway_tests::upstream::{Answer, Upstream};
use http::Request;

const HOST: &str = "test.example.dev";

#[tokio::test]
async fn requests_are_counted_with_istios_labels() {
    let upstream = Upstream::start(Http1).await.unwrap();
    upstream.answer_with(|_| Answer::new(200).text("hello"));
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .options(|options| {
            options.telemetry.identity = SourceIdentity {
                workload: "istio-ingressgateway".to_owned(),
                namespace: "istio-system".to_owned(),
                app: "istio-ingressgateway".to_owned(),
                ..SourceIdentity::default()
            }
        })
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    for _ in 0..3 {
        client.get(HOST, "/").await.unwrap();
    }
    gateway.metric_becomes("istio_requests_total", &[], 3.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    let series: Vec<_> = metrics.series("istio_requests_total", &[]).collect();
    assert_eq!(series.len(), 1, "{series:#?}");
    for (label, value) in [
        ("reporter", "source"),
        ("source_workload", "istio-ingressgateway"),
        ("source_workload_namespace", "istio-system"),
        ("source_app", "istio-ingressgateway"),
        ("source_canonical_revision", "latest"),
        ("destination_service", "sample.default.svc.cluster.local"),
        ("destination_service_name", "sample"),
        ("destination_service_namespace", "default"),
        ("destination_workload", "unknown"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
        ("connection_security_policy", "unknown"),
    ] {
        assert_eq!(series[0].labels.get(label).map(String::as_str), Some(value), "{label}");
    }
    assert_eq!(metrics.sum("istio_request_duration_milliseconds_count", &[("response_code", "200")]), 3.0);
    assert_eq!(metrics.sum("istio_request_duration_milliseconds_bucket", &[("le", "+Inf")]), 3.0);
    assert_eq!(metrics.sum("istio_response_bytes_count", &[]), 3.0);
    assert!(metrics.sum("istio_response_bytes_sum", &[]) >= 3.0 * 5.0);
    assert_eq!(metrics.sum("istio_build", &[("component", "proxy")]), 1.0);
    // The agent's address shows the same.
    let agent = gateway.gateway().admin().agent;
    for path in ["/stats/prometheus", "/metrics"] {
        let response = RawClient::connect(agent).await.unwrap().get(&agent.to_string(), path).await.unwrap();
        assert!(response.text().contains("istio_requests_total{reporter=\"source\""), "{path}");
    }
}

#[tokio::test]
async fn operators_see_what_is_served() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let clusters = gateway.admin_json("/clusters").await.unwrap();
    let cluster = &clusters["clusters"][0];
    assert_eq!(cluster["name"], "outbound|80||sample.default.svc.cluster.local");
    assert_eq!(cluster["endpoints"][0]["address"], upstream.address().to_string());
    let listeners = gateway.admin_json("/listeners").await.unwrap();
    assert_eq!(
        (&listeners["listeners"][0]["declaredPort"], &listeners["listeners"][0]["hosts"][0]),
        (&80.into(), &"*".into())
    );
    let dump = gateway.admin_json("/config_dump").await.unwrap();
    let route = &dump["listeners"][0]["virtualHosts"][0]["routes"][0];
    assert_eq!(route["virtualService"], "default/everything");
    assert_eq!(route["route"][0]["cluster"], cluster["name"]);
    assert_eq!(gateway.admin_json("/problems").await.unwrap()["problems"].as_array().unwrap().len(), 1, "the marker");
    assert_eq!(gateway.admin("/nothing").await.unwrap().status, 404);
    let addresses = gateway.gateway().admin();
    for address in [addresses.admin, addresses.agent, addresses.status] {
        let response = RawClient::connect(address).await.unwrap().get(&address.to_string(), "/healthz/ready").await;
        assert_eq!(response.unwrap().status, 200);
    }
}

#[tokio::test]
async fn ready_means_that_the_first_configuration_serves() {
    let (address, status) = (unused_address().unwrap(), unused_address().unwrap());
    let one = |n: usize| {
        let answer = format!("  - directResponse: {{status: 200, body: {{string: '{n}'}}}}");
        virtual_service(&format!("v{n}"), &[&format!("host-{n}.example")], &answer)
    };
    let routes: String = (0..500).map(one).collect();
    let setup = Setup::new().workers(2).file("gateway.yaml", GATEWAY).file("routes.yaml", routes).options(|options| {
        options.config.bind.insert(80, address);
        options.addresses.status = status;
    });
    let starting = tokio::spawn(setup.start());
    let ready = async || {
        let Ok(mut client) = RawClient::connect(status).await else { return Ok(None) };
        let response = client.get(&status.to_string(), "/healthz/ready").await?;
        assert!([200, 503].contains(&response.status), "{response:?}");
        Ok((response.status == 200).then_some(()))
    };
    eventually("the gateway to be ready", ready).await.unwrap();
    let response = RawClient::connect(address).await.unwrap().get("host-499.example", "/").await.unwrap();
    assert_eq!(response.text(), "499");
    starting.await.unwrap().unwrap();
}

#[tokio::test]
async fn each_address_answers_what_istios_does() {
    let gateway = Setup::new().file("gateway.yaml", GATEWAY).start().await.unwrap();
    let addresses = gateway.gateway().admin();
    let admin = ["/ready", "/server_info", "/stats", "/certs", "/logging", "/config_dump", "/listeners", "/clusters"];
    for (address, yes, no) in [
        (
            addresses.admin,
            &["/stats/prometheus", "/healthz/ready", "/ready", "/stats", "/certs"][..],
            &["/metrics"][..],
        ),
        (addresses.agent, &["/stats/prometheus", "/metrics", "/healthz/ready"], &admin),
        (addresses.status, &["/healthz/ready"], &["/stats/prometheus", "/metrics", "/quitquitquit", "/ready"]),
        (addresses.metrics, &["/stats/prometheus"], &["/healthz/ready", "/metrics", "/quitquitquit", "/stats"]),
    ] {
        let mut client = RawClient::connect(address).await.unwrap();
        for (paths, status) in [(yes, 200), (no, 404)] {
            for path in paths {
                let response = client.get(&address.to_string(), path).await.unwrap();
                assert_eq!(response.status, status, "{path}: {}", response.text());
            }
        }
    }
    // Web pages cannot use the new paths either.
    let mut client = RawClient::connect(addresses.admin).await.unwrap();
    client.send("POST /healthcheck/fail HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 403);
}

#[tokio::test]
async fn numbers_are_shown_as_lines_and_can_be_filtered() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    gateway.metric_becomes("istio_requests_total", &[], 1.0).await.unwrap();
    let text = gateway.admin("/stats?filter=^gateway_(workers|panics)").await.unwrap().text();
    assert_eq!(text, "gateway_panics_total: 0\ngateway_workers: 1\n");
    let used = gateway.admin("/stats?filter=^gateway_(workers|panics)&usedonly").await.unwrap().text();
    assert_eq!(used, "gateway_workers: 1\n");
    let json = gateway.admin_json("/stats?format=json&filter=istio_requests_total").await.unwrap();
    let stats = json["stats"].as_array().unwrap();
    assert!(stats.len() == 1 && stats[0]["value"] == 1, "{json}");
    assert!(stats[0]["name"].as_str().unwrap().starts_with("istio_requests_total{reporter="), "{json}");
    let scraped = gateway.admin("/stats?format=prometheus&filter=^istio_build").await.unwrap().text();
    assert!(scraped.starts_with("# HELP istio_build") && scraped.lines().count() == 3, "{scraped}");
    for bad in ["filter=(", "format=xml"] {
        assert_eq!(gateway.admin(&format!("/stats?{bad}")).await.unwrap().status, 400);
    }
    assert_eq!(gateway.admin("/certs").await.unwrap().status, 200);
}

/// The log belongs to the process, so this needs one.
#[tokio::test]
async fn operators_choose_what_is_logged() {
    let home = tempfile::tempdir().unwrap();
    let answer = "  - directResponse: {status: 200, body: {string: 'here'}}";
    let text = GATEWAY.to_owned() + &virtual_service("v", &[HOST], answer);
    std::fs::write(home.path().join("all.yaml"), text).unwrap();
    let program = env!("CARGO_BIN_EXE_gateway-command");
    let process = Process::start(program, home.path(), &[]).await.unwrap();
    let admin = process.admin().unwrap();
    let ask = async |method: &str, path: &str| {
        let mut client = RawClient::connect(admin).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\n\r\n");
        client.send(head).await.unwrap();
        let response = client.response().await.unwrap();
        (response.status, response.text())
    };
    assert_eq!(ask("GET", "/logging").await, (200, "info\n".to_owned()));
    assert_eq!(ask("POST", "/logging?paths=http:debug").await, (200, "info,gateway::http=debug\n".to_owned()));
    // Not HTTP: the connection ends with an error, which is a debug line of the request path.
    let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
    client.send("\0\0\0\0\r\n\r\n").await.unwrap();
    let debug = async || Ok(process.log().contains("DEBUG gateway::http").then_some(()));
    eventually("a debug line", debug).await.unwrap();
    assert_eq!(ask("POST", "/logging?level=error").await, (200, "error\n".to_owned()));
    for bad in ["/logging", "/logging?level=loud", "/logging?paths=http"] {
        assert_eq!(ask("POST", bad).await.0, 400, "{bad}");
    }
    assert_eq!(ask("GET", "/logging").await.1, "error\n");
}

/// A gRPC message of so many bytes.
fn message(length: u8) -> Vec<u8> {
    [&[0, 0, 0, 0, length][..], &vec![b'x'; usize::from(length)]].concat()
}

#[tokio::test]
async fn grpc_messages_are_counted_while_the_stream_lasts() {
    let upstream = Upstream::start(Http2).await.unwrap();
    let (answer, body) = Answer::streamed(200);
    upstream.answer_next(answer.header("content-type", "application/grpc"));
    let setup = Setup::new().file("all.yaml", everything_to(&upstream));
    let gateway = setup.start().await.unwrap();
    let request = Request::post(format!("http://{HOST}/service/Method"))
        .header("content-type", "application/grpc")
        .body(Outgoing::full([message(3), message(0)].concat()))
        .unwrap();
    let response = gateway.h2_client().await.unwrap().send(request).await.unwrap();
    let (first, second) = (message(200), message(7));
    body.send(first[..50].to_vec()).await.unwrap();
    body.send([&first[50..], &second[..2]].concat()).await.unwrap();
    gateway.metric_becomes("istio_response_messages_total", &[], 1.0).await.unwrap();
    body.send(second[2..].to_vec()).await.unwrap();
    gateway.metric_becomes("istio_response_messages_total", &[], 2.0).await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    let series: Vec<_> = metrics.series("istio_request_messages_total", &[]).collect();
    assert_eq!((series.len(), series[0].value), (1, 2.0), "{series:?}");
    assert_eq!(series[0].labels["destination_service_name"], "sample");
    assert!(!series[0].labels.contains_key("response_code"), "as in Istio");
    drop(body);
    drop(http_body_util::BodyExt::collect(response.into_body()).await.unwrap());
    gateway.metric_becomes("istio_requests_total", &[("request_protocol", "grpc")], 1.0).await.unwrap();
}

#[tokio::test]
async fn certificates_are_listed_and_tls_is_logged() {
    let authority = Authority::new("tests").unwrap();
    let issued = authority.server(&["a.example.dev", "*.example.dev"]).unwrap();
    let answer = "  - directResponse: {status: 200, body: {string: 'here'}}";
    let format =
        "%DOWNSTREAM_TLS_VERSION% %REQUESTED_SERVER_NAME% %DOWNSTREAM_LOCAL_DNS_SAN% %DOWNSTREAM_PEER_SUBJECT%";
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &["*.example.dev"], "mode: SIMPLE, credentialName: own"))
        .file("secret.yaml", secret("own", &issued, None))
        .file("route.yaml", virtual_service("v", &["a.example.dev"], answer))
        .access_log(LogFormat::CustomText(format.to_owned()))
        .start()
        .await
        .unwrap();
    let shown = gateway.admin("/certs").await.unwrap().text();
    assert!(!shown.contains("PRIVATE") && !shown.contains("key"), "{shown}");
    let certificates: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let certificate = &certificates["certificates"][0]["cert_chain"][0];
    assert_eq!(
        certificate["subject_alt_names"],
        serde_json::json!([{ "dns": "a.example.dev" }, { "dns": "*.example.dev" }])
    );
    assert!(certificate["name"].as_str().unwrap().starts_with("https.443."), "{certificate}");
    assert!(!certificate["serial_number"].as_str().unwrap().is_empty());
    let days: f64 = certificate["days_until_expiration"].as_str().unwrap().parse().unwrap();
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("envoy_server_days_until_first_cert_expiring", &[]), days);
    assert_eq!(metrics.sum("envoy_listener_manager_total_listeners_active", &[]), 1.0);
    assert!(metrics.sum("process_resident_memory_bytes", &[]) > 1e6);

    let client = TlsClient::new(&[&authority]).unwrap();
    let mut client = client.http1(gateway.address(443).unwrap(), "a.example.dev").await.unwrap();
    assert_eq!(client.get("a.example.dev", "/").await.unwrap().text(), "here");
    assert_eq!(gateway.access_log(1).await.unwrap(), ["TLSv1.3 a.example.dev a.example.dev -"]);
}
