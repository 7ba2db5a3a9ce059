//! `2026-11-22T11:14:40.066Z` without a calendar library: the part before the milliseconds is kept for a second.

use std::time::{SystemTime, UNIX_EPOCH};

/// The last second of year 9999; later times are shown as this.
const LAST_SECOND: u64 = 253_402_300_799;

/// Formats UTC times with milliseconds.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: Option<u64>,
    /// `2026-11-22T11:14:40.`
    text: String,
}

impl Clock {
    /// Appends `time`; one before 1970 is shown as 1970.
    pub(super) fn write(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since_epoch.as_secs().min(LAST_SECOND);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = format_second(second);
        }
        out.extend_from_slice(self.text.as_bytes());
        let millis = since_epoch.subsec_millis() as u16;
        let digit = |n: u16| b'0' + (n % 10) as u8;
        out.extend_from_slice(&[digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }
}

/// Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so
/// that the leap day is the last of a year, and 400 years always have 146 097 days.
fn format_second(second: u64) -> String {
    let (days, of_day) = (second / 86_400 + 719_468, second % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::*;

    fn shown(clock: &mut Clock, millis: u64) -> String {
        let mut out = Vec::new();
        clock.write(UNIX_EPOCH + Duration::from_millis(millis), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_times() {
        let mut clock = Clock::default();
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_007, "2000-02-29T00:00:00.007Z"),
            (1_795_346_080_066, "2026-11-22T11:14:40.066Z"),
            (1_795_346_080_999, "2026-11-22T11:14:40.999Z"),
            (4_107_542_399_010, "2100-02-28T23:59:59.010Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59.000Z"),
            (999_999_999_999_000, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(shown(&mut clock, millis), text);
        }
    }

    #[test]
    fn agrees_with_http_dates() {
        let mut clock = Clock::default();
        for day in 0..80_000 {
            let second = day * 86_400 + day % 86_400;
            let http = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let text = shown(&mut clock, second * 1000);
            // "Sun, 22 Nov 2026 11:14:40 GMT"
            let month = 1 + ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
                .iter()
                .position(|name| *name == &http[8..11])
                .unwrap();
            let expected = format!("{}-{month:02}-{}T{}.000Z", &http[12..16], &http[5..7], &http[17..25]);
            assert_eq!(text, expected);
        }
    }
}
