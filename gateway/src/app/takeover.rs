//! How a new process takes over from a running one: here is what the two say to each other, and the side of the new one.
//! The other is `handover`.
//!
//! ```text
//!  new                                                   running
//!  connects to DATA_DIR/takeover.sock ─────────────────▶ the same user?
//!  Hello: the version of this ─────────────────────────▶ changes of the configuration wait from here on
//!  the same user? ◀──────────────── Offer: every listening socket, this Unix socket, the lock of the data directory
//!  serves its first configuration on all workers,
//!  accepting on the same sockets
//!  Serving: which of them it uses ─────────────────────▶ stops accepting on these
//!  ◀─────────────────────────────────────────── Released ends as after SIGTERM
//! ```
//!
//! Both hold the same sockets, not others on the same ports, so no queue is ever closed with a connection in it. Up to
//! `Serving` the new one may fail in any way: its end closes the Unix socket, and the running one goes on as it was.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::publish::Inherited;
use crate::{admin, net::descriptors, worker::ListenerKey};

/// Version of what the two say to each other. Another one is refused, and the running process goes on.
const VERSION: u32 = 1;
/// How long the running process may take to answer. It finishes the change it is at first.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take to stop accepting. Its workers have 5 s for that.
const RELEASE: Duration = Duration::from_secs(10);

/// Where a running gateway is asked.
pub(super) fn door(data_dir: &Path) -> PathBuf {
    data_dir.join("takeover.sock")
}

/// The first word of the new process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    takeover: u32,
}

impl Hello {
    /// Why the new process cannot be served.
    pub(super) fn objection(&self) -> Option<String> {
        (self.takeover != VERSION).then(|| {
            format!("the running gateway speaks version {VERSION} of the takeover, the new one {}", self.takeover)
        })
    }
}

/// What the running process answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Everything there is, with descriptors: the lock, the Unix socket, those of the admin API, those of listeners.
    Offer(Offer),
    /// Nothing changes hands.
    Refused(String),
    /// The sockets that the new process uses are not accepted on any more.
    Released,
}

/// What descriptors are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) pid: u32,
    pub(super) admin: Vec<OfferedAdmin>,
    pub(super) listeners: Vec<OfferedListener>,
}

/// A socket of the admin API.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OfferedAdmin {
    pub(super) flag: String,
    pub(super) wanted: SocketAddr,
}

impl OfferedAdmin {
    pub(super) fn of(passed: &admin::Passed) -> Self {
        Self { flag: passed.flag.clone(), wanted: passed.wanted }
    }
}

/// The sockets of one listener.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct OfferedListener {
    /// What tells listeners apart.
    pub(super) key: ListenerKey,
    /// Where it is really bound.
    pub(super) address: SocketAddr,
    pub(super) sockets: usize,
}

/// The new process serves.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Serving {
    /// Those that it has taken over.
    pub(super) listeners: Vec<ListenerKey>,
}

/// What comes from the running process; nothing if there is none.
#[derive(Default)]
pub(super) struct Inheritance {
    pub(super) lock: Option<File>,
    pub(super) door: Option<UnixListener>,
    pub(super) admin: Vec<admin::Passed>,
    pub(super) listeners: Vec<Inherited>,
    pub(super) predecessor: Option<Predecessor>,
}

/// The running process, which waits for us to serve.
pub(super) struct Predecessor {
    stream: UnixStream,
    pid: u32,
}

/// Asks the gateway that runs on this data directory, if there is one.
pub(super) async fn ask(data_dir: &Path) -> anyhow::Result<Inheritance> {
    let door = door(data_dir);
    let mut stream = match UnixStream::connect(&door).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            tracing::info!(socket = %door.display(), "no gateway to take over from; starting as usual");
            return Ok(Inheritance::default());
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!("cannot ask the running gateway at {}; it must belong to the same user", door.display())
            });
        }
    };
    same_user(&stream)?;
    let answered = tokio::time::timeout(ANSWER, async {
        descriptors::send(&mut stream, &Hello { takeover: VERSION }, &[]).await?;
        descriptors::receive(&mut stream).await
    });
    let (answer, descriptors) = answered
        .await
        .with_context(|| format!("the running gateway did not answer within {} s", ANSWER.as_secs()))?
        .context("the running gateway did not hand anything over; its log says why")?;
    match answer {
        Answer::Offer(offer) => offer.unpack(descriptors, stream),
        Answer::Refused(why) => bail!("nothing is taken over: {why}"),
        Answer::Released => bail!("the running gateway gave an answer to another question"),
    }
}

