//! The budgets of a plugin that users can set, by name: `limits` in the settings of an upload and in the annotations of a
//! resource. Everything that a running plugin may use is in [`proxy_wasm_host::Limits`]; this is the list of its names.

use std::time::Duration;

use proxy_wasm_host::Limits;
use serde_json::Value;

use super::settings::Mistakes;
use Unit::{Bytes, Count, Time};

/// Budgets that differ from the gateway's, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budgets(Vec<(&'static Budget, u64)>);

/// One budget.
#[derive(Debug)]
struct Budget {
    name: &'static str,
    unit: Unit,
    /// What may be set, in the unit.
    least: u64,
    most: u64,
    /// What is wrong with anything else.
    rule: &'static str,
    set: fn(&mut Limits, u64),
}

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Budget {}

#[derive(Debug, Clone, Copy)]
enum Unit {
    /// Milliseconds: `50ms`, `2s`, `5m`.
    Time,
    /// Bytes: `65536`, `512Ki`, `64Mi`, `1Gi`.
    Bytes,
    /// A number of things.
    Count,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The most of each is what one plugin may take of a gateway without being a danger to the others.
const BUDGETS: [Budget; 23] = [
    row("callbackCpu", Time, 10, 10_000, "must be a time from 10ms to 10s", |limits, value| {
        limits.callback_cpu = Duration::from_millis(value)
    }),
    row("callbackWall", Time, 10, 60_000, "must be a time from 10ms to 1m", |limits, value| {
        limits.callback_wall = Duration::from_millis(value)
    }),
    row("startCpu", Time, 10, 60_000, "must be a time from 10ms to 1m", |limits, value| {
        limits.start_cpu = Duration::from_millis(value)
    }),
    row("startWall", Time, 10, 300_000, "must be a time from 10ms to 5m", |limits, value| {
        limits.start_wall = Duration::from_millis(value)
    }),
    row("memory", Bytes, 64 * KIB, GIB, "must be a size from 64Ki to 1Gi", |limits, value| {
        limits.memory_bytes = size(value)
    }),
    row("pause", Time, 10, 3_600_000, "must be a time from 10ms to 60m", |limits, value| {
        limits.pause = Duration::from_millis(value)
    }),
    row("body", Bytes, 0, 64 * MIB, "must be a size of at most 64Mi", |limits, value| limits.body_bytes = size(value)),
    row("headerEdits", Bytes, 0, 16 * MIB, "must be a size of at most 16Mi", |limits, value| {
        limits.header_edit_bytes = size(value)
    }),
    row("headerFields", Count, 1, 1_000, "must be a number from 1 to 1000", |limits, value| {
        limits.header_fields = size(value)
    }),
    row("logLine", Bytes, 64, 64 * KIB, "must be a size from 64 to 64Ki", |limits, value| {
        limits.log_line_bytes = size(value)
    }),
    row("logLines", Count, 0, 100_000, "must be a number of at most 100000", |limits, value| {
        limits.log_lines_per_second = u32::try_from(value).unwrap_or(u32::MAX)
    }),
    row("logBytes", Bytes, 0, 16 * MIB, "must be a size of at most 16Mi", |limits, value| {
        limits.log_bytes_per_second = size(value)
    }),
    row("metrics", Count, 0, 100_000, "must be a number of at most 100000", |limits, value| {
        limits.metrics = size(value)
    }),
    row("sharedDataKeys", Count, 0, 1_000_000, "must be a number of at most 1000000", |limits, value| {
        limits.shared_data_keys = size(value)
    }),
    row("sharedData", Bytes, 0, GIB, "must be a size of at most 1Gi", |limits, value| {
        limits.shared_data_bytes = size(value)
    }),
    row("queues", Count, 0, 1_000, "must be a number of at most 1000", |limits, value| limits.queues = size(value)),
    row("queueItems", Count, 0, 1_000_000, "must be a number of at most 1000000", |limits, value| {
        limits.queue_items = size(value)
    }),
    row("queueBytes", Bytes, 0, GIB, "must be a size of at most 1Gi", |limits, value| limits.queue_bytes = size(value)),
    row("properties", Bytes, 0, MIB, "must be a size of at most 1Mi", |limits, value| {
        limits.property_bytes = size(value)
    }),
    row("callsPerStream", Count, 0, 1_000, "must be a number of at most 1000", |limits, value| {
        limits.calls_per_stream = size(value)
    }),
    row("calls", Count, 0, 100_000, "must be a number of at most 100000", |limits, value| {
        limits.calls_in_flight = size(value)
    }),
    row("callTime", Time, 10, 3_600_000, "must be a time from 10ms to 60m", |limits, value| {
        limits.call_time = Duration::from_millis(value)
    }),
    row("tickPeriod", Time, 10, 3_600_000, "must be a time from 10ms to 60m", |limits, value| {
        limits.tick_period = Duration::from_millis(value)
    }),
];

/// What a name that is not among them is answered with.
const NAMES: &str = "unknown budget; there are callbackCpu, callbackWall, startCpu, startWall, memory, pause, body, headerEdits, \
                     headerFields, logLine, logLines, logBytes, metrics, sharedDataKeys, sharedData, queues, queueItems, \
                     queueBytes, properties, callsPerStream, calls, callTime and tickPeriod";

const fn row(
    name: &'static str,
    unit: Unit,
    least: u64,
    most: u64,
    rule: &'static str,
    set: fn(&mut Limits, u64),
) -> Budget {
    Budget { name, unit, least, most, rule, set }
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl Unit {
    /// A value as users write it.
    fn read(self, value: &Value) -> Option<u64> {
        let Some(text) = value.as_str() else {
            return value.as_u64().filter(|_| !matches!(self, Self::Time));
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits)?;
        let factor = match (self, unit) {
            (Self::Time, "ms") | (Self::Bytes | Self::Count, "") => 1,
            (Self::Time, "s") => 1_000,
            (Self::Time, "m") => 60_000,
            (Self::Bytes, "Ki") => KIB,
            (Self::Bytes, "Mi") => MIB,
            (Self::Bytes, "Gi") => GIB,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(factor)
    }

    /// The other way round, with the largest unit that leaves a whole number.
    fn write(self, value: u64) -> Value {
        let units: &[(u64, &str)] = match self {
            Self::Time => &[(60_000, "m"), (1_000, "s"), (1, "ms")],
            Self::Bytes => &[(GIB, "Gi"), (MIB, "Mi"), (KIB, "Ki")],
            Self::Count => &[],
        };
        let fitting = units.iter().find(|(factor, _)| value > 0 && value.is_multiple_of(*factor));
        fitting.map_or_else(|| value.into(), |(factor, unit)| format!("{}{unit}", value / factor).into())
    }
}

impl Budgets {
    /// Reads `{"callbackCpu": "50ms", …}`. Mistakes name the budget below `field`.
    pub(super) fn read(field: &str, value: &Value, mistakes: &mut Mistakes) -> Self {
        let mut budgets = Self::default();
        let Some(object) = value.as_object() else {
            mistakes.add(field, "must be an object of budgets and their values, as {callbackCpu: 50ms, memory: 64Mi}");
            return budgets;
        };
        for (name, value) in object {
            let Some(budget) = BUDGETS.iter().find(|budget| budget.name == name) else {
                mistakes.add(&format!("{field}.{name}"), NAMES);
                continue;
            };
            match budget.unit.read(value).filter(|value| (budget.least..=budget.most).contains(value)) {
                Some(value) => budgets.0.push((budget, value)),
                None => mistakes.add(&format!("{field}.{name}"), budget.rule),
            }
        }
        budgets
    }

    /// The limits of a plugin where those of the gateway are `limits`.
    pub(super) fn apply(&self, mut limits: Limits) -> Limits {
        for (budget, value) in &self.0 {
            (budget.set)(&mut limits, *value);
        }
        limits
    }

    /// As they are written; `None` if there are none.
    pub(super) fn write(&self) -> Option<Value> {
        let written = self.0.iter().map(|(budget, value)| (budget.name.to_owned(), budget.unit.write(*value)));
        (!self.0.is_empty()).then(|| Value::Object(written.collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Budgets, String> {
        let mut mistakes = Mistakes::default();
        let budgets = Budgets::read("limits", value, &mut mistakes);
        mistakes.none(budgets).map_err(|error| format!("{}: {}", error.field.unwrap(), error.message))
    }

    #[test]
    fn what_is_set_is_what_limits_a_plugin() {
        let written = json!({"callbackCpu": "20ms", "pause": "2m", "memory": "1Gi", "body": "512Ki", "logLines": 7, "queueBytes": 100});
        let budgets = read(&written).unwrap();
        let limits = budgets.apply(Limits::default());
        assert_eq!((limits.callback_cpu, limits.pause), (Duration::from_millis(20), Duration::from_secs(120)));
        assert_eq!((limits.memory_bytes, limits.body_bytes), (1 << 30, 512 << 10));
        assert_eq!((limits.log_lines_per_second, limits.queue_bytes), (7, 100));
        assert_eq!(limits.start_cpu, Limits::default().start_cpu, "the rest is the gateway's");
        assert_eq!(budgets.write(), Some(written), "and is shown as it was written");
        assert_eq!(read(&json!({})).unwrap().write(), None);
    }

    #[test]
    fn mistakes_name_the_budget_and_what_it_may_be() {
        for (value, words) in [
            (json!([]), "limits: must be an object"),
            (json!({"cpu": "50ms"}), "limits.cpu: unknown budget; there are callbackCpu,"),
            (json!({"callbackCpu": 50}), "limits.callbackCpu: must be a time from 10ms to 10s"),
            (json!({"callbackCpu": "50"}), "limits.callbackCpu: must be a time"),
            (json!({"callbackCpu": "11s"}), "limits.callbackCpu: must be a time"),
            (json!({"memory": "2Gi"}), "limits.memory: must be a size from 64Ki to 1Gi"),
            (json!({"memory": "99999999999999999999Gi"}), "limits.memory: must be a size"),
            (json!({"memory": -1}), "limits.memory: must be a size"),
            (json!({"metrics": "1Ki"}), "limits.metrics: must be a number"),
            (json!({"pause": "5é"}), "limits.pause: must be a time"),
        ] {
            assert!(read(&value).unwrap_err().contains(words), "{value}: {:?}", read(&value));
        }
    }

    #[test]
    fn every_budget_has_a_name_of_its_own_that_the_list_shows_and_sets_something() {
        for budget in &BUDGETS {
            assert_eq!(BUDGETS.iter().filter(|other| other.name == budget.name).count(), 1);
            assert!(NAMES.contains(budget.name), "{}", budget.name);
            let with = |value| {
                let mut limits = Limits::default();
                (budget.set)(&mut limits, value);
                format!("{limits:?}")
            };
            assert_ne!(with(budget.least), with(budget.most), "{}", budget.name);
        }
    }
}
