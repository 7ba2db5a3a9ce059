//! What is counted while it goes on and not when it ends: gRPC messages and TCP connections of a destination.
//!
//! Their labels do not depend on how things end (istio_stats.cc adds code and flags to requests only), so each worker
//! has one set of cells per destination, and a stream of hours is seen while it lasts.

use std::rc::Rc;

use super::{
    Destination, ResponseFlags,
    cells::{Cells, Counter},
};

/// Why a TCP connection got nowhere; the first: it did not fail. What is not in this list counts as the last.
const TCP_FLAGS: [ResponseFlags; 5] = [
    ResponseFlags::NONE,
    ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
    ResponseFlags::NO_HEALTHY_UPSTREAM,
    ResponseFlags::UPSTREAM_OVERFLOW,
    ResponseFlags::NO_CLUSTER,
];

/// The cells of one destination.
#[derive(Debug, Default)]
pub(super) struct StreamCells {
    /// gRPC messages that clients sent.
    pub(super) request_messages: Counter,
    /// gRPC messages that the service sent.
    pub(super) response_messages: Counter,
    /// By [`TCP_FLAGS`].
    tcp: [TcpCells; TCP_FLAGS.len()],
}

/// TCP connections with the same flag.
#[derive(Debug, Default)]
pub(super) struct TcpCells {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    /// Bytes that went to clients.
    pub(super) sent: Counter,
    /// Bytes that came from clients.
    pub(super) received: Counter,
}

impl StreamCells {
    /// Connections that are open.
    pub(super) fn tcp_open(&self) -> u64 {
        self.tcp.iter().map(|cells| cells.opened.get().saturating_sub(cells.closed.get())).sum()
    }

    /// The flags that there are connections with, and their cells.
    pub(super) fn tcp(&self) -> impl Iterator<Item = (ResponseFlags, &TcpCells)> {
        TCP_FLAGS.into_iter().zip(&self.tcp).filter(|(_, cells)| cells.opened.get() > 0)
    }
}

impl Cells for StreamCells {
    fn absorb(&self, other: &Self) {
        self.request_messages.absorb(&other.request_messages);
        self.response_messages.absorb(&other.response_messages);
        for (mine, theirs) in self.tcp.iter().zip(&other.tcp) {
            mine.opened.absorb(&theirs.opened);
            mine.closed.absorb(&theirs.closed);
            mine.sent.absorb(&theirs.sent);
            mine.received.absorb(&theirs.received);
        }
    }
}

/// A client's TCP connection that is passed on to a destination; dropping it counts it as closed.
#[derive(Debug)]
pub struct TcpConnection {
    destination: Rc<Destination>,
    slot: usize,
}

impl TcpConnection {
    /// The connection begins, or with `flags` it failed to reach the destination.
    #[must_use]
    pub fn open(destination: Rc<Destination>, flags: ResponseFlags) -> Self {
        let slot = TCP_FLAGS.iter().position(|known| *known == flags).unwrap_or(TCP_FLAGS.len() - 1);
        let connection = Self { destination, slot };
        connection.with(|cells| cells.opened.inc());
        connection
    }

    /// Bytes came from the client.
    pub fn received(&self, bytes: u64) {
        self.with(|cells| cells.received.add(bytes));
    }

    /// Bytes went to the client.
    pub fn sent(&self, bytes: u64) {
        self.with(|cells| cells.sent.add(bytes));
    }

    fn with(&self, count: impl FnOnce(&TcpCells)) {
        if let Some(cells) = self.destination.streams().tcp.get(self.slot) {
            count(cells);
        }
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.with(|cells| cells.closed.inc());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::destination::DestinationSeries, *};

    #[test]
    fn connections_count_while_they_last_and_after() {
        let series = Arc::new(DestinationSeries::default());
        let destination = Rc::new(Destination::new(Arc::clone(&series)));
        let open = TcpConnection::open(Rc::clone(&destination), ResponseFlags::NONE);
        open.received(10);
        open.sent(200);
        drop(TcpConnection::open(Rc::clone(&destination), ResponseFlags::UPSTREAM_CONNECTION_FAILURE));
        destination.messages(2, 3);
        let shown = || {
            let total = series.streams.total();
            let tcp = total.tcp().map(|(flags, cells)| {
                (flags.to_string(), cells.opened.get(), cells.closed.get(), cells.sent.get(), cells.received.get())
            });
            (tcp.collect::<Vec<_>>(), total.request_messages.get(), total.response_messages.get())
        };
        assert_eq!(shown(), (vec![("-".to_owned(), 1, 0, 200, 10), ("UF".to_owned(), 1, 1, 0, 0)], 2, 3));
        assert_eq!(series.streams.total().tcp_open(), 1);
        drop(open);
        drop(destination);
        assert_eq!(series.streams.total().tcp_open(), 0);
        assert_eq!(shown(), (vec![("-".to_owned(), 1, 1, 200, 10), ("UF".to_owned(), 1, 1, 0, 0)], 2, 3));
    }
}
