//! What was seen, and the table at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// How often each kind of thing went as it should, and how it went otherwise.
#[derive(Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, Kind>>);

#[derive(Default)]
struct Kind {
    good: u64,
    bad: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn count(&self, kind: &'static str, outcome: anyhow::Result<()>) {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_default();
        match outcome {
            Ok(()) => kind.good += 1,
            Err(error) => {
                let text = format!("{error:#}");
                // Bounded, whatever happens.
                if kind.bad.len() < 20 || kind.bad.contains_key(&text) {
                    *kind.bad.entry(text).or_default() += 1;
                }
            }
        }
    }

    pub(crate) fn report(&self, table: &mut Table) {
        for (name, kind) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let bad: u64 = kind.bad.values().sum();
            let value = if bad == 0 { kind.good.to_string() } else { format!("{}, and {bad} not", kind.good) };
            table.row("", (*name).to_owned(), value, bad == 0 && kind.good > 0);
            for (text, times) in &kind.bad {
                table.note(format!("{times} × {text}"));
            }
        }
    }
}

/// The rows.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

enum Row {
    Row { id: &'static str, what: String, value: String, good: bool },
    Note(String),
}

impl Table {
    /// Something that is as it should be, or not. `id`: the row of the fault table.
    pub(crate) fn row(&mut self, id: &'static str, what: String, value: String, good: bool) {
        self.0.push(Row::Row { id, what, value, good });
    }

    pub(crate) fn note(&mut self, text: String) {
        self.0.push(Row::Note(text));
    }

    pub(crate) fn is_good(&self) -> bool {
        self.0.iter().all(|row| !matches!(row, Row::Row { good: false, .. }))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.0 {
            match row {
                Row::Row { id, what, value, good } => {
                    writeln!(f, "{} {id:<5} {what:<62} {value}", if *good { ' ' } else { '!' })?;
                }
                Row::Note(text) => writeln!(f, "          {text}")?,
            }
        }
        Ok(())
    }
}
