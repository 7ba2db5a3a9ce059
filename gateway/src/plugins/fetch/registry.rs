//! Modules in images, by the OCI distribution protocol: manifest, perhaps of several platforms, then the layer with
//! the module.
//!
//! | layout | the layer |
//! |---|---|
//! | artifact (`application/vnd.module.wasm.content.layer.v1+wasm`, or `application/wasm`) | the module itself |
//! | compat: an OCI image | the last, a tar with `plugin.wasm` |
//! | a Docker image | the last, a tar with `plugin.wasm` |
//!
//! Istio reads these, but artifacts only with exactly two layers; here they may have any number, as long as one is a
//! module. What comes from a registry is compared with its digest before it is looked at.

use std::{net::ToSocketAddrs, time::Instant};

use http::{StatusCode, Uri, header::WWW_AUTHENTICATE};
use serde::Deserialize;

use super::{
    FetchError, FetchLimit,
    address::{Reach, reach},
    client::{Answer, Ask, Client, parse, server},
    credentials,
    image::{Image, is_digest},
    unpack::{self, Wanted},
};
use crate::plugins::{Digest, Remote};

/// Longest manifest, and longest answer of who gives out tokens.
const MANIFEST_BYTES: usize = 4 << 20;

/// All kinds of manifests that are understood.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Media types of a layer that is a module.
const MODULES: [&str; 2] = ["application/vnd.module.wasm.content.layer.v1+wasm", "application/wasm"];
/// Media types of a layer that is an archive.
const ARCHIVES: [&str; 3] = [
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
];
/// The module in an archive.
const PLUGIN: &str = "plugin.wasm";

/// A manifest of an image, or of images for several platforms.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manifest {
    layers: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

/// What who gives out tokens answers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Token {
    token: String,
    access_token: String,
}

/// Fetches the module of an image.
pub(super) fn pull(client: &Client, image: &Image, remote: &Remote, deadline: Instant) -> Result<Vec<u8>, FetchError> {
    let basic = match &remote.secret {
        Some(secret) => credentials::basic(secret, image)?,
        None => None,
    };
    let mut session = Session { client, image, basic, authorization: None, deadline };
    let (first, mut manifest) = session.manifest(image.reference())?;
    let mut digest = first.clone();
    if !manifest.manifests.is_empty() {
        (digest, manifest) = session.manifest(&for_us(&manifest.manifests)?.digest)?;
    }
    // Of several platforms Istio compares the image's own manifest; the digest that people see first is good, too.
    if let Some(expected) = &remote.sha256
        && [&first, &digest].iter().all(|digest| digest.strip_prefix("sha256:") != Some(expected))
    {
        let message = format!(
            "the manifest of {image} has the digest {digest}, not sha256:{expected}; for images sha256 is that of the manifest"
        );
        return Err(FetchError::new("module-digest", message).at("sha256"));
    }
    let (layer, wanted) = module_layer(&manifest)?;
    unpack::module(&session.blob(layer)?, wanted, client.limits())
}

/// The image for this gateway: what runs everywhere anyway is mostly built for linux/amd64 or for wasm.
fn for_us(manifests: &[Descriptor]) -> Result<&Descriptor, FetchError> {
    let is = |descriptor: &Descriptor, test: fn(&Platform) -> bool| descriptor.platform.as_ref().is_some_and(test);
    let amd64 = manifests.iter().find(|one| is(one, |on| on.os == "linux" && on.architecture == "amd64"));
    let wasm = || manifests.iter().find(|one| is(one, |on| on.architecture.starts_with("wasm")));
    let only = || manifests.first().filter(|_| manifests.len() == 1);
    amd64
        .or_else(wasm)
        .or_else(only)
        .ok_or_else(|| FetchError::new("module-image", "the image has none for the platform linux/amd64 or for wasm"))
}

/// The layer with the module, and how it is packed.
fn module_layer(manifest: &Manifest) -> Result<(&Descriptor, Wanted), FetchError> {
    let is_module = |layer: &&Descriptor| MODULES.contains(&layer.media_type.as_str());
    let mut modules = manifest.layers.iter().filter(is_module);
    match (modules.next(), modules.next(), manifest.layers.last()) {
        (Some(layer), None, _) => Ok((layer, Wanted::Any)),
        (Some(_), Some(_), _) => {
            Err(FetchError::new("module-image", "the image has more than one layer that is a module"))
        }
        (None, _, Some(last)) if ARCHIVES.contains(&last.media_type.as_str()) => Ok((last, Wanted::Named(PLUGIN))),
        _ => {
            let found: Vec<_> =
                manifest.layers.iter().take(5).map(|layer| layer.media_type.escape_debug().to_string()).collect();
            let message = format!(
                "the image has no layer that can be a module: {}; expected {}, or as the last one {}",
                if found.is_empty() { "none at all".to_owned() } else { found.join(", ") },
                MODULES.join(" or "),
                ARCHIVES.join(" or ")
            );
            Err(FetchError::new("module-image", message))
        }
    }
}

