//! YAML text → documents with line numbers. The only file that knows which YAML library is used.
//!
//! `serde_yaml` reads values; `saphyr-parser` walks the same text once before, for two things that
//! `serde_yaml` cannot do: say on which line a field stands, and refuse a document whose nesting, size or
//! aliases would cost more memory than the file suggests. It is also stricter: it refuses some forms that
//! are in use (a closing bracket or the rest of a quoted text at the start of a line). Such a document is
//! read all the same if it is harmless by a coarser measure; lines are then known up to that point.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use saphyr_parser::{Event, Parser};
use serde::{Deserialize, Serialize};

use super::path::{write_index, write_key};

/// A value of a document; mappings keep the order of the file.
pub(crate) use serde_yaml::Value;
/// The entries of a mapping.
pub(crate) use serde_yaml::mapping::Iter as Entries;

/// Deepest nesting; Istio's resources need about a dozen.
const MAX_DEPTH: usize = 64;
/// Most nodes (scalars, mappings, sequences) of one document.
const MAX_NODES: usize = 1_000_000;
/// Most bytes that aliases may add to one document, 32 per node and the text of scalars.
const MAX_ALIAS_BYTES: usize = 4 << 20;
/// Largest document that is read without a complete walk before.
const MAX_UNCHECKED: usize = 1 << 20;
/// Most brackets and braces in such a document: `serde_yaml` needs quadratic time for deep nesting.
const MAX_UNCHECKED_BRACKETS: usize = 5000;
/// Most documents of one file.
const MAX_DOCUMENTS: usize = 100_000;
/// So many documents are worth a thread more.
const DOCUMENTS_OF_A_THREAD: usize = 100;
/// More threads than that would take other work's processors.
const MAX_THREADS: usize = 4;

/// One document of a file.
#[derive(Debug)]
pub(crate) struct Document {
    /// What it says.
    pub(crate) value: Value,
    /// Where its fields stand.
    pub(crate) positions: Positions,
}

/// Text that is not YAML, or more than is accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) message: String,
    /// Whether it is more than is accepted.
    pub(crate) beyond_limit: bool,
}

/// The documents of a file. Each stands for itself: a broken one does not hide the others. Documents
/// without contents are left out.
pub(crate) fn documents(text: &str) -> Vec<Result<Document, SyntaxError>> {
    let mut chunks = chunks(text);
    let beyond = chunks.get(MAX_DOCUMENTS).map(|(line, _)| *line);
    chunks.truncate(MAX_DOCUMENTS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let part = chunks.len().div_ceil(threads).max(DOCUMENTS_OF_A_THREAD);
    let read = |part: &[(usize, &str)]| {
        part.iter().filter_map(|(line, chunk)| document(*line, chunk).transpose()).collect::<Vec<_>>()
    };
    let mut documents = std::thread::scope(|scope| {
        let mut parts = chunks.chunks(part);
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
        let mut documents = read(first);
        for other in others {
            documents.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        documents
    });
    if let Some(line) = beyond {
        let message = format!("more than {MAX_DOCUMENTS} documents in one file; split it");
        documents.push(Err(SyntaxError { line, message, beyond_limit: true }));
    }
    documents
}

/// Writes a value for people; empty if it has no form in YAML.
pub(crate) fn to_text(value: &impl Serialize) -> String {
    serde_yaml::to_string(value).unwrap_or_default()
}

/// Splits at `---` and `...`, which YAML reserves at the start of a line (YAML 1.2.2, section 9.1.2), and
/// says on which line each part begins. Parts without contents are left out.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    let mut chunks = Vec::new();
    let mut begin = (1, 0);
    let mut offset = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let end = offset + line.len();
        let bare = line.trim_end_matches(['\n', '\r']);
        if bare == "..." || bare == "---" || bare.starts_with("--- ") || bare.starts_with("---\t") {
            chunks.push((begin.0, text.get(begin.1..offset).unwrap_or_default()));
            // Contents may stand beside `---`, which therefore stays with what it opens.
            begin = if bare.len() > 3 { (number, offset) } else { (number + 1, end) };
        }
        offset = end;
    }
    chunks.push((begin.0, text.get(begin.1..).unwrap_or_default()));
    chunks.retain(|(_, chunk)| chunk.lines().any(|line| !line.trim().is_empty() && !line.starts_with(['#', '%'])));
    chunks
}

/// One document; `None` if it only has comments.
fn document(first_line: usize, text: &str) -> Result<Option<Document>, SyntaxError> {
    let (positions, refused) = Scan::new(first_line).run(text);
    match refused {
        Some(Refusal::Limit(error)) => return Err(error),
        Some(Refusal::Syntax(error)) if !is_harmless(text) => return Err(error),
        _ => {}
    }
    let fail = |error: serde_yaml::Error| {
        let line = error.location().map_or(first_line, |at| first_line + at.line() - 1);
        SyntaxError { line, message: without_location(&error.to_string()), beyond_limit: false }
    };
    let mut value = Value::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(fail)?;
    if value.is_null() {
        return Ok(None);
    }
    value.apply_merge().map_err(fail)?;
    Ok(Some(Document { value, positions }))
}

