//! Search and replace in bytes. Rules run one after the other, each on what the one before has left.
//!
//! A plugin has 50 ms for a callback, so everything here is linear in the length of the body, and the result is bounded.

use crate::pattern::Pattern;
use memchr::memmem::Finder;

/// The longest body that comes out, as a gateway takes no longer one from a plugin: 1 MiB.
pub(crate) const MOST_BYTES: usize = 1 << 20;

/// How much is replaced in one body, in matches of a literal; one of a pattern costs as much as three of them, and one
/// whose groups are needed as much as eight. Measured: all of it takes about 15 ms.
const MOST_WORK: usize = 100_000;
const PATTERN_WORK: usize = 3;
const GROUPS_WORK: usize = 8;

/// The rules of one message.
pub(crate) struct Rules(Vec<Rule>);

/// One rule.
pub(crate) enum Rule {
    Literal { find: Box<Finder<'static>>, replace: Vec<u8> },
    Regex { find: Box<Pattern>, replace: Replacement },
}

/// What a pattern is replaced by.
pub(crate) enum Replacement {
    /// The same for every match.
    Fixed(Vec<u8>),
    /// With references to groups: `$1`, `${name}`.
    Template(Vec<u8>),
}

/// The body cannot be rewritten: what comes out would be too long, or there is too much to find in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unfit;

impl Rules {
    pub(crate) fn new(rules: Vec<Rule>) -> Rules {
        Rules(rules)
    }

    /// The rewritten body; `None` if no rule has found anything.
    pub(crate) fn apply(&self, body: &[u8]) -> Result<Option<Vec<u8>>, Unfit> {
        let mut changed: Option<Vec<u8>> = None;
        let mut work = MOST_WORK;
        for rule in &self.0 {
            if let Some(bytes) = rule.apply(changed.as_deref().unwrap_or(body), &mut work)? {
                changed = Some(bytes);
            }
        }
        Ok(changed)
    }
}

impl Rule {
    /// A rule for these bytes.
    pub(crate) fn literal(find: &str, replace: &str) -> Result<Rule, String> {
        if find.is_empty() {
            return Err("must not be empty: that is everywhere".to_owned());
        }
        Ok(Rule::Literal { find: Box::new(Finder::new(find).into_owned()), replace: replace.as_bytes().to_vec() })
    }

    /// A rule for a regular expression on bytes.
    pub(crate) fn regex(find: &str, replace: &str) -> Result<Rule, String> {
        let find = Pattern::new(find)?;
        Ok(Rule::Regex { replace: Replacement::parse(replace, &find)?, find: Box::new(find) })
    }

    /// `None` if nothing was found. `work` is what may still be done, and is used up.
    fn apply(&self, body: &[u8], work: &mut usize) -> Result<Option<Vec<u8>>, Unfit> {
        let cost = match self {
            Rule::Literal { .. } => 1,
            Rule::Regex { replace: Replacement::Fixed(_), .. } => PATTERN_WORK,
            Rule::Regex { replace: Replacement::Template(_), .. } => GROUPS_WORK,
        };
        let mut out = Output { body, end: 0, bytes: Vec::new(), found: false, cost, work };
        match self {
            Rule::Literal { find, replace } => {
                for start in find.find_iter(body) {
                    out.replace(start, start + find.needle().len(), |bytes| bytes.extend(replace))?;
                }
            }
            Rule::Regex { find, replace: Replacement::Fixed(replace) } => {
                find.each(body, |place| out.replace(place.start, place.end, |bytes| bytes.extend(replace)))?;
            }
            Rule::Regex { find, replace: Replacement::Template(template) } => {
                let mut groups = find.groups();
                find.each(body, |place| {
                    out.replace(place.start, place.end, |bytes| groups.expand(body, place, template, bytes))
                })?;
            }
        }
        out.finish()
    }
}

/// A body while it is written anew.
struct Output<'a> {
    body: &'a [u8],
    /// What is before it has been written.
    end: usize,
    bytes: Vec<u8>,
    found: bool,
    /// What a match costs of the work that may still be done.
    cost: usize,
    work: &'a mut usize,
}

impl Output<'_> {
    /// Writes what stands before a match, and something in its place.
    fn replace(&mut self, start: usize, end: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Unfit> {
        self.found = true;
        *self.work = self.work.checked_sub(self.cost).ok_or(Unfit)?;
        self.bytes.extend(self.body.get(self.end..start).unwrap_or_default());
        write(&mut self.bytes);
        self.end = end;
        if self.bytes.len() > MOST_BYTES { Err(Unfit) } else { Ok(()) }
    }

    fn finish(mut self) -> Result<Option<Vec<u8>>, Unfit> {
        if !self.found {
            return Ok(None);
        }
        self.bytes.extend(self.body.get(self.end..).unwrap_or_default());
        if self.bytes.len() > MOST_BYTES { Err(Unfit) } else { Ok(Some(self.bytes)) }
    }
}

