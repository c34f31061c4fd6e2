//! New certificates while connections live on.

use tokio_rustls::rustls::{ALL_VERSIONS, pki_types::CertificateDer, pki_types::pem::PemObject};

use super::{
    authority::{Authority, Issued, put},
    client::Client,
    rig::Rig,
};

/// The certificate that the listener shows now.
async fn shown(rig: &Rig) -> CertificateDer<'static> {
    let client = rig.shake(rig.authority.trusted(None, ALL_VERSIONS)).await.unwrap();
    client.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.cert.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_serves_new_clients_and_old_ones_stay() {
    let rig = Rig::secure(|_, _| {}).await;
    let mut old = rig.connected("old", None).await;
    let renewed = rig.authority.server();
    put(rig.folder.path(), "gw.pem", &renewed.cert);
    put(rig.folder.path(), "gw.key", &renewed.key);
    assert_ne!(shown(&rig).await, der(&renewed), "not before it is told to");
    rig.broker.reload_tls().await.unwrap();
    assert_eq!(shown(&rig).await, der(&renewed));
    old.ping().await;
    rig.connected("new", None).await.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_no_use_leave_the_old_ones_in_use() {
    let rig = Rig::secure(|_, _| {}).await;
    let before = shown(&rig).await;
    let mut old = rig.connected("old", None).await;
    let (one, other) = (rig.authority.server(), rig.authority.server());
    let folder = rig.folder.path().display().to_string();
    let table = [
        (
            one.cert.as_str(),
            other.key.as_str(),
            "key: DIR/gw.key: does not belong to the certificate in DIR/gw.pem (CN=localhost)",
        ),
        ("", &one.key, "cert: DIR/gw.pem: holds no certificate in PEM form"),
        (&one.cert[..300], &one.key, "cert: DIR/gw.pem: is cut off: "),
        (&one.key, &one.key, "cert: DIR/gw.pem: holds a private key; expected a certificate"),
        (&one.cert, &one.cert, "key: DIR/gw.key: holds a certificate; expected a private key"),
        (
            &one.cert,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "key: DIR/gw.key: the private key cannot be used",
        ),
    ];
    for (cert, key, words) in table {
        put(rig.folder.path(), "gw.pem", cert);
        put(rig.folder.path(), "gw.key", key);
        let refused = rig.broker.reload_tls().await.unwrap_err();
        let said = refused[0].to_string().replace(&folder, "DIR");
        assert!(said.starts_with(&format!("listener `test`: tls: {words}")), "{said}");
        assert_eq!(shown(&rig).await, before, "{words}");
    }
    std::fs::remove_file(rig.folder.path().join("gw.key")).unwrap();
    assert!(rig.broker.reload_tls().await.is_err());
    assert_eq!(shown(&rig).await, before);
    old.ping().await;
    put(rig.folder.path(), "gw.pem", &one.cert);
    put(rig.folder.path(), "gw.key", &one.key);
    rig.broker.reload_tls().await.unwrap();
    assert_eq!(shown(&rig).await, der(&one));
    old.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_taken_away_is_trusted_no_more_not_even_for_a_session_of_before() {
    let rig = Rig::secure(|site, tls| {
        tls.client_ca = Some(put(site.folder.path(), "ca.pem", &site.authority.pem()));
        tls.require_client_cert = true;
    })
    .await;
    // One configuration for all connections: it keeps the session tickets.
    let config = rig.authority.trusted(Some(&rig.authority.client("sensor")), ALL_VERSIONS);
    let mut living = Client::connected(rig.shake(config.clone()).await.unwrap().0, "living").await;
    let again = Client::connected(rig.shake(config.clone()).await.unwrap().0, "again").await;
    assert_eq!(again.0.get_ref().1.handshake_kind(), Some(tokio_rustls::rustls::HandshakeKind::Resumed));
    put(rig.folder.path(), "ca.pem", &Authority::new("another authority").pem());
    rig.broker.reload_tls().await.unwrap();
    let mut refused = rig.shake(config).await;
    if let Ok(client) = &mut refused {
        assert!(client.rest().await.1.is_err());
    }
    rig.until_refused("tls", 1).await;
    living.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_every_certificate_is_a_metric() {
    let end = rcgen::date_time_ymd(2090, 2, 3);
    let rig = Rig::secure(|site, tls| {
        tls.client_ca = Some(put(site.folder.path(), "ca.pem", &site.authority.pem()));
    })
    .await;
    let file = |name: &str| rig.folder.path().join(name).display().to_string();
    let name = "tidegate_tls_not_after_seconds";
    assert!(rig.metric(name, &file("gw.pem")) > 0 && rig.metric(name, &file("ca.pem")) > 0);
    let renewed = rig.authority.issue("localhost", rcgen::ExtendedKeyUsagePurpose::ServerAuth, |params| {
        params.not_after = end;
    });
    put(rig.folder.path(), "gw.pem", &renewed.cert);
    put(rig.folder.path(), "gw.key", &renewed.key);
    rig.broker.reload_tls().await.unwrap();
    assert_eq!(rig.metric(name, &file("gw.pem")), end.unix_timestamp());
}
