//! What operators make the gateway do: ask clients to leave or to come again, end.
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
use crate::plugins::ApiError;

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
