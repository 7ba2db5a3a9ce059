//! Numbers as text for people.

use std::fmt::Write as _;

use crate::{peers::CHAINS, rounds::Rounds, statistics::Median, workloads::Workload};

/// Microseconds, and the ratios of the first contender to the others.
pub(crate) fn against_peers(workload: &Workload, rounds: &Rounds) -> String {
    let mut text = format!("{}: {} ({})\n", workload.name, workload.title, rounds.remark());
    for (position, name) in rounds.names.iter().enumerate() {
        let cost = Median::of(&rounds.of(position));
        let _ = write!(text, "  {name:10} {:9.2} µs [{:.2}–{:.2}]", cost.value / 1e3, cost.low / 1e3, cost.high / 1e3);
        if position > 0 {
            let ratio = Median::of(&rounds.ratios(0, position));
            let _ = write!(text, "   ours / it {:.3} [{:.3}–{:.3}]", ratio.value, ratio.low, ratio.high);
            if let Some(targets) = workload.targets {
                let target = targets[position - 1];
                let met = if ratio.value <= target { "met" } else { "MISSED" };
                let _ = write!(text, "  ≤ {target:.2} {met}");
            }
        }
        text.push('\n');
    }
    text
}

/// What each plugin adds: the cost of a chain minus that of none, divided by its length.
pub(crate) fn plugins(rounds: &Rounds) -> String {
    let mut text = format!("plugins ({})\n", rounds.remark());
    for (position, name) in rounds.names.iter().enumerate() {
        let cost = Median::of(&rounds.of(position));
        let _ =
            writeln!(text, "  {name:24} {:9.2} µs [{:.2}–{:.2}]", cost.value / 1e3, cost.low / 1e3, cost.high / 1e3);
    }
    for (position, chain) in CHAINS.iter().enumerate().skip(1) {
        let crate::peers::Chain::AddHeader(count) = *chain;
        let added = |round: &Vec<f64>, first: usize| (round[first + position] - round[first]) / count as f64;
        let ours = Median::of(&rounds.rounds.iter().map(|round| added(round, 0)).collect::<Vec<_>>());
        let envoy = Median::of(&rounds.rounds.iter().map(|round| added(round, CHAINS.len())).collect::<Vec<_>>());
        let ratio = Median::of(
            &rounds.rounds.iter().map(|round| added(round, 0) / added(round, CHAINS.len())).collect::<Vec<_>>(),
        );
        let _ = writeln!(
            text,
            "  {count:2} plugins: each adds {:.2} µs, in Envoy {:.2} µs: {:.3} [{:.3}–{:.3}] ≤ 0.20",
            ours.value / 1e3,
            envoy.value / 1e3,
            ratio.value,
            ratio.low,
            ratio.high
        );
    }
    text
}
