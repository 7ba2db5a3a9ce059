//! The same plugin in five languages (`tests/languages`): headers, bodies, replies, calls, shared data, metrics, ticks,
//! properties, log.

use crate::differential::not_run;
use gateway_tests::differential::cases::languages::{LANGUAGES, wishes};
use gateway_tests::differential::{Site, is_there, run};
use gateway_tests::eventually;

async fn works(module: &'static str) {
    if !is_there(module) {
        not_run("languages", module);
        return;
    }
    let language = LANGUAGES.iter().find(|(own, _)| *own == module).unwrap().1;
    let site = Site::ours(env!("CARGO_BIN_EXE_gateway-command"), &[module]).await.unwrap();
    for wish in wishes(module, language) {
        let seen = run(&wish.case, &site).await.unwrap();
        for (what, value) in wish.expected {
            let found = seen.0.iter().find(|(own, _)| own == what).map(|(_, value)| value.as_str());
            assert_eq!(found, Some(value.as_str()), "{}: {what}; seen was {seen:#?}", wish.case.name);
        }
        let gone = seen.0.iter().find(|(what, _)| what.ends_with(" x-gone"));
        assert_eq!(gone, None, "{}", wish.case.name);
    }
    let metrics = site.metrics(module).await.unwrap();
    let prefix = module.replace('-', "_");
    for (name, value) in [("counter", 2.0), ("gauge", 7.0), ("histogram_sum", 5.0), ("histogram_count", 1.0)] {
        assert_eq!(metrics.sum(&format!("{prefix}_{name}"), &[]), value, "{name}");
    }
    let hello = format!("hello from {language}");
    let said =
        eventually(&hello, async || Ok(Some(site.log(module)?.matches(&hello).count()).filter(|said| *said > 0)));
    assert_eq!(said.await.unwrap(), 1, "{hello}");
}

#[tokio::test]
async fn a_plugin_in_rust_works() {
    works("lang-rust").await;
}

#[tokio::test]
async fn a_plugin_in_go_works() {
    works("lang-go").await;
}

#[tokio::test]
async fn a_plugin_in_c_works() {
    works("lang-c").await;
}

#[tokio::test]
async fn a_plugin_in_assemblyscript_works() {
    works("lang-assemblyscript").await;
}

#[tokio::test]
async fn a_plugin_in_webassembly_text_works() {
    works("lang-text").await;
}
