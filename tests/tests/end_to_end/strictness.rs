//! The corpus of what is not as it should be (`gateway_tests::strict`): what clients get, and what reaches the service,
//! from each version of HTTP to each.

use gateway::telemetry::LogFormat;
use gateway_tests::PATIENCE;
use gateway_tests::certificates::Authority;
use gateway_tests::client::RawClient;
use gateway_tests::gateway::Setup;
use gateway_tests::resources::{GATEWAY, everything_to, https_gateway, secret, service, virtual_service};
use gateway_tests::server::Protocol::{Http1, Http2};
use gateway_tests::strict::rows::{GROUPS, ROWS};
use gateway_tests::strict::{Case, Cut, HOST, Ours, Service, Size, corpus, exchange};
use gateway_tests::tls::TlsClient;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use std::collections::BTreeSet;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends the cases of a group to both services.
async fn run(group: &str, cuts: &[Cut]) {
    let ours = Ours::start().await.unwrap();
    let mut wrong = Vec::new();
    for case in corpus(Size::Small).iter().filter(|case| case.row.starts_with(group)) {
        for upstream in case.upstreams {
            let (front, recorder) = ours.front(case, *upstream).unwrap();
            for cut in cuts {
                let seen = exchange(case, front, recorder, PATIENCE, *cut).await.unwrap();
                if !case.accepts(&seen) {
                    let Case { row, what, client, .. } = case;
                    wrong.push(format!(
                        "{row} {client:?} to {upstream:?}, cut {cut:?}: {what}\n  expected: {}\n  was:      {}",
                        case.expected(),
                        seen.text(case)
                    ));
                }
            }
        }
    }
    ours.gateway().metric_becomes("gateway_requests_in_flight", &[], 0.0).await.unwrap();
    ours.gateway().metric_becomes("gateway_panics_total", &[], 0.0).await.unwrap();
    for upstream in [Http1, Http2] {
        let (front, recorder) = ours.over(upstream).unwrap();
        recorder.behave(Service::Answers);
        let mut client = RawClient::connect(front).await.unwrap();
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200, "{upstream:?}");
    }
    assert!(wrong.is_empty(), "{} are not as they should be:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn framing() {
    run("A", &[Cut::Nowhere, Cut::Everywhere]).await;
}

