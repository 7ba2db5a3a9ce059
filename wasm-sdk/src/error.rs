//! Errors of plugins: what a handler or a configuration returns, and what the host refused.
//!
//! Owns the texts that end up in the operator's log. It knows nothing of the ABI beyond its status numbers.

use std::fmt;

/// The result of everything a plugin author writes; the error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a configuration was refused or a handler could not do its work, as text for the operator's log.
///
/// Every standard error turns into one with `?`. It deliberately is no [`std::error::Error`] itself: that is what
/// makes the conversion from all of them possible.
pub struct Error(String);

impl Error {
    /// An error with this message. Say what is wrong and what would be right; the name of the plugin and the
    /// phase are added by the SDK and the host.
    pub fn new(message: impl Into<String>) -> Error {
        Error(message.into())
    }

    /// An error about one field of the configuration, named as the operator wrote it: `request.set.x-team`.
    pub fn field(path: &str, problem: impl fmt::Display) -> Error {
        Error(format!("field `{path}`: {problem}"))
    }

    /// Several problems as one error, so that an operator can correct them all at once. `None` if there are none.
    pub fn all(problems: impl IntoIterator<Item = Error>) -> Option<Error> {
        let messages: Vec<String> = problems.into_iter().map(|problem| problem.0).collect();
        (!messages.is_empty()).then(|| Error(messages.join("; ")))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// What `unwrap` and a `main` that returns an error print: the message, not a struct.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Error {
        Error(error.to_string())
    }
}

/// The host answered a call with a status other than OK.
///
/// The usual reason is status 2 (bad argument): a header name or value that is not legal, or a part of the message
/// that has already gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError {
    call: String,
    status: u32,
}

impl HostError {
    pub(crate) fn new(call: impl Into<String>, status: u32) -> HostError {
        HostError { call: call.into(), status }
    }

    /// The number the host answered with; proxy-wasm specification v0.2.1, `proxy_status_t`.
    pub fn status(&self) -> u32 {
        self.status
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.status {
            1 => "not found",
            2 => "bad argument: not legal here, or this part of the message has already gone",
            3 => "the value cannot be serialised",
            4 => "the data cannot be parsed",
            6 => "invalid memory access",
            7 => "empty",
            10 => "the host failed or does not allow the call",
            12 => "not implemented by this host",
            _ => "unknown status",
        };
        write!(f, "{} failed with status {} ({meaning})", self.call, self.status)
    }
}

impl std::error::Error for HostError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_errors_convert_and_keep_their_text() {
        fn parse() -> Result<u16> {
            Ok("eighty".parse::<u16>()?)
        }
        assert_eq!(parse().map_err(|e| e.to_string()), Err("invalid digit found in string".to_owned()));
    }

    #[test]
    fn several_problems_become_one_line() {
        assert!(Error::all([]).is_none());
        let all = Error::all([Error::field("a", "missing"), Error::new("b is odd")]).map(|e| e.to_string());
        assert_eq!(all.as_deref(), Some("field `a`: missing; b is odd"));
    }

    #[test]
    fn host_errors_say_the_call_and_what_to_check() {
        let text = HostError::new("setting header `x y`", 2).to_string();
        assert!(text.starts_with("setting header `x y` failed with status 2 (bad argument"), "{text}");
        assert!(HostError::new("x", 77).to_string().contains("unknown status"));
    }
}
