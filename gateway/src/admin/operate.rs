//! What operators make the gateway do: ask clients to leave or to come again, log more or less, end.
//!
//! Paths and methods are Envoy's, so that scripts and preStop hooks for it keep working.

use std::sync::Arc;

use axum::{
    extract::{Extension, Query, State},
    response::Response,
};
use http::StatusCode;
use serde::Deserialize;

use super::{
    Admin,
    guard::Ends,
    reply::{self, Failure},
};
use crate::{plugins::ApiError, telemetry::LogFilter};

fn ask(admin: &Admin, leave: bool) -> Result<Response, Failure> {
    if (admin.state.drain)(leave) {
        tracing::info!(leave, "asked by an operator: clients are to leave, or to come again");
        return Ok(reply::text(StatusCode::OK, "OK"));
    }
    Err(Failure(ApiError::new(409, "not-serving", "the gateway is starting or ending; /ready says which")))
}

/// `POST /healthcheck/fail`
pub(super) async fn fail(State(admin): State<Arc<Admin>>) -> Result<Response, Failure> {
    ask(&admin, true)
}

/// `POST /healthcheck/ok`
pub(super) async fn recover(State(admin): State<Arc<Admin>>) -> Result<Response, Failure> {
    ask(&admin, false)
}

/// Query of `/drain_listeners`. Envoy's `inboundonly` and `skip_exit` change nothing here: there are no other listeners
/// and the process does not end by this.
#[derive(Deserialize)]
pub(super) struct Drain {
    graceful: Option<String>,
}

/// `POST /drain_listeners?graceful`
pub(super) async fn drain(
    State(admin): State<Arc<Admin>>,
    Query(Drain { graceful }): Query<Drain>,
) -> Result<Response, Failure> {
    if graceful.is_none() {
        let message = "add ?graceful: listeners are not closed at once, that would lose requests; POST /quitquitquit ends the gateway";
        return Err(Failure(ApiError::new(400, "query-invalid", message).at("graceful")));
    }
    ask(&admin, true)
}

/// Query of `POST /logging`.
#[derive(Deserialize)]
pub(super) struct Logging {
    level: Option<String>,
    paths: Option<String>,
}

/// `GET /logging`
pub(super) async fn logging(State(admin): State<Arc<Admin>>) -> Result<Response, Failure> {
    Ok(reply::text(StatusCode::OK, &log_filter(&admin)?.text()))
}

/// `POST /logging?level=debug`, `POST /logging?paths=http:debug`
pub(super) async fn set_logging(
    State(admin): State<Arc<Admin>>,
    Query(Logging { level, paths }): Query<Logging>,
) -> Result<Response, Failure> {
    let filter = log_filter(&admin)?;
    let refused = |at: &str, message: String| Failure(ApiError::new(400, "query-invalid", message).at(at));
    if level.is_none() && paths.is_none() {
        return Err(refused("level", "say ?level=LEVEL or ?paths=PART:LEVEL,PART:LEVEL".to_owned()));
    }
    if let Some(level) = level {
        filter.set_level(&level).map_err(|error| refused("level", error.to_string()))?;
    }
    if let Some(paths) = paths {
        filter.set_parts(&paths).map_err(|error| refused("paths", error.to_string()))?;
    }
    let text = filter.text();
    tracing::info!(filter = %text, "asked by an operator: the log is filtered so from now on");
    Ok(reply::text(StatusCode::OK, &text))
}

fn log_filter(admin: &Admin) -> Result<&LogFilter, Failure> {
    let message = "the log of this process is not the gateway's";
    admin.state.log_filter.as_ref().ok_or_else(|| Failure(ApiError::new(404, "log-unknown", message)))
}

/// `POST /reopen_logs`
pub(super) async fn reopen_logs(State(admin): State<Arc<Admin>>) -> Response {
    admin.state.telemetry.reopen_access_log();
    reply::text(StatusCode::OK, "OK")
}

/// `POST /quitquitquit`, only from this machine: the agent's address is open to all.
pub(super) async fn quit(
    State(admin): State<Arc<Admin>>,
    Extension(ends): Extension<Ends>,
) -> Result<Response, Failure> {
    if !ends.peer.ip().to_canonical().is_loopback() {
        let message = "only callers on this machine may end the gateway";
        return Err(Failure(ApiError::new(403, "foreign-caller", message)));
    }
    tracing::info!(peer = %ends.peer, "asked to end by /quitquitquit");
    (admin.state.shutdown)();
    Ok(reply::text(StatusCode::OK, "OK"))
}
