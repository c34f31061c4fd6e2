//! `tls` of a `[[listener]]`: certificate, key, and whose certificates clients may show.

use super::section::Section;
use crate::{
    broker::{Identity, TlsSettings, check_tls},
    named_file::Content,
};

pub(super) const TLS_KEYS: &[&str] = &["cert", "key", "client_ca", "require_client_cert", "identity"];

/// Reads `tls`; `None` where there is none, or no certificate and key.
pub(super) fn read_tls(listener: &Section<'_>) -> Option<TlsSettings> {
    if !listener.has("tls") {
        return None;
    }
    let section = listener.section("tls", TLS_KEYS);
    for (key, what) in [("cert", "the certificate of this listener"), ("key", "the private key that belongs to `cert`")]
    {
        if !section.has(key) {
            section.refuse(key, format!("is missing; expected {what} (PEM)"));
        }
    }
    for key in ["require_client_cert", "identity"].into_iter().filter(|key| section.has(key)) {
        if !section.has("client_ca") {
            section
                .refuse(key, "is of no use without `client_ca`, the authorities that sign the certificates of clients");
        }
    }
    let identities = [("cn", Identity::CommonName), ("san", Identity::AlternativeName)];
    let require_client_cert = section.switch("require_client_cert", false);
    let identity = section.choice("identity", Identity::default(), &identities);
    if !(section.has("cert") && section.has("key")) {
        section.file("cert", Content::Certificates);
        section.file("key", Content::PrivateKey);
        section.file("client_ca", Content::Certificates);
        return None;
    }
    let (cert, key, client_ca) = (section.path("cert"), section.path("key"), section.path("client_ca"));
    let settings = TlsSettings { cert: cert?, key: key?, client_ca, require_client_cert, identity };
    for problem in check_tls(&settings) {
        if problem.is_warning {
            section.warn(problem.key, format!("{}: {}", problem.path.display(), problem.text));
        } else {
            section.refuse_file(problem.key, &problem.path, &problem.text);
        }
    }
    Some(settings)
}
