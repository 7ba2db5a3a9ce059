//! What operators, probes and scrapers talk to. Not the request path.
//!
//! | address                 | what it answers |
//! |-------------------------|-----------------|
//! | admin, 127.0.0.1:15000  | everything below; only to callers that address it by a name of this machine; changes with a token, if there is one ([`Changes`]) |
//! | agent, 0.0.0.0:15020    | `/stats/prometheus`, `/metrics`, `/healthz/ready`, `/quitquitquit` (only from this machine) |
//! | status, 0.0.0.0:15021   | `/healthz/ready` |
//! | metrics, 0.0.0.0:15090  | `/stats/prometheus` |
//!
//! Ports and paths are those of Istio's proxies (istio.md 5.4), the plugin API is ours. This module shows
//! what others publish and hands changes to the control task; it decides nothing about configuration.

mod bind;
mod dump;
mod guard;
mod operate;
mod plugins;
mod reply;
mod server;
mod stats;
#[cfg(test)]
pub(crate) mod tests;
mod token;
mod upload;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::State,
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};

pub use bind::{Addresses, BindError, BindErrors, Bound, Handle, Passed, Serving, bind};
pub use token::{Changes, TokenError, read_token};

use crate::{
    config::problem::Problem,
    overload::Overload,
    plugins::{ApiError, Command, HeldBack, Limits, Views},
    snapshot::Snapshot,
    telemetry::{LogFilter, Telemetry},
};
use reply::Failure;

/// Everything that the admin API shows and does.
pub struct AdminState {
    /// Whether traffic should come here.
    pub readiness: watch::Receiver<Readiness>,
    /// What serves.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What is wrong with the configuration.
    pub problems: Arc<ArcSwap<Vec<Problem>>>,
    /// All plugins ([`crate::plugins::Registry::views`]).
    pub plugins: Views,
    /// Which of them do not start.
    pub held_back: HeldBack,
    /// The control task. A short queue is enough: callers wait for their answers.
    pub commands: mpsc::Sender<Command>,
    /// Metrics.
    pub telemetry: Telemetry,
    /// What `/quitquitquit` does: start an orderly shutdown. May be called more than once.
    pub shutdown: Box<dyn Fn() + Send + Sync>,
    /// What `/healthcheck/fail`, `/healthcheck/ok` and `/drain_listeners` do: ask clients to leave (`true`), or to
    /// come again. Says whether that is possible now.
    pub drain: Box<dyn Fn(bool) -> bool + Send + Sync>,
    /// What of the process's log is written; `None` if the log is somebody else's.
    pub log_filter: Option<LogFilter>,
    /// The gateway's namespace.
    pub namespace: String,
    /// How many workers there are.
    pub workers: usize,
    /// What the process can still take.
    pub overload: Arc<Overload>,
    /// How large uploads may be.
    pub limits: Limits,
    /// Who may change something.
    pub changes: Changes,
    /// Since when the process runs.
    pub started: Instant,
}

impl AdminState {
    /// Why traffic should not come here; `None`: it should. That load is shed is no reason: the other gateways would
    /// have to take it.
    fn missing(&self) -> Option<String> {
        match &*self.readiness.borrow() {
            Readiness::Starting(missing) => Some(missing.clone()),
            Readiness::Draining => Some("draining".to_owned()),
            Readiness::Ending => Some("shutting down".to_owned()),
            Readiness::Ready => {
                let stuck = self.overload.stuck_workers();
                (!stuck.is_empty()).then(|| format!("workers {stuck:?} do not move"))
            }
        }
    }
}

/// The state and what only this module needs to know.
struct Admin {
    state: AdminState,
    /// Uploads that may be read at the same time.
    turns: Semaphore,
}

/// Whether traffic should come to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The first configuration is not on all workers yet; what is missing.
    Starting(String),
    /// Yes.
    Ready,
    /// No: an operator wants clients to leave.
    Draining,
    /// No: it is about to end.
    Ending,
}

