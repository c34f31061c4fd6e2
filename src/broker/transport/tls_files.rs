//! From the files of a listener's TLS settings to a configuration for rustls; everything that is wrong with them at once.
//!
//! The same reading serves `tidegate check`, the start and every reload, so what one accepts the others accept.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};

use super::{
    certificate::{Certificate, date},
    tls::unix_now,
};
use crate::{
    broker::{TlsSettings, Transport},
    named_file::{self, Content},
};

/// People are warned when a certificate has less than this left.
pub(super) const EXPIRY_WARNING_S: i64 = 30 * DAY_S;
const DAY_S: i64 = 24 * 3600;

/// Something that is wrong with a file of [`TlsSettings`], or surely not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProblem {
    /// The setting that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what would be right.
    pub text: String,
    /// Whether the files can be used all the same.
    pub is_warning: bool,
}

/// TLS as the files have it now.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// For every file of certificates, when the first of them ends: seconds since 1970.
    pub(super) not_after: BTreeMap<PathBuf, i64>,
}

/// What is read so far.
struct Reading {
    now: i64,
    problems: Vec<TlsProblem>,
    not_after: BTreeMap<PathBuf, i64>,
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.key, self.path.display(), self.text)
    }
}

/// Looks into the files of a listener's TLS and gives all that is wrong with them.
pub fn check_tls(settings: &TlsSettings) -> Vec<TlsProblem> {
    load(settings, Transport::Tcp, unix_now()).1
}

/// When the first certificate of a file ends, in seconds since 1970; `None` where it cannot be read.
pub fn certificates_end(path: &Path) -> Option<i64> {
    let mut reading = Reading { now: unix_now(), problems: Vec::new(), not_after: BTreeMap::new() };
    reading.certificates("cert", path)?;
    reading.not_after.get(path).copied()
}

/// Reads the files; `None` where they cannot be used. `now` in seconds since 1970.
pub(super) fn load(settings: &TlsSettings, transport: Transport, now: i64) -> (Option<Loaded>, Vec<TlsProblem>) {
    let mut reading = Reading { now, problems: Vec::new(), not_after: BTreeMap::new() };
    let provider = Arc::new(ring::default_provider());
    let chain = reading.certificates("cert", &settings.cert);
    let key = reading.key(&settings.key, &provider);
    let ca = settings.client_ca.as_ref().map(|path| (path, reading.certificates("client_ca", path)));
    if let (Some(chain), Some(key)) = (&chain, &key) {
        reading.match_key(settings, chain, key);
    }
    let verifier = match ca {
        None => Some(None),
        Some((path, ca)) => ca.and_then(|ca| reading.verifier(settings, path, ca, &provider)).map(Some),
    };
    let config = chain.zip(key).zip(verifier).filter(|_| reading.problems.iter().all(|problem| problem.is_warning));
    let config = config.and_then(|((chain, key), verifier)| {
        match build(provider, CertifiedKey::new(chain, key), verifier, transport) {
            Ok(config) => Some(Arc::new(config)),
            Err(error) => {
                reading.refuse("cert", &settings.cert, error.to_string());
                None
            }
        }
    });
    let Reading { problems, not_after, .. } = reading;
    (config.map(|config| Loaded { config, not_after }), problems)
}

