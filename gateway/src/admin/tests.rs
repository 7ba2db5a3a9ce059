//! The admin API over its routers and over real sockets, with a real registry behind it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod changes;
mod sockets;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use axum::{body::Body, extract::Request};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use proxy_wasm_host::{Engine, EngineOptions, LogLine, LogSink, Shared};

use super::{guard::Ends, *};
use crate::{
    config::problem::Level,
    overload::OverloadOptions,
    plugins::{HeldBack, Outcome, Registry, RegistryOptions, Sources, prepare},
    snapshot::{
        Action, Conditions, DirectResponse, HeaderOps, HeaderTemplate, HeaderWrite, HostPattern, Listener, Route,
        RouteTable, Rule, Side, StringMatch, UriMatch, VirtualHost,
    },
    telemetry::TelemetryOptions,
};

struct NoLog;

impl LogSink for NoLog {
    fn log(&self, _: LogLine<'_>) {}
}

/// A gateway without workers: the admin API, and a control task that stages, prepares and commits.
struct Fixture {
    routers: Routers,
    readiness: watch::Sender<Readiness>,
    quits: Arc<AtomicUsize>,
}

fn limits() -> Limits {
    Limits { module_bytes: 4 << 10, settings_bytes: 1 << 10, ..Limits::default() }
}

pub(crate) fn state() -> (AdminState, watch::Sender<Readiness>, Arc<AtomicUsize>) {
    let engine = EngineOptions { max_instances: 20, max_memory_bytes: 64 << 20, ..EngineOptions::default() };
    let held_back = HeldBack::new().unwrap();
    let mut registry = Registry::new(RegistryOptions {
        held_back: held_back.clone(),
        sources: Sources::default(),
        data_dir: None,
        lock: None,
        namespace: "edge".into(),
        safe_mode: false,
        engine: Engine::new(&engine).unwrap(),
        shared: Shared::new(Arc::new(NoLog), Arc::new(())),
        limits: limits(),
    })
    .unwrap();
    let plugins = registry.views();
    let snapshot: Arc<ArcSwap<Snapshot>> = Arc::default();
    let published = Arc::clone(&snapshot);
    let (commands, mut inbox) = mpsc::channel::<Command>(8);
    tokio::spawn(async move {
        while let Some(Command { change, reply }) = inbox.recv().await {
            let _ = reply.send(control(&mut registry, &published, change).await);
        }
    });
    let (readiness, watched) = watch::channel(Readiness::Starting("no configuration yet".into()));
    let quits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&quits);
    let telemetry = Telemetry::new(&TelemetryOptions::default()).unwrap();
    let state = AdminState {
        changes: Changes::new(None, Ipv4Addr::LOCALHOST.into(), &telemetry).unwrap(),
        readiness: watched,
        snapshot,
        problems: Arc::default(),
        plugins,
        held_back,
        commands,
        telemetry,
        shutdown: Box::new(move || {
            counted.fetch_add(1, Relaxed);
        }),
        drain: Box::new(|_| true),
        log_filter: None,
        overload: Overload::new(1, &OverloadOptions::default()),
        namespace: "edge".into(),
        workers: 2,
        limits: limits(),
        started: Instant::now(),
    };
    (state, readiness, quits)
}

/// Stages, prepares, publishes to one listener, commits.
async fn control(
    registry: &mut Registry,
    published: &ArcSwap<Snapshot>,
    change: crate::plugins::Change,
) -> Result<Outcome, ApiError> {
    let staged = registry.stage(change).await?;
    let outcome = staged.outcome();
    if outcome != Outcome::Unchanged {
        let resolved = registry.resolve(&[], Some(&staged)).await;
        for attached in &resolved.attached {
            if let Err(error) = prepare(&attached.plugin, 1).await {
                registry.discard(staged);
                return Err(ApiError::from(&error));
            }
        }
        let listener = Listener {
            declared_port: 80,
            bind: "127.0.0.1:8080".parse().unwrap(),
            gateways: Vec::new(),
            hosts: crate::snapshot::HostTable::default(),
            tls: None,
            tcp: None,
            plugins: resolved.attached.iter().map(|attached| Arc::clone(&attached.plugin)).collect(),
            scoped: None,
        };
        published.store(Arc::new(Snapshot { listeners: vec![Arc::new(listener)], ..Snapshot::default() }));
        registry.commit(resolved, Some(staged))?;
    }
    Ok(outcome)
}

