//! What certificates say of themselves, for somebody who looks at them before a client does. Nothing is verified here.

use std::{net::IpAddr, path::Path};

use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::GeneralName;

use super::{certificate::Certificate, tls_files::pem_words};
use crate::named_file::{self, Content};

/// Most names that are read from a certificate.
const NAMES_MAX: usize = 100;

/// What one certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whom it was issued to.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The DNS names and addresses of its subject alternative name.
    pub names: Vec<String>,
    /// The first second of its validity, since 1970.
    pub not_before: i64,
    /// The last second of its validity, since 1970.
    pub not_after: i64,
}

/// All certificates of a PEM file, in its order.
pub fn inspect_certificates(path: &Path) -> Result<Vec<CertificateFacts>, String> {
    let (bytes, _) = named_file::read(path, Content::Certificates)?;
    let read = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    read.map_err(|error| pem_words(&error))?.iter().map(|der| facts(der)).collect()
}

/// A certificate in DER form.
pub fn inspect_certificate(der: &[u8]) -> Result<CertificateFacts, String> {
    facts(&CertificateDer::from(der))
}

fn facts(der: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
    let certificate = Certificate::read(der)?;
    let (not_before, not_after) = certificate.validity();
    let names = certificate.alternative_names().filter_map(name).take(NAMES_MAX).collect();
    Ok(CertificateFacts { subject: certificate.subject(), issuer: certificate.issuer(), names, not_before, not_after })
}

/// A name as people write it; `None` for the kinds that no client compares with what it dialled.
#[allow(clippy::wildcard_enum_match_arm, reason = "two kinds of many are names of hosts")]
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = address.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn names_and_dates_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(vec!["gw.plant".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 1, 2);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let file = folder.path().join("cert.pem");
        std::fs::write(&file, made.pem() + &made.pem()).unwrap();
        let found = inspect_certificates(&file).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].names, ["gw.plant", "10.0.0.7"]);
        assert_eq!(found[0].not_after, 1_925_078_400);
        assert_eq!(inspect_certificate(made.der()).unwrap(), found[0]);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(inspect_certificate(b"\x30\x03abc").is_err());
        assert!(inspect_certificates(Path::new("/nowhere")).is_err());
    }
}