/// One pull from one registry.
struct Session<'a> {
    client: &'a Client,
    image: &'a Image,
    /// From the pull secret.
    basic: Option<String>,
    /// What the registry wanted to see.
    authorization: Option<String>,
    deadline: Instant,
}

impl Session<'_> {
    /// A manifest and its digest.
    fn manifest(&mut self, reference: &str) -> Result<(String, Manifest), FetchError> {
        let bytes = self.get(&format!("manifests/{reference}"), Some(MANIFESTS))?.success()?.read(MANIFEST_BYTES)?;
        let digest = Digest::of(&bytes).with_algorithm();
        if reference.starts_with("sha256:") && reference != digest {
            let message = format!("the registry answers {digest} when asked for {reference}");
            return Err(FetchError::new("module-digest", message));
        }
        let manifest = serde_json::from_slice(&bytes).map_err(|error| {
            FetchError::new("module-image", format!("the manifest of {} cannot be read: {error}", self.image))
        })?;
        Ok((digest, manifest))
    }

    fn blob(&mut self, layer: &Descriptor) -> Result<Vec<u8>, FetchError> {
        if !is_digest(&layer.digest) {
            return Err(FetchError::new("module-image", "the layer with the module has no sha256 digest"));
        }
        let limit = self.client.limits().bytes;
        if layer.size > limit as u64 {
            let message =
                format!("the layer with the module has {} bytes, more than the {limit} that are fetched", layer.size);
            return Err(FetchError::beyond(FetchLimit::Bytes, message));
        }
        let bytes = self.get(&format!("blobs/{}", layer.digest), None)?.success()?.read(limit)?;
        let digest = Digest::of(&bytes).with_algorithm();
        if digest != layer.digest {
            let message = format!("the layer that came has the digest {digest}, not {}", layer.digest);
            return Err(FetchError::new("module-digest", message));
        }
        Ok(bytes)
    }

    /// Asks the registry, and once more with a token if it wants one.
    fn get(&mut self, what: &str, accept: Option<&str>) -> Result<Answer, FetchError> {
        let url = self.url(what)?;
        let ask = Ask { accept, authorization: self.authorization.as_deref(), public_only: false };
        let answer = self.client.get(&url, &ask, self.deadline)?;
        if answer.status() != StatusCode::UNAUTHORIZED || self.authorization.is_some() {
            return Ok(answer);
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<_> = challenges.iter().filter_map(|value| Challenge::parse(value.to_str().ok()?)).collect();
        let bearer = challenges.iter().find(|challenge| challenge.is("bearer"));
        self.authorization = match (bearer, &self.basic) {
            (Some(bearer), _) => Some(self.token(&url, bearer)?),
            (None, Some(basic)) if challenges.iter().any(|challenge| challenge.is("basic")) => Some(basic.clone()),
            _ => return Ok(answer),
        };
        let ask = Ask { accept, authorization: self.authorization.as_deref(), public_only: false };
        self.client.get(&url, &ask, self.deadline)
    }

    fn url(&self, what: &str) -> Result<Uri, FetchError> {
        let name = self.image.server();
        let host: http::uri::Authority =
            name.parse().map_err(|_| FetchError::new("module-url", format!("{name:?} is no host")))?;
        let scheme = match self.client.listed().plain(host.host(), host.port_u16().unwrap_or(80)) {
            true => "http",
            false => "https",
        };
        parse(&format!("{scheme}://{name}/v2/{}/{what}", self.image.repository))
    }

    /// Asks whom the registry `url` names for a token.
    fn token(&self, url: &Uri, challenge: &Challenge<'_>) -> Result<String, FetchError> {
        let refused = |why: String| {
            FetchError::new("module-realm", format!("{} wants a token from elsewhere: {why}", self.image))
        };
        let realm = challenge.parameter("realm").unwrap_or_default();
        let place = parse(&realm).map_err(|error| refused(error.message))?;
        let (host, port) = server(&place);
        if place.scheme_str() == Some("http") && !self.client.listed().plain(host, port) {
            return Err(refused(format!("{host} is without TLS; --insecure-registries would allow it")));
        }
        let default = format!("repository:{}:pull", self.image.repository);
        let mut query = String::new();
        for (name, value) in
            [("service", challenge.parameter("service")), ("scope", challenge.parameter("scope").or(Some(default)))]
        {
            if let Some(value) = value {
                let value = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
                query = format!("{query}{}{name}={value}", if query.is_empty() { "" } else { "&" });
            }
        }
        let separator = if place.query().is_some() { '&' } else { '?' };
        let place = parse(&format!("{place}{separator}{query}")).map_err(|error| refused(error.message))?;
        let ask = Ask {
            accept: None,
            authorization: self.basic.as_deref(),
            public_only: server(&place) != server(url) && !is_private(url),
        };
        let answer = self.client.get(&place, &ask, self.deadline)?.success()?.read(MANIFEST_BYTES)?;
        let answer: Token = serde_json::from_slice(&answer).map_err(|_| refused(format!("{host} answers no JSON")))?;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refused(format!("{host} answers no token")));
        }
        Ok(format!("Bearer {token}"))
    }
}

