//! TLS servers: which have their certificates, and what is said of the others.

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::snapshot::{HostPattern, TlsServers};

/// A certificate and its key as PEM text.
fn pair(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    let mut text =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n");
    for (name, value) in entries {
        writeln!(text, "  {name}: {value:?}").unwrap();
    }
    text
}

fn gateway(name: &str, host: &str, tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  servers:\n  - \
         {{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['{host}'], tls: {{{tls}}}}}\n"
    )
}

fn servers(picture: &Picture) -> &TlsServers {
    picture.snapshot.listeners.iter().find_map(|listener| listener.tls.as_ref()).unwrap()
}

fn works(picture: &Picture, host: &str) -> bool {
    servers(picture).select(Some(host)).unwrap().1.tls.is_some()
}

#[test]
fn both_layouts_of_secrets_are_read() {
    let (cert, key) = pair(&["a.com"], |_| ());
    let other = pair(&["b.com"], |_| ());
    for entries in [
        vec![("tls.crt", cert.as_str()), ("tls.key", key.as_str())],
        vec![("cert", &cert), ("key", &key)],
        vec![("cert", &cert), ("key", &key), ("tls.crt", &other.0), ("tls.key", &other.1)],
    ] {
        let routes = answers("name: v", "a.com", &["a"]);
        let picture = Picture::clean(&[
            &secret("s", &entries),
            &gateway("g", "a.com", "mode: SIMPLE, credentialName: s"),
            &routes,
        ]);
        assert!(works(&picture, "a.com"));
        let shown: Vec<_> =
            picture.snapshot.certificates().map(|shown| shown.certificate.dns_names.join(" ")).collect();
        assert_eq!(shown, ["a.com"]);
        let listener = picture.snapshot.listeners.first().unwrap();
        assert!(listener.hosts.is_empty());
        assert_eq!(listener.virtual_hosts().map(|host| host.name.to_string()).collect::<Vec<_>>(), ["a.com"]);
    }
}

