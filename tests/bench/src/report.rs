//! Numbers for people: lines as they are found, and the whole as RESULTS.md.

use std::fmt::Write as _;

use crate::{
    peers::{Chain, Kind, SMALL_CHAINS},
    rounds::Rounds,
    run::{Row, Run},
    statistics::{Median, median},
};

/// What the run has found.
#[derive(Default)]
pub(crate) struct Report {
    versions: Vec<(Kind, String)>,
    rows: Vec<Row>,
    /// Sections that are text already: title and what is below it.
    sections: Vec<(&'static str, String)>,
}

impl Report {
    pub(crate) fn begin(run: &Run) -> anyhow::Result<Report> {
        let mut versions = Vec::new();
        for kind in Kind::ALL {
            if kind != Kind::Baseline || run.site.baseline.is_some() {
                versions.push((kind, kind.version(&run.site)?));
            }
        }
        for (kind, version) in &versions {
            println!("{kind}: {version}");
        }
        Ok(Report { versions, ..Report::default() })
    }

    pub(crate) fn add_row(&mut self, row: Row) {
        print!("{}", lines(&row));
        self.rows.push(row);
    }

    /// What each plugin adds: the cost of a chain minus that of none, divided by its length.
    pub(crate) fn add_plugins(&mut self, rounds: &Rounds) {
        let mut text = "| plugins | gateway µs | Envoy µs | added by each, gateway | in Envoy | ratio |\n|---|---|---|---|---|---|\n".to_owned();
        for (position, chain) in SMALL_CHAINS.iter().enumerate() {
            let (ours, envoy) = (rounds.of(position), rounds.of(SMALL_CHAINS.len() + position));
            let _ = write!(text, "| {chain} | {} | {} |", micros(&ours), micros(&envoy));
            let parts = match chain {
                Chain::AddHeader(0) => {
                    text += " – | – | – |\n";
                    continue;
                }
                Chain::AddHeader(count) => *count,
                Chain::HostCalls | Chain::RewriteBody => 1,
            };
            let added = |first: usize| -> Vec<f64> {
                rounds.rounds.iter().map(|round| (round[first + position] - round[first]) / parts as f64).collect()
            };
            let (ours, envoy) = (added(0), added(SMALL_CHAINS.len()));
            // Of the medians: what one plugin adds in one round can be nothing, and less.
            let each = median(&mut ours.clone());
            let ratio = each / median(&mut envoy.clone());
            let (most, at_most) = match chain {
                Chain::AddHeader(_) => (format!(" ≤ 0.6 µs {}", verdict(each <= 600.0)), 0.2),
                Chain::HostCalls | Chain::RewriteBody => (String::new(), 0.15),
            };
            let target = format!(" ≤ {at_most:.2} {}", verdict(ratio <= at_most));
            let _ = writeln!(text, " {}{most} | {} | {ratio:.2}{target} |", spread(&ours), spread(&envoy));
        }
        let _ = writeln!(text, "\n{}.", rounds.remark());
        self.add("Plugins: the same modules, GET, 128 B", text);
    }

    /// What rewriting a body adds, against Envoy.
    pub(crate) fn add_bodies(&mut self, rounds: &Rounds) {
        let added = |without: usize| -> Vec<f64> {
            rounds.rounds.iter().map(|round| round[without + 1] - round[without]).collect()
        };
        let (ours, envoy) = (added(0), added(2));
        let ratio = median(&mut ours.clone()) / median(&mut envoy.clone());
        let text = format!(
            "{} µs without and {} µs with `rewrite-body`, which holds the body of 64 KB and changes a letter; in Envoy {} and \
             {}. Added: {} µs, in Envoy {}; ratio {ratio:.2} ≤ 0.50 {}. {}.\n",
            micros(&rounds.of(0)),
            micros(&rounds.of(1)),
            micros(&rounds.of(2)),
            micros(&rounds.of(3)),
            spread(&ours),
            spread(&envoy),
            verdict(ratio <= 0.5),
            rounds.remark()
        );
        self.add("Plugins: rewriting a body", text);
    }

