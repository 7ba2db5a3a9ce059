//! Expressions of CEL that a plugin has made, over the properties of the stream that it works for.
//!
//! An expression is hostile like everything from a plugin: it is short, nested little, and has no comprehensions (`all`,
//! `map`, …), which are what takes long in CEL; Envoy does not have them either. What is left takes time in proportion to
//! its length and the values it looks at.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::parser::Parser;
use cel::{Context, Value};

use crate::abi::Status;
use crate::host::property::{Found, look_up};
use crate::pairs;
use crate::state::State;

/// Most expressions of one instance.
const MOST: usize = 100;
/// Longest expression.
const MAX_BYTES: usize = 4096;
/// Deepest nesting: reading an expression takes stack for each level.
const MAX_DEPTH: u16 = 16;

/// The expressions of one instance.
#[derive(Default)]
pub(crate) struct Expressions {
    made: HashMap<u32, IdedExpr>,
    /// The number of the next one; the first is 0, as in Envoy.
    next: u32,
}

impl Expressions {
    /// Reads an expression; answers its number. What is no expression, or more than one may be: `BAD_ARGUMENT`.
    pub(crate) fn create(&mut self, text: &[u8]) -> Result<u32, Status> {
        let text = std::str::from_utf8(text).map_err(|_| Status::BadArgument)?;
        if self.made.len() >= MOST || text.len() > MAX_BYTES || !is_shallow(text) {
            return Err(Status::BadArgument);
        }
        // The parser is somebody else's, and the text comes from outside.
        let parsed = catch_unwind(|| Parser::new().max_recursion_depth(MAX_DEPTH).parse(text));
        let expression = parsed.ok().and_then(Result::ok).filter(is_bounded).ok_or(Status::BadArgument)?;
        while self.made.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.made.insert(number, expression);
        Ok(number)
    }

    pub(crate) fn delete(&mut self, number: u32) {
        self.made.remove(&number);
    }
}

/// Whether brackets are nested no deeper than the parser is allowed to follow.
fn is_shallow(text: &str) -> bool {
    let (mut depth, mut deepest) = (0u16, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth = depth.saturating_add(1),
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest <= MAX_DEPTH
}

/// Whether an expression has no comprehensions.
fn is_bounded(expression: &IdedExpr) -> bool {
    let entries = |entries: &[cel::common::ast::IdedEntryExpr]| {
        entries.iter().all(|entry| match &entry.expr {
            EntryExpr::StructField(field) => is_bounded(&field.value),
            EntryExpr::MapEntry(entry) => is_bounded(&entry.key) && is_bounded(&entry.value),
        })
    };
    match &expression.expr {
        Expr::Unspecified | Expr::Comprehension(_) => false,
        Expr::Ident(_) | Expr::Literal(_) => true,
        Expr::Select(select) => is_bounded(&select.operand),
        Expr::Call(call) => call.target.iter().all(|target| is_bounded(target)) && call.args.iter().all(is_bounded),
        Expr::List(list) => list.elements.iter().all(is_bounded),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(made) => entries(&made.entries),
    }
}

/// The value of an expression, written as a property is. No such expression: `NOT_FOUND`; one that has no value here:
/// `INTERNAL_FAILURE`; a value that cannot be written: `SERIALIZATION_FAILURE`.
pub(crate) fn evaluate(state: &State, number: u32) -> Result<Vec<u8>, Status> {
    let expression = state.expressions.made.get(&number).ok_or(Status::NotFound)?;
    let evaluated = catch_unwind(AssertUnwindSafe(|| {
        let mut context = Context::default();
        for name in expression.references().variables() {
            if let Some(value) = variable(state, name) {
                context.add_variable_from_value(name, value);
            }
        }
        context.resolve(expression).ok()
    }));
    written(&evaluated.ok().flatten().ok_or(Status::InternalFailure)?)
}

fn written(value: &Value) -> Result<Vec<u8>, Status> {
    Ok(match value {
        Value::Int(number) => number.to_le_bytes().to_vec(),
        Value::UInt(number) => number.to_le_bytes().to_vec(),
        Value::Float(number) => number.to_le_bytes().to_vec(),
        Value::Bool(truth) => vec![u8::from(*truth)],
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Bytes(bytes) => bytes.to_vec(),
        _ => return Err(Status::SerializationFailure),
    })
}

/// How the bytes of a property are read.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Truth,
    Map,
}

