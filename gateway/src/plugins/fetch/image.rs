//! The name of an image: `[registry[:port]/]repository[:tag][@sha256:digest]`.

use std::{fmt, str::FromStr};

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// As it was written; Docker's own for names without one.
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: Option<String>,
    /// `sha256:…`
    pub(super) digest: Option<String>,
}

/// Docker's registry, under the name that images have and that of its server.
pub(super) const DOCKER: &str = "docker.io";
const DOCKER_SERVER: &str = "registry-1.docker.io";

impl Image {
    /// The server that has it, `host` or `host:port`.
    pub(super) fn server(&self) -> &str {
        if self.registry == DOCKER { DOCKER_SERVER } else { &self.registry }
    }

    /// What the registry is asked for: the digest if there is one, else the tag.
    pub(super) fn reference(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        write!(f, "{}/{}{separator}{}", self.registry, self.repository, self.reference())
    }
}

impl FromStr for Image {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!("{text:?} is no image: {what}; it should be registry.example/path/name:tag or …@sha256:…")
        };
        if text.len() > 1024 {
            return Err(wrong("the name has more than 1024 bytes"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong("the digest is not sha256: and 64 lower-case hex digits"));
        }
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let tag_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if tag.is_some_and(|tag| {
            tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.bytes().all(tag_byte)
        }) {
            return Err(wrong("the tag has characters that tags cannot have"));
        }
        // As everywhere: the first part is a registry if it looks like a host.
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            Some(_) => (DOCKER, name.to_owned()),
            None => (DOCKER, format!("library/{name}")),
        };
        let registry = if matches!(registry, "index.docker.io" | DOCKER_SERVER) { DOCKER } else { registry };
        let host_byte =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']' | b'_');
        let is_host = registry.bytes().all(host_byte)
            && registry.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.host().is_empty());
        if !is_host {
            return Err(wrong("the registry is no host"));
        }
        let part = |part: &str| {
            let inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
            part.bytes().all(inner)
                && part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
                && part.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric())
        };
        if repository.len() > 255 || !repository.split('/').all(part) {
            return Err(wrong("a repository has lower-case letters, digits and . _ - between them"));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

/// Whether it is `sha256:` and 64 lower-case hex digits.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.parse::<crate::plugins::Digest>().is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_read_as_everywhere() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, server, repository, reference) in [
            ("ghcr.io/org/name:v1", "ghcr.io", "org/name", "v1"),
            ("localhost:5000/a/b/c", "localhost:5000", "a/b/c", "latest"),
            ("localhost/a", "localhost", "a", "latest"),
            ("org/name", DOCKER_SERVER, "org/name", "latest"),
            ("docker.io/org/name", DOCKER_SERVER, "org/name", "latest"),
            ("name:2", DOCKER_SERVER, "library/name", "2"),
            ("[::1]:5000/a:1", "[::1]:5000", "a", "1"),
            (&format!("r.io/a:1@{digest}"), "r.io", "a", &digest),
        ] {
            let image: Image = text.parse().unwrap();
            assert_eq!((image.server(), image.repository.as_str(), image.reference()), (server, repository, reference));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "r.io/",
            "r.io/A",
            "r.io/a:",
            "r.io/a:b c",
            "r.io/a@sha256:12",
            "r.io/a@sha512:12",
            "r.io/../b",
            "r.io/a/../b",
            "r.io/a//b",
            "user:pw@r.io/a",
            "r.io/a?b",
            "r.io/a#b",
            "r.io:x:y/a",
            "/a",
            &format!("r.io/{}", "a".repeat(300)),
        ] {
            assert!(text.parse::<Image>().is_err(), "{text}");
        }
    }
}