    pub(crate) fn add_plugin_memory(&mut self, [ours, envoy]: [f64; 2]) {
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        let text = format!(
            "Ten times `add-header` take {:.1} MiB ≤ 20 {} with one worker, compiled code included; in Envoy {:.1} MiB.\n",
            mebibytes(ours),
            verdict(mebibytes(ours) <= 20.0),
            mebibytes(envoy)
        );
        self.add("Plugins: memory", text);
    }

    pub(crate) fn add_access_log(&mut self, rounds: &Rounds) {
        let added: Vec<f64> = rounds.rounds.iter().map(|round| round[1] - round[0]).collect();
        let met = verdict(median(&mut added.clone()) <= 1000.0);
        let text = format!(
            "{} µs without, {} µs with it in JSON to a file: {} µs a request; ≤ 1 µs {met}. {}.\n",
            micros(&rounds.of(0)),
            micros(&rounds.of(1)),
            spread(&added),
            rounds.remark()
        );
        self.add("Access log", text);
    }

    pub(crate) fn add_metrics(&mut self, micros: f64) {
        let text = format!(
            "{micros:.2} µs a request; ≤ 0.3 µs {}. Metrics cannot be switched off: this is the share of samples (perf, 5,000 a \
             second) that fall into the source files of `gateway/src/telemetry`, inlined ones included, times the cost of a \
             request. Work that other files do for metrics alone, such as looking at a clock, is not in it.\n",
            verdict(micros <= 0.3)
        );
        self.add("Metrics", text);
    }

    pub(crate) fn add_memory(&mut self, found: &[(Kind, [f64; 2])]) {
        let mut text = "| | plain | TLS 1.3 |\n|---|---|---|\n".to_owned();
        for (kind, [plain, tls]) in found {
            let target = |bytes: f64, most: f64| match kind {
                Kind::Gateway => format!(" ≤ {most:.0} kB {}", verdict(bytes <= most * 1e3)),
                _ => String::new(),
            };
            let (ours_plain, ours_tls) = (target(*plain, 20.0), target(*tls, 40.0));
            let _ = writeln!(text, "| {kind} | {:.1} kB{ours_plain} | {:.1} kB{ours_tls} |", plain / 1e3, tls / 1e3);
        }
        text += "\nSlope of Pss from 500 to 10,000 connections, each of which has had one request; a new process for each number. \
                 What the kernel holds for a connection is not in it.\n";
        self.add("Memory of an idle connection", text);
    }

    fn add(&mut self, title: &'static str, text: String) {
        println!("{title}\n{text}");
        self.sections.push((title, text));
    }

