//! The cases, by what they are about; the sections are those of the measured host behaviour that the gateway follows.

mod arguments;
mod buffers;
mod calls;
mod chain;
mod flow;
mod grpc;
mod headers;
pub mod languages;
mod properties;
mod protocols;
mod replies;
mod sharing;

use super::Case;

/// All of them, in the order of the table.
pub fn all() -> Vec<Case> {
    [
        flow::cases(),
        headers::cases(),
        buffers::cases(),
        replies::cases(),
        calls::cases(),
        properties::cases(),
        sharing::cases(),
        arguments::cases(),
        protocols::cases(),
        chain::cases(),
        grpc::cases(),
        languages::cases(),
    ]
    .concat()
}
