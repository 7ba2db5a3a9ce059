//! Where resources come from. A source shows everything it has, every time; what changed is found by the store.

mod file;

use std::{fmt, io};

use bytes::Bytes;

pub use file::{FileSource, SourceError, Watch};

/// A file as a source sees it now. Its text may hold keys, so `Debug` does not show it.
pub struct SourceFile {
    /// Its path, as given on the command line or found below a folder.
    pub path: String,
    /// What is in it, or why that cannot be said.
    pub contents: Result<Bytes, io::Error>,
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.contents.as_ref().map(Bytes::len);
        f.debug_struct("SourceFile").field("path", &self.path).field("contents", &size).finish()
    }
}
