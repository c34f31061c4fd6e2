//! TLS for uplinks: roots, client certificate, handshake. Files are read at every connection, so renewed ones need no restart.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpStream, task::spawn_blocking};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

use super::{Error, Settings, Url};

/// Everything a handshake needs.
pub(super) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

/// Reads the files and makes the configuration, off the runtime's threads.
pub(super) async fn prepare(settings: &Settings, url: &Url) -> Result<Tls, Error> {
    prepare_with(settings, url, configure).await
}

/// The same; the certificates that the server will show are kept.
pub(super) async fn prepare_watched(settings: &Settings, url: &Url) -> Result<(Tls, Shown), Error> {
    let shown = Shown::default();
    let kept = shown.clone();
    let tls = prepare_with(settings, url, move |settings, url| {
        let tls = |cause: String| Error::Tls { url: url.to_owned(), cause };
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(settings, url)?);
        let judge = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        let judge = judge.map_err(|error| tls(error.to_string()))?;
        let mut config = configure(settings, url)?;
        config.dangerous().set_certificate_verifier(Arc::new(Watcher { judge, shown: kept }));
        Ok(config)
    });
    Ok((tls.await?, shown))
}

/// Reads the files; says what is wrong with them.
pub(super) fn check(settings: &Settings, url: &str) -> Result<(), Error> {
    configure(settings, url).map(drop)
}

async fn prepare_with(
    settings: &Settings,
    url: &Url,
    configure: impl FnOnce(&Settings, &str) -> Result<ClientConfig, Error> + Send + 'static,
) -> Result<Tls, Error> {
    let server = ServerName::try_from(url.host.clone())
        .map_err(|error| Error::Tls { url: url.to_string(), cause: error.to_string() })?;
    let (settings, address) = (settings.clone(), url.to_string());
    let config = match spawn_blocking(move || configure(&settings, &address)).await {
        Ok(config) => config?,
        Err(error) => return Err(Error::Tls { url: url.to_string(), cause: error.to_string() }),
    };
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), server })
}

impl Tls {
    /// Shakes hands over a connection.
    pub(super) async fn handshake(self, tcp: TcpStream, url: &Url) -> Result<TlsStream<TcpStream>, Error> {
        let failed = |error: std::io::Error| Error::Tls { url: url.to_string(), cause: error.to_string() };
        self.connector.connect(self.server, tcp).await.map_err(failed)
    }
}

/// The certificates that a server has shown (DER), its own first.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown(Arc<Mutex<Vec<Vec<u8>>>>);

impl Shown {
    /// Takes them out.
    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps what the server shows, and judges exactly as rustls does.
#[derive(Debug)]
struct Watcher {
    judge: Arc<WebPkiServerVerifier>,
    shown: Shown,
}

impl ServerCertVerifier for Watcher {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates);
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = all.map(|der| der.to_vec()).collect();
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

fn configure(settings: &Settings, url: &str) -> Result<ClientConfig, Error> {
    let tls = |error: tokio_rustls::rustls::Error| Error::Tls { url: url.to_owned(), cause: error.to_string() };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_root_certificates(roots(settings, url)?);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert, "client certificate", url)?;
            let key_error = |cause: String| file_error(url, "client key", key, cause);
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| key_error(error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| key_error(error.to_string()))?
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

fn roots(settings: &Settings, url: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &settings.ca {
        for certificate in certificates(path, "certificate authorities", url)? {
            let refused = |error: tokio_rustls::rustls::Error| {
                file_error(url, "certificate authorities", path, error.to_string())
            };
            roots.add(certificate).map_err(refused)?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        let cause = format!("this system has no certificate authorities (install ca-certificates, or set `ca`){why}");
        return Err(Error::Tls { url: url.to_owned(), cause });
    }
    Ok(roots)
}

fn certificates(path: &Path, what: &'static str, url: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |cause: String| file_error(url, what, path, cause);
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() { Err(failed("holds no certificate".to_owned())) } else { Ok(certificates) }
}

fn file_error(url: &str, what: &'static str, path: &Path, cause: String) -> Error {
    Error::File { url: url.to_owned(), what, path: path.to_owned(), cause }
}
