//! The body of `PUT /plugins/{name}`: a module, a form with both parts, or settings only.
//!
//! Bodies are read as they arrive and given up as soon as they are too large or make no progress.

use std::{
    error::Error,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Request, multipart::MultipartError},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::plugins::{ApiError, Limits, Spec, UploadRequest};

/// How long the body may make no progress, and how long all of it may take.
const STALL: Duration = Duration::from_secs(10);
const WHOLE: Duration = Duration::from_secs(300);
/// What a form may have besides its two parts' contents.
const FORM_OVERHEAD: usize = 64 << 10;

/// Reads the request. Errors: 400 if it is malformed, 408 if it stalls, 413 if it is too large.
pub(super) async fn read(name: String, request: Request, limits: &Limits) -> Result<UploadRequest, ApiError> {
    tokio::time::timeout(WHOLE, read_body(name, request, limits)).await.unwrap_or_else(|_| Err(stalled()))
}

async fn read_body(name: String, request: Request, limits: &Limits) -> Result<UploadRequest, ApiError> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let kind = media_type(request.headers())?;
    if !query.is_empty() && matches!(kind, Kind::Settings | Kind::Form) {
        let message = "settings are in the body of this request; leave them out of the query";
        return Err(ApiError::new(400, "query-unexpected", message).at("query"));
    }
    match kind {
        Kind::Module => {
            let settings = settings_of_query(&query)?;
            let module = collect(request.into_body(), limits.module_bytes, "module").await?;
            if module.is_empty() {
                let message = "the body is empty; send the module, or only settings as application/json";
                return Err(ApiError::new(400, "module-missing", message).at("module"));
            }
            Ok(UploadRequest { name, module: Some(module), settings })
        }
        Kind::Settings => {
            let text = collect(request.into_body(), limits.settings_bytes, "settings").await?;
            Ok(UploadRequest { name, module: None, settings: settings_of_json(&text)? })
        }
        Kind::Form => read_form(name, request, limits).await,
    }
}

enum Kind {
    Module,
    Settings,
    Form,
}

fn media_type(headers: &HeaderMap) -> Result<Kind, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Kind::Module) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/wasm" | "application/octet-stream" => Ok(Kind::Module),
        "application/json" => Ok(Kind::Settings),
        "multipart/form-data" => Ok(Kind::Form),
        _ => {
            let message = format!(
                "content-type {text:?} is not known here; send application/wasm (the module), multipart/form-data (parts module and settings) or application/json (settings only)"
            );
            Err(ApiError::new(400, "content-type-unknown", message).at("content-type"))
        }
    }
}

async fn read_form(name: String, mut request: Request, limits: &Limits) -> Result<UploadRequest, ApiError> {
    // The parts have limits of their own; this one is for what stands around them.
    let left = limits.module_bytes + limits.settings_bytes + FORM_OVERHEAD;
    DefaultBodyLimit::disable().apply(&mut request);
    let request = request.map(|body| Body::new(Bounded { body, left: Some(left) }));
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| ApiError::new(400, "form-malformed", error.body_text()).at("content-type"))?;
    let parts = read_parts(&mut form, limits).await;
    if parts.is_err() {
        discard(async { while let Ok(Some(_)) = form.next_field().await {} }).await;
    }
    let (module, settings) = parts?;
    let settings = settings.as_deref().map(settings_of_json).transpose()?;
    if module.is_none() && settings.is_none() {
        return Err(ApiError::new(400, "form-malformed", "the form has neither a part module nor a part settings"));
    }
    Ok(UploadRequest { name, module, settings: settings.unwrap_or_default() })
}

