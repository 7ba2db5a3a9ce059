//! The access log: Istio's formats, formats of users, the file.

use gateway::telemetry::LogFormat;
use gateway_tests::body::Outgoing;
use gateway_tests::client::RawClient;
use gateway_tests::eventually;
use gateway_tests::gateway::Setup;
use gateway_tests::plugins::wasm_plugin;
use gateway_tests::process::Process;
use gateway_tests::resources::{GATEWAY, everything_to, service, virtual_service};
use gateway_tests::server::Protocol::Http1;
use gateway_tests::upstream::{Answer, Upstream};
use http::Request;

const HOST: &str = "test.example.dev";

/// The columns of a line in Istio's text format: words, and what is between quotes or brackets.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut close = None;
    for character in line.chars() {
        match (close, character) {
            (Some(end), _) if character == end => close = None,
            (None, '"') => close = Some('"'),
            (None, '[') => close = Some(']'),
            (None, ' ') => columns.push(String::new()),
            _ => columns.last_mut().unwrap().push(character),
        }
    }
    columns
}

#[tokio::test]
async fn the_access_log_has_istios_text_format() {
    let upstream = Upstream::start(Http1).await.unwrap();
    upstream.answer_with(|_| Answer::new(201).text("hello"));
    let routes = "
  - {name: sample, match: [{uri: {prefix: /sample}}], rewrite: {uri: /x}, route: [{destination: {host: sample}}]}";
    let gateway = Setup::new()
        .file(
            "all.yaml",
            GATEWAY.to_owned() + &service("sample", &[&upstream]) + &virtual_service("v", &[HOST], routes),
        )
        .access_log(LogFormat::Text)
        .start()
        .await
        .unwrap();
    let address = gateway.address(80).unwrap().to_string();
    let mut client = gateway.client().await.unwrap();
    client
        .send(format!(
            "POST /sample?q=1 HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: a \"quoted\" agent\r\n\
             x-forwarded-for: 1.1.1.1\r\ncontent-length: 4\r\n\r\nbody"
        ))
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().status, 201);
    assert_eq!(client.get(HOST, "/missing").await.unwrap().status, 404);
    let lines = gateway.access_log(2).await.unwrap();

    let request = upstream.received(1).await.unwrap().remove(0);
    let line = columns(&lines[0].replace("\\\"", "'"));
    assert_eq!(line.len(), 22, "{:?}", lines[0]);
    let time = &line[0];
    assert!(time.len() == 24 && time.ends_with('Z') && &time[10..11] == "T", "{time}");
    assert_eq!(line[1], "POST /sample?q=1 HTTP/1.1");
    assert_eq!(line[2..10], ["201", "-", "via_upstream", "-", "-", "4", "5", &line[9]].map(str::to_owned));
    assert!(line[9].parse::<u64>().is_ok() && line[10].parse::<u64>().is_ok(), "{:?}", lines[0]);
    assert_eq!(line[11], "1.1.1.1,127.0.0.1");
    assert!(lines[0].contains("agent"), "{}", lines[0]);
    assert_eq!(line[13], request.header("x-request-id").unwrap());
    assert_eq!(line[14], HOST);
    assert_eq!(line[15], upstream.address().to_string());
    assert_eq!(line[16], "outbound|80||sample.default.svc.cluster.local");
    assert!(line[17].starts_with("127.0.0.1:") && line[17] != line[15], "{:?}", lines[0]);
    assert_eq!(line[18], address);
    assert!(line[19].starts_with("127.0.0.1:"), "{:?}", lines[0]);
    assert_eq!(line[20..22], ["-".to_owned(), "sample".to_owned()]);

    let line = columns(&lines[1]);
    assert_eq!(line[1], "GET /missing HTTP/1.1");
    assert_eq!(line[2..9], ["404", "NR", "route_not_found", "-", "-", "0", "0"].map(str::to_owned));
    assert_eq!(line[15..18], ["-", "-", "-"].map(str::to_owned));
}

