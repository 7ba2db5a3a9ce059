//! Every folder of `config/` does what its README says, with real services behind it.

use futures_util::{SinkExt, StreamExt};
use gateway_tests::certificates::Authority;
use gateway_tests::client::{RawClient, RawResponse};
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::grpc::{EchoClient, EchoServer, Number};
use gateway_tests::plugins::module;
use gateway_tests::server::Protocol;
use gateway_tests::tls::TlsClient;
use gateway_tests::upstream::{Answer, Upstream};
use gateway_tests::within;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio_tungstenite::tungstenite::Message;

const HOST: &str = "test.example.dev";

/// The folders that are tested here. The first one is the business of `quickstart_configuration.rs`.
const TESTED: [&str; 9] = [
    "quickstart",
    "tls",
    "mtls",
    "canary-by-weight",
    "header-routing",
    "websocket",
    "grpc",
    "redirect",
    "plugin-chain",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config")
}

/// A scenario with its services where they are in the test: the first is on port 9081 of the files, the second on 9082.
fn scenario(name: &str, services: &[SocketAddr]) -> Setup {
    let mut text = std::fs::read_to_string(folder().join(name).join("resources.yaml")).unwrap();
    for (port, service) in (9081..).zip(services) {
        assert!(text.contains(&port.to_string()), "{name} does not use port {port}");
        text = text.replace(&port.to_string(), &service.port().to_string());
    }
    let modules = folder().join("../target/plugins");
    Setup::new()
        .file("resources.yaml", text.replace("file://../../target/plugins", &format!("file://{}", modules.display())))
}

async fn start(setup: Setup) -> TestGateway {
    let gateway = setup.start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    gateway
}

async fn upstream(text: &'static str) -> Upstream {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream.answer_with(move |_| Answer::new(200).header("content-type", "text/plain").text(text));
    upstream
}

async fn ask(client: &mut RawClient, path: &str, headers: &str) -> RawResponse {
    client.send(format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n")).await.unwrap();
    client.response().await.unwrap()
}

#[test]
fn every_scenario_is_tested_and_says_in_three_lines_what_it_shows() {
    let entries = std::fs::read_dir(folder()).unwrap();
    let found: BTreeSet<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, TESTED.map(str::to_owned).into());
    for name in &TESTED[1..] {
        let readme = std::fs::read_to_string(folder().join(name).join("README.md")).unwrap();
        assert_eq!(readme.lines().count(), 3, "{name}");
    }
    for name in ["basic-auth", "add-header", "rewrite-body"] {
        module(name);
    }
}

