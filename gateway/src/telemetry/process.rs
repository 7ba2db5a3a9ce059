//! What the operating system knows of this process, under the names of Prometheus' client libraries.
//!
//! Istio's agent exports the same numbers about itself, so dashboards know them. Read when somebody scrapes; what
//! cannot be read is left out.

use std::fs;

/// One number.
pub(super) struct ProcessNumber {
    pub(super) name: &'static str,
    /// Whether it only grows.
    pub(super) is_counter: bool,
    pub(super) value: f64,
}

pub(super) const HELP: &[(&str, &str)] = &[
    ("process_cpu_seconds_total", "CPU time of the process, in seconds."),
    ("process_resident_memory_bytes", "Memory of the process that is in RAM."),
    ("process_virtual_memory_bytes", "Address space of the process."),
    ("process_open_fds", "Open file descriptors."),
    ("process_max_fds", "File descriptors that may be open."),
];

/// All that can be read.
pub(super) fn numbers() -> Vec<ProcessNumber> {
    let mut numbers = Vec::new();
    let mut push = |name, is_counter, value: Option<f64>| {
        numbers.extend(value.map(|value| ProcessNumber { name, is_counter, value }));
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold anything; the fields behind it are numbered from 3 (proc(5)).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    push("process_cpu_seconds_total", true, field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks()));
    push("process_resident_memory_bytes", false, field(24).map(|pages| pages * page_bytes()));
    push("process_virtual_memory_bytes", false, field(23));
    push("process_open_fds", false, fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as f64));
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    push("process_max_fds", false, files.and_then(|rest| rest.split_whitespace().next()?.parse().ok()));
    numbers
}

/// Ticks of a second of CPU time in `/proc/self/stat`.
fn ticks() -> f64 {
    // SAFETY: sysconf reads a constant of the system.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

fn page_bytes() -> f64 {
    // SAFETY: sysconf reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if bytes > 0 { bytes as f64 } else { 4096.0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn this_process_is_there() {
        let numbers = numbers();
        let of = |name: &str| numbers.iter().find(|number| number.name == name).unwrap().value;
        assert!(of("process_resident_memory_bytes") > 1e5 && of("process_resident_memory_bytes") < 1e12);
        assert!(of("process_virtual_memory_bytes") >= of("process_resident_memory_bytes"));
        assert!(of("process_open_fds") >= 3.0 && of("process_max_fds") >= of("process_open_fds"));
        assert!(of("process_cpu_seconds_total") >= 0.0);
        assert!(numbers.iter().all(|number| HELP.iter().any(|(name, _)| *name == number.name)));
    }
}
