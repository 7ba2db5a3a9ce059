//! Who sends the requests. Every load answers one question: how many operations did the client see through, in a
//! window of about a second? A single answer that is not the expected one ends the run.

pub(crate) mod h2load;
pub(crate) mod wrk;

/// A tool's numbers, found by the text in front of them.
fn number_after(text: &str, before: &str) -> Option<u64> {
    let rest = &text[text.find(before)? + before.len()..];
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
