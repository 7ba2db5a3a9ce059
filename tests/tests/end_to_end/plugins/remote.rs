//! Modules that come over HTTP: when they are used, what is done until they are there, and what is refused.

use super::get;
use flate2::{Compression, write::GzEncoder};
use gateway_tests::client::RawServer;
use gateway_tests::eventually;
use gateway_tests::gateway::{Setup, TestGateway};
use gateway_tests::plugins::{WASM, ask, module_bytes, remote_plugin, variant};
use gateway_tests::registry::digest;
use gateway_tests::resources::everything_to;
use gateway_tests::server::Protocol;
use gateway_tests::upstream::{Answer, Gate, Upstream};
use gateway_tests::within;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;

/// A server of modules: every path is answered with what belongs to it.
async fn server(files: &[(&str, Vec<u8>)]) -> Upstream {
    let server = Upstream::start(Protocol::Http1).await.unwrap();
    let files: Vec<_> = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
    server.answer_with(move |request| match files.iter().find(|(path, _)| *path == request.target) {
        Some((_, bytes)) => Answer::new(200).text(bytes.clone()),
        None => Answer::new(404).text("no such module"),
    });
    server
}

fn url(server: &Upstream, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

/// A probe called `name` from there.
fn probe_from(name: &str, url: &str, spec: &str) -> String {
    remote_plugin(name, url, &format!("pluginConfig: {{name: {name}}}\n{spec}"))
}

/// A gateway that may fetch from these servers and asks again soon.
fn setup(upstream: &Upstream, servers: &[&Upstream]) -> Setup {
    let names = servers.iter().map(|server| server.address().to_string()).collect();
    Setup::new().workers(2).file("all.yaml", everything_to(upstream)).options(|options| {
        options.insecure_registries = names;
        options.limits.fetch_retry = Duration::from_millis(50);
    })
}

/// The names of the probes that a request passes.
async fn trace(gateway: &TestGateway) -> Vec<String> {
    let response = get(&mut gateway.client().await.unwrap(), "/", "").await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.header_values("x-trace").into_iter().rev().map(str::to_owned).collect()
}

async fn status(gateway: &TestGateway) -> u16 {
    get(&mut gateway.client().await.unwrap(), "/", "").await.status
}

async fn view(gateway: &TestGateway, name: &str) -> Value {
    gateway.admin_json(&format!("/plugins/{name}")).await.unwrap()
}

/// Waits until the plugin is live with nothing to say, or with something that has these words in it.
async fn becomes(gateway: &TestGateway, name: &str, state: &str, reason: &str) -> Value {
    let look = async || {
        let view = view(gateway, name).await;
        let told = view["reason"].as_str().unwrap();
        let same = if reason.is_empty() { told.is_empty() } else { told.contains(reason) };
        Ok((view["state"] == state && same).then_some(view))
    };
    eventually(&format!("{name} to be {state} ({reason})"), look).await.unwrap()
}

#[tokio::test]
async fn a_module_is_fetched_before_the_first_request_and_kept_for_the_next_start() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let module = module_bytes("probe");
    let modules = server(&[("/probe.wasm?v=1", module.clone())]).await;
    let folder = tempfile::tempdir().unwrap();
    let sha256 = digest(&module).replace("sha256:", "sha256: ");
    let plugin = probe_from("one", &url(&modules, "/probe.wasm?v=1"), &sha256);
    let start = async || setup(&upstream, &[&modules]).data_dir(folder.path()).file("p.yaml", &plugin).start().await;
    let gateway = start().await.unwrap();
    assert_eq!(trace(&gateway).await, ["one"], "the first request has it");
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let shown = view(&gateway, "one").await;
    assert_eq!((&shown["state"], &shown["digest"]), (&"live".into(), &digest(&module).into()));
    assert_eq!(shown["source"], url(&modules, "/probe.wasm?v=1"));
    gateway.metric_becomes("gateway_plugin_fetches_total", &[("result", "success")], 1.0).await.unwrap();
    gateway.shutdown().await.unwrap();

    let again = start().await.unwrap();
    assert_eq!(trace(&again).await, ["one"]);
    assert_eq!(modules.requests().len(), 1, "the next start does not ask");
    again.shutdown().await.unwrap();

    // What is on disk is compared before it is used.
    let kept = folder.path().join("fetched").join(format!("{}.wasm", digest(&module).replace("sha256:", "")));
    std::fs::write(&kept, variant(&module, "damaged")).unwrap();
    let repaired = start().await.unwrap();
    becomes(&repaired, "one", "live", "").await;
    assert_eq!(trace(&repaired).await, ["one"]);
    assert_eq!(modules.requests().len(), 2, "it is fetched again");
    assert_eq!(std::fs::read(&kept).unwrap(), module);
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_asked_again() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let plugin = probe_from("late", &format!("http://{address}/p.wasm"), "");
    let gateway = setup(&upstream, &[])
        .options(|options| options.insecure_registries = vec![address.to_string()])
        .file("p.yaml", &plugin)
        .start()
        .await
        .unwrap();
    let response = get(&mut gateway.client().await.unwrap(), "/", "").await;
    assert_eq!((response.status, response.text().as_str()), (403, "RBAC: access denied"));
    let shown = view(&gateway, "late").await;
    assert_eq!(shown["state"], "failed");
    assert!(shown["reason"].as_str().unwrap().contains("module-unreachable"), "{shown}");
    let problems = gateway.problems();
    let [problem] = problems.as_slice() else { panic!("{problems:#?}") };
    assert_eq!((problem.code, problem.field.as_str()), ("GW0301", "spec.url"));
    assert!(problem.message.contains("treated by FAIL_CLOSE"), "{problem}");
    assert!(gateway.metrics().await.unwrap().sum("gateway_plugin_fetches_total", &[("result", "failure")]) >= 1.0);

    gateway.write("p.yaml", &format!("{}  failStrategy: FAIL_OPEN\n---\n", plugin.replace("---\n", ""))).await.unwrap();
    assert_eq!(status(&gateway).await, 200, "FAIL_OPEN passes");
    gateway.write("p.yaml", &plugin).await.unwrap();
    assert_eq!(status(&gateway).await, 403);

    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let modules = Upstream::on(listener, Protocol::Http1).unwrap();
    let module = module_bytes("probe");
    modules.answer_with(move |_| Answer::new(200).text(module.clone()));
    becomes(&gateway, "late", "live", "").await;
    assert_eq!(trace(&gateway).await, ["late"], "without any change of the configuration");
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
}

