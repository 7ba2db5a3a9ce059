//! `tls` blocks of DestinationRules → how connections to a service are protected.
//!
//! What cannot be had (a Secret that is missing, a file that cannot be read) is reported and leads to no connection at
//! all, never to clear text.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use rustls::pki_types::DnsName;

use super::{destination_rules::TlsBlock, tls::Material};
use crate::{
    config::{
        certificate_files::{Kept, resolve},
        credentials::{Issuers, Unusable},
        problem::{Level, Problem},
    },
    snapshot::Transport,
    tls::{Authorities, ClientSettings, ClientTls, Credential, RevocationLists, Trust, limits},
};

/// Builds each block once, however many clusters use it.
pub(super) struct Transports<'a> {
    material: &'a Material<'a>,
    problems: &'a mut Vec<Problem>,
    known: HashMap<(usize, Vec<String>), Transport>,
}

impl<'a> Transports<'a> {
    pub(super) fn new(material: &'a Material<'a>, problems: &'a mut Vec<Problem>) -> Self {
        Self { material, problems, known: HashMap::new() }
    }

    /// What a block means for a service whose certificate may have these names.
    pub(super) fn of(&mut self, block: &TlsBlock<'_>, subject_alt_names: &[String]) -> Transport {
        let mode = block.settings.mode.as_deref().unwrap_or("DISABLE");
        // ISTIO_MUTUAL closes the hosts that lead here, or `--allow-unsupported` wants clear text.
        if !matches!(mode, "SIMPLE" | "MUTUAL") {
            return Transport::Plain;
        }
        let own = &block.settings.subject_alt_names;
        let names = if own.is_empty() { subject_alt_names.to_vec() } else { own.clone() };
        let key = (std::ptr::from_ref(block.settings).addr(), names);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let built = Builder { block, material: self.material, problems: self.problems }.build(mode == "MUTUAL", &key.1);
        let transport = match built {
            Ok(tls) => Transport::Tls(Arc::new(tls)),
            Err(reason) => Transport::Unusable(reason.into()),
        };
        self.known.insert(key, transport.clone());
        transport
    }
}

struct Builder<'a, 'b> {
    block: &'a TlsBlock<'b>,
    material: &'a Material<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Builder<'_, '_> {
    /// The error is what has been reported.
    fn build(mut self, mutual: bool, names: &[String]) -> Result<ClientTls, String> {
        let tls = self.block.settings;
        let credential = if mutual { Some(self.credential()?) } else { None };
        let trust = match tls.insecure_skip_verify {
            Some(true) => Trust::Anybody,
            _ => {
                let (authorities, revocations) = self.authorities()?;
                Trust::Authorities(authorities, revocations)
            }
        };
        let server_name = match tls.sni.as_str() {
            "" => None,
            name => match DnsName::try_from(name.to_ascii_lowercase()) {
                Ok(name) => Some(name),
                Err(_) => return Err(self.fatal("GW0201", "sni", format!("{name:?} is not a host name"))),
            },
        };
        let settings = ClientSettings { trust, names: names.to_vec(), server_name, credential };
        ClientTls::new(settings).map_err(|error| self.fatal("GW0201", "", error.to_string()))
    }

    fn credential(&mut self) -> Result<Arc<Credential>, String> {
        let tls = self.block.settings;
        let (field, credential) = if tls.credential_name.is_empty() {
            let files = (self.path(&tls.client_certificate), self.path(&tls.private_key));
            let kept = self.material.surroundings.files.key_pair(files.0, files.1);
            ("clientCertificate", self.kept("clientCertificate", kept)?)
        } else {
            let found = self.material.credentials.key_pair(&tls.credential_name);
            ("credentialName", found.map_err(|unusable| self.unusable(unusable))?)
        };
        let certificate = credential.certificate();
        if certificate.expires_in(self.material.surroundings.now).is_none_or(|left| left < limits::EXPIRY_WARNING) {
            let message =
                format!("the certificate expires on {}; renew it", httpdate::fmt_http_date(certificate.not_after));
            self.problem(Level::Warning, "GW0202", field, message);
        }
        Ok(credential)
    }

    fn authorities(&mut self) -> Result<(Authorities, Option<RevocationLists>), String> {
        let tls = self.block.settings;
        let (authorities, mut revocations) = if !tls.credential_name.is_empty() {
            let found = self.material.credentials.authorities(&tls.credential_name);
            let Issuers { authorities, revocations } = found.map_err(|unusable| self.unusable(unusable))?;
            (authorities, revocations)
        } else if !tls.ca_certificates.is_empty() {
            let kept = self.material.surroundings.files.authorities(&self.path(&tls.ca_certificates));
            (self.kept("caCertificates", kept)?, None)
        } else {
            let system = Authorities::system().cloned();
            let message = "the system has no authorities to verify the service's certificate with: install ca-certificates, \
                           or set caCertificates";
            (system.ok_or_else(|| self.fatal("GW0201", "", message.to_owned()))?, None)
        };
        if !tls.ca_crl.is_empty() {
            let kept = self.material.surroundings.files.revocation_lists(&self.path(&tls.ca_crl));
            revocations = Some(self.kept("caCrl", kept)?);
        }
        Ok((authorities, revocations))
    }

    fn path(&self, path: &str) -> PathBuf {
        resolve(path, &self.block.rule.origin)
    }

    /// What is in files: the last good version.
    fn kept<T: Clone>(&mut self, field: &str, kept: Option<&Kept<T>>) -> Result<T, String> {
        let (good, error) = kept.map_or((None, None), |kept| (kept.good.clone(), kept.error.clone()));
        match (good, error) {
            (Some(good), None) => Ok(good),
            (Some(good), Some(error)) => {
                let message = format!("{error}; the version before stays in use");
                self.problem(Level::Error, "GW0201", field, message);
                Ok(good)
            }
            (None, error) => Err(self.fatal("GW0201", field, error.unwrap_or_else(|| "was not read".to_owned()))),
        }
    }

    fn unusable(&mut self, unusable: Unusable) -> String {
        let (code, message) = unusable.into_problem();
        self.fatal(code, "credentialName", message)
    }

    /// Something without which there is no connection.
    fn fatal(&mut self, code: &'static str, field: &str, message: String) -> String {
        let effect = format!("{message}; no connection is made, requests are answered 503");
        self.problem(Level::Error, code, field, effect);
        message
    }

    fn problem(&mut self, level: Level, code: &'static str, field: &str, message: String) {
        let rule = self.block.rule;
        let problem = self.block.field(field, |path| rule.problem(level, code, path, message));
        self.problems.push(problem);
    }
}