/// Whether a document cannot cost much whatever it says: it is small, has few brackets and no anchor, hence
/// no alias.
fn is_harmless(text: &str) -> bool {
    let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    text.len() <= MAX_UNCHECKED && brackets <= MAX_UNCHECKED_BRACKETS && !text.contains('&')
}

/// The library's message without ` at line 3 column 5`, which counts from the start of the document.
fn without_location(message: &str) -> String {
    message.split_once(" at line ").map_or(message, |(text, _)| text).to_owned()
}

/// On which line each field of a document stands: hashes of path texts, so that ten thousand resources
/// stay small. A collision would show a wrong line, nothing worse.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    first: u32,
    lines: Box<[(u64, u32)]>,
}

impl Positions {
    /// The line of a field, or of the nearest field around it that the document has.
    pub(crate) fn line(&self, path: &str) -> usize {
        let mut path = path;
        while !path.is_empty() {
            let wanted = hash(path);
            if let Ok(found) = self.lines.binary_search_by_key(&wanted, |(hash, _)| *hash) {
                return self.lines.get(found).map_or(0, |(_, line)| *line as usize);
            }
            path = path.rfind(['.', '[']).and_then(|end| path.get(..end)).unwrap_or_default();
        }
        self.first as usize
    }
}

fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// The walk that finds positions and enforces limits.
struct Scan {
    first_line: usize,
    first: Option<usize>,
    path: String,
    frames: Vec<Frame>,
    /// What each anchored node costs when an alias repeats it.
    anchors: HashMap<usize, usize>,
    nodes: usize,
    alias_bytes: usize,
    lines: Vec<(u64, u32)>,
}

/// Why a walk ended early.
enum Refusal {
    /// The library does not take it for YAML.
    Syntax(SyntaxError),
    /// It is more than we accept.
    Limit(SyntaxError),
}

/// A mapping or sequence that is open.
struct Frame {
    /// Length of the path of the node itself.
    path: usize,
    expect: Expect,
    anchor: usize,
    cost: usize,
}

/// What comes next in a [`Frame`].
enum Expect {
    Key,
    Value,
    Element(usize),
}

impl Scan {
    fn new(first_line: usize) -> Self {
        Self {
            first_line,
            first: None,
            path: String::new(),
            frames: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            alias_bytes: 0,
            lines: Vec::new(),
        }
    }

    /// Walks the text to its end, or to where it is refused.
    fn run(mut self, text: &str) -> (Positions, Option<Refusal>) {
        let refused = self.walk(text).err();
        self.lines.sort_unstable();
        let first = self.first.unwrap_or(self.first_line);
        (Positions { first: u32::try_from(first).unwrap_or(u32::MAX), lines: self.lines.into() }, refused)
    }

