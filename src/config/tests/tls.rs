//! `tls` of a listener: what is said of its files.

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

use super::*;
use crate::broker::Identity;

/// A certificate and its key (PEM).
fn issue(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "gw");
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn listener(tls: &str) -> String {
    format!("[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\ntls = {tls}\n")
}

#[track_caller]
fn problems(files: &[(&str, &str)], tls: &str, expected: &[&str]) {
    let text = listener(tls);
    let files: Vec<_> = files.iter().copied().chain([("tidegate.toml", text.as_str())]).collect();
    let found: Vec<String> = folder(&files)
        .problems()
        .iter()
        .map(|line| line.replacen("tidegate.toml:4: listener[0].tls.", "", 1))
        .collect();
    assert_eq!(found, expected, "{tls}");
}

const BOTH: &str = "{ cert = \"c\", key = \"k\" }";

#[test]
fn good_files_are_taken_with_their_defaults() {
    let (cert, key) = issue(|_| {});
    let files = [("c", cert.as_str()), ("k", &key), ("tidegate.toml", &listener(BOTH))];
    let config = folder(&files).load().unwrap();
    let tls = config.broker.listeners[0].tls.clone().unwrap();
    assert_eq!((tls.client_ca, tls.require_client_cert, tls.identity), (None, false, Identity::CommonName));
    let all = "{ cert = \"c\", key = \"k\", client_ca = \"c\", require_client_cert = true, identity = \"san\" }";
    let config = folder(&[files[0], files[1], ("tidegate.toml", &listener(all))]).load().unwrap();
    let tls = config.broker.listeners[0].tls.clone().unwrap();
    assert!(tls.client_ca.is_some() && tls.require_client_cert && tls.identity == Identity::AlternativeName);
}

#[test]
fn all_kinds_of_private_keys_are_taken() {
    // Made with OpenSSL; certificate and key in one file each.
    for pair in [
        include_str!("keys/rsa-pkcs1.pem"),
        include_str!("keys/rsa-pkcs8.pem"),
        include_str!("keys/ec-sec1.pem"),
        include_str!("keys/ec-pkcs8.pem"),
        include_str!("keys/ed25519.pem"),
    ] {
        problems(&[("c", pair)], "{ cert = \"c\", key = \"c\" }", &[]);
    }
}

#[test]
fn an_old_certificate_of_version_1_is_taken_as_it_is_by_mosquitto() {
    problems(&[("c", include_str!("keys/version-1.pem"))], "{ cert = \"c\", key = \"c\" }", &[]);
}

#[test]
fn every_file_says_what_is_wrong_with_it_all_at_once() {
    let (cert, key) = issue(|_| {});
    let (_, other) = issue(|_| {});
    problems(
        &[("c", ""), ("k", &cert)],
        "{ cert = \"c\", key = \"k\", client_ca = \"absent\" }",
        &[
            "error: cert (l): c: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
            "error: client_ca (l): absent: No such file or directory (os error 2)",
            "error: key (l): k: holds a certificate; expected a private key (PEM)",
        ],
    );
    problems(
        &[("c", &cert), ("k", &other)],
        BOTH,
        &[
            "error: key (l): k: does not belong to the certificate in c (CN=gw); expected the private key it was made with",
        ],
    );
    let (authority, _) = issue(|_| {});
    problems(
        &[("c", &format!("{authority}{cert}")), ("k", &key)],
        BOTH,
        &["error: cert (l): c: the certificate that belongs to `key` is not the first in the file; \
           expected it first, and behind it those that sign it"],
    );
    problems(
        &[("c", &cert[..200]), ("k", &key)],
        BOTH,
        &["error: cert (l): c: is cut off: the line -----END CERTIFICATE----- is missing"],
    );
    problems(
        &[("c", &cert)],
        "{ cert = \"c\", require_client_cert = true }",
        &[
            "error: key (l): is missing; expected the private key that belongs to `cert` (PEM)",
            "error: require_client_cert (l): true: is of no use without `client_ca`, \
             the authorities that sign the certificates of clients",
        ],
    );
    problems(
        &[],
        "{ crt = \"c\" }",
        &[
            "error: cert (l): is missing; expected the certificate of this listener (PEM)",
            "error: crt (l): unknown key; did you mean `cert`?",
            "error: key (l): is missing; expected the private key that belongs to `cert` (PEM)",
        ],
    );
}

#[test]
fn what_can_be_used_and_is_surely_not_meant_is_a_warning() {
    let (cert, key) = issue(|params| params.not_after = date_time_ymd(2020, 1, 2));
    let files = [("c", cert.as_str()), ("k", &key)];
    problems(&files, BOTH, &["warning: cert (l): c: has expired on 2020-01-02T00:00:00Z: clients will not accept it"]);
    let folder = folder(&[files[0], files[1], ("tidegate.toml", &listener(BOTH))]);
    assert!(folder.load().is_ok());
    fs::set_permissions(folder.folder.path().join("k"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = "key (l): k: every user of this machine can read this secret (chmod o-r)";
    assert!(folder.problems().iter().any(|problem| problem.ends_with(open)), "{:?}", folder.problems());
}

#[test]
fn tls_on_a_unix_socket_is_refused() {
    let (cert, key) = issue(|_| {});
    let text = listener(BOTH).replace("127.0.0.1:0", "unix:/run/x.sock");
    let found = folder(&[("c", &cert), ("k", &key), ("tidegate.toml", &text)]).problems();
    let said = "error: tidegate.toml:4: listener[0].tls (l): a unix socket does not leave this machine; \
                expected `tls` on a `host:port` only";
    assert_eq!(found, [said]);
}
