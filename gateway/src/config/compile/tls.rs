//! The TLS servers of a listener: certificates, how clients are checked, and what is spoken.
//!
//! A server whose certificate cannot be used is not served (its handshakes end in a reset, as in Istio), and everything
//! that is wrong is reported; the others serve.

use std::sync::Arc;

use super::{listeners::PlannedListener, server_hosts::ServerHosts};
use crate::{
    config::{
        Surroundings,
        certificate_files::{Kept, resolve},
        credentials::{Credentials, Issuers, Unusable},
        path::Path,
        problem::{Level, Problem},
        resources::Resource,
        validate::{certificate_hash, key_hash},
    },
    istio::{Gateway, Server, ServerTls as Settings},
    snapshot::{HostPattern, HostTable, TcpRoute, TlsServer, TlsServers},
    tls::{
        ClientPolicy, Credential, Parameters, RevocationLists, ServerSettings, ServerTls, Verification, Version, limits,
    },
};

/// Where certificates come from.
#[derive(Debug)]
pub(super) struct Material<'a> {
    pub(super) credentials: Credentials<'a>,
    pub(super) surroundings: &'a Surroundings,
}

/// Builds the servers of a listener; `contents` is what each serves.
pub(super) fn build(
    listener: &PlannedListener<'_>,
    contents: Vec<(HostTable, Option<TcpRoute>)>,
    material: &Material<'_>,
    problems: &mut Vec<Problem>,
) -> TlsServers {
    let mut servers = TlsServers::default();
    for ((gateway, server), (hosts, tcp)) in listener.servers.iter().zip(contents) {
        let place = gateway.spec.servers.iter().position(|other| std::ptr::eq(other, *server)).unwrap_or_default();
        let path = Path::SPEC.key("servers");
        let path = path.index(place);
        let server_names: Vec<HostPattern> = ServerHosts::new(server, &gateway.namespace).iter().cloned().collect();
        if let Some((other, name)) = servers.conflict(&server_names) {
            let message = format!(
                "host {name} is served on port {} by {} already, with a certificate of its own; this server is not served",
                listener.declared_port, other.name
            );
            problems.push(gateway.problem(Level::Error, "GW0203", &path.key("hosts"), message));
            continue;
        }
        let name = format!("https.{}.{}.{}", server.port.number, server.port.name, gateway.name);
        let name = format!("{name}.{}", gateway.namespace).into();
        let mut builder = Builder { gateway, path: path.key("tls"), material, problems };
        let tls = server.tls.as_ref().and_then(|tls| builder.server(server, tls));
        servers.insert(TlsServer { name, server_names, hosts, tcp, tls });
    }
    servers
}

/// Builds one server and collects what is wrong.
struct Builder<'a, 'b> {
    gateway: &'a Resource<Gateway>,
    path: Path<'a>,
    material: &'a Material<'a>,
    problems: &'b mut Vec<Problem>,
}

impl Builder<'_, '_> {
    fn problem(&mut self, level: Level, code: &'static str, field: &str, message: impl Into<String>) {
        let field = if field.is_empty() { self.path } else { self.path.key(field) };
        self.problems.push(self.gateway.problem(level, code, &field, message));
    }

    /// Something without which the server cannot be served.
    fn fatal(&mut self, code: &'static str, field: &str, message: &str) {
        self.problem(Level::Error, code, field, format!("{message}; this server is not served"));
    }

    /// `None` if the server cannot be served; every reason has been reported.
    fn server(&mut self, server: &Server, tls: &Settings) -> Option<ServerTls> {
        let credentials = self.certificates(tls);
        let clients = self.clients(tls);
        let parameters = self.parameters(tls);
        let (credentials, clients, parameters) = (credentials?, clients?, parameters?);
        for credential in &credentials {
            self.check_names(server, credential);
        }
        let settings = ServerSettings { credentials, parameters, clients };
        match ServerTls::new(settings, &self.material.surroundings.tickets) {
            Ok(built) => Some(built),
            Err(error) => {
                self.fatal("GW0201", "", &error.to_string());
                None
            }
        }
    }

