//! Group I of the fault table: configuration that changes under load, starts and ends, and what of it clients see. The
//! names of the tests begin with the row they are about; I-7 is `takeover`.

use gateway_tests::client::{H2Client, RawClient, RawServer, unused_address};
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::load::{Client, Load};
use gateway_tests::plugins::{FORM, ask, form, module_bytes, wasm_plugin};
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::scene::{HOST as PLAIN, KINDS, Scene};
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::Upstream;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const HOST: &str = "test.example.dev";
const PROGRAM: &str = env!("CARGO_BIN_EXE_gateway-command");

fn says(name: &str, host: &str, text: &str) -> String {
    virtual_service(name, &[host], &format!("  - directResponse: {{status: 200, body: {{string: '{text}'}}}}"))
}

async fn clients(scene: &Scene, process: &Process, count: usize) -> Vec<Client> {
    let (plain, secure, tls) = (process.address().unwrap(), process.address_of(443).unwrap(), scene.tls().unwrap());
    let mut clients = Vec::new();
    for number in 0..count {
        clients.push(Client::connect(number, plain, secure, &tls, PLAIN).await.unwrap());
    }
    clients
}

/// Waits until all workers have acknowledged so many versions of the configuration.
async fn version(process: &Process) -> f64 {
    process.metrics().await.unwrap().sum("gateway_config_version", &[])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_ten_changes_a_second_under_load_cost_nobody_anything() {
    let scene = Scene::new().await.unwrap();
    let process = scene.start(PROGRAM, &[]).await.unwrap();
    let quiet = Load::start(clients(&scene, &process, 16).await, 2000, PLAIN, "/");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let quiet = quiet.end().await.unwrap();
    let load = Load::start(clients(&scene, &process, 16).await, 2000, PLAIN, "/");
    let before = version(&process).await;
    let mut turn = tokio::time::interval(Duration::from_millis(100));
    let changes = 50;
    let mut memory = 0;
    for round in 0..changes {
        turn.tick().await;
        scene.change(KINDS.len() + round).unwrap();
        if round == changes / 2 {
            memory = process.memory().unwrap();
        }
    }
    let applied = async || Ok((version(&process).await >= before + 15.0).then_some(()));
    eventually("changes to be taken over", applied).await.unwrap();
    let changing = load.end().await.unwrap();
    let (versions, grown) = (version(&process).await - before, process.memory().unwrap() as f64 - memory as f64);
    println!("without changes: {quiet}");
    println!("{changes} changes as {versions} versions: {changing}; memory {:+.1} MB", grown / 1e6);
    assert!(quiet.errors.is_empty() && changing.errors.is_empty(), "{quiet}\n{changing}");
    assert!(changing.answered > 1000, "{changing}");
    // Compiled code and certificates of the versions before are gone again.
    assert!(grown < 16e6, "{grown} bytes more");
}

/// A file of the configuration that is wrong in some way, and what is said about it.
struct Bad {
    what: &'static str,
    text: String,
    /// A part of what is said, and the file it is about.
    problem: &'static str,
    /// What the host answers then: its last good version is `one`.
    answers: (u16, &'static str),
}

fn bad_pushes() -> Vec<Bad> {
    let good = says("route", "*", "two");
    let bad = |what, text: String, problem| Bad { what, text, problem, answers: (200, "one") };
    vec![
        bad("not YAML", good.replace("spec:", "spec: ["), "GW0002"),
        bad("half of a file", good[..good.len() / 2].to_owned(), "route.yaml"),
        bad("an empty file", String::new(), "GW0008"),
        bad("not text", "\0\0\0\0".to_owned(), "GW0002"),
        bad(
            "a regular expression",
            good.replace("directResponse", "match: [{uri: {regex: '('}}]\n    directResponse"),
            "regex",
        ),
        bad("a wrong type", good.replace("'two'", "{two: 2}"), "spec.http[0]"),
        bad("a wrong status", good.replace("200", "99"), "spec.http[0].directResponse.status"),
        bad("no host", good.replace("hosts: ['*']", "hosts: []"), "spec.hosts"),
        bad("no kind", good.replace("kind: VirtualService", "kind:"), "GW0003"),
        bad("aliases without end", "a: &a [1]\nb: &b [*a,*a]\n".to_owned() + &"c: [*b]\n".repeat(3), "route.yaml"),
        Bad {
            what: "an unknown field is left out",
            text: good.replace("hosts:", "hots: []\n  hosts:"),
            problem: "did you mean \"hosts\"",
            answers: (200, "two"),
        },
        Bad {
            what: "a Gateway that there is not",
            text: good.replace("[gateway]", "[gatewy]"),
            problem: "IST0101",
            answers: (404, ""),
        },
        Bad {
            what: "a service that there is not",
            text: virtual_service("route", &["*"], "  - route: [{destination: {host: nowhere}}]"),
            problem: "IST0101",
            answers: (503, ""),
        },
        Bad { what: "the file is deleted", text: "(deleted)".to_owned(), problem: "", answers: (404, "") },
    ]
}

#[tokio::test]
async fn i2_a_bad_push_costs_only_what_is_bad() {
    let setup = Setup::new().file("gateway.yaml", GATEWAY).file("route.yaml", says("route", "*", "one"));
    let gateway = setup.start().await.unwrap();
    let mut client = gateway.client().await.unwrap();
    for (number, Bad { what, text, problem, answers }) in bad_pushes().into_iter().enumerate() {
        // Something good in the same push.
        let good = says("good", "good.example", &number.to_string());
        let push = |folder: &Path| {
            fs::write(folder.join("good.yaml"), good)?;
            if text == "(deleted)" {
                return Ok(fs::remove_file(folder.join("route.yaml"))?);
            }
            Ok(fs::write(folder.join("route.yaml"), text)?)
        };
        gateway.change(push).await.unwrap();
        let response = client.get(HOST, "/").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), answers, "{what}: {:#?}", gateway.problems());
        assert_eq!(client.get("good.example", "/").await.unwrap().text(), number.to_string(), "{what}");
        let problems = gateway.problems();
        let named = |text: String| text.contains(problem) && text.contains("route.yaml");
        assert!(problem.is_empty() || problems.iter().any(|one| named(one.to_string())), "{what}: {problems:#?}");
        // And it is over when it is corrected.
        gateway.write("route.yaml", &says("route", "*", "one")).await.unwrap();
        assert_eq!(client.get(HOST, "/").await.unwrap().text(), "one", "{what}");
        assert!(gateway.problems().is_empty(), "{what}: {:#?}", gateway.problems());
    }
}

