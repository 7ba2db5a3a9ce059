//! Connections of a listener, or of a TLS server, whose protocol is not HTTP: which cluster they go to.

use std::time::Instant;

use proxy_wasm_host::Peer;

use super::{
    connection::Connection,
    forward::choose,
    plugins::{FilteredTunnel, Filters},
    secured,
};
use crate::{
    net::{End, Stream, Tunnel},
    tcp::{self, Client, Target},
    telemetry::ResponseFlags,
};

/// Serves such a connection until it ends.
pub(super) async fn serve(stream: Stream, connection: &Connection) {
    let serving = connection.port.serving();
    let worker = &connection.worker;
    let client = Client {
        id: connection.id,
        remote: connection.remote,
        local: connection.local,
        server_name: connection.secured.as_ref().and_then(|secured| secured.server_name()),
        tls: connection.secured.as_ref().map(|secured| secured.log_entry()),
    };
    let route = secured::tcp_route(connection.secured.as_ref(), &serving);
    let chosen = route.and_then(|route| choose(&route.destinations, route.total_weight));
    let target = match chosen {
        None => Target { name: "", cluster: Err(ResponseFlags::NO_ROUTE), destination: &worker.nowhere },
        Some((_, chosen)) => match chosen.cluster.and_then(|id| serving.config.cluster(id)) {
            Some((cluster, counted)) => {
                Target { name: &chosen.cluster_name, cluster: Ok(cluster), destination: counted }
            }
            None => Target {
                name: &chosen.cluster_name,
                cluster: Err(ResponseFlags::NO_CLUSTER),
                destination: &worker.nowhere,
            },
        },
    };
    let end = End { stream, read_ahead: bytes::Bytes::new() };
    if serving.network_plugins.is_empty() {
        return tcp::proxy(end, client, target, &worker.telemetry, |client, upstream, _| Tunnel::new(client, upstream))
            .await;
    }
    let filters = Filters::connect(&serving.network_plugins, connection);
    filters.note(|properties| {
        properties.cluster_name = Some(target.name.into());
        properties.cluster_metadata = chosen.and_then(|(_, chosen)| chosen.metadata.clone());
    });
    let begun = Instant::now();
    if filters.new_connection().await.is_err() {
        // Refused by a plugin, or by its failStrategy.
        return filters.disconnect(Peer::Local, false, begun.elapsed(), (0, 0));
    }
    tcp::proxy(end, client, target, &worker.telemetry, |client, upstream, address| {
        filters.note(|properties| properties.upstream = Some(address));
        FilteredTunnel::new(filters, client, upstream)
    })
    .await;
}
