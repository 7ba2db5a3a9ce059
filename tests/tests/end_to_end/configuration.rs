//! Configuration that changes while the gateway serves: what takes effect, what stays, what is reported.

use gateway_tests::body::Outgoing;
use gateway_tests::client::{RawClient, RawServer, unused_address};
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use http::Request;
use std::fs;
use std::os::unix::fs::symlink;

const HOST: &str = "test.example.dev";

/// A VirtualService whose every answer is `text`.
fn says(name: &str, host: &str, text: &str) -> String {
    virtual_service(name, &[host], &format!("  - directResponse: {{status: 200, body: {{string: '{text}'}}}}"))
}

/// A gateway that answers everything with `one`, from `route.yaml`.
async fn says_one() -> TestGateway {
    let setup = Setup::new().file("gateway.yaml", GATEWAY).file("route.yaml", says("route", "*", "one"));
    setup.start().await.unwrap()
}

async fn body(client: &mut RawClient) -> String {
    client.get(HOST, "/").await.unwrap().text()
}

#[tokio::test]
async fn a_change_takes_effect_on_open_connections() {
    let gateway = says_one().await;
    let (mut http1, mut http2) = (gateway.client().await.unwrap(), gateway.h2_client().await.unwrap());
    for (round, text) in ["two", "three", "four"].into_iter().enumerate() {
        gateway.write("route.yaml", &says("route", "*", text)).await.unwrap();
        assert_eq!(body(&mut http1).await, text);
        assert_eq!(http2.get(HOST, "/").await.unwrap().body, text);
        assert_eq!(gateway.gateway().progress().borrow().version, round as u64 + 2);
    }
    gateway.remove("route.yaml").await.unwrap();
    assert_eq!(http1.get(HOST, "/").await.unwrap().status, 404);
    assert_eq!(http2.get(HOST, "/").await.unwrap().status, 404);
    gateway.metric_becomes("gateway_downstream_connections_total", &[], 2.0).await.unwrap();
}

