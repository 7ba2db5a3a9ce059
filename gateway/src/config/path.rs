//! Paths of fields, `spec.http[0].route[1].destination.host`.
//!
//! A [`Path`] is a linked list on the stack: walking a resource costs nothing, only a problem writes the
//! text. The text is also the key under which `yaml` remembers on which line a field stands, so both
//! sides must write the same: that is why the writing lives here.

use std::fmt::{self, Write};

/// A field of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Path<'a> {
    /// The document itself.
    Root,
    /// A field of a mapping.
    Key(&'a Path<'a>, &'a str),
    /// An element of a sequence.
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// `spec`, where almost all paths begin.
    pub(crate) const SPEC: Path<'static> = Path::Key(&Path::Root, "spec");

    /// A field below this one.
    pub(crate) fn key(&'a self, name: &'a str) -> Path<'a> {
        Path::Key(self, name)
    }

    /// An element of this one.
    pub(crate) fn index(&'a self, position: usize) -> Path<'a> {
        Path::Index(self, position)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(parent, name) => {
                parent.fmt(f)?;
                write_key(f, name, matches!(parent, Path::Root))
            }
            Path::Index(parent, position) => {
                parent.fmt(f)?;
                write_index(f, *position)
            }
        }
    }
}

/// Writes one more field; names with characters that mean something in a path are quoted.
pub(crate) fn write_key(out: &mut impl Write, name: &str, first: bool) -> fmt::Result {
    let plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_/".contains(&byte));
    match (plain, first) {
        (true, true) => out.write_str(name),
        (true, false) => write!(out, ".{name}"),
        (false, _) => write!(out, "[{name:?}]"),
    }
}

/// Writes one more element.
pub(crate) fn write_index(out: &mut impl Write, position: usize) -> fmt::Result {
    write!(out, "[{position}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_code() {
        let http = Path::SPEC.key("http");
        let route = http.index(2);
        let headers = route.key("headers");
        assert_eq!(headers.key("x-a").to_string(), "spec.http[2].headers.x-a");
        assert_eq!(headers.key("a.b").to_string(), "spec.http[2].headers[\"a.b\"]");
        assert_eq!(Path::Root.to_string(), "");
    }
}
