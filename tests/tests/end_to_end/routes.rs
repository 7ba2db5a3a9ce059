//! Which route of a virtual host a request takes, and what routes do besides sending it on.

use gateway_tests::client::RawResponse;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Gate, Received, Upstream};

const HOST: &str = "test.example.dev";

/// A gateway with these routes for every host.
async fn routes(http: &str) -> TestGateway {
    let setup = Setup::new().file("gateway.yaml", GATEWAY);
    let gateway = setup.file("routes.yaml", virtual_service("routes", &["*"], http)).start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    gateway
}

/// A gateway with these routes for every host, and the service `sample` behind it.
async fn routes_to(upstream: &Upstream, http: &str) -> TestGateway {
    let resources = GATEWAY.to_owned() + &service("sample", &[upstream]) + &virtual_service("routes", &["*"], http);
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    gateway
}

/// Sends a request without a body over a connection of its own.
async fn ask(gateway: &TestGateway, request_line: &str, headers: &[&str]) -> RawResponse {
    let mut client = gateway.client().await.unwrap();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    client.send(format!("{request_line} HTTP/1.1\r\nhost: {HOST}\r\n{headers}\r\n")).await.unwrap();
    client.response().await.unwrap()
}

#[tokio::test]
async fn the_first_match_in_written_order_wins() {
    let gateway = routes(
        "
  - {match: [{uri: {exact: /exact}}], directResponse: {status: 200, body: {string: exact}}}
  - {match: [{uri: {prefix: /sample}}], directResponse: {status: 200, body: {string: prefix}}}
  - {match: [{uri: {prefix: /sample/longer}}], directResponse: {status: 200, body: {string: never}}}
  - {match: [{uri: {regex: '/re/[0-9]+'}}], directResponse: {status: 200, body: {string: regex}}}
  - {match: [{uri: {prefix: /CaSe}, ignoreUriCase: true}], directResponse: {status: 200, body: {string: case}}}
  - {match: [{uri: {prefix: /one}}, {uri: {prefix: /two}}], directResponse: {status: 200, body: {string: either}}}
  - {match: [{uri: {prefix: /x}}], name: named, directResponse: {status: 418}}",
    )
    .await;
    let mut client = gateway.client().await.unwrap();
    for (path, status, body) in [
        ("/exact", 200, "exact"),
        ("/exact?query=1", 200, "exact"),
        ("/exact/", 404, ""),
        ("/Exact", 404, ""),
        ("/sample", 200, "prefix"),
        ("/sample/longer/x", 200, "prefix"),
        ("/samplefoo", 200, "prefix"),
        ("/re/12", 200, "regex"),
        ("/re/12?x=y", 200, "regex"),
        ("/re/12x", 404, ""),
        ("/cAsE/Y", 200, "case"),
        ("/two", 200, "either"),
        ("/xyz", 418, ""),
        ("/", 404, ""),
    ] {
        let response = client.get(HOST, path).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (status, body), "{path}");
    }
}

#[tokio::test]
async fn all_conditions_of_a_match_must_hold() {
    let gateway = routes(
        "
  - {match: [{method: {exact: POST}}], directResponse: {status: 200, body: {string: method}}}
  - {match: [{authority: {prefix: 'other.'}}], directResponse: {status: 200, body: {string: authority}}}
  - match: [{uri: {prefix: /h}, headers: {x-a: {exact: '1'}, x-b: {prefix: be}, x-c: {regex: '[a-z]+'}, x-d: {}}}]
    directResponse: {status: 200, body: {string: headers}}
  - {match: [{uri: {prefix: /w}, withoutHeaders: {x-no: {exact: '1'}}}], directResponse: {status: 200, body: {string: without}}}
  - match: [{uri: {prefix: /q}, queryParams: {a: {exact: '1'}, b: {regex: 'x+'}}}]
    directResponse: {status: 200, body: {string: query}}",
    )
    .await;
    for (request, headers, body) in [
        ("POST /", &[][..], "method"),
        ("GET /h", &["X-A: 1", "x-b: beta", "x-c: abc", "x-d: whatever"][..], "headers"),
        ("GET /h", &["x-a: 1", "x-b: beta", "x-c: abc"], ""),
        ("GET /h", &["x-a: 1", "x-b: beta", "x-c: ab1", "x-d: y"], ""),
        ("GET /h", &["x-a: 2", "x-b: beta", "x-c: abc", "x-d: y"], ""),
        ("GET /w", &[], "without"),
        ("GET /w", &["x-no: 2"], "without"),
        ("GET /w", &["x-no: 1"], ""),
        ("GET /q?b=xx&a=1", &[], "query"),
        ("GET /q?a=1&b=xy", &[], ""),
        ("GET /q?a=1", &[], ""),
        ("GET /q?a=%31&b=x", &[], ""),
        ("GET /", &[], ""),
    ] {
        let response = ask(&gateway, request, headers).await;
        let status = if body.is_empty() { 404 } else { 200 };
        assert_eq!((response.status, response.text().as_str()), (status, body), "{request} {headers:?}");
    }
    let other = gateway.client().await.unwrap().get("other.example", "/").await.unwrap();
    assert_eq!(other.text(), "authority");
}

