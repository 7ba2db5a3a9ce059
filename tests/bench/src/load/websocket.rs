//! WebSockets that are open all the time; in its window each sends a message, waits for its echo, and sends the next.

use std::{cell::Cell, rc::Rc};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};

use super::{Client, WINDOW};
use crate::peers::HOST;

/// Bytes of a message: the longest that has its length in two bytes of the head and one size.
pub(crate) const MESSAGE: usize = 128;
/// Bytes in front of a message from the server, and from the client.
pub(crate) const HEAD: usize = 4;
pub(crate) const MASKED_HEAD: usize = HEAD + 4;

/// A binary message, and its length; behind it comes the mask, if there is one.
pub(crate) fn head(masked: bool) -> [u8; HEAD] {
    [0x82, if masked { 0x80 | 126 } else { 126 }, 0, MESSAGE as u8]
}

/// Open connections to one proxy.
pub(crate) struct WebSockets {
    connections: JoinSet<anyhow::Result<()>>,
    sending: watch::Sender<bool>,
    echoes: Rc<Cell<u64>>,
}

impl WebSockets {
    pub(crate) fn open(client: &Client, port: u16, count: usize) -> anyhow::Result<WebSockets> {
        client.run(async {
            let (sending, told) = watch::channel(false);
            let echoes = Rc::new(Cell::new(0));
            let mut connections = JoinSet::new();
            for _ in 0..count {
                let stream = open(port).await?;
                connections.spawn_local(talk(stream, told.clone(), echoes.clone()));
            }
            Ok(WebSockets { connections, sending, echoes })
        })
    }

    /// Messages that came back.
    pub(crate) fn run(&mut self, client: &Client) -> anyhow::Result<u64> {
        client.run(async {
            let before = self.echoes.get();
            self.sending.send_replace(true);
            tokio::time::sleep(WINDOW).await;
            self.sending.send_replace(false);
            // The echoes on their way belong to this window.
            tokio::time::sleep(WINDOW / 20).await;
            if let Some(ended) = self.connections.try_join_next() {
                ended?.context("a WebSocket")?;
                anyhow::bail!("a WebSocket ended");
            }
            Ok(self.echoes.get() - before)
        })
    }
}

async fn open(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /websocket HTTP/1.1\r\nhost: {HOST}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut answer).await? > 0, "closed instead of upgraded");
    }
    ensure!(answer.starts_with(b"HTTP/1.1 101 "), "not upgraded: {}", String::from_utf8_lossy(&answer));
    Ok(stream)
}

async fn talk(mut stream: TcpStream, mut sending: watch::Receiver<bool>, echoes: Rc<Cell<u64>>) -> anyhow::Result<()> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let message = [b'm'; MESSAGE];
    let masked = message.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let frame: Vec<u8> = head(true).into_iter().chain(mask).chain(masked).collect();
    let expected = [&head(false)[..], &message[..]].concat();
    let mut echo = vec![0; expected.len()];
    loop {
        sending.wait_for(|sending| *sending).await?;
        stream.write_all(&frame).await?;
        stream.read_exact(&mut echo).await?;
        ensure!(echo == expected, "another message came back");
        echoes.set(echoes.get() + 1);
    }
}
