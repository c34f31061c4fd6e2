//! Sessions: takeover, what is resumed, what ends.

use super::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_takes_the_session_over() {
    let rig = Rig::new().await;
    let mut first = rig.connected(5, "c").await;
    let mut second = rig.connected(5, "c").await;
    first.expect("E0 01 8E").await;
    first.expect_closed().await;
    let mut third = rig.connected(4, "c").await;
    second.expect("E0 01 8E").await;
    third.expect_quiet().await;
    assert_eq!(rig.broker.listeners()[0].connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_present_exactly_when_they_are() {
    let mut rig = Rig::new().await;
    let forever = unhex("11 FFFFFFFF");
    // Flags (2 = clean), properties, session present.
    let table = [
        (0, &[][..], false),
        (0, &forever, false),
        (0, &forever, true),
        (2, &forever, false),
        (0, &[], true),
        (0, &[], false),
    ];
    for restart in [false, true] {
        for (flags, properties, present) in table {
            if restart {
                rig = rig.restart().await;
            }
            let mut client = rig.client().await;
            client.send_bytes(&connect(5, "c", flags, 0, properties)).await;
            client.expect_connack(5, present).await;
            client.send("E0 00").await;
            client.expect_closed().await;
            until("the session is put away", || rig.broker.listeners()[0].connections == 0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_of_a_session_survive_a_restart() {
    let rig = Rig::new().await;
    let stay = connect(4, "sub", 0, 0, &[]);
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(4, false).await;
    for filter in ["a/#", "b"] {
        subscriber.subscribe(4, filter, 1).await;
    }
    subscriber.send("A2 05 0002 0001 62").await;
    subscriber.expect("B0 02 0002").await;
    let rig = rig.restart().await;
    let mut publisher = rig.connected(4, "pub").await;
    for (id, topic) in [(1, "a/x"), (2, "b")] {
        publisher.send_bytes(&publish(4, 2, topic, id, b"x")).await;
        publisher.packet().await;
    }
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(4, true).await;
    subscriber.expect_bytes(&publish(4, 2, "a/x", 1, b"x")).await;
    subscriber.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_expire() {
    let rig = Rig::new().await;
    let short = connect(5, "c", 0, 0, &unhex("11 00000001"));
    let mut client = rig.client().await;
    client.send_bytes(&short).await;
    client.expect_connack(5, false).await;
    client.subscribe(5, "a", 1).await;
    client.send("E0 00").await;
    client.expect_closed().await;
    let handle = rig.handle.clone();
    let gone = async move { while !handle.sessions().await.unwrap().is_empty() {} };
    tokio::time::timeout(DEADLINE, gone).await.expect("the session expires");
    let mut client = rig.client().await;
    client.send_bytes(&short).await;
    client.expect_connack(5, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_an_absent_client_is_bounded() {
    let rig = Rig::new().await;
    let stay = connect(4, "sub", 0, 0, &[]);
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(4, false).await;
    subscriber.subscribe(4, "t", 1).await;
    drop(subscriber);
    until("the subscriber is away", || rig.broker.listeners()[0].connections == 0).await;
    let mut publisher = rig.connected(4, "pub").await;
    let burst: Vec<u8> = (1..=1200).flat_map(|id| publish(4, 2, "t", id, b"x")).collect();
    publisher.send_bytes(&burst).await;
    for _ in 0..1200 {
        publisher.packet().await;
    }
    assert_eq!(rig.metric("tidegate_broker_dropped_total", "queue-full"), 200);
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(4, true).await;
    for _ in 0..1000 {
        let found = subscriber.packet().await;
        subscriber.send_bytes(&[0x40, 2, found[5], found[6]]).await;
    }
    subscriber.expect_quiet().await;
}
