//! Which virtual host serves a request.

use gateway_tests::gateway::Setup;
use gateway_tests::resources::{GATEWAY, everything_to, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Upstream};

#[tokio::test]
async fn a_request_goes_to_its_service_and_the_answer_comes_back() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_next(Answer::new(201).header("x-from", "service").text("hello"));
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let response = gateway.client().await.unwrap().get("test.example.dev", "/sample?q=1").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (201, "hello"));
    assert_eq!(response.header("x-from"), Some("service"));
    let request = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((request.target.as_str(), request.header("host")), ("/sample?q=1", Some("test.example.dev")));
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
}

/// A direct response that tells which host it belongs to.
fn says(name: &str, hosts: &[&str]) -> String {
    virtual_service(name, hosts, &format!("  - directResponse: {{status: 200, body: {{string: {name}}}}}"))
}

#[tokio::test]
async fn the_most_specific_host_wins_and_there_is_no_falling_through() {
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file(
            "hosts.yaml",
            says("exact", &["a.example.com"])
                + &says("long", &["*.b.example.com"])
                + &says("short", &["*.example.com"])
                + &virtual_service(
                    "only-one-path",
                    &["narrow.example.com"],
                    "  - match: [{uri: {exact: /one}}]\n    directResponse: {status: 204}",
                ),
        )
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    for (host, body) in [
        ("a.example.com", "exact"),
        ("A.Example.COM", "exact"),
        ("a.example.com:8080", "exact"),
        ("x.b.example.com", "long"),
        ("x.y.b.example.com", "long"),
        ("b.example.com", "short"),
        ("other.example.com", "short"),
    ] {
        let response = client.get(host, "/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, body), "{host}");
    }
    for (host, path) in [("example.com", "/"), ("example.org", "/"), ("narrow.example.com", "/two")] {
        let response = client.get(host, path).await.unwrap();
        assert_eq!((response.status, response.body.len()), (404, 0), "{host}{path}");
    }
    assert_eq!(client.get("narrow.example.com", "/one").await.unwrap().status, 204);

    gateway.write("z.yaml", &says("any", &["*"])).await.unwrap();
    assert_eq!(client.get("example.org", "/").await.unwrap().text(), "any");
    assert_eq!(client.get("narrow.example.com", "/two").await.unwrap().status, 404, "no falling through to *");
}
