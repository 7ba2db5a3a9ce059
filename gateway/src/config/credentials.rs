//! Certificates, keys and authorities by the names that resources give: Secrets and ConfigMaps of the gateway's namespace.
//!
//! As in Istio: the entries `cert`, `key`, `cacert` and `crl` come before `tls.crt`, `tls.key`, `ca.crt` and `ca.crl`,
//! and the authorities for NAME are looked for in `NAME-cacert` before NAME itself.

use std::{collections::HashMap, sync::Arc};

use super::{
    Options, base64,
    path::Path,
    resources::{Resource, Resources},
};
use crate::{
    istio::{ConfigMap, Secret, Text},
    tls::{Authorities, Credential, CredentialError, RevocationLists},
};

/// What Istio appends to the name of a credential to find its authorities.
const AUTHORITIES_SUFFIX: &str = "-cacert";

/// Secrets and ConfigMaps that this gateway may use.
#[derive(Debug)]
pub(crate) struct Credentials<'a> {
    namespace: &'a str,
    secrets: HashMap<&'a str, &'a Resource<Secret>>,
    config_maps: HashMap<&'a str, &'a Resource<ConfigMap>>,
    /// Where the other Secrets are, for messages.
    elsewhere: HashMap<&'a str, &'a str>,
}

/// Whom client certificates are checked with.
#[derive(Debug)]
pub(crate) struct Issuers {
    /// Who may have issued them.
    pub(crate) authorities: Authorities,
    /// What has been revoked.
    pub(crate) revocations: Option<RevocationLists>,
}

/// The entry that is at fault, and what is wrong with it.
pub(crate) type Fault = (&'static str, String);

/// Why a credential cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// There is none of that name (IST0101).
    Missing(String),
    /// There is one, but not with what is needed.
    Broken(String),
}

impl Unusable {
    /// Code and message of the problem.
    pub(crate) fn into_problem(self) -> (&'static str, String) {
        match self {
            Self::Missing(message) => ("IST0101", message),
            Self::Broken(message) => ("GW0201", message),
        }
    }
}

impl<'a> Credentials<'a> {
    /// What there is for this gateway.
    pub(crate) fn new(resources: &'a Resources, options: &'a Options) -> Self {
        let own = |namespace: &str| namespace == options.namespace;
        let (secrets, others): (Vec<_>, Vec<_>) = resources.secrets.iter().partition(|secret| own(&secret.namespace));
        let config_maps = resources.config_maps.iter().filter(|map| own(&map.namespace));
        Self {
            namespace: &options.namespace,
            secrets: secrets.into_iter().map(|secret| (secret.name.as_str(), Arc::as_ref(secret))).collect(),
            config_maps: config_maps.map(|map| (map.name.as_str(), Arc::as_ref(map))).collect(),
            elsewhere: others.into_iter().map(|secret| (secret.name.as_str(), secret.namespace.as_str())).collect(),
        }
    }

    /// The certificate chain and key of a Secret.
    pub(crate) fn key_pair(&self, name: &str) -> Result<Arc<Credential>, Unusable> {
        let name = secret_name(name)?;
        let secret = self.secrets.get(name).ok_or_else(|| self.missing(name))?;
        key_pair(*secret)
            .map_err(|(entry, error)| Unusable::Broken(format!("Secret {}, {entry}: {error}", secret.full_name())))?
            .map(Arc::new)
            .ok_or_else(|| {
                Unusable::Broken(format!(
                    "Secret {} has neither tls.crt and tls.key nor cert and key; create it with \
                     `kubectl create secret tls`",
                    secret.full_name()
                ))
            })
    }

    /// The authorities that go with a credential, and the revocation lists beside them.
    pub(crate) fn authorities(&self, name: &str) -> Result<Issuers, Unusable> {
        if let Some(name) = name.strip_prefix("configmap://") {
            let map = self.config_maps.get(name).ok_or_else(|| {
                Unusable::Missing(format!("Referenced ConfigMap not found: \"{}/{name}\"", self.namespace))
            })?;
            return found(authorities(&**map), &map.full_name(), "ConfigMap");
        }
        let name = secret_name(name)?;
        let separate = format!("{name}{AUTHORITIES_SUFFIX}");
        if let Some(secret) = self.secrets.get(separate.as_str()).or_else(|| self.secrets.get(name)) {
            return found(authorities(&**secret), &secret.full_name(), "Secret");
        }
        match self.config_maps.get(name) {
            Some(map) => found(authorities(&**map), &map.full_name(), "ConfigMap"),
            None => Err(self.missing(name)),
        }
    }

