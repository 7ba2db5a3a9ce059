//! Rounds: every contender once, in random order; what a round says is a ratio within it, because the machine is
//! another one a minute later.

use std::{fs, io::Write as _, os::unix::net::UnixStream, time::Instant};

use anyhow::Context as _;

use crate::{
    process::{self, PROXY_CPU, Server},
    statistics::median,
};

/// One that is measured: a process, and something that sends it work and counts.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    pub(crate) server: &'a Server,
    pub(crate) load: Box<dyn FnMut() -> anyhow::Result<u64> + 'a>,
}

/// Nanoseconds of processor time per operation: for each round that counts, one number per contender.
#[derive(Debug)]
pub(crate) struct Rounds {
    pub(crate) names: Vec<String>,
    pub(crate) rounds: Vec<Vec<f64>>,
    /// Rounds in which the machine was disturbed.
    pub(crate) dropped: usize,
    /// It was, in most of them; none was dropped then.
    pub(crate) disturbed: bool,
}

impl Rounds {
    /// How many rounds the numbers come from, for people.
    pub(crate) fn remark(&self) -> String {
        let counted = self.rounds.len();
        match self.disturbed {
            true => format!("{counted} rounds, DISTURBED: something else kept the machine busy"),
            false => format!("{counted} rounds, {} dropped", self.dropped),
        }
    }

    /// All numbers of the contender with this position.
    pub(crate) fn of(&self, contender: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[contender]).collect()
    }

    /// Its number divided by another's, round by round.
    pub(crate) fn ratios(&self, contender: usize, other: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[contender] / round[other]).collect()
    }
}

/// Measures until `wanted` rounds count, or half as many again were tried.
pub(crate) fn run(contenders: &mut [Contender<'_>], wanted: usize) -> anyhow::Result<Rounds> {
    // Caches, pools and branch predictors: once around for nothing.
    for contender in contenders.iter_mut() {
        visit(contender)?;
    }
    let mut tried = Vec::new();
    let most = wanted + wanted.div_ceil(2);
    loop {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        fastrand::shuffle(&mut order);
        let mut round = vec![0.0; contenders.len()];
        let before = Machine::look()?;
        let (mut used, mut speeds) = (0, vec![calibrate()?]);
        for position in order {
            let (operations, nanos) = visit(&mut contenders[position])?;
            round[position] = nanos as f64 / operations as f64;
            used += nanos;
            speeds.push(calibrate()?);
        }
        let disturbed = before.disturbed(used)?;
        tried.push(Tried { round, speed: median(&mut speeds), disturbed });
        eprint!(".");
        std::io::stderr().flush()?;
        let usual = median(&mut tried.iter().map(|tried| tried.speed).collect::<Vec<_>>());
        let good = tried.iter().filter(|tried| tried.counts(usual)).count();
        if good >= wanted || tried.len() >= most {
            eprintln!();
            let names = contenders.iter().map(|contender| contender.name.clone()).collect();
            let all = tried.len();
            // On a machine that is never quiet there is nothing better than everything, and the report says so.
            let disturbed = good < wanted.div_ceil(2);
            let counted = tried.into_iter().filter(|tried| disturbed || tried.counts(usual));
            let rounds: Vec<_> = counted.map(|tried| tried.round).collect();
            return Ok(Rounds { names, dropped: all - rounds.len(), rounds, disturbed });
        }
    }
}

struct Tried {
    round: Vec<f64>,
    speed: f64,
    disturbed: bool,
}

impl Tried {
    fn counts(&self, usual: f64) -> bool {
        !self.disturbed && (self.speed / usual - 1.0).abs() < 0.05
    }
}

/// Operations, and what they cost.
fn visit(contender: &mut Contender<'_>) -> anyhow::Result<(u64, u64)> {
    let before = contender.server.cpu_nanos()?;
    let operations = (contender.load)().with_context(|| contender.name.clone())?;
    let nanos = contender.server.cpu_nanos()? - before;
    anyhow::ensure!(operations > 0, "{}: nothing was done", contender.name);
    Ok((operations, nanos))
}

/// Nanoseconds for sending and receiving 200 bytes on the proxies' processor, which nobody should be using now: tells
/// whether the machine is as fast as it was.
fn calibrate() -> anyhow::Result<f64> {
    let thread = std::thread::spawn(|| -> std::io::Result<f64> {
        use std::io::Read as _;
        process::pin(PROXY_CPU)?;
        let (mut one, mut other) = UnixStream::pair()?;
        let mut buffer = [0; 200];
        let start = Instant::now();
        let mut turns = 0_u32;
        while start.elapsed().as_millis() < 20 {
            one.write_all(&buffer)?;
            other.read_exact(&mut buffer)?;
            turns += 1;
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(turns))
    });
    Ok(thread.join().map_err(|_| anyhow::anyhow!("the calibration panicked"))??)
}

/// What the processor of the proxies has done since boot, in ticks.
struct Machine {
    busy: u64,
    stolen: u64,
    when: Instant,
}

/// USER_HZ is 100 on every Linux that this runs on.
const TICK_NANOS: u64 = 10_000_000;

impl Machine {
    fn look() -> anyhow::Result<Machine> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let label = format!("cpu{PROXY_CPU} ");
        let line = text.lines().find(|line| line.starts_with(&label)).context("no such processor in /proc/stat")?;
        let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal
        let [user, nice, system, _, _, irq, softirq, stolen, ..] = ticks[..] else {
            anyhow::bail!("unexpected line in /proc/stat: {line}");
        };
        Ok(Machine { busy: user + nice + system + irq + softirq, stolen, when: Instant::now() })
    }

    /// More than 10 % of the time used by somebody who is not measured, or more than 1 % taken by the host.
    fn disturbed(&self, used: u64) -> anyhow::Result<bool> {
        let now = Machine::look()?;
        let elapsed = self.when.elapsed().as_nanos() as f64;
        let others = ((now.busy - self.busy) * TICK_NANOS).saturating_sub(used) as f64;
        let stolen = ((now.stolen - self.stolen) * TICK_NANOS) as f64;
        Ok(others / elapsed > 0.10 || stolen / elapsed > 0.01)
    }
}