use Kind::{Map, Number, Text, Truth};

/// What expressions may name, by the variable that it is a part of.
const PARTS: &[(&str, &[(&str, Kind)])] = &[
    (
        "request",
        &[
            ("path", Text),
            ("url_path", Text),
            ("host", Text),
            ("scheme", Text),
            ("method", Text),
            ("headers", Map),
            ("referer", Text),
            ("useragent", Text),
            ("time", Number),
            ("id", Text),
            ("protocol", Text),
            ("query", Text),
            ("duration", Number),
            ("size", Number),
            ("total_size", Number),
        ],
    ),
    (
        "response",
        &[
            ("code", Number),
            ("code_details", Text),
            ("flags", Number),
            ("grpc_status", Number),
            ("headers", Map),
            ("trailers", Map),
            ("size", Number),
            ("total_size", Number),
        ],
    ),
    ("source", &[("address", Text), ("port", Number)]),
    ("destination", &[("address", Text), ("port", Number)]),
    (
        "connection",
        &[
            ("id", Number),
            ("mtls", Truth),
            ("requested_server_name", Text),
            ("tls_version", Text),
            ("subject_local_certificate", Text),
            ("subject_peer_certificate", Text),
            ("dns_san_local_certificate", Text),
            ("dns_san_peer_certificate", Text),
            ("uri_san_local_certificate", Text),
            ("uri_san_peer_certificate", Text),
            ("sha256_peer_certificate_digest", Text),
        ],
    ),
    ("upstream", &[("address", Text), ("port", Number), ("local_address", Text), ("transport_failure_reason", Text)]),
    (
        "xds",
        &[("route_name", Text), ("cluster_name", Text), ("virtual_host_name", Text), ("listener_direction", Number)],
    ),
];

/// The present value of a variable: a map of its parts, or a property of that name.
fn variable(state: &State, name: &str) -> Option<Value> {
    let Some((_, parts)) = PARTS.iter().find(|(known, _)| *known == name) else {
        return property(state, name.as_bytes(), Text);
    };
    let known = parts.iter().filter_map(|(part, kind)| {
        let path = [name.as_bytes(), b"\0", part.as_bytes()].concat();
        Some(((*part).to_owned(), property(state, &path, *kind)?))
    });
    Some(known.collect::<HashMap<_, _>>().into())
}

fn property(state: &State, path: &[u8], kind: Kind) -> Option<Value> {
    let Found::Value(bytes) = look_up(state, path) else { return None };
    let text = |bytes: &[u8]| Value::String(Arc::new(String::from_utf8_lossy(bytes).into_owned()));
    Some(match kind {
        Text => text(&bytes),
        Number => Value::Int(i64::from_le_bytes(bytes[..].try_into().ok()?)),
        Truth => Value::Bool(bytes.first() == Some(&1)),
        Map => {
            let mut map = HashMap::new();
            for (name, value) in pairs::decode(&bytes).ok()? {
                // The first of several, as a plugin sees it.
                map.entry(String::from_utf8_lossy(name).into_owned()).or_insert_with(|| text(value));
            }
            map.into()
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn expressions_are_short_shallow_and_without_loops() {
        let mut expressions = Expressions::default();
        assert_eq!(expressions.create(b"request.path.startsWith('/a') && 1 + 2 == 3"), Ok(0));
        assert_eq!(expressions.create(b"{'a': [1, 2]}['a'][0] == 1 ? 'x' : 'y'"), Ok(1));
        let deep = "(".repeat(1000) + "1" + &")".repeat(1000);
        let chain = "true ? 1 : ".repeat(300) + "1";
        let long = "1 + ".repeat(2000) + "1";
        for refused in
            ["", "1 +", "[1, 2].all(x, x > 0)", "[1].map(x, [2].map(y, x + y))", "\u{0}", &deep, &chain, &long]
        {
            assert_eq!(expressions.create(refused.as_bytes()), Err(Status::BadArgument), "{refused:.40}");
        }
        assert_eq!(expressions.create(b"\xff"), Err(Status::BadArgument));
        for number in 2..MOST as u32 {
            assert_eq!(expressions.create(b"1"), Ok(number));
        }
        assert_eq!(expressions.create(b"1"), Err(Status::BadArgument));
        expressions.delete(7);
        assert_eq!(expressions.create(b"1"), Ok(MOST as u32));
    }
}
