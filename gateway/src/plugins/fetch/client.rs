//! HTTP for modules: GET and nothing else, within limits, and only from servers that [`address`](super::address) lets
//! through. Redirects are followed here, so that each is judged like the first request, and credentials stay with the
//! server they are for.

use std::{
    fmt,
    io::{self, Read},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use http::{
    StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, LOCATION},
    uri::Scheme,
};
use rustls::pki_types::CertificateDer;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig, TlsProvider},
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

use super::{
    FetchError, FetchLimit,
    address::{Listed, Reach, reach},
};
use crate::plugins::Limits;

/// What fetching one module may cost.
#[derive(Debug, Clone)]
pub(super) struct FetchLimits {
    /// Of an answer as it comes.
    pub(super) bytes: usize,
    /// Of what is packed in it.
    pub(super) unpacked: usize,
    /// Of the module.
    pub(super) module: usize,
    /// For one request.
    pub(super) request: Duration,
    /// For all of them.
    pub(super) whole: Duration,
    pub(super) redirects: usize,
}

impl FetchLimits {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            bytes: limits.fetch_bytes,
            unpacked: limits.unpacked_bytes,
            module: limits.module_bytes,
            request: limits.fetch_request,
            whole: limits.fetch,
            redirects: limits.fetch_redirects,
        }
    }
}

/// Fetches. Its methods block.
pub(super) struct Client {
    limits: FetchLimits,
    listed: Listed,
    /// Trusted besides those of the system.
    authorities: Vec<CertificateDer<'static>>,
    /// Made with the first request: the system's authorities have to be read. The second is for public servers only.
    agents: OnceLock<[Agent; 2]>,
}

/// What a request says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    pub(super) accept: Option<&'a str>,
    /// For the server of the URL; not for those that it redirects to.
    pub(super) authorization: Option<&'a str>,
    /// The server must not be in a private network.
    pub(super) public_only: bool,
}

/// The head of an answer, and its body to be read.
pub(super) struct Answer {
    url: Uri,
    response: http::Response<ureq::Body>,
}

/// Reads a URL that may be asked: http or https, with a host and without a password.
pub(super) fn parse(text: &str) -> Result<Uri, FetchError> {
    let wrong = |what: &str| FetchError::new("module-url", format!("the URL {what}"));
    if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err(wrong("must begin with http:// or https://"));
    }
    let url: Uri = text.parse().map_err(|error| wrong(&format!("is not valid: {error}")))?;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(wrong("must not have a user or password in it: it is shown to operators"));
    }
    if url.host().is_none_or(str::is_empty) {
        return Err(wrong("must name a host"));
    }
    Ok(url)
}

/// Host and port of a URL.
pub(super) fn server(url: &Uri) -> (&str, u16) {
    let default = if url.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    (url.host().unwrap_or_default(), url.port_u16().unwrap_or(default))
}

fn is_same_server(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && server(one) == server(other)
}

/// A URL without its query, in which there may be secrets.
struct Shown<'a>(&'a Uri);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}{}", self.0.path())
    }
}

impl Client {
    pub(super) fn new(limits: &Limits, listed: Listed, authorities: Vec<CertificateDer<'static>>) -> Self {
        Self { limits: FetchLimits::new(limits), listed, authorities, agents: OnceLock::new() }
    }

    pub(super) fn limits(&self) -> &FetchLimits {
        &self.limits
    }

    pub(super) fn listed(&self) -> &Listed {
        &self.listed
    }

