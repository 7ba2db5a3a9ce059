//! The memory of the gateway, all along.

use crate::tally::Table;
use anyhow::Context as _;
use gateway_tests::process::memory_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_secs(2);

pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(f64, f64)>>,
    length: Duration,
}

/// Seconds and bytes.
pub(crate) struct Samples {
    all: Vec<(f64, f64)>,
    length: Duration,
}

impl Watch {
    /// Begins to look at the process. `length`: how long the traffic takes.
    pub(crate) fn start(process: u32, length: Duration) -> Watch {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let begin = Instant::now();
            let mut samples = Vec::new();
            let mut turn = tokio::time::interval(EVERY);
            let mut said = 0;
            while !stopped.load(Relaxed) {
                turn.tick().await;
                // If it is gone, everything else says so, too.
                let Ok(bytes) = memory_of(process) else { break };
                let seconds = begin.elapsed().as_secs_f64();
                samples.push((seconds, bytes as f64));
                if seconds as u64 / 60 > said {
                    said = seconds as u64 / 60;
                    println!("  {said} min: {:.1} MB", bytes as f64 / 1e6);
                }
            }
            samples
        });
        Watch { stop, task, length }
    }

    pub(crate) async fn end(self) -> anyhow::Result<Samples> {
        self.stop.store(true, Relaxed);
        Ok(Samples { all: self.task.await.context("the watch")?, length: self.length })
    }
}

impl Samples {
    pub(crate) fn report(&self, table: &mut Table) {
        // Until then pools, caches and the allocator fill.
        let warm = (self.length.as_secs_f64() * 0.4).min(240.0);
        let after: Vec<_> = self.all.iter().copied().filter(|(seconds, _)| *seconds >= warm).collect();
        let slope = slope(&after) * 600.0 / 1e6;
        let largest = self.all.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max) / 1e6;
        table.row("", "memory at most".to_owned(), format!("{largest:.1} MB"), largest < 400.0);
        // What an allocator keeps comes and goes by a few per cent; in a short run that alone is a slope.
        let room = 1.0 + 600.0 / (self.length.as_secs_f64() - warm) * 0.02 * largest;
        let what = format!("memory per 10 minutes, after {warm:.0} s, from {} samples", after.len());
        table.row("", what, format!("{slope:+.2} MB (room: {room:.2})"), slope < room);
    }
}

/// The line through points with the least squares: how much it rises per second.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let middle = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / count;
    let (x, y) = (middle(|point| point.0), middle(|point| point.1));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x) * (point.0 - x)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}