#[tokio::test]
async fn the_start_waits_for_modules_but_not_for_ever_and_others_are_not_held_up() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let module = module_bytes("probe");
    let modules = Upstream::start(Protocol::Http1).await.unwrap();
    let gate = Gate::shut();
    modules.answer_next(Answer::new(200).text(module.clone()).after(&gate));
    let starting = setup(&upstream, &[&modules]).file("p.yaml", probe_from("slow", &url(&modules, "/p"), "")).start();
    let starting = tokio::spawn(starting);
    modules.received(1).await.unwrap();
    assert!(!starting.is_finished(), "nobody is answered before the module is there");
    gate.open();
    let gateway = within("the start", starting).await.unwrap().unwrap().unwrap();
    assert_eq!(trace(&gateway).await, ["slow"]);
    drop(gateway);

    let gate = Gate::shut();
    modules.answer_next(Answer::new(200).text(module.clone()).after(&gate));
    let gateway = setup(&upstream, &[&modules])
        .options(|options| options.limits.first_fetches = Duration::from_millis(100))
        .file("p.yaml", probe_from("slow", &url(&modules, "/p"), ""))
        .start()
        .await
        .unwrap();
    assert_eq!(view(&gateway, "slow").await["state"], "fetching");
    assert_eq!(status(&gateway).await, 403);
    let problems = gateway.problems();
    assert!(problems.iter().any(|problem| problem.code == "GW0303"), "{problems:#?}");
    // Uploads and files have their way meanwhile.
    let (answer, _) = ask(&gateway, "PUT", "/plugins/upload", WASM, &module).await.unwrap();
    assert_eq!(answer, 201);
    let open = probe_from("slow", &url(&modules, "/p"), "failStrategy: FAIL_OPEN");
    gateway.write("p.yaml", &open).await.unwrap();
    assert_eq!(trace(&gateway).await, [""], "the upload has no name; the other passes by");
    gate.open();
    becomes(&gateway, "slow", "live", "").await;
    assert_eq!(trace(&gateway).await, ["", "slow"]);
    assert_eq!(modules.requests().len(), 2, "the change of the resource did not begin anew");
}

