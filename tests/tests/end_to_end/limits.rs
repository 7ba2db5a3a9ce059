//! Every limit has a name, and README says which.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gateway_tests::gateway::Setup;
use gateway_tests::resources::GATEWAY;

/// The last column of README's table of limits, row by row.
fn rows() -> Vec<(String, Vec<String>)> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Limits\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what |"));
    rows.filter_map(|row| {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [what, limit, then, names] = columns[..] else { panic!("not four columns: {row}") };
        // A heading within the table.
        (!limit.is_empty() || !then.is_empty()).then(|| {
            let names = names.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect();
            (format!("{what} | {limit} | {then}"), names)
        })
    })
    .collect()
}

#[tokio::test]
async fn every_limit_is_in_the_table_and_every_name_in_the_table_is_exported() {
    let gateway = Setup::new().file("gateway.yaml", GATEWAY).start().await.unwrap();
    let metrics = gateway.metrics().await.unwrap();
    let exported: BTreeSet<String> =
        metrics.series("gateway_limit_exceeded_total", &[]).map(|series| series.labels["limit"].clone()).collect();
    let rows = rows();
    assert!(rows.len() > 40 && exported.len() > 40, "{} rows, {} names", rows.len(), exported.len());
    let mut named = BTreeSet::new();
    for (row, names) in rows {
        for name in names {
            if name == "–" {
                // Somebody waits or something is forgotten; nobody is refused.
                let harmless = ["waits", "is forgotten", "goes on"].iter().any(|end| row.ends_with(end));
                assert!(harmless, "a limit without a name: {row}");
                continue;
            }
            assert!(exported.contains(&name), "README names {name:?}, which is not exported: {row}");
            named.insert(name);
        }
    }
    let missing: Vec<_> = exported.difference(&named).collect();
    assert!(missing.is_empty(), "not in README's table of limits: {missing:?}");
}
