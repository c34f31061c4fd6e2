//! What one client may do, and that its neighbours do not notice.

use std::time::{Duration, Instant};

use super::rig::*;

const REFUSED: &str = "tidegate_broker_refused_total";

/// A well-behaved client gets its answers at once, whatever others do.
async fn undisturbed(rig: &Rig, client: &mut Client, packet_id: u16) {
    let start = Instant::now();
    client.send_bytes(&publish(4, 2, "s/neighbour", packet_id, b"x")).await;
    let [high, low] = packet_id.to_be_bytes();
    client.expect_bytes(&[0x40, 2, high, low]).await;
    client.expect_quiet().await;
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    assert!(rig.backlog() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_too_fast_waits_and_loses_nothing_and_its_pings_are_answered() {
    let rig = Rig::with(Options { tune: |listener| listener.max_publish_rate = 100, ..Options::default() }).await;
    let mut neighbour = rig.connected(4, "neighbour").await;
    for version in [4, 5] {
        let before = (rig.metric(REFUSED, "publish-rate"), rig.backlog());
        let mut client = rig.connected(version, "c").await;
        let start = Instant::now();
        let mut burst: Vec<u8> = (1..=150).flat_map(|id| publish(version, 2, "s/a", id, b"x")).collect();
        burst.extend(unhex("C0 00"));
        burst.extend((151..=250).flat_map(|id| publish(version, 2, "s/a", id, b"x")));
        client.send_bytes(&burst).await;
        let mut answers = Vec::new();
        while answers.len() < 251 {
            let packet = client.packet().await;
            if packet == [0xD0, 0] {
                assert!(start.elapsed() < Duration::from_millis(700), "the ping came late: {:?}", start.elapsed());
                undisturbed(&rig, &mut neighbour, 1).await;
            }
            answers.push(packet);
        }
        // A full bucket has a hundred.
        assert!(start.elapsed() >= Duration::from_millis(1400), "{:?}", start.elapsed());
        let ping = answers.iter().position(|packet| *packet == [0xD0, 0]).unwrap();
        assert!(ping < 150, "answered as number {ping}");
        answers.remove(ping);
        let expected: Vec<Vec<u8>> = (1..=250u16).map(|id| [&[0x40, 2][..], &id.to_be_bytes()].concat()).collect();
        assert_eq!(answers, expected);
        assert_eq!(rig.backlog() - before.1, 251);
        let waits = rig.metric(REFUSED, "publish-rate") - before.0;
        assert!((1..=40).contains(&waits), "{waits} waits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_and_2_above_the_rate_arrive_whole_and_in_order_too() {
    let rig = Rig::with(Options { tune: |listener| listener.max_publish_rate = 200, ..Options::default() }).await;
    let mut subscriber = rig.connected(4, "sub").await;
    subscriber.subscribe(4, "s/#", 0).await;
    let mut client = rig.connected(5, "c").await;
    let flags = |number: u16| if number.is_multiple_of(2) { 4 } else { 0 };
    let burst: Vec<u8> =
        (1..=300).flat_map(|number| publish(5, flags(number), "s/a", number, &number.to_be_bytes())).collect();
    client.send_bytes(&burst).await;
    for number in 1..=300u16 {
        subscriber.expect_bytes(&publish(4, 0, "s/a", 0, &number.to_be_bytes())).await;
    }
    for number in (2..=300u16).step_by(2) {
        client.expect_bytes(&[&[0x50, 2][..], &number.to_be_bytes()].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_within_its_rate_is_not_held_up() {
    let rig = Rig::with(Options { tune: |listener| listener.max_publish_rate = 50, ..Options::default() }).await;
    let mut client = rig.connected(4, "c").await;
    let start = Instant::now();
    for packet_id in 1..=50 {
        undisturbed(&rig, &mut client, packet_id).await;
    }
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(rig.metric(REFUSED, "publish-rate"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_has_a_limit_of_its_own() {
    let rig = Rig::with(Options { max_packet: 1 << 20, ..Options::default() }).await;
    let mut neighbour = rig.connected(4, "neighbour").await;
    let password = "x".repeat(65_535);
    for (version, answer) in [(4, ""), (5, "20 03 00 95 00")] {
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', version, 0xC6, 0, 0];
        if version == 5 {
            body.extend([0, 0, 1, b'c', 0]);
        } else {
            body.extend([0, 1, b'c']);
        }
        // Will topic, will payload, user name, password.
        for part in ["will", &password, "user", &password] {
            text(&mut body, part);
        }
        let mut client = rig.client().await;
        client.send_bytes(&packet(0x10, &body)[..1000]).await;
        if !answer.is_empty() {
            client.expect(answer).await;
        }
        client.expect_closed().await;
    }
    assert_eq!(rig.metric(REFUSED, "packet-too-large"), 2);
    undisturbed(&rig, &mut neighbour, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_that_never_end_do_not_fill_the_memory() {
    let rig = Rig::with(Options { max_packet: 1 << 20, ..Options::default() }).await;
    let mut neighbour = rig.connected(4, "neighbour").await;
    // A hundred connections with 120 KiB of a CONNECT each are more than all of them may have together.
    let mut head = packet(0x10, &vec![0; 125_000]);
    head.truncate(120 << 10);
    head[4..14].copy_from_slice(b"\0\x04MQTT\x05\x02\0\0");
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut client = rig.client().await;
        client.send_bytes(&head).await;
        crowd.push(client);
    }
    until("some were sent away", || rig.metric(REFUSED, "pending-full") >= 20).await;
    crowd[0].expect_closed().await;
    undisturbed(&rig, &mut neighbour, 1).await;
    rig.connected(5, "new").await.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_counted_in_messages_packets_and_bytes() {
    let rig = Rig::new().await;
    let metric = |name: &str| rig.metric(&format!("tidegate_broker_{name}_total"), "");
    let mut client = rig.connected(4, "c").await;
    client.subscribe(4, "a", 1).await;
    client.send_bytes(&publish(4, 2, "a", 1, b"12345")).await;
    // PUBACK and the message itself, in either order.
    let both = [client.packet().await, client.packet().await];
    client.send("40 02 0001").await;
    client.expect_quiet().await;
    assert_eq!(metric("received_payload_bytes"), 5);
    assert_eq!(metric("sent_payload_bytes"), 5);
    // CONNECT, SUBSCRIBE, PUBLISH, PUBACK, PINGREQ; CONNACK, SUBACK, PUBACK, PUBLISH, PINGRESP.
    assert_eq!((metric("received_packets"), metric("sent_packets")), (5, 5));
    let sent: usize = 4 + 5 + both.iter().map(Vec::len).sum::<usize>() + 2;
    assert_eq!(metric("sent_bytes"), sent as u64);
    assert_eq!(metric("received_bytes"), 15 + 8 + 12 + 4 + 2);
    assert_eq!((metric("sockets"), metric("connects")), (1, 1));
    assert_eq!(rig.metric("tidegate_broker_received_total", "1"), 1);
    assert_eq!(rig.metric("tidegate_broker_sent_total", "1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_subscriptions_and_those_it_has_can_be_changed() {
    let rig = Rig::with(Options { tune: |listener| listener.max_subscriptions = 2, ..Options::default() }).await;
    let mut neighbour = rig.connected(4, "neighbour").await;
    for (version, refused) in [(4, 0x80), (5, 0x97)] {
        let mut client = rig.connected(version, "c").await;
        client.subscribe(version, "a", 0).await;
        client.subscribe(version, "b", 0).await;
        client.send_bytes(&subscribe(version, 1, "c", 0)).await;
        assert_eq!(client.packet().await.last(), Some(&refused));
        client.subscribe(version, "b", 1).await;
        undisturbed(&rig, &mut neighbour, 1).await;
        neighbour.subscribe(4, "c", 0).await;
        client.send(if version == 4 { "A2 05 0002 0001 61" } else { "A2 06 0002 00 0001 61" }).await;
        assert_eq!(client.packet().await[0], 0xB0);
        client.subscribe(version, "c", 0).await;
    }
    assert_eq!(rig.metric(REFUSED, "subscribe"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_connections_in_flight_and_packets_are_counted_by_their_names() {
    let options = Options { max_connections: 2, max_inflight: 1, max_packet: 2000, ..Options::default() };
    let rig = Rig::with(options).await;
    let mut neighbour = rig.connected(4, "neighbour").await;
    // QoS 2 is in flight until PUBREL.
    let mut client = rig.connected(5, "c").await;
    client.send_bytes(&[publish(5, 4, "s/a", 1, b"x"), publish(5, 4, "s/a", 2, b"x")].concat()).await;
    client.expect("50 02 0001").await;
    client.expect("E0 01 93").await;
    client.expect_closed().await;
    assert_eq!(rig.metric(REFUSED, "receive-maximum"), 1);
    undisturbed(&rig, &mut neighbour, 1).await;
    for (version, answer) in [(4, ""), (5, "E0 01 95")] {
        until("there is a place", || rig.broker.listeners()[0].connections == 1).await;
        let mut client = rig.connected(version, "c").await;
        client.send_bytes(&publish(version, 0, "s/a", 0, &[0; 2000])).await;
        if !answer.is_empty() {
            client.expect(answer).await;
        }
        client.expect_closed().await;
    }
    assert_eq!(rig.metric(REFUSED, "packet-too-large"), 2);
    undisturbed(&rig, &mut neighbour, 2).await;
    until("there is a place", || rig.broker.listeners()[0].connections == 1).await;
    let _second = rig.connected(5, "second").await;
    for (version, answer) in [(4, "20 02 00 03"), (5, "20 03 00 97 00")] {
        let mut third = rig.client().await;
        third.send_bytes(&connect(version, "third", 2, 0, &[])).await;
        third.expect(answer).await;
        third.expect_closed().await;
    }
    assert_eq!(rig.metric(REFUSED, "connections-full"), 2);
    undisturbed(&rig, &mut neighbour, 3).await;
}