    fn walk(&mut self, text: &str) -> Result<(), Refusal> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let line = self.line(error.marker().line());
                Refusal::Syntax(SyntaxError { line, message: error.info().to_owned(), beyond_limit: false })
            })?;
            let line = self.line(span.start.line());
            self.event(&event, line)
                .map_err(|message| Refusal::Limit(SyntaxError { line, message, beyond_limit: true }))?;
        }
        Ok(())
    }

    fn line(&self, in_document: usize) -> usize {
        self.first_line + in_document.saturating_sub(1)
    }

    fn event(&mut self, event: &Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::Scalar(text, _, anchor, _) => {
                self.begin(line, Some(text.as_ref()))?;
                self.complete(*anchor, 32 + text.len());
            }
            Event::Alias(anchor) => {
                self.begin(line, None)?;
                let cost = *self.anchors.get(anchor).ok_or("an alias must not refer to a node that contains it")?;
                self.alias_bytes = self.alias_bytes.saturating_add(cost);
                if self.alias_bytes > MAX_ALIAS_BYTES {
                    return Err(format!("aliases expand to more than {MAX_ALIAS_BYTES} bytes"));
                }
                self.complete(0, cost);
            }
            Event::SequenceStart(anchor, _) => self.open(line, *anchor, Expect::Element(0))?,
            Event::MappingStart(anchor, _) => self.open(line, *anchor, Expect::Key)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.frames.pop() {
                    self.path.truncate(frame.path);
                    self.complete(frame.anchor, frame.cost);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, line: usize, anchor: usize, expect: Expect) -> Result<(), String> {
        self.begin(line, None)?;
        if self.frames.len() == MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.frames.push(Frame { path: self.path.len(), expect, anchor, cost: 32 });
        Ok(())
    }

    /// A node starts: notes where, under the path it has.
    fn begin(&mut self, line: usize, scalar: Option<&str>) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(format!("more than {MAX_NODES} values in one document; split it"));
        }
        self.first.get_or_insert(line);
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let base = frame.path;
        let written = match frame.expect {
            // The line of a field is that of its name.
            Expect::Key => {
                self.path.truncate(base);
                write_key(&mut self.path, scalar.unwrap_or("?"), base == 0)
            }
            Expect::Element(position) => {
                self.path.truncate(base);
                write_index(&mut self.path, position)
            }
            Expect::Value => return Ok(()),
        };
        if written.is_ok() {
            self.lines.push((hash(&self.path), u32::try_from(line).unwrap_or(u32::MAX)));
        }
        Ok(())
    }

    /// A node ended.
    fn complete(&mut self, anchor: usize, cost: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, cost);
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.cost = frame.cost.saturating_add(cost);
            frame.expect = match frame.expect {
                Expect::Key => Expect::Value,
                Expect::Value => Expect::Key,
                Expect::Element(position) => Expect::Element(position + 1),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn one(text: &str) -> Result<Document, SyntaxError> {
        let mut all = documents(text);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn failure(text: &str) -> SyntaxError {
        one(text).err().unwrap_or_else(|| panic!("accepted: {text}"))
    }

    #[test]
    fn many_documents_keep_their_order_and_lines() {
        let text: String = (0..1000).map(|n| format!("---\na: {}\n", if n == 777 { "[" } else { "1" })).collect();
        let all = documents(&text);
        assert_eq!(all.len(), 1000);
        for (n, document) in all.into_iter().enumerate() {
            match document {
                Ok(document) => assert_eq!(document.positions.line("a"), 2 * n + 2),
                // The bracket stands there, or is missed behind it.
                Err(error) => assert!(n == 777 && (1556..=1557).contains(&error.line), "{n}: {error:?}"),
            }
        }
    }

    #[test]
    fn lines_of_fields() {
        let text = "# head\n---\na: 1\nb:\n  - x: 1\n    y.z: 2\n  - {p: [q, r]}\n? [odd]\n: 3\nc: last\n";
        let document = one(text).unwrap();
        for (path, line) in [
            ("", 3),
            ("a", 3),
            ("b", 4),
            ("b[0]", 5),
            ("b[0][\"y.z\"]", 6),
            ("b[1].p[1]", 7),
            ("b[1].missing.deeper", 7),
            ("c", 10),
        ] {
            assert_eq!(document.positions.line(path), line, "{path}");
        }
    }

    #[test]
    fn documents_stand_for_themselves() {
        let text = "---\n# only a comment\n---\na: 1\n--- {b: 2}\n---\nc: [\n---\r\nd: 4\r\n...\n---\n";
        let all = documents(text);
        let shown: Vec<String> = all
            .iter()
            .map(|document| match document {
                Ok(document) => serde_json::to_string(&document.value).unwrap(),
                Err(error) => format!("line {}", error.line),
            })
            .collect();
        assert_eq!(shown, ["{\"a\":1}", "{\"b\":2}", "line 8", "{\"d\":4}"]);
        assert_eq!(all.last().unwrap().as_ref().unwrap().positions.line("d"), 9);
    }

    #[test]
    fn json_with_tabs_is_yaml() {
        let document = one("{\n\t\"kind\": \"Gateway\",\n\t\"spec\": {\"a\": [1, 2]}\n}\n").unwrap();
        assert_eq!(document.positions.line("spec.a[1]"), 3);
    }

    #[test]
    fn anchors_and_merge_keys_work() {
        let document = one("base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\n").unwrap();
        assert_eq!(serde_json::to_string(&document.value).unwrap(), r#"{"base":{"x":1},"use":{"y":2,"x":1}}"#);
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = String::from("a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n");
        for level in 1..12 {
            let previous = level - 1;
            let row = vec![format!("*a{previous}"); 9].join(",");
            laughs.push_str(&format!("a{level}: &a{level} [{row}]\n"));
        }
        assert!(failure(&laughs).message.contains("aliases expand"), "{:?}", failure(&laughs));
        let big = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 1000].join(","));
        assert!(failure(&big).message.contains("aliases expand"));
        // Far beyond our limit one of the library's own may be met first.
        failure(&"[".repeat(1 << 20));
        failure(&"- ".repeat(1 << 20));
        assert!(failure(&format!("{}{}", "[".repeat(100), "]".repeat(100))).message.contains("nested deeper"));
        assert!(failure("a: &a [*a]\n").message.contains("contains it"));
        assert!(failure(&format!("[{}]", "0,".repeat(MAX_NODES + 1))).message.contains("split it"));
    }

    #[test]
    fn what_only_one_library_takes_for_yaml_is_read() {
        for text in ["a:\n  b: [\n    x,\n]\n", "a:\n  b: \"x\ny\"\n"] {
            let document = one(text).unwrap();
            assert_eq!(document.positions.line("a.b"), 2, "{text}");
        }
        // Not if it might be costly.
        assert!(one(&format!("a: &x 1\nb:\n  c: [{}1\n]\n", "*x,".repeat(10))).is_err());
        assert!(one(&format!("b:\n  c: [\n]\na: {}{}\n", "[".repeat(6000), "]".repeat(6000))).is_err());
    }

    #[test]
    fn mistakes_have_a_line() {
        assert_eq!(failure("a: 1\nb: [1, 2\nc: 3\n").line, 3);
        let twice = failure("---\nx: 1\na: 1\na: 2\n");
        assert!(twice.message.contains("duplicate"), "{twice:?}");
        assert!(failure("a:\n\t- 1\n").line >= 1);
    }
}
