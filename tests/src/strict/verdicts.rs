//! What every gateway made of every case, side by side.

use super::peers::Peer;
use super::rows::ROWS;
use super::{Case, Cut, Ours, Seen, exchange};
use crate::server::Protocol::{self, Http1, Http2};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// How long a gateway may be silent before that is written down.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a gateway made of the corpus; the number is the case's.
pub struct Column {
    /// Name and version.
    pub name: String,
    seen: BTreeMap<(usize, bool), Seen>,
}

impl Column {
    /// Sends the corpus to our gateway.
    ///
    /// # Errors
    /// It cannot be connected to.
    pub async fn ours(corpus: &[Case]) -> anyhow::Result<Column> {
        let ours = Ours::start().await?;
        let mut seen = BTreeMap::new();
        for (number, case) in corpus.iter().enumerate() {
            for upstream in case.upstreams {
                let (front, recorder) = ours.front(case, *upstream)?;
                let came = exchange(case, front, recorder, PATIENCE * 5, Cut::Nowhere).await?;
                seen.insert((number, *upstream == Http2), came);
            }
        }
        Ok(Column { name: "ours".to_owned(), seen })
    }

    /// Sends the corpus to another gateway.
    ///
    /// # Errors
    /// It cannot be connected to, or has ended.
    pub async fn of(mut peer: Peer, corpus: &[Case]) -> anyhow::Result<Column> {
        let mut seen = BTreeMap::new();
        for (number, case) in corpus.iter().enumerate() {
            for upstream in case.upstreams {
                let Some((front, recorder)) = peer.front(case, *upstream) else { continue };
                let came = exchange(case, front, recorder, PATIENCE, Cut::Nowhere).await?;
                seen.insert((number, *upstream == Http2), came);
            }
            anyhow::ensure!(peer.is_alive(), "{} has ended at {} {}", peer.name, case.row, case.what);
        }
        Ok(Column { name: format!("{} {}", peer.name, peer.version), seen })
    }

    fn of_case(&self, number: usize, upstream: Protocol) -> Option<&Seen> {
        self.seen.get(&(number, upstream == Http2))
    }

    /// What it did with services of both kinds, in one cell.
    fn cell(&self, number: usize, case: &Case) -> String {
        let of = |upstream| self.of_case(number, upstream).map(|seen| seen.text(case));
        let text = match (of(Http1), of(Http2)) {
            (None, None) => "–".to_owned(),
            (Some(one), Some(two)) if one == two => one,
            (Some(one), Some(two)) => format!("{one}<br>h2: {two}"),
            (Some(one), None) => one,
            (None, Some(two)) => two,
        };
        escaped(&text)
    }
}

/// Cases in which another gateway refuses what we let pass, and nothing says why; and those in which we do not do what
/// the corpus says.
pub fn objections(corpus: &[Case], columns: &[Column]) -> Vec<String> {
    let Some((ours, peers)) = columns.split_first() else { return Vec::new() };
    let mut objections = Vec::new();
    for (number, case) in corpus.iter().enumerate() {
        for upstream in case.upstreams {
            let Some(own) = ours.of_case(number, *upstream) else { continue };
            let name = format!("{} {:?} to {upstream:?}: {}", case.row, case.client, case.what);
            if !case.accepts(own) {
                objections.push(format!("{name}: expected `{}`, was `{}`", case.expected(), own.text(case)));
            }
            let stricter: Vec<_> = peers
                .iter()
                .filter(|peer| peer.of_case(number, *upstream).is_some_and(|seen| seen.is_refused(case)))
                .map(|peer| peer.name.as_str())
                .collect();
            if case.why.is_empty() && !own.is_refused(case) && !stricter.is_empty() {
                objections
                    .push(format!("{name}: {} refuse it, and nothing says why we do not", stricter.join(" and ")));
            }
        }
    }
    objections
}