#[tokio::test]
async fn the_access_log_has_istios_json_format() {
    let upstream = Upstream::start(Http1).await.unwrap();
    upstream.answer_next(Answer::new(200).text("hello"));
    let setup = Setup::new().file("all.yaml", everything_to(&upstream)).access_log(LogFormat::Json);
    let gateway = setup.start().await.unwrap();
    let request =
        Request::post(format!("http://{HOST}/sample")).header("user-agent", "agent\u{e9}").body(Outgoing::full("body"));
    gateway.h2_client().await.unwrap().fetch(request.unwrap()).await.unwrap();
    // The end of the process writes what is still in memory.
    let lines = gateway.shutdown().await.unwrap();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    for (key, value) in [
        ("method", serde_json::json!("POST")),
        ("path", "/sample".into()),
        ("protocol", "HTTP/2".into()),
        ("authority", HOST.into()),
        ("response_code", 200.into()),
        ("response_flags", "-".into()),
        ("response_code_details", "via_upstream".into()),
        ("bytes_received", 4.into()),
        ("bytes_sent", 5.into()),
        ("upstream_host", upstream.address().to_string().into()),
        ("upstream_cluster", "outbound|80||sample.default.svc.cluster.local".into()),
        ("x_forwarded_for", "127.0.0.1".into()),
        ("requested_server_name", serde_json::Value::Null),
        ("connection_termination_details", serde_json::Value::Null),
    ] {
        assert_eq!(line[key], value, "{key} in {line:#}");
    }
    assert_eq!(line.as_object().unwrap().len(), 24);
}

#[tokio::test]
async fn the_access_log_has_the_format_that_users_want() {
    let upstream = Upstream::start(Http1).await.unwrap();
    upstream.answer_with(|_| Answer::new(200).header("x-from", "up stream").text("hello"));
    let format = "%REQ(X-TENANT):4%|%REQ(X-NONE?X-REQUEST-ID):8%|%RESP(X-FROM)%|%RESP(SERVER)%|%RESPONSE_CODE%|\
                  %RESPONSE_FLAGS_LONG%|%UPSTREAM_REQUEST_ATTEMPT_COUNT%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%";
    let gateway = Setup::new()
        .file("all.yaml", everything_to(&upstream))
        .access_log(LogFormat::CustomText(format.to_owned()))
        .start()
        .await
        .unwrap();
    let mut client = gateway.client().await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx-tenant: tenant\r\n\r\n")).await.unwrap();
    client.response().await.unwrap();
    // A request that is refused at once is logged with its headers, too.
    client.send(format!("BAD / HTTP/1.1\r\nhost: {HOST}\r\nx-tenant: evil\r\n\r\n")).await.unwrap();
    client.response().await.unwrap();
    let lines = gateway.access_log(2).await.unwrap();
    let id = upstream.received(1).await.unwrap().remove(0).header("x-request-id").unwrap()[..8].to_owned();
    assert_eq!(lines[0], format!("tena|{id}|up stream|istio-envoy|200|-|1|127.0.0.1"));
    assert!(
        lines[1].starts_with("evil|") && lines[1].ends_with("|-|istio-envoy|400|DownstreamProtocolError|0|127.0.0.1"),
        "{}",
        lines[1]
    );
}

