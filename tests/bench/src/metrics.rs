//! What metrics cost. They cannot be switched off, so the processor is asked: of the samples that are taken while the
//! gateway works, how many are in telemetry's sources, inlined into other functions or not?

use std::{
    collections::HashMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::rounds::Contender;

/// The share of the contender's processor time.
pub(crate) fn share(contender: &mut Contender<'_>, binary: &Path, folder: &Path) -> anyhow::Result<f64> {
    let pid = contender.server.pid();
    let file = folder.join("perf.data");
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-F", "5000", "-p"]).arg(pid.to_string()).arg("-o").arg(&file);
    let mut recorder = perf.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run perf")?;
    for _ in 0..3 {
        (contender.load)()?;
    }
    // SAFETY: a plain system call; the process is our child and has not been waited for.
    unsafe { libc::kill(recorder.id() as i32, libc::SIGINT) };
    recorder.wait()?;
    let output = Command::new("perf").args(["script", "-F", "ip", "-i"]).arg(&file).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let samples: Vec<u64> = text.lines().filter_map(|line| u64::from_str_radix(line.trim(), 16).ok()).collect();
    ensure!(samples.len() > 1000, "perf took only {} samples", samples.len());

    let (start, end) = loaded(pid, binary)?;
    let mut addresses: HashMap<u64, usize> = HashMap::new();
    for sample in samples.iter().filter(|sample| (start..end).contains(sample)) {
        *addresses.entry(sample - start).or_default() += 1;
    }
    let addresses: Vec<(u64, usize)> = addresses.into_iter().collect();
    let inside = in_telemetry(binary, &addresses)?;
    Ok(inside as f64 / samples.len() as f64)
}

/// Where the program is in the memory of its process.
fn loaded(pid: u32, binary: &Path) -> anyhow::Result<(u64, u64)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let binary = std::fs::canonicalize(binary)?.display().to_string();
    let ranges = maps.lines().filter(|line| line.ends_with(&binary)).filter_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    });
    let (starts, ends): (Vec<_>, Vec<_>) = ranges.unzip();
    let start = starts.into_iter().min().with_context(|| format!("{binary} is not mapped"))?;
    Ok((start, ends.into_iter().max().unwrap_or(start)))
}

/// How many samples are at addresses of which the source, or that of a function around it, is telemetry's.
fn in_telemetry(binary: &Path, addresses: &[(u64, usize)]) -> anyhow::Result<usize> {
    let mut addr2line = Command::new("addr2line");
    addr2line.args(["-a", "-i", "-e"]).arg(binary).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = addr2line.spawn().context("cannot run addr2line")?;
    let mut input = child.stdin.take().context("addr2line has no input")?;
    let text: String = addresses.iter().map(|(address, _)| format!("{address:x}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = String::from_utf8(child.wait_with_output()?.stdout)?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let counts: HashMap<u64, usize> = addresses.iter().copied().collect();
    // "0x…" on a line of its own, and then a line for each function.
    let mut sum = 0;
    let mut count = 0;
    for line in output.lines() {
        if let Some(address) = line.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            count = counts.get(&address).copied().unwrap_or(0);
        } else if line.contains("gateway/src/telemetry/") {
            sum += std::mem::take(&mut count);
        }
    }
    Ok(sum)
}
