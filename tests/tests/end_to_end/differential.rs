//! The same modules and requests in a real Envoy: `gateway_tests::differential` says how, and
//! `tests/differential/DIFFERENCES.md` what differs and why.

use gateway_tests::differential::{Site, cases, envoy_program, is_there, run, table};
use gateway_tests::eventually;
use std::io::Write as _;
use std::path::Path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_gateway-command");

#[tokio::test]
async fn plugins_see_and_do_here_what_they_see_and_do_in_envoy() {
    let Some(envoy) = envoy_program() else {
        not_run("differential", "envoy");
        return;
    };
    let only = std::env::var("DIFFERENTIAL_ONLY").ok();
    let cases: Vec<_> = cases::all()
        .into_iter()
        .filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str())))
        .collect();
    let mut absent: Vec<_> = cases.iter().map(|case| case.plugin).filter(|plugin| !is_there(plugin)).collect();
    absent.dedup();
    for plugin in &absent {
        not_run("differential", plugin);
    }
    let cases: Vec<_> = cases.into_iter().filter(|case| !absent.contains(&case.plugin)).collect();
    let mut plugins: Vec<_> = cases.iter().map(|case| case.plugin).collect();
    plugins.sort_unstable();
    plugins.dedup();
    let (theirs, ours) = tokio::try_join!(Site::envoy(&envoy, &plugins), Site::ours(PROGRAM, &plugins)).unwrap();
    let mut rows = Vec::new();
    for case in &cases {
        let (envoy, own) = tokio::join!(run(case, &theirs), run(case, &ours));
        let envoy = envoy.unwrap_or_else(|error| panic!("{} (or the one before) in Envoy: {error:#}", case.name));
        let own = own.unwrap_or_else(|error| panic!("{} here: {error:#}", case.name));
        if only.is_some() {
            for (what, value) in &envoy.0 {
                println!("{}: {what} = {value}", case.name);
            }
        }
        rows.extend(table::differences(&case.name, &envoy, &own));
    }
    for (module, language) in cases::languages::LANGUAGES.iter().filter(|(module, _)| plugins.contains(module)) {
        let hello = format!("hello from {language}");
        for site in [&theirs, &ours] {
            let said = eventually(&hello, async || {
                Ok(Some(site.log(module)?.matches(&hello).count()).filter(|said| *said > 0))
            });
            assert_eq!(said.await.unwrap(), 1, "{hello} in the log of {}", site.name);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("differential/DIFFERENCES.md");
    let text = std::fs::read_to_string(&path).unwrap();
    if only.is_some() {
        for row in rows {
            println!("{row:#?}");
        }
        return;
    }
    let seen = table::written(&text, rows).unwrap();
    if std::env::var("DIFFERENTIAL").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &seen).unwrap();
    }
    let is_left_out = |row: &table::Row| {
        let absent = |(module, language): &(&str, &str)| {
            absent.contains(module) && row.case.starts_with(&format!("{language}: "))
        };
        cases::languages::LANGUAGES.iter().any(absent)
    };
    let known = table::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let now = table::read(&seen).unwrap();
    let fresh: Vec<_> = now.iter().filter(|row| !known.contains(row)).collect();
    let gone: Vec<_> = known.iter().filter(|row| !now.contains(row) && !is_left_out(row)).collect();
    let bare: Vec<_> = now.iter().filter(|row| row.why.is_empty()).collect();
    assert!(
        fresh.is_empty() && gone.is_empty() && bare.is_empty(),
        "{} differ and are not in the table: {fresh:#?}\n{} are in the table and do not differ: {gone:#?}\n{} have no reason",
        fresh.len(),
        gone.len(),
        bare.len()
    );
}

/// Says that a test did not run, where everybody sees it, and why; without a reason it fails.
pub(crate) fn not_run(test: &str, what: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/unavailable").join(what);
    let reason = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{what} is not installed: run .ci/setup"));
    // Not with a macro: what those print is kept back for tests that pass.
    let _ = writeln!(std::io::stderr(), "\n{test} DID NOT RUN: no {what}: {}", reason.trim());
}