#[tokio::test]
async fn destinations_get_their_share() {
    let (one, two) = (Upstream::start(Protocol::Http1).await.unwrap(), Upstream::start(Protocol::Http1).await.unwrap());
    let shares = "  - route:
    - {destination: {host: one}, weight: 80}
    - {destination: {host: two}, weight: 20}
    - {destination: {host: never}, weight: 0}";
    let resources = GATEWAY.to_owned()
        + &service("one", &[&one])
        + &service("two", &[&two])
        + &service("never", &[&two])
        + &virtual_service("shares", &["*"], shares);
    let gateway = Setup::new().file("all.yaml", resources).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for _ in 0..1000 {
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    }
    let (first, second) = (one.requests().len(), two.requests().len());
    assert_eq!(first + second, 1000);
    // Six standard deviations of 12.6 around 200: wrong once in five hundred million runs.
    assert!((124..=276).contains(&second), "{second} of 1000 at a share of 20 %");
    assert_eq!(
        gateway.metrics().await.unwrap().sum("istio_requests_total", &[("destination_service_name", "never")]),
        0.0
    );
}

#[tokio::test]
async fn redirects_say_where_to_as_istio_does() {
    let gateway = routes(
        "
  - {match: [{uri: {prefix: /path}}], redirect: {uri: /new}}
  - {match: [{uri: {prefix: /query}}], redirect: {uri: '/new?x=1'}}
  - {match: [{uri: {prefix: /host}}], redirect: {authority: other.example, redirectCode: 302}}
  - {match: [{uri: {prefix: /both}}], redirect: {authority: other.example, uri: /x, redirectCode: 307}}
  - {match: [{uri: {prefix: /https}}], redirect: {scheme: https, redirectCode: 308}}
  - {match: [{uri: {prefix: /port}}], redirect: {port: 8443, redirectCode: 303}}
  - {match: [{uri: {prefix: /derived}}], redirect: {derivePort: FROM_REQUEST_PORT}}
  - {match: [{uri: {prefix: /defaulted}}], redirect: {scheme: https, port: 443}}
  - {match: [{uri: {prefix: /prefix}}], redirect: {prefixRewrite: /swapped}}",
    )
    .await;
    let mut client = gateway.client().await.unwrap();
    for (host, path, status, location) in [
        ("a.com", "/path?q=1", 301, "http://a.com/new?q=1"),
        ("a.com:8080", "/path", 301, "http://a.com:8080/new"),
        ("a.com", "/query?q=1", 301, "http://a.com/new?x=1"),
        ("a.com:99", "/host/x?q", 302, "http://other.example/host/x?q"),
        ("a.com", "/both/y", 307, "http://other.example/x"),
        ("main.com:1234", "/https/p?q=1", 308, "https://main.com:1234/https/p?q=1"),
        ("main.com:80", "/https", 308, "https://main.com/https"),
        ("main.com", "/https", 308, "https://main.com/https"),
        ("a.com:1", "/port", 303, "http://a.com:8443/port"),
        ("a.com:1", "/derived", 301, "http://a.com/derived"),
        ("a.com:1", "/defaulted", 301, "https://a.com/defaulted"),
        ("a.com", "/prefix/tail?q", 301, "http://a.com/swapped/tail?q"),
    ] {
        let response = client.get(host, path).await.unwrap();
        assert_eq!((response.status, response.header("location")), (status, Some(location)), "{host}{path}");
        assert_eq!((response.body.len(), response.header("content-type")), (0, None), "{host}{path}");
    }
}

#[tokio::test]
async fn fixed_responses_are_text_unless_their_headers_say_otherwise() {
    let gateway = routes(
        "
  - {match: [{uri: {exact: /text}}], directResponse: {status: 503, body: {string: closed}}}
  - {match: [{uri: {exact: /bytes}}], directResponse: {status: 200, body: {bytes: aGVsbG8=}}}
  - match: [{uri: {exact: /json}}]
    directResponse: {status: 200, body: {string: '{}'}}
    headers: {response: {set: {content-type: application/json, x-route: '%REQ(:path)%'}}}
  - {match: [{uri: {exact: /nothing}}], directResponse: {status: 204}}",
    )
    .await;
    let text = ask(&gateway, "GET /text", &[]).await;
    assert_eq!((text.status, text.text().as_str(), text.header("content-type")), (503, "closed", Some("text/plain")));
    assert_eq!(text.header("server"), Some("istio-envoy"));
    assert_eq!(text.header("x-envoy-upstream-service-time"), None);
    assert_eq!(ask(&gateway, "GET /bytes", &[]).await.text(), "hello");
    let json = ask(&gateway, "GET /json", &[]).await;
    assert_eq!((json.header("content-type"), json.header("x-route")), (Some("application/json"), Some("/json")));
    let nothing = ask(&gateway, "GET /nothing", &[]).await;
    assert_eq!((nothing.status, nothing.header("content-length"), nothing.header("content-type")), (204, None, None));
}

