//! The house: which module may know which. "Arrows point down only" is easy to say and easy to break, so the
//! sources are read and every path from one top-level module of `gateway` into another is compared with a table.
//! ARCHITECTURE.md shows the same table as a picture.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Who may name what. An entry with `::` allows only what begins with it. The crate `proxy_wasm_host` counts as a
/// module. What is not listed is forbidden, for the tests inside a module, too.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "admin",
            "app",
            "config",
            "http::ForwardClientCertificate",
            "http::Identity",
            "http::Limits",
            "http::Topology",
            "istio::Labels",
            "overload",
            "plugins",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "config",
            // The request path itself is the workers' business; the control side only hands these to it.
            "http::Identity",
            "http::Limits",
            "http::Prepared",
            "http::SpareOrder",
            "http::Usage",
            "net",
            "overload",
            "plugins",
            "proxy_wasm_host",
            "snapshot",
            "telemetry",
            "worker",
        ],
    ),
    ("admin", &["config::problem", "overload", "plugins", "proxy_wasm_host", "snapshot", "telemetry"]),
    (
        "config",
        &[
            "istio",
            "plugins",
            "snapshot",
            // MeshConfig says how requests are logged.
            "telemetry::AccessLogOptions",
            "telemetry::LogFormat",
            "telemetry::LogSink",
            "tls",
        ],
    ),
    // The one arrow that points up: plugins report what is wrong in the words of the configuration.
    ("plugins", &["config::problem", "proxy_wasm_host", "snapshot"]),
    ("worker", &["clock", "http", "overload", "proxy_wasm_host", "snapshot", "telemetry"]),
    (
        "http",
        &[
            "clock",
            "http1",
            "net",
            "overload",
            "proxy_wasm_host",
            "snapshot",
            "stopwatch",
            "tcp",
            "telemetry",
            "tls",
            "upstream",
        ],
    ),
    ("tcp", &["net", "telemetry", "upstream"]),
    ("upstream", &["clock", "http1", "net", "overload::descriptors", "snapshot", "tls"]),
    ("http1", &["net"]),
    ("telemetry", &["snapshot"]),
    ("snapshot", &["proxy_wasm_host", "tls"]),
    ("tls", &[]),
    ("istio", &[]),
    ("net", &[]),
    ("overload", &[]),
    ("clock", &[]),
    ("stopwatch", &[]),
];

#[test]
fn arrows_point_down_only() {
    let project = project();
    let root = project.join("gateway/src");
    let mut wrong = Vec::new();
    let mut unused: Vec<_> =
        ARROWS.iter().flat_map(|(from, to)| to.iter().map(move |to| (from.to_string(), *to))).collect();
    for file in rust_files(&root) {
        let module = module_of(file.strip_prefix(&root).unwrap());
        // `lib.rs` and `main.rs` belong to no module.
        let Some(own) = module.first().cloned() else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == own) else {
            wrong.push(format!("{}: the module {own} is not in the table of {}: add it", file.display(), file!()));
            continue;
        };
        let source = fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(&project).unwrap();
        for reference in references(&source, &module) {
            unused.retain(|(from, to)| *from != own || !reference.is_within(to));
            if !allowed.iter().any(|allowed| reference.is_within(allowed)) {
                wrong.push(format!(
                    "{}:{}: {own} must not know {reference}. Move what is needed to a module that both may know, let \
                     the caller hand it in, or, if the arrow is right, add it to the table in {} and to \
                     ARCHITECTURE.md",
                    file.display(),
                    reference.line,
                    file!(),
                ));
            }
        }
    }
    wrong.extend(unused.iter().map(|(from, to)| {
        format!("{}: {from} does not use {to} any more: take it out of the table and of ARCHITECTURE.md", file!())
    }));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_below_do_not_know_the_gateway() {
    let ours = ["gateway", "heads", "proxy-wasm-host", "wasm-sdk", "gateway-tests"];
    let manifests = [
        ("gateway/heads", &[][..]),
        ("gateway/wasm-host", &["heads"]),
        ("wasm-sdk", &[]),
        ("plugins/add-header", &["wasm-sdk"]),
    ];
    for (folder, allowed) in manifests {
        let manifest = fs::read_to_string(project().join(folder).join("Cargo.toml")).unwrap();
        let dependencies: Vec<_> =
            manifest.lines().filter_map(|line| line.split_once(['.', ' ', '='])).map(|(name, _)| name).collect();
        assert!(!dependencies.is_empty(), "{folder}/Cargo.toml was not understood");
        for name in ours.iter().filter(|name| !allowed.contains(name)) {
            assert!(!dependencies.contains(name), "{folder}/Cargo.toml must not depend on {name}");
        }
    }
}

