//! TLS: versions, certificates of both sides, clients that have something else in mind.

use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::rustls::{
    ALL_VERSIONS, ProtocolVersion,
    version::{TLS12, TLS13},
};

use super::{
    authority::{Authority, Issued, put},
    client::{Client, DEADLINE, DISCONNECT, connect, publish},
    rig::{Rig, Site, local},
};

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_carry_mqtt() {
    let rig = Rig::secure(|_, _| {}).await;
    for (config, version) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let stream = rig.shake(rig.authority.trusted(None, &[config])).await.unwrap().0;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        let mut client = Client::connected(stream, "c").await;
        client.subscribe("a/#").await;
        let message = publish("a/b", b"hello");
        client.send(&message).await;
        client.expect(&message).await;
    }
    assert_eq!(rig.refused("tls"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_any_size_comes_through_whole() {
    let rig = {
        let site = Site::new();
        let tls = site.tls();
        site.start(tidegate::broker::ListenerSettings { tls: Some(tls), max_packet: 8 << 20, ..local() }).await
    };
    let mut subscriber = rig.connected("subscriber", None).await;
    subscriber.subscribe("#").await;
    let mut publisher = rig.connected("publisher", None).await;
    let message = publish("big", &(0..5_000_000u32).map(|n| n.to_be_bytes()[3]).collect::<Vec<_>>());
    publisher.send(&message).await;
    publisher.ping().await;
    subscriber.expect(&message).await;
    // The very end has left the gateway, too: nothing is behind it that would push it out.
    subscriber.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_mqtt_is_taken_where_it_is_offered() {
    let rig = Rig::secure(|_, _| {}).await;
    let offering = |protocol: &str| {
        let mut config = rig.authority.trusted(None, ALL_VERSIONS);
        config.alpn_protocols = vec![b"x".to_vec(), protocol.as_bytes().to_vec()];
        config
    };
    for protocol in ["mqtt", "x-amzn-mqtt-ca"] {
        let stream = rig.shake(offering(protocol)).await.unwrap().0;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    }
    // A web page that is made to talk to an MQTT port.
    assert!(rig.shake(offering("http/1.1")).await.is_err());
    rig.until_refused("tls", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_trust_the_listener_is_counted() {
    let rig = Rig::secure(|_, _| {}).await;
    let stranger = Authority::new("another authority");
    assert!(rig.shake(stranger.trusted(None, ALL_VERSIONS)).await.is_err());
    rig.until_refused("tls", 1).await;
}

/// Whether a client with this certificate gets its CONNACK; in TLS 1.3 the refusal comes after the client's handshake.
async fn comes_in(rig: &Rig, identity: Option<&Issued>) -> bool {
    let mut outcomes = Vec::new();
    for version in [&TLS12, &TLS13] {
        let config = rig.authority.trusted(identity, &[version]);
        let outcome = async {
            let mut client = rig.shake(config).await.ok()?;
            tokio::io::AsyncWriteExt::write_all(&mut client.0, &connect("c")).await.ok()?;
            let mut connack = [0; 4];
            client.0.read_exact(&mut connack).await.ok()?;
            Some(connack)
        };
        outcomes.push(timeout(DEADLINE, outcome).await.expect("an answer, or an end").is_some());
    }
    assert_eq!(outcomes[0], outcomes[1], "the versions differ");
    outcomes[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_are_verified() {
    let rig = Rig::secure(|site, tls| {
        tls.client_ca = Some(put(site.folder.path(), "ca.pem", &site.authority.pem()));
        tls.require_client_cert = true;
    })
    .await;
    assert!(comes_in(&rig, Some(&rig.authority.client("good"))).await);
    let bad = |change: fn(&mut rcgen::CertificateParams)| {
        rig.authority.issue("bad", ExtendedKeyUsagePurpose::ClientAuth, change)
    };
    let expired = bad(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = bad(|params| params.not_before = rcgen::date_time_ymd(2100, 1, 1));
    let table = [
        None,
        Some(Authority::new("another authority").client("good")),
        Some(expired),
        Some(early),
        Some(rig.authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth, |_| {})),
    ];
    for (count, identity) in (1..).zip(&table) {
        assert!(!comes_in(&rig, identity.as_ref()).await, "number {count}");
        rig.until_refused("tls", 2 * count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_certificate_may_be_missing_but_not_be_bad() {
    let rig = Rig::secure(|site, tls| {
        tls.client_ca = Some(put(site.folder.path(), "ca.pem", &site.authority.pem()));
    })
    .await;
    assert!(comes_in(&rig, None).await);
    assert!(comes_in(&rig, Some(&rig.authority.client("good"))).await);
    assert!(!comes_in(&rig, Some(&Authority::new("another authority").client("bad"))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_clients_hold_up_nobody() {
    let rig = Rig::secure(|_, _| {}).await;
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut client = rig.tcp().await;
        // Half of them begin a handshake and stop in the middle of it.
        if n % 2 == 0 {
            client.send(&[0x16, 3, 1, 2, 0, 1]).await;
        }
        silent.push(client);
    }
    for n in 0..5 {
        rig.connected(&format!("good-{n}"), None).await.ping().await;
    }
    assert_eq!(rig.refused("pending-full"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_connect_includes_the_handshake() {
    let rig = Rig::secure(|_, _| {}).await;
    let begun = std::time::Instant::now();
    let mut silent = rig.tcp().await;
    silent.send(&[0x16, 3, 1, 2, 0, 1]).await;
    let mut shaken = rig.shake(rig.authority.trusted(None, ALL_VERSIONS)).await.unwrap();
    silent.rest().await.1.ok();
    shaken.rest().await.1.ok();
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(rig.refused("connect-timeout"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_is_refused_and_a_health_check_is_no_news() {
    let rig = Rig::secure(|_, _| {}).await;
    drop(rig.tcp().await);
    for (count, bytes) in (1..).zip([connect("plain"), b"GET / HTTP/1.1\r\n\r\n".to_vec()]) {
        let mut client = rig.tcp().await;
        client.send(&bytes).await;
        let (alert, _) = client.rest().await;
        assert!(alert.is_empty() || alert[0] == 0x15, "{alert:02X?}");
        rig.until_refused("tls", count).await;
    }
    rig.connected("good", None).await.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_on_a_plain_listener_is_refused() {
    let rig = Site::new().start(local()).await;
    assert!(rig.shake(rig.authority.trusted(None, ALL_VERSIONS)).await.is_err());
    Client::connected(TcpStream::connect(rig.address).await.unwrap(), "good").await.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_announced() {
    let rig = Rig::secure(|_, _| {}).await;
    // Without close_notify rustls would call it an unexpected end.
    let mut leaving = rig.connected("leaving", None).await;
    leaving.send(DISCONNECT).await;
    assert_eq!(leaving.rest().await.1.unwrap(), 0);
    let mut offending = rig.connected("offending", None).await;
    offending.send(&[0xF0, 0]).await;
    assert_eq!(offending.rest().await.1.unwrap(), 0);
    let mut staying = rig.connected("staying", None).await;
    let (end, cut) = tokio::join!(staying.rest(), rig.broker.drain(DEADLINE));
    assert_eq!((end.1.unwrap(), cut), (0, 0));
}
