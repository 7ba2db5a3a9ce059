//! What stands between clients and the gateway: balancers that speak the PROXY protocol, proxies that are trusted, IPv6.

use gateway::http::Topology;
use gateway::telemetry::LogFormat;
use gateway_tests::certificates::Authority;
use gateway_tests::client::RawClient;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, everything_to, https_gateway, secret, service, service_at, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::tls::TlsClient;
use gateway_tests::upstream::{Received, Upstream};
use std::net::SocketAddr;

const HOST: &str = "test.example.dev";
const GET: &str = "GET /path HTTP/1.1\r\nhost: test.example.dev\r\n\r\n";

async fn start(topology: Topology) -> (TestGateway, Upstream) {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let resources = GATEWAY.to_owned()
        + &service("sample", &[&upstream])
        + &virtual_service(
            "everything",
            &["*"],
            "
  - headers: {request: {set: {x-remote: '%DOWNSTREAM_REMOTE_ADDRESS%', x-local: '%DOWNSTREAM_LOCAL_ADDRESS%'}}}
    route: [{destination: {host: sample}}]",
        );
    let gateway = Setup::new()
        .access_log(LogFormat::Json)
        .options(|options| options.identity.topology = topology)
        .file("all.yaml", resources)
        .start()
        .await
        .unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    (gateway, upstream)
}

fn entry(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap()
}

/// A header of version 2 for these addresses, with TLVs.
fn binary(client: SocketAddr, destination: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    };
    let ports = [client.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let block = [octets(client), octets(destination), ports, tlvs.to_vec()].concat();
    let family = if client.is_ipv4() { 0x11 } else { 0x21 };
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x21, family], &len, &block].concat()
}

#[tokio::test]
async fn a_balancer_says_who_the_client_is() {
    let (gateway, upstream) = start(Topology { proxy_protocol: true, ..Topology::default() }).await;
    let (v4, v6) = ("192.0.2.7:1234".parse().unwrap(), "[2001:db8::7]:1234".parse().unwrap());
    let (to_v4, to_v6) = ("198.51.100.1:80".parse().unwrap(), "[2001:db8::1]:80".parse().unwrap());
    let headers = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\r\n".to_vec(), v4, to_v4),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1234 80\r\n".to_vec(), v6, to_v6),
        (binary(v4, to_v4, b""), v4, to_v4),
        (binary(v6, to_v6, &[0xee; 3000]), v6, to_v6),
    ];
    for (sent, (header, client, destination)) in headers.into_iter().enumerate() {
        let mut connection = gateway.client().await.unwrap();
        connection.send([&header[..], GET.as_bytes()].concat()).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status, 200);
        let request = upstream.received(sent + 1).await.unwrap().remove(sent);
        assert_eq!(request.header("x-forwarded-for"), Some(client.ip().to_string().as_str()));
        assert_eq!(request.header("x-envoy-external-address"), Some(client.ip().to_string().as_str()));
        assert_eq!(request.header("x-remote"), Some(client.to_string().as_str()));
        assert_eq!(request.header("x-local"), Some(destination.to_string().as_str()));
        let entry = entry(&gateway.access_log(sent + 1).await.unwrap()[sent]);
        assert_eq!(entry["downstream_remote_address"], client.to_string());
    }
}

#[tokio::test]
async fn every_request_of_a_connection_is_from_the_same_client() {
    let (gateway, upstream) = start(Topology { proxy_protocol: true, ..Topology::default() }).await;
    let mut connection = gateway.client().await.unwrap();
    connection.send("PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\r\n").await.unwrap();
    for _ in 0..3 {
        assert_eq!(connection.get(HOST, "/").await.unwrap().status, 200);
    }
    let clients: Vec<_> =
        upstream.requests().iter().map(|request| request.header("x-forwarded-for").unwrap().to_owned()).collect();
    assert_eq!(clients, ["192.0.2.7"; 3]);
}