#[test]
fn every_way_to_name_another_module_is_found() {
    let source = r#"
        //! crate::in_a_comment
        use super::{near, super::istio::Gateway};
        use super::super::*;
        use crate::{config::{self, problem::{Level, Problem as P}}, net, upstream::*};
        const TEXT: &str = "crate::in_a_string";
        fn f(worker: &crate::worker::Handle) -> Vec<proxy_wasm_host::Instance> { m!(crate::app::start::<u8>()) }
        mod tests {
            use super::{super::super::telemetry, *};
            pub(crate) struct Here(super::Near, self::There);
        }
    "#;
    let found = references(source, &["http".to_owned(), "body".to_owned()]);
    let found: Vec<_> = found.iter().map(|reference| (reference.to_string(), reference.line)).collect();
    let expected = [
        ("istio::Gateway", 3),
        ("everything (`*`)", 4),
        ("config", 5),
        ("config::problem::Level", 5),
        ("config::problem::Problem", 5),
        ("net", 5),
        ("upstream", 5),
        ("worker::Handle", 7),
        ("proxy_wasm_host::Instance", 7),
        ("app::start", 7),
        ("telemetry", 9),
    ];
    assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    assert!(!found_within("http::Prepared", "http::Prepare") && found_within("http::Prepared", "http"));
}

fn found_within(path: &str, allowed: &str) -> bool {
    Reference { path: path.split("::").map(str::to_owned).collect(), line: 0 }.is_within(allowed)
}

/// A path from the root of the crate, or into `proxy_wasm_host`.
struct Reference {
    path: Vec<String>,
    line: usize,
}

impl Reference {
    fn is_within(&self, allowed: &str) -> bool {
        let mut path = self.path.iter();
        allowed.split("::").all(|segment| path.next().is_some_and(|own| own == segment))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_slice() {
            [] => f.write_str("everything (`*`)"),
            path => f.write_str(&path.join("::")),
        }
    }
}

/// Every path of a file that leaves its top-level module, in written order. `module` is what the file is.
fn references(source: &str, module: &[String]) -> Vec<Reference> {
    let tokens: TokenStream = source.parse().unwrap();
    let mut found = Vec::new();
    walk(tokens, module, &mut found);
    found
}

fn walk(tokens: TokenStream, module: &[String], found: &mut Vec<Reference>) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            TokenTree::Group(group) => {
                // `mod name { … }` is one level deeper.
                let deeper = match at.checked_sub(2).and_then(|keyword| tokens.get(keyword..at)) {
                    Some([TokenTree::Ident(keyword), TokenTree::Ident(name)]) if keyword == "mod" => {
                        [module, &[name.to_string()]].concat()
                    }
                    _ => module.to_vec(),
                };
                walk(group.stream(), &deeper, found);
                at += 1;
            }
            TokenTree::Ident(first) if starts_path(&tokens, at) => {
                let start = match first.to_string().as_str() {
                    "crate" => Some(Vec::new()),
                    "super" => module.split_last().map(|(_, parent)| parent.to_vec()),
                    "proxy_wasm_host" => Some(vec!["proxy_wasm_host".to_owned()]),
                    _ => None,
                };
                at = match start {
                    Some(start) => path(&tokens, at + 1, start, module, first.span().start().line, found),
                    None => at + 1,
                };
            }
            _ => at += 1,
        }
    }
}

/// Whether a path begins with the identifier at `at`: `::` follows and does not come before.
fn starts_path(tokens: &[TokenTree], at: usize) -> bool {
    is_separator(tokens, at + 1) && !at.checked_sub(2).is_some_and(|before| is_separator(tokens, before))
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// Follows a path whose beginning is `base` from behind its first segment on, into the braces of a `use`.
/// Returns where it ends.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    mut base: Vec<String>,
    module: &[String],
    line: usize,
    found: &mut Vec<Reference>,
) -> usize {
    while is_separator(tokens, at) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(segment)) if segment == "super" => drop(base.pop()),
            Some(TokenTree::Ident(segment)) if segment == "self" => {}
            Some(TokenTree::Ident(segment)) => base.push(segment.to_string()),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let items: Vec<_> = group.stream().into_iter().collect();
                let comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
                for item in items.split(comma).filter(|item| !item.is_empty()) {
                    // As if the item stood behind the path.
                    let separator: Vec<_> = tokens.iter().skip(at).take(2).chain(item).cloned().collect();
                    let line = item.first().map_or(line, |first| first.span().start().line);
                    path(&separator, 0, base.clone(), module, line, found);
                }
                return at + 3;
            }
            // `::*` and `::<`
            _ => break,
        }
        at += 3;
    }
    // What stays in the module is its own business.
    if base.first() != module.first() {
        found.push(Reference { path: base, line });
    }
    at
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `http/plugins/mod.rs` is the module `http::plugins`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<_> =
        file.with_extension("").iter().map(|segment| segment.to_str().unwrap().to_owned()).collect();
    module.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
    module
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files
}