    /// The certificates that the server shows.
    fn certificates(&mut self, tls: &Settings) -> Option<Vec<Arc<Credential>>> {
        let mut found = Vec::new();
        let mut wanted = 0;
        let names = tls.credential_names.iter().map(|name| ("credentialNames", name));
        let names = names.chain([("credentialName", &tls.credential_name)]).filter(|(_, name)| !name.is_empty());
        for (field, name) in names {
            wanted += 1;
            match self.material.credentials.key_pair(name) {
                Ok(credential) => found.extend(self.current(field, credential)),
                Err(unusable) => self.unusable(field, unusable),
            }
        }
        if wanted == 0 {
            let files = tls
                .tls_certificates
                .iter()
                .map(|pair| ("tlsCertificates", &pair.server_certificate, &pair.private_key));
            let own = ("serverCertificate", &tls.server_certificate, &tls.private_key);
            for (field, chain, key) in files.chain([own]).filter(|(_, chain, _)| !chain.is_empty()) {
                wanted += 1;
                let (chain, key) = (resolve(chain, &self.gateway.origin), resolve(key, &self.gateway.origin));
                let kept = self.material.surroundings.files.key_pair(chain, key);
                let credential = self.kept(field, kept);
                found.extend(credential.and_then(|credential| self.current(field, credential)));
            }
        }
        // One of two is as good as none: clients of the other kind would be turned away without a reason to be seen.
        (wanted > 0 && found.len() == wanted).then_some(found)
    }

    fn unusable(&mut self, field: &str, unusable: Unusable) {
        let (code, message) = unusable.into_problem();
        self.fatal(code, field, &message);
    }

    /// What is in files: the last good version.
    fn kept<T: Clone>(&mut self, field: &str, kept: Option<&Kept<T>>) -> Option<T> {
        let kept = kept?;
        match (&kept.error, &kept.good) {
            (Some(error), Some(_)) => {
                self.problem(Level::Error, "GW0201", field, format!("{error}; the version before stays in use"));
            }
            (Some(error), None) => self.fatal("GW0201", field, error),
            (None, _) => {}
        }
        kept.good.clone()
    }

    /// The credential, if it is valid now.
    fn current(&mut self, field: &str, credential: Arc<Credential>) -> Option<Arc<Credential>> {
        let now = self.material.surroundings.now;
        let certificate = credential.certificate();
        let date = |time: std::time::SystemTime| httpdate::fmt_http_date(time);
        if !certificate.is_valid_at(now) {
            let message = format!(
                "the certificate is expired or not yet valid: it is valid from {} to {}",
                date(certificate.not_before),
                date(certificate.not_after)
            );
            self.fatal("GW0201", field, &message);
            return None;
        }
        if certificate.expires_in(now).is_some_and(|left| left < limits::EXPIRY_WARNING) {
            let message = format!("the certificate expires on {}; renew it", date(certificate.not_after));
            self.problem(Level::Warning, "GW0202", field, message);
        }
        Some(credential)
    }

    /// Hosts that clients will refuse the certificate for.
    fn check_names(&mut self, server: &Server, credential: &Credential) {
        let certificate = credential.certificate();
        let patterns: Vec<_> = certificate.dns_names.iter().filter_map(|name| HostPattern::parse(name)).collect();
        let hosts = ServerHosts::new(server, &self.gateway.namespace);
        let covered = |host: &HostPattern| match host {
            HostPattern::Any => true,
            // In a certificate a wildcard stands for one label only (RFC 6125 6.4.3).
            HostPattern::Exact(name) => patterns.iter().any(|pattern| match pattern {
                HostPattern::Suffix(suffix) => {
                    name.strip_suffix(suffix.as_str()).is_some_and(|label| !label.contains('.'))
                }
                pattern => pattern == host,
            }),
            HostPattern::Suffix(_) => patterns.contains(host),
        };
        let missing: Vec<String> = hosts.iter().filter(|host| !covered(host)).map(ToString::to_string).collect();
        if !missing.is_empty() {
            let message = format!(
                "the certificate is for {}, not for {}: clients will refuse it",
                certificate.names().collect::<Vec<_>>().join(", "),
                missing.join(", ")
            );
            self.problem(Level::Warning, "GW0202", "", message);
        }
    }