/// The comparison as Markdown. `day` is when it was made.
pub fn markdown(corpus: &[Case], columns: &[Column], day: &str) -> String {
    let mut text = format!(
        "# Verdicts

What four gateways make of the same bytes. Written by `make strict` on {day}; the cases are in `tests/src/strict`,
where ours are a test, too.

A cell is what the client gets, and behind the arrow what reaches the service as a whole request. `open`: another request
on the same connection is answered as it should be. `ServerHello`: a handshake goes on. `closed`: the gateway ends the connection. `silent`: nothing comes
for a second. `cut`: a body breaks off. `BROKEN`: what arrives is no request, or one that can be read in two ways. Where
services of HTTP/2 make a difference, there is a second line; nginx speaks HTTP/1.1 only to services. What arrives of
broken-off requests is not shown.

Bold: we let pass what another one refuses. The last column says why.

"
    );
    let refused = |column: &Column| {
        let total = column.seen.len();
        let refused = column.seen.iter().filter(|((number, _), seen)| seen.is_refused(&corpus[*number])).count();
        format!("{refused} of {total} refused")
    };
    let _ =
        writeln!(text, "| | {} |", columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
    let _ = writeln!(text, "| all cases | {} |", columns.iter().map(refused).collect::<Vec<_>>().join(" | "));
    for (letter, title) in [
        ("A", "Framing of HTTP/1"),
        ("B", "Limits and slow peers"),
        ("C", "HTTP/2"),
        ("D", "Paths, hosts, headers"),
        ("E", "Upgrades, CONNECT, WebSocket"),
        ("F", "TLS"),
        ("G", "Services that fail"),
    ] {
        let _ = write!(text, "\n## {letter}. {title}\n\n| | client | what is sent |");
        for column in columns {
            let _ = write!(text, " {} |", column.name);
        }
        let _ = writeln!(text, " |\n|---|---|---|{}---|", "---|".repeat(columns.len()));
        for (number, case) in corpus.iter().enumerate().filter(|(_, case)| case.row.starts_with(letter)) {
            let client = if case.client == Http2 { "h2" } else { "h1" };
            let _ = write!(text, "| {} | {client} | {} |", case.row, escaped(&case.what));
            for (at, column) in columns.iter().enumerate() {
                let cell = column.cell(number, case);
                let lax = at == 0 && is_laxer(number, case, columns);
                let _ = write!(text, " {} |", if lax { format!("**{cell}**") } else { cell });
            }
            let _ = writeln!(text, " {} |", case.why);
        }
        let tests = ROWS.iter().filter(|row| row.id.starts_with(letter));
        let _ = writeln!(
            text,
            "\nTested without other gateways (`cargo test -p gateway-tests`), because it takes time, certificates or\nseveral connections:\n"
        );
        for row in tests.filter(|row| !row.tests.is_empty() || !row.missing.is_empty()) {
            let names: Vec<_> = row.tests.iter().map(|name| format!("`{name}`")).collect();
            let missing =
                if row.missing.is_empty() { String::new() } else { format!(" **Not supported:** {}.", row.missing) };
            let _ = writeln!(
                text,
                "* {}: {}.{missing}",
                row.id,
                if names.is_empty() { "–".to_owned() } else { names.join(", ") }
            );
        }
    }
    text
}

fn is_laxer(number: usize, case: &Case, columns: &[Column]) -> bool {
    case.upstreams.iter().any(|upstream| {
        let mut refused =
            columns.iter().map(|column| column.of_case(number, *upstream).is_some_and(|seen| seen.is_refused(case)));
        refused.next() == Some(false) && refused.any(|refused| refused)
    })
}

/// As it can stand in a table.
fn escaped(text: &str) -> String {
    let mut text = text.replace('|', "\\|").replace('<', "&lt;").replace("&lt;br>", "<br>").replace('*', "\\*");
    if text.contains(char::is_control) {
        text = text
            .chars()
            .flat_map(|letter| if letter.is_control() { letter.escape_default().collect() } else { vec![letter] })
            .collect();
    }
    let long = 220;
    if text.chars().count() > long {
        text = text.chars().take(long).collect::<String>() + "…";
    }
    text
}
