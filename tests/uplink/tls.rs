//! Uplinks over TLS to a real Mosquitto: whom to trust, and how to be trusted.

use std::{path::PathBuf, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tidegate::uplink::Settings;
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::{
    broker::{Broker, free_port, write_private},
    gateway::{Gateway, settings},
};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `name.pem` and `name.key`.
fn issue(dir: &TempDir, ca: &Ca, name: &str, purpose: ExtendedKeyUsagePurpose) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    let paths = (dir.path().join(format!("{name}.pem")), dir.path().join(format!("{name}.key")));
    write_private(&paths.0, &certificate.pem());
    write_private(&paths.1, &key.serialize_pem());
    paths
}

/// A broker as `localhost`, and the uplink settings that fit.
async fn secure_broker(more: &str) -> (Broker, Settings, Ca, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let authority = ca("the right authority");
    let ca_file = dir.path().join("ca.pem");
    write_private(&ca_file, &authority.pem());
    let (cert, key) = issue(&dir, &authority, "localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let config = format!(
        "allow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\n{more}",
        ca_file.display(),
        cert.display(),
        key.display()
    );
    let broker = Broker::start_in(tempfile::tempdir().unwrap(), free_port(), &config).await;
    let mut settings = settings(broker.port);
    settings.urls[0].tls = true;
    settings.urls[0].host = "localhost".into();
    settings.ca = Some(ca_file);
    (broker, settings, authority, dir)
}

async fn gateway(settings: &Settings) -> Gateway {
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=500).await;
    gateway.start(settings.clone());
    gateway
}

#[tokio::test]
async fn the_right_authority_is_trusted() {
    let (_broker, settings, _, _dir) = secure_broker("").await;
    let mut gateway = gateway(&settings).await;
    assert_eq!(gateway.drained(0).await.forwarded, 500);
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn another_authority_another_name_and_broken_files_are_not() {
    let (_broker, settings, _, dir) = secure_broker("").await;
    let other = dir.path().join("other.pem");
    write_private(&other, &ca("another authority").pem());
    let empty = dir.path().join("empty.pem");
    write_private(&empty, "no certificate here\n");
    let with = |ca: &PathBuf, host: &str| {
        let mut settings = settings.clone();
        settings.ca = Some(ca.clone());
        settings.urls[0].host = host.to_owned();
        settings
    };
    let right = settings.ca.clone().unwrap();
    let cases = [
        (with(&other, "localhost"), "TLS: invalid peer certificate: UnknownIssuer", "tls"),
        (with(&right, "127.0.0.1"), "TLS: invalid peer certificate: certificate not valid for name", "tls"),
        (with(&empty, "localhost"), "certificate authorities", "file"),
        (with(&dir.path().join("missing.pem"), "localhost"), "missing.pem: ", "file"),
    ];
    for (settings, words, reason) in cases {
        let mut gateway = gateway(&settings).await;
        gateway.until_error(words).await;
        assert!(gateway.failures(reason) >= 1, "{reason}");
        gateway.stop(Duration::ZERO).await;
        assert_eq!(gateway.books(0).backlog_messages, 500);
    }
}

#[tokio::test]
async fn a_client_certificate_opens_the_door_that_asks_for_one() {
    let (_broker, mut settings, authority, dir) = secure_broker("require_certificate true").await;
    let mut without = gateway(&settings).await;
    without.until("refused", |stats| stats.last_error.is_some()).await;
    without.stop(Duration::ZERO).await;
    settings.identity = Some(issue(&dir, &authority, "plant-7", ExtendedKeyUsagePurpose::ClientAuth));
    let mut with = gateway(&settings).await;
    assert_eq!(with.drained(0).await.forwarded, 500);
    with.stop(Duration::from_secs(5)).await;
}

/// As AWS IoT Core does it on port 443: the name of the protocol tells MQTT with a client certificate from everything else there.
#[tokio::test]
async fn the_protocol_is_named_in_the_handshake_where_the_configuration_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let authority = ca("the right authority");
    let ca_file = dir.path().join("ca.pem");
    write_private(&ca_file, &authority.pem());
    let (cert, key) = issue(&dir, &authority, "localhost", ExtendedKeyUsagePurpose::ServerAuth);
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&cert).unwrap()],
            PrivateKeyDer::from_pem_file(&key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"x-amzn-http-ca".to_vec(), b"x-amzn-mqtt-ca".to_vec()];
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(listener.local_addr().unwrap().port());
    (settings.urls[0].tls, settings.urls[0].host, settings.ca) = (true, "localhost".into(), Some(ca_file));
    for name in [Some("x-amzn-mqtt-ca"), None] {
        settings.alpn = name.map(str::to_owned);
        let mut gateway = gateway(&settings).await;
        let accepted = tokio::time::timeout(Duration::from_secs(20), async {
            acceptor.accept(listener.accept().await.unwrap().0).await.unwrap()
        });
        let stream = accepted.await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), name.map(str::as_bytes));
        drop(stream);
        gateway.stop(Duration::ZERO).await;
    }
    settings.alpn = Some("mqtt".to_owned());
    let mut gateway = gateway(&settings).await;
    let refused = async { acceptor.accept(listener.accept().await.unwrap().0).await.unwrap_err() };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    gateway.until_error("NoApplicationProtocol").await;
    gateway.stop(Duration::ZERO).await;
}