/// Both sides look who the other is: only a process of the same user gets anything, or is believed anything.
pub(super) fn same_user(stream: &UnixStream) -> anyhow::Result<u32> {
    let peer = stream.peer_cred().context("the system does not say who is at the other end")?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != own {
        bail!("the process at the other end belongs to user {}, this one to {own}; both must be the same", peer.uid());
    }
    Ok(peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default())
}

impl Offer {
    fn unpack(self, descriptors: Vec<OwnedFd>, stream: UnixStream) -> anyhow::Result<Inheritance> {
        let Self { pid, admin, listeners } = self;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().context("the running gateway handed over less than it says");
        let (lock, door) = (Some(File::from(next()?)), Some(UnixListener::from(next()?)));
        let admin = admin
            .into_iter()
            .map(|OfferedAdmin { flag, wanted }| Ok(admin::Passed { flag, wanted, socket: TcpListener::from(next()?) }))
            .collect::<anyhow::Result<_>>()?;
        let listeners = listeners
            .into_iter()
            .map(|OfferedListener { key, address, sockets }| {
                let sockets = (0..sockets).map(|_| next().map(TcpListener::from)).collect::<anyhow::Result<_>>()?;
                Ok(Inherited { key, address, sockets })
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Inheritance { lock, door, admin, listeners, predecessor: Some(Predecessor { stream, pid }) })
    }
}

impl Predecessor {
    /// Says that we serve. Returns when nobody else does any more.
    ///
    /// # Errors
    /// The running process has decided to go on: we must not.
    pub(super) async fn relieve(mut self, listeners: Vec<ListenerKey>) -> anyhow::Result<()> {
        let pid = self.pid;
        let count = listeners.len();
        let answered = tokio::time::timeout(RELEASE, async {
            descriptors::send(&mut self.stream, &Serving { listeners }, &[]).await?;
            descriptors::receive(&mut self.stream).await
        });
        match answered.await {
            Ok(Ok((Answer::Released, _))) => {
                tracing::info!(pid, listeners = count, "took over from the running gateway, which ends now");
                Ok(())
            }
            Ok(Ok((Answer::Refused(why), _))) => bail!("the running gateway goes on: {why}"),
            Ok(Ok((Answer::Offer(_), _))) => bail!("the running gateway gave an answer to another question"),
            // It would have said so if it had decided to go on.
            Ok(Err(error)) => {
                tracing::warn!(pid, %error, "the gateway that was taken over from has ended before it said so");
                Ok(())
            }
            Err(_) => {
                bail!("the running gateway (process {pid}) did not stop accepting within {} s", RELEASE.as_secs())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[tokio::test]
    async fn only_the_same_user_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door");
        let door = tokio::net::UnixListener::bind(&path).unwrap();
        let own = UnixStream::connect(&path).await.unwrap();
        let (ours, _) = door.accept().await.unwrap();
        assert_eq!(same_user(&ours).unwrap(), std::process::id());
        assert!(same_user(&own).is_ok());
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT RUN: only root can become another user");
            return;
        }
        for (path, mode) in [(folder.path(), 0o755), (path.as_path(), 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let knocking = path.clone();
        let stranger = std::thread::spawn(move || {
            // SAFETY: the system call itself changes this thread only, which does nothing else and ends.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(changed, 0);
            std::os::unix::net::UnixStream::connect(knocking).unwrap()
        });
        let (theirs, _) = door.accept().await.unwrap();
        let error = same_user(&theirs).unwrap_err().to_string();
        assert!(error.contains("65534"), "{error}");
        drop(stranger.join().unwrap());
    }
}
