//! `2026-11-22T11:14:40.066Z` without a calendar library: the part before the milliseconds is kept for a second.
//! Users may want another form.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

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

/// A user's way to write times: strftime's letters as Envoy takes them in `%START_TIME(…)%`, always UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TimeFormat(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(char),
    /// `%Y`, `%m`, …
    Letter(char),
    /// `%3f`, `%6f`, `%9f`: so many digits of the second.
    Fraction(u8),
    /// `%s`
    Epoch,
}

impl TimeFormat {
    /// Reads a format. The error is what is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                parts.push(Part::Literal(character));
                continue;
            }
            match characters.next() {
                Some('%') => parts.push(Part::Literal('%')),
                Some('s') => parts.push(Part::Epoch),
                Some('f') => parts.push(Part::Fraction(9)),
                Some('T') => parts.extend("H:M:S".chars().map(Part::of)),
                Some('F') => parts.extend("Y-m-d".chars().map(Part::of)),
                Some(letter @ ('Y' | 'm' | 'd' | 'e' | 'H' | 'M' | 'S' | 'b' | 'z' | 'Z')) => {
                    parts.push(Part::Letter(letter));
                }
                Some(digits @ '1'..='9') if characters.next() == Some('f') => {
                    parts.push(Part::Fraction(digits as u8 - b'0'));
                }
                other => return Err(format!("%{}", other.map(String::from).unwrap_or_default())),
            }
        }
        Ok(Self(parts.into()))
    }

    /// Appends `time`; one before 1970 is shown as 1970.
    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since_epoch.as_secs().min(LAST_SECOND);
        let civil = Civil::of(second);
        for part in &self.0 {
            // Writing to a vector does not fail.
            drop(match part {
                Part::Literal(character) => write!(out, "{character}"),
                Part::Epoch => write!(out, "{second}"),
                Part::Fraction(digits) => {
                    let nanos = format!("{:09}", since_epoch.subsec_nanos());
                    write!(out, "{}", nanos.get(..usize::from(*digits)).unwrap_or(&nanos))
                }
                Part::Letter('Y') => write!(out, "{:04}", civil.year),
                Part::Letter('m') => write!(out, "{:02}", civil.month),
                Part::Letter('d') => write!(out, "{:02}", civil.day),
                Part::Letter('e') => write!(out, "{:2}", civil.day),
                Part::Letter('H') => write!(out, "{:02}", civil.hour),
                Part::Letter('M') => write!(out, "{:02}", civil.minute),
                Part::Letter('S') => write!(out, "{:02}", civil.second),
                Part::Letter('b') => write!(out, "{}", civil.month_name()),
                Part::Letter('z') => write!(out, "+0000"),
                Part::Letter(_) => write!(out, "UTC"),
            });
        }
    }
}

impl Part {
    fn of(character: char) -> Self {
        if character.is_ascii_alphabetic() { Self::Letter(character) } else { Self::Literal(character) }
    }
}

/// A second of UTC by calendar and clock.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// Days to civil date after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so
    /// that the leap day is the last of a year, and 400 years always have 146 097 days.
    fn of(second: u64) -> Self {
        let (days, of_day) = (second / 86_400 + 719_468, second % 86_400);
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        Self { year, month, day, hour: of_day / 3600, minute: of_day / 60 % 60, second: of_day % 60 }
    }

    fn month_name(&self) -> &'static str {
        const NAMES: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        NAMES.get((self.month as usize).wrapping_sub(1)).copied().unwrap_or_default()
    }
}

fn format_second(second: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::of(second);
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
    fn formats_of_users() {
        let time = UNIX_EPOCH + Duration::new(1_795_346_080, 66_123_456);
        for (format, text) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2026/11/22T11:14:40+0000 1795346080"),
            ("%s.%3f", "1795346080.066"),
            ("%FT%T.%6fZ %Z", "2026-11-22T11:14:40.066123Z UTC"),
            ("%e %b %% %f %9f", "22 Nov % 066123456 066123456"),
            ("", ""),
        ] {
            let mut out = Vec::new();
            TimeFormat::parse(format).unwrap().write(time, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        for (bad, what) in [("%Q", "%Q"), ("%", "%"), ("%3d", "%3")] {
            assert_eq!(TimeFormat::parse(bad).unwrap_err(), what);
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