#[tokio::test]
async fn a_fixed_response_may_be_asked_for_by_head() {
    let gateway = routes("  - {directResponse: {status: 200, body: {string: eleven char}}}").await;
    let mut client = gateway.client().await.unwrap();
    client.send(format!("HEAD / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("11")));
    // Nothing follows the head: the next answer begins right after it.
    assert_eq!(client.get(HOST, "/").await.unwrap().text(), "eleven char");

    let request = http::Request::head(format!("http://{HOST}/")).body(gateway_tests::body::Outgoing::empty()).unwrap();
    let response = gateway.h2_client().await.unwrap().fetch(request).await.unwrap();
    assert_eq!((response.status.as_u16(), response.body.len()), (200, 0));
    // Both are complete answers, not clients that left.
    let complete = [("response_code", "200"), ("response_flags", "-")];
    gateway.metric_becomes("istio_requests_total", &complete, 3.0).await.unwrap();
}

#[tokio::test]
async fn rewrites_change_what_the_service_sees() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = routes_to(
        &upstream,
        "
  - {match: [{uri: {prefix: /foo}}], rewrite: {uri: /}, route: [{destination: {host: sample}}]}
  - {match: [{uri: {prefix: /bar/}}], rewrite: {uri: /baz/}, route: [{destination: {host: sample}}]}
  - {match: [{uri: {exact: /exact}}], rewrite: {uri: /whole}, route: [{destination: {host: sample}}]}
  - {match: [{uri: {regex: '/v[0-9]+/.*'}}], rewrite: {uri: /regex}, route: [{destination: {host: sample}}]}
  - match: [{uri: {prefix: /users/}}]
    rewrite: {uriRegexRewrite: {match: '/users/([^/]+)/(.*)', rewrite: '/\\2/of/\\1'}}
    route: [{destination: {host: sample}}]
  - {match: [{uri: {prefix: /authority}}], rewrite: {authority: inner.example}, route: [{destination: {host: sample}}]}
  - {match: [{uri: {prefix: /plain}}], route: [{destination: {host: sample}}]}",
    )
    .await;
    let mut client = gateway.client().await.unwrap();
    for (at, (path, target, original)) in [
        ("/foo/bar", "//bar", true),
        ("/foo?x=1", "/?x=1", true),
        ("/bar/x?q=1", "/baz/x?q=1", true),
        ("/exact?q", "/whole?q", true),
        ("/v1/x?q", "/regex?q", true),
        ("/users/7/name/first?q", "/name/first/of/7?q", true),
        ("/plain", "/plain", false),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(client.get(HOST, path).await.unwrap().status, 200, "{path}");
        let request = upstream.received(at + 1).await.unwrap().remove(at);
        assert_eq!(request.target, target, "{path}");
        assert_eq!(request.header("x-envoy-original-path"), original.then_some(path), "{path}");
        assert_eq!((request.header("host"), request.header("x-envoy-original-host")), (Some(HOST), None));
    }
    client.get(HOST, "/authority").await.unwrap();
    let request = upstream.received(8).await.unwrap().remove(7);
    assert_eq!(request.header("host"), Some("inner.example"));
    assert_eq!(request.header("x-envoy-original-host"), Some(HOST));
}

/// Sends one request with `x-a: client` and gives what the service saw and what the client got.
async fn one(gateway: &TestGateway, upstream: &Upstream) -> (Received, RawResponse) {
    let before = upstream.requests().len();
    let response = ask(gateway, "GET /", &["x-a: client", "x-b: client", "x-gone: client"]).await;
    (upstream.received(before + 1).await.unwrap().remove(before), response)
}

#[tokio::test]
async fn header_operations_of_a_lone_destination_come_after_the_routes() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    upstream
        .answer_with(|_| Answer::new(200).header("x-r", "service").header("x-secret", "1").header("server", "mine"));
    let gateway = routes_to(
        &upstream,
        "
  - headers:
      request: {remove: [x-gone, x-a], add: {x-a: new, x-b: route}, set: {x-level: route, x-pct: 100%%}}
      response: {remove: [x-secret], add: {x-r: route}, set: {server: other}}
    route:
    - destination: {host: sample}
      headers:
        request: {add: {x-b: destination}, set: {x-level: destination, x-who: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}
        response: {add: {x-r: destination}}",
    )
    .await;
    let (request, response) = one(&gateway, &upstream).await;
    assert_eq!(request.header_values("x-a"), ["new"], "removal comes before addition");
    assert_eq!(request.header_values("x-b"), ["client", "route", "destination"]);
    assert_eq!(request.header_values("x-level"), ["destination"]);
    assert_eq!(request.header("x-gone"), None);
    assert_eq!(request.header("x-pct"), Some("100%"));
    assert_eq!(request.header("x-who"), Some("127.0.0.1"));
    assert_eq!(response.header_values("x-r"), ["service", "route", "destination"]);
    assert_eq!(response.header("x-secret"), None);
    assert_eq!(response.header_values("server"), ["istio-envoy"]);
}

#[tokio::test]
async fn header_operations_of_several_destinations_come_before_the_routes() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let destination = "destination: {host: sample}
      headers: {request: {set: {x-level: destination}, add: {x-b: destination}}, response: {set: {x-r: destination}}}";
    let gateway = routes_to(
        &upstream,
        &format!(
            "
  - headers: {{request: {{set: {{x-level: route}}, add: {{x-b: route}}}}, response: {{set: {{x-r: route}}}}}}
    route:
    - weight: 50
      {destination}
    - weight: 50
      {destination}"
        ),
    )
    .await;
    let (request, response) = one(&gateway, &upstream).await;
    assert_eq!(request.header_values("x-level"), ["route"], "the route has the last word");
    assert_eq!(request.header_values("x-b"), ["client", "destination", "route"]);
    assert_eq!(response.header_values("x-r"), ["route"]);
}

