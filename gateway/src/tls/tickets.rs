//! The keys of session tickets. A resumed handshake skips the check of the client's certificate, so a ticket must never
//! open a server that would have checked otherwise: there is one set of keys for each way of checking clients.
//!
//! Keys are shared by all workers and outlive a configuration as long as some server keeps that way. They are renewed
//! every six hours and forgotten after twelve (rustls' ticketer).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustls::{Error, crypto::aws_lc_rs::Ticketer, server::ProducesTickets};

/// All sets of keys that are in use, by the digest of the client policy. Cheap to clone; clones are the same.
#[derive(Clone, Default)]
pub struct TicketKeys(Arc<Mutex<Known>>);

type Known = HashMap<[u8; 32], Weak<dyn ProducesTickets>>;

impl TicketKeys {
    /// The keys for a client policy: those in use, or new ones.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(super) fn of(&self, policy: [u8; 32]) -> Result<Arc<dyn ProducesTickets>, Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, keys| keys.strong_count() > 0);
        if let Some(keys) = known.get(&policy).and_then(Weak::upgrade) {
            return Ok(keys);
        }
        let keys = Ticketer::new()?;
        known.insert(policy, Arc::downgrade(&keys));
        Ok(keys)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn keys_live_as_long_as_somebody_uses_them() {
        let keys = TicketKeys::default();
        let (one, two) = (keys.of([1; 32]).unwrap(), keys.of([2; 32]).unwrap());
        let ticket = one.encrypt(b"session").unwrap();
        assert_eq!(keys.of([1; 32]).unwrap().decrypt(&ticket).as_deref(), Some(b"session".as_slice()));
        assert_eq!(two.decrypt(&ticket), None);
        drop(one);
        assert_eq!(keys.of([1; 32]).unwrap().decrypt(&ticket), None, "a policy that was gone has new keys");
    }
}