#[tokio::test]
async fn the_old_version_serves_until_the_new_one_is_there() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let module = module_bytes("probe");
    let modules = Upstream::start(Protocol::Http1).await.unwrap();
    let gate = Gate::shut();
    let (first, second, behind) = (module.clone(), variant(&module, "two"), gate.clone());
    modules.answer_with(move |request| match request.target.as_str() {
        "/1" => Answer::new(200).text(first.clone()),
        "/2" => Answer::new(200).text(second.clone()).after(&behind),
        _ => Answer::new(404),
    });
    let of =
        |name: &str, path: &str| remote_plugin("p", &url(&modules, path), &format!("pluginConfig: {{name: {name}}}"));
    let gateway = setup(&upstream, &[&modules]).file("p.yaml", of("one", "/1")).start().await.unwrap();
    assert_eq!(trace(&gateway).await, ["one"]);

    gateway.write("p.yaml", &of("two", "/2")).await.unwrap();
    modules.received(2).await.unwrap();
    let shown = view(&gateway, "p").await;
    assert_eq!((&shown["state"], &shown["digest"]), (&"live".into(), &digest(&module).into()));
    assert!(shown["reason"].as_str().unwrap().contains("is being fetched"), "{shown}");
    assert_eq!(trace(&gateway).await, ["one"], "with its configuration");
    gate.open();
    becomes(&gateway, "p", "live", "").await;
    assert_eq!(trace(&gateway).await, ["two"]);

    // What cannot be fetched changes nothing.
    gateway.write("p.yaml", &of("three", "/3")).await.unwrap();
    let shown = becomes(&gateway, "p", "live", "404").await;
    assert_eq!(shown["digest"], digest(&variant(&module, "two")));
    assert_eq!(trace(&gateway).await, ["two"]);
    let problems = gateway.problems();
    assert!(problems.iter().any(|problem| problem.message.contains("keeps serving")), "{problems:#?}");

    gateway.write("p.yaml", &of("four", "/1")).await.unwrap();
    assert_eq!(trace(&gateway).await, ["four"], "what was fetched before is there at once");
    assert_eq!(modules.requests().iter().filter(|request| request.target == "/1").count(), 1);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, name, bytes).unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn packed_modules_and_redirects_are_understood_and_what_is_no_module_is_refused() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let module = module_bytes("probe");
    let archive = tar("some/where/probe.wasm", &module);
    let bomb = gzip(&[&b"\0asm"[..], &vec![0; 64 << 20]].concat());
    let files = [
        ("/gz", gzip(&module)),
        ("/tar", archive.clone()),
        ("/tgz", gzip(&archive)),
        ("/html", b"<!doctype html><title>Sign in</title>".to_vec()),
        ("/empty", Vec::new()),
        ("/bomb", bomb),
        ("/tarbomb", gzip(&tar("zeroes", &vec![0; 200 << 20]))),
        ("/large", vec![0; (64 << 20) + 1]),
        ("/native", b"\0asm\x0d\0\x01\0".to_vec()),
    ];
    let modules = Upstream::start(Protocol::Http1).await.unwrap();
    let plain = module.clone();
    modules.answer_with(move |request| {
        let to = |place: &str| Answer::new(302).header("location", place);
        match request.target.as_str() {
            "/p" => Answer::new(200).text(plain.clone()),
            "/moved" => to("/p"),
            "/metadata" => to("http://169.254.169.254/latest/meta-data/"),
            "/mapped" => to("http://[::ffff:169.254.169.254]/latest/meta-data/"),
            // Another server on this machine, which nobody allowed.
            "/self" => to("http://127.0.0.1:1/quitquitquit"),
            "/file" => to("file:///etc/passwd"),
            "/loop" => to("/loop"),
            path => match files.iter().find(|(known, _)| *known == path) {
                Some((_, bytes)) => Answer::new(200).text(bytes.clone()),
                None => Answer::new(404).text("none"),
            },
        }
    });
    let gateway = setup(&upstream, &[&modules])
        .options(|options| options.limits.fetch_retry = Duration::from_secs(3600))
        .start()
        .await
        .unwrap();
    let sha256 = format!("sha256: {}", &digest(&module)[7..]);
    for path in ["/p", "/moved", "/gz", "/tar", "/tgz"] {
        gateway.write("p.yaml", &probe_from("p", &url(&modules, path), &sha256)).await.unwrap();
        becomes(&gateway, "p", "live", "").await;
        assert_eq!(trace(&gateway).await, ["p"], "{path}");
        gateway.remove("p.yaml").await.unwrap();
    }

    let wrong = format!("sha256: {}", "0".repeat(64));
    for (path, spec, field, words) in [
        ("/p", wrong.as_str(), "spec.sha256", "module-digest"),
        ("/none", "", "spec.url", "404"),
        ("/html", "", "spec.url", "HTML"),
        ("/empty", "", "spec.url", "empty"),
        ("/native", "", "spec.url", "module-malformed"),
        ("/bomb", "", "spec.url", "limit of a module"),
        ("/tarbomb", "", "spec.url", "unpacks to more than"),
        ("/large", "", "spec.url", "is larger than"),
        ("/metadata", "", "spec.url", "169.254.169.254, which is link-local"),
        ("/mapped", "", "spec.url", "which is link-local"),
        ("/self", "", "spec.url", "this machine"),
        ("/file", "", "spec.url", "must begin with http"),
        ("/loop", "", "spec.url", "redirects"),
    ] {
        gateway.write("p.yaml", &probe_from("p", &url(&modules, path), spec)).await.unwrap();
        becomes(&gateway, "p", "failed", words).await;
        let problems = gateway.problems();
        let [problem] = problems.as_slice() else { panic!("{path}: {problems:#?}") };
        assert_eq!((problem.code, problem.field.as_str()), ("GW0301", field), "{path}: {problem}");
        assert_eq!(status(&gateway).await, 403, "{path}");
        gateway.remove("p.yaml").await.unwrap();
    }
    let metrics = gateway.metrics().await.unwrap();
    let hit = |limit: &str| metrics.sum("gateway_limit_exceeded_total", &[("limit", limit)]);
    assert_eq!((hit("module_fetch_bytes"), hit("module_fetch_redirects")), (3.0, 1.0));
}