impl Replacement {
    /// References to groups that the pattern does not have would silently be nothing.
    fn parse(text: &str, find: &Pattern) -> Result<Replacement, String> {
        let mut rest = text;
        let mut template = false;
        while let Some((_, after)) = rest.split_once('$') {
            template = true;
            if let Some(after) = after.strip_prefix('$') {
                rest = after;
                continue;
            }
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, after) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or("a `${` without `}`")?,
                None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
            };
            if !find.has_group(name) {
                return Err(format!(
                    "refers to a group `{name}` that the pattern does not have; write `$$` for a dollar sign and `${{1}}a` for a group before a letter"
                ));
            }
            rest = after;
        }
        let bytes = text.as_bytes().to_vec();
        Ok(if template { Replacement::Template(bytes) } else { Replacement::Fixed(bytes) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn apply(rules: &[Rule], body: &[u8]) -> Option<Vec<u8>> {
        rules.iter().fold(None, |changed, rule| {
            rule.apply(changed.as_deref().unwrap_or(body), &mut { MOST_WORK }).unwrap().or(changed)
        })
    }

    #[test]
    fn literals_and_patterns_are_replaced_in_order() {
        let rules = [
            Rule::literal("cat", "dog").unwrap(),
            Rule::regex(r"(?i)(dog)s? (?P<n>\d+)", "${n} $1$$").unwrap(),
            Rule::regex("[[:space:]]+", "_").unwrap(),
        ];
        assert_eq!(apply(&rules, b"cats 7 DOG 8 catcat").unwrap(), b"7_dog$_8_DOG$_dogdog");
        assert_eq!(apply(&rules, b"none"), None);
        assert_eq!(apply(&rules, b""), None);
        assert_eq!(apply(&[Rule::literal("a", "").unwrap()], b"aaa").unwrap(), b"");
    }

    #[test]
    fn bytes_that_are_not_text_are_carried() {
        let rules = [Rule::regex(r"[a-c\xff]+", "x").unwrap(), Rule::literal("\u{e4}", "ae").unwrap()];
        assert_eq!(apply(&rules, b"\xff\xffab\xfea\xc3\xa4\xc3").unwrap(), b"x\xfexae\xc3");
        assert_eq!(apply(&rules, b"\xfe\xc3"), None);
    }

    #[test]
    fn the_result_and_the_work_are_bounded() {
        let of = |rule: Result<Rule, String>, count: usize| Rules::new(vec![rule.unwrap()]).apply(&vec![b'a'; count]);
        let long = "x".repeat(1 << 10);
        let literal = |replace: &str| Rule::literal("a", replace);
        let group = |replace: &str| Rule::regex("(a)", &format!("${{1}}{replace}"));
        assert!(
            of(literal(&long), 1000).is_ok()
                && of(group(&long), 1000).is_ok()
                && of(Rule::regex("a", &long), 1000).is_ok()
        );
        assert_eq!(of(literal(&long), 2 << 10), Err(Unfit));
        assert_eq!(of(group(&long), 2 << 10), Err(Unfit));
        assert_eq!(of(Rule::regex("a", &long), 2 << 10), Err(Unfit));

        assert!(of(literal("b"), MOST_WORK).is_ok());
        assert_eq!(of(literal("b"), MOST_WORK + 1), Err(Unfit));
        assert!(of(Rule::regex("a", "b"), MOST_WORK / PATTERN_WORK).is_ok());
        assert_eq!(of(Rule::regex("a", "b"), MOST_WORK / PATTERN_WORK + 1), Err(Unfit));
        assert!(of(group("b"), MOST_WORK / GROUPS_WORK).is_ok());
        assert_eq!(of(group("b"), MOST_WORK / GROUPS_WORK + 1), Err(Unfit));
        // All rules together.
        let two = Rules::new(vec![literal("a").unwrap(), literal("b").unwrap()]);
        assert_eq!(two.apply(&vec![b'a'; MOST_WORK / 2 + 1]), Err(Unfit));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let problem = |result: Result<Rule, String>| result.err().unwrap();
        assert!(problem(Rule::literal("", "x")).contains("everywhere"));
        for (find, replace, part) in [
            ("a*", "", "everywhere"),
            ("", "", "everywhere"),
            ("(", "", "not a regular expression: "),
            ("a", "$1", "a group `1`"),
            ("(?P<n>a)", "$na", "a group `na`"),
            ("a", "100$", "a group ``"),
            ("a", "${0", "without `}`"),
            ("(a{1000}){1000}", "", "exceeded limit"),
        ] {
            let problem = problem(Rule::regex(find, replace));
            assert!(problem.contains(part), "{find} {replace}: {problem}");
        }
        assert!(Rule::regex(&"a".repeat(2000), "").is_err());
        assert!(Rule::regex("(a)(?P<b>c)", "$0 ${1}x $b $$x").is_ok());
    }
}
