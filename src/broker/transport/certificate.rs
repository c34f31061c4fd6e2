//! What the gateway wants to know of a certificate: until when it is valid, whose it is, which key is in it.

use bytestring::ByteString;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::broker::Identity;

/// Longest name taken from a certificate, in bytes; the standard allows 64 characters in a common name.
const NAME_MAX: usize = 256;

/// A certificate that could be read.
#[derive(Debug)]
pub(super) struct Certificate<'c>(X509Certificate<'c>);

impl<'c> Certificate<'c> {
    /// Reads a certificate; nothing of it is verified.
    pub(super) fn read(der: &'c CertificateDer<'_>) -> Result<Self, String> {
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(Self(certificate)),
            Err(error) => Err(format!("is not an X.509 certificate: {error}")),
        }
    }

    /// The first and the last second of its validity, since 1970.
    pub(super) fn validity(&self) -> (i64, i64) {
        let validity = self.0.validity();
        (validity.not_before.timestamp(), validity.not_after.timestamp())
    }

    /// Its public key (SubjectPublicKeyInfo, DER).
    pub(super) fn public_key(&self) -> &[u8] {
        self.0.public_key().raw
    }

    /// Whom it was issued to, for people.
    pub(super) fn subject(&self) -> String {
        self.0.subject().to_string()
    }

    /// Who issued it, for people.
    pub(super) fn issuer(&self) -> String {
        self.0.issuer().to_string()
    }

    /// All its alternative names.
    pub(super) fn alternative_names(&self) -> impl Iterator<Item = &GeneralName<'c>> {
        let extension = self.0.subject_alternative_name().ok().flatten();
        extension.into_iter().flat_map(|extension| &extension.value.general_names)
    }

    /// The name of a client; `None` where there is none, or none that can be told from others without doubt.
    pub(super) fn name(&self, identity: Identity) -> Option<ByteString> {
        let name = match identity {
            // The first of several, as Mosquitto takes it.
            Identity::CommonName => self.0.subject().iter_common_name().next()?.as_str().ok()?,
            Identity::AlternativeName => self.alternative_name()?,
        };
        let is_plain = !name.is_empty() && name.len() <= NAME_MAX && !name.chars().any(char::is_control);
        is_plain.then(|| ByteString::from(name))
    }

    /// The first DNS name, or else the first e-mail address or URI.
    fn alternative_name(&self) -> Option<&str> {
        let names = &self.0.subject_alternative_name().ok()??.value.general_names;
        let dns = names.iter().find_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None });
        dns.or_else(|| {
            names.iter().find_map(|name| {
                if let GeneralName::RFC822Name(name) | GeneralName::URI(name) = name { Some(*name) } else { None }
            })
        })
    }
}

/// A moment for people: `2027-03-01T12:00:00Z`.
pub(super) fn date(unix_s: i64) -> String {
    let text = OffsetDateTime::from_unix_timestamp(unix_s).ok().and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix_s} s after 1970"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn names(change: impl FnOnce(&mut CertificateParams)) -> [Option<String>; 2] {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate = Certificate::read(made.der()).unwrap();
        [Identity::CommonName, Identity::AlternativeName]
            .map(|identity| certificate.name(identity).map(|name| name.to_string()))
    }

    #[test]
    fn a_name_is_the_common_name_or_an_alternative_one() {
        assert_eq!(names(|_| {}), [None, None]);
        let dns = SanType::DnsName("pump-7.plant".try_into().unwrap());
        let mail = SanType::Rfc822Name("pump-7@plant".try_into().unwrap());
        let uri = SanType::URI("urn:dev:pump-7".try_into().unwrap());
        let both = names(|params| {
            params.distinguished_name.push(DnType::CommonName, "Pumpe Süd 7");
            params.subject_alt_names = vec![uri.clone(), mail.clone(), dns];
        });
        assert_eq!(both, ["Pumpe Süd 7", "pump-7.plant"].map(|name| Some(name.to_owned())));
        assert_eq!(names(|params| params.subject_alt_names = vec![mail, uri]), [None, Some("pump-7@plant".to_owned())]);
    }

    #[test]
    fn a_name_that_would_read_like_another_is_none() {
        for name in ["", "pump\0admin", "pump\n", &"x".repeat(257)] {
            let found = names(|params| params.distinguished_name.push(DnType::CommonName, name));
            assert_eq!(found[0], None, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bytes in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", &[0x30; 4096]] {
            assert!(Certificate::read(&CertificateDer::from(bytes)).is_err());
        }
    }
}