#[tokio::test]
async fn i2_a_module_that_does_not_compile_leaves_the_one_before() {
    let home = tempfile::tempdir().unwrap();
    let module = home.path().join("m.wasm");
    fs::write(&module, module_bytes("add-header")).unwrap();
    let plugin = |round: usize| {
        wasm_plugin("p", &module, &format!("pluginConfig: {{response: {{set: {{x-round: '{round}'}}}}}}"))
    };
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file("route.yaml", says("route", "*", "one"))
        .file("plugin.yaml", plugin(1))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().header("x-round"), Some("1"));
    for bytes in [&b"\0asm junk"[..], b"", &module_bytes("add-header")[..1000]] {
        // As others replace it, too: in place.
        gateway.change(|_| Ok(fs::write(&module, bytes)?)).await.unwrap();
        let reported = async || {
            let problems = gateway.problems();
            Ok(problems.iter().any(|problem| problem.resource == "WasmPlugin default/p").then_some(()))
        };
        eventually("the broken module to be reported", reported).await.unwrap();
        assert_eq!(client.get(HOST, "/").await.unwrap().header("x-round"), Some("1"), "{} bytes", bytes.len());
    }
    fs::write(&module, module_bytes("add-header")).unwrap();
    gateway.write("plugin.yaml", &plugin(2)).await.unwrap();
    let corrected = async || {
        Ok((client.get(HOST, "/").await?.header("x-round") == Some("2") && gateway.problems().is_empty()).then_some(()))
    };
    eventually("the corrected plugin", corrected).await.unwrap();
}

#[tokio::test]
async fn i2_a_port_that_is_in_use_is_tried_again_by_itself() {
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
    gateway.write("other.yaml", &listener("other", 81)).await.unwrap();
    assert!(gateway.problems().iter().any(|problem| problem.code == "GW0108"), "{:#?}", gateway.problems());
    let version = gateway.gateway().progress().borrow().version;
    drop(taken);
    let mut progress = gateway.gateway().progress();
    let bound = progress.wait_for(|progress| progress.listeners.len() == 2);
    gateway_tests::within("the free port to be bound", bound).await.unwrap().unwrap();
    assert_eq!(RawClient::connect(address).await.unwrap().get(HOST, "/").await.unwrap().text(), "other");
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    // Looking whether it is free is no new version.
    assert_eq!(gateway.gateway().progress().borrow().version, version + 1);
}