#[tokio::test]
async fn a_request_that_takes_longer_than_its_route_allows_is_answered_504() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = routes_to(&upstream, "  - {timeout: 100ms, route: [{destination: {host: sample}}]}").await;
    let never = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&never));
    let mut client = gateway.client().await.unwrap();
    let response = client.get(HOST, "/slow").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (504, "upstream request timeout"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    upstream.open_connections(0).await.unwrap();
    // The client's connection goes on.
    assert_eq!(client.get(HOST, "/quick").await.unwrap().status, 200);
    let labels = [("response_code", "504"), ("response_flags", "UT")];
    gateway.metric_becomes("istio_requests_total", &labels, 1.0).await.unwrap();
    gateway.metric_becomes("gateway_limit_exceeded_total", &[("limit", "request_time")], 1.0).await.unwrap();

    // The limit holds for the response's body, too.
    let (answer, body) = Answer::streamed(200);
    upstream.answer_next(answer);
    client.send(format!("GET /slow-body HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    assert_eq!(client.head().await.unwrap().status, 200);
    body.send("a piece").await.unwrap();
    assert_eq!(client.chunk().await.unwrap(), b"a piece");
    assert!(client.chunk().await.is_err(), "the end of a body that is not complete looks complete");
    body.unread().await.unwrap();
}

#[tokio::test]
async fn grpc_clients_are_answered_in_their_language() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let gateway = routes_to(
        &upstream,
        "
  - {match: [{uri: {prefix: /broken.}}], route: [{destination: {host: sample}}]}
  - {match: [{uri: {prefix: /slow.}}], timeout: 50ms, route: [{destination: {host: sample}}]}
  - {match: [{uri: {prefix: /closed.}}], directResponse: {status: 403, body: {string: go away}}}",
    )
    .await;
    upstream.answer_next(Answer::hang_up());
    let never = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&never));
    const RESET: &str =
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    let mut client = gateway.h2_client().await.unwrap();
    for (path, status, message) in [
        ("/unknown.Service/Method", "12", None),
        ("/broken.Service/Method", "14", Some(RESET)),
        ("/slow.Service/Method", "14", Some("upstream request timeout")),
        ("/closed.Service/Method", "7", Some("go away")),
    ] {
        let request = http::Request::post(format!("http://{HOST}{path}"))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(gateway_tests::body::Outgoing::full("\0\0\0\0\0"))
            .unwrap();
        let response = client.fetch(request).await.unwrap();
        assert_eq!((response.status.as_u16(), response.body.len()), (200, 0), "{path}");
        assert_eq!(response.headers["grpc-status"], status, "{path}");
        assert_eq!(response.headers["content-type"], "application/grpc", "{path}");
        assert_eq!(response.headers.get("grpc-message").map(|value| value.to_str().unwrap()), message, "{path}");
    }
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "12"), ("response_flags", "NR")];
    gateway.metric_becomes("istio_requests_total", &labels, 1.0).await.unwrap();
}
