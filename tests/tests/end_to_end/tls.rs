//! TLS towards clients: which server a client gets, who may come in, and what happens when certificates change.

mod clients;
mod handshakes;
mod rotation;
mod seen;
mod servers;
mod storms;

use gateway_tests::certificates::{Authority, Issued};
use gateway_tests::gateway::TestGateway;
use gateway_tests::resources::virtual_service;
use gateway_tests::tls::TlsClient;
use std::net::SocketAddr;

/// A VirtualService of a Gateway whose every answer is its own name.
fn says(name: &str, gateway: &str, hosts: &[&str]) -> String {
    virtual_service(name, hosts, &format!("  - directResponse: {{status: 200, body: {{string: {name}}}}}"))
        .replace("gateways: [gateway]", &format!("gateways: [{gateway}]"))
}

/// The status and body of one request on a connection of its own.
async fn ask(client: &TlsClient, address: SocketAddr, name: &str, host: &str) -> anyhow::Result<(u16, String)> {
    let response = client.http1(address, name).await?.get(host, "/").await?;
    Ok((response.status, response.text()))
}

/// What a client gets to hear that is not let in: the error of the handshake, or of the first request.
async fn refusal(client: &TlsClient, gateway: &TestGateway, name: &str) -> String {
    match ask(client, gateway.address(443).unwrap(), name, name).await {
        Ok(answer) => panic!("{name} answered {answer:?}"),
        Err(error) => format!("{error:#}"),
    }
}

fn setup() -> (Authority, Issued) {
    let authority = Authority::new("tests").unwrap();
    let server = authority.server(&["a.example.dev", "b.example.dev", "*.example.dev"]).unwrap();
    (authority, server)
}
