//! A plugin that makes the host calls that a script names and writes down what comes of each: status and results. It
//! stands on no SDK, so it can make calls that no SDK would make.
//!
//! The script comes with the request, in `x-script` (or, for what happens without one, in the configuration), and what
//! was written down is the answer to a request with `x-transcript: NAME`, where NAME is the `x-case` of the other. How a
//! script reads: `script.rs`. Several of them in a chain have names, by a line `name=NAME` of their configuration; the
//! headers of the one named `second` are `x-script-second` and `x-transcript-second`.
#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, reason = "what is public is exported to the host")]

mod calls;
mod script;

use script::Step;
use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _};

/// One stream, or the root context.
#[derive(Default)]
struct Context {
    case: String,
    steps: Vec<Step>,
    /// How often each callback has come.
    entered: BTreeMap<&'static str, u32>,
    /// Numbers that calls have given, in order: `$0`, `$1`, …
    numbers: Vec<u32>,
}

#[derive(Default)]
struct State {
    contexts: BTreeMap<u32, Context>,
    transcripts: BTreeMap<String, String>,
    /// Whose outbound calls these are.
    tokens: BTreeMap<u32, u32>,
    /// Steps that the configuration adds to every stream.
    always: Vec<Step>,
    /// What the names of its headers end with: nothing, or `-NAME`.
    suffix: String,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with(|state| act(&mut state.borrow_mut()))
}

/// Carries out what the script of a context says about a callback. The answer: what it returns, if the script says so.
fn run(context: u32, at: &'static str, arguments: &str, end: bool) -> Option<u32> {
    let (steps, mut numbers, root) = with(|state| {
        let known = state.contexts.get_mut(&context)?;
        let entered = known.entered.entry(at).or_default();
        *entered += 1;
        let steps: Vec<_> = known.steps.iter().filter(|step| step.applies(at, *entered, end)).cloned().collect();
        Some((steps, known.numbers.clone(), context))
    })?;
    write(context, &format!("{at}() = {arguments} @{}", calls::time()));
    let mut returned = None;
    for step in steps {
        if step.call == "return" {
            returned = step.number();
            continue;
        }
        if step.call == "trap" {
            core::arch::wasm32::unreachable();
        }
        let made = calls::make(&step, context, &mut numbers);
        if let Some(token) = made.token {
            with(|state| state.tokens.insert(token, root));
        }
        write(context, &format!("{at} {} = {}", step.text, made.outcome));
    }
    with(|state| {
        if let Some(known) = state.contexts.get_mut(&context) {
            known.numbers = numbers;
        }
    });
    if let Some(returned) = returned {
        write(context, &format!("{at} returns = {returned}"));
    }
    returned
}

fn write(context: u32, line: &str) {
    with(|state| {
        let case = state.contexts.get(&context).map_or("", |known| known.case.as_str());
        if !case.is_empty() {
            let _ = writeln!(state.transcripts.entry(case.to_owned()).or_default(), "{line}");
        }
    });
}

/// The stream whose outbound call this is.
fn caller(token: u32) -> u32 {
    with(|state| state.tokens.get(&token).copied().unwrap_or_default())
}

/// What a stream does once its headers can be read: it learns its script, or shows what another one wrote down.
fn begin(context: u32) -> bool {
    let suffix = with(|state| state.suffix.clone());
    if let Some(case) = calls::header(&format!("x-transcript{suffix}")) {
        let text = with(|state| state.transcripts.get(&case).cloned()).unwrap_or_default();
        with(|state| state.contexts.remove(&context));
        calls::reply(&text);
        return false;
    }
    let case = calls::header("x-case").unwrap_or_default();
    let steps = script::parse(&calls::header(&format!("x-script{suffix}")).unwrap_or_default());
    with(|state| {
        let always = state.always.clone();
        if let Some(known) = state.contexts.get_mut(&context) {
            known.case = case;
            known.steps = always;
            known.steps.extend(steps);
        }
    });
    true
}

#[cfg(not(feature = "abi-0-1-0"))]
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

#[cfg(feature = "abi-0-1-0")]
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_1_0() {}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    Vec::with_capacity(size).leak().as_mut_ptr()
}

