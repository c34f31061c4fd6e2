//! Acknowledged means stored: publishes in, acknowledgements out, refusals.

use super::rig::*;
use tidegate::store::{Fate, Run, StreamId};

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_come_in_the_order_of_the_publishes() {
    let rig = Rig::new().await;
    for version in [4, 5] {
        let mut client = rig.connected(version, "c").await;
        // Stored, local only, stored and QoS 2, retained: different ways, one order.
        let mut burst = publish(version, 2, "s/a", 1, b"x");
        burst.extend(publish(version, 2, "local", 2, b"x"));
        burst.extend(publish(version, 4, "s/b", 3, b"x"));
        burst.extend(publish(version, 0, "s/b", 0, b"x"));
        burst.extend(publish(version, 3, "local", 4, b"x"));
        burst.extend(publish(version, 4, "local", 5, b"x"));
        client.send_bytes(&burst).await;
        for answer in ["40 02 0001", "40 02 0002", "50 02 0003", "40 02 0004", "50 02 0005"] {
            client.expect(answer).await;
        }
        client.send("62 02 0003 62 02 0005").await;
        client.expect("70 02 0003").await;
        client.expect("70 02 0005").await;
    }
    assert_eq!(rig.backlog(), 6);
    assert_eq!(rig.metric("tidegate_broker_received_total", "1"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_end_is_stored() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let mut all = connect(4, "c", 2, 0, &[]);
    for _ in 0..100 {
        all.extend(publish(4, 0, "s/a", 0, b"x"));
    }
    all.extend(unhex("E0 00"));
    client.send_bytes(&all).await;
    drop(client);
    until("all are stored", || rig.backlog() == 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_is_exactly_once_across_reconnect_and_restart() {
    for version in [4, 5] {
        let expiry = unhex("11 FFFFFFFF");
        let again = connect(version, "c", 0, 0, &expiry);
        let mut rig = Rig::new().await;
        let mut client = rig.client().await;
        client.send_bytes(&again).await;
        client.expect_connack(version, false).await;
        client.send_bytes(&publish(version, 4, "s/a", 7, b"x")).await;
        client.expect("50 02 0007").await;
        drop(client);
        for restart in [false, true] {
            if restart {
                rig = rig.restart().await;
            }
            let mut client = rig.client().await;
            client.send_bytes(&again).await;
            client.expect_connack(version, true).await;
            client.send_bytes(&publish(version, 12, "s/a", 7, b"x")).await;
            client.expect("50 02 0007").await;
            client.expect_quiet().await;
        }
        let mut client = rig.client().await;
        client.send_bytes(&again).await;
        client.expect_connack(version, true).await;
        client.send("62 02 0007").await;
        client.expect("70 02 0007").await;
        client.send("62 02 0007").await;
        client.expect(if version == 5 { "70 03 0007 92" } else { "70 02 0007" }).await;
        assert_eq!(rig.backlog(), 1);
        // Released: the id may carry a new message.
        client.send_bytes(&publish(version, 4, "s/a", 7, b"y")).await;
        client.expect("50 02 0007").await;
        assert_eq!(rig.backlog(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_of_a_session_that_ends_with_its_connection_is_remembered_as_long() {
    let rig = Rig::new().await;
    let mut client = rig.connected(5, "c").await;
    for flags in [4, 12, 12] {
        client.send_bytes(&publish(5, flags, "s/a", 7, b"x")).await;
        client.expect("50 02 0007").await;
    }
    assert_eq!(rig.backlog(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_id_released_by_a_resumed_session_stays_released_after_a_crash() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send_bytes(&connect(5, "c", 0, 0, &unhex("11 FFFFFFFF"))).await;
    client.expect_connack(5, false).await;
    client.send_bytes(&publish(5, 4, "s/a", 7, b"x")).await;
    client.expect("50 02 0007").await;
    // Resumed, and to end with this connection.
    let mut client = rig.client().await;
    client.send_bytes(&connect(5, "c", 0, 0, &[])).await;
    client.expect_connack(5, true).await;
    client.send("62 02 0007").await;
    client.expect("70 02 0007").await;
    let after = rig.after_a_crash().await;
    let mut client = after.client().await;
    client.send_bytes(&connect(5, "c", 0, 0, &[])).await;
    client.expect_connack(5, false).await;
    client.send_bytes(&publish(5, 4, "s/a", 7, b"y")).await;
    client.expect("50 02 0007").await;
    assert_eq!(after.backlog(), 2, "acknowledged and not stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_mqtt_5_with_quota_exceeded() {
    let rig = Rig::with(Options { max_messages: Some(2), ..Options::default() }).await;
    let mut subscriber = rig.connected(5, "sub").await;
    subscriber.subscribe(5, "s/#", 0).await;
    let mut client = rig.connected(5, "c").await;
    let burst: Vec<u8> = (1..=3).flat_map(|id| publish(5, 2, "s/a", id, b"x")).collect();
    client.send_bytes(&burst).await;
    for answer in ["40 02 0001", "40 02 0002", "40 03 0003 97"] {
        client.expect(answer).await;
    }
    for _ in 0..2 {
        client.send_bytes(&publish(5, 4, "s/a", 9, b"x")).await;
        client.expect("50 03 0009 97").await;
    }
    client.send_bytes(&publish(5, 2, "elsewhere", 4, b"x")).await;
    client.expect("40 02 0004").await;
    for _ in 0..2 {
        subscriber.expect_bytes(&publish(5, 0, "s/a", 0, b"x")).await;
    }
    subscriber.expect_quiet().await;
    assert_eq!(rig.metric("tidegate_broker_refused_total", "stream-full"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_holds_a_3_1_1_client_until_there_is_room() {
    let rig = Rig::with(Options { max_messages: Some(2), ..Options::default() }).await;
    let mut client = rig.connected(4, "c").await;
    let burst: Vec<u8> = (1..=4).flat_map(|id| publish(4, 2, "s/a", id, b"x")).collect();
    client.send_bytes(&burst).await;
    client.expect("40 02 0001").await;
    client.expect("40 02 0002").await;
    // Others are not held.
    rig.connected(4, "o").await.expect_quiet().await;
    for seq in 1..=2 {
        let fate = Fate::Forwarded;
        rig.handle.settle(StreamId(0), vec![Run { first: seq, last: seq, fate }]).await.unwrap();
    }
    client.expect("40 02 0003").await;
    client.expect("40 02 0004").await;
    client.expect_quiet().await;
    assert_eq!(rig.handle.streams()[0].accepted, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_client_that_goes_leaves_nothing_behind() {
    let rig = Rig::with(Options { max_messages: Some(1), ..Options::default() }).await;
    let mut client = rig.connected(4, "c").await;
    let burst: Vec<u8> = (1..=4).flat_map(|id| publish(4, 2, "s/a", id, b"x")).collect();
    client.send_bytes(&burst).await;
    client.expect("40 02 0001").await;
    drop(client);
    until("the connection has ended", || rig.broker.listeners()[0].connections == 0).await;
    rig.handle.settle(StreamId(0), vec![Run { first: 1, last: 1, fate: Fate::Forwarded }]).await.unwrap();
    let mut other = rig.connected(4, "o").await;
    other.send_bytes(&publish(4, 2, "s/a", 1, b"y")).await;
    other.expect("40 02 0001").await;
    assert_eq!(rig.handle.streams()[0].accepted, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_not_what_it_says_is_refused_alone() {
    let rig = Rig::new().await;
    let mut client = rig.connected(5, "c").await;
    client.send("32 0B 0003 732F61 0001 02 0101 FF").await;
    client.expect("40 03 0001 99").await;
    client.send("32 0B 0003 732F61 0001 02 0101 41").await;
    client.expect("40 02 0001").await;
    assert_eq!(rig.backlog(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_3_1_1_client_may_send_again_before_it_is_answered() {
    let rig = Rig::new().await;
    let mut client = rig.connected(4, "c").await;
    // In one write: the second is there before the store has decided on the first.
    let mut burst = publish(4, 4, "s/a", 7, b"x");
    burst.extend(publish(4, 12, "s/a", 7, b"x"));
    burst.extend(publish(4, 2, "s/a", 8, b"y"));
    client.send_bytes(&burst).await;
    for answer in ["50 02 0007", "50 02 0007", "40 02 0008"] {
        client.expect(answer).await;
    }
    client.send("62 02 0007").await;
    client.expect("70 02 0007").await;
    client.expect_quiet().await;
    assert_eq!(rig.backlog(), 2);
}