#[tokio::test]
async fn tls() {
    let upstream = upstream("hello").await;
    let authority = Authority::new("tests").unwrap();
    let server = authority.server(&[HOST]).unwrap();
    let setup = scenario("tls", &[upstream.address()]);
    let gateway = start(
        setup.file("certificates/tls.crt", server.chain.as_str()).file("certificates/tls.key", server.key.as_str()),
    )
    .await;
    let client = TlsClient::new(&[&authority]).unwrap();
    let mut https = client.http1(gateway.address(443).unwrap(), HOST).await.unwrap();
    assert_eq!(https.get(HOST, "/").await.unwrap().text(), "hello");
    let mut h2 = client.http2(gateway.address(443).unwrap(), HOST).await.unwrap();
    assert_eq!(h2.get(HOST, "/").await.unwrap().body, "hello");
    let redirect = ask(&mut gateway.client().await.unwrap(), "/page?x=1", "").await;
    assert_eq!((redirect.status, redirect.header("location")), (301, Some("https://test.example.dev/page?x=1")));
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn mtls() {
    let upstream = upstream("hello").await;
    let authority = Authority::new("tests").unwrap();
    let server = authority.server(&[HOST]).unwrap();
    let setup = scenario("mtls", &[upstream.address()]);
    let setup =
        setup.file("certificates/tls.crt", server.chain.as_str()).file("certificates/tls.key", server.key.as_str());
    let gateway = start(setup.file("certificates/ca.crt", authority.pem())).await;
    let address = gateway.address(443).unwrap();
    let certificate = authority.client("client", &["spiffe://example.dev/client"]).unwrap();
    let client = TlsClient::with_certificate(&[&authority], &certificate).unwrap();
    assert_eq!(client.http1(address, HOST).await.unwrap().get(HOST, "/").await.unwrap().text(), "hello");
    let seen = upstream.received(1).await.unwrap().remove(0);
    let identity = seen.header("x-forwarded-client-cert").unwrap();
    assert!(identity.contains("URI=spiffe://example.dev/client"), "{identity}");

    let stranger = Authority::new("somebody else").unwrap().client("client", &[]).unwrap();
    for client in
        [TlsClient::new(&[&authority]).unwrap(), TlsClient::with_certificate(&[&authority], &stranger).unwrap()]
    {
        // With TLS 1.3 the client believes for a moment that it is in.
        if let Ok(mut http) = client.http1(address, HOST).await {
            assert!(http.get(HOST, "/").await.is_err());
        }
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn canary_by_weight() {
    let (one, two) = (upstream("one").await, upstream("two").await);
    let setup = scenario("canary-by-weight", &[one.address(), two.address()]);
    let gateway = start(setup).await;
    let mut client = gateway.client().await.unwrap();
    for _ in 0..400 {
        assert_eq!(ask(&mut client, "/", "").await.status, 200);
    }
    // 40 are expected; that it were fewer than 10 or more than 90 is less likely than one in a million.
    let share = two.requests().len();
    assert!((10..90).contains(&share), "{share} of 400");
    assert_eq!(one.requests().len() + share, 400);
    // The weights change while it runs.
    let text = std::fs::read_to_string(gateway.folder().join("resources.yaml")).unwrap();
    gateway
        .write("resources.yaml", &text.replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 100"))
        .await
        .unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "/", "").await.text(), "two");
    }
}

#[tokio::test]
async fn header_routing() {
    let (old, new) = (upstream("old").await, upstream("new").await);
    let gateway = start(scenario("header-routing", &[old.address(), new.address()])).await;
    let mut client = gateway.client().await.unwrap();
    for (headers, expected) in [
        ("", "old"),
        ("x-version: new\r\n", "new"),
        ("x-version: newer\r\n", "old"),
        ("cookie: version=new\r\n", "new"),
        ("cookie: a=b; version=new; c=d\r\n", "new"),
        ("cookie: version=newer\r\n", "old"),
        ("cookie: reversion=new\r\n", "old"),
    ] {
        let response = ask(&mut client, "/", headers).await;
        assert_eq!(response.text(), expected, "{headers}");
        assert_eq!(response.header("x-served-by"), (expected == "new").then_some("new"), "{headers}");
    }
}

#[tokio::test]
async fn websocket() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = start(scenario("websocket", &[listener.local_addr().unwrap()])).await;
    let service = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let stream = tokio::net::TcpStream::connect(gateway.address(80).unwrap()).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(format!("ws://{HOST}/chat"), stream).await.unwrap();
    assert_eq!(response.status(), 101);
    for text in ["hello", "bye"] {
        socket.send(Message::text(text)).await.unwrap();
        let echo = within("an echo", socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(echo, Message::text(text));
    }
    socket.close(None).await.unwrap();
    within("the end of the service", service).await.unwrap().unwrap();
}

#[tokio::test]
async fn grpc() {
    let server = EchoServer::start().await.unwrap();
    let gateway = start(scenario("grpc", &[server.address()])).await;
    let mut client = EchoClient::connect(gateway.address(80).unwrap()).await.unwrap();
    let answer = client.unary("Say", tonic::Request::new(Number::new(7))).await.unwrap();
    assert_eq!(answer.into_inner().value, 7);
    let mut answers = client.count(Number::new(3)).await.unwrap().into_inner();
    for expected in 1..=3 {
        assert_eq!(answers.next().await.unwrap().unwrap().value, expected);
    }
    assert!(answers.next().await.is_none());
    // Another service: no route, said in the words of gRPC.
    let mut h2 = gateway.h2_client().await.unwrap();
    let other =
        http::Request::post(format!("http://{HOST}/other.Service/Say")).header("content-type", "application/grpc");
    let other = h2.fetch(other.body(gateway_tests::body::Outgoing::empty()).unwrap()).await.unwrap();
    assert_eq!((other.status.as_u16(), &other.headers["grpc-status"]), (200, &"12".parse().unwrap()));
}

#[tokio::test]
async fn redirect() {
    let upstream = upstream("hello").await;
    let gateway = start(scenario("redirect", &[upstream.address()])).await;
    let mut client = gateway.client().await.unwrap();
    let moved = ask(&mut client, "/old/page?x=1", "").await;
    assert_eq!((moved.status, moved.header("location")), (301, Some("http://test.example.dev/new/?x=1")));
    let other = client.get("www.example.dev", "/page").await.unwrap();
    assert_eq!((other.status, other.header("location")), (308, Some("http://test.example.dev/page")));
    assert!(upstream.requests().is_empty());
    assert_eq!(ask(&mut client, "/new/", "").await.text(), "hello");
}

#[tokio::test]
async fn plugin_chain() {
    let upstream = upstream("see internal.example.dev").await;
    let gateway = start(scenario("plugin-chain", &[upstream.address()])).await;
    let listed = gateway.admin_json("/plugins").await.unwrap();
    let names: Vec<_> = listed["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["name"]).collect();
    assert_eq!(names, ["basic-auth", "add-header", "rewrite-body"]);
    let mut client = gateway.client().await.unwrap();
    let refused = ask(&mut client, "/", "").await;
    assert_eq!((refused.status, refused.header("x-chain")), (401, Some("add-header")));
    // `guest:open sesame`
    let response = ask(&mut client, "/", "authorization: Basic Z3Vlc3Q6b3BlbiBzZXNhbWU=\r\n").await;
    assert_eq!((response.status, response.text().as_str()), (200, "see test.example.dev"));
    assert_eq!(response.header("x-chain"), Some("add-header"));
    let seen = upstream.received(1).await.unwrap().remove(0);
    assert_eq!((seen.header("x-authenticated-user"), seen.header("x-checked-by")), (Some("guest"), Some("gateway")));
    assert_eq!(seen.header("authorization"), None);
}
