//! Why a TLS handshake failed, in words that tell the two ends apart.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::certificate::date;

/// Words for the log.
#[allow(clippy::wildcard_enum_match_arm, reason = "what has no words of ours keeps its own")]
pub(super) fn explain(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let Some(cause) = cause else { return format!("the TLS handshake was not completed: {error}") };
    if let Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) = cause {
        return "what came is not TLS: is the client set to a plain connection?".to_owned();
    }
    match cause {
        Error::NoCertificatesPresented => "the client has shown no certificate".to_owned(),
        Error::InvalidCertificate(what) => {
            format!("the client's certificate is not accepted: {}", certificate_words(what))
        }
        Error::AlertReceived(alert) if is_about_certificate(*alert) => {
            format!("the client does not accept the certificate of this listener: {alert:?}")
        }
        Error::AlertReceived(alert) => format!("the client ended the TLS handshake: {alert:?}"),
        Error::NoApplicationProtocol => {
            "the client offers protocols (ALPN), and none that this listener has".to_owned()
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what has no words of ours keeps its own")]
fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "none of the authorities in `client_ca` has signed it".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it has expired on {}", date(not_after.as_secs().try_into().unwrap_or(i64::MAX)))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            let not_before = date(not_before.as_secs().try_into().unwrap_or(i64::MAX));
            format!("it is not valid before {not_before} (is the clock of this machine right?)")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not made for clients (extended key usage `clientAuth`)".to_owned()
        }
        // The error inside is private to the crate that makes it.
        CertificateError::Other(other) if format!("{other:?}").contains("UnsupportedCertVersion") => {
            "it is X.509 version 1; expected version 3 (openssl x509 -req makes it with `-extfile`)".to_owned()
        }
        other => other.to_string(),
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    [
        AlertDescription::UnknownCA,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::CertificateRevoked,
    ]
    .contains(&alert)
}
