//! The TCP routes of a VirtualService.

use super::{Report, http_route, virtual_service::gateway_names};
use crate::{
    config::path::Path,
    istio::{TcpMatch, TcpRoute, VirtualService},
};

/// Checks a route.
pub(super) fn check(route: &TcpRoute, path: &Path<'_>, report: &mut Report<'_, VirtualService>) {
    let matches = path.key("match");
    for (at, block) in route.matches.iter().enumerate() {
        check_match(block, &matches.index(at), report);
    }
    if route.route.is_empty() {
        report.reject(path, "TCP route is required");
    }
    http_route::check_destinations(&route.route, path, report);
}

fn check_match(block: &TcpMatch, path: &Path<'_>, report: &mut Report<'_, VirtualService>) {
    if let Some(port) = block.port {
        report.port(&path.key("port"), port);
    }
    gateway_names(&block.gateways, &path.key("gateways"), report);
    for (name, given) in [
        ("destinationSubnets", !block.destination_subnets.is_empty()),
        ("sourceSubnet", !block.source_subnet.is_empty()),
    ] {
        if given {
            report.unsupported(&path.key(name), "matching by network", "this match block never holds");
        }
    }
}