impl Readiness {
    /// Envoy's word for it.
    fn state(&self) -> &'static str {
        match self {
            Self::Starting(_) => "INITIALIZING",
            Self::Ready => "LIVE",
            Self::Draining | Self::Ending => "DRAINING",
        }
    }
}

const PATHS: [(&str, &str); 21] = [
    ("GET /", "this list"),
    ("GET /plugins", "all plugins in chain order"),
    ("GET, PUT, DELETE /plugins/{name}", "show, upload or change, remove a plugin"),
    ("POST /plugins/{name}/rollback", "back to the version before; ?to=NUMBER or DIGEST for another one"),
    ("POST /plugins/{name}/enable, /disable", "into the chain, or out of it without being forgotten"),
    ("GET /config_dump", "listeners, virtual hosts, routes and clusters that serve now"),
    ("GET /listeners", "listeners that serve now"),
    ("GET /clusters", "clusters and their endpoints"),
    ("GET /problems", "what is wrong with the configuration"),
    ("GET /certs", "certificates that clients are shown, and when they expire"),
    ("GET /stats", "metrics as lines; ?filter=REGEX, ?usedonly, ?format=json or prometheus"),
    ("GET /stats/prometheus", "metrics"),
    ("GET /logging", "what is logged"),
    ("POST /logging?level=LEVEL", "log so much; ?paths=http:debug,upstream:trace for parts"),
    ("GET /healthz/ready", "200 if traffic should come here, else 503 with the reason"),
    ("GET /ready", "the same, with Envoy's words"),
    ("GET /server_info", "version and state"),
    ("POST /healthcheck/fail, /healthcheck/ok", "not ready, and clients are asked to leave; ready again"),
    ("POST /drain_listeners?graceful", "the same as /healthcheck/fail"),
    ("POST /reopen_logs", "open the access log's file anew, after it was renamed; SIGUSR1 does the same"),
    ("POST /quitquitquit", "finish what is in flight and end; only from this machine"),
];

/// The routers of the four addresses.
struct Routers {
    admin: Router,
    agent: Router,
    status: Router,
    metrics: Router,
}

impl Routers {
    fn new(state: AdminState) -> Self {
        let admin = Arc::new(Admin { state, turns: Semaphore::new(plugins::UPLOADS) });
        let own = || middleware::from_fn(guard::own_callers_only);
        let token = middleware::from_fn_with_state(Arc::clone(&admin), token::changes_with_token);
        let ready = || Router::new().route("/healthz/ready", get(healthz));
        let stats = || Router::new().route("/stats/prometheus", get(prometheus));
        let quit = || Router::new().route("/quitquitquit", post(operate::quit));
        let api = ready()
            .merge(stats())
            .merge(quit())
            .route("/", get(paths))
            .route("/plugins", get(plugins::list))
            .route("/plugins/{name}", get(plugins::get).put(plugins::put).delete(plugins::delete))
            .route("/plugins/{name}/rollback", post(plugins::rollback))
            .route("/plugins/{name}/enable", post(plugins::enable))
            .route("/plugins/{name}/disable", post(plugins::disable))
            .route("/config_dump", get(config_dump))
            .route("/listeners", get(listeners))
            .route("/clusters", get(clusters))
            .route("/problems", get(problems))
            .route("/certs", get(certs))
            .route("/stats", get(stats::stats))
            .route("/logging", get(operate::logging).post(operate::set_logging))
            .route("/ready", get(envoy_ready))
            .route("/server_info", get(server_info))
            .route("/reopen_logs", post(operate::reopen_logs))
            .route("/healthcheck/fail", post(operate::fail))
            .route("/healthcheck/ok", post(operate::recover))
            .route("/drain_listeners", post(operate::drain));
        let agent = ready().merge(stats()).route("/metrics", get(prometheus)).merge(quit().layer(own()));
        let finish = |router: Router<Arc<Admin>>| {
            router.fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(Arc::clone(&admin))
        };
        Self {
            admin: finish(api).layer(token).layer(own()),
            agent: finish(agent),
            status: finish(ready()),
            metrics: finish(stats()),
        }
    }
}

