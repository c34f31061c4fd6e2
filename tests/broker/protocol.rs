//! What the broker answers to clients that break the rules, and to those that only look as if they did.

use std::time::Duration;

use super::rig::*;

/// What the gateway says before it closes the connection.
async fn check(version: u8, bytes: &str, answer: &str) {
    let rig = Rig::new().await;
    let mut client = rig.connected(version, "c").await;
    client.send(bytes).await;
    if !answer.is_empty() {
        client.expect(answer).await;
    }
    client.expect_closed().await;
    rig.connected(version, "other").await.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_packets_get_their_reason_and_the_connection_is_closed() {
    let table = [
        // A second CONNECT.
        (4, "10 0D 0004 4D515454 04 02 003C 0001 61", ""),
        (5, "10 0E 0004 4D515454 05 02 003C 00 0001 61", "E0 01 82"),
        (4, "36 06 0001 61 0001 00", ""),
        (5, "36 07 0001 61 0001 00 00", "E0 01 81"),
        (5, "30 05 0001 23 00 00", "E0 01 90"),
        (5, "30 05 0001 FF 00 00", "E0 01 81"),
        (5, "30 FF FF 7F", "E0 01 95"),
        (4, "30 FF FF 7F", ""),
        (5, "30 FF FF FF FF 01", "E0 01 81"),
        (5, "30 07 0001 61 03 2300FF", "E0 01 94"),
        (5, "82 03 0001 00", "E0 01 82"),
        (5, "82 06 0001 00 0000 00", "E0 01 82"),
        (5, "F0 00", "E0 01 82"),
        (5, "E0 07 00 05 1100000001", "E0 01 82"),
        (5, "00 00", "E0 01 81"),
    ];
    for (version, bytes, answer) in table {
        check(version, bytes, answer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_that_are_refused_get_the_right_code() {
    let rig = Rig::new().await;
    let long = "x".repeat(257);
    let table: Vec<(Vec<u8>, &str)> = vec![
        (unhex("10 0F 0006 4D5149736470 03 02 003C 0001 61"), "20 02 00 01"),
        (unhex("10 0D 0004 4D515454 03 02 003C 0001 61"), "20 02 00 01"),
        (unhex("10 0D 0004 4D515454 84 02 003C 0001 61"), "20 02 00 01"),
        (unhex("10 0E 0004 4D515454 06 02 003C 00 0001 61"), "20 03 00 84 00"),
        (unhex("10 0D 0004 48545450 04 02 003C 0001 61"), ""),
        (unhex("47 45 54 20 2F 20"), ""),
        (unhex("C0 00"), ""),
        (unhex("10 0D 0004 4D515454 04 03 003C 0001 61"), ""),
        (unhex("10 0E 0004 4D515454 05 03 003C 00 0001 61"), "20 03 00 81 00"),
        (unhex("10 12 0004 4D515454 05 02 003C 04 15000161 0001 61"), "20 03 00 8C 00"),
        (connect(4, "", 0x00, 0, &[]), "20 02 00 02"),
        (connect(4, &long, 0x02, 0, &[]), "20 02 00 02"),
        (connect(5, &long, 0x02, 0, &[]), "20 03 00 85 00"),
        (unhex("10 FF FF 7F"), ""),
    ];
    for (bytes, answer) in table {
        let mut client = rig.client().await;
        client.send_bytes(&bytes).await;
        if !answer.is_empty() {
            client.expect(answer).await;
        }
        client.expect_closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_anonymous_clients_refuses_everybody() {
    let rig = Rig::with(Options { anonymous: false, ..Options::default() }).await;
    let mut with_password = b"\0\x04MQTT\x05\xC2\0\0\0".to_vec();
    for part in ["c", "user", "secret"] {
        text(&mut with_password, part);
    }
    for (bytes, answer) in [
        (connect(4, "c", 2, 0, &[]), "20 02 00 05"),
        (connect(5, "c", 2, 0, &[]), "20 03 00 87 00"),
        (packet(0x10, &with_password), "20 03 00 86 00"),
    ] {
        let mut client = rig.client().await;
        client.send_bytes(&bytes).await;
        client.expect(answer).await;
        client.expect_closed().await;
    }
    assert_eq!(rig.metric("tidegate_broker_refused_total", "not-authorized"), 2);
    assert_eq!(rig.metric("tidegate_broker_refused_total", "bad-credentials"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connack_of_mqtt_5_says_what_the_listener_takes() {
    let rig = Rig::with(Options { max_inflight: 7, max_packet: 0x1234, ..Options::default() }).await;
    let mut client = rig.client().await;
    client.send_bytes(&connect(5, "", 2, 0, &[])).await;
    let connack = client.packet().await;
    let properties = &connack[5..];
    assert_eq!(properties[..8], unhex("21 0007 27 00001234"));
    assert_eq!(properties[8..11], unhex("12 0025"), "assigned client id of 37 characters");
    assert_eq!(properties[48..], unhex("22 0020"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_listener_says_so_and_takes_clients_again_when_one_has_gone() {
    let rig = Rig::with(Options { max_connections: 1, ..Options::default() }).await;
    let first = rig.connected(4, "a").await;
    for (version, answer) in [(4, "20 02 00 03"), (5, "20 03 00 97 00")] {
        let mut second = rig.client().await;
        second.send_bytes(&connect(version, "b", 2, 0, &[])).await;
        second.expect(answer).await;
        second.expect_closed().await;
    }
    // The same client may always replace itself.
    let mut again = rig.connected(4, "a").await;
    drop(first);
    again.expect_quiet().await;
    drop(again);
    until("the place is free", || rig.broker.listeners()[0].connections == 0).await;
    rig.connected(5, "b").await.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_packet_and_silence_disturb_nobody() {
    let rig = Rig::new().await;
    let mut half = rig.client().await;
    half.send("10 0D 0004 4D51").await;
    let mut publisher = rig.connected(4, "p").await;
    publisher.send("30 80 01 0001").await;
    let mut other = rig.connected(4, "o").await;
    other.expect_quiet().await;
    half.send("5454 04 02 003C 0001 61").await;
    half.expect_connack(4, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_connects_and_says_nothing_is_bounded_and_others_come_through() {
    let rig = Rig::new().await;
    let mut crowd = Vec::new();
    for _ in 0..600 {
        crowd.push(rig.client().await);
    }
    rig.connected(5, "c").await.expect_quiet().await;
    crowd[0].expect_closed().await;
    assert!(rig.metric("tidegate_broker_refused_total", "pending-full") >= 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_disconnected_after_one_and_a_half_keep_alives() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send_bytes(&connect(5, "c", 2, 1, &[])).await;
    client.expect_connack(5, false).await;
    let start = std::time::Instant::now();
    client.expect("E0 01 8D").await;
    client.expect_closed().await;
    assert!(start.elapsed() >= Duration::from_millis(1400), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mqtt_5_client_that_exceeds_receive_maximum_is_disconnected() {
    let rig = Rig::with(Options { max_inflight: 2, ..Options::default() }).await;
    let mut client = rig.connected(5, "c").await;
    // QoS 2 counts until PUBCOMP.
    for packet_id in 1..=2 {
        client.send_bytes(&publish(5, 4, "s/a", packet_id, b"x")).await;
        client.expect_bytes(&[0x50, 2, 0, u8::try_from(packet_id).unwrap()]).await;
    }
    client.send_bytes(&publish(5, 2, "s/a", 3, b"x")).await;
    client.expect("E0 01 93").await;
    client.expect_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_3_1_1_client_that_sends_more_than_max_inflight_is_only_slowed_down() {
    let rig = Rig::with(Options { max_inflight: 2, ..Options::default() }).await;
    let mut client = rig.connected(4, "c").await;
    let burst: Vec<u8> = (1..=500).flat_map(|id| publish(4, 2, "s/a", id, b"x")).collect();
    client.send_bytes(&burst).await;
    for id in 1..=500u16 {
        let [high, low] = id.to_be_bytes();
        client.expect_bytes(&[0x40, 2, high, low]).await;
    }
    assert_eq!(rig.backlog(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_acknowledges_what_arrived_and_says_why() {
    let rig = Rig::new().await;
    let mut client = rig.connected(5, "c").await;
    client.send_bytes(&publish(5, 2, "s/a", 1, b"x")).await;
    client.expect("40 02 0001").await;
    assert_eq!(rig.broker.drain(DEADLINE).await, 0);
    client.expect("E0 01 8B").await;
    client.expect_closed().await;
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err());
}
