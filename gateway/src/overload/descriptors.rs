//! File descriptors: how many there may be, and how many of them are kept back.
//!
//! Sockets of clients and upstreams leave the last descriptors alone, so that the admin API, probes, logs and
//! configuration files work when a flood has taken the rest. No account is needed for that: the kernel always gives the
//! lowest free number, so the number of a new socket says how many descriptors are in use, whoever opened them.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicI32, Ordering::Relaxed},
};

/// How many are kept back: a quarter where there are few, and never more than the admin API's four addresses, log and
/// configuration files need together.
const RESERVE: u64 = 512;
/// What is taken for the limit if the system does not say.
const UNKNOWN: u64 = 1024;

/// The first descriptor that is kept back. Of the process, as descriptors are.
static FIRST_RESERVED: AtomicI32 = AtomicI32::new(RawFd::MAX);

/// Lets the process open as many files as its hard limit allows. Returns how many that are.
///
/// # Errors
/// The system refuses; the limit stays what it is.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = limit()?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: reads one initialised struct.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
        0 => Ok(limit.rlim_cur),
        _ => Err(io::Error::last_os_error()),
    }
}

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills one struct that is ours.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Keeps the last descriptors back from now on. Returns how many are left for clients and upstreams.
pub(super) fn keep_reserve() -> usize {
    let limit = limit().map_or(UNKNOWN, |limit| limit.rlim_cur);
    let free = RawFd::try_from(limit - (limit / 4).min(RESERVE)).unwrap_or(RawFd::MAX);
    FIRST_RESERVED.store(free, Relaxed);
    usize::try_from(free).unwrap_or(usize::MAX)
}

/// Whether a socket has taken one of the descriptors that are kept back: it must be closed.
pub(crate) fn is_reserved(socket: &impl AsRawFd) -> bool {
    socket.as_raw_fd() >= FIRST_RESERVED.load(Relaxed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    struct Number(RawFd);

    impl AsRawFd for Number {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }

    #[test]
    fn the_last_descriptors_are_kept_back() {
        let all = raise_limit().unwrap();
        let free = keep_reserve();
        assert_eq!(free as u64, all - (all / 4).min(RESERVE));
        let last = RawFd::try_from(free).unwrap();
        assert!(is_reserved(&Number(last)) && !is_reserved(&Number(last - 1)));
    }
}