#[tokio::test]
async fn a_renamed_access_log_is_opened_anew() {
    let home = tempfile::tempdir().unwrap();
    let answer = "  - directResponse: {status: 200, body: {string: 'here'}}";
    std::fs::create_dir(home.path().join("config")).unwrap();
    let text = GATEWAY.to_owned() + &virtual_service("v", &[HOST], answer);
    std::fs::write(home.path().join("config/all.yaml"), text).unwrap();
    let (log, mesh) = (home.path().join("access.log"), home.path().join("mesh.yaml"));
    let settings = format!("accessLogFile: {}\naccessLogFormat: '%REQ(:PATH)%'\n", log.display());
    std::fs::write(&mesh, settings).unwrap();
    let program = env!("CARGO_BIN_EXE_gateway-command");
    let mesh_config = format!("--mesh-config={}", mesh.display());
    let process = Process::start(program, &home.path().join("config"), &[&mesh_config]).await.unwrap();
    let mut client = RawClient::connect(process.address().unwrap()).await.unwrap();
    let lines = async |path: &std::path::Path, text: &str| {
        let written = async || Ok(std::fs::read_to_string(path).is_ok_and(|found| found == text).then_some(()));
        eventually("lines in the access log", written).await.unwrap();
    };
    client.get(HOST, "/before").await.unwrap();
    lines(&log, "/before\n").await;
    let renamed = home.path().join("access.log.1");
    std::fs::rename(&log, &renamed).unwrap();
    process.signal("USR1").unwrap();
    eventually("the signal to be taken", async || Ok(process.log().contains("SIGUSR1").then_some(()))).await.unwrap();
    client.get(HOST, "/after").await.unwrap();
    lines(&log, "/after\n").await;
    lines(&renamed, "/before\n").await;
}

/// Sets a property to the path of the request, and another one when all is over.
const SETS_PROPERTIES: &str = r#"(module
    (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
    (import "env" "proxy_set_property" (func $set (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) ":path")
    (data (i32.const 16) "where")
    (data (i32.const 32) "over")
    (func (export "proxy_abi_version_0_2_1"))
    (func (export "malloc") (param i32) (result i32) i32.const 1024)
    (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $get (i32.const 0) (i32.const 0) (i32.const 5) (i32.const 100) (i32.const 104)))
        (drop (call $set (i32.const 16) (i32.const 5) (i32.load (i32.const 100)) (i32.load (i32.const 104))))
        i32.const 0)
    (func (export "proxy_on_log") (param i32)
        (drop (call $set (i32.const 32) (i32.const 4) (i32.const 32) (i32.const 4)))))"#;

#[tokio::test]
async fn what_plugins_set_is_filter_state() {
    let upstream = Upstream::start(Http1).await.unwrap();
    let text = "%FILTER_STATE(wasm.where:PLAIN)% %FILTER_STATE(wasm.over:PLAIN):2% %FILTER_STATE(wasm.where)% %FILTER_STATE(wasm.x)%";
    let members =
        serde_json::json!({ "plain": "%FILTER_STATE(wasm.where:PLAIN)%", "typed": "%FILTER_STATE(wasm.where)%" });
    let json = LogFormat::CustomJson(members.as_object().unwrap().clone());
    let typed = r#"{"@type":"type.googleapis.com/google.protobuf.BytesValue","value":"L2E="}"#;
    let set = format!("/a ov {typed} -");
    let expected = [
        (LogFormat::CustomText(text.to_owned()), [set, "- - - -".to_owned()]),
        (json, [format!(r#"{{"plain":"/a","typed":{typed}}}"#), r#"{"plain":null,"typed":null}"#.to_owned()]),
    ];
    for (format, expected) in expected {
        let gateway = Setup::new().file("all.yaml", everything_to(&upstream)).access_log(format).start().await.unwrap();
        let module = gateway.home().join("sets-properties.wasm");
        std::fs::write(&module, wat::parse_str(SETS_PROPERTIES).unwrap()).unwrap();
        gateway.write("plugin.yaml", &wasm_plugin("sets", &module, "")).await.unwrap();
        assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
        let mut client = gateway.client().await.unwrap();
        assert_eq!(client.get(HOST, "/a").await.unwrap().status, 200);
        assert_eq!(gateway.access_log(1).await.unwrap(), expected[..1]);
        gateway.remove("plugin.yaml").await.unwrap();
        assert_eq!(client.get(HOST, "/a").await.unwrap().status, 200);
        assert_eq!(gateway.access_log(2).await.unwrap(), expected);
    }
}
