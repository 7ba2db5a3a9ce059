//! The service behind both gateways: keeps every whole request as it came, and answers as the case says.

use super::Case;
use super::exchange::Fields;
use super::http2;
use super::transcript::wait_for_callbacks;
use crate::client::RawClient;
use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// A request that came to its end.
pub(super) struct Arrived {
    /// Method and target.
    pub(super) line: String,
    pub(super) headers: Fields,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Fields,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) arrived: Vec<Arrived>,
    /// What is answered, and where the gateway's plugin can be asked how far it is.
    pub(super) current: Option<(Case, SocketAddr)>,
}

/// It speaks HTTP/1.1 and HTTP/2, as the client does. It stops when it is dropped.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: AbortHandle,
}

impl Service {
    pub(super) async fn start() -> anyhow::Result<Service> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // Pieces are to be seen when they are sent.
                    let _ = stream.set_nodelay(true);
                    let state = Arc::clone(&state);
                    // Connections that break are what some cases are about.
                    tokio::spawn(async move {
                        let mut begins = [0; 3];
                        drop(match stream.peek(&mut begins).await {
                            Ok(_) if begins == *b"PRI" => http2::serve(stream, state).await,
                            _ => serve(&mut RawClient::over(stream), &state).await,
                        });
                    });
                }
            }
        });
        Ok(Service { address, state, accepting: task.abort_handle() })
    }

    /// Answers like this from now on.
    pub(super) fn behave(&self, case: &Case, front: SocketAddr) {
        *lock(&self.state) = State { arrived: Vec::new(), current: Some((case.clone(), front)) };
    }

    /// What has arrived.
    pub(super) fn arrived(&self) -> Vec<Arrived> {
        std::mem::take(&mut lock(&self.state).arrived)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request after the other, until the connection ends.
async fn serve(connection: &mut RawClient, state: &Mutex<State>) -> anyhow::Result<()> {
    loop {
        let (line, headers) = connection.request_head().await?;
        let line = line.strip_suffix(" HTTP/1.1").unwrap_or(&line).to_owned();
        let of = |name: &str| headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        if of("transfer-encoding").is_some() {
            loop {
                let chunk = connection.chunk().await?;
                if chunk.is_empty() {
                    trailers = connection.fields().await?;
                    break;
                }
                body.extend(chunk);
            }
        } else if let Some(length) = of("content-length") {
            body = connection.read(length.parse()?).await?;
        }
        let (case, front) = {
            let mut state = lock(state);
            state.arrived.push(Arrived { line, headers, body, trailers });
            state.current.clone().context("a request while no case runs")?
        };
        connection.send(case.answer.head()).await?;
        for (number, piece) in case.answer.pieces.iter().enumerate() {
            connection.send(case.answer.piece(piece)).await?;
            wait_for_callbacks(&case, front, "response_body", number + 1).await;
        }
        connection.send(case.answer.end()).await?;
    }
}