    fn missing(&self, name: &str) -> Unusable {
        let hint = self.elsewhere.get(name).map_or_else(String::new, |other| {
            format!("; there is one in namespace {other}, but Secrets are looked up in the gateway's namespace (--namespace)")
        });
        Unusable::Missing(format!("Referenced credentialName not found: \"{}/{name}\"{hint}", self.namespace))
    }
}

fn found(found: Result<Option<Issuers>, Fault>, name: &str, kind: &str) -> Result<Issuers, Unusable> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(Unusable::Broken(format!("{kind} {name} has neither ca.crt nor cacert"))),
        Err((entry, error)) => Err(Unusable::Broken(format!("{kind} {name}, {entry}: {error}"))),
    }
}

/// The Secret that a reference means: its name, or `kubernetes://NAME`.
fn secret_name(reference: &str) -> Result<&str, Unusable> {
    let name = reference.strip_prefix("kubernetes://").unwrap_or(reference);
    match name.split_once("://") {
        Some((scheme, _)) => Err(Unusable::Broken(format!(
            "{scheme}:// is not supported in this version; name a Secret in the gateway's namespace"
        ))),
        None => Ok(name),
    }
}

/// Named pieces of data.
pub(crate) trait Entries {
    /// An entry, or why it cannot be read. `None`: there is none, or it is empty.
    fn entry(&self, name: &str) -> Option<Result<Vec<u8>, String>>;
}

fn entry(name: &str, plain: Option<&Text>, encoded: Option<&Text>) -> Option<Result<Vec<u8>, String>> {
    // Kubernetes lets `stringData` win.
    let value = match (plain, encoded) {
        (Some(text), _) => Ok(text.0.clone().into_bytes()),
        (None, Some(text)) => {
            let text: String = text.0.split_ascii_whitespace().collect();
            base64::decode(&text).ok_or_else(|| format!("is not base64; write it plain under stringData.{name}"))
        }
        (None, None) => return None,
    };
    (value != Ok(Vec::new())).then_some(value)
}

impl Entries for Resource<Secret> {
    fn entry(&self, name: &str) -> Option<Result<Vec<u8>, String>> {
        entry(name, self.spec.string_data.get(name), self.spec.data.get(name))
    }
}

impl Entries for Resource<ConfigMap> {
    fn entry(&self, name: &str) -> Option<Result<Vec<u8>, String>> {
        entry(name, self.spec.data.get(name), self.spec.binary_data.get(name))
    }
}

/// The chain and key of a Secret; `None` if it has none. An error names the entry that is at fault.
pub(crate) fn key_pair(secret: &impl Entries) -> Result<Option<Credential>, Fault> {
    for (chain_name, key_name) in [("cert", "key"), ("tls.crt", "tls.key")] {
        if let (Some(chain), Some(key)) = (secret.entry(chain_name), secret.entry(key_name)) {
            let chain = chain.map_err(|error| (chain_name, error))?;
            let key = key.map_err(|error| (key_name, error))?;
            return Credential::from_pem(&chain, &key).map(Some).map_err(|error: CredentialError| {
                (if error.is_about_certificate() { chain_name } else { key_name }, error.to_string())
            });
        }
    }
    Ok(None)
}

/// The authorities of a Secret or ConfigMap with their revocation lists; `None` if it has none. An error names the entry
/// that is at fault.
pub(crate) fn authorities(object: &impl Entries) -> Result<Option<Issuers>, Fault> {
    for (name, list_name) in [("cacert", "crl"), ("ca.crt", "ca.crl")] {
        let Some(bundle) = object.entry(name) else { continue };
        let bundle = bundle.map_err(|error| (name, error))?;
        let authorities = Authorities::from_pem(&bundle).map_err(|error| (name, error.to_string()))?;
        let lists = object.entry(list_name).transpose().map_err(|error| (list_name, error))?;
        let lists = lists.map(|lists| RevocationLists::from_pem(&lists)).transpose();
        let revocations = lists.map_err(|error| (list_name, error.to_string()))?;
        return Ok(Some(Issuers { authorities, revocations }));
    }
    Ok(None)
}

/// The path of an entry in its document, for messages.
pub(crate) fn place<R>(secret: &Resource<Secret>, entry: &str, then: impl FnOnce(&Path<'_>) -> R) -> R {
    let part = if secret.spec.string_data.contains_key(entry) { "stringData" } else { "data" };
    then(&Path::Root.key(part).key(entry))
}
