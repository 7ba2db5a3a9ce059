//! Names of header fields as plugins write them.
//!
//! A plugin writes the same few names for every request; each instance remembers those that it has written lately.

use heads::Known;
use http::header::{self, HeaderName};

use crate::fields::is_framing;

/// A name in a call of a plugin.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    /// Begins with a colon; not checked any further.
    Pseudo(&'a [u8]),
    /// One that a header may have.
    Field(&'a Known<Role>),
    /// No header can have it.
    Illegal,
}

/// Whether a field is more than text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Ordinary,
    /// In a request, the authority.
    Host,
    /// Cuts the message on one connection.
    Framing,
}

/// The names that a plugin has written lately.
#[derive(Default)]
pub(crate) struct Names(heads::Names<Role>);

impl Names {
    /// Remembers names for as long as it lives. [`Names::default`] is for one name, and allocates nothing of its own.
    pub(crate) fn remembered() -> Self {
        Self(heads::Names::remembered())
    }

    /// Reads a name.
    pub(crate) fn read<'a>(&'a mut self, bytes: &'a [u8]) -> Name<'a> {
        if bytes.first() == Some(&b':') {
            return Name::Pseudo(bytes);
        }
        self.0.read(bytes, Role::of).map_or(Name::Illegal, Name::Field)
    }
}

impl Role {
    fn of(name: &HeaderName) -> Self {
        if *name == header::HOST {
            Self::Host
        } else if is_framing(name) {
            Self::Framing
        } else {
            Self::Ordinary
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_told() {
        let mut names = Names::remembered();
        for _ in 0..2 {
            for (name, role) in
                [("host", Role::Host), ("Host", Role::Host), ("Connection", Role::Framing), ("x-a", Role::Ordinary)]
            {
                assert!(matches!(names.read(name.as_bytes()), Name::Field(known) if known.more == role), "{name}");
            }
        }
        assert!(matches!(names.read(b":path"), Name::Pseudo(b":path")));
        assert!(matches!(names.read(b"a b"), Name::Illegal));
    }
}
