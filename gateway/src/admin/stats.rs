//! `/stats`: every number as one line, for people and scripts; `/stats/prometheus` is for scrapers.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::json;

use super::{
    Admin,
    reply::{self, Failure},
};
use crate::plugins::ApiError;

/// Longest regular expression, and what it may take when it is compiled.
const FILTER_BYTES: usize = 1024;
const FILTER_COMPILED_BYTES: usize = 1 << 20;

/// As Envoy's.
#[derive(Deserialize)]
pub(super) struct Question {
    /// Only names (with their labels) in which this regular expression is found.
    filter: Option<String>,
    /// `text`, `json` or `prometheus`.
    format: Option<String>,
    /// Only what is not 0.
    usedonly: Option<String>,
}

/// What is shown of the numbers.
struct Selection {
    filter: Option<Regex>,
    used_only: bool,
}

impl Selection {
    fn new(question: &Question) -> Result<Self, ApiError> {
        let filter = question.filter.as_deref().map(|text| {
            let refused = |message: String| ApiError::new(400, "query-invalid", message).at("filter");
            if text.len() > FILTER_BYTES {
                return Err(refused(format!("longer than {FILTER_BYTES} bytes")));
            }
            let regex = RegexBuilder::new(text).size_limit(FILTER_COMPILED_BYTES).build();
            regex.map_err(|error| refused(format!("not a regular expression: {error}")))
        });
        Ok(Self { filter: filter.transpose()?, used_only: question.usedonly.is_some() })
    }

    /// `name{label="value"}` and its value, of a line that is shown.
    fn series<'a>(&self, line: &'a str) -> Option<(&'a str, &'a str)> {
        let (name, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let shown = self.filter.as_ref().is_none_or(|filter| filter.is_match(name));
        (shown && !(self.used_only && value == "0")).then_some((name, value))
    }

    fn text(&self, metrics: &str) -> String {
        let lines = metrics.lines().filter_map(|line| self.series(line));
        lines.fold(String::new(), |text, (name, value)| text + name + ": " + value + "\n")
    }

    fn json(&self, metrics: &str) -> serde_json::Value {
        let series = metrics.lines().filter_map(|line| self.series(line));
        let stats: Vec<_> = series
            .map(|(name, value)| {
                // Infinities and NaN are not JSON.
                let number = value.parse::<f64>().ok().filter(|number| number.is_finite());
                let value = match (value.parse::<u64>(), number) {
                    (Ok(whole), _) => json!(whole),
                    (Err(_), Some(number)) => json!(number),
                    (Err(_), None) => json!(value),
                };
                json!({ "name": name, "value": value })
            })
            .collect();
        json!({ "stats": stats })
    }

    /// Families of which nothing is shown are left out with their comments.
    fn prometheus(&self, metrics: &str) -> String {
        let (mut text, mut comments) = (String::new(), String::new());
        let mut in_comments = false;
        for line in metrics.lines() {
            if line.starts_with('#') {
                if !in_comments {
                    comments.clear();
                }
                in_comments = true;
                comments.push_str(line);
                comments.push('\n');
                continue;
            }
            in_comments = false;
            if self.series(line).is_some() {
                text.push_str(&std::mem::take(&mut comments));
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// `GET /stats`
pub(super) async fn stats(
    State(admin): State<Arc<Admin>>,
    Query(question): Query<Question>,
) -> Result<Response, Failure> {
    let selection = Selection::new(&question)?;
    let format = match question.format.as_deref() {
        None | Some("text") => Selection::plain,
        Some("json") => Selection::as_json,
        Some("prometheus") => Selection::for_scrapers,
        Some(other) => {
            let message = format!("{other:?} is not a format; formats are text, json and prometheus");
            return Err(Failure(ApiError::new(400, "query-invalid", message).at("format")));
        }
    };
    let telemetry = admin.state.telemetry.clone();
    let rendered = tokio::task::spawn_blocking(move || {
        let metrics = telemetry.render_prometheus();
        format(&selection, &String::from_utf8_lossy(&metrics))
    });
    Ok(rendered
        .await
        .unwrap_or_else(|error| Failure(ApiError::new(500, "internal", error.to_string())).into_response()))
}

impl Selection {
    fn plain(&self, metrics: &str) -> Response {
        reply::reply(StatusCode::OK, "text/plain; charset=utf-8", self.text(metrics))
    }

    fn as_json(&self, metrics: &str) -> Response {
        reply::json(StatusCode::OK, &self.json(metrics))
    }

    fn for_scrapers(&self, metrics: &str) -> Response {
        reply::reply(StatusCode::OK, reply::PROMETHEUS, self.prometheus(metrics))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const METRICS: &str = "# HELP a_total An a.\n# TYPE a_total counter\na_total{x=\"1 2\"} 0\na_total{x=\"3\"} 5\n\
                           # HELP b B.\n# TYPE b gauge\nb 1.5\n";

    fn selection(filter: Option<&str>, used_only: bool) -> Selection {
        let usedonly = used_only.then(String::new);
        Selection::new(&Question { filter: filter.map(str::to_owned), format: None, usedonly }).unwrap()
    }

    #[test]
    fn lines_are_names_and_values() {
        assert_eq!(selection(None, false).text(METRICS), "a_total{x=\"1 2\"}: 0\na_total{x=\"3\"}: 5\nb: 1.5\n");
        assert_eq!(selection(None, true).text(METRICS), "a_total{x=\"3\"}: 5\nb: 1.5\n");
        assert_eq!(selection(Some("^b$|x=.1"), false).text(METRICS), "a_total{x=\"1 2\"}: 0\nb: 1.5\n");
        let shown = selection(Some("^b"), false).json(METRICS);
        assert_eq!(shown, json!({ "stats": [{ "name": "b", "value": 1.5 }] }));
    }

    #[test]
    fn scrapers_get_whole_families() {
        assert_eq!(selection(None, false).prometheus(METRICS), METRICS);
        assert_eq!(selection(Some("^b"), false).prometheus(METRICS), "# HELP b B.\n# TYPE b gauge\nb 1.5\n");
        assert_eq!(selection(Some("nothing"), false).prometheus(METRICS), "");
    }

    #[test]
    fn a_filter_is_bounded() {
        let refused = |filter: String| {
            Selection::new(&Question { filter: Some(filter), format: None, usedonly: None }).err().unwrap().status
        };
        assert_eq!(refused("(".to_owned()), 400);
        assert_eq!(refused("a".repeat(FILTER_BYTES + 1)), 400);
        assert_eq!(refused("(a{1000}){1000}".to_owned()), 400);
    }
}
