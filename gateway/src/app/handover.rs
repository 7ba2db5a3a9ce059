//! How a running process hands over to a new one; `takeover` has the order of things and the other side.
//!
//! The door is open as long as the process has the lock of its data directory. Who comes gets duplicates of all listening
//! sockets, of the door itself and of the lock: there is no moment without a listener, without a way to the next
//! takeover, or in which a third process could take the directory.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixListener as StdUnixListener},
    },
    path::Path,
    time::Duration,
};

use anyhow::Context as _;
use tokio::net::{UnixListener, UnixStream};

use super::{
    publish::Publisher,
    takeover::{self, Answer, Hello, Offer, OfferedAdmin, Serving},
};
use crate::{admin, net::descriptors};

/// How long whoever knocks may take to say what they want.
const HELLO: Duration = Duration::from_secs(5);
/// How long a new process may take to serve. So long no change of the configuration takes effect here.
const START: Duration = Duration::from_secs(120);
/// How long it may take to read that it has everything.
const GOODBYE: Duration = Duration::from_secs(5);

/// What is handed over besides the listeners.
pub(super) struct Handover {
    door: UnixListener,
    lock: File,
    admin: admin::Handle,
}

/// A new process that serves on our sockets, too, and waits for us to stop.
pub(super) struct Successor {
    stream: UnixStream,
    pub(super) pid: u32,
    pub(super) serving: Serving,
}

impl Handover {
    /// Opens the door of a data directory whose lock is `lock`, or takes one over that is open already. It must be
    /// called on the runtime that will serve it.
    pub(super) fn open(
        data_dir: &Path,
        lock: File,
        admin: admin::Handle,
        door: Option<StdUnixListener>,
    ) -> io::Result<Self> {
        let door = match door {
            Some(door) => door,
            None => knock_through(data_dir)?,
        };
        door.set_nonblocking(true)?;
        Ok(Self { door: UnixListener::from_std(door)?, lock, admin })
    }

    /// Waits until somebody knocks.
    pub(super) async fn knocked(&self) -> UnixStream {
        loop {
            match self.door.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot see who wants to take over; trying again in 1 s");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Gives everything to whoever knocked and waits until they serve. An error: nothing has changed.
    pub(super) async fn offer(&self, mut stream: UnixStream, publisher: &Publisher) -> anyhow::Result<Successor> {
        let pid = takeover::same_user(&stream)?;
        let hello = tokio::time::timeout(HELLO, descriptors::receive::<Hello>(&mut stream));
        let (hello, _) = hello.await.context("it said nothing")?.context("it is no gateway")?;
        if let Some(objection) = hello.objection() {
            return Err(refuse(&mut stream, objection).await);
        }
        tracing::info!(pid, "a new process wants to take over; changes of the configuration wait for it");
        let listeners = publisher.offer();
        let offer = Offer {
            pid: std::process::id(),
            admin: self.admin.sockets().iter().map(OfferedAdmin::of).collect(),
            listeners: listeners.iter().map(|(offered, _)| offered.clone()).collect(),
        };
        let own = [self.lock.as_fd(), self.door.as_fd()].into_iter();
        let admin = self.admin.sockets().iter().map(|passed| passed.socket.as_fd());
        let sockets = listeners.iter().flat_map(|(_, sockets)| sockets.iter().map(AsFd::as_fd));
        let all: Vec<_> = own.chain(admin).chain(sockets).collect();
        let served = tokio::time::timeout(START, async {
            descriptors::send(&mut stream, &Answer::Offer(offer), &all).await?;
            descriptors::receive::<Serving>(&mut stream).await
        });
        match served.await {
            Ok(Ok((serving, _))) => Ok(Successor { stream, pid, serving }),
            Ok(Err(error)) => Err(error).context("it ended before it served"),
            Err(_) => Err(refuse(&mut stream, format!("it did not serve within {} s", START.as_secs())).await),
        }
    }

    /// The new process has everything: operators are its business, too, from now on.
    pub(super) fn close(&self) {
        self.admin.close();
    }
}

impl Successor {
    /// Says that we do not accept any more.
    pub(super) async fn released(mut self) {
        let told = descriptors::send(&mut self.stream, &Answer::Released, &[]);
        if !matches!(tokio::time::timeout(GOODBYE, told).await, Ok(Ok(()))) {
            tracing::warn!(pid = self.pid, "the new process did not wait for the end of the takeover");
        }
    }
}

/// Tells whoever knocked that we go on. It must hear that, because silence means that we are dead.
async fn refuse(stream: &mut UnixStream, why: String) -> anyhow::Error {
    let told = tokio::time::timeout(GOODBYE, descriptors::send(stream, &Answer::Refused(why.clone()), &[])).await;
    if !matches!(told, Ok(Ok(()))) {
        tracing::debug!("whoever wanted to take over is gone");
    }
    anyhow::Error::msg(why)
}

/// A new door. One that was left behind is nobody's: we have the lock.
fn knock_through(data_dir: &Path) -> io::Result<StdUnixListener> {
    let path = takeover::door(data_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let door = StdUnixListener::bind(&path)?;
    // Whoever gets in before this is asked who they are all the same.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(door)
}