    pub(crate) fn markdown(&self, run: &Run) -> String {
        let mut text = format!(
            "# The gateway beside nginx, HAProxy and Envoy\n\n\
             Written by `make bench` on {}, {} rounds. {}\n\n\
             {METHOD}\n\
             | | version |\n|---|---|\n",
            command_line("date", &["--utc", "+%Y-%m-%d"]),
            run.rounds,
            machine()
        );
        for (kind, version) in &self.versions {
            // Envoy's binary begins with its path.
            let version = version.rsplit_once(": ").map_or(version.as_str(), |(_, version)| version);
            let _ = writeln!(text, "| {kind} | {version} |");
        }
        let _ = write!(text, "\n## Processor time\n\n{TABLE}");
        for row in &self.rows {
            text += &table_row(row);
        }
        let disturbed: Vec<_> =
            self.rows.iter().filter(|row| row.rounds.disturbed).map(|row| row.workload.name).collect();
        if !disturbed.is_empty() {
            let _ = write!(text, "\nThe machine was disturbed, nothing was dropped: {}.\n", disturbed.join(", "));
        }
        for (title, section) in &self.sections {
            let _ = write!(text, "\n## {title}\n\n{section}");
        }
        text
    }
}

const METHOD: &str = include_str!("../METHOD.md");

const TABLE: &str = "\
| workload | gateway | nginx | HAProxy | Envoy | ours / nginx | ours / HAProxy | ours / Envoy | p50, p99 (nginx), µs | system calls | rounds |\n\
|---|---|---|---|---|---|---|---|---|---|---|\n";

fn table_row(row: &Row) -> String {
    let mut text = format!("| `{}`: {} |", row.workload.name, row.workload.title);
    for position in 0..row.rounds.names.len() {
        let _ = write!(text, " {} |", micros(&row.rounds.of(position)));
    }
    for (position, target) in (1..row.rounds.names.len()).zip(targets(row)) {
        let _ = write!(text, " {} |", ratio(&row.rounds.ratios(0, position), target));
    }
    match &row.latency {
        Some(at) => {
            let _ = write!(
                text,
                " {:.0}, {:.0} ({:.0}, {:.0}) at {:.0}/s: p99 {} |",
                at.p50[0],
                at.p99[0],
                at.p50[1],
                at.p99[1],
                at.rate,
                ratio_of(at.p99_ratio, Some(1.2))
            );
        }
        None => text += " – |",
    }
    let counts: Vec<_> = row
        .syscalls
        .iter()
        .map(|count| match count {
            Ok(count) => format!("{count:.2}"),
            Err(_) => "?".to_owned(),
        })
        .collect();
    let dropped = match row.rounds.dropped {
        0 => String::new(),
        dropped => format!(", {dropped} dropped"),
    };
    let _ = writeln!(text, " {} | {}{dropped} |", counts.join(" / "), row.rounds.rounds.len());
    text
}

/// The same for a terminal.
fn lines(row: &Row) -> String {
    let mut text = format!("{}: {} ({})\n", row.workload.name, row.workload.title, row.rounds.remark());
    let targets: Vec<_> = std::iter::once(None).chain(targets(row)).chain([None]).collect();
    for (position, name) in row.rounds.names.iter().enumerate() {
        let _ = write!(text, "  {name:9} {:>24} µs", spread(&row.rounds.of(position)));
        let _ = match &row.syscalls[position] {
            Ok(count) => write!(text, "  {count:5.2} system calls"),
            Err(error) => write!(text, "  system calls: {error}"),
        };
        if position > 0 {
            let _ = write!(text, "   ours / it {}", ratio(&row.rounds.ratios(0, position), targets[position]));
        }
        text.push('\n');
    }
    if let Some(at) = &row.latency {
        let _ = writeln!(
            text,
            "  at {:.0} a second: p50 {:.0} µs (nginx {:.0}), p99 {:.0} µs (nginx {:.0}), p99 ratio {}",
            at.rate,
            at.p50[0],
            at.p50[1],
            at.p99[0],
            at.p99[1],
            ratio_of(at.p99_ratio, Some(1.2))
        );
    }
    text
}

/// What the ratios should be at most: nginx, HAProxy, Envoy.
fn targets(row: &Row) -> [Option<f64>; 3] {
    row.workload.targets.map_or([None; 3], |targets| targets.map(Some))
}

fn ratio(ratios: &[f64], target: Option<f64>) -> String {
    ratio_of(Median::of(ratios), target)
}

fn ratio_of(ratio: Median, target: Option<f64>) -> String {
    let text = format!("{:.2} [{:.2}–{:.2}]", ratio.value, ratio.low, ratio.high);
    match target {
        Some(target) => format!("{text} ≤ {target:.2} {}", verdict(ratio.value <= target)),
        None => text,
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "✓" } else { "✗" }
}

/// Nanoseconds as microseconds.
fn micros(nanos: &[f64]) -> String {
    format!("{:.2}", median(&mut nanos.to_vec()) / 1e3)
}

fn spread(nanos: &[f64]) -> String {
    let Median { value, low, high } = Median::of(nanos);
    format!("{:.2} [{:.2}–{:.2}]", value / 1e3, low / 1e3, high / 1e3)
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    // Not those that we may use: we have tied ourselves to one.
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = command_line("uname", &["--kernel-release"]);
    format!("{}, kernel {kernel}, {cores} processors.", model.trim_start_matches([':', '\t', ' ']))
}

fn command_line(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