#[tokio::test]
async fn requests_in_flight_finish_on_the_route_they_began_with() {
    let (old, new) = (Upstream::start(Http1).await.unwrap(), Upstream::start(Http1).await.unwrap());
    let route = |name: &str, upstream: &Upstream| {
        let http = format!(
            "  - {{headers: {{response: {{set: {{x-route: {name}}}}}}}, route: [{{destination: {{host: {name}}}}}]}}"
        );
        service(name, &[upstream]) + &virtual_service("route", &["*"], &http)
    };
    let setup = Setup::new().file("gateway.yaml", GATEWAY).file("route.yaml", route("old", &old));
    let gateway = setup.start().await.unwrap();
    let gate = Gate::shut();
    old.answer_next(Answer::new(200).after(&gate).text("from old"));
    let (answer, rest) = Answer::streamed(200);
    old.answer_next(answer);

    let mut waiting = gateway.client().await.unwrap();
    waiting.send(format!("GET /waiting HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    old.received(1).await.unwrap();
    let mut reading = gateway.client().await.unwrap();
    reading.send(format!("GET /reading HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    assert_eq!(reading.head().await.unwrap().status, 200);
    let mut uploading = gateway.client().await.unwrap();
    uploading.send(format!("POST /up HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 10\r\n\r\n01234")).await.unwrap();
    // The third has reached the service when its connection is open there.
    old.open_connections(3).await.unwrap();

    gateway.write("route.yaml", &route("new", &new)).await.unwrap();
    let response = gateway.client().await.unwrap().get(HOST, "/").await.unwrap();
    assert_eq!(response.header("x-route"), Some("new"));
    gate.open();
    let response = waiting.response().await.unwrap();
    assert_eq!((response.header("x-route"), response.text().as_str()), (Some("old"), "from old"));
    rest.send("the rest").await.unwrap();
    assert_eq!(reading.chunk().await.unwrap(), b"the rest");
    drop(rest);
    assert!(reading.chunk().await.unwrap().is_empty());
    uploading.send("56789").await.unwrap();
    assert_eq!(uploading.response().await.unwrap().header("x-route"), Some("old"));
    assert_eq!(old.received(3).await.unwrap()[2].body, "0123456789");
    // Their connections live on with the new configuration, and nothing is kept of the old service.
    assert_eq!(waiting.get(HOST, "/").await.unwrap().header("x-route"), Some("new"));
    old.open_connections(0).await.unwrap();
}

#[tokio::test]
async fn upstream_connections_survive_a_change_that_does_not_concern_them() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for round in 0..3 {
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
        gateway.write("more.yaml", &says("more", "more.example", &round.to_string())).await.unwrap();
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_config_map_is_swapped() {
    let gateway = Setup::new().file("gateway.yaml", GATEWAY).start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for round in 0..3 {
        let text = format!("version {round}");
        // What the kubelet does: a folder per version, `..data` points to the current one and is replaced in one step.
        let swap = |folder: &std::path::Path| {
            let map = folder.join("map");
            let version = map.join(format!("..version-{round}"));
            fs::create_dir_all(&version)?;
            fs::write(version.join("route.yaml"), says("route", "*", &text))?;
            symlink(version.file_name().unwrap(), map.join("..data_tmp"))?;
            fs::rename(map.join("..data_tmp"), map.join("..data"))?;
            if round == 0 {
                symlink("..data/route.yaml", map.join("route.yaml"))?;
            } else {
                fs::remove_dir_all(map.join(format!("..version-{}", round - 1)))?;
            }
            Ok(())
        };
        gateway.change(swap).await.unwrap();
        assert_eq!(body(&mut client).await, text);
    }
}

#[tokio::test]
async fn files_are_replaced_in_whatever_way_editors_do_it() {
    let gateway = says_one().await;
    let mut client = gateway.client().await.unwrap();
    let in_place = says("route", "*", "in place");
    gateway.change(|folder| Ok(fs::write(folder.join("route.yaml"), in_place)?)).await.unwrap();
    assert_eq!(body(&mut client).await, "in place");
    let with_backup = |folder: &std::path::Path| {
        fs::rename(folder.join("route.yaml"), folder.join("route.yaml~"))?;
        fs::write(folder.join("route.yaml"), says("route", "*", "with a backup"))?;
        Ok(fs::remove_file(folder.join("route.yaml~"))?)
    };
    gateway.change(with_backup).await.unwrap();
    assert_eq!(body(&mut client).await, "with a backup");
    let moved = |folder: &std::path::Path| {
        fs::create_dir(folder.join("deeper"))?;
        Ok(fs::rename(folder.join("route.yaml"), folder.join("deeper/renamed.yml"))?)
    };
    gateway.change(moved).await.unwrap();
    assert_eq!(body(&mut client).await, "with a backup");
}

#[tokio::test]
async fn a_broken_file_keeps_what_was_good_and_says_what_is_wrong() {
    let gateway = says_one().await;
    let mut client = gateway.client().await.unwrap();
    let path = gateway.folder().join("route.yaml").display().to_string();

    gateway.write("route.yaml", "apiVersion: networking.istio.io/v1\nkind: [VirtualService\n").await.unwrap();
    assert_eq!(body(&mut client).await, "one");
    let problems = gateway.problems();
    assert_eq!((problems[0].code, problems[0].file.as_str()), ("GW0002", path.as_str()));
    assert!(problems[0].line >= 2, "{problems:#?}");

    let invalid = virtual_service(
        "route",
        &["*"],
        "  - directResponse: {status: 200, body: {string: two}}\n  - redirect: {redirectCode: 300}\n  - timeout: soon",
    );
    gateway.write("route.yaml", &invalid).await.unwrap();
    assert_eq!(body(&mut client).await, "one");
    let problems = gateway.problems();
    let found = |field: &str| problems.iter().find(|problem| problem.field == field);
    let code = found("spec.http[1].redirect.redirectCode").unwrap_or_else(|| panic!("{problems:#?}"));
    assert_eq!((code.resource.as_str(), code.line), ("VirtualService default/route", 10), "{problems:#?}");
    let timeout = found("spec.http[2].timeout").unwrap_or_else(|| panic!("{problems:#?}"));
    assert_eq!((timeout.file.as_str(), timeout.line), (path.as_str(), 11));
    let shown = gateway.admin_json("/problems").await.unwrap().to_string();
    assert!(shown.contains("spec.http[2].timeout") && shown.contains("route.yaml"), "{shown}");

    gateway.write("route.yaml", &says("route", "*", "three")).await.unwrap();
    assert_eq!(body(&mut client).await, "three");
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
}

#[tokio::test]
async fn a_broken_resource_does_not_hold_up_the_others() {
    let broken = says("broken", "broken.example", "x").replace("status: 200", "status: 99");
    let gateway = Setup::new()
        .file("all.yaml", GATEWAY.to_owned() + &broken + &says("good", "good.example", "good"))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    assert_eq!(client.get("good.example", "/").await.unwrap().text(), "good");
    assert_eq!(client.get("broken.example", "/").await.unwrap().status, 404);
    assert!(gateway.problems().iter().any(|problem| problem.resource == "VirtualService default/broken"));
}

#[tokio::test]
async fn of_two_resources_of_one_name_the_first_stands() {
    let gateway = says_one().await;
    gateway.write("z.yaml", &says("route", "*", "second")).await.unwrap();
    assert_eq!(body(&mut gateway.client().await.unwrap()).await, "one");
    let problems = gateway.problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].code == "GW0005" && problems[0].file.ends_with("z.yaml"), "{problems:#?}");
    assert!(problems[0].message.contains("route.yaml"), "{problems:#?}");
    gateway.remove("route.yaml").await.unwrap();
    assert_eq!(body(&mut gateway.client().await.unwrap()).await, "second");
}

#[tokio::test]
async fn every_worker_has_taken_over_what_is_acknowledged() {
    let setup = Setup::new().workers(4).file("gateway.yaml", GATEWAY).file("route.yaml", says("route", "*", "0"));
    let gateway = setup.start().await.unwrap();
    let mut old = Vec::new();
    for _ in 0..16 {
        old.push(gateway.client().await.unwrap());
    }
    for round in 1..=10 {
        gateway.write("route.yaml", &says("route", "*", &round.to_string())).await.unwrap();
        // The kernel spreads connections over the workers: that all of these go to one happens once in a billion runs.
        for _ in 0..16 {
            assert_eq!(body(&mut gateway.client().await.unwrap()).await, round.to_string());
        }
        for client in &mut old {
            assert_eq!(body(client).await, round.to_string());
        }
    }
    assert_eq!(gateway.metrics().await.unwrap().sum("gateway_workers", &[]), 4.0);
    assert_eq!(gateway.metrics().await.unwrap().sum("gateway_config_version", &[]), 11.0);
}

/// A Gateway for another port.
fn listener(name: &str, port: u16) -> String {
    GATEWAY.replace("name: gateway", &format!("name: {name}")).replace("number: 80", &format!("number: {port}"))
        + &says(name, "*", name).replace("gateways: [gateway]", &format!("gateways: [{name}]"))
}

#[tokio::test]
async fn listeners_come_and_go() {
    let gateway = says_one().await;
    let mut first = gateway.client().await.unwrap();
    assert_eq!(body(&mut first).await, "one");
    assert!(gateway.address(81).is_err());

    gateway.write("other.yaml", &listener("other", 81)).await.unwrap();
    let address = gateway.address(81).unwrap();
    let mut second = RawClient::connect(address).await.unwrap();
    assert_eq!(body(&mut second).await, "other");
    assert_eq!(body(&mut first).await, "one");

    gateway.remove("other.yaml").await.unwrap();
    assert!(gateway.address(81).is_err());
    // What is not configured any more is not served any more, on no connection.
    second.closed().await.unwrap();
    // A worker closes its socket right after it has said that it will.
    let closed = async || Ok(RawClient::connect(address).await.is_err().then_some(()));
    eventually("the port to be closed", closed).await.unwrap();
    assert_eq!(body(&mut first).await, "one");
}

#[tokio::test]
async fn a_request_in_flight_outlives_its_listener() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let other = listener("other", 81)
        .replace("directResponse: {status: 200, body: {string: 'other'}}", "route: [{destination: {host: sample}}]");
    let gateway =
        Setup::new().file("all.yaml", everything_to(&upstream)).file("other.yaml", other).start().await.unwrap();
    let gate = Gate::shut();
    upstream.answer_next(Answer::new(200).after(&gate).text("late"));
    let mut client = RawClient::connect(gateway.address(81).unwrap()).await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n")).await.unwrap();
    upstream.received(1).await.unwrap();
    gateway.remove("other.yaml").await.unwrap();
    gate.open();
    assert_eq!(client.response().await.unwrap().text(), "late");
    client.closed().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_stops_the_start_with_a_name() {
    let taken = RawServer::start().await.unwrap();
    let address = taken.address().unwrap();
    let setup = Setup::new().file("gateway.yaml", GATEWAY).options(|options| {
        options.config.bind.insert(80, address);
    });
    let Err(error) = setup.start().await else { panic!("started on a port that another has") };
    let error = format!("{error:#}");
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(error.contains("port 80") && error.contains("default/gateway"), "{error}");
}

#[tokio::test]
async fn a_port_that_is_taken_later_is_reported_and_the_rest_serves() {
    let taken = RawServer::start().await.unwrap();
    let address = taken.address().unwrap();
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file("route.yaml", says("route", "*", "one"))
        .options(|options| {
            options.config.bind.insert(81, address);
        })
        .start()
        .await
        .unwrap();
    gateway.write("other.yaml", &(listener("other", 81) + &says("new", "new.example", "new"))).await.unwrap();
    assert_eq!(gateway.client().await.unwrap().get("new.example", "/").await.unwrap().text(), "new");
    let problems = gateway.problems();
    let problem = problems.iter().find(|problem| problem.code == "GW0108").unwrap_or_else(|| panic!("{problems:#?}"));
    assert!(problem.message.contains(&address.to_string()) && problem.resource == "Gateway default/other", "{problem}");
    assert!(gateway.address(81).is_err());
}

#[tokio::test]
async fn two_ports_cannot_be_bound_to_one_address() {
    let address = unused_address().unwrap();
    let gateway = Setup::new()
        .file("1.yaml", GATEWAY.to_owned() + &says("route", "*", "one"))
        .file("2.yaml", listener("other", 81))
        .options(|options| options.config.bind = [(80, address), (81, address)].into())
        .start()
        .await
        .unwrap();
    assert_eq!(body(&mut gateway.client().await.unwrap()).await, "one");
    let problems = gateway.problems();
    assert_eq!((problems[0].code, problems[0].resource.as_str()), ("GW0104", "Gateway default/other"));
}

#[tokio::test]
async fn a_thousand_virtual_services() {
    let all = |version: &str| {
        let one = |n: usize| says(&format!("service-{n}"), &format!("host-{n}.example"), &format!("{version} {n}"));
        (0..1000).map(one).collect::<String>()
    };
    let setup = Setup::new().workers(2).file("gateway.yaml", GATEWAY).file("routes.yaml", all("old"));
    let gateway = setup.start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    assert_eq!(client.get("host-999.example", "/").await.unwrap().text(), "old 999");
    gateway.write("routes.yaml", &all("new")).await.unwrap();
    for n in 0..1000 {
        assert_eq!(client.get(&format!("host-{n}.example"), "/").await.unwrap().text(), format!("new {n}"));
    }
    assert!(gateway.problems().is_empty());
}

#[tokio::test]
async fn no_request_fails_while_the_configuration_changes() {
    let upstream = Upstream::start(Http1).await.unwrap();
    upstream.answer_with(|_| Answer::echo());
    let setup = Setup::new().workers(2).file("all.yaml", everything_to(&upstream));
    let gateway = setup.start().await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = gateway.h2_client().await.unwrap();
        let stopped = stopped.clone();
        clients.push(tokio::spawn(async move {
            let mut answered = 0;
            while !*stopped.borrow() {
                let request = Request::post(format!("http://{HOST}/")).body(Outgoing::full("hello")).unwrap();
                assert_eq!(client.fetch(request).await.unwrap().body, "hello");
                answered += 1;
            }
            answered
        }));
    }
    for round in 0..10 {
        gateway.write("more.yaml", &says("more", "more.example", &round.to_string())).await.unwrap();
        gateway.write("all.yaml", &format!("# {round}\n{}", everything_to(&upstream))).await.unwrap();
    }
    stop.send(true).unwrap();
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}
