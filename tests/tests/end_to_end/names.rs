//! Endpoints that are known by name, and endpoints that change without a new configuration.

use gateway_tests::dns::NameServer;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, virtual_service};
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use gateway_tests::within;
use std::net::SocketAddr;
use tokio::net::TcpListener;

const HOST: &str = "test.example.dev";

/// A ServiceEntry for a name that DNS has to find.
fn entry(name: &str, resolution: &str, port: u16) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}]
  resolution: {resolution}
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
---
"
    )
}

fn route(name: &str) -> String {
    virtual_service(
        "everything",
        &["*"],
        &format!("  - route: [{{destination: {{host: {name}, port: {{number: 80}}}}}}]"),
    )
}

async fn start(names: &NameServer, resources: String) -> TestGateway {
    let address = names.address();
    let setup = Setup::new().options(|options| options.dns_server = Some(address));
    setup.file("all.yaml", GATEWAY.to_owned() + &resources).start().await.unwrap()
}

async fn get(gateway: &TestGateway) -> u16 {
    gateway.client().await.unwrap().get(HOST, "/").await.unwrap().status
}

/// Two addresses with one port, and a service on each.
async fn two_addresses() -> (Upstream, Upstream) {
    loop {
        let one = Upstream::start(Http1).await.unwrap();
        let other = SocketAddr::from(([127, 0, 0, 2], one.address().port()));
        // Somebody else may have the port there.
        if let Ok(listener) = TcpListener::bind(other).await {
            return (one, Upstream::on(listener, Http1).unwrap());
        }
    }
}

#[tokio::test]
async fn names_are_looked_up_and_looked_up_again() {
    let (one, two) = two_addresses().await;
    let names = NameServer::start().await.unwrap();
    names.set("svc.example.dev", &["127.0.0.1"], 1);
    let port = one.address().port();
    let gateway = start(&names, entry("svc.example.dev", "DNS", port) + &route("svc.example.dev")).await;
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    assert_eq!(get(&gateway).await, 200, "the first answer is waited for");
    assert_eq!(one.requests().len(), 1);

    // A request in flight stays where it is; the next goes to the new address.
    let gate = Gate::shut();
    one.answer_next(Answer::new(200).after(&gate));
    let mut slow = gateway.client().await.unwrap();
    slow.send(format!("GET /slow HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    one.received(2).await.unwrap();
    let mut progress = gateway.gateway().progress();
    let before = progress.borrow_and_update().clone();
    names.set("svc.example.dev", &["127.0.0.2"], 1);
    let exchanged = progress.wait_for(|now| now.endpoints > before.endpoints);
    let after = within("other endpoints", exchanged).await.unwrap().unwrap().version;
    assert_eq!(after, before.version, "the configuration is the same");
    assert_eq!(get(&gateway).await, 200);
    assert_eq!((one.requests().len(), two.requests().len()), (2, 1));
    gate.open();
    assert_eq!(slow.response().await.unwrap().status, 200);
    let clusters = gateway.admin("/clusters").await.unwrap().text();
    assert!(clusters.contains(&format!("127.0.0.2:{port}")) && !clusters.contains("127.0.0.1:"), "{clusters}");

    // Whatever goes wrong, the last good answer stays.
    let asked = names.asked("svc.example.dev");
    names.fail("svc.example.dev");
    names.asked_times("svc.example.dev", asked + 3).await.unwrap();
    let failures = gateway.metrics().await.unwrap().sum("gateway_dns_failures_total", &[]);
    assert!(failures >= 1.0, "{failures}");
    assert_eq!(get(&gateway).await, 200);
    // A new configuration does not forget it either.
    let other = entry("other.example.dev", "DNS", 1);
    gateway.write("other.yaml", &other).await.unwrap();
    assert_eq!(get(&gateway).await, 200);
    assert_eq!(two.requests().len(), 3);
    // And the name comes back.
    let mut progress = gateway.gateway().progress();
    let before = progress.borrow_and_update().endpoints;
    names.set("svc.example.dev", &["127.0.0.1"], 60);
    within("the name to come back", progress.wait_for(|now| now.endpoints > before)).await.unwrap().unwrap();
    assert_eq!(get(&gateway).await, 200);
    assert_eq!(one.requests().len(), 3);
}

#[tokio::test]
async fn all_addresses_or_the_first() {
    let (one, two) = two_addresses().await;
    let names = NameServer::start().await.unwrap();
    names.set("svc.example.dev", &["127.0.0.1", "127.0.0.2"], 60);
    let port = one.address().port();
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d, namespace: default}
spec: {host: svc.example.dev, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
---
";
    let resources = |resolution: &str| entry("svc.example.dev", resolution, port) + rule + &route("svc.example.dev");
    let gateway = start(&names, resources("DNS")).await;
    for _ in 0..4 {
        assert_eq!(get(&gateway).await, 200);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (2, 2));
    gateway.write("all.yaml", &(GATEWAY.to_owned() + &resources("DNS_ROUND_ROBIN"))).await.unwrap();
    for _ in 0..4 {
        assert_eq!(get(&gateway).await, 200);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (6, 2));
    assert_eq!(names.asked("svc.example.dev"), 1, "the answer is still valid");
}

#[tokio::test]
async fn names_that_nobody_knows_have_no_endpoint_until_somebody_does() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let names = NameServer::start().await.unwrap();
    let port = upstream.address().port();
    let gateway = start(&names, entry("late.example.dev", "DNS", port) + &route("late.example.dev")).await;
    let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (503, "no healthy upstream"));
    let mut progress = gateway.gateway().progress();
    names.set("late.example.dev", &["127.0.0.1"], 60);
    within("the name to be found", progress.wait_for(|now| now.endpoints > 0)).await.unwrap().unwrap();
    assert_eq!(get(&gateway).await, 200);
}

