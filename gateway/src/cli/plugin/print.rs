//! Plugins as tables, JSON and YAML.
//!
//! What is printed comes from a gateway and from plugins, so control characters never reach a terminal.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Output;
use crate::config::to_yaml;

/// Heading and JSON path of each column; the path's last part may be `digest`, which is shortened.
const COLUMNS: [(&str, &str); 11] = [
    ("NAME", "/name"),
    ("VERSION", "/digest"),
    ("SOURCE", "/source"),
    ("PHASE", "/phase"),
    ("PRIORITY", "/priority"),
    ("STATE", "/state"),
    ("CALLS", "/stats/streams"),
    ("P50 µs", "/stats/p50Micros"),
    ("P99 µs", "/stats/p99Micros"),
    ("TRAPS", "/stats/traps"),
    // Why not, or why an older one does; empty if all is well.
    (REASON, "/reason"),
];
const REASON: &str = "REASON";

/// `ls`: JSON and YAML are the gateway's own answer.
pub(super) fn all(plugins: &[Value], output: Output) -> String {
    match output {
        Output::Table => table(plugins),
        Output::Json => pretty(&json!({ "plugins": plugins })),
        Output::Yaml => to_yaml(&json!({ "plugins": plugins })),
    }
}

/// `push`: a row, or the object.
pub(super) fn list(plugins: &[Value], output: Output) -> String {
    match (output, plugins) {
        (Output::Table, _) => table(plugins),
        (_, plugins) => plugins.iter().map(|plugin| one(plugin, output)).collect(),
    }
}

/// `show`: every field on a line of its own.
pub(super) fn one(plugin: &Value, output: Output) -> String {
    match output {
        Output::Json => pretty(plugin),
        Output::Yaml | Output::Table => to_yaml(plugin),
    }
}

fn pretty(value: &Value) -> String {
    // A value made of JSON is JSON; control characters in its strings are escaped by that.
    format!("{value:#}\n")
}

/// Cells are padded to so many characters at most; what is longer moves those behind it.
const WIDEST: usize = 100;

fn table(plugins: &[Value]) -> String {
    let mut rows = vec![COLUMNS.map(|(heading, _)| heading.to_owned())];
    rows.extend(plugins.iter().map(|plugin| COLUMNS.map(|(_, path)| cell(plugin, path))));
    let all_well = plugins.iter().all(|plugin| cell(plugin, "/reason") == "-");
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count()).min(WIDEST);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), (heading, _)) in row.iter().zip(widths).zip(COLUMNS) {
            if all_well && heading == REASON {
                continue;
            }
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cell(plugin: &Value, path: &str) -> String {
    match plugin.pointer(path) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if path == "/digest" => {
            let digest = text.strip_prefix("sha256:").unwrap_or(text);
            printable(&digest.chars().take(12).collect::<String>())
        }
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Number(number)) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => format!("{float:.1}"),
            None => number.to_string(),
        },
        Some(other) => printable(&other.to_string()),
    }
}

pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| if letter.is_control() { letter.escape_default().collect() } else { vec![letter] })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn plugin(name: &str) -> Value {
        json!({
            "name": name, "source": "upload", "digest": "sha256:0123456789abcdef", "phase": "AUTHN", "priority": null,
            "state": "live", "reason": "", "settings": {"pluginConfig": {"a b": [1, {"c": "on", "d": []}, [2, 3]]}},
            "stats": {"streams": 12, "traps": 0, "p50Micros": 0.5, "p99Micros": 1.25},
        })
    }

    #[test]
    fn tables_line_up() {
        let text = table(&[plugin("a"), plugin("longer-name")]);
        assert_eq!(
            text,
            "NAME          VERSION        SOURCE   PHASE   PRIORITY   STATE   CALLS   P50 µs   P99 µs   TRAPS\n\
             a             0123456789ab   upload   AUTHN   -          live    12      0.5      1.2      0\n\
             longer-name   0123456789ab   upload   AUTHN   -          live    12      0.5      1.2      0\n"
        );
        let mut failed = plugin("c");
        failed["reason"] = "does not start".into();
        let text = table(&[plugin("a"), failed]);
        let (first, last) = (text.lines().next().unwrap(), text.lines().next_back().unwrap());
        assert!(first.ends_with("TRAPS   REASON") && last.ends_with("0       does not start"), "{text}");
    }

    #[test]
    fn control_characters_are_escaped() {
        let hostile = plugin("\u{1b}[2J\r\nname");
        for output in [Output::Table, Output::Json, Output::Yaml] {
            let text = all(std::slice::from_ref(&hostile), output);
            assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text}");
        }
    }
}
