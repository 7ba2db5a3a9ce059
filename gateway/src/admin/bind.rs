//! The sockets of the admin API.

use std::{fmt, io, net::SocketAddr, net::TcpListener};

use tokio::{sync::watch, task::JoinSet};

use super::{AdminState, Routers, server};

/// Where to listen. Port 0 lets the kernel choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Everything; default 127.0.0.1:15000.
    pub admin: SocketAddr,
    /// What Istio's agent answers; default 0.0.0.0:15020.
    pub agent: SocketAddr,
    /// Readiness; default 0.0.0.0:15021.
    pub status: SocketAddr,
    /// Metrics; default 0.0.0.0:15090.
    pub metrics: SocketAddr,
}

impl Default for Addresses {
    fn default() -> Self {
        let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self { admin: ([127, 0, 0, 1], 15000).into(), agent: any(15020), status: any(15021), metrics: any(15090) }
    }
}

impl Addresses {
    fn with_flags(&self) -> [(&'static str, SocketAddr); 4] {
        [
            ("--admin-address", self.admin),
            ("--agent-address", self.agent),
            ("--status-address", self.status),
            ("--metrics-address", self.metrics),
        ]
    }
}

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({source}); {advice}, or choose another address with {flag}")]
pub struct BindError {
    address: SocketAddr,
    flag: &'static str,
    advice: &'static str,
    source: io::Error,
}

/// Every address that cannot be bound.
#[derive(Debug)]
pub struct BindErrors(pub Vec<BindError>);

impl fmt::Display for BindErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for BindErrors {}

/// The four sockets, listening but not answering yet.
pub struct Bound {
    admin: TcpListener,
    agent: TcpListener,
    status: TcpListener,
    metrics: TcpListener,
    wanted: Addresses,
    addresses: Addresses,
    closing: watch::Sender<bool>,
}

/// A listening socket that another process may take over.
#[derive(Debug)]
pub struct Passed {
    /// What it was asked for with; together they say what it is for.
    pub flag: String,
    /// The address that was asked for.
    pub wanted: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// Binds all four addresses, or says of every one that cannot be bound which flag changes it. Sockets that a running
/// gateway has passed on are used where it was asked for the same.
///
/// A plain bind: a port that somebody else listens on is an error here, never shared.
pub fn bind(addresses: &Addresses, passed: Vec<Passed>) -> Result<Bound, BindErrors> {
    let mut errors = Vec::new();
    let mut passed = passed;
    let mut open = |address: SocketAddr, flag| {
        let same = passed.iter().position(|passed| passed.flag == flag && passed.wanted == address);
        let socket = same.map(|place| passed.swap_remove(place).socket);
        let opened = socket.map_or_else(|| TcpListener::bind(address), Ok).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        });
        opened.map_err(|source| errors.push(BindError { address, flag, advice: advice(source.kind()), source })).ok()
    };
    let [admin, agent, status, metrics] = addresses.with_flags().map(|(flag, address)| open(address, flag));
    match (admin, agent, status, metrics) {
        (Some(admin), Some(agent), Some(status), Some(metrics)) => Ok(Bound {
            addresses: Addresses { admin: admin.1, agent: agent.1, status: status.1, metrics: metrics.1 },
            admin: admin.0,
            agent: agent.0,
            status: status.0,
            metrics: metrics.0,
            wanted: *addresses,
            closing: watch::Sender::new(false),
        }),
        _ => Err(BindErrors(errors)),
    }
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "stop the process that has it (`ss -ltnp` shows which)",
        io::ErrorKind::PermissionDenied => "ports below 1024 need rights",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        _ => "check the address",
    }
}

impl Bound {
    /// The addresses with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What a process that takes over needs of these sockets.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn handle(&self) -> io::Result<Handle> {
        let sockets = [&self.admin, &self.agent, &self.status, &self.metrics];
        let passed =
            self.wanted.with_flags().into_iter().zip(sockets).map(|((flag, wanted), socket)| {
                Ok(Passed { flag: flag.to_owned(), wanted, socket: socket.try_clone()? })
            });
        Ok(Handle { passed: passed.collect::<io::Result<_>>()?, closing: self.closing.clone() })
    }

    /// Answers from now on, on the current tokio runtime, until what is returned is dropped.
    ///
    /// # Errors
    /// The runtime cannot watch a socket.
    pub fn serve(self, state: AdminState) -> io::Result<Serving> {
        let telemetry = state.telemetry.clone();
        let routers = Routers::new(state);
        let mut tasks = JoinSet::new();
        for (listener, router) in [
            (self.admin, routers.admin),
            (self.agent, routers.agent),
            (self.status, routers.status),
            (self.metrics, routers.metrics),
        ] {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(server::accept(listener, router, telemetry.clone(), self.closing.subscribe()));
        }
        Ok(Serving { addresses: self.addresses, _closing: self.closing, _tasks: tasks })
    }
}

/// A second hold on the admin API's sockets.
pub struct Handle {
    passed: Vec<Passed>,
    closing: watch::Sender<bool>,
}

impl Handle {
    /// The sockets, for another process.
    pub fn sockets(&self) -> &[Passed] {
        &self.passed
    }

    /// Another process answers on them now: do not accept any more, and end each connection with its next answer.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// The running admin API. Dropping it closes sockets and connections.
pub struct Serving {
    addresses: Addresses,
    /// Its end would look like the sign to close.
    _closing: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Serving {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }
}
