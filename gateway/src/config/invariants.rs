//! What holds for every text that is taken for resources: for tests here and for the fuzzer in `tests/fuzz`.

use std::{fmt::Write, time::UNIX_EPOCH};

use bytes::Bytes;

use super::{
    Options, Store, Surroundings, compile,
    problem::{Level, Problem},
    read::{Contents, Key, read},
    source::SourceFile,
};
use crate::snapshot::{HostTable, Snapshot};

/// A file that is right, and has one resource of each kind that matters here.
const GOOD: &[u8] = br"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: good}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [good.example.dev]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: good}
spec: {hosts: [good.internal], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 127.0.0.1}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good}
spec: {hosts: [good.example.dev], gateways: [good], http: [{route: [{destination: {host: good.internal}}]}]}
";

/// Reads and compiles a file beside a good one, and after a good version of itself.
///
/// # Panics
/// The same files give another picture, something that cannot be used is not reported, or what was good is lost.
pub(crate) fn check(bytes: &[u8]) {
    let contents = read("fuzzed.yaml", bytes);
    reported(&contents);

    let files = [("good.yaml", GOOD), ("fuzzed.yaml", bytes)];
    let picture = picture(&store(&[&files]));
    assert_eq!(picture, self::picture(&store(&[&files])), "the same files, another picture");

    let beside = store(&[&files]);
    for key in keys(&read("good.yaml", GOOD)) {
        assert!(in_use(&beside, &key), "{key:?} is lost because of another file");
    }
    // The same keys, so that nothing is a duplicate.
    let after = store(&[&[("fuzzed.yaml", GOOD)], &[("fuzzed.yaml", bytes)]]);
    let now: Vec<_> = keys(&contents).collect();
    for key in keys(&read("good.yaml", GOOD)) {
        let stays = contents.broken || now.contains(&key);
        assert_eq!(in_use(&after, &key), stays, "{key:?} after a good version");
    }
}

/// Whoever reads the problems learns of all that is not in use.
fn reported(contents: &Contents) {
    let errors = |problems: &[Problem]| problems.iter().any(|problem| problem.level == Level::Error);
    let cut = contents.problems.iter().any(|problem| problem.code == "GW0001");
    assert!(!contents.broken || errors(&contents.problems), "a file is broken and nobody says so");
    for entry in &contents.entries {
        assert!(entry.resource.is_some() || errors(&entry.problems) || cut, "{:?} is not in use", entry.key);
    }
    let all = contents.problems.iter().chain(contents.entries.iter().flat_map(|entry| &entry.problems));
    for problem in all {
        let line = problem.to_string();
        assert!(!problem.message.is_empty() && !line.contains('\n'), "{line:?}");
    }
}

fn keys(contents: &Contents) -> impl Iterator<Item = Key> {
    contents.entries.iter().map(|entry| entry.key.clone())
}

/// A store that has seen these states of its files.
fn store(states: &[&[(&str, &[u8])]]) -> Store {
    let mut store = Store::new(Options::default());
    for files in states {
        let files = files
            .iter()
            .map(|(path, bytes)| SourceFile { path: (*path).to_owned(), contents: Ok(Bytes::copy_from_slice(bytes)) });
        store.update(files.collect());
    }
    store
}

fn in_use(store: &Store, (kind, namespace, name): &Key) -> bool {
    fn has<T>(resources: &[std::sync::Arc<super::Resource<T>>], namespace: &str, name: &str) -> bool {
        resources.iter().any(|resource| resource.namespace == namespace && resource.name == name)
    }
    let resources = store.resources();
    match *kind {
        "Gateway" => has(&resources.gateways, namespace, name),
        "ServiceEntry" => has(&resources.service_entries, namespace, name),
        "VirtualService" => has(&resources.virtual_services, namespace, name),
        _ => false,
    }
}

/// Everything that is served and everything that is wrong, as text.
fn picture(store: &Store) -> String {
    let options = Options::default();
    let surroundings = Surroundings { now: UNIX_EPOCH, ..Surroundings::default() };
    let (declarations, declared) = compile::declarations(store.resources(), &options);
    let (snapshot, compiled) = compile::compile(store.resources(), &options, &[], &surroundings);
    let mut text = format!("{declarations:?}\n");
    for problem in store.problems().iter().chain(&declared).chain(&compiled) {
        let _ = writeln!(text, "{problem}");
    }
    served(&snapshot, &mut text);
    text
}

/// A snapshot without the order of its hash maps.
fn served(snapshot: &Snapshot, text: &mut String) {
    for listener in &snapshot.listeners {
        let _ = writeln!(text, "{} {} {:?}", listener.declared_port, listener.bind, listener.gateways);
        let _ = writeln!(text, "{:?}", listener.tcp);
        hosts(&listener.hosts, text);
        for server in listener.tls.iter().flat_map(|servers| servers.iter()) {
            let _ = writeln!(text, "{} {:?} {:?} {:?}", server.name, server.server_names, server.tcp, server.tls);
            hosts(&server.hosts, text);
        }
    }
    let _ = writeln!(text, "{:#?}\n{:#?}", snapshot.routes, snapshot.clusters);
}

fn hosts(hosts: &HostTable, text: &mut String) {
    for host in hosts.iter() {
        let _ = writeln!(text, "{} {:?} {:?}", host.name, host.routes.rules(), host.https_redirect);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// The samples, and what is left of them when a piece is cut out, or doubled.
    fn samples() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config");
        let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
        files.sort();
        assert!(files.len() > 8, "{files:?}");
        files.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn samples_keep_what_is_promised() {
        for sample in samples() {
            check(&sample);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn broken_samples_do_too(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), length in 0_usize..80, twice: bool) {
            let samples = samples();
            let sample = which.get(&samples);
            let at = at.index(sample.len());
            let end = sample.len().min(at + length);
            let middle = if twice { sample[at..end].repeat(2) } else { Vec::new() };
            check(&[&sample[..at], &middle, &sample[end..]].concat());
        }
    }
}
