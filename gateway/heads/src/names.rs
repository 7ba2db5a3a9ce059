//! Names of fields that were read lately.
//!
//! Clients, services and plugins write the same few names in every message. Those are remembered as they were written, so
//! that they are neither checked, nor put into lower case, nor copied again.

use http::HeaderName;

use crate::name::{Key, mark, same};

/// A name that was read, and what its reader knows of it.
#[derive(Clone)]
pub struct Known<T> {
    /// The name.
    pub key: Key,
    /// What else was found out about it.
    pub more: T,
}

/// Remembers names, a bounded number of them: 13 KB, and at most 128 names of 40 bytes.
pub struct Names<T> {
    /// Each at the place that its bytes decide; made with the first name.
    kept: Box<[Option<Kept<T>>]>,
    /// The last one that is not kept.
    last: Option<Known<T>>,
    keeps: bool,
}

struct Kept<T> {
    written: [u8; LONGEST],
    len: usize,
    known: Known<T>,
}

/// Names that are kept.
const PLACES: usize = 128;
/// Longest name that is kept.
const LONGEST: usize = 40;

impl<T> Default for Names<T> {
    /// For one name; allocates nothing of its own.
    fn default() -> Self {
        Self { kept: Box::default(), last: None, keeps: false }
    }
}

impl<T> Names<T> {
    /// Remembers names for as long as it lives.
    #[must_use]
    pub fn remembered() -> Self {
        Self { keeps: true, ..Self::default() }
    }

    /// Reads a name. `more` finds out what else is to be known of it. `None`: no field can have this name.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], more: impl FnOnce(&HeaderName) -> T) -> Option<&Known<T>> {
        if self.keeps && self.kept.is_empty() {
            self.make_places();
        }
        match self.kept.get_mut(place(bytes)) {
            Some(place) if bytes.len() <= LONGEST => {
                if place.as_ref().is_none_or(|kept| !same(kept.written.get(..kept.len).unwrap_or_default(), bytes)) {
                    *place = Some(Kept::of(bytes, more)?);
                }
                place.as_ref().map(|kept| &kept.known)
            }
            _ => {
                self.last = Some(Known::of(bytes, more)?);
                self.last.as_ref()
            }
        }
    }

    #[cold]
    fn make_places(&mut self) {
        self.kept = std::iter::repeat_with(|| None).take(PLACES).collect();
    }
}

impl<T> Known<T> {
    #[cold]
    fn of(bytes: &[u8], more: impl FnOnce(&HeaderName) -> T) -> Option<Self> {
        let name = HeaderName::from_bytes(bytes).ok()?;
        Some(Self { more: more(&name), key: name.into() })
    }
}

impl<T> Kept<T> {
    fn of(bytes: &[u8], more: impl FnOnce(&HeaderName) -> T) -> Option<Self> {
        let known = Known::of(bytes, more)?;
        let mut written = [0; LONGEST];
        written.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { written, len: bytes.len(), known })
    }
}

/// Where a name is kept.
#[inline]
fn place(bytes: &[u8]) -> usize {
    (mark(bytes) >> (u32::BITS - PLACES.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn text<'a>(names: &'a mut Names<u8>, bytes: &[u8]) -> Option<(&'a str, u8)> {
        names.read(bytes, |name| name.as_str().len() as u8).map(|known| (known.key.as_str(), known.more))
    }

    #[test]
    fn names_of_one_kind_rarely_share_a_place() {
        let names: Vec<_> = (0..20).map(|n| format!("x-host-call-{n}")).collect();
        let mut places: Vec<_> = names.iter().map(|name| place(name.as_bytes())).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() >= 17, "{places:?}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut names = Names::remembered();
        for n in 0..10_000 {
            text(&mut names, format!("x-{n}").as_bytes());
            text(&mut names, format!("x-{n}-{}", "a".repeat(LONGEST)).as_bytes());
        }
        assert_eq!(names.kept.len(), PLACES);
        assert!(size_of_val(&*names.kept) <= 13 * 1024, "{}", size_of_val(&*names.kept));
        assert!(names.kept.iter().flatten().all(|kept| kept.known.key.as_str().len() <= LONGEST));
    }

    proptest! {
        #[test]
        fn a_memory_changes_nothing(written in prop::collection::vec("(:?[a-cA-C]{0,2}|[ -~]{0,3}|[a-b]{39,42}|host|Host)", 0..60)) {
            let mut names = Names::remembered();
            for name in &written {
                let mut fresh = Names::default();
                prop_assert_eq!(text(&mut names, name.as_bytes()), text(&mut fresh, name.as_bytes()), "{:?}", name);
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut names = Names::remembered();
            for _ in 0..2 {
                prop_assert_eq!(text(&mut names, &bytes).is_some(), HeaderName::from_bytes(&bytes).is_ok());
            }
        }
    }
}
