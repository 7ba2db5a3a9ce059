//! Plugins as tables, JSON and YAML.
//!
//! What is printed comes from a gateway and from plugins, so control characters never reach a terminal.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Output;

/// Heading and JSON path of each column; the path's last part may be `digest`, which is shortened.
const COLUMNS: [(&str, &str); 9] = [
    ("NAME", "/name"),
    ("SOURCE", "/source"),
    ("PHASE", "/phase"),
    ("PRIORITY", "/priority"),
    ("STATE", "/state"),
    ("DIGEST", "/digest"),
    ("STREAMS", "/stats/streams"),
    ("TRAPS", "/stats/traps"),
    ("P99 µs", "/stats/p99Micros"),
];

/// `ls`: JSON and YAML are the gateway's own answer.
pub(super) fn all(plugins: &[Value], output: Output) -> String {
    match output {
        Output::Table => table(plugins),
        Output::Json => pretty(&json!({ "plugins": plugins })),
        Output::Yaml => yaml(&json!({ "plugins": plugins })),
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
        Output::Yaml | Output::Table => yaml(plugin),
    }
}

fn pretty(value: &Value) -> String {
    // A value made of JSON is JSON; control characters in its strings are escaped by that.
    format!("{value:#}\n")
}

fn table(plugins: &[Value]) -> String {
    let mut rows = vec![COLUMNS.map(|(heading, _)| heading.to_owned())];
    rows.extend(plugins.iter().map(|plugin| COLUMNS.map(|(_, path)| cell(plugin, path))));
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
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

fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| if letter.is_control() { letter.escape_default().collect() } else { vec![letter] })
        .collect()
}

/// Block style; strings that could be anything else are written as JSON strings, which YAML reads too.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let _ = write!(text, "{:indent$}{}:", "", scalar(&Value::from(key.as_str())), indent = depth * 2);
                nested(value, depth + 1, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                // The item's first line follows the dash, which takes the place of its indentation.
                let _ =
                    writeln!(text, "{:indent$}- {}", "", inner.trim_start().trim_end_matches('\n'), indent = depth * 2);
            }
        }
        other => {
            let _ = writeln!(text, "{:indent$}{}", "", scalar(other), indent = depth * 2);
        }
    }
}

fn nested(value: &Value, depth: usize, text: &mut String) {
    let is_block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if is_block {
        text.push('\n');
        block(value, depth, text);
    } else {
        let _ = writeln!(text, " {}", scalar(value));
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(word) if is_plain(word) => word.clone(),
        other => other.to_string(),
    }
}

/// Whether YAML can only read it as this string: a word that begins with a letter and is no other scalar.
fn is_plain(word: &str) -> bool {
    let other = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'))
        && !other.iter().any(|other| word.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn plugin(name: &str) -> Value {
        json!({
            "name": name, "source": "upload", "digest": "sha256:0123456789abcdef", "phase": "AUTHN", "priority": null,
            "state": "live", "reason": "", "settings": {"pluginConfig": {"a b": [1, {"c": "on", "d": []}, [2, 3]]}},
            "stats": {"streams": 12, "traps": 0, "p99Micros": 1.25},
        })
    }

    #[test]
    fn tables_line_up() {
        let text = table(&[plugin("a"), plugin("longer-name")]);
        assert_eq!(
            text,
            "NAME          SOURCE   PHASE   PRIORITY   STATE   DIGEST         STREAMS   TRAPS   P99 µs\n\
             a             upload   AUTHN   -          live    0123456789ab   12        0       1.2\n\
             longer-name   upload   AUTHN   -          live    0123456789ab   12        0       1.2\n"
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        let hostile = plugin("\u{1b}[2J\r\nname");
        for output in [Output::Table, Output::Json, Output::Yaml] {
            let text = all(std::slice::from_ref(&hostile), output);
            assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text}");
        }
    }

    #[test]
    fn yaml_reads_back_as_what_was_printed() {
        let tricky = json!({
            "empty": {}, "none": [], "nothing": null, "text": ["", "on", "1.5", "a: b", "- x", "# no", "é", "a\"b\n", "~", "x/y.z"],
            "deep": [[[]], [{"k": {"l": [true, -1, 1.5e9]}}]], "0x1f": "0o7", "no": "No",
        });
        for value in [plugin("a"), tricky, json!([]), json!("x")] {
            let text = yaml(&value);
            let read: Value = serde_yaml::from_str(&text).unwrap();
            assert_eq!(read, value, "{text}");
        }
    }
}
