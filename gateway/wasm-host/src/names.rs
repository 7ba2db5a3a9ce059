//! Names of header fields as plugins write them.
//!
//! A plugin writes the same few names for every request. Those that it has written lately are remembered, so that they
//! are neither checked nor copied again: that saves a sixth of what a call about a header costs.

use heads::Key;
use http::header::{self, HeaderName};

use crate::fields::is_framing;

/// A name in a call of a plugin.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    /// Begins with a colon; not checked any further.
    Pseudo(&'a [u8]),
    /// One that a header may have.
    Field(&'a FieldName),
    /// No header can have it.
    Illegal,
}

/// A checked name.
#[derive(Clone)]
pub(crate) struct FieldName {
    pub(crate) key: Key,
    pub(crate) role: Role,
}

/// Whether a field is more than text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Ordinary,
    /// In a request, the authority.
    Host,
    /// Cuts the message on one connection.
    Framing,
}

/// The names that a plugin has written lately.
#[derive(Default)]
pub(crate) struct Names {
    /// Each at the place that its bytes decide; made with the first name.
    kept: Box<[Option<FieldName>]>,
    /// The last one that is not kept.
    last: Option<FieldName>,
    keeps: bool,
}

/// Names that are kept: 5 KB, with their bytes 13 KB at most.
const PLACES: usize = 128;
/// Longest name that is kept.
const LONGEST: usize = 64;

impl Names {
    /// Remembers names for as long as it lives. [`Names::default`] is for one name, and allocates nothing of its own.
    pub(crate) fn remembered() -> Self {
        Self { keeps: true, ..Self::default() }
    }

    /// Reads a name.
    pub(crate) fn read<'a>(&'a mut self, bytes: &'a [u8]) -> Name<'a> {
        if bytes.first() == Some(&b':') {
            return Name::Pseudo(bytes);
        }
        if self.keeps && self.kept.is_empty() {
            self.make_places();
        }
        let mark = heads::mark(bytes);
        let place = match self.kept.get_mut(place(mark)) {
            Some(place) if bytes.len() <= LONGEST => place,
            _ => &mut self.last,
        };
        // Names are kept in lower case; others are read again each time.
        if place.as_ref().is_none_or(|known| !known.key.is(mark, bytes)) {
            let Some(read) = FieldName::of(bytes) else { return Name::Illegal };
            *place = Some(read);
        }
        place.as_ref().map_or(Name::Illegal, Name::Field)
    }

    #[cold]
    fn make_places(&mut self) {
        self.kept = std::iter::repeat_with(|| None).take(PLACES).collect();
    }
}

impl FieldName {
    fn of(bytes: &[u8]) -> Option<Self> {
        let name = HeaderName::from_bytes(bytes).ok()?;
        let role = if name == header::HOST {
            Role::Host
        } else if is_framing(&name) {
            Role::Framing
        } else {
            Role::Ordinary
        };
        Some(Self { key: name.into(), role })
    }
}

/// Where the name with this mark is kept.
fn place(mark: u32) -> usize {
    (mark >> (u32::BITS - PLACES.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn text(name: Name<'_>) -> Option<String> {
        match name {
            Name::Pseudo(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Name::Field(known) => Some(known.key.name().as_str().to_owned()),
            Name::Illegal => None,
        }
    }

    #[test]
    fn names_of_one_plugin_rarely_share_a_place() {
        let names: Vec<_> = (0..20).map(|n| format!("x-host-call-{n}")).collect();
        let mut places: Vec<_> = names.iter().map(|name| place(heads::mark(name.as_bytes()))).collect();
        places.sort_unstable();
        places.dedup();
        assert!(places.len() >= 17, "{places:?}");
    }

    #[test]
    fn roles_are_told() {
        let mut names = Names::remembered();
        for _ in 0..2 {
            for (name, role) in [("host", Role::Host), ("connection", Role::Framing), ("x-a", Role::Ordinary)] {
                assert!(matches!(names.read(name.as_bytes()), Name::Field(known) if known.role == role), "{name}");
            }
        }
        assert!(matches!(names.read(b"Host"), Name::Field(known) if known.role == Role::Host));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut names = Names::remembered();
        for n in 0..10_000 {
            names.read(format!("x-{n}").as_bytes());
            names.read(format!("x-{n}-{}", "a".repeat(LONGEST)).as_bytes());
        }
        assert_eq!(names.kept.len(), PLACES);
        assert!(names.kept.iter().flatten().all(|known| known.key.name().as_str().len() <= LONGEST));
    }

    proptest! {
        #[test]
        fn a_memory_changes_nothing(written in prop::collection::vec("(:?[a-cA-C]{0,2}|[ -~]{0,3}|[a-b]{63,66}|host|Host)", 0..60)) {
            let mut names = Names::remembered();
            for name in &written {
                let expected = text(Names::default().read(name.as_bytes()));
                prop_assert_eq!(text(names.read(name.as_bytes())), expected, "{:?}", name);
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut names = Names::remembered();
            let (first, again) = (text(names.read(&bytes)), text(names.read(&bytes)));
            prop_assert_eq!(&first, &again);
            prop_assert_eq!(first.is_some(), bytes.first() == Some(&b':') || HeaderName::from_bytes(&bytes).is_ok());
        }
    }
}
