//! What is wrong with the configuration, in the shape `istioctl analyze` prints.

use std::fmt;

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Probably not what was meant; everything still works.
    Warning,
    /// The resource, or the named part of it, has no effect.
    Error,
}

/// One finding about one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Severity.
    pub level: Level,
    /// Istio's code where it has one for this (`IST0101`), else ours (`GW…`).
    pub code: &'static str,
    /// `Kind namespace/name`, or empty if the document could not be read that far.
    pub resource: String,
    /// File as given on the command line or found below a folder.
    pub file: String,
    /// First line of what is wrong, from 1; 0 if unknown.
    pub line: usize,
    /// Path of the field, `spec.http[0].route[1].destination.host`; empty: the whole resource.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Level {
    /// The word that istioctl prints.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }
}

impl fmt::Display for Problem {
    /// `Error [IST0101] (VirtualService default/reviews reviews.yaml:12) spec.gateways[0]: Referenced gateway not found: "x"`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] (", self.level.as_str(), self.code)?;
        if !self.resource.is_empty() {
            write!(f, "{} ", self.resource)?;
        }
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(") ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
