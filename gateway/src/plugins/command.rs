//! What the admin API asks of the control task.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{ApiError, Spec};

/// A change of the uploads together with who waits for it.
#[derive(Debug)]
pub struct Command {
    /// What is wanted.
    pub change: Change,
    /// Answered when the change is live on all workers, or has failed and nothing has changed.
    /// The caller may have gone away.
    pub reply: oneshot::Sender<Result<Outcome, ApiError>>,
}

/// A change of the uploads.
#[derive(Debug)]
pub enum Change {
    /// Create or replace.
    Put(UploadRequest),
    /// Remove, with all versions.
    Delete {
        /// Name of the upload.
        name: String,
    },
    /// Go to another version.
    Rollback {
        /// Name of the upload.
        name: String,
        /// Number of the version, or the beginning of its digest; `None`: the one that served before.
        to: Option<String>,
    },
    /// Take it into the chain, or out of it without forgetting it.
    Enable {
        /// Name of the upload.
        name: String,
        /// Into the chain.
        enabled: bool,
    },
}

/// A `PUT /plugins/{name}`.
#[derive(Debug, Clone)]
pub struct UploadRequest {
    /// Name of the upload: a DNS label of at most 63 characters.
    pub name: String,
    /// The module; `None` keeps the present one.
    pub module: Option<Bytes>,
    /// Fields of WasmPlugin's spec. What is not named keeps its value, `null` goes back to the default.
    /// `sha256` is compared with the module and not kept.
    pub settings: Spec,
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was no upload of this name.
    Created,
    /// Module or settings are other ones, or whether it is in use.
    Replaced,
    /// It is all as it was asked for: nothing was done.
    Unchanged,
    /// It is gone.
    Deleted,
}