/// Whether a server is in a private network or on this machine, so that others there are no news to it.
fn is_private(url: &Uri) -> bool {
    let (host, port) = server(url);
    let addresses = (host.trim_matches(['[', ']']), port).to_socket_addrs();
    addresses.is_ok_and(|mut all| all.any(|address| matches!(reach(address.ip()), Reach::Private | Reach::Loopback)))
}

/// `Bearer realm="…",service="…"`
struct Challenge<'a> {
    scheme: &'a str,
    parameters: &'a str,
}

impl<'a> Challenge<'a> {
    fn parse(header: &'a str) -> Option<Self> {
        let (scheme, parameters) = header.trim().split_once(' ')?;
        Some(Self { scheme, parameters })
    }

    fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The value of a parameter, without its quotes.
    fn parameter(&self, name: &str) -> Option<String> {
        let mut rest = self.parameters;
        loop {
            let (key, after) = rest.split_once('=')?;
            let key = key.trim().trim_start_matches(',').trim();
            let after = after.trim_start();
            let (value, left) = match after.strip_prefix('"') {
                Some(quoted) => {
                    let mut value = String::new();
                    let mut bytes = quoted.char_indices();
                    let end = loop {
                        match bytes.next()? {
                            (at, '"') => break at + 1,
                            (_, '\\') => value.push(bytes.next()?.1),
                            (_, other) => value.push(other),
                        }
                    };
                    (value, quoted.get(end..)?)
                }
                None => {
                    let (value, left) = after.split_once(',').unwrap_or((after, ""));
                    (value.trim().to_owned(), left)
                }
            };
            if key.eq_ignore_ascii_case(name) {
                return Some(value);
            }
            rest = left;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn layers(types: &[&str]) -> Manifest {
        let layers =
            types.iter().map(|media_type| Descriptor { media_type: (*media_type).into(), ..Descriptor::default() });
        Manifest { layers: layers.collect(), manifests: Vec::new() }
    }

    #[test]
    fn the_layer_with_the_module_is_found() {
        let [raw, wasm] = MODULES;
        let [docker, oci, tar] = ARCHIVES;
        for (types, chosen, wanted) in [
            (vec![raw], raw, Wanted::Any),
            (vec!["application/vnd.module.wasm.config.v1+json", raw], raw, Wanted::Any),
            (vec![raw, "application/json"], raw, Wanted::Any),
            (vec![wasm], wasm, Wanted::Any),
            (vec!["application/json", docker], docker, Wanted::Named(PLUGIN)),
            (vec![oci, oci], oci, Wanted::Named(PLUGIN)),
            (vec![tar], tar, Wanted::Named(PLUGIN)),
        ] {
            let manifest = layers(&types);
            let (layer, how) = module_layer(&manifest).unwrap();
            assert_eq!((layer.media_type.as_str(), how), (chosen, wanted), "{types:?}");
        }
        for types in [vec![], vec!["application/json"], vec![docker, "application/json"], vec![raw, wasm]] {
            assert_eq!(module_layer(&layers(&types)).unwrap_err().code, "module-image", "{types:?}");
        }
    }

    #[test]
    fn the_platform_is_chosen() {
        let on = |platforms: &[(&str, &str)]| {
            let one = |(at, (os, architecture)): (usize, &(&str, &str))| Descriptor {
                digest: at.to_string(),
                platform: Some(Platform { architecture: (*architecture).into(), os: (*os).into() }),
                ..Descriptor::default()
            };
            let manifests: Vec<_> = platforms.iter().enumerate().map(one).collect();
            for_us(&manifests).map(|chosen| chosen.digest.clone()).map_err(|error| error.code)
        };
        assert_eq!(on(&[("linux", "arm64"), ("wasi", "wasm"), ("linux", "amd64")]).unwrap(), "2");
        assert_eq!(on(&[("linux", "arm64"), ("wasi", "wasm")]).unwrap(), "1");
        assert_eq!(on(&[("linux", "arm64")]).unwrap(), "0");
        assert_eq!(on(&[("linux", "arm64"), ("windows", "amd64")]), Err("module-image"));
    }

    #[test]
    fn challenges_are_read() {
        let challenge = Challenge::parse(
            r#"Bearer realm="https://a.io/token?x=1,2", service=reg , scope="repository:a:pull,push", e="\"q\"""#,
        )
        .unwrap();
        assert!(challenge.is("bearer"));
        let all = ["realm", "service", "scope", "e", "none"].map(|name| challenge.parameter(name));
        assert_eq!(
            all.each_ref().map(Option::as_deref),
            [Some("https://a.io/token?x=1,2"), Some("reg"), Some("repository:a:pull,push"), Some("\"q\""), None]
        );
        assert!(Challenge::parse("Bearer").is_none());
        for broken in ["Bearer realm", "Bearer realm=\"x", "Bearer =,=,=", "Bearer ,,,,"] {
            assert_eq!(Challenge::parse(broken).unwrap().parameter("realm"), None, "{broken}");
        }
    }
}
