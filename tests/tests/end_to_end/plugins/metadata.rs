//! What plugins read about where routes and clusters come from.

use gateway_tests::gateway::Setup;
use gateway_tests::plugins::wasm_plugin;
use gateway_tests::resources::{GATEWAY, service, virtual_service};
use gateway_tests::server::Protocol;
use gateway_tests::upstream::Upstream;
use std::fmt::Write as _;

/// A plugin that adds a header `x-0`, `x-1`, … to a response for each property, if there is such a text.
fn reads(paths: &[&str]) -> Vec<u8> {
    let (mut data, mut calls) = (String::new(), String::new());
    for (number, path) in paths.iter().enumerate() {
        let (name, at) = (2048 + 4 * number, 4096 + 256 * number);
        let path = path.replace('.', "\\00");
        let length = path.len() - 2 * path.matches("\\00").count();
        writeln!(data, r#"(data (i32.const {name}) "x-{number}") (data (i32.const {at}) "{path}")"#).unwrap();
        writeln!(calls, "(call $one (i32.const {name}) (i32.const {at}) (i32.const {length}))").unwrap();
    }
    let text = format!(
        r#"(module
            (import "env" "proxy_get_property" (func $get (param i32 i32 i32 i32) (result i32)))
            (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            {data}
            (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) i32.const 65536)
            (func $one (param $name i32) (param $path i32) (param $length i32)
                (if (i32.eqz (call $get (local.get $path) (local.get $length) (i32.const 0) (i32.const 4))) (then
                    (drop (call $add (i32.const 2) (local.get $name) (i32.const 3) (i32.load (i32.const 0)) (i32.load (i32.const 4)))))))
            (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) {calls} i32.const 0))"#
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn routes_and_clusters_say_where_they_come_from_as_in_istio() {
    let upstream = Upstream::start(Protocol::Http1).await.unwrap();
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: parts, namespace: default}
spec: {host: sample, subsets: [{name: v1}]}
---
";
    let routes = "  - match: [{uri: {prefix: /direct}}]\n    directResponse: {status: 200}\n\
                  \x20 - match: [{uri: {prefix: /both}}]\n    route: [{destination: {host: sample}, weight: 0}, {destination: {host: sample, subset: v1}, weight: 1}]\n\
                  \x20 - route: [{destination: {host: sample}}]";
    let gateway = Setup::new()
        .file("gateway.yaml", GATEWAY)
        .file("service.yaml", service("sample", &[&upstream]))
        .file("rule.yaml", rule)
        .file("routes.yaml", virtual_service("shop", &["*"], routes))
        .start()
        .await
        .unwrap();
    let module = gateway.home().join("reads.wasm");
    let paths = [
        "xds.route_metadata.filter_metadata.istio.config",
        "route_metadata.filter_metadata.istio.config",
        "xds.cluster_metadata.filter_metadata.istio.config",
        "xds.cluster_metadata.filter_metadata.istio.services.0.host",
        "cluster_metadata.filter_metadata.istio.services.0.namespace",
        "xds.cluster_metadata.filter_metadata.istio.subset",
        "xds.listener_metadata.filter_metadata.istio.config",
    ];
    std::fs::write(&module, reads(&paths)).unwrap();
    gateway.write("plugin.yaml", &wasm_plugin("reads", &module, "")).await.unwrap();
    assert!(gateway.problems().is_empty(), "{:#?}", gateway.problems());
    let mut client = gateway.client().await.unwrap();
    let route = Some("/apis/networking.istio.io/v1/namespaces/default/virtual-service/shop");
    let rule = Some("/apis/networking.istio.io/v1/namespaces/default/destination-rule/parts");
    for (path, expected) in [
        ("/", [route, route, rule, Some("sample.default.svc.cluster.local"), Some("default"), None, None]),
        ("/both", [route, route, rule, Some("sample.default.svc.cluster.local"), Some("default"), Some("v1"), None]),
        ("/direct", [route, route, None, None, None, None, None]),
    ] {
        let response = client.get("a.example.com", path).await.unwrap();
        assert_eq!(response.status, 200, "{path}");
        let read: Vec<_> = (0..paths.len()).map(|number| response.header(&format!("x-{number}"))).collect();
        assert_eq!(read, expected, "{path}");
    }
}