const ROOT: &str = "root";

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    let case = if parent == 0 { ROOT.to_owned() } else { String::new() };
    with(|state| state.contexts.insert(context, Context { case, ..Context::default() }));
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(root: u32, size: u32) -> u32 {
    run(root, "start", &format!("size={size}"), true).unwrap_or(1)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(root: u32, _size: u32) -> u32 {
    let configuration = calls::configuration();
    let steps = script::parse(&configuration);
    let name = configuration.split(['\n', '|']).find_map(|line| line.trim().strip_prefix("name="));
    with(|state| {
        state.suffix = name.map(|name| format!("-{name}")).unwrap_or_default();
        state.always = steps.iter().filter(|step| !step.applies("configure", 1, true)).cloned().collect();
        if let Some(known) = state.contexts.get_mut(&root) {
            known.steps = steps;
        }
    });
    run(root, "configure", "", true).unwrap_or(1)
}

/// Ticks are for the streams that wait for them: each does what its script says about `tick`, from the root context.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_tick(_root: u32) {
    let waiting: Vec<u32> = with(|state| {
        let waits = |known: &Context| known.case != ROOT && known.steps.iter().any(|step| step.at("tick"));
        state.contexts.iter().filter(|(_, known)| waits(known)).map(|(id, _)| *id).collect()
    });
    for context in waiting {
        let first = with(|state| state.contexts.get(&context).is_some_and(|known| !known.entered.contains_key("tick")));
        if first {
            run(context, "tick", "", true);
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_queue_ready(_root: u32, queue: u32) {
    let waiting: Vec<u32> = with(|state| {
        let waits = |known: &Context| known.numbers.contains(&queue) && known.steps.iter().any(|step| step.at("queue"));
        state.contexts.iter().filter(|(_, known)| waits(known)).map(|(id, _)| *id).collect()
    });
    for context in waiting {
        run(context, "queue", "", true);
    }
}

fn headers(context: u32, end: &str) -> u32 {
    if !begin(context) {
        return 1;
    }
    run(context, "request_headers", end, end == "eos=1").unwrap_or(0)
}

#[cfg(not(feature = "abi-0-1-0"))]
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(context: u32, _count: u32, end: u32) -> u32 {
    headers(context, &format!("eos={end}"))
}

#[cfg(feature = "abi-0-1-0")]
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(context: u32, _count: u32) -> u32 {
    headers(context, "")
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_body(context: u32, size: u32, end: u32) -> u32 {
    run(context, "request_body", &format!("n={size} eos={end}"), end != 0).unwrap_or(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_trailers(context: u32, count: u32) -> u32 {
    run(context, "request_trailers", &format!("n={count}"), true).unwrap_or(0)
}

#[cfg(not(feature = "abi-0-1-0"))]
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(context: u32, _count: u32, end: u32) -> u32 {
    run(context, "response_headers", &format!("eos={end}"), end != 0).unwrap_or(0)
}

#[cfg(feature = "abi-0-1-0")]
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(context: u32, _count: u32) -> u32 {
    run(context, "response_headers", "", false).unwrap_or(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_body(context: u32, size: u32, end: u32) -> u32 {
    run(context, "response_body", &format!("n={size} eos={end}"), end != 0).unwrap_or(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_trailers(context: u32, count: u32) -> u32 {
    run(context, "response_trailers", &format!("n={count}"), true).unwrap_or(0)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_http_call_response(_root: u32, token: u32, headers: u32, body: u32, trailers: u32) {
    let headers = if headers == 0 { "none" } else { "some" };
    run(caller(token), "call", &format!("headers={headers} body={body} trailers={trailers}"), true);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_receive_initial_metadata(_root: u32, token: u32, _count: u32) {
    run(caller(token), "grpc_head", "", true);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_receive(_root: u32, token: u32, size: u32) {
    run(caller(token), "grpc_message", &format!("n={size}"), true);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_receive_trailing_metadata(_root: u32, token: u32, _count: u32) {
    run(caller(token), "grpc_trailers", "", true);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_close(_root: u32, token: u32, status: u32) {
    run(caller(token), "grpc_close", &format!("status={status}"), true);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(context: u32) {
    run(context, "log", "", true);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_done(context: u32) -> u32 {
    run(context, "done", "", true).unwrap_or(1)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(context: u32) {
    run(context, "delete", "", true);
    with(|state| state.contexts.remove(&context));
}
