//! The `gateway` command for tests that run it as a process: cargo tells them where this package's binaries are.

use std::process::ExitCode;

/// As in the real one: it decides how memory is given back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    gateway::cli::main()
}