fn build(
    provider: Arc<CryptoProvider>,
    identity: CertifiedKey,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    transport: Transport,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    // Not `with_single_cert`: it refuses certificates of X.509 version 1, which `openssl x509 -req` makes and many sites have.
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    // A client that offers protocols and none of these is refused, so that a web page cannot talk to an MQTT port.
    config.alpn_protocols = match transport {
        // The second is what devices made for AWS IoT Core offer.
        Transport::Tcp => vec![b"mqtt".to_vec(), b"x-amzn-mqtt-ca".to_vec()],
        Transport::WebSocket => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

impl Reading {
    fn refuse(&mut self, key: &'static str, path: &Path, text: String) {
        self.problems.push(TlsProblem { key, path: path.to_owned(), text, is_warning: false });
    }

    fn warn(&mut self, key: &'static str, path: &Path, text: String) {
        self.problems.push(TlsProblem { key, path: path.to_owned(), text, is_warning: true });
    }

    fn read(&mut self, key: &'static str, path: &Path, content: Content) -> Option<Vec<u8>> {
        match named_file::read(path, content) {
            Ok((bytes, warning)) => {
                if let Some(warning) = warning {
                    self.warn(key, path, warning.to_owned());
                }
                Some(bytes)
            }
            Err(error) => {
                self.refuse(key, path, error);
                None
            }
        }
    }

    /// All certificates of a file, and what is to be said of their dates.
    fn certificates(&mut self, key: &'static str, path: &Path) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = self.read(key, path, Content::Certificates)?;
        let read = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        let checked = read.map_err(|error| pem_words(&error)).and_then(|certificates| {
            let validity = |der| Certificate::read(der).map(|certificate| certificate.validity());
            let validities = certificates.iter().map(validity).collect::<Result<Vec<_>, _>>()?;
            Ok((certificates, validities))
        });
        let (certificates, validities) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                self.refuse(key, path, error);
                return None;
            }
        };
        let not_before = validities.iter().map(|(not_before, _)| *not_before).max()?;
        let not_after = validities.iter().map(|(_, not_after)| *not_after).min()?;
        self.not_after.insert(path.to_owned(), not_after);
        if let Some(warning) = date_words(not_before, not_after, self.now) {
            self.warn(key, path, warning);
        }
        Some(certificates)
    }

    fn key(&mut self, path: &Path, provider: &CryptoProvider) -> Option<Arc<dyn SigningKey>> {
        let bytes = self.read("key", path, Content::PrivateKey)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| pem_words(&error)).and_then(|key| {
            provider.key_provider.load_private_key(key).map_err(|_| {
                "the private key cannot be used; expected RSA (2048 to 8192 bits), ECDSA (P-256, P-384) or Ed25519"
                    .to_owned()
            })
        });
        match key {
            Ok(key) => Some(key),
            Err(error) => {
                self.refuse("key", path, error);
                None
            }
        }
    }

    fn match_key(&mut self, settings: &TlsSettings, chain: &[CertificateDer<'static>], key: &Arc<dyn SigningKey>) {
        let Some(public) = key.public_key() else { return };
        let certificates: Vec<_> = chain.iter().filter_map(|der| Certificate::read(der).ok()).collect();
        let fits = |certificate: &Certificate<'_>| certificate.public_key() == public.as_ref();
        let Some(first) = certificates.first().filter(|first| !fits(first)) else { return };
        let text = if certificates.iter().any(fits) {
            let text = "the certificate that belongs to `key` is not the first in the file; \
                        expected it first, and behind it those that sign it";
            return self.refuse("cert", &settings.cert, text.to_owned());
        } else {
            format!(
                "does not belong to the certificate in {} ({}); expected the private key it was made with",
                settings.cert.display(),
                first.subject()
            )
        };
        self.refuse("key", &settings.key, text);
    }

    fn verifier(
        &mut self,
        settings: &TlsSettings,
        path: &Path,
        certificates: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Option<Arc<dyn ClientCertVerifier>> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            if let Err(error) = roots.add(certificate) {
                self.refuse("client_ca", path, format!("cannot be used as an authority: {error}"));
                return None;
            }
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if !settings.require_client_cert {
            builder = builder.allow_unauthenticated();
        }
        match builder.build() {
            Ok(verifier) => Some(verifier),
            Err(error) => {
                self.refuse("client_ca", path, error.to_string());
                None
            }
        }
    }
}

/// What is to be said of the dates of a certificate.
pub(super) fn date_words(not_before: i64, not_after: i64, now: i64) -> Option<String> {
    if now > not_after {
        return Some(format!("has expired on {}: clients will not accept it", date(not_after)));
    }
    if now < not_before {
        return Some(format!("is not valid before {} (is the clock of this machine right?)", date(not_before)));
    }
    let left = not_after - now;
    (left < EXPIRY_WARNING_S).then(|| format!("expires on {}, in {} days", date(not_after), left / DAY_S))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what has no words of ours keeps its own")]
pub(super) fn pem_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("is cut off: the line -----END {}----- is missing", String::from_utf8_lossy(end_marker))
        }
        pem::Error::Base64Decode(_) => {
            "is damaged: what stands between -----BEGIN and -----END is not base64".to_owned()
        }
        other => format!("cannot be read as PEM: {other}"),
    }
}
