//! Content types: which of them are meant.

/// `text/html`, `text/*` or `*/*`, in lower case.
pub(crate) struct ContentTypes(Vec<String>);

/// What is meant if nothing is said: text that people write or programs read as a whole.
const USUAL: [&str; 6] = [
    "text/*",
    "application/json",
    "application/javascript",
    "application/xml",
    "application/xhtml+xml",
    "image/svg+xml",
];

/// A stream without an end: collecting it would hold it back for ever, so it has to be named.
const ENDLESS: &str = "text/event-stream";

impl ContentTypes {
    pub(crate) fn usual() -> ContentTypes {
        ContentTypes(USUAL.map(str::to_owned).into())
    }

    /// Checks one of a list.
    pub(crate) fn check(text: &str) -> Result<(), &'static str> {
        let token = |part: &str| wasm_sdk::is_legal_name(part);
        match text.split_once('/') {
            Some(("*", "*")) => Ok(()),
            Some((kind, part))
                if token(kind) && !kind.contains('*') && token(part) && (part == "*" || !part.contains('*')) =>
            {
                Ok(())
            }
            _ => Err("must be like `text/html`, `text/*` or `*/*`, without parameters"),
        }
    }

    /// Those of a list that were all checked.
    pub(crate) fn of(list: &[String]) -> ContentTypes {
        ContentTypes(list.iter().map(|text| text.to_ascii_lowercase()).collect())
    }

    /// Whether a value of `content-type` is meant.
    pub(crate) fn contain(&self, value: &[u8]) -> bool {
        let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let Ok(kind) = std::str::from_utf8(&kind) else { return false };
        let below = |pattern: &String| {
            pattern == "*/*"
                || pattern.strip_suffix('*').is_some_and(|start| start.ends_with('/') && kind.starts_with(start))
        };
        kind.contains('/')
            && (self.0.iter().any(|pattern| pattern == kind) || (kind != ENDLESS && self.0.iter().any(below)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_ones_are_text_with_an_end() {
        let usual = ContentTypes::usual();
        for kind in ["text/html", "Text/HTML; charset=utf-8", "application/json", "text/plain ;a=b", "image/svg+xml"] {
            assert!(usual.contain(kind.as_bytes()), "{kind}");
        }
        for kind in [
            "",
            "text",
            "text/event-stream",
            "application/grpc",
            "application/octet-stream",
            "image/png",
            "xtext/a",
            "\u{ff}/",
        ] {
            assert!(!usual.contain(kind.as_bytes()), "{kind}");
        }
    }

    #[test]
    fn named_ones_are_those_and_no_others() {
        let named = |list: &[&str]| ContentTypes::of(&list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert!(named(&["text/event-stream"]).contain(b"text/event-stream"));
        assert!(!named(&["text/*", "*/*"]).contain(b"text/event-stream"));
        assert!(named(&["*/*"]).contain(b"application/x") && !named(&["*/*"]).contain(b"nothing"));
        assert!(
            named(&["Application/X"]).contain(b"application/x")
                && !named(&["application/x"]).contain(b"application/xy")
        );
        for text in ["text/html", "*/*", "image/*", "application/a+b"] {
            assert!(ContentTypes::check(text).is_ok(), "{text}");
        }
        for text in ["", "text", "*/html", "text/h*", "a/b;c", "a/b/c", "te xt/a", "*"] {
            assert!(ContentTypes::check(text).is_err(), "{text}");
        }
    }
}