/// Whether this test may read everything, and has a way to start a process that may not.
fn as_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t")
}

#[tokio::test]
async fn i3_it_starts_with_a_folder_that_is_partly_broken() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("config");
    fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("gateway.yaml", &(GATEWAY.to_owned() + &says("good", "good.example", "good")));
    write("not-yaml.yaml", "kind: [");
    write("half.yaml", &says("half", "half.example", "x")[..120]);
    write("invalid.yaml", &says("invalid", "invalid.example", "x").replace("200", "99"));
    write("empty.yaml", "");
    write("secret.yaml", &says("hidden", "hidden.example", "x"));
    fs::File::create(folder.join("large.yaml")).unwrap().set_len(100 << 20).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", folder.join("dangling.yaml")).unwrap();
    std::os::unix::net::UnixListener::bind(folder.join("socket.yaml")).unwrap();
    let junk = home.path().join("junk.wasm");
    fs::write(&junk, "\0asm junk").unwrap();
    write("plugin.yaml", &wasm_plugin("broken", &junk, "failStrategy: FAIL_OPEN"));
    let unreadable = |name: &str| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        fs::set_permissions(folder.join(name), mode).unwrap();
    };
    unreadable("secret.yaml");
    // Root reads everything; without these capabilities it is like everybody else.
    let without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", PROGRAM];
    let words = if as_root() { &without[..] } else { &without[2..] };
    let data = format!("--data-dir={}", home.path().join("data").display());
    let process = Process::start_through(words, &folder, &[&data]).await.unwrap();
    let (address, status, admin) = (process.address().unwrap(), process.status().unwrap(), process.admin().unwrap());
    let mut client = RawClient::connect(address).await.unwrap();
    assert_eq!(client.get("good.example", "/").await.unwrap().text(), "good");
    for host in ["half.example", "invalid.example", "hidden.example"] {
        assert_eq!(client.get(host, "/").await.unwrap().status, 404, "{host}");
    }
    let get = async |address: SocketAddr, path: &str| {
        RawClient::connect(address).await.unwrap().get(&address.to_string(), path).await.unwrap()
    };
    assert_eq!(get(status, "/healthz/ready").await.status, 200);
    let problems = get(admin, "/problems").await.text();
    for file in ["not-yaml", "half", "invalid", "empty", "secret", "large", "dangling", "socket", "plugin"] {
        assert!(problems.contains(&format!("{file}.yaml")), "{file}: {problems}");
    }
    assert!(problems.contains("Permission denied"), "{problems}");

    // The same for what becomes unreadable, or too large, later: what was good stays.
    unreadable("gateway.yaml");
    write("more.yaml", &says("more", "more.example", "more"));
    let more = async || Ok((client.get("more.example", "/").await?.status == 200).then_some(()));
    eventually("the next change", more).await.unwrap();
    assert_eq!(client.get("good.example", "/").await.unwrap().text(), "good");
    fs::File::options().write(true).open(folder.join("more.yaml")).unwrap().set_len(100 << 20).unwrap();
    write("last.yaml", &says("last", "last.example", "last"));
    let last = async || Ok((client.get("last.example", "/").await?.status == 200).then_some(()));
    eventually("the change after it", last).await.unwrap();
    assert_eq!(client.get("more.example", "/").await.unwrap().text(), "more");
}