/// The parts `module` and `settings`.
async fn read_parts(form: &mut Multipart, limits: &Limits) -> Result<(Option<Bytes>, Option<Bytes>), ApiError> {
    let (mut module, mut settings) = (None, None);
    while let Some(mut part) = progress(form.next_field()).await?.map_err(|error| malformed(&error))? {
        let (place, limit, field) = match part.name() {
            Some("module") => (&mut module, limits.module_bytes, "module"),
            Some("settings") => (&mut settings, limits.settings_bytes, "settings"),
            other => {
                let message = format!("unknown part {:?}; there are module and settings", other.unwrap_or_default());
                return Err(ApiError::new(400, "form-malformed", message));
            }
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = progress(part.chunk()).await?.map_err(|error| malformed(&error))? {
            if bytes.len() + chunk.len() > limit {
                return Err(too_large(field, limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        if place.replace(bytes.freeze()).is_some() {
            return Err(ApiError::new(400, "form-malformed", "there are two parts of this name").at(field));
        }
    }
    Ok((module, settings))
}

async fn collect(mut body: Body, limit: usize, field: &'static str) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > limit as u64 {
        discard(async { while let Some(Ok(_)) = body.frame().await {} }).await;
        return Err(too_large(field, limit));
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = progress(body.frame()).await? {
        let frame = frame.map_err(|error| ApiError::new(400, "body-incomplete", error.to_string()))?;
        let Ok(chunk) = frame.into_data() else { continue };
        if bytes.len() + chunk.len() > limit {
            drop(bytes);
            discard(async { while let Some(Ok(_)) = body.frame().await {} }).await;
            return Err(too_large(field, limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// Reads on for a moment without keeping anything: a client that is still sending when the connection
/// closes loses the answer.
pub(super) async fn discard(rest: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
}

async fn progress<T>(step: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(STALL, step).await.map_err(|_| stalled())
}

fn stalled() -> ApiError {
    ApiError::new(408, "body-stalled", "the body of the request did not arrive in time")
}

fn too_large(field: &'static str, limit: usize) -> ApiError {
    let code = if field == "module" { "module-too-large" } else { "settings-too-large" };
    ApiError::new(413, code, format!("{field} may have {limit} bytes")).at(field)
}

fn malformed(error: &MultipartError) -> ApiError {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if cause.is::<TooLong>() {
            return ApiError::new(413, "form-too-large", "the form has more than its two parts may have");
        }
        source = cause.source();
    }
    ApiError::new(400, "form-malformed", error.body_text())
}

/// A body that ends with an error behind its limit, but not before all of it has arrived: see [`discard`].
struct Bounded {
    body: Body,
    /// `None` once there was more.
    left: Option<usize>,
}

#[derive(Debug, thiserror::Error)]
#[error("the body is too long")]
struct TooLong;

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                None if self.left.is_none() => return Poll::Ready(Some(Err(TooLong.into()))),
                end => return Poll::Ready(end.map(|frame| frame.map_err(Into::into))),
            };
            self.left = self.left.and_then(|left| left.checked_sub(frame.data_ref().map_or(0, Bytes::len)));
            if self.left.is_some() {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}

fn settings_of_json(text: &[u8]) -> Result<Spec, ApiError> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(settings)) => Ok(settings),
        Ok(_) => Err(ApiError::new(400, "settings-malformed", "settings must be a JSON object").at("settings")),
        Err(error) => {
            Err(ApiError::new(400, "settings-malformed", format!("settings are not JSON: {error}")).at("settings"))
        }
    }
}

/// `phase`, `priority`, `failStrategy` and `pluginName`; what else can be set is not flat.
fn settings_of_query(query: &str) -> Result<Spec, ApiError> {
    let mut settings = Spec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace('+', " ");
        let Ok(value) = percent_encoding::percent_decode_str(&value).decode_utf8() else {
            return Err(ApiError::new(400, "settings-malformed", "not UTF-8").at(name));
        };
        let value = match name {
            "priority" => value.parse::<i32>().map(Value::from).map_err(|_| "must be a whole number of 32 bits"),
            "phase" | "failStrategy" | "pluginName" => Ok(Value::from(value)),
            _ => Err(
                "unknown; the query has phase, priority, failStrategy and pluginName, the rest goes into a form or JSON",
            ),
        };
        let value = value.map_err(|why| ApiError::new(400, "settings-invalid", why).at(name))?;
        if settings.insert(name.to_owned(), value).is_some() {
            return Err(ApiError::new(400, "settings-invalid", "is given twice").at(name));
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_of_a_query() {
        let settings = settings_of_query("phase=AUTHN&priority=-5&&pluginName=a%20b+c").unwrap();
        assert_eq!(Value::Object(settings), json!({"phase": "AUTHN", "priority": -5, "pluginName": "a b c"}));
        for (query, field) in [
            ("priority=", "priority"),
            ("priority=99999999999", "priority"),
            ("phase=AUTHN&phase=AUTHZ", "phase"),
            ("pluginConfig=x", "pluginConfig"),
            ("pluginName=%ff", "pluginName"),
        ] {
            assert_eq!(settings_of_query(query).unwrap_err().field.as_deref(), Some(field), "{query}");
        }
    }

    /// That many frames of two bytes, announced by no length.
    struct Unsized(usize);

    impl http_body::Body for Unsized {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let more = self.0.checked_sub(1);
            self.0 = more.unwrap_or(0);
            Poll::Ready(more.map(|_| Ok(Frame::data(Bytes::from_static(b"ab")))))
        }
    }

    #[tokio::test]
    async fn a_body_is_given_up_at_the_limit() {
        assert_eq!(collect(Body::from("12345"), 5, "module").await.unwrap(), "12345");
        // With a length and, as a stream would, without.
        let bodies = [Body::from("123456"), Body::new(Unsized(4))];
        for body in bodies {
            let error = collect(body, 5, "module").await.unwrap_err();
            assert_eq!((error.status, error.code), (413, "module-too-large"));
        }
    }
}
