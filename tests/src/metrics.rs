//! What a scrape of Prometheus' text format shows.

use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::fmt;

/// All series of a scrape.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Series>);

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// `istio_requests_total`
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl fmt::Display for Series {
    /// In short: only the labels of a request that tell how it ended, or all of something else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = ["destination_service_name", "request_protocol", "response_code", "response_flags"];
        let short = self.labels.contains_key("response_code");
        let shown = self.labels.iter().filter(|(name, _)| !short || ends.contains(&name.as_str()));
        write!(f, "{}{:?} {}", self.name, shown.collect::<Vec<_>>(), self.value)
    }
}

impl Metrics {
    /// Reads the text format 0.0.4.
    ///
    /// # Errors
    /// A line that is not of that format.
    pub fn parse(text: &str) -> anyhow::Result<Metrics> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| series(line).with_context(|| format!("{line:?} is no metric")));
        Ok(Metrics(series.collect::<anyhow::Result<_>>()?))
    }

    /// The series of this name that have all these labels with these values.
    pub fn series<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Series> {
        let has = |series: &Series, (name, value): &(&str, &str)| series.labels.get(*name).is_some_and(|v| v == value);
        self.0.iter().filter(move |series| series.name == name && labels.iter().all(|label| has(series, label)))
    }

    /// The sum of their values; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).map(|series| series.value).sum()
    }
}

/// `name{label="value",…} 1`
fn series(line: &str) -> anyhow::Result<Series> {
    let (name, rest) = line.split_at(line.find(['{', ' ']).context("no value")?);
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(mut inside) = rest.strip_prefix('{') {
        while !inside.starts_with('}') {
            let (label, behind) = inside.split_once("=\"").context("a label without a value")?;
            let (value, behind) = quoted(behind).context("a value without an end")?;
            ensure!(labels.insert(label.to_owned(), value).is_none(), "{label} twice");
            inside = behind.strip_prefix(',').unwrap_or(behind);
        }
        rest = &inside[1..];
    }
    Ok(Series { name: name.to_owned(), labels, value: rest.trim().parse()? })
}

/// A label value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_scrape_is_read() {
        let text =
            "# TYPE a counter\na{x=\"1\",y=\"q\\\"\\\\\\n}\"} 2\na{x=\"2\"} 3.5\nb 1e3\nc_bucket{le=\"+Inf\"} 4\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("a", &[]), 5.5);
        assert_eq!(metrics.sum("a", &[("x", "2")]), 3.5);
        assert_eq!(metrics.series("a", &[("x", "1")]).next().unwrap().labels["y"], "q\"\\\n}");
        assert_eq!(metrics.sum("b", &[]), 1000.0);
        assert_eq!(metrics.sum("c_bucket", &[("le", "+Inf")]), 4.0);
        assert!(Metrics::parse("nothing").is_err());
        assert!(Metrics::parse("a{x=\"1} 2").is_err());
    }
}
