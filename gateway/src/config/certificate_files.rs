//! Certificates that resources name as files: read when the configuration is, kept as long as a newer version is no good.
//!
//! A path that is not absolute starts at the folder of the YAML file that names it. Writers replace a certificate and
//! its key one after the other; until they belong together the pair before stays in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Options,
    resources::{Origin, Resources},
};
use crate::{
    istio::{ClientTls, ServerTls, TrafficPolicy},
    tls::{self, Authorities, Credential, RevocationLists},
};

/// Files that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileSet {
    /// A certificate chain and its key.
    KeyPair(PathBuf, PathBuf),
    /// Authorities.
    Authorities(PathBuf),
    /// Revocation lists.
    RevocationLists(PathBuf),
}

/// What files held when they were last good, and what is wrong with them now.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    /// The last good version.
    pub(crate) good: Option<T>,
    /// Why it is not the newest: which file, and what is wrong.
    pub(crate) error: Option<String>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { good: None, error: None }
    }
}

impl<T> Kept<T> {
    fn renew(&mut self, read: Result<T, String>) {
        match read {
            Ok(value) => *self = Self { good: Some(value), error: None },
            Err(error) => self.error = Some(error),
        }
    }
}

/// All certificate files that the resources name.
#[derive(Debug, Default)]
pub(crate) struct CertificateFiles {
    pairs: BTreeMap<(PathBuf, PathBuf), Kept<Arc<Credential>>>,
    authorities: BTreeMap<PathBuf, Kept<Authorities>>,
    revocations: BTreeMap<PathBuf, Kept<RevocationLists>>,
}

impl CertificateFiles {
    /// Reads every file that the resources name and forgets the others.
    pub(crate) fn refresh(&mut self, resources: &Resources, options: &Options) {
        let mut before = std::mem::take(self);
        for set in referenced(resources, options) {
            match set {
                FileSet::KeyPair(chain, key) => {
                    let place = (chain, key);
                    let mut kept = before.pairs.remove(&place).unwrap_or_default();
                    kept.renew(key_pair(&place.0, &place.1));
                    self.pairs.insert(place, kept);
                }
                FileSet::Authorities(path) => {
                    let mut kept = before.authorities.remove(&path).unwrap_or_default();
                    kept.renew(parse(&path, Authorities::from_pem));
                    self.authorities.insert(path, kept);
                }
                FileSet::RevocationLists(path) => {
                    let mut kept = before.revocations.remove(&path).unwrap_or_default();
                    kept.renew(parse(&path, RevocationLists::from_pem));
                    self.revocations.insert(path, kept);
                }
            }
        }
    }

    /// Every file, for the watch.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let pairs = self.pairs.keys().flat_map(|(chain, key)| [chain, key]);
        pairs.chain(self.authorities.keys()).chain(self.revocations.keys())
    }

    /// A certificate chain with its key; `None`: [`referenced`] does not know of it.
    pub(crate) fn key_pair(&self, chain: PathBuf, key: PathBuf) -> Option<&Kept<Arc<Credential>>> {
        self.pairs.get(&(chain, key))
    }

    /// Authorities.
    pub(crate) fn authorities(&self, path: &Path) -> Option<&Kept<Authorities>> {
        self.authorities.get(path)
    }

    /// Revocation lists.
    pub(crate) fn revocation_lists(&self, path: &Path) -> Option<&Kept<RevocationLists>> {
        self.revocations.get(path)
    }
}

/// The path that a resource means.
pub(crate) fn resolve(path: &str, origin: &Origin) -> PathBuf {
    // Joining an absolute path gives that path.
    Path::new(&*origin.file).parent().unwrap_or(Path::new("")).join(path)
}

/// Every set of files that a resource for this gateway names.
fn referenced(resources: &Resources, options: &Options) -> BTreeSet<FileSet> {
    let mut found = BTreeSet::new();
    for gateway in resources.gateways.iter().filter(|gateway| options.selected_by(&gateway.spec.selector)) {
        for tls in gateway.spec.servers.iter().filter_map(|server| server.tls.as_ref()) {
            found.extend(of_server(tls, &gateway.origin));
        }
    }
    for rule in resources.destination_rules.iter().filter(|rule| options.sees(&rule.spec.export_to, &rule.namespace)) {
        let subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
        for tls in rule.spec.traffic_policy.iter().chain(subsets).flat_map(TrafficPolicy::all_tls) {
            found.extend(of_client(tls, &rule.origin));
        }
    }
    found
}

fn of_client(tls: &ClientTls, origin: &Origin) -> Vec<FileSet> {
    let mut found = Vec::new();
    if !tls.client_certificate.is_empty() && !tls.private_key.is_empty() {
        found.push(FileSet::KeyPair(resolve(&tls.client_certificate, origin), resolve(&tls.private_key, origin)));
    }
    if !tls.ca_certificates.is_empty() {
        found.push(FileSet::Authorities(resolve(&tls.ca_certificates, origin)));
    }
    if !tls.ca_crl.is_empty() {
        found.push(FileSet::RevocationLists(resolve(&tls.ca_crl, origin)));
    }
    found
}

fn of_server(tls: &ServerTls, origin: &Origin) -> Vec<FileSet> {
    let pairs = tls.tls_certificates.iter().map(|pair| (&pair.server_certificate, &pair.private_key));
    let pairs = pairs.chain([(&tls.server_certificate, &tls.private_key)]);
    let mut found: Vec<FileSet> = pairs
        .filter(|(chain, key)| !chain.is_empty() && !key.is_empty())
        .map(|(chain, key)| FileSet::KeyPair(resolve(chain, origin), resolve(key, origin)))
        .collect();
    if !tls.ca_certificates.is_empty() {
        found.push(FileSet::Authorities(resolve(&tls.ca_certificates, origin)));
    }
    if !tls.ca_crl.is_empty() {
        found.push(FileSet::RevocationLists(resolve(&tls.ca_crl, origin)));
    }
    found
}

fn key_pair(chain_path: &Path, key_path: &Path) -> Result<Arc<Credential>, String> {
    let (chain, key) = (read(chain_path)?, read(key_path)?);
    Credential::from_pem(&chain, &key).map(Arc::new).map_err(|error| {
        let path = if error.is_about_certificate() { chain_path } else { key_path };
        format!("file {}: {error}", path.display())
    })
}

fn parse<T>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, tls::PemError>) -> Result<T, String> {
    parse(&read(path)?).map_err(|error| format!("file {}: it {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        // One more than is accepted, so that `tls` says that it is too large.
        fs::File::open(path)?.take(tls::limits::PEM_BYTES as u64 + 1).read_to_end(&mut contents)?;
        Ok(contents)
    };
    read().map_err(|error| {
        format!("file {}: {error}; a relative path starts at the folder of the YAML file", path.display())
    })
}
