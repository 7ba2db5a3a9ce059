//! The table of differences: what differs, and why. The file is read by people and by the test, which fails if it is not
//! what is seen.

use super::Seen;
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The case.
    pub case: String,
    /// The line that differs, without its callback.
    pub what: String,
    /// The callbacks in which it does, if it is the plugin's.
    pub at: String,
    /// What it is in Envoy.
    pub envoy: String,
    /// What it is here.
    pub ours: String,
    /// Why.
    pub why: String,
}

/// What stands for a line that is not there.
const MISSING: &str = "–";

/// The differences of one case.
pub fn differences(case: &str, envoy: &Seen, ours: &Seen) -> Vec<Row> {
    let values = |seen: &Seen| seen.0.iter().cloned().collect::<BTreeMap<_, _>>();
    let (theirs, own) = (values(envoy), values(ours));
    let mut places = envoy.0.iter().map(|(what, _)| what).collect::<Vec<_>>();
    places.extend(ours.0.iter().map(|(what, _)| what).filter(|what| !theirs.contains_key(*what)));
    // If the answers are different ones, all that follows is.
    let otherwise = theirs.get("client") != own.get("client");
    let follows = |place: &str| place.starts_with("client ") || place.starts_with("service ") || place.ends_with("()");
    let mut rows = Vec::<Row>::new();
    for place in places {
        let of =
            |values: &BTreeMap<String, String>| values.get(place).map_or(MISSING.to_owned(), |value| escaped(value));
        let (envoy, ours) = (of(&theirs), of(&own));
        let one_sided = envoy == MISSING || ours == MISSING;
        if envoy == ours || otherwise && (follows(place) || place == "callbacks" || place != "service" && one_sided) {
            continue;
        }
        let (at, what) = split(place);
        let at = if at.is_empty() { MISSING } else { at }.to_owned();
        let what = escaped(what);
        let same = rows.iter_mut().find(|row| (&row.what, &row.envoy, &row.ours) == (&what, &envoy, &ours));
        match same {
            Some(row) => row.at = format!("{}, {at}", row.at),
            None => rows.push(Row { case: case.to_owned(), what, at, envoy, ours, why: String::new() }),
        }
    }
    rows
}

/// A host call is shown once for all callbacks in which it has the same result.
fn split(place: &str) -> (&str, &str) {
    const CALLBACKS: [&str; 17] = [
        "request_headers ",
        "request_body ",
        "request_trailers ",
        "response_headers ",
        "response_body ",
        "response_trailers ",
        "log ",
        "done ",
        "delete ",
        "tick ",
        "queue ",
        "call ",
        "grpc_head ",
        "grpc_message ",
        "grpc_trailers ",
        "grpc_close ",
        "configure ",
    ];
    match CALLBACKS.iter().find_map(|callback| Some((callback.trim(), place.strip_prefix(callback)?))) {
        Some((at, what)) => (at, what),
        None => ("", place),
    }
}

/// Reads the table.
///
/// # Errors
/// A row has another number of columns.
pub fn read(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| case |"));
    for line in lines {
        let columns: Vec<_> = line.trim_matches('|').split(" | ").map(|column| column.trim().to_owned()).collect();
        let [case, what, at, envoy, ours, why] = <[String; 6]>::try_from(columns)
            .map_err(|columns| anyhow::anyhow!("{} columns and not six: {line}", columns.len()))?;
        rows.push(Row { case, what, at, envoy, ours, why });
    }
    ensure!(!rows.is_empty(), "there is no row");
    Ok(rows)
}

/// The text with these rows in the place of those it has. Reasons stay where case and line are the same.
///
/// # Errors
/// [`read`]'s, or there is no table.
pub fn written(text: &str, mut rows: Vec<Row>) -> anyhow::Result<String> {
    let known = read(text).unwrap_or_default();
    for row in &mut rows {
        let same = known.iter().filter(|old| old.case == row.case && old.what == row.what);
        let best = same.max_by_key(|old| (old.at == row.at, old.envoy == row.envoy, old.ours == row.ours));
        row.why = best.map(|old| old.why.clone()).unwrap_or_default();
    }
    // What is seen by chance stays where it was, seen or not.
    for (number, old) in known.iter().enumerate() {
        if old.why.starts_with("by chance: ") && !rows.contains(old) {
            let before = known.iter().take(number).rev().find_map(|row| rows.iter().position(|now| now == row));
            rows.insert(before.map_or(0, |place| place + 1), old.clone());
        }
    }
    let head = "| case | line | in | Envoy | ours | why |\n|---|---|---|---|---|---|\n";
    let (before, _) = text.split_once(head).context("there is no table")?;
    let mut text = before.to_owned() + head;
    for Row { case, what, at, envoy, ours, why } in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {case} | {what} | {at} | {envoy} | {ours} | {why} |");
    }
    Ok(text)
}

/// As it can stand in a table; long values are cut.
fn escaped(text: &str) -> String {
    let visible =
        |letter: char| if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() };
    let text: String = text.chars().map(visible).collect();
    let mut text = text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*");
    if text.chars().count() > 300 {
        text = text.chars().take(300).collect::<String>() + "…";
    }
    if text.trim().is_empty() { "nothing".to_owned() } else { text.trim().to_owned() }
}