#[test]
fn a_credential_that_cannot_be_used_disables_its_server_only() {
    let (cert, key) = pair(&["*.com"], |_| ());
    let good = secret("good", &[("tls.crt", &cert), ("tls.key", &key)]);
    let elsewhere = good.replace("name: good", "name: far, namespace: other");
    let stranger = pair(&["a.com"], |_| ()).1;
    let expired = pair(&["a.com"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let (expired_cert, expired_key) = &expired;
    for (broken, tls, expected) in [
        (String::new(), "mode: SIMPLE, credentialName: none", "[IST0101]"),
        (elsewhere, "mode: SIMPLE, credentialName: far", "there is one in namespace other"),
        (
            secret("s", &[("tls.crt", &cert), ("tls.key", &stranger)]),
            "mode: SIMPLE, credentialName: s",
            "does not belong to",
        ),
        (secret("s", &[("tls.crt", &cert)]), "mode: SIMPLE, credentialName: s", "neither tls.crt and tls.key"),
        (
            secret("s", &[("tls.crt", expired_cert), ("tls.key", expired_key)]),
            "mode: SIMPLE, credentialName: s",
            "is expired",
        ),
        (String::new(), "mode: MUTUAL, credentialName: good", "neither ca.crt nor cacert"),
        (String::new(), "mode: SIMPLE, credentialName: 'sds://x'", "sds:// is not supported"),
        (String::new(), "mode: SIMPLE, serverCertificate: no.crt, privateKey: no.key", "file dir/no.crt: No such file"),
    ] {
        let documents = [
            good.as_str(),
            &gateway("good", "b.com", "mode: SIMPLE, credentialName: good"),
            &gateway("bad", "a.com", tls),
            &broken,
        ];
        let documents: Vec<_> = documents.into_iter().filter(|document| !document.is_empty()).collect();
        let picture = Picture::of(&documents);
        assert!(works(&picture, "b.com") && !works(&picture, "a.com"), "{tls}");
        let found: Vec<_> = picture.problems.iter().filter(|problem| problem.contains(expected)).collect();
        assert_eq!(found.len(), 1, "{expected}: {:#?}", picture.problems);
        assert!(!picture.problems.iter().any(|problem| problem.contains("BEGIN")));
    }
}

#[test]
fn authorities_come_from_the_separate_secret_first() {
    let (cert, key) = pair(&["a.com"], |_| ());
    let ca = pair(&["ca"], |_| ()).0;
    let own = secret("s", &[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", "nonsense")])
        .replace("nonsense", &ca.replace('\n', "\\n"));
    let separate = secret("s-cacert", &[("cacert", &ca)]);
    let plain = secret("s", &[("tls.crt", &cert), ("tls.key", &key)]);
    let map = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata: {{ca.crt: {ca:?}}}\n");
    for (documents, tls) in [
        ([own.as_str(), ""], "mode: MUTUAL, credentialName: s"),
        ([&plain, &separate], "mode: OPTIONAL_MUTUAL, credentialName: s"),
        ([&plain, &secret("ca", &[("ca.crt", &ca)])], "mode: MUTUAL, credentialName: s, caCertCredentialName: ca"),
        ([&plain, &map], "mode: MUTUAL, credentialName: s, caCertCredentialName: 'configmap://ca'"),
    ] {
        let documents = documents.into_iter().filter(|document| !document.is_empty()).chain([""]);
        let gateway = gateway("g", "a.com", tls);
        let documents: Vec<_> = documents.map(|text| if text.is_empty() { gateway.as_str() } else { text }).collect();
        assert!(works(&Picture::clean(&documents), "a.com"), "{tls}");
    }
}

#[test]
fn one_host_has_one_server() {
    let (cert, key) = pair(&["a.com", "*.a.com"], |_| ());
    let tls = "mode: SIMPLE, credentialName: s";
    let picture = Picture::of(&[
        &secret("s", &[("tls.crt", &cert), ("tls.key", &key)]),
        &gateway("first", "a.com", tls),
        &gateway("second", "ns/A.com", tls),
        &gateway("third", "*.a.com", tls),
        &GATEWAY.replace("number: 80", "number: 443"),
    ]);
    let names: Vec<_> = servers(&picture).iter().map(|server| server.name.to_string()).collect();
    assert_eq!(names, ["https.443.https.first.default", "https.443.https.third.default"]);
    assert_eq!(
        servers(&picture).select(Some("x.a.com")).unwrap().1.server_names,
        [HostPattern::Suffix(".a.com".to_owned())]
    );
    assert!(picture.problems.iter().any(|problem| problem.contains("GW0203") && problem.contains("default/second")));
    assert!(
        picture.problems.iter().any(|problem| problem.contains("GW0104") && problem.contains("cannot share a port"))
    );
}

#[test]
fn certificates_that_will_be_refused_are_reported() {
    let soon = pair(&["a.com"], |params| {
        params.not_after = (std::time::SystemTime::now() + std::time::Duration::from_secs(86400)).into();
    });
    let picture = Picture::of(&[
        &secret("s", &[("tls.crt", &soon.0), ("tls.key", &soon.1)]),
        &gateway("g", "b.com", "mode: SIMPLE, credentialName: s"),
    ]);
    assert!(works(&picture, "b.com"));
    let found =
        |text: &str| picture.problems.iter().any(|problem| problem.contains("GW0202") && problem.contains(text));
    assert!(found("expires on") && found("the certificate is for a.com, not for b.com"), "{:#?}", picture.problems);
}

#[test]
fn a_secret_never_shows_in_a_message() {
    for text in [
        "data: hunter2",
        "data: {tls.key: '*hunter2*', tls.crt: aaaa}",
        "stringData: {password: 123456}",
        "stringData: {a: {b: hunter2}}",
    ] {
        let picture =
            Picture::of(&[&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{text}\n"), GATEWAY]);
        assert_eq!(picture.problems.len(), 1, "{text}: {:#?}", picture.problems);
        assert!(
            !picture.problems[0].contains("hunter2") && !picture.problems[0].contains("123456"),
            "{:?}",
            picture.problems
        );
    }
}

#[test]
fn a_revocation_list_that_has_expired_is_reported() {
    let (cert, key) = pair(&["a.com"], |_| ());
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let list = |year| {
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&rcgen::Issuer::from_params(&params, &ca_key)).unwrap().pem().unwrap()
    };
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned();
    for (list, expected) in
        [(list(4000), ""), (list(2021), "has expired on"), (broken, "revocation list 1 cannot be read")]
    {
        let entries = [("tls.crt", cert.as_str()), ("tls.key", &key), ("ca.crt", &ca), ("ca.crl", &list)];
        let picture = Picture::of(&[&secret("s", &entries), &gateway("g", "a.com", "mode: MUTUAL, credentialName: s")]);
        let found: Vec<_> = picture.problems.iter().filter(|problem| problem.contains(expected)).collect();
        assert_eq!(found.is_empty(), expected.is_empty(), "{:#?}", picture.problems);
        assert_eq!(works(&picture, "a.com"), !expected.contains("read"));
    }
}
