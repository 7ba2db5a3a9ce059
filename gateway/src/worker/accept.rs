//! The accept loop of one listener on one worker.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use crate::{
    http::{self, Port, Worker},
    overload::Refused,
    telemetry::Limit,
};

/// Connections that are accepted in a row before others have their turn: a storm must not starve those who are being
/// served, and when a turn takes long it must not wait in the socket's queue for many of them. (tokio's own budget of
/// 128 would make 300 a second of turns of 400 ms.)
const IN_A_ROW: usize = 1024;
/// Pause after an error that will not go away by itself, such as no free file descriptors: no busy loop.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the queue of a listening socket may still hold when it is closed; `listen` asks for no more.
const QUEUE: usize = 4096;

/// A listener that accepts; dropping it ends that in an orderly way.
pub(super) struct Listening {
    pub(super) port: Rc<Port>,
    /// For each of its sockets: who accepts there, and what tells it to stop by its end. A process that took over from
    /// one with more workers has several of a listener.
    accepting: Vec<(JoinHandle<()>, oneshot::Sender<()>)>,
}

impl Listening {
    pub(super) fn start(sockets: Vec<TcpListener>, port: Rc<Port>, worker: &Rc<Worker>) -> Self {
        let start = |socket| {
            let (stop, stopped) = oneshot::channel();
            let accepting = accept(socket, Rc::clone(&port), Rc::clone(worker), stopped);
            (tokio::task::spawn_local(tokio::task::coop::unconstrained(accepting)), stop)
        };
        Self { accepting: sockets.into_iter().map(start).collect(), port }
    }

    /// Each ends when everything that its socket's queue held is accepted and the socket is closed.
    pub(super) fn close(self) -> impl Iterator<Item = JoinHandle<()>> {
        self.accepting.into_iter().map(|(task, _)| task)
    }

    /// Stops accepting at once: others have the sockets, too, and serve what their queues hold.
    pub(super) fn release(self) {
        for (task, _stop) in &self.accepting {
            // What was accepted has a task of its own already.
            task.abort();
        }
    }
}

async fn accept(socket: TcpListener, port: Rc<Port>, worker: Rc<Worker>, mut stopped: oneshot::Receiver<()>) {
    let mut failing = false;
    let mut in_a_row = 0;
    loop {
        if in_a_row == IN_A_ROW {
            tokio::task::yield_now().await;
            in_a_row = 0;
        }
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            _ = &mut stopped => return accept_rest(socket, &port, &worker),
        };
        match accepted {
            Ok((stream, remote)) => {
                failing = false;
                in_a_row += 1;
                begin(stream, remote, &port, &worker);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                worker.telemetry.counters().accept_errors.inc();
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections; check the limit of open files (ulimit -n)");
                }
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Accepts what the queue of a socket holds, without waiting for the runtime to say that there is something: closing
/// the socket resets it.
fn accept_rest(socket: TcpListener, port: &Rc<Port>, worker: &Rc<Worker>) {
    let Ok(socket) = socket.into_std() else { return };
    for _ in 0..QUEUE {
        match socket.accept() {
            Ok((stream, remote)) => {
                if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                    begin(stream, remote, port, worker);
                }
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(_) => return,
        }
    }
}

/// The client was gone before it was accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn begin(stream: TcpStream, remote: SocketAddr, port: &Rc<Port>, worker: &Rc<Worker>) {
    let counters = worker.telemetry.counters();
    let place = match worker.overload.admit(&stream) {
        Ok(place) => place,
        Err(refused) => {
            counters.downstream_connections_refused.inc();
            return counters.limit_exceeded(match refused {
                Refused::Memory => Limit::MemoryConnections,
                Refused::Descriptors => Limit::OpenFiles,
                Refused::Connections => Limit::DownstreamConnections,
            });
        }
    };
    let (port, worker, accepted) = (Rc::clone(port), Rc::clone(worker), worker.connections.accept());
    tokio::task::spawn_local(async move {
        let _counted = (place, accepted);
        http::serve(stream, remote, port, worker).await;
    });
}
