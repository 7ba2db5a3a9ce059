//! Client and service of the differential test in HTTP/2.

use super::service::{Arrived, State, lock};
use super::{Case, transcript::wait_for_callbacks};
use crate::client::RawResponse;
use anyhow::Context as _;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;

/// Sends the request of a case. Gives the answer, and what ended it early; or why there is none.
pub(super) async fn ask(case: &Case, front: SocketAddr) -> Result<(RawResponse, Option<String>), String> {
    let stream = TcpStream::connect(front).await.map_err(|error| error.kind().to_string())?;
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|error| reason(&error))?;
    // Its errors are those of its streams, too.
    let connection = tokio::spawn(connection);
    let request = request(case).map_err(|error| error.to_string())?;
    let ends = case.pieces.is_empty() && !case.chunked && case.trailers.is_empty();
    let (response, mut body) = sender.send_request(request, ends).map_err(|error| reason(&error))?;
    if !ends {
        for (number, piece) in case.pieces.iter().enumerate() {
            let last = !case.chunked && number + 1 == case.pieces.len();
            // A gateway may answer before it has all of the body.
            if body.send_data(Bytes::from(piece.clone()), last).is_err() {
                break;
            }
            wait_for_callbacks(case, front, "request_body", number + 1).await;
        }
        if case.chunked {
            end(&mut body, &case.trailers);
        }
    }
    let (head, mut body) = response.await.map_err(|error| reason(&error))?.into_parts();
    let mut response = RawResponse {
        status: head.status.as_u16(),
        version: "HTTP/2".to_owned(),
        headers: fields(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
    };
    let broken = match whole(&mut body).await {
        Ok((bytes, trailers)) => {
            (response.body, response.trailers) = (bytes, trailers);
            None
        }
        Err(error) => Some(reason(&error)),
    };
    connection.abort();
    Ok((response, broken))
}

fn request(case: &Case) -> anyhow::Result<Request<()>> {
    let uri = format!("http://test.example.dev{}", case.path);
    let mut request = Request::builder().method(case.method).uri(uri).body(())?;
    for (name, value) in case.fields() {
        request.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    if !case.pieces.is_empty() && !case.chunked {
        let length: usize = case.pieces.iter().map(String::len).sum();
        request.headers_mut().append("content-length", HeaderValue::from(length));
    }
    if !case.answer.trailers.is_empty() {
        request.headers_mut().append("te", HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// Serves a connection until it ends.
pub(super) async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let state = Arc::clone(&state);
        // Streams that break are what some cases are about.
        tokio::spawn(async move { drop(answer(request, respond, &state).await) });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: &Mutex<State>,
) -> anyhow::Result<()> {
    let (head, mut body) = request.into_parts();
    let line = format!("{} {}", head.method, head.uri.path_and_query().map_or("", |path| path.as_str()));
    let mut headers = fields(&head.headers);
    let pseudo = [(":authority", head.uri.authority().map(|own| own.as_str())), (":scheme", head.uri.scheme_str())];
    headers.extend(pseudo.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))));
    let (body, trailers) = whole(&mut body).await?;
    let (case, front) = {
        let mut state = lock(state);
        state.arrived.push(Arrived { line, headers, body, trailers });
        state.current.clone().context("a request while no case runs")?
    };
    let is_call = head.uri.path().starts_with("/callee.");
    let said = if is_call { &case.called } else { &case.answer };
    let mut response = Response::builder().status(said.status).body(())?;
    for (name, value) in &said.headers {
        response.headers_mut().append(HeaderName::try_from(*name)?, HeaderValue::try_from(*value)?);
    }
    let ends = said.pieces.is_empty() && said.trailers.is_empty();
    let mut stream = respond.send_response(response, ends)?;
    if ends {
        return Ok(());
    }
    for (number, piece) in said.pieces.iter().enumerate() {
        stream.send_data(Bytes::from(piece.clone()), false)?;
        if !is_call {
            wait_for_callbacks(&case, front, "response_body", number + 1).await;
        }
    }
    end(&mut stream, &said.trailers);
    Ok(())
}

/// Ends a message; that it has been cut off is seen elsewhere.
fn end(stream: &mut SendStream<Bytes>, trailers: &[(&str, &str)]) {
    if trailers.is_empty() {
        let _ = stream.send_data(Bytes::new(), true);
        return;
    }
    let mut map = HeaderMap::new();
    for (name, value) in trailers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::try_from(*value)) {
            map.append(name, value);
        }
    }
    let _ = stream.send_trailers(map);
}

/// Body and trailers.
async fn whole(body: &mut RecvStream) -> Result<(Vec<u8>, Vec<(String, String)>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend(piece);
    }
    Ok((bytes, body.trailers().await?.as_ref().map(fields).unwrap_or_default()))
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// The code with which a stream or connection was ended.
fn reason(error: &h2::Error) -> String {
    error.reason().map_or_else(|| "the connection ends".to_owned(), |reason| format!("{reason:?}"))
}
