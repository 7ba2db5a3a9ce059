//! Data that all workers share, and all plugins with the same `vm_id`: small values under keys.
//!
//! Every worker has an instance of the plugin of its own, so a plain field counts per worker. What has to be one for all
//! of them goes here; it lives as long as a plugin that uses it and is not kept over a restart.

use crate::host::{Status, services};
use crate::{Error, HostError, Result};

/// The status for a value that was changed since it was read.
const CHANGED: Status = 8;
/// A version that no value has, and not 0, which would mean any. Hosts take it for a key that does not exist yet.
const NO_VERSION: u32 = u32::MAX;
/// How often [`update`] tries. Others can be faster only while they change the same key at the same time.
const MOST_TRIES: usize = 1_000;

/// A value as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The value.
    pub value: Vec<u8>,
    version: u32,
}

/// The value of a key, `None` if it has none.
pub fn get(key: &str) -> Result<Option<Shared>, HostError> {
    let found = services::shared(key).map_err(|status| HostError::new(format!("reading shared `{key}`"), status))?;
    Ok(found.map(|(value, version)| Shared { value, version }))
}

/// Sets the value of a key, whatever it was.
pub fn set(key: &str, value: impl AsRef<[u8]>) -> Result<(), HostError> {
    services::set_shared(key, value.as_ref(), 0)
        .map_err(|status| HostError::new(format!("setting shared `{key}`"), status))
}

/// Sets the value of a key if it is still what was read (`None`: if there is still none). False: somebody was
/// faster, or the gateway has no room for it.
pub fn replace(key: &str, read: Option<&Shared>, value: impl AsRef<[u8]>) -> Result<bool, HostError> {
    let version = read.map_or(NO_VERSION, |shared| shared.version);
    match services::set_shared(key, value.as_ref(), version) {
        Ok(()) => Ok(true),
        Err(CHANGED) => Ok(false),
        Err(status) => Err(HostError::new(format!("replacing shared `{key}`"), status)),
    }
}

/// Makes the new value of a key from the old one, and again if somebody was faster: nothing that others add is lost.
///
/// # Errors
/// The host refuses it, or has no room for the value.
pub fn update(key: &str, mut change: impl FnMut(Option<&[u8]>) -> Vec<u8>) -> Result<()> {
    for _ in 0..MOST_TRIES {
        let old = get(key)?;
        let new = change(old.as_ref().map(|shared| shared.value.as_slice()));
        if replace(key, old.as_ref(), new)? {
            return Ok(());
        }
    }
    Err(Error::new(format!("shared `{key}` does not take the value: there is no room, or it changes all the time")))
}