async fn paths() -> Response {
    let list: Vec<_> = PATHS.iter().map(|(path, what)| format!("{path:<38} {what}")).collect();
    reply::text(StatusCode::OK, &list.join("\n"))
}

async fn unknown_path(request: axum::extract::Request) -> Failure {
    let message =
        format!("nothing is at {:?} on this address; the admin address lists all paths at /", request.uri().path());
    Failure(ApiError::new(404, "path-unknown", message))
}

async fn wrong_method(request: axum::extract::Request) -> Failure {
    let message = format!("{} is not possible here; the Allow header says what is", request.method());
    Failure(ApiError::new(405, "method-not-allowed", message))
}

async fn config_dump(State(admin): State<Arc<Admin>>) -> Response {
    let snapshot = admin.state.snapshot.load_full();
    large(move || dump::config(&snapshot)).await
}

async fn listeners(State(admin): State<Arc<Admin>>) -> Response {
    let snapshot = admin.state.snapshot.load_full();
    large(move || dump::listeners(&snapshot)).await
}

async fn clusters(State(admin): State<Arc<Admin>>) -> Response {
    let snapshot = admin.state.snapshot.load_full();
    large(move || dump::clusters(&snapshot)).await
}

async fn certs(State(admin): State<Arc<Admin>>) -> Response {
    let snapshot = admin.state.snapshot.load_full();
    large(move || dump::certificates(&snapshot, SystemTime::now())).await
}

/// Renders JSON that may have megabytes where it holds up nobody.
async fn large(render: impl FnOnce() -> Value + Send + 'static) -> Response {
    let rendered = tokio::task::spawn_blocking(move || reply::json(StatusCode::OK, &render())).await;
    rendered.unwrap_or_else(|error| Failure(ApiError::new(500, "internal", error.to_string())).into_response())
}

async fn problems(State(admin): State<Arc<Admin>>) -> Response {
    let problems = admin.state.problems.load_full();
    let list: Vec<_> = problems
        .iter()
        .map(|problem| {
            json!({
                "level": problem.level.as_str(), "code": problem.code, "resource": problem.resource, "file": problem.file,
                "line": problem.line, "field": problem.field, "message": problem.message,
            })
        })
        .collect();
    reply::json(StatusCode::OK, &json!({ "problems": list }))
}

async fn prometheus(State(admin): State<Arc<Admin>>) -> Response {
    let telemetry = admin.state.telemetry.clone();
    match tokio::task::spawn_blocking(move || telemetry.render_prometheus()).await {
        Ok(text) => reply::reply(StatusCode::OK, reply::PROMETHEUS, text),
        Err(error) => Failure(ApiError::new(500, "internal", error.to_string())).into_response(),
    }
}

async fn healthz(State(admin): State<Arc<Admin>>) -> Response {
    match admin.state.missing() {
        None => reply::text(StatusCode::OK, "ready"),
        Some(missing) => reply::text(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready: {missing}")),
    }
}

async fn envoy_ready(State(admin): State<Arc<Admin>>) -> Response {
    let status = if admin.state.missing().is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::text(status, admin.state.readiness.borrow().state())
}

async fn server_info(State(admin): State<Arc<Admin>>) -> Response {
    let state = &admin.state;
    let memory = state.overload.memory().map(|(used, limit)| json!({ "usedBytes": used, "limitBytes": limit }));
    let info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state.readiness.borrow().state(),
        "uptimeSeconds": state.started.elapsed().as_secs(),
        "namespace": state.namespace,
        "workers": state.workers,
        "stuckWorkers": state.overload.stuck_workers(),
        "overload": state.overload.stage().as_str(),
        "memory": memory,
        "configVersion": state.snapshot.load().version,
    });
    reply::json(StatusCode::OK, &info)
}