#[tokio::test]
async fn unknown_hosts_never_lead_to_this_host() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let names = NameServer::start().await.unwrap();
    names.set("rebind.example.dev", &["127.0.0.1", "169.254.169.254", "::1"], 60);
    let (address, port) = (names.address(), upstream.address().port());
    let routes = virtual_service(
        "everything",
        &["*"],
        &format!("  - route: [{{destination: {{host: rebind.example.dev, port: {{number: {port}}}}}}}]"),
    );
    for (resolve, body) in [(false, ""), (true, "no healthy upstream")] {
        let setup = Setup::new().options(|options| {
            options.dns_server = Some(address);
            options.config.resolve_unknown_hosts = resolve;
        });
        let gateway = setup.file("all.yaml", GATEWAY.to_owned() + &routes).start().await.unwrap();
        let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (503, body));
        assert_eq!(names.asked("rebind.example.dev"), usize::from(resolve));
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn endpoint_slices_that_change_alone_change_nothing_else() {
    let (one, two) = two_addresses().await;
    let service = "
apiVersion: v1
kind: Service
metadata: {name: sample, namespace: default}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
";
    let slice = |addresses: &[&str]| {
        let endpoints: Vec<_> = addresses.iter().map(|address| format!("{{addresses: [{address}]}}")).collect();
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: sample-1, namespace: default, labels: {{kubernetes.io/service-name: sample}}}}
addressType: IPv4
endpoints: [{}]
ports: [{{name: http, port: {}}}]
",
            endpoints.join(", "),
            one.address().port()
        )
    };
    let setup = Setup::new().file("all.yaml", GATEWAY.to_owned() + service + &route("sample"));
    let gateway = setup.file("slice.yaml", slice(&["127.0.0.1"])).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    let before = gateway.gateway().progress().borrow().clone();

    gateway.write("slice.yaml", &slice(&["127.0.0.2"])).await.unwrap();
    let after = gateway.gateway().progress().borrow().clone();
    assert_eq!((after.version, after.endpoints), (before.version, before.endpoints + 1));
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
    assert_eq!((one.requests().len(), two.requests().len()), (1, 1));

    // What it leads to is reported as ever.
    gateway.write("slice.yaml", &slice(&[])).await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 503);
    assert!(gateway.problems().iter().any(|problem| problem.code == "GW0106"), "{:#?}", gateway.problems());
    gateway.write("slice.yaml", &slice(&["127.0.0.1", "127.0.0.2"])).await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);

    // Together with something else it is a new configuration.
    gateway
        .change(|folder| {
            std::fs::write(folder.join("slice.yaml"), slice(&["127.0.0.1"]))?;
            Ok(std::fs::write(folder.join("other.yaml"), entry("other.example.dev", "STATIC", 1))?)
        })
        .await
        .unwrap();
    assert!(gateway.gateway().progress().borrow().version > before.version);
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
}