fn fixture() -> Fixture {
    let (state, readiness, quits) = state();
    Fixture { routers: Routers::new(state), readiness, quits }
}

pub(crate) fn module(tag: &str) -> Vec<u8> {
    let text = format!(
        r#"(module (memory (export "memory") 1) (data (i32.const 0) "{tag}")
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) i32.const 1024)
            (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.le_u (local.get 1) (i32.const 20))))"#
    );
    wat::parse_str(text).unwrap()
}

const LOOPBACK: &str = "127.0.0.1:40000";

/// One request as a connection would bring it: `headers` beside `Host: localhost`.
async fn ask(
    router: &Router,
    peer: &str,
    method: &str,
    path: &str,
    headers: &[(&'static str, &str)],
    body: impl Into<Body>,
) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::new(body.into());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert("host", HeaderValue::from_static("localhost"));
    for (name, value) in headers {
        request.headers_mut().insert(HeaderName::from_static(name), value.parse().unwrap());
    }
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(Ends { peer, local: "127.0.0.1:15000".parse().unwrap() });
    let response = TowerToHyperService::new(router.clone()).call(request).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

/// A request to the admin address and its JSON answer.
async fn api(admin: &Router, method: &str, path: &str, kind: &str, body: impl Into<Body>) -> (u16, Value) {
    let headers: &[_] = if kind.is_empty() { &[] } else { &[("content-type", kind)] };
    let (status, headers, body) = ask(admin, LOOPBACK, method, path, headers, body).await;
    if status == StatusCode::NO_CONTENT {
        assert!(body.is_empty());
        return (204, Value::Null);
    }
    assert_eq!(headers["content-type"], "application/json");
    (status.as_u16(), serde_json::from_slice(&body).unwrap())
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, content) in parts {
        text.extend_from_slice(
            format!("--frontier\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"x\"\r\n\r\n").as_bytes(),
        );
        text.extend_from_slice(content);
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"--frontier--\r\n");
    text
}

const WASM: &str = "application/wasm";
const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data; boundary=frontier";

#[tokio::test]
async fn put_in_all_its_forms() {
    let admin = fixture().routers.admin;
    let (one, two) = (module("one"), module("two"));

    let (status, shown) = api(&admin, "PUT", "/plugins/a?phase=AUTHN&priority=7", WASM, one.clone()).await;
    assert_eq!(status, 201);
    assert_eq!((&shown["phase"], &shown["priority"], &shown["state"]), (&json!("AUTHN"), &json!(7), &json!("live")));
    assert_eq!(api(&admin, "GET", "/plugins/a", "", "").await, (200, shown.clone()));
    assert_eq!(api(&admin, "PUT", "/plugins/a", WASM, one.clone()).await, (200, shown.clone()), "unchanged");
    assert_eq!(api(&admin, "PUT", "/plugins/a", "", one.clone()).await.0, 200, "as curl -T sends it");

    let (status, shown) = api(&admin, "PUT", "/plugins/a", JSON, r#"{"pluginConfig": {"k": 1}}"#).await;
    assert_eq!((status, &shown["settings"]["pluginConfig"]), (200, &json!({"k": 1})));
    assert_eq!((&shown["phase"], shown["versions"].as_array().unwrap().len()), (&json!("AUTHN"), 2), "kept");

    let body = form(&[("settings", br#"{"failStrategy": "FAIL_OPEN"}"#), ("module", &two)]);
    let (status, shown) = api(&admin, "PUT", "/plugins/a", FORM, body).await;
    assert_eq!((status, &shown["failStrategy"]), (200, &json!("FAIL_OPEN")));
    assert_eq!(shown["versions"].as_array().unwrap().len(), 3);

    let (status, _) = api(&admin, "PUT", "/plugins/b", FORM, form(&[("module", &one)])).await;
    assert_eq!(status, 201);
    let (_, list) = api(&admin, "GET", "/plugins", "", "").await;
    let names: Vec<_> = list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["name"].clone()).collect();
    assert_eq!(names, ["a", "b"], "chain order");

    assert_eq!(api(&admin, "DELETE", "/plugins/a", "", "").await.0, 204);
    assert_eq!(api(&admin, "GET", "/plugins/a", "", "").await.0, 404);
    assert_eq!(api(&admin, "DELETE", "/plugins/a", "", "").await.0, 404);
}

#[tokio::test]
async fn refusals_in_one_shape() {
    let admin = fixture().routers.admin;
    let good = module("one");
    let twice = form(&[("module", &good), ("module", &good)]);
    let other = form(&[("config", b"{}")]);
    let large = form(&[("module", &[0; 5 << 10])]);
    let larger = form(&[("settings", b"{}"), ("module", &[0; 1 << 20])]);
    let headless = [b"--frontier\r\n".to_vec(), vec![b'x'; 1 << 20]].concat();
    let neither = form(&[]);
    /// Method, path, content type, body; status, code, field.
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str, Option<&'a str>);
    let cases: [Case<'_>; 23] = [
        ("PUT", "/plugins/a", WASM, b"", 400, "module-missing", Some("module")),
        ("PUT", "/plugins/a", WASM, b"not wasm", 422, "module-malformed", Some("module")),
        ("PUT", "/plugins/a", WASM, &[0; 5 << 10], 413, "module-too-large", Some("module")),
        ("PUT", "/plugins/a?phase=x", WASM, &good, 400, "settings-invalid", Some("phase")),
        ("PUT", "/plugins/a?order=1", WASM, &good, 400, "settings-invalid", Some("order")),
        ("PUT", "/plugins/A", WASM, &good, 400, "name-invalid", Some("name")),
        ("PUT", "/plugins/a%2Fb", WASM, &good, 400, "name-invalid", Some("name")),
        ("PUT", "/plugins/a", JSON, b"{}", 400, "module-missing", Some("module")),
        ("PUT", "/plugins/a", JSON, b"[]", 400, "settings-malformed", Some("settings")),
        ("PUT", "/plugins/a", JSON, b"{", 400, "settings-malformed", Some("settings")),
        ("PUT", "/plugins/a", JSON, &[b' '; 2 << 10], 413, "settings-too-large", Some("settings")),
        ("PUT", "/plugins/a?phase=AUTHN", JSON, b"{}", 400, "query-unexpected", Some("query")),
        ("PUT", "/plugins/a", "text/html", &good, 400, "content-type-unknown", Some("content-type")),
        ("PUT", "/plugins/a", "multipart/form-data", b"", 400, "form-malformed", Some("content-type")),
        ("PUT", "/plugins/a", FORM, b"--frontier\r\n", 400, "form-malformed", None),
        ("PUT", "/plugins/a", FORM, &twice, 400, "form-malformed", Some("module")),
        ("PUT", "/plugins/a", FORM, &other, 400, "form-malformed", None),
        ("PUT", "/plugins/a", FORM, &neither, 400, "form-malformed", None),
        ("PUT", "/plugins/a", FORM, &large, 413, "module-too-large", Some("module")),
        ("PUT", "/plugins/a", FORM, &larger, 413, "form-too-large", None),
        ("PUT", "/plugins/a", FORM, &headless, 413, "form-too-large", None),
        ("POST", "/plugins", JSON, b"{}", 405, "method-not-allowed", None),
        ("GET", "/nothing", "", b"", 404, "path-unknown", None),
    ];
    for (method, path, kind, body, status, code, field) in cases {
        let (answered, error) = api(&admin, method, path, kind, body.to_vec()).await;
        let shown = format!("{method} {path} {kind}: {error}");
        assert_eq!((answered, error["error"]["code"].as_str()), (status, Some(code)), "{shown}");
        assert_eq!(error["error"]["field"].as_str(), field, "{shown}");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty(), "{shown}");
    }
    assert_eq!(api(&admin, "GET", "/plugins", "", "").await.1, json!({"plugins": []}), "nothing has changed");
    let (_, headers, _) = ask(&admin, LOOPBACK, "POST", "/plugins/a", &[], "").await;
    assert_eq!(headers["allow"], "GET,HEAD,PUT,DELETE");
}

#[tokio::test]
async fn a_plugin_is_shown_as_contracted() {
    let admin = fixture().routers.admin;
    let (_, shown) = api(&admin, "PUT", "/plugins/a", WASM, module("one")).await;
    let keys: Vec<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "name",
        "namespace",
        "source",
        "digest",
        "bytes",
        "abi",
        "phase",
        "priority",
        "failStrategy",
        "settings",
        "state",
        "reason",
        "workers",
        "versions",
        "stats",
        // Beyond the contract.
        "module",
        "warnings",
    ];
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(
        (&shown["namespace"], &shown["source"], &shown["workers"]),
        (&json!("edge"), &json!("upload"), &json!(2))
    );
    assert!(shown["digest"].as_str().unwrap().starts_with("sha256:"));
    let stats: Vec<_> = shown["stats"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(stats, ["streams", "traps", "deadlines", "memoryBytes", "p50Micros", "p99Micros"]);
}

#[tokio::test]
async fn each_address_answers_its_paths() {
    let fixture = fixture();
    fixture.readiness.send_replace(Readiness::Ready);
    let Routers { admin, agent, status, metrics } = &fixture.routers;
    let paths = [
        ("/", [200, 404, 404, 404]),
        ("/plugins", [200, 404, 404, 404]),
        ("/config_dump", [200, 404, 404, 404]),
        ("/listeners", [200, 404, 404, 404]),
        ("/clusters", [200, 404, 404, 404]),
        ("/problems", [200, 404, 404, 404]),
        ("/ready", [200, 404, 404, 404]),
        ("/server_info", [200, 404, 404, 404]),
        ("/stats/prometheus", [200, 200, 404, 200]),
        ("/metrics", [404, 200, 404, 404]),
        ("/healthz/ready", [200, 200, 200, 404]),
        ("/quitquitquit", [405, 405, 404, 404]),
    ];
    for (path, expected) in paths {
        for (router, expected) in [admin, agent, status, metrics].into_iter().zip(expected) {
            assert_eq!(ask(router, LOOPBACK, "GET", path, &[], "").await.0.as_u16(), expected, "{path}");
        }
    }
    let (_, headers, text) = ask(metrics, LOOPBACK, "GET", "/stats/prometheus", &[], "").await;
    assert_eq!(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(String::from_utf8_lossy(&text).contains("istio_build"));
}

#[tokio::test]
async fn readiness_follows_the_gateway() {
    let fixture = fixture();
    let states = [
        (None, 503, "not ready: no configuration yet\n", "INITIALIZING\n"),
        (Some(Readiness::Ready), 200, "ready\n", "LIVE\n"),
        (Some(Readiness::Ending), 503, "not ready: shutting down\n", "DRAINING\n"),
    ];
    for (readiness, code, text, word) in states {
        readiness.map(|readiness| fixture.readiness.send_replace(readiness));
        for router in [&fixture.routers.admin, &fixture.routers.agent, &fixture.routers.status] {
            let (status, _, body) = ask(router, LOOPBACK, "GET", "/healthz/ready", &[], "").await;
            assert_eq!((status.as_u16(), &body[..]), (code, text.as_bytes()));
        }
        let (status, _, body) = ask(&fixture.routers.admin, LOOPBACK, "GET", "/ready", &[], "").await;
        assert_eq!((status.as_u16(), &body[..]), (code, word.as_bytes()));
    }
}

#[tokio::test]
async fn foreign_callers_are_refused_where_something_can_be_changed_or_seen() {
    let fixture = fixture();
    let Routers { admin, agent, metrics, .. } = &fixture.routers;
    let rebound = &[("host", "evil.example:15000")][..];
    let page = &[("origin", "http://evil.example")][..];
    for headers in [rebound, page] {
        for (method, path) in
            [("GET", "/plugins"), ("PUT", "/plugins/a"), ("DELETE", "/plugins/a"), ("GET", "/nothing")]
        {
            let (status, _, body) = ask(admin, LOOPBACK, method, path, headers, module("one")).await;
            assert_eq!(status, 403, "{method} {path}");
            assert!(String::from_utf8_lossy(&body).contains("foreign-caller"));
        }
        assert_eq!(ask(agent, LOOPBACK, "POST", "/quitquitquit", headers, "").await.0, 403);
    }
    // Probes and scrapers come with whatever name they know.
    assert_eq!(ask(metrics, "10.0.0.9:1", "GET", "/stats/prometheus", rebound, "").await.0, 200);
    assert_eq!(ask(agent, "10.0.0.9:1", "GET", "/healthz/ready", rebound, "").await.0, 503);

    for (peer, code, quits) in
        [("10.0.0.9:1", 403, 0), ("[::ffff:10.0.0.9]:1", 403, 0), (LOOPBACK, 200, 1), ("[::1]:1", 200, 2)]
    {
        assert_eq!(ask(agent, peer, "POST", "/quitquitquit", &[], "").await.0.as_u16(), code, "{peer}");
        assert_eq!(fixture.quits.load(Relaxed), quits, "{peer}");
    }
}

#[tokio::test]
async fn dumps_show_the_configuration_and_no_secret() {
    let (state, _readiness, _quits) = state();
    let mut conditions = Conditions::default();
    assert!(conditions.require("x-api-key", StringMatch::exact("s3cret-condition")));
    assert!(conditions.require("x-version", StringMatch::exact("v2")));
    let authorization = HeaderTemplate::parse("Bearer s3cret-header", Side::Request).unwrap();
    let write = HeaderWrite { name: http::header::AUTHORIZATION.into(), value: authorization, append: false };
    let route = Route {
        name: "teapot".into(),
        virtual_service: "default/tea".into(),
        metadata: None,
        action: Action::Direct(DirectResponse { status: StatusCode::IM_A_TEAPOT, body: Bytes::from_static(b"short") }),
        request_headers: HeaderOps { remove: Vec::new(), write: vec![write] },
        response_headers: HeaderOps::default(),
    };
    let mut hosts = crate::snapshot::HostTable::default();
    let routes = RouteTable::new(vec![Rule { uri: UriMatch::Prefix("/tea".into()), conditions, route: 0 }]);
    hosts.insert(VirtualHost {
        name: HostPattern::parse("*.example.com").unwrap(),
        domain: "*.example.com:443".into(),
        routes,
        https_redirect: None,
    });
    let listener = Listener {
        declared_port: 80,
        bind: "0.0.0.0:8080".parse().unwrap(),
        gateways: vec!["default/edge".into()],
        hosts,
        tls: None,
        tcp: None,
        plugins: Vec::new(),
        scoped: None,
    };
    state.snapshot.store(Arc::new(Snapshot {
        version: 3,
        listeners: vec![Arc::new(listener)],
        routes: vec![Arc::new(route)],
        clusters: Vec::new(),
        call_names: Arc::default(),
    }));
    state.problems.store(Arc::new(vec![Problem {
        level: Level::Warning,
        code: "IST0130",
        resource: "VirtualService default/tea".into(),
        file: "tea.yaml".into(),
        line: 4,
        field: "spec.http[0]".into(),
        message: "never used".into(),
    }]));
    let admin = Routers::new(state).admin;

    let (_, dump) = api(&admin, "GET", "/config_dump", "", "").await;
    let rule = &dump["listeners"][0]["virtualHosts"][0]["routes"][0];
    assert_eq!(rule["match"]["uri"], json!({"prefix": "/tea"}));
    assert_eq!(rule["match"]["headers"], json!({"x-api-key": {"exact": "[hidden]"}, "x-version": {"exact": "v2"}}));
    assert_eq!(rule["directResponse"], json!({"status": 418, "bodyBytes": 5}));
    assert_eq!(rule["requestHeaders"]["set"], json!(["authorization"]));
    assert!(!dump.to_string().contains("s3cret"), "{dump}");

    let (_, listeners) = api(&admin, "GET", "/listeners", "", "").await;
    assert_eq!(listeners["listeners"][0]["hosts"], json!(["*.example.com"]));
    assert_eq!(listeners["version"], 3);
    let (_, problems) = api(&admin, "GET", "/problems", "", "").await;
    assert_eq!((&problems["problems"][0]["code"], &problems["problems"][0]["line"]), (&json!("IST0130"), &json!(4)));
}

/// The API on sockets of its own; kept alive by what is returned.
pub(crate) fn served(state: AdminState) -> Serving {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    bind(&Addresses { admin: any, agent: any, status: any, metrics: any }, Vec::new()).unwrap().serve(state).unwrap()
}

#[tokio::test]
async fn concurrent_uploads_of_one_name_follow_each_other() {
    let admin = fixture().routers.admin;
    let put = |tag: &str| {
        let (admin, body) = (admin.clone(), module(tag));
        tokio::spawn(async move { api(&admin, "PUT", "/plugins/a", WASM, body).await.0 })
    };
    let answers = [put("1"), put("2"), put("3"), put("4"), put("5"), put("6")];
    let mut statuses = Vec::new();
    for answer in answers {
        statuses.push(answer.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 201]);
    let (_, shown) = api(&admin, "GET", "/plugins/a", "", "").await;
    assert_eq!(shown["versions"].as_array().unwrap().len(), 6);
    assert_eq!(shown["versions"][0]["digest"], shown["digest"]);
}