    /// Asks, and follows redirects.
    pub(super) fn get(&self, first: &Uri, ask: &Ask<'_>, deadline: Instant) -> Result<Answer, FetchError> {
        let [open, public] = self.agents.get_or_init(|| [false, true].map(|public_only| self.agent(public_only)));
        let agent = if ask.public_only { public } else { open };
        let mut url = first.clone();
        for _ in 0..=self.limits.redirects {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.too_long(&url));
            }
            let mut request = agent.get(url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(authorization) = ask.authorization.filter(|_| is_same_server(first, &url)) {
                request = request.header(AUTHORIZATION, authorization);
            }
            let timed = request.config().timeout_global(Some(left.min(self.limits.request))).build();
            let response = timed.call().map_err(|error| self.explain(&url, error))?;
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            match response.headers().get(LOCATION).filter(|_| redirected) {
                None => return Ok(Answer { url, response }),
                Some(location) => url = self.follow(&url, location.to_str().unwrap_or_default())?,
            }
        }
        let message = format!("{} leads through more than {} redirects", Shown(first), self.limits.redirects);
        Err(FetchError::beyond(FetchLimit::Redirects, message))
    }

    /// Where a redirect leads.
    fn follow(&self, from: &Uri, location: &str) -> Result<Uri, FetchError> {
        let (scheme, authority) = (from.scheme_str().unwrap_or_default(), from.authority().map_or("", |a| a.as_str()));
        let target = if location.contains("://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        let refused = |why: &str| {
            FetchError::new(
                "module-address",
                format!("{} redirects to where nothing is fetched from: {why}", Shown(from)),
            )
        };
        let target = parse(&target).map_err(|error| refused(&error.message))?;
        let (host, port) = server(&target);
        if scheme == "https" && target.scheme() == Some(&Scheme::HTTP) && !self.listed.plain(host, port) {
            return Err(refused(&format!("{} is without TLS; --insecure-registries would allow it", Shown(&target))));
        }
        Ok(target)
    }

    fn agent(&self, public_only: bool) -> Agent {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's authorities cannot be read");
        }
        let roots: Vec<_> =
            found.certs.iter().chain(&self.authorities).map(|der| Certificate::from_der(der).to_owned()).collect();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            // A proxy would resolve names itself, and reach what this machine may not.
            .proxy(None)
            .user_agent(concat!("gateway/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(64 << 10)
            .max_idle_age(Duration::from_secs(5))
            .build();
        let guard = Guard { listed: self.listed.clone(), public_only, inner: DefaultResolver::default() };
        Agent::with_parts(config, DefaultConnector::default(), guard)
    }

    fn explain(&self, url: &Uri, error: ureq::Error) -> FetchError {
        match error {
            ureq::Error::Timeout(_) => self.too_long(url),
            ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Refused>()) => {
                FetchError::new("module-address", format!("nothing is fetched from {}: {error}", Shown(url)))
            }
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => self.too_long(url),
            ureq::Error::Io(error) if is_about_certificate(&error) => FetchError::new(
                "module-certificate",
                format!(
                    "{} shows a certificate that is not trusted: {error}; it must be valid now, be for {}, and come from an \
                     authority that this system trusts or that --plugin-source-ca names",
                    Shown(url),
                    url.host().unwrap_or_default()
                ),
            ),
            error => FetchError::new("module-unreachable", format!("{} cannot be fetched: {error}", Shown(url))),
        }
    }

    fn too_long(&self, url: &Uri) -> FetchError {
        let message = format!(
            "{} did not answer in time: {} s for a request, {} s for all of a module",
            Shown(url),
            self.limits.request.as_secs_f32(),
            self.limits.whole.as_secs_f32()
        );
        FetchError::beyond(FetchLimit::Time, message)
    }
}

fn is_about_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Reads a file of authorities that are trusted besides those of the system.
///
/// # Errors
/// It cannot be read, or has no certificate in it, or one that cannot be an authority.
pub(super) fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let at = file.display();
    let read = rustls_native_certs::load_certs_from_paths(Some(file), None);
    if let Some(error) = read.errors.first() {
        return Err(format!("{at}: {error}"));
    }
    if read.certs.is_empty() {
        return Err(format!("{at} has no certificate; it must be PEM text with \"-----BEGIN CERTIFICATE-----\""));
    }
    for (number, certificate) in read.certs.iter().enumerate() {
        let added = rustls::RootCertStore::empty().add(certificate.clone());
        added.map_err(|error| format!("{at}: certificate {} cannot be used as an authority: {error}", number + 1))?;
    }
    Ok(read.certs)
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The answer, if it is 200.
    pub(super) fn success(self) -> Result<Self, FetchError> {
        match self.status() {
            StatusCode::OK => Ok(self),
            status => Err(FetchError::new("module-http-status", format!("{} is answered {status}", Shown(&self.url)))),
        }
    }

    /// The body, if it has no more than `limit` bytes.
    pub(super) fn read(self, limit: usize) -> Result<Vec<u8>, FetchError> {
        let Self { url, response } = self;
        let too_large = || {
            let message = format!("{} is larger than {limit} bytes", Shown(&url));
            FetchError::beyond(FetchLimit::Bytes, message)
        };
        let length =
            response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(limit as u64 + 1).read_to_end(&mut bytes);
        match read {
            Ok(_) if bytes.len() > limit => Err(too_large()),
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(FetchError::beyond(FetchLimit::Time, format!("{} did not come in time", Shown(&url))))
            }
            Err(error) => Err(FetchError::new("module-unreachable", format!("{} broke off: {error}", Shown(&url)))),
        }
    }
}

