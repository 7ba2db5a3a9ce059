//! Where resources come from. A source shows everything it has, every time; what changed is found by the store.

mod file;

use std::io;

use bytes::Bytes;

pub use file::{FileSource, SourceError, Watch};

/// A file as a source sees it now.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path, as given on the command line or found below a folder.
    pub path: String,
    /// What is in it, or why that cannot be said.
    pub contents: Result<Bytes, io::Error>,
}