#[tokio::test]
async fn i4_a_new_route_is_not_there_and_then_it_is() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let gateway = Setup::new().workers(2).file("gateway.yaml", GATEWAY).start().await.unwrap();
    let mut times = Vec::new();
    for round in 0..10 {
        let mut client = gateway.client().await.unwrap();
        let mut turn = tokio::time::interval(Duration::from_millis(1));
        let (name, mut since) = (format!("new-{round}"), None);
        let mut seen = Vec::new();
        for probe in 0.. {
            if probe == 20 {
                let http = format!("  - route: [{{destination: {{host: {name}}}}}]");
                let text = service(&name, &[&upstream]) + &virtual_service(&name, &[&name], &http);
                // In one step: half a file is another matter (I-2).
                fs::write(gateway.folder().join(".new"), text).unwrap();
                fs::rename(gateway.folder().join(".new"), gateway.folder().join(format!("{name}.yaml"))).unwrap();
                since = Some(Instant::now());
            }
            turn.tick().await;
            let status = client.get(&name, "/").await.unwrap().status;
            if seen.last() != Some(&status) {
                seen.push(status);
            }
            assert!([&[404][..], &[404, 200]].contains(&seen.as_slice()), "{seen:?}");
            match since {
                Some(since) if status == 200 => {
                    times.push(since.elapsed());
                    break;
                }
                since => assert!(since.is_none_or(|since| since.elapsed() < gateway_tests::PATIENCE), "never"),
            }
        }
    }
    times.sort_unstable();
    println!("from the file to the first 200: {:?} in the middle, {:?} at most", times[5], times[9]);
}

