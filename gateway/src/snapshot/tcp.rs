//! Where connections go that carry no HTTP.

use super::Destination;

/// The route of a TCP server: one of several clusters (VirtualService `tcp[]`, the first route that applies).
#[derive(Debug, Default)]
pub struct TcpRoute {
    /// Weights are relative; a lone destination gets everything. Header edits have no meaning here. None: connections
    /// are closed.
    pub destinations: Box<[Destination]>,
    /// Sum of the weights; 0 only with a lone destination.
    pub total_weight: u64,
}
