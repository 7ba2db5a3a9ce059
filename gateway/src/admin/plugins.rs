//! `/plugins`: listing, uploading and removing plugins, going back to earlier versions.
//!
//! A change is handed to the control task and answered when it is live on all workers or has failed.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    response::Response,
};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Admin, AdminState, reply, reply::Failure, upload};
use crate::{
    plugins::{ApiError, Change, Command, Contents, Outcome, PluginView},
    snapshot::{Code, Snapshot},
    telemetry::Limit,
};

/// How long an upload waits for its turn to be read. As many are read at a time as [`UPLOADS`] allows,
/// since each may hold a module in memory.
const TURN: Duration = Duration::from_secs(30);
pub(super) const UPLOADS: usize = 4;
/// How long a change may take once it was handed over: reading and compiling modules, starting
/// instances, publishing.
const CHANGE: Duration = Duration::from_secs(150);

/// What the list shows of a plugin.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(flatten)]
    view: Cow<'a, PluginView>,
    /// Workers that run it; none if it failed or no listener has it.
    workers: usize,
    stats: Stats,
}

/// What `GET /plugins/{name}` shows: what the list does, and what the module declares, which may be long.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    shown: Shown<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a Contents>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    streams: u64,
    traps: u64,
    deadlines: u64,
    memory_bytes: u64,
    p50_micros: f64,
    p99_micros: f64,
}

#[derive(Serialize)]
struct List<'a> {
    plugins: Vec<Shown<'a>>,
}

/// `GET /plugins`
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Response {
    let views = admin.state.plugins.load_full();
    let plugins = views.iter().map(|view| shown(&admin.state, view)).collect();
    reply::json(StatusCode::OK, &List { plugins })
}

/// `GET /plugins/{name}`
pub(super) async fn get(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Result<Response, Failure> {
    one(&admin.state, &name, StatusCode::OK)
}

/// `PUT /plugins/{name}`
pub(super) async fn put(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    let busy = || ApiError::new(503, "uploads-busy", "too many uploads at the same time; try again");
    let turn = tokio::time::timeout(TURN, admin.turns.acquire()).await.map_err(|_| busy())?;
    let _turn = turn.map_err(|_| busy())?;
    let outcome = accept(&admin.state, &name, request).await.inspect_err(|error| {
        if let Some(limit) = limit(error) {
            admin.state.telemetry.limit_exceeded(limit);
        }
    })?;
    let status = if outcome == Outcome::Created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = one(&admin.state, &name, status)?;
    if let (Outcome::Created, Ok(location)) = (outcome, format!("/plugins/{name}").parse()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `DELETE /plugins/{name}`
pub(super) async fn delete(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Result<Response, Failure> {
    change(&admin.state.commands, Change::Delete { name }).await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Query of `POST /plugins/{name}/rollback`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rollback {
    to: Option<String>,
}

/// `POST /plugins/{name}/rollback?to=…`
pub(super) async fn rollback(
    State(admin): State<Arc<Admin>>,
    Path(name): Path<String>,
    query: Result<Query<Rollback>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(Rollback { to }) = query.map_err(|_| {
        let message = "the query has nothing but to, the number of a version or its digest";
        ApiError::new(400, "query-invalid", message).at("to")
    })?;
    change(&admin.state.commands, Change::Rollback { name: name.clone(), to }).await?;
    one(&admin.state, &name, StatusCode::OK)
}

/// `POST /plugins/{name}/enable`
pub(super) async fn enable(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Result<Response, Failure> {
    change(&admin.state.commands, Change::Enable { name: name.clone(), enabled: true }).await?;
    one(&admin.state, &name, StatusCode::OK)
}

/// `POST /plugins/{name}/disable`
pub(super) async fn disable(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Result<Response, Failure> {
    change(&admin.state.commands, Change::Enable { name: name.clone(), enabled: false }).await?;
    one(&admin.state, &name, StatusCode::OK)
}

async fn accept(state: &AdminState, name: &str, request: Request) -> Result<Outcome, ApiError> {
    let upload = upload::read(name.to_owned(), request, &state.limits).await?;
    change(&state.commands, Change::Put(upload)).await
}

/// The limit that an upload ran into.
fn limit(error: &ApiError) -> Option<Limit> {
    match error.code {
        "uploads-limit" | "store-full" => Some(Limit::PluginUploads),
        "module-compile-time" | "module-compile-busy" => Some(Limit::ModuleCompileTime),
        "module-limits" => Some(Limit::ModuleDeclarations),
        _ => (error.status == 413).then_some(Limit::AdminBodyBytes),
    }
}

async fn change(commands: &mpsc::Sender<Command>, change: Change) -> Result<Outcome, ApiError> {
    let (reply, answer) = oneshot::channel();
    commands.try_send(Command { change, reply }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            ApiError::new(503, "control-busy", "too many changes are waiting; try again")
        }
        mpsc::error::TrySendError::Closed(_) => ApiError::new(503, "stopping", "the gateway is stopping"),
    })?;
    match tokio::time::timeout(CHANGE, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ApiError::new(503, "stopping", "the gateway is stopping; the change may be lost")),
        Err(_) => Err(ApiError::new(
            503,
            "control-busy",
            format!("no answer within {} s; the change may still take effect, GET /plugins shows it", CHANGE.as_secs()),
        )),
    }
}

fn one(state: &AdminState, name: &str, status: StatusCode) -> Result<Response, Failure> {
    let views = state.plugins.load();
    let named = || views.iter().filter(|view| view.name == name);
    // Uploads and most resources are in the gateway's namespace; it wins over the root namespace.
    let view = named().find(|view| view.namespace == state.namespace).or_else(|| named().next());
    match view {
        Some(view) => {
            let detail = Detail { shown: shown(state, view), module: view.module.as_deref() };
            Ok(reply::json(status, &detail))
        }
        None => Err(Failure(ApiError::plugin_unknown(name))),
    }
}

fn shown<'a>(state: &AdminState, view: &'a PluginView) -> Shown<'a> {
    let summary = state.telemetry.plugin_summary(&view.namespace, &view.name);
    Shown {
        view: view.now(&state.held_back),
        workers: if runs(&state.snapshot.load(), view) { state.workers } else { 0 },
        stats: Stats {
            streams: summary.streams,
            traps: summary.traps,
            deadlines: summary.deadlines,
            memory_bytes: summary.memory_bytes,
            p50_micros: summary.p50_micros,
            p99_micros: summary.p99_micros,
        },
    }
}

fn runs(snapshot: &Snapshot, view: &PluginView) -> bool {
    let mut plugins = snapshot.listeners.iter().flat_map(|listener| &listener.plugins);
    plugins.any(|plugin| {
        plugin.name == view.name && plugin.namespace == view.namespace && matches!(plugin.code, Code::Loaded(_))
    })
}
