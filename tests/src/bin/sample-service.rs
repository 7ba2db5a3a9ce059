//! A service to put behind the gateway: answers every request with what it received, as text.
//!
//! `sample-service [--listen 127.0.0.1:9080]`, HTTP/1.1 and HTTP/2 without TLS on the same port.

use anyhow::Context as _;
use gateway_tests::body::Outgoing;
use gateway_tests::server::{Protocol, serve};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: sample-service [--listen ADDRESS:PORT]   (default 127.0.0.1:9080)";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample-service: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let Some(address) = address(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{address} is taken by another process; stop it, or choose another address with --listen")
        }
        _ => anyhow::Error::from(error).context(format!("listening on {address}")),
    })?;
    println!("sample-service listens on {}", listener.local_addr()?);

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        () = accept(listener) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The address from the command line, `None` if only help is wanted.
fn address(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Option<SocketAddr>> {
    let mut address = "127.0.0.1:9080".to_owned();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--listen" => address = arguments.next().context(USAGE)?,
            "--help" | "-h" => return Ok(None),
            other => anyhow::bail!("unknown argument {other:?}\n{USAGE}"),
        }
    }
    let parsed = address.parse().map_err(|_| anyhow::anyhow!("{address:?} is no address with a port\n{USAGE}"))?;
    Ok(Some(parsed))
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Clients that go away are no reason to say anything.
                tokio::spawn(async move { serve(stream, Protocol::Either, service_fn(describe)).await.is_ok() });
            }
            Err(error) => {
                // Out of descriptors, mostly: connections that end give some back, so do not spin until then.
                eprintln!("sample-service: accepting a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What the service received, line by line: request line, headers in alphabetical order, length of the body.
async fn describe(request: Request<Incoming>) -> Result<Response<Outgoing>, hyper::Error> {
    let (mut head, mut body) = request.into_parts();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len());
    }

    // HTTP/2 has the host in the URI.
    if let (Some(host), false) = (head.uri.authority(), head.headers.contains_key(header::HOST)) {
        head.headers.extend(HeaderValue::from_str(host.as_str()).map(|host| (header::HOST, host)));
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut text = format!("{} {path} {:?}\n", head.method, head.version);
    // Writing to a string cannot fail.
    let _ = lines(&head.headers).iter().try_for_each(|line| writeln!(text, "{line}"));
    let _ = writeln!(text, "\n{length} bytes of body");

    let mut response = Response::new(Outgoing::full(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("sample-service"));
    Ok(response)
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (_, &HeaderValue)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    let mut lines: Vec<String> = headers.iter().map(line).collect();
    lines.sort();
    lines
}
