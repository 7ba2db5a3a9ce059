//! Large and damaged configurations.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;

use super::*;

#[test]
fn ten_thousand_virtual_services_are_no_matter() {
    let mut text = String::from(GATEWAY);
    write!(text, "---\n{}", service("s")).unwrap();
    for number in 0..10_000 {
        writeln!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{number}}}\nspec: {{hosts: [h{number}.com, '*.w{number}.com'], gateways: [g], http: [{{match: [{{uri: {{prefix: /a}}}}], route: [{{destination: {{host: s}}}}]}}]}}"
        )
        .unwrap();
    }
    let start = std::time::Instant::now();
    let picture = Picture::clean(&[&text]);
    let took = start.elapsed();
    assert_eq!(picture.answer("h9999.com/a"), "s:80 [127.0.0.1:9000]");
    assert_eq!(picture.answer("x.w5000.com/a"), "s:80 [127.0.0.1:9000]");
    // Without optimisation and beside other tests; a quadratic algorithm would take minutes.
    assert!(took.as_secs() < 60, "{took:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever stands in a file: the answer is problems, never a panic, and the other file is served.
    #[test]
    fn damaged_files_only_make_problems(cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, "[ -~\n]{0,4}"), 1..5)) {
        let good = [
            virtual_service("name: w", "  hosts: [w.com, '*.w.com']\n  gateways: [g]\n  exportTo: ['*']\n  http:\n  - name: r\n    match: [{uri: {regex: '/a.*'}, headers: {x-a: {prefix: b}}, queryParams: {q: {exact: ''}}}]\n    route: [{destination: {host: s, port: {number: 80}}, weight: 3, headers: {request: {set: {x: '%REQ(y)%'}}}}, {destination: {host: t}, weight: 1}]\n    timeout: 1.5s\n    rewrite: {uriRegexRewrite: {match: '/(a)', rewrite: '/\\1'}}\n  - redirect: {uri: /b, redirectCode: 302}"),
            GATEWAY.replace("{name: g}", "{name: second}").replace("number: 80", "number: 81"),
            service("s"),
            "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: p}\nspec: &a {url: 'file://x', pluginConfig: {a: [1, {b: 2}]}}\n".to_owned(),
        ];
        let mut text = good.join("\n---\n");
        for (at, length, insert) in &cuts {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            // All of it is ASCII.
            text.replace_range(start..end, insert);
        }
        let mut store = Store::new(Options::default());
        let file = |path: &str, text: String| SourceFile { path: path.to_owned(), contents: Ok(text.into_bytes().into()) };
        store.update(vec![file("good", format!("{GATEWAY}---\n{}", answers("name: v", "v.com", &["v"]))), file("damaged", text)]);
        let (snapshot, problems) = compile(store.resources(), &Options::default(), &[], &Surroundings::default());
        let (declarations, declared) = declarations(store.resources(), &Options::default());
        let picture = Picture { snapshot, problems: Vec::new(), declarations };
        prop_assert_eq!(picture.answer("v.com/"), "200 v");
        for problem in store.problems().iter().chain(&problems).chain(&declared) {
            prop_assert!(!problem.message.is_empty() && (problem.line > 0 || problem.code == "GW0001"), "{}", problem);
        }
    }
}
