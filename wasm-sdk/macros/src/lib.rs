//! The attribute `#[wasm_sdk::plugin]`: it looks which handlers an `impl Plugin for …` has written, and has the module
//! export the callbacks for these and for no others; and whether there is something to remember between them.
//!
//! That is all it knows: the exports themselves are in `wasm-sdk/src/export.rs`. A callback that is not exported costs a
//! gateway nothing, and bodies that no plugin looks at stream past WebAssembly.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// The callbacks of the ABI that each handler needs. Trailers also end a body.
const CALLBACKS: [(&str, &[&str]); 9] = [
    ("on_request", &["request_headers"]),
    ("on_request_body", &["request_body", "request_trailers"]),
    ("on_request_trailers", &["request_trailers"]),
    ("on_response", &["response_headers"]),
    ("on_response_body", &["response_body", "response_trailers"]),
    ("on_response_trailers", &["response_trailers"]),
    ("on_log", &["log"]),
    ("on_tick", &["tick"]),
    ("on_queue", &["queue_ready"]),
];

/// Makes the WebAssembly module's plugin of this type; stands at its `impl Plugin for …`, once per crate. In native
/// builds it changes nothing.
#[proc_macro_attribute]
pub fn plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let problem = if arguments.is_empty() { None } else { Some("this attribute takes no arguments") };
    let exports = problem.map_or_else(|| exports(item.clone()), Err);
    let more =
        exports.unwrap_or_else(|problem| format!("::core::compile_error!({problem:?});").parse().unwrap_or_default());
    item.into_iter().chain(more).collect()
}

/// What the module exports for this `impl`.
fn exports(item: TokenStream) -> Result<TokenStream, &'static str> {
    const WRONG: &str = "write this attribute at `impl Plugin for YourType { … }`";
    let mut tokens: Vec<_> = item.into_iter().collect();
    let Some(TokenTree::Group(body)) = tokens.pop() else { return Err(WRONG) };
    let start = tokens.iter().position(|token| is_word(token, "impl")).ok_or(WRONG)?;
    let before_type = tokens.iter().position(|token| is_word(token, "for")).ok_or(WRONG)?;
    if body.delimiter() != Delimiter::Brace || before_type < start {
        return Err(WRONG);
    }
    if matches!(tokens.get(start + 1), Some(TokenTree::Punct(punct)) if punct.as_char() == '<') {
        return Err("the plugin of a module cannot be generic");
    }
    let mut arguments: TokenStream = tokens.drain(before_type + 1..).collect();
    let names = exported(body.stream()).join(" ");
    arguments.extend(format!("; {names}").parse::<TokenStream>().map_err(|_| WRONG)?);
    let mut call: TokenStream = "::wasm_sdk::__export!".parse().map_err(|_| WRONG)?;
    call.extend([TokenTree::Group(Group::new(Delimiter::Brace, arguments))]);
    Ok(call)
}

/// What the body of an `impl` asks for. First, whether nothing is remembered of a stream: its context is written as `()`,
/// and no handler sees parts of a message.
fn exported(body: TokenStream) -> Vec<&'static str> {
    let tokens: Vec<_> = body.into_iter().collect();
    let mut names = callbacks(&tokens);
    let in_parts = |name: &&str| name.ends_with("_body") || name.ends_with("_trailers");
    if has_no_context(&tokens) && !names.iter().any(in_parts) {
        names.insert(0, "forgets");
    }
    names
}

/// Whether it says `type Context = ();`.
fn has_no_context(tokens: &[TokenTree]) -> bool {
    tokens.windows(4).any(|tokens| match tokens {
        [keyword, name, TokenTree::Punct(equals), TokenTree::Group(unit)] => {
            is_word(keyword, "type")
                && is_word(name, "Context")
                && equals.as_char() == '='
                && unit.delimiter() == Delimiter::Parenthesis
                && unit.stream().is_empty()
        }
        _ => false,
    })
}

/// The callbacks for the handlers among these tokens.
fn callbacks(tokens: &[TokenTree]) -> Vec<&'static str> {
    let mut found = Vec::new();
    for pair in tokens.windows(2) {
        if let [function, name] = pair
            && is_word(function, "fn")
            && let Some((_, callbacks)) = CALLBACKS.iter().find(|(handler, _)| is_word(name, handler))
        {
            found.extend_from_slice(callbacks);
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident.to_string() == word)
}
