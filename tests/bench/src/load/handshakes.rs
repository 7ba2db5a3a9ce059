//! New connections with TLS 1.3, each with one request and its end: whole handshakes, or resumed ones.

use std::{cell::Cell, fs, path::Path, rc::Rc, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::{Client, WINDOW};
use crate::{origin::SMALL, peers::HOST};

/// One peer's client: a ticket belongs to the server that gave it.
pub(crate) struct Handshakes {
    connector: TlsConnector,
    resume: bool,
}

/// What every TLS client here offers: one cipher, one key exchange, TLS 1.3.
pub(crate) fn configuration(certificate: &Path, resume: bool) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(certificate)?)?)?;
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = if resume { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
    Ok(config)
}

impl Handshakes {
    pub(crate) fn new(certificate: &Path, resume: bool) -> anyhow::Result<Handshakes> {
        Ok(Handshakes { connector: TlsConnector::from(Arc::new(configuration(certificate, resume)?)), resume })
    }

    /// Connections that were answered.
    pub(crate) fn run(&self, client: &Client, port: u16) -> anyhow::Result<u64> {
        // Few at a time: a client keeps no more than eight tickets of a server, and each serves once.
        client.run(async {
            let end = Instant::now() + WINDOW;
            let (done, wrong) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(0_u64)));
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let (done, wrong) = (done.clone(), wrong.clone());
                let (connector, resume) = (self.connector.clone(), self.resume);
                tasks.spawn_local(async move {
                    while Instant::now() < end {
                        let kind = connection(&connector, port).await?;
                        done.set(done.get() + 1);
                        if (kind == HandshakeKind::Resumed) != resume {
                            wrong.set(wrong.get() + 1);
                        }
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            let (done, wrong) = (done.get(), wrong.get());
            // The first ones have no ticket yet.
            ensure!(wrong <= 8 + done / 50, "{wrong} of {done} handshakes were of the other kind");
            Ok(done)
        })
    }
}

async fn connection(connector: &TlsConnector, port: u16) -> anyhow::Result<HandshakeKind> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.context("cannot connect")?;
    socket.set_nodelay(true)?;
    let mut stream = connector.connect(ServerName::try_from(HOST)?, socket).await.context("TLS")?;
    let request = format!("GET /small HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(4096);
    // To the end, which some peers say without close_notify.
    while let Ok(1..) = stream.read_buf(&mut answer).await {}
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "answered {}", String::from_utf8_lossy(&answer));
    ensure!(answer.len() > SMALL, "the answer is cut off");
    match stream.get_ref().1.handshake_kind() {
        Some(kind) => Ok(kind),
        None => bail!("the handshake is not over"),
    }
}