#[tokio::test]
async fn http2_may_follow_too() {
    let (gateway, upstream) = start(Topology { proxy_protocol: true, ..Topology::default() }).await;
    let mut stream = tokio::net::TcpStream::connect(gateway.address(80).unwrap()).await.unwrap();
    let header = binary("192.0.2.7:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap(), b"tlv");
    tokio::io::AsyncWriteExt::write_all(&mut stream, &header).await.unwrap();
    let mut client = gateway_tests::client::H2Client::over(stream).await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    assert_eq!(upstream.requests()[0].header("x-forwarded-for"), Some("192.0.2.7"));
}

#[tokio::test]
async fn a_balancer_may_speak_for_itself() {
    let (gateway, upstream) = start(Topology { proxy_protocol: true, ..Topology::default() }).await;
    let local = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20, 0x00, 0, 0]].concat();
    let unix = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x21, 0x31, 0, 216], &[b'/'; 216]].concat();
    for (sent, header) in [b"PROXY UNKNOWN\r\n".to_vec(), local, unix].into_iter().enumerate() {
        let mut connection = gateway.client().await.unwrap();
        connection.send([&header[..], GET.as_bytes()].concat()).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status, 200);
        assert_eq!(upstream.received(sent + 1).await.unwrap()[sent].header("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[tokio::test]
async fn a_header_may_come_in_pieces() {
    let (gateway, _upstream) = start(Topology { proxy_protocol: true, ..Topology::default() }).await;
    let text = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\r\n".to_vec();
    for header in [text, binary("192.0.2.7:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap(), b"tlv")] {
        let all = [&header[..], GET.as_bytes()].concat();
        for at in [1, 5, 6, 12, 13, 15, 16, 20, header.len() - 1, header.len(), header.len() + 1] {
            let mut connection = gateway.client().await.unwrap();
            connection.send(&all[..at]).await.unwrap();
            // Two packets, as far as that can be arranged from here.
            tokio::task::yield_now().await;
            connection.send(&all[at..]).await.unwrap();
            assert_eq!(connection.response().await.unwrap().status, 200, "{at}");
        }
        let mut connection = gateway.client().await.unwrap();
        for byte in &all {
            connection.send([*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(connection.response().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn who_says_nothing_or_nonsense_is_not_served() {
    let (gateway, upstream) = start(Topology { proxy_protocol: true, ..Topology::default() }).await;
    let mut malformed = 0.0;
    for header in [
        GET,
        "PROXY TCP4 192.0.2.7 198.51.100.1 1234\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\nGET",
        "\x16\x03\x01\x02\x00",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
    ] {
        let mut connection = gateway.client().await.unwrap();
        connection.send(header).await.unwrap();
        connection.closed().await.unwrap();
        malformed += 1.0;
    }
    let mut connection = gateway.client().await.unwrap();
    connection.send(format!("PROXY UNKNOWN {}", "x".repeat(200))).await.unwrap();
    connection.closed().await.unwrap();
    let mut connection = gateway.client().await.unwrap();
    connection.send(binary("1.1.1.1:1".parse().unwrap(), "1.1.1.1:1".parse().unwrap(), &[0; 5000])).await.unwrap();
    connection.closed().await.unwrap();
    assert_eq!(upstream.connections(), 0);
    gateway.metric_becomes("gateway_downstream_protocol_errors_total", &[], malformed).await.unwrap();
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "proxy_header_bytes")], 2.0).await.unwrap();
    gateway.metric_becomes("gateway_downstream_connections", &[], 0.0).await.unwrap();
}

#[tokio::test]
async fn without_the_setting_it_is_no_request() {
    let (gateway, upstream) = start(Topology::default()).await;
    let mut connection = gateway.client().await.unwrap();
    connection.send(format!("PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\r\n{GET}")).await.unwrap();
    assert_eq!(connection.response().await.unwrap().status, 400);
    assert_eq!(upstream.connections(), 0);
}

/// Sends these headers and gives what the service received, and the line of the log.
async fn forwarded(topology: Topology, headers: &str) -> (Received, serde_json::Value) {
    let (gateway, upstream) = start(topology).await;
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    (upstream.requests().remove(0), entry(&gateway.access_log(1).await.unwrap()[0]))
}

fn trusting(trusted_proxies: u32) -> Topology {
    Topology { trusted_proxies, ..Topology::default() }
}

#[tokio::test]
async fn nothing_is_believed_by_default() {
    let headers = "x-forwarded-for: 1.1.1.1, 2.2.2.2\r\nx-forwarded-proto: https\r\nx-request-id: mine\r\n\
                   x-envoy-external-address: 3.3.3.3\r\nx-forwarded-client-cert: By=me\r\nx-forwarded-host: other\r\n";
    let (request, entry) = forwarded(trusting(0), headers).await;
    assert_eq!(request.header_values("x-forwarded-for"), ["1.1.1.1, 2.2.2.2,127.0.0.1"]);
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-envoy-external-address"), Some("127.0.0.1"));
    assert_ne!(request.header("x-request-id"), Some("mine"));
    assert_eq!((request.header("x-forwarded-client-cert"), request.header("x-forwarded-host")), (None, Some("other")));
    assert!(entry["downstream_remote_address"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn behind_trusted_proxies_the_first_of_them_is_believed() {
    let headers = "x-forwarded-for: 1.1.1.1, 2.2.2.2\r\nx-forwarded-for: 3.3.3.3\r\nx-forwarded-proto: https\r\n\
                   x-request-id: mine\r\nx-forwarded-client-cert: By=me\r\n";
    for (proxies, client) in [(1, "3.3.3.3"), (2, "2.2.2.2"), (3, "1.1.1.1")] {
        let (request, entry) = forwarded(trusting(proxies), headers).await;
        assert_eq!(request.header("x-envoy-external-address"), Some(client), "{proxies}");
        assert_eq!(request.header_values("x-forwarded-for"), ["1.1.1.1, 2.2.2.2,3.3.3.3,127.0.0.1"]);
        assert_eq!(request.header_values("x-forwarded-proto"), ["https"]);
        assert_eq!(entry["downstream_remote_address"], format!("{client}:0"));
        assert_eq!(request.header("x-remote"), Some(format!("{client}:0").as_str()));
        assert_ne!(request.header("x-request-id"), Some("mine"));
        assert_eq!(request.header("x-forwarded-client-cert"), None);
    }
    // Too few entries, or no address: only the peer is certain.
    for headers in ["x-forwarded-for: 1.1.1.1\r\n", "x-forwarded-for: x, y\r\nx-forwarded-proto: gopher\r\n", ""] {
        let (request, entry) = forwarded(trusting(2), headers).await;
        assert_eq!(request.header("x-envoy-external-address"), Some("127.0.0.1"), "{headers}");
        assert_eq!(request.header("x-forwarded-proto"), Some("http"), "{headers}");
        assert!(entry["downstream_remote_address"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn ipv6_on_both_sides() {
    let listener = tokio::net::TcpListener::bind("[::1]:0").await.unwrap();
    let service = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut received = Vec::new();
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = RawClient::over(stream);
            received.push(connection.request_head().await.unwrap().1);
            connection.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
        }
        received
    });
    let resources = GATEWAY.to_owned()
        + &service_at("sample", "HTTP", &[service])
        + &virtual_service("everything", &["*"], "  - route: [{destination: {host: sample}}]");
    let gateway = Setup::new()
        .access_log(LogFormat::Json)
        .options(|options| {
            // Every address of both families.
            options.config.bind.insert(80, "[::]:0".parse().unwrap());
            let any = "[::1]:0".parse().unwrap();
            options.addresses = gateway::admin::Addresses { admin: any, agent: any, status: any, metrics: any };
        })
        .file("all.yaml", resources)
        .start()
        .await
        .unwrap();
    let port = gateway.address(80).unwrap().port();
    for (at, (ip, forwarded)) in [("[::1]", "::1"), ("127.0.0.1", "127.0.0.1")].into_iter().enumerate() {
        let mut client = RawClient::connect(format!("{ip}:{port}").parse().unwrap()).await.unwrap();
        let response = client.get(&format!("[::1]:{port}"), "/").await.unwrap();
        assert_eq!(response.status, 200);
        let entry = entry(&gateway.access_log(at + 1).await.unwrap()[at]);
        assert!(entry["downstream_remote_address"].as_str().unwrap().starts_with(&format!("{ip}:")), "{entry}");
        assert_eq!(entry["downstream_local_address"], format!("{ip}:{port}"));
        assert_eq!(entry["upstream_host"], service.to_string());
        assert_eq!(entry["x_forwarded_for"], forwarded);
        assert_eq!(entry["authority"], format!("[::1]:{port}"));
    }
    let received = gateway_tests::within("both requests", server).await.unwrap().unwrap();
    assert!(received.iter().all(|headers| headers.iter().any(|(n, v)| n == "host" && v == &format!("[::1]:{port}"))));
    assert_eq!(gateway.admin("/config_dump").await.unwrap().status, 200);
}

#[tokio::test]
async fn tls_follows_what_the_balancer_says() {
    let authority = Authority::new("tests").unwrap();
    let issued = authority.server(&[HOST]).unwrap();
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .options(|options| options.identity.topology.proxy_protocol = true)
        .file("gateway.yaml", https_gateway("gateway", &[HOST], "mode: SIMPLE, credentialName: cert"))
        .file("secret.yaml", secret("cert", &issued, None))
        .file("service.yaml", service("sample", &[&upstream]))
        .file("route.yaml", virtual_service("all", &["*"], "  - route: [{destination: {host: sample}}]"))
        .start()
        .await
        .unwrap();
    for header in [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n".to_vec(),
        binary("192.0.2.7:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap(), b"tlv"),
    ] {
        let mut tcp = tokio::net::TcpStream::connect(gateway.address(443).unwrap()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut tcp, &header).await.unwrap();
        let tls = TlsClient::new(&[&authority]).unwrap().connect_over(tcp, HOST, &["http/1.1"]).await.unwrap();
        assert_eq!(RawClient::over(tls).get(HOST, "/").await.unwrap().status, 200);
    }
    for request in upstream.received(2).await.unwrap() {
        assert_eq!(request.header("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    }
    // Without a header there is no handshake.
    assert!(TlsClient::new(&[&authority]).unwrap().http1(gateway.address(443).unwrap(), HOST).await.is_err());
}

#[tokio::test]
async fn a_trusted_proxy_may_end_tls() {
    for (proxies, proto, status) in [(0, "https", 301), (1, "https", 200), (1, "http", 301), (1, "HTTPS, http", 301)] {
        let upstream = Upstream::start(Protocol::Http1).await.unwrap();
        let redirecting = GATEWAY.replace("hosts: ['*']", "hosts: ['*']\n    tls: {httpsRedirect: true}");
        let gateway = Setup::new()
            .options(|options| options.identity.topology.trusted_proxies = proxies)
            .file("all.yaml", everything_to(&upstream).replace(GATEWAY, &redirecting))
            .start()
            .await
            .unwrap();
        assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
        let mut client = gateway.client().await.unwrap();
        client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx-forwarded-proto: {proto}\r\n\r\n")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, status, "{proxies} {proto}");
    }
}

#[tokio::test]
async fn a_header_has_to_come_in_time() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = Setup::new()
        .options(|options| {
            options.identity.topology.proxy_protocol = true;
            options.client_limits.request_head_timeout = std::time::Duration::from_millis(500);
        })
        .file("all.yaml", everything_to(&upstream))
        .start()
        .await
        .unwrap();
    let mut silent = gateway.client().await.unwrap();
    let mut slow = gateway.client().await.unwrap();
    slow.send("PROXY TCP4 192.0").await.unwrap();
    silent.closed().await.unwrap();
    slow.closed().await.unwrap();
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "request_head_time")], 2.0).await.unwrap();
}
