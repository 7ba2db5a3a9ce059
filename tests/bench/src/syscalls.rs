//! System calls per request, counted by the kernel (`perf stat`, the tracepoint at the entry of every system call).

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::rounds::Contender;

/// System calls of the contender's process for each operation of one window.
pub(crate) fn per_operation(contender: &mut Contender<'_>) -> anyhow::Result<f64> {
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x", ";", "-e", "raw_syscalls:sys_enter", "-p"]).arg(contender.server.pid().to_string());
    perf.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let counter = perf.spawn().context("cannot run perf")?;
    // It attaches within milliseconds, and says nothing when it has. The window is a second or so.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let operations = (contender.load)();
    // SAFETY: a plain system call; the process is our child and has not been waited for.
    unsafe { libc::kill(counter.id() as i32, libc::SIGINT) };
    let text = String::from_utf8(counter.wait_with_output()?.stderr)?;
    let line = text.lines().find(|line| line.contains("raw_syscalls:sys_enter")).unwrap_or(&text);
    match line.split(';').next().and_then(|word| word.parse::<f64>().ok()) {
        Some(count) => Ok(count / operations? as f64),
        None => bail!("perf does not count here: {}", line.trim()),
    }
}
