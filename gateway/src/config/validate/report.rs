//! What the checks of one resource find.

use crate::config::{
    path::Path,
    problem::{BEYOND_LIMIT, Level, Problem},
    resources::Resource,
};

/// Problems of one resource, and whether it may be used.
#[derive(Debug)]
pub(crate) struct Report<'a, T> {
    resource: &'a Resource<T>,
    problems: Vec<Problem>,
    rejected: bool,
    elsewhere: bool,
}

impl<'a, T> Report<'a, T> {
    pub(crate) fn new(resource: &'a Resource<T>) -> Self {
        Self { resource, problems: Vec::new(), rejected: false, elsewhere: false }
    }

    /// The problems, and whether the resource must not be used.
    pub(crate) fn finish(self) -> (Vec<Problem>, bool) {
        (self.problems, self.rejected)
    }

    /// Whether the resource must not be used.
    pub(crate) fn rejected(&self) -> bool {
        self.rejected
    }

    /// The resource does not act at gateways: what this version cannot do is of no interest.
    pub(crate) fn acts_elsewhere(&mut self) {
        self.elsewhere = true;
    }

    /// The resource must not be used.
    pub(crate) fn reject(&mut self, field: &Path<'_>, message: impl AsRef<str>) {
        self.rejected = true;
        self.push(Level::Error, "IST0106", field, format!("Schema validation error: {}", message.as_ref()));
    }

    /// The resource is larger than is read.
    pub(crate) fn too_large(&mut self, field: &Path<'_>, message: &str) {
        self.rejected = true;
        self.push(Level::Error, BEYOND_LIMIT, field, message);
    }

    /// A value of the wrong type.
    pub(crate) fn mistake(&mut self, field: String, message: &str) {
        self.reject(&Path::Root, message);
        self.place(field);
    }

    /// A field that does not exist.
    pub(crate) fn unknown_field(&mut self, field: String, meant: Option<&str>) {
        let hint = meant.map_or_else(String::new, |meant| format!("; did you mean {meant:?}?"));
        self.warn("IST0133", &Path::Root, format!("Schema validation warning: unknown field, ignored{hint}"));
        self.place(field);
    }

    /// Moves the last problem to a field whose path is already text.
    fn place(&mut self, field: String) {
        if let Some(problem) = self.problems.last_mut() {
            problem.line = self.resource.origin.line(&field);
            problem.field = field;
        }
    }

    /// Probably not what was meant.
    pub(crate) fn warn(&mut self, code: &'static str, field: &Path<'_>, message: impl Into<String>) {
        self.push(Level::Warning, code, field, message);
    }

    /// Worth knowing.
    pub(crate) fn info(&mut self, code: &'static str, field: &Path<'_>, message: impl Into<String>) {
        self.push(Level::Info, code, field, message);
    }

    /// A part that this version does not act on, where that is harmless.
    pub(crate) fn ignored(&mut self, field: &Path<'_>, what: &str) {
        if !self.elsewhere {
            self.warn("GW0101", field, format!("not supported in this version, ignored: {what}"));
        }
    }

    /// A part that this version does not act on, where that changes what is served.
    pub(crate) fn unsupported(&mut self, field: &Path<'_>, what: &str, instead: &str) {
        if !self.elsewhere {
            self.push(Level::Error, "GW0102", field, format!("{what} is not supported in this version: {instead}"));
        }
    }

    /// The resource must not be used, because this version cannot.
    pub(crate) fn refuse(&mut self, field: &Path<'_>, what: &str, instead: &str) {
        self.rejected = true;
        self.unsupported(field, what, instead);
    }

    /// Rejects a value that is not one of `known`.
    pub(crate) fn one_of(&mut self, field: &Path<'_>, value: &str, known: &[&str]) {
        if !known.contains(&value) {
            self.reject(field, format!("{value:?} is not one of {}", known.join(", ")));
        }
    }

    /// Rejects what is no port number.
    pub(crate) fn port(&mut self, field: &Path<'_>, number: u32) {
        if !(1..=65535).contains(&number) {
            self.reject(field, format!("port number {number} must be in the range 1..65535"));
        }
    }

    fn push(&mut self, level: Level, code: &'static str, field: &Path<'_>, message: impl Into<String>) {
        self.problems.push(self.resource.problem(level, code, field, message));
    }
}
