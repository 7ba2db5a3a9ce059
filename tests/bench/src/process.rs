//! Processes of the run: pinned to a processor, ended with this one, and what they cost.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

/// Where proxies run, alone.
pub(crate) const PROXY_CPU: usize = 0;
/// Where clients and the origin run.
pub(crate) const LOAD_CPU: usize = 1;

/// Puts the calling thread, and what it starts, on one processor.
pub(crate) fn pin(cpu: usize) -> std::io::Result<()> {
    // SAFETY: a cpu_set_t is plain data, for which zeroes are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours, and `cpu` is far below its size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set outlives the call; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// As many descriptors as there may be, for this process and those it starts.
pub(crate) fn raise_descriptor_limit() -> std::io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives both calls.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A command that will run on `cpu` and is killed when this process ends, however that comes about.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, cpu: usize) -> Command {
    let mut command = Command::new(program);
    let prepare = move || {
        pin(cpu)?;
        // SAFETY: a plain system call without pointers.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec it makes two system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    command
}

/// A server that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: std::path::PathBuf,
}

impl Server {
    /// Starts it; what it prints goes to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> anyhow::Result<Server> {
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Server { child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of what it printed, if it is no longer there.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("ended with {status}; {}", self.last_words()),
        }
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(15).collect();
        let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("{} ends with:\n{tail}", self.log.display())
    }

    /// Nanoseconds of processor time so far, of all its threads: the scheduler's own accounting, which is exact, where
    /// user and system time are sampled.
    pub(crate) fn cpu_nanos(&self) -> anyhow::Result<u64> {
        let tasks = format!("/proc/{}/task", self.pid());
        let mut sum = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}; {}", self.last_words()))? {
            let path = task?.path().join("schedstat");
            // A thread that has just ended takes its time with it; none of the proxies' working threads does.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let first = text.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
            sum += first.with_context(|| format!("{} has no number", path.display()))?;
        }
        Ok(sum)
    }

    /// Bytes of memory that are its own or its share (Pss).
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
