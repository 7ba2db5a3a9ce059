//! TLS settings of servers, as Istio's `pkg/config/validation` checks them, and what this version does not have.

use super::Report;
use crate::{
    config::{base64, path::Path},
    istio::{Gateway, ServerTls},
    tls::Parameters,
};

const VERSIONS: &[&str] = &["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];
const MODES: &[&str] = &["PASSTHROUGH", "SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL", "AUTO_PASSTHROUGH"];

/// Checks the settings of an HTTPS server.
pub(super) fn check(tls: &ServerTls, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    let mode = tls.mode.as_deref().unwrap_or_default();
    let field = path.key("mode");
    match mode {
        "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL" => {}
        "" => {
            let what = "an HTTPS server without tls.mode, which means PASSTHROUGH (set SIMPLE to use the certificate),";
            report.unsupported(&field, what, "this server is not served, the others are");
        }
        "PASSTHROUGH" | "ISTIO_MUTUAL" | "AUTO_PASSTHROUGH" => {
            report.unsupported(&field, &format!("mode {mode}"), "this server is not served, the others are");
        }
        other => report.one_of(&field, other, MODES),
    }
    if !tls.terminates() {
        return;
    }
    check_certificates(tls, mode, path, report);
    check_clients(tls, mode, path, report);
    check_parameters(tls, path, report);
    if tls.https_redirect {
        report.warn(
            "IST0133",
            &path.key("httpsRedirect"),
            "Schema validation warning: httpsRedirect has no effect on an HTTPS server; set it on the HTTP server",
        );
    }
    if tls.insecure_skip_verify {
        report.unsupported(&path.key("insecureSkipVerify"), "insecureSkipVerify", "client certificates are verified");
    }
}

fn check_certificates(tls: &ServerTls, mode: &str, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    let files = !tls.server_certificate.is_empty() || !tls.private_key.is_empty();
    let ways = [!tls.credential_name.is_empty(), !tls.credential_names.is_empty(), !tls.tls_certificates.is_empty()];
    if ways.iter().filter(|used| **used).count() > 1 {
        report.reject(path, "only one of credentialName, credentialNames or tlsCertificates can be set");
    }
    if ways.iter().any(|used| *used) {
        if tls.credential_names.len() > 2 || tls.tls_certificates.len() > 2 {
            report.reject(path, "at most two certificates can be set, one RSA and one ECDSA");
        }
        for (at, pair) in tls.tls_certificates.iter().enumerate() {
            let field = path.key("tlsCertificates");
            let field = field.index(at);
            if pair.server_certificate.is_empty() || pair.private_key.is_empty() {
                report.reject(&field, "needs serverCertificate and privateKey");
            }
            if !pair.ca_certificates.is_empty() {
                report.reject(&field.key("caCertificates"), "must not be set here; set tls.caCertificates");
            }
        }
        if files {
            report.warn("GW0101", path, "serverCertificate and privateKey are ignored, because a credential is named");
        }
        return;
    }
    if tls.server_certificate.is_empty() {
        report
            .reject(path, format!("{mode} TLS requires a server certificate: set credentialName or serverCertificate"));
    } else if tls.private_key.is_empty() {
        report.reject(&path.key("privateKey"), format!("{mode} TLS requires a private key"));
    }
}

fn check_clients(tls: &ServerTls, mode: &str, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    if mode == "SIMPLE" {
        let narrowed = [
            ("subjectAltNames", &tls.subject_alt_names),
            ("verifyCertificateSpki", &tls.verify_certificate_spki),
            ("verifyCertificateHash", &tls.verify_certificate_hash),
        ];
        for (name, _) in narrowed.iter().filter(|(_, values)| !values.is_empty()) {
            // Whoever writes this expects clients to be checked.
            report.warn(
                "GW0101",
                &path.key(name),
                format!("{name} has no effect with mode SIMPLE, which asks for no client certificate; set MUTUAL"),
            );
        }
        return;
    }
    let by_name = [&tls.credential_name, &tls.ca_cert_credential_name].iter().any(|name| !name.is_empty());
    if tls.ca_certificates.is_empty() && !by_name && tls.credential_names.is_empty() {
        report.reject(&path.key("caCertificates"), format!("{mode} TLS requires a client CA bundle"));
    }
    let hashes = path.key("verifyCertificateSpki");
    for (at, text) in tls.verify_certificate_spki.iter().enumerate() {
        if key_hash(text).is_none() {
            report.reject(&hashes.index(at), "must be the base64 of a SHA-256 digest: 44 characters");
        }
    }
    let hashes = path.key("verifyCertificateHash");
    for (at, text) in tls.verify_certificate_hash.iter().enumerate() {
        if certificate_hash(text).is_none() {
            report.reject(
                &hashes.index(at),
                "must be a SHA-256 digest in hexadecimal: 64 digits, with or without colons",
            );
        }
    }
}

fn check_parameters(tls: &ServerTls, path: &Path<'_>, report: &mut Report<'_, Gateway>) {
    for (name, value) in
        [("minProtocolVersion", &tls.min_protocol_version), ("maxProtocolVersion", &tls.max_protocol_version)]
    {
        if !value.is_empty() {
            report.one_of(&path.key(name), value, VERSIONS);
        }
    }
    if matches!(tls.min_protocol_version.as_str(), "TLSV1_0" | "TLSV1_1") {
        report.ignored(
            &path.key("minProtocolVersion"),
            "TLS 1.0 and 1.1, which are not safe; the lowest version is TLS 1.2",
        );
    }
    let suites = path.key("cipherSuites");
    for (at, name) in tls.cipher_suites.iter().enumerate() {
        if Parameters::cipher_suite(name).is_none() {
            report.ignored(
                &suites.index(at),
                &format!("cipher suite {name}; there are {}", Parameters::known_cipher_suites()),
            );
        }
    }
    let curves = path.key("ecdhCurves");
    for (at, name) in tls.ecdh_curves.iter().enumerate() {
        if Parameters::curve(name).is_none() {
            report.ignored(&curves.index(at), &format!("curve {name}; there are {}", Parameters::known_curves()));
        }
    }
}

/// An entry of `verifyCertificateSpki`.
pub(crate) fn key_hash(text: &str) -> Option<[u8; 32]> {
    base64::decode(text)?.try_into().ok()
}

/// An entry of `verifyCertificateHash`.
pub(crate) fn certificate_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.replace(':', "");
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::validate::tests::assert_problems;

    #[test]
    fn settings_are_checked() {
        let template = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - port: {number: 443, name: https, protocol: HTTPS}\n    hosts: ['*']\n    tls: $$\n";
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let hashes = format!("{{mode: MUTUAL, credentialName: a, verifyCertificateHash: [{digest}]}}");
        assert_problems(
            template,
            &[
                ("{mode: SIMPLE, credentialName: a}", ""),
                ("{mode: SIMPLE, credentialNames: [a, b]}", ""),
                ("{mode: SIMPLE, serverCertificate: a, privateKey: b}", ""),
                ("{mode: OPTIONAL_MUTUAL, serverCertificate: a, privateKey: b, caCertificates: c}", ""),
                (&hashes, ""),
                (
                    "{mode: SIMPLE, credentialName: a, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256], minProtocolVersion: TLSV1_2}",
                    "",
                ),
                ("{credentialName: a}", "Error [GW0102]"),
                ("{mode: PASSTHROUGH}", "Error [GW0102]"),
                ("{mode: simple, credentialName: a}", "is not one of"),
                ("{mode: SIMPLE}", "requires a server certificate"),
                (
                    "{mode: SIMPLE, serverCertificate: a}",
                    "privateKey: Schema validation error: SIMPLE TLS requires a private key",
                ),
                ("{mode: MUTUAL, serverCertificate: a, privateKey: b}", "requires a client CA bundle"),
                ("{mode: SIMPLE, credentialName: a, credentialNames: [b]}", "only one of"),
                ("{mode: SIMPLE, credentialNames: [a, b, c]}", "at most two"),
                ("{mode: SIMPLE, credentialName: a, subjectAltNames: [x]}", "has no effect with mode SIMPLE"),
                ("{mode: MUTUAL, credentialName: a, verifyCertificateHash: [abc]}", "64 digits"),
                ("{mode: MUTUAL, credentialName: a, verifyCertificateSpki: [abc]}", "44 characters"),
                ("{mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SHA]}", "Warning [GW0101]"),
                ("{mode: SIMPLE, credentialName: a, ecdhCurves: [P-521]}", "curve P-521"),
                ("{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_1}", "lowest version is TLS 1.2"),
                ("{mode: SIMPLE, credentialName: a, maxProtocolVersion: TLS1}", "is not one of"),
                ("{mode: SIMPLE, credentialName: a, httpsRedirect: true}", "httpsRedirect has no effect"),
                ("{mode: MUTUAL, credentialName: a, insecureSkipVerify: true}", "client certificates are verified"),
            ],
        );
    }

    #[test]
    fn hashes_are_read() {
        let plain = "00".repeat(31) + "fF";
        let colons = vec!["00"; 31].join(":") + ":ff";
        assert_eq!(certificate_hash(&plain), certificate_hash(&colons));
        assert_eq!(certificate_hash(&plain).map(|hash| hash[31]), Some(0xff));
        assert_eq!(key_hash("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), Some([0; 32]));
    }
}