#[tokio::test]
async fn limits() {
    run("B", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn http2() {
    run("C", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn names() {
    run("D", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn upgrades() {
    run("E", &[Cut::Nowhere, Cut::Everywhere]).await;
}

#[tokio::test]
async fn tls() {
    run("F", &[Cut::Nowhere]).await;
}

#[tokio::test]
async fn services() {
    run("G", &[Cut::Nowhere]).await;
}

#[test]
fn every_row_of_the_table_is_covered() {
    let ids: Vec<_> = ROWS.iter().map(|row| row.id.to_owned()).collect();
    let wanted: Vec<_> =
        GROUPS.iter().flat_map(|(letter, rows)| (1..=*rows).map(move |number| format!("{letter}-{number}"))).collect();
    assert_eq!(ids, wanted, "the rows of the table");
    let corpus = corpus(Size::Small);
    let with_cases: BTreeSet<_> = corpus.iter().map(|case| case.row).collect();
    for row in ROWS {
        assert!(with_cases.contains(row.id) || !row.tests.is_empty() || !row.missing.is_empty(), "{}", row.id);
        for test in row.tests {
            let (module, name) = test.rsplit_once("::").unwrap();
            let file = format!("tests/end_to_end/{}.rs", module.replace("::", "/"));
            let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
            assert!(source.contains(&format!("fn {name}()")), "{}: there is no test {name} in {file}", row.id);
        }
    }
    assert!(with_cases.iter().all(|id| wanted.iter().any(|row| row == id)), "a case of no row: {with_cases:?}");
}

#[tokio::test]
async fn hostile_values_are_one_line_of_the_log() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let values: [&[u8]; 4] = [b"\"}{\"a\":\"", b"\\", b"\xff\xfe", b"%s %n ${jndi:x} <script>"];
    for format in [LogFormat::Json, LogFormat::Text] {
        let gateway =
            Setup::new().file("all.yaml", everything_to(&upstream)).access_log(format.clone()).start().await.unwrap();
        let mut client = gateway.client().await.unwrap();
        for value in values {
            let mut request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: ").into_bytes();
            request.extend(value);
            request.extend(b"\r\n\r\n");
            client.send(request).await.unwrap();
            assert_eq!(client.response().await.unwrap().status, 200);
        }
        for line in gateway.access_log(values.len()).await.unwrap() {
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
            if matches!(format, LogFormat::Json) {
                let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(line["response_code"], 200, "{line}");
            }
        }
    }
}

#[tokio::test]
async fn redirects_never_lead_elsewhere() {
    let routes = "
  - match: [{uri: {prefix: /}}]
    redirect: {scheme: https}";
    let gateway = Setup::new()
        .file("all.yaml", GATEWAY.to_owned() + &virtual_service("v", &["*"], routes))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    for path in
        ["//evil.example/", "//evil.example/%2e%2e", "/\\evil.example", "/%0d%0aset-cookie:%20a", "/a?b=%0d%0ac"]
    {
        let response = client.get(HOST, path).await.unwrap();
        let location = response.header("location").unwrap();
        assert_eq!(response.status, 301, "{path}");
        assert!(location.starts_with(&format!("https://{HOST}/")), "{path}: {location}");
        assert_eq!(response.header("set-cookie"), None, "{path}");
    }
}

#[tokio::test]
async fn regular_expressions_take_linear_time() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let routes = "
  - match: [{uri: {regex: '/(a+)+b'}}]
    directResponse: {status: 403}
  - route: [{destination: {host: sample}}]";
    let all = GATEWAY.to_owned() + &service("sample", &[&upstream]) + &virtual_service("v", &["*"], routes);
    let gateway = Setup::new().file("all.yaml", all).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    let path = format!("/{}", "a".repeat(50_000));
    assert_eq!(client.get(HOST, &path).await.unwrap().status, 200);
    assert_eq!(client.get(HOST, &(path + "b")).await.unwrap().status, 403);
    // What is too large is refused, and what served before goes on.
    let large = routes.replace("(a+)+b", &"a".repeat(10_000));
    let all = GATEWAY.to_owned() + &service("sample", &[&upstream]) + &virtual_service("v", &["*"], &large);
    gateway.write("all.yaml", &all).await.unwrap();
    assert!(!gateway.problems().is_empty());
    assert_eq!(client.get(HOST, "/ab").await.unwrap().status, 403);
}

#[tokio::test]
async fn clients_that_leave_leave_nothing_behind() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let never = Gate::shut();
    upstream.answer_with(move |_| Answer::new(200).after(&never));
    for number in 1..=200 {
        let mut client = gateway.client().await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
        upstream.received(number).await.unwrap();
        if number % 2 == 0 { client.reset().unwrap() } else { drop(client) }
    }
    upstream.open_connections(0).await.unwrap();
    for gauge in ["gateway_requests_in_flight", "gateway_downstream_connections", "gateway_upstream_connections"] {
        gateway.metric_becomes(gauge, &[], 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn bytes_inside_tls_are_what_was_agreed_on() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let authority = Authority::new("tests").unwrap();
    let server = authority.server(&[HOST]).unwrap();
    let gateway = Setup::new()
        .file("gateway.yaml", https_gateway("gateway", &[HOST], "mode: SIMPLE, credentialName: cert"))
        .file("secret.yaml", secret("cert", &server, None))
        .file("service.yaml", service("sample", &[&upstream]))
        .file("route.yaml", virtual_service("all", &["*"], "  - route: [{destination: {host: sample}}]"))
        .start()
        .await
        .unwrap();
    let address = gateway.address(443).unwrap();
    let client = TlsClient::new(&[&authority]).unwrap();
    // HTTP/1.1 where HTTP/2 was agreed on, and an upgrade to it where nothing was.
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned();
    let get = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    for (alpn, bytes) in [(&["h2"][..], &get), (&["http/1.1"], &preface)] {
        let mut stream = client.connect(address, HOST, alpn).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut came = Vec::new();
        // However it ends.
        let _ = gateway_tests::within("the end", stream.read_to_end(&mut came)).await.unwrap();
        assert!(!came.starts_with(b"HTTP/1.1 200"), "{alpn:?}: {}", came.escape_ascii());
    }
    assert_eq!(upstream.connections(), 0);
    // A connection that ends without TLS' own goodbye ends no body.
    for length in ["content-length: 10\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut stream = client.connect(address, HOST, &["http/1.1"]).await.unwrap();
        stream.write_all(format!("POST / HTTP/1.1\r\nhost: {HOST}\r\n{length}").as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        upstream.open_connections(0).await.unwrap();
    }
    assert!(upstream.requests().iter().all(|request| !request.complete));
}
