//! The `gateway` command for tests that run it as a process: cargo tells them where this package's binaries are.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway::cli::main()
}
