//! The plugin `basic-auth` in a gateway.

use super::get;
use gateway_tests::client::RawResponse;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{FORM, ask, example, form, module, module_bytes, wasm_plugin};
use gateway_tests::resources::{GATEWAY, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};

const HOST: &str = "intranet.example.dev";

/// A gateway with these plugins before everything.
async fn start(upstream: &Upstream, plugins: &str) -> TestGateway {
    upstream.answer_with(|_| Answer::new(200).text("hello"));
    let configuration = GATEWAY.to_owned()
        + &service("sample", &[upstream])
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]")
        + plugins;
    Setup::new().workers(2).file("all.yaml", configuration).start().await.unwrap()
}

async fn ask_for(gateway: &TestGateway, path: &str, headers: &str) -> RawResponse {
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n")).await.unwrap();
    client.response().await.unwrap()
}

/// The passwords of the README's example.
const ADA: &str = "authorization: Basic YWRhOmNvcnJlY3QgaG9yc2UgYmF0dGVyeSBzdGFwbGU=\r\n";
const GRACE: &str = "authorization: Basic Z3JhY2U6bmFub3NlY29uZHMgYXJlIGVsZXZlbiBwb2ludCBlaWdodCBpbmNoZXM=\r\n";
const GRACE_WRONG: &str = "authorization: Basic Z3JhY2U6c2VzYW1l\r\n";

#[tokio::test]
async fn the_example_lets_in_whom_it_says() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, &example("basic-auth")).await;
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    for (path, headers, status) in [
        ("/", "", 401),
        ("/", GRACE_WRONG, 401),
        ("/", GRACE, 200),
        ("/", ADA, 200),
        ("/health", "", 200),
        ("/reports/1", GRACE, 401),
        ("/reports/1", ADA, 200),
        ("/health/../reports", GRACE, 401),
        ("/health/%2e%2e%2freports", GRACE, 401),
        ("/health/..%2freports", "", 401),
        ("//REPORTS", GRACE, 401),
    ] {
        let response = ask_for(&gateway, path, headers).await;
        assert_eq!(response.status, status, "{path} {headers}");
        let challenge = (status == 401).then_some("Basic realm=\"Intranet\", charset=\"UTF-8\"");
        assert_eq!(response.header("www-authenticate"), challenge, "{path}");
    }
    assert_eq!(upstream.requests().len(), 4);
    gateway.metric_becomes("basic_auth_allowed_total", &[("plugin", "default.basic-auth")], 3.0).await.unwrap();
    gateway.metric_becomes("basic_auth_denied_total", &[], 7.0).await.unwrap();
}

#[tokio::test]
async fn the_upstream_learns_who_it_is_from_nobody_else() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, &example("basic-auth")).await;
    let claims = "X-Authenticated-User: root\r\nx_authenticated_user: root\r\n";
    assert_eq!(ask_for(&gateway, "/", &format!("{ADA}{claims}")).await.status, 200);
    assert_eq!(ask_for(&gateway, "/health", claims).await.status, 200);
    let requests = upstream.received(2).await.unwrap();
    assert_eq!(requests[0].header_values("x-authenticated-user"), ["ada"]);
    assert_eq!(requests[1].header("x-authenticated-user"), None);
    for request in requests {
        assert_eq!((request.header("x_authenticated_user"), request.header("authorization")), (None, None));
    }
}

/// `ada`, password `sesame`, with as many iterations as may be.
const SLOWEST: &str =
    "pbkdf2-sha256$20000$73616c7473616c74$b4b30d90215cd506e0191148517f64cd0c6a4bc0ae276a68e5b611328d5b0255";

#[tokio::test]
async fn the_slowest_password_is_checked_in_time_and_then_remembered() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let spec = format!("pluginConfig: {{checksPerSecond: 1000, users: {{ada: '{SLOWEST}'}}}}");
    let gateway = start(&upstream, &wasm_plugin("basic-auth", &module("basic-auth"), &spec)).await;
    let mut client = gateway.client().await.unwrap();
    // `ada:wrong`, `eve:sesame`, `ada:sesame`
    for (credentials, status) in
        [("YWRhOndyb25n", 401), ("ZXZlOnNlc2FtZQ==", 401), ("YWRhOnNlc2FtZQ==", 200), ("YWRhOnNlc2FtZQ==", 200)]
    {
        let response = get(&mut client, "/", &format!("authorization: Basic {credentials}")).await;
        assert_eq!(response.status, status, "{credentials}");
    }
    let metrics = gateway.metrics().await.unwrap();
    assert_eq!(metrics.sum("gateway_plugin_deadlines_total", &[]), 0.0);
    assert_eq!(metrics.sum("gateway_plugin_traps_total", &[]), 0.0);
}

#[tokio::test]
async fn a_configuration_that_is_not_right_is_refused_and_nothing_is_served_without_one() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, &wasm_plugin("closed", &module("basic-auth"), "pluginConfig: {user: {}}")).await;
    // In a file: the plugin counts as failed, and closed.
    let response = ask_for(&gateway, "/", ADA).await;
    assert!([403, 503].contains(&response.status), "{}", response.status);
    gateway.remove("all.yaml").await.unwrap();

    // Uploaded: refused with the field.
    let settings = r#"{"pluginConfig": {"users": {"ada": "sesame"}, "rules": [{"users": ["eve"]}]}}"#;
    let upload = form(&[("module", &module_bytes("basic-auth")), ("settings", settings.as_bytes())]);
    let (status, answer) = ask(&gateway, "PUT", "/plugins/basic-auth", FORM, &upload).await.unwrap();
    assert_eq!(status, 422, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("`users.ada`: must be pbkdf2-sha256$"), "{message}");
    assert!(message.contains("`rules[0].users[0]`: there is no user `eve`"), "{message}");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn no_credentials_can_end_the_plugin() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = start(&upstream, &example("basic-auth")).await;
    let mut client = gateway.client().await.unwrap();
    let long = "A".repeat(40_000);
    for value in ["", "Basic", "Basic ====", "Basic \u{e4}\u{ff}", "Basic /w==", "Negotiate", &format!("Basic {long}")]
    {
        let response = get(&mut client, "/%zz//%25%32%35", &format!("authorization: {value}")).await;
        assert_eq!(response.status, 401, "{}", value.get(..20).unwrap_or(value));
    }
    let escaped = format!("/%{}41", "25".repeat(15_000));
    assert_eq!(get(&mut client, &escaped, "").await.status, 401);
    assert_eq!(gateway.metrics().await.unwrap().sum("gateway_plugin_traps_total", &[]), 0.0);
}

#[test]
fn the_modules_are_small() {
    // The last one carries a machine for regular expressions.
    for (name, limit) in [("add-header", 150), ("basic-auth", 250), ("rewrite-body", 450)] {
        let bytes = module_bytes(name).len();
        assert!(bytes <= limit << 10, "{name}.wasm has {bytes} bytes");
    }
}