/// Resolves names and lets through what may be connected to.
#[derive(Debug)]
struct Guard {
    listed: Listed,
    public_only: bool,
    inner: DefaultResolver,
}

/// No address of a host may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl Resolver for Guard {
    fn resolve(
        &self,
        url: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let (host, port) = server(url);
        let listed = self.listed.names(host, port);
        let mut allowed = self.empty();
        let mut refused = None;
        for address in self.inner.resolve(url, config, timeout)?.iter() {
            match reach(address.ip()) {
                Reach::Public => allowed.push(*address),
                Reach::Private if listed || !self.public_only => allowed.push(*address),
                Reach::Loopback if listed => allowed.push(*address),
                other => refused = Some((address.ip(), other)),
            }
        }
        match refused.filter(|_| allowed.is_empty()) {
            None => Ok(allowed),
            Some((address, reach)) => {
                let why = match reach {
                    Reach::Loopback => "this machine; --insecure-registries would allow it",
                    Reach::Private => "a private network, which the registry is not in",
                    _ => "link-local, reserved or a metadata service",
                };
                let refused = Refused(format!("{host} is {address}, which is {why}"));
                Err(ureq::Error::Io(io::Error::new(io::ErrorKind::PermissionDenied, refused)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn redirects_are_resolved_and_do_not_leave_tls() {
        let client = Client::new(&Limits::default(), Listed::new(vec!["plain.example".into()]), Vec::new());
        let from: Uri = "https://a.example/one/two?x=secret".parse().unwrap();
        for (location, expected) in [
            ("https://b.example/m", "https://b.example/m"),
            ("//b.example:1/m", "https://b.example:1/m"),
            ("/m?y", "https://a.example/m?y"),
            ("m", "https://a.example/one/m"),
            ("http://plain.example/m", "http://plain.example/m"),
        ] {
            assert_eq!(client.follow(&from, location).unwrap().to_string(), expected);
        }
        for location in
            ["http://b.example/m", "file:///etc/passwd", "ftp://b.example/", "https://u:p@b.example/", "http://"]
        {
            let error = client.follow(&from, location).unwrap_err();
            assert_eq!(error.code, "module-address", "{location}");
            assert!(!error.message.contains("secret"), "{error}");
        }
        let plain: Uri = "http://a.example/".parse().unwrap();
        assert!(client.follow(&plain, "http://b.example/").is_ok(), "nothing is lost");
    }

    #[test]
    fn what_may_not_be_reached_is_not_connected_to() {
        let client = Client::new(&Limits::default(), Listed::default(), Vec::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        for url in [
            "http://127.0.0.1:1/m",
            "http://localhost:1/m",
            "http://2130706433:1/m",
            "http://[::1]:1/m",
            "http://[::ffff:127.0.0.1]:1/m",
            "http://169.254.169.254/latest/meta-data",
            "http://[fe80::1]/m",
            "http://0.0.0.0:1/m",
        ] {
            let error = client.get(&url.parse().unwrap(), &Ask::default(), deadline).err().unwrap();
            assert_eq!(error.code, "module-address", "{url}: {error}");
        }
        let ask = Ask { public_only: true, ..Ask::default() };
        let error = client.get(&"http://10.1.2.3/token".parse().unwrap(), &ask, deadline).err().unwrap();
        assert_eq!(error.code, "module-address", "{error}");
        let listed = Client::new(&Limits::default(), Listed::new(vec!["127.0.0.1:1".into()]), Vec::new());
        let error = listed.get(&"http://127.0.0.1:1/m".parse().unwrap(), &Ask::default(), deadline).err().unwrap();
        assert_eq!(error.code, "module-unreachable", "allowed, but nobody listens: {error}");
    }
}
