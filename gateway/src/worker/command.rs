//! What the control side tells a worker.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use proxy_wasm_host::Instance;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    http::Prepared,
    snapshot::{Cluster, ClusterId, Listener, Plugin, PluginId, Snapshot},
};

/// What makes two listeners of successive snapshots, or of successive processes, the same socket: the address. A port
/// that the kernel chooses is another one for each declared port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ListenerKey {
    pub(crate) bind: SocketAddr,
    declared: Option<u16>,
}

impl ListenerKey {
    pub(crate) fn new(bind: SocketAddr, declared: u16) -> Self {
        Self { bind, declared: (bind.port() == 0).then_some(declared) }
    }

    pub(crate) fn of(listener: &Listener) -> Self {
        Self::new(listener.bind, listener.declared_port)
    }
}

/// A worker's own listening socket of a new listener. It may get several for one.
pub(crate) struct Socket {
    pub(crate) key: ListenerKey,
    pub(crate) listener: std::net::TcpListener,
}

/// A command. They are carried out in order.
pub(crate) enum Command {
    /// Take over instances of plugin versions that a coming configuration uses. Changes nothing for requests.
    Prepare { plugins: Vec<Arc<Plugin>>, prepared: Vec<Prepared>, acknowledge: oneshot::Sender<()> },
    /// Serve this from now on.
    Commit { snapshot: Arc<Snapshot>, sockets: Vec<Socket>, acknowledge: oneshot::Sender<()> },
    /// These clusters of the current configuration have other endpoints; nothing else has changed.
    Endpoints { clusters: Vec<(ClusterId, Arc<Cluster>)>, acknowledge: oneshot::Sender<()> },
    /// The coming configuration does not come: forget what was prepared for it.
    Forget,
    /// An instance to replace a crashed one; `None`: it could not be started now.
    Spare { id: PluginId, instance: Option<Box<Instance>> },
    /// Another process accepts on the sockets of these listeners now: do not accept any more, and leave what is in their
    /// queues. Connections stay.
    Release { listeners: Arc<[ListenerKey]>, acknowledge: oneshot::Sender<()> },
    /// Ask clients to leave while everything is served, or (`false`) not any more.
    Leave(bool),
    /// Stop accepting, finish what is in flight, then end.
    End { within: Duration, acknowledge: oneshot::Sender<()> },
}
