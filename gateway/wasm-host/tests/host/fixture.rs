//! The engine, the log and the exchanges that tests work with.

use std::sync::{Arc, Mutex, OnceLock};

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use proxy_wasm_host::{
    ContextId, Engine, EngineOptions, Exchange, HeaderList, Instance, LogLine, LogSink, Module, ModuleError, Plugin,
    PluginSettings, RequestHead, ResponseHead, Scheme, Shared, StartError,
};

use crate::script::{self, On, Script};

/// One engine for all tests, as in a process.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(&EngineOptions { max_instances: 200, ..EngineOptions::default() }).unwrap())
}

/// The scripted module.
pub(crate) fn scripted() -> Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| Module::compile(engine(), &script::module("proxy_abi_version_0_2_1")).unwrap()).clone()
}

/// The scripted module as of ABI 0.1.0.
pub(crate) fn scripted_0_1_0() -> Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| Module::compile(engine(), &script::module("proxy_abi_version_0_1_0")).unwrap()).clone()
}

/// Collects log lines.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Vec<String>>);

impl Lines {
    /// `context level message` of each line so far.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl LogSink for Lines {
    fn log(&self, line: LogLine<'_>) {
        self.0.lock().unwrap().push(format!("{} {} {}", line.context, line.level, line.message));
    }
}

/// A plugin's shared state and its log.
pub(crate) fn shared() -> (Shared, Arc<Lines>) {
    let lines = Arc::new(Lines::default());
    (Shared::new(lines.clone(), Arc::new(())), lines)
}

/// A running instance of the scripted module.
pub(crate) fn start(script: &Script) -> Instance {
    start_with(script.settings())
}

pub(crate) fn start_with(settings: PluginSettings) -> Instance {
    Plugin::new(scripted(), settings, shared().0).instantiate().unwrap()
}

/// An instance and its log.
pub(crate) fn start_logged(settings: PluginSettings) -> (Instance, Arc<Lines>) {
    let (shared, lines) = shared();
    (Plugin::new(scripted(), settings, shared).instantiate().unwrap(), lines)
}

/// Compiles WebAssembly text.
pub(crate) fn compile(text: &str) -> Result<Module, ModuleError> {
    Module::compile(engine(), &wat::parse_str(text).unwrap())
}

/// Instantiates WebAssembly text.
pub(crate) fn instantiate(text: &str, settings: PluginSettings) -> Result<Instance, StartError> {
    Plugin::new(compile(text).unwrap(), settings, shared().0).instantiate()
}

/// `GET /sample?q=1` with two `accept` and a value that is not text.
pub(crate) fn exchange() -> Box<Exchange> {
    let mut headers = HeaderList::new();
    headers.append(HOST, HeaderValue::from_static("test.example.dev"));
    for (name, value) in [("accept", &b"a"[..]), ("accept", b"b"), ("x-bytes", b"\xff\xfe"), ("content-length", b"5")] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    }
    Exchange::new(RequestHead {
        method: Method::GET,
        target: PathAndQuery::from_static("/sample?q=1"),
        scheme: Scheme::Http,
        headers,
    })
}

/// `200` with one field.
pub(crate) fn response() -> ResponseHead {
    let mut headers = HeaderList::new();
    headers.append("server", HeaderValue::from_static("test"));
    ResponseHead { status: StatusCode::OK, headers }
}

/// Opens a stream in which `prepare` has set up what the test needs.
pub(crate) fn open(instance: &mut Instance, prepare: impl FnOnce(&mut Exchange)) -> ContextId {
    let mut exchange = exchange();
    prepare(&mut exchange);
    instance.open(exchange).unwrap()
}

/// Runs one program in `on_request_headers` of a new stream; answers the exchange afterwards.
pub(crate) fn run(program: script::Program) -> Box<Exchange> {
    run_on(&mut start(&script::script(On::RequestHeaders, program)))
}

/// Runs `on_request_headers` of a new stream.
pub(crate) fn run_on(instance: &mut Instance) -> Box<Exchange> {
    let context = open(instance, |_| {});
    instance.on_request_headers(context, true).unwrap();
    instance.detach(context).unwrap()
}
