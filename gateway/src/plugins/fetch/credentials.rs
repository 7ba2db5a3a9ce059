//! Who asks a registry: the entry of a `kubernetes.io/dockerconfigjson` Secret that is for it.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::{
    FetchError,
    image::{DOCKER, Image},
};
use crate::plugins::PullSecret;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// Base64 of `user:password`.
    auth: String,
    username: String,
    password: String,
}

/// The value of an `authorization` header for this image; `None` if the Secret is for other registries only.
pub(super) fn basic(secret: &PullSecret, image: &Image) -> Result<Option<String>, FetchError> {
    let wrong = |what: &str| {
        let message = format!("Secret {} {what}; create it with `kubectl create secret docker-registry`", secret.name);
        FetchError::new("module-pull-secret", message).at("imagePullSecret")
    };
    let text = secret.docker_config.as_ref().map_err(|why| wrong(why))?;
    // What serde says could name a password.
    let config: DockerConfig = serde_json::from_str(text)
        .map_err(|_| wrong("has an entry .dockerconfigjson that is not as docker writes it"))?;
    let best = config.auths.iter().filter_map(|(place, entry)| Some((is_for(place, image)?, entry)));
    let Some((_, entry)) = best.max_by_key(|(length, _)| *length) else { return Ok(None) };
    let pair = match (entry.username.as_str(), entry.auth.trim()) {
        ("", "") => return Ok(None),
        ("", auth) => {
            let pair = BASE64_STANDARD.decode(auth).ok().and_then(|pair| String::from_utf8(pair).ok());
            pair.filter(|pair| pair.contains(':'))
                .ok_or_else(|| wrong("has an `auth` that is not base64 of user:password"))?
        }
        (user, _) => format!("{user}:{}", entry.password),
    };
    Ok(Some(format!("Basic {}", BASE64_STANDARD.encode(pair))))
}

/// Whether an entry for `place` is for `image`, and how closely: `host[:port][/path]`, perhaps with a scheme and
/// the version of the API, as docker writes its own.
fn is_for(place: &str, image: &Image) -> Option<usize> {
    let place = place.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { DOCKER } else { host };
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let below = path.is_empty()
        || image.repository == path
        || image.repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    (host.eq_ignore_ascii_case(&image.registry) && below).then_some(path.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn header(config: &str, image: &str) -> Result<Option<String>, FetchError> {
        let secret = PullSecret { name: "ns/pull".into(), docker_config: Ok(config.into()) };
        basic(&secret, &image.parse().unwrap())
    }

    #[test]
    fn the_entry_of_the_registry_is_used() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"username": "d", "password": "p"},
            "r.io": {"auth": "dTpw"},
            "r.io/team": {"username": "team", "password": "x:y"},
            "r.io:5000": {"auth": "ZTpw", "email": "a@b"}
        }}"#;
        let encoded = |pair: &str| Some(format!("Basic {}", BASE64_STANDARD.encode(pair)));
        for (image, pair) in [
            ("r.io/a", "u:p"),
            ("r.io/team/a", "team:x:y"),
            ("r.io/teams/a", "u:p"),
            ("r.io:5000/a", "e:p"),
            ("org/a", "d:p"),
        ] {
            assert_eq!(header(config, image).unwrap(), encoded(pair), "{image}");
        }
        assert_eq!(header(config, "other.io/a").unwrap(), None);
        assert_eq!(header("{}", "r.io/a").unwrap(), None);
    }

    #[test]
    fn a_broken_secret_is_reported_without_its_contents() {
        for config in ["", "{\"auths\": 5}", r#"{"auths": {"r.io": {"auth": "geheim"}}}"#, "geheim"] {
            let error = header(config, "r.io/a").unwrap_err();
            assert_eq!((error.code, error.field), ("module-pull-secret", "imagePullSecret"));
            assert!(error.message.contains("ns/pull") && !error.message.contains("geheim"), "{error}");
        }
    }
}