    /// What clients have to show.
    fn clients(&mut self, tls: &Settings) -> Option<ClientPolicy> {
        let required = match tls.mode.as_deref() {
            Some("MUTUAL") => true,
            Some("OPTIONAL_MUTUAL") => false,
            _ => return Some(ClientPolicy::Ignore),
        };
        let Issuers { authorities, mut revocations } = self.authorities(tls)?;
        if !tls.ca_crl.is_empty() {
            let path = resolve(&tls.ca_crl, &self.gateway.origin);
            revocations = Some(self.kept("caCrl", self.material.surroundings.files.revocation_lists(&path))?);
        }
        let now = self.material.surroundings.now;
        if let Some(expired) = revocations.as_ref().and_then(RevocationLists::expires).filter(|expires| *expires < now)
        {
            let message = format!(
                "a revocation list has expired on {}: clients with certificates of its issuer are refused; renew it",
                httpdate::fmt_http_date(expired)
            );
            self.problem(Level::Warning, "GW0202", "", message);
        }
        // Validation has seen to it that they are well-formed.
        let verification = Verification {
            authorities,
            revocations,
            names: tls.subject_alt_names.clone(),
            keys: tls.verify_certificate_spki.iter().filter_map(|text| key_hash(text)).collect(),
            certificates: tls.verify_certificate_hash.iter().filter_map(|text| certificate_hash(text)).collect(),
        };
        Some(if required { ClientPolicy::Required(verification) } else { ClientPolicy::Optional(verification) })
    }

    fn authorities(&mut self, tls: &Settings) -> Option<Issuers> {
        if !tls.ca_certificates.is_empty() && tls.ca_cert_credential_name.is_empty() {
            let path = resolve(&tls.ca_certificates, &self.gateway.origin);
            let kept = self.material.surroundings.files.authorities(&path);
            return self.kept("caCertificates", kept).map(|authorities| Issuers { authorities, revocations: None });
        }
        let names = [("caCertCredentialName", &tls.ca_cert_credential_name), ("credentialName", &tls.credential_name)];
        let names = names.into_iter().chain(tls.credential_names.iter().map(|name| ("credentialNames", name)));
        match names.into_iter().find(|(_, name)| !name.is_empty()) {
            Some((field, name)) => match self.material.credentials.authorities(name) {
                Ok(found) => Some(found),
                Err(unusable) => {
                    self.unusable(field, unusable);
                    None
                }
            },
            None => {
                self.fatal("GW0201", "mode", "there is no authority to verify client certificates with: set caCertificates or caCertCredentialName");
                None
            }
        }
    }

    /// Versions, cipher suites and curves. What rustls does not have is left out, and validation has said so.
    fn parameters(&mut self, tls: &Settings) -> Option<Parameters> {
        let lowest = if tls.min_protocol_version == "TLSV1_3" { Version::Tls13 } else { Version::Tls12 };
        let highest = match tls.max_protocol_version.as_str() {
            "TLSV1_2" => Version::Tls12,
            "TLSV1_0" | "TLSV1_1" => {
                self.fatal("GW0102", "maxProtocolVersion", "TLS 1.0 and 1.1 are not supported: they are not safe");
                return None;
            }
            _ => Version::Tls13,
        };
        let suites: Vec<_> = tls.cipher_suites.iter().filter_map(|name| Parameters::cipher_suite(name)).collect();
        let curves: Vec<_> = tls.ecdh_curves.iter().filter_map(|name| Parameters::curve(name)).collect();
        let parameters = Parameters::new(
            lowest,
            highest,
            (!tls.cipher_suites.is_empty()).then_some(suites.as_slice()),
            (!tls.ecdh_curves.is_empty()).then_some(curves.as_slice()),
        );
        parameters.map_err(|error| self.fatal("GW0102", "", &error.to_string())).ok()
    }
}
