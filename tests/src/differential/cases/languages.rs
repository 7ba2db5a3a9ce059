//! The plugin of `tests/languages/README.md`, in each language.

use super::Case;

/// The module of each language, and how the plugin calls it.
pub const LANGUAGES: [(&str, &str); 5] = [
    ("lang-rust", "Rust"),
    ("lang-go", "Go"),
    ("lang-c", "C"),
    ("lang-assemblyscript", "AssemblyScript"),
    ("lang-text", "WebAssembly text"),
];

/// A wish, its request, and what has to come of it.
pub struct Wish {
    /// What is sent.
    pub case: Case,
    /// Lines that have to be seen.
    pub expected: Vec<(&'static str, String)>,
}

/// All that the plugin can do in this language. `count` is twice in it: the second time it counts on.
pub fn wishes(module: &'static str, language: &str) -> Vec<Wish> {
    let wish = |wish: &str, case: fn(String, &str) -> Case, expected: &[(&'static str, &str)]| Wish {
        case: case(format!("{language}: {wish}"), "")
            .in_plugin(module)
            .header("x-do", wish.split(' ').next().unwrap_or("")),
        expected: expected.iter().map(|(what, value)| (*what, (*value).to_owned())).collect(),
    };
    let mut wishes = vec![
        wish("nothing", Case::get, &[("client", "200"), ("client body", "\"answer\"")]),
        wish(
            "headers",
            Case::get,
            &[
                ("service x-copy", "caf\u{fffd}"),
                ("service x-add", "there & one & two"),
                ("service x-set", "set"),
                ("client x-kept", "1"),
            ],
        ),
        wish("body", Case::post, &[("service body", "\"HELLO\""), ("client body", "\"[answer]\"")]),
        wish("body in chunks", Case::post, &[("service body", "\"ONE TWO\""), ("client body", "\"[one two]\"")]),
        wish(
            "reply",
            Case::get,
            &[("client", "403"), ("client x-reply", "yes"), ("client body", &format!("\"refused in {language}\""))],
        ),
        wish("call", Case::get, &[("client", "200"), ("service x-answer", "200 GET /asked")]),
        wish("count", Case::get, &[("service x-counted", "1")]),
        wish("count on", Case::get, &[("service x-counted", "2")]),
        wish("metrics", Case::get, &[("service x-metric", "2")]),
        wish("tick", Case::get, &[("client", "200"), ("service x-ticked", "yes")]),
        wish("property", Case::get, &[("service x-property", "GET")]),
        wish("log", Case::get, &[("client", "200")]),
    ];
    for Wish { case, expected } in &mut wishes {
        expected.push(("client x-plugin", language.to_owned()));
        let changed = case.clone();
        *case = match case.name.rsplit(": ").next() {
            Some("headers") => changed
                .header("x-bytes", "caf\u{e9}")
                .header("x-add", "there")
                .header("x-set", "old")
                .header("x-set", "older")
                .header("x-gone", "1")
                .answer_header("x-gone", "1")
                .answer_header("x-kept", "1"),
            Some("body in chunks") => changed.chunks(&["one ", "two"]).answer_chunks(&["one ", "two"]),
            _ => changed,
        };
    }
    wishes
}

pub(super) fn cases() -> Vec<Case> {
    LANGUAGES.iter().flat_map(|(module, language)| wishes(module, language)).map(|wish| wish.case).collect()
}