#[tokio::test]
async fn a_server_that_does_not_finish_is_given_up() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let mute = RawServer::start().await.unwrap();
    let address = mute.address().unwrap();
    let plugin = probe_from("p", &format!("http://{address}/p"), "");
    let gateway = setup(&upstream, &[])
        .options(|options| {
            options.insecure_registries = vec!["127.0.0.1".to_owned()];
            options.limits.fetch_request = Duration::from_millis(200);
        })
        .file("p.yaml", plugin)
        .start()
        .await
        .unwrap();
    becomes(&gateway, "p", "failed", "module-fetch-time").await;
    assert_eq!(status(&gateway).await, 403);
    let metrics = gateway.metrics().await.unwrap();
    assert!(metrics.sum("gateway_limit_exceeded_total", &[("limit", "module_fetch_time")]) >= 1.0);
}

#[tokio::test]
async fn this_machine_is_asked_only_if_it_was_named() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let modules = server(&[("/p", module_bytes("probe"))]).await;
    let gateway = setup(&upstream, &[])
        .options(|options| options.insecure_registries = vec!["127.0.0.1:1".to_owned()])
        .file("p.yaml", probe_from("p", &url(&modules, "/p"), ""))
        .start()
        .await
        .unwrap();
    becomes(&gateway, "p", "failed", "--insecure-registries would allow it").await;
    assert_eq!((status(&gateway).await, modules.connections()), (403, 0));
}

/// A TrafficExtension with the spec of a probe.
fn extension(name: &str, placement: &str, wasm: &str) -> String {
    format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: TrafficExtension\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n{placement}  wasm:\n    pluginConfig: {{name: {name}}}\n{wasm}---\n"
    )
}

#[tokio::test]
async fn a_traffic_extension_is_a_plugin_with_its_fields_below_wasm() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let modules = server(&[("/p", module_bytes("probe"))]).await;
    let place = format!("    url: {}\n", url(&modules, "/p"));
    let files = [
        extension("late", "  priority: 1\n", &place),
        extension("early", "  phase: AUTHN\n  match: [{mode: CLIENT}]\n", &place),
        extension("elsewhere", "  selector: {matchLabels: {app: other}}\n", &place),
        extension("ports", "  match: [{ports: [{number: 1}]}]\n", &place),
        // A WasmPlugin of the same name is another plugin.
        remote_plugin("late", &url(&modules, "/p"), "pluginConfig: {name: other}\npriority: 2"),
    ]
    .concat();
    let gateway = setup(&upstream, &[&modules]).file("p.yaml", files).start().await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    assert_eq!(trace(&gateway).await, ["early", "other", "late"]);

    let missing = extension("late", "", &format!("    url: {}\n    failStrategy: FAIL_OPEN\n", url(&modules, "/none")));
    let wrong = extension("early", "  phase: FIRST\n", &place);
    let lua = "apiVersion: extensions.istio.io/v1alpha1\nkind: TrafficExtension\nmetadata: {name: lua, namespace: default}\n\
               spec: {lua: {inlineCode: 'x'}}\n---\n";
    gateway.write("p.yaml", &[missing, wrong, lua.to_owned()].concat()).await.unwrap();
    let told = async || {
        let problems = gateway.problems();
        let found = |field: &str, words: &str| {
            problems.iter().any(|problem| problem.field == field && problem.to_string().contains(words))
        };
        let all = found("spec.wasm.url", "TrafficExtension default/late")
            && found("spec.phase", "TrafficExtension default/early")
            && found("spec.lua", "lua is not supported");
        Ok(all.then_some(()))
    };
    eventually("all problems", told).await.unwrap();
    assert_eq!(trace(&gateway).await, ["early", "late"], "the last good versions");
}
