//! Durations as Istio's resources write them: `1h30m`, `2.5s`, `100ms` (Go's syntax, which the CRDs require).

use std::time::Duration;

/// Longest duration that is accepted, ten years: beyond that timers overflow and nobody means it.
const LONGEST: Duration = Duration::from_secs(315_360_000);

/// Reads a duration; the error says what would be right. Less than a millisecond is refused, as by Istio's CRDs.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is not a duration; write for example 3s, 500ms or 1m30s");
    let mut nanoseconds = 0.0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (number, behind) = rest.split_at(digits);
        let units = [("ms", 1e6), ("us", 1e3), ("µs", 1e3), ("ns", 1.0), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| behind.starts_with(unit)).ok_or_else(malformed)?;
        nanoseconds += number.parse::<f64>().map_err(|_| malformed())? * factor;
        rest = behind.get(unit.len()..).unwrap_or_default();
    }
    let duration = Duration::try_from_secs_f64(nanoseconds / 1e9).map_err(|_| malformed())?;
    if text.is_empty() {
        Err(malformed())
    } else if duration < Duration::from_millis(1) {
        Err(format!("{text:?}: duration must be greater than 1ms"))
    } else if duration > LONGEST {
        Err(format!("{text:?}: duration must be shorter than ten years"))
    } else {
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        for (text, millis) in
            [("3s", 3000), ("1.5s", 1500), ("100ms", 100), ("1h2m3s", 3_723_000), (".5s", 500), ("1000us", 1)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "1..5s", "0s", "999us", "1e3s", "99999999h", "5s ", "."] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
