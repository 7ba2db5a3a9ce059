//! What is wrong with the configuration, in the shape `istioctl analyze` prints.
//!
//! Istio's codes keep Istio's meaning and words (IST0101, 0106, 0112, 0130, 0132, 0133, 0145, …). Ours:
//!
//! | code | level | meaning |
//! |---|---|---|
//! | GW0001 | Error | a file cannot be read |
//! | GW0002 | Error | a document is not YAML |
//! | GW0003 | Error | a document is not a Kubernetes object |
//! | GW0004 | Info | a kind that this gateway does not read |
//! | GW0005 | Error | the same kind, namespace and name twice |
//! | GW0006 | Info | the version of a resource before this one stays in use |
//! | GW0007 | Error | more than is read: a file, a document, a Secret or ConfigMap |
//! | GW0008 | Warning | a file is empty; what it had stays in use |
//! | GW0101 | Warning | a part that this version does not act on, where that is harmless |
//! | GW0102 | Error | a part that this version does not act on, and what happens instead |
//! | GW0103 | Error | hosts are answered 403 because a policy for them cannot be enforced |
//! | GW0104 | Error | two listeners need the same address |
//! | GW0105 | Warning | a service is defined twice |
//! | GW0106 | Warning | a service has no endpoint |
//! | GW0107 | Error | a namespace may not use a host of a Gateway |
//! | GW0108 | Error | the address of a listener cannot be bound |
//! | GW0201 | Error | a certificate cannot be used; what its server does instead |
//! | GW0202 | Warning | a certificate expires soon or is for other hosts |
//! | GW0203 | Error | two TLS servers on one port want the same host |
//! | GW0301 | Error | a plugin cannot be used; which version serves instead, or what happens to requests |
//! | GW0302 | Warning | an upload has no effect, or uploads are not kept |

use std::{cmp::Ordering, fmt};

/// The code of what is more than a limit allows.
pub const BEYOND_LIMIT: &str = "GW0007";

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
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

impl Problem {
    /// Order for people: by file and line, then the rest.
    #[must_use]
    pub fn by_place(&self, other: &Self) -> Ordering {
        let key = |problem: &Self| (problem.line, problem.level);
        self.file.cmp(&other.file).then_with(|| key(self).cmp(&key(other))).then_with(|| self.cmp(other))
    }
}

impl fmt::Display for Problem {
    /// `Error [IST0101] (VirtualService default/reviews reviews.yaml:12) spec.gateways[0]: Referenced gateway not found: "x"`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] (", self.level.as_str(), self.code)?;
        f.write_str(&self.resource)?;
        if !self.resource.is_empty() && !self.file.is_empty() {
            f.write_str(" ")?;
        }
        f.write_str(&self.file)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_as_exact_as_it_is_known() {
        let problem = |resource: &str, file: &str, line, field: &str| {
            let (resource, file, field) = (resource.to_owned(), file.to_owned(), field.to_owned());
            Problem { level: Level::Error, code: "GW0001", resource, file, line, field, message: "no".to_owned() }
                .to_string()
        };
        assert_eq!(problem("Gateway a/b", "c.yaml", 3, "spec"), "Error [GW0001] (Gateway a/b c.yaml:3) spec: no");
        assert_eq!(problem("Gateway a/b", "", 0, "spec"), "Error [GW0001] (Gateway a/b) spec: no");
        assert_eq!(problem("", "c.yaml", 0, ""), "Error [GW0001] (c.yaml) no");
    }
}
