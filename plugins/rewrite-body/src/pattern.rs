//! Regular expressions on bytes: a lazily built automaton finds the matches, a slower machine their groups.
//!
//! Put together of the parts that are needed and not taken from the crate `regex`, which would double the module. Both
//! machines take time linear in the length of what they read, whatever the pattern.

use regex_automata::hybrid::regex::{Cache, Regex};
use regex_automata::nfa::thompson::{self, pikevm};
use regex_automata::util::{captures::Captures, syntax};
use regex_automata::{Anchored, Input, PatternID};
use std::cell::RefCell;
use std::ops::Range;

/// The longest pattern, in bytes.
const MOST_BYTES: usize = 1024;
/// Memory of a compiled pattern.
const MOST_MEMORY: usize = 256 << 10;

/// A compiled pattern that never matches nothing at all.
pub(crate) struct Pattern {
    regex: Regex,
    groups: pikevm::PikeVM,
    /// The states of the automaton that have been needed so far.
    cache: RefCell<Cache>,
}

/// Looks for the groups of matches, one after the other.
pub(crate) struct Groups<'a> {
    machine: &'a pikevm::PikeVM,
    cache: pikevm::Cache,
    found: Captures,
}

impl Pattern {
    /// Compiles a pattern: the syntax of the crate `regex` without Unicode. The error says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Pattern, String> {
        if text.len() > MOST_BYTES {
            return Err(format!("is longer than {MOST_BYTES} bytes"));
        }
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        let size = thompson::Config::new().nfa_size_limit(Some(MOST_MEMORY)).utf8(false);
        let regex =
            Regex::builder().syntax(syntax).thompson(size.clone()).build(text).map_err(|error| one_line(&error))?;
        let groups = pikevm::PikeVM::builder().syntax(syntax).thompson(size).build(text);
        let groups = groups.map_err(|error| one_line(&error))?;
        let cache = RefCell::new(regex.create_cache());
        if regex.is_match(&mut cache.borrow_mut(), "") {
            return Err("matches nothing at all, and that is everywhere".to_owned());
        }
        Ok(Pattern { regex, groups, cache })
    }

    /// Whether there is a group of this name or number.
    pub(crate) fn has_group(&self, name: &str) -> bool {
        let info = self.groups.get_nfa().group_info();
        match name.parse::<usize>() {
            Ok(number) => number < info.group_len(PatternID::ZERO),
            Err(_) => info.to_index(PatternID::ZERO, name).is_some(),
        }
    }

    /// Says where the matches are, up to the first that is not wanted any more.
    pub(crate) fn each<E>(&self, text: &[u8], found: impl FnMut(Range<usize>) -> Result<(), E>) -> Result<(), E> {
        let cache = &mut *self.cache.borrow_mut();
        self.regex.find_iter(cache, text).map(|place| place.range()).try_for_each(found)
    }

    /// What finds the groups of these matches.
    pub(crate) fn groups(&self) -> Groups<'_> {
        Groups {
            machine: &self.groups,
            cache: self.groups.create_cache(),
            found: Captures::all(self.groups.get_nfa().group_info().clone()),
        }
    }
}

impl Groups<'_> {
    /// Writes a template with the groups of the match at this place.
    pub(crate) fn expand(&mut self, text: &[u8], place: Range<usize>, template: &[u8], out: &mut Vec<u8>) {
        let input = Input::new(text).range(place).anchored(Anchored::Yes);
        self.machine.captures(&mut self.cache, input, &mut self.found);
        self.found.interpolate_bytes_into(text, template, out);
    }
}

/// Errors of the parser draw the pattern over several lines, and each stands in another one.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(&text);
    format!("not a regular expression: {}", last.trim().trim_start_matches("error: "))
}
