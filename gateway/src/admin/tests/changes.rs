//! Going back, enabling and disabling; and who may change something.

use std::{fs, net::IpAddr, path::Path};

use super::*;

#[tokio::test]
async fn versions_over_http() {
    let admin = fixture().routers.admin;
    for tag in ["one", "two", "three"] {
        api(&admin, "PUT", "/plugins/a", WASM, module(tag)).await;
    }
    let post = async |path: &str| api(&admin, "POST", &format!("/plugins/{path}"), "", "").await;
    let current = |shown: &Value| {
        let versions = shown["versions"].as_array().unwrap();
        let numbers: Vec<_> = versions.iter().map(|version| version["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [3, 2, 1]);
        let current: Vec<_> = versions.iter().filter(|version| version["current"] == true).collect();
        assert_eq!((current.len(), &current[0]["digest"]), (1, &shown["digest"]));
        current[0]["number"].as_u64().unwrap()
    };
    let (status, shown) = post("a/rollback").await;
    assert_eq!((status, current(&shown)), (200, 2));
    assert_eq!(api(&admin, "GET", "/plugins/a", "", "").await, (200, shown));
    let (status, shown) = post("a/rollback?to=3").await;
    assert_eq!((status, current(&shown)), (200, 3));
    let digest = shown["versions"][2]["digest"].as_str().unwrap();
    let (status, shown) = post(&format!("a/rollback?to={digest}")).await;
    assert_eq!((status, current(&shown)), (200, 1));

    let (status, shown) = post("a/disable").await;
    assert_eq!((status, &shown["state"], &shown["workers"]), (200, &json!("disabled"), &json!(0)));
    let (status, shown) = post("a/enable").await;
    assert_eq!((status, &shown["state"], &shown["workers"]), (200, &json!("live"), &json!(2)));

    for (path, status, code, field) in [
        ("a/rollback", 409, "version-none-before", None),
        ("a/rollback?to=", 400, "version-invalid", Some("to")),
        ("a/rollback?to=9", 404, "version-unknown", Some("to")),
        ("a/rollback?version=1", 400, "query-invalid", Some("to")),
        ("a/rollback?to=1&to=2", 400, "query-invalid", Some("to")),
        ("b/rollback", 404, "plugin-unknown", None),
        ("b/enable", 404, "plugin-unknown", None),
        ("b/disable", 404, "plugin-unknown", None),
    ] {
        let (answered, error) = post(path).await;
        assert_eq!((answered, &error["error"]["code"]), (status, &json!(code)), "{path}: {error}");
        assert_eq!(error["error"]["field"].as_str(), field, "{path}: {error}");
    }
    assert_eq!(api(&admin, "GET", "/plugins/a/rollback", "", "").await.0, 405);
}

/// The admin address `address` with the token in this file.
fn guarded(token_file: Option<&Path>, address: &str) -> (Router, Telemetry) {
    let (mut state, ..) = state();
    let telemetry = Telemetry::new(&TelemetryOptions::default()).unwrap();
    let address: IpAddr = address.parse().unwrap();
    state.changes = Changes::new(token_file.map(Path::to_owned), address, &telemetry).unwrap();
    (Routers::new(state).admin, telemetry)
}

/// Status, code and `WWW-Authenticate` of a change with this Authorization.
async fn attempt(admin: &Router, method: &str, path: &str, authorization: &str) -> (u16, String, bool) {
    let headers: &[_] = if authorization.is_empty() { &[] } else { &[("authorization", authorization)] };
    let (status, headers, body) = ask(admin, LOOPBACK, method, path, headers, module("one")).await;
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let code = json["error"]["code"].as_str().unwrap_or_default().to_owned();
    (status.as_u16(), code, headers.contains_key("www-authenticate"))
}

fn refusals(telemetry: &Telemetry) -> String {
    let text = String::from_utf8(telemetry.render_prometheus()).unwrap();
    text.lines().find(|line| line.starts_with("gateway_admin_refused_changes_total ")).unwrap().to_owned()
}

#[tokio::test]
async fn changes_need_the_token_and_reading_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "first-token-0123\n").unwrap();
    let (admin, telemetry) = guarded(Some(&file), "127.0.0.1");
    let changes = [
        ("PUT", "/plugins/a"),
        ("POST", "/plugins/a/rollback"),
        ("POST", "/plugins/a/enable"),
        ("POST", "/plugins/a/disable"),
        ("DELETE", "/plugins/a"),
        ("POST", "/logging?level=debug"),
        ("POST", "/reopen_logs"),
        ("POST", "/healthcheck/fail"),
        ("POST", "/healthcheck/ok"),
        ("POST", "/drain_listeners?graceful"),
        ("POST", "/quitquitquit"),
        ("PATCH", "/nothing"),
    ];
    for (method, path) in changes {
        for authorization in ["", "Bearer first-token-012", "Bearer first-token-01234", "Basic first-token-0123"] {
            let refused = (401, "token-wrong".to_owned(), true);
            assert_eq!(attempt(&admin, method, path, authorization).await, refused, "{method} {path} {authorization}");
        }
    }
    assert_eq!(refusals(&telemetry), format!("gateway_admin_refused_changes_total {}", 4 * changes.len()));
    for path in ["/", "/plugins", "/healthz/ready", "/stats/prometheus", "/config_dump", "/logging"] {
        let status = ask(&admin, LOOPBACK, "GET", path, &[], "").await.0.as_u16();
        assert!([200, 503, 404].contains(&status) && (status != 404 || path == "/logging"), "{path}: {status}");
    }
    assert_eq!(attempt(&admin, "PUT", "/plugins/a", "Bearer first-token-0123").await.0, 201);

    // A new token counts at once, and the old one no more; without a good one nothing is changed.
    fs::write(&file, "second-token-0123").unwrap();
    assert_eq!(attempt(&admin, "DELETE", "/plugins/a", "Bearer first-token-0123").await.0, 401);
    assert_eq!(attempt(&admin, "POST", "/plugins/a/disable", "bearer second-token-0123").await.0, 200);
    for damage in [Some(""), None] {
        match damage {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        for authorization in ["", "Bearer ", "Bearer second-token-0123"] {
            let (status, code, _) = attempt(&admin, "DELETE", "/plugins/a", authorization).await;
            assert_eq!((status, code.as_str()), (500, "token-unreadable"), "{authorization:?}");
        }
    }
    assert_eq!(ask(&admin, LOOPBACK, "GET", "/plugins/a", &[], "").await.0, 200);
}

#[tokio::test]
async fn off_the_loopback_interface_nothing_changes_without_a_token() {
    for address in ["0.0.0.0", "10.1.2.3", "::", "::ffff:10.1.2.3"] {
        let (admin, telemetry) = guarded(None, address);
        let refused = (403, "token-not-configured".to_owned(), false);
        assert_eq!(attempt(&admin, "PUT", "/plugins/a", "Bearer anything").await, refused, "{address}");
        assert_eq!(ask(&admin, LOOPBACK, "GET", "/plugins", &[], "").await.0, 200, "{address}");
        assert_eq!(refusals(&telemetry), "gateway_admin_refused_changes_total 1");
    }
    for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        let (admin, _) = guarded(None, address);
        assert_eq!(attempt(&admin, "PUT", "/plugins/a", "").await.0, 201, "{address}");
    }
}

#[test]
fn a_gateway_does_not_start_with_a_token_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let telemetry = Telemetry::new(&TelemetryOptions::default()).unwrap();
    let start = || Changes::new(Some(file.clone()), Ipv4Addr::LOCALHOST.into(), &telemetry).map(drop);
    assert!(start().unwrap_err().to_string().contains("cannot read the token"));
    fs::write(&file, "short").unwrap();
    assert!(start().unwrap_err().to_string().contains("16 to 1024"));
}