/// A client of a gateway that ends: it comes again when it is told to, and retries nothing. Counts its answers.
async fn until_refused(address: SocketAddr, http2: bool, pace: Duration) -> anyhow::Result<usize> {
    let mut answered = 0;
    let mut turn = tokio::time::interval(pace);
    'connections: loop {
        if http2 {
            let Ok(mut client) = H2Client::connect(address).await else { return Ok(answered) };
            loop {
                turn.tick().await;
                match client.try_get(PLAIN, "/").await? {
                    Some(status) => anyhow::ensure!(status == 200, "{status}"),
                    None => continue 'connections,
                }
                answered += 1;
            }
        }
        let Ok(mut client) = RawClient::connect(address).await else { return Ok(answered) };
        loop {
            turn.tick().await;
            let response = client.get(PLAIN, "/").await?;
            anyhow::ensure!(response.status == 200, "{response:?}");
            answered += 1;
            if response.header("connection") == Some("close") {
                continue 'connections;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_the_end_under_load_fails_no_request() {
    let scene = Scene::new().await.unwrap();
    // Whoever gets the port when the gateway has let go of it must not be asked in its place.
    let address = unused_address().unwrap();
    let bind = format!("--bind=80={address}");
    let arguments = ["--minimum-drain-seconds=2", "--drain-seconds=10", &bind];
    let mut process = scene.start(PROGRAM, &arguments).await.unwrap();
    // Together 2,000 requests a second.
    let clients: Vec<_> = (0..20)
        .map(|number| tokio::spawn(until_refused(address, number % 3 == 0, Duration::from_millis(10))))
        .collect();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://socket.example.dev/", stream).await.unwrap();
    let mut echo = async |text: &str| {
        use futures_util::{SinkExt, StreamExt};
        let message = tokio_tungstenite::tungstenite::Message::text(text.to_owned());
        socket.send(message.clone()).await.unwrap();
        let back = gateway_tests::within("an echo", socket.next()).await.unwrap().unwrap().unwrap();
        assert!(back == message);
    };
    echo("before").await;
    // A response that goes on for two seconds.
    let mut streaming = RawClient::connect(address).await.unwrap();
    streaming.send("GET /endless HTTP/1.1\r\nhost: faulty.example.dev\r\n\r\n").await.unwrap();
    assert_eq!(streaming.head().await.unwrap().status, 200);
    tokio::time::sleep(Duration::from_millis(500)).await;
    process.signal("TERM").unwrap();
    let begin = Instant::now();
    echo("while it ends").await;
    let streamed = tokio::spawn(async move {
        let mut bytes = 0;
        while let Ok(chunk) = streaming.chunk().await {
            bytes += chunk.len();
        }
        bytes
    });
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap().unwrap_or_else(|error| panic!("{error:#}; it said:\n{}", process.log()));
    }
    println!("{answered} requests, the last {:?} after SIGTERM, none failed", begin.elapsed());
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(streamed.await.unwrap(), 200 * 1024, "the response comes to its end");
    drop(socket);
    assert_eq!(process.ended().await.unwrap().code(), Some(0), "{}", process.log());
    assert!(begin.elapsed() < Duration::from_secs(11), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn i5_a_listener_with_thousands_of_hosts_starts() {
    let home = tempfile::tempdir().unwrap();
    let hosts: Vec<_> = (0..4000).map(|n| format!("a-rather-long-name-{n}.example")).collect();
    // What is printed of it at the start would be wider than Rust's formatting can pad.
    assert!(hosts.concat().len() > usize::from(u16::MAX));
    let text = GATEWAY.replace("'*'", &hosts.join(", ")) + &says("v", "*", "here");
    fs::write(home.path().join("all.yaml"), text).unwrap();
    let process = Process::start(PROGRAM, home.path(), &[]).await.unwrap();
    let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
    let response = client.get(&hosts[3999], "/").await.unwrap();
    assert_eq!(response.status, 200, "{response:?}\n{}", process.log());
}

#[tokio::test]
async fn i8_after_kill_9_it_serves_as_before() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("config");
    fs::create_dir(&folder).unwrap();
    let one = |n: usize| says(&format!("v{n}"), &format!("host-{n}.example"), &n.to_string());
    fs::write(folder.join("gateway.yaml"), GATEWAY).unwrap();
    fs::write(folder.join("routes.yaml"), (0..2000).map(one).collect::<String>()).unwrap();
    let data = format!("--data-dir={}", home.path().join("data").display());
    let mut process = Process::start(PROGRAM, &folder, &[&data]).await.unwrap();
    let admin = process.admin().unwrap();
    let module = module_bytes("add-header");
    let settings = br#"{"pluginConfig": {"response": {"set": {"x-kept": "yes"}}}}"#;
    let body = form(&[("module", &module), ("settings", settings)]);
    let head = format!(
        "PUT /plugins/kept HTTP/1.1\r\nhost: {admin}\r\ncontent-type: {FORM}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut client = RawClient::connect(admin).await.unwrap();
    client.send([head.as_bytes(), &body].concat()).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 201);
    for _ in 0..3 {
        process.signal("KILL").unwrap();
        process.ended().await.unwrap();
        let begin = Instant::now();
        process = Process::start(PROGRAM, &folder, &[&data]).await.unwrap();
        let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
        let response = client.get("host-1999.example", "/").await.unwrap();
        println!("2,000 routes and an upload after kill -9: {:?}", begin.elapsed());
        assert_eq!((response.text().as_str(), response.header("x-kept")), ("1999", Some("yes")));
    }
}

/// A Gateway for another port, with an answer of its own.
fn listener(name: &str, port: u16) -> String {
    GATEWAY.replace("name: gateway", &format!("name: {name}")).replace("number: 80", &format!("number: {port}"))
        + &says(name, "*", name).replace("gateways: [gateway]", &format!("gateways: [{name}]"))
}

#[tokio::test]
async fn i9_listeners_come_go_and_move_and_nobody_else_notices() {
    let upstream = Upstream::start(Http1).await.unwrap();
    // Two declared ports that are bound to one address, one after the other.
    let free = unused_address().unwrap();
    let gateway = Setup::new()
        .workers(2)
        .file("all.yaml", everything_to(&upstream))
        .options(|options| options.config.bind.extend([(81, free), (82, free)]))
        .start()
        .await
        .unwrap();
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(Client::Http1(gateway.client().await.unwrap()));
        clients.push(Client::Http2(gateway.h2_client().await.unwrap()));
    }
    let load = Load::start(clients, 200, HOST, "/");
    let answers = async |client: &mut RawClient| client.get(HOST, "/").await.unwrap().text();
    for _ in 0..3 {
        gateway.write("other.yaml", &listener("first", 81)).await.unwrap();
        let comes = async || Ok(RawClient::connect(free).await.ok());
        let mut client = eventually("the listener", comes).await.unwrap();
        assert_eq!(answers(&mut client).await, "first");
        // Another declared port at the same address: the socket and its connections stay.
        gateway.write("other.yaml", &listener("second", 82)).await.unwrap();
        assert_eq!(answers(&mut client).await, "second");
        assert_eq!(answers(&mut RawClient::connect(free).await.unwrap()).await, "second");
        // Another address for it: a port that the kernel chooses.
        gateway.write("other.yaml", &listener("third", 9000)).await.unwrap();
        client.closed().await.unwrap();
        let mut client = RawClient::connect(gateway.address(9000).unwrap()).await.unwrap();
        assert_eq!(answers(&mut client).await, "third");
        // And another protocol: what is open in clear text is told to come again, and then not understood.
        let tls = listener("third", 9000)
            .replace("protocol: HTTP}", "protocol: HTTPS}\n    tls: {mode: SIMPLE, credentialName: c}");
        gateway.write("other.yaml", &tls).await.unwrap();
        assert_eq!(client.get(HOST, "/").await.unwrap().status, 421);
        client.closed().await.unwrap();
        gateway.remove("other.yaml").await.unwrap();
    }
    let outcome = load.end().await.unwrap();
    println!("meanwhile: {outcome}");
    assert!(outcome.errors.is_empty() && outcome.answered > 100, "{outcome}");
}

#[tokio::test]
async fn i10_the_same_again_is_nothing() {
    let setup = Setup::new().file("gateway.yaml", GATEWAY).file("route.yaml", says("route", "*", "one"));
    let gateway = setup.start().await.unwrap();
    let module = module_bytes("add-header");
    let upload = async |gateway: &TestGateway| {
        ask(gateway, "PUT", "/plugins/same", "application/wasm", &module).await.unwrap().0
    };
    assert_eq!(upload(&gateway).await, 201);
    let mut progress = gateway.gateway().progress();
    let before = progress.borrow_and_update().clone();
    let text = says("route", "*", "one");
    for push in 0..300 {
        let seen = progress.borrow().read;
        fs::write(gateway.folder().join(".new"), &text).unwrap();
        fs::rename(gateway.folder().join(".new"), gateway.folder().join("route.yaml")).unwrap();
        if push % 10 == 0 {
            assert_eq!(upload(&gateway).await, 200);
            // Pushes that come too fast are read together; these are not.
            let read = progress.wait_for(|progress| progress.read > seen);
            gateway_tests::within("a push to be read", read).await.unwrap().unwrap();
        }
    }
    let after = progress.borrow().clone();
    assert!(after.read >= before.read + 30, "{after:?}");
    assert_eq!((after.version, after.endpoints), (before.version, before.endpoints));
    // The next change is the next version.
    gateway.write("route.yaml", &says("route", "*", "two")).await.unwrap();
    assert_eq!(gateway.gateway().progress().borrow().version, before.version + 1);
    let instances = gateway.metrics().await.unwrap().sum("gateway_plugin_instances", &[]);
    assert_eq!(instances, 2.0, "one that serves and its spare");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e5_websockets_survive_every_change() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::{client_async, tungstenite::Message};
    let scene = Scene::new().await.unwrap();
    let process = scene.start(PROGRAM, &[]).await.unwrap();
    let (plain, secure, tls) = (process.address().unwrap(), process.address_of(443).unwrap(), scene.tls().unwrap());
    let url = "ws://socket.example.dev/";
    let (mut open, mut open_tls) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let stream = tokio::net::TcpStream::connect(plain).await.unwrap();
        open.push(client_async(url, stream).await.unwrap().0);
        let stream = tls.connect(secure, "socket.example.dev", &["http/1.1"]).await.unwrap();
        open_tls.push(client_async(url, stream).await.unwrap().0);
    }
    let counted = Arc::new(AtomicUsize::new(0));
    macro_rules! echo {
        ($sockets:expr, $text:expr) => {
            for socket in &mut $sockets {
                socket.send(Message::text($text.to_owned())).await.unwrap();
                let back = gateway_tests::within("an echo", socket.next()).await.unwrap().unwrap().unwrap();
                assert_eq!(back.into_text().unwrap().as_str(), $text);
                counted.fetch_add(1, Relaxed);
            }
        };
    }
    let change = async |what: &str, change: &dyn Fn()| {
        let before = version(&process).await;
        change();
        let applied = async || Ok((version(&process).await > before).then_some(()));
        eventually(what, applied).await.unwrap();
    };
    for (round, what) in KINDS.into_iter().enumerate() {
        change(what, &|| scene.change(KINDS.len() + round).unwrap()).await;
        echo!(open, what);
        echo!(open_tls, what);
    }
    // Their route, their service, and at last their listeners: what is open stays, as in Envoy a stream does.
    for file in ["fixed.yaml", "services.yaml", "gateways.yaml"] {
        change(file, &|| fs::remove_file(scene.folder().join(file)).unwrap()).await;
        echo!(open, file);
        echo!(open_tls, file);
    }
    assert_eq!(counted.load(Relaxed), 800);
}
