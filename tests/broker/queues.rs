//! Queues of sessions that outlive their connections: nothing acknowledged is lost, in order, whatever happens.

use super::rig::*;
use tidegate::store::WhenFull;

const DUP: u8 = 8;

/// A persistent session of this client, new or resumed; `maximum` = its Receive Maximum.
async fn persistent(rig: &Rig, version: u8, id: &str, present: bool, maximum: Option<u16>) -> Client {
    let mut properties = unhex("11 FFFFFFFF");
    if let Some(maximum) = maximum {
        properties.push(0x21);
        properties.extend(maximum.to_be_bytes());
    }
    let mut client = rig.client().await;
    client.send_bytes(&connect(version, id, 0, 0, &properties)).await;
    client.expect_connack(version, present).await;
    client
}

/// A persistent session that subscribed to `t/#` and whose client has gone.
async fn absent(rig: &Rig, version: u8, qos: u8) {
    let mut subscriber = persistent(rig, version, "sub", false, None).await;
    subscriber.subscribe(version, "t/#", qos).await;
    let others = rig.broker.listeners()[0].connections - 1;
    drop(subscriber);
    until("the subscriber is away", || rig.broker.listeners()[0].connections == others).await;
}

/// Publishes with QoS 1 and waits for every PUBACK.
async fn publish_all(rig: &Rig, payloads: impl Iterator<Item = Vec<u8>>) {
    let mut publisher = rig.connected(4, "pub").await;
    let payloads: Vec<Vec<u8>> = payloads.collect();
    for chunk in payloads.chunks(50) {
        let burst: Vec<u8> = (1..).zip(chunk).flat_map(|(id, payload)| publish(4, 2, "t/x", id, payload)).collect();
        publisher.send_bytes(&burst).await;
        for _ in chunk {
            assert_eq!(publisher.packet().await[0], 0x40);
        }
    }
}

fn number(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// The next PUBLISH without its DUP flag: first byte, packet id, payload.
async fn delivery(client: &mut Client, version: u8) -> (u8, u16, Vec<u8>) {
    let found = client.packet().await;
    assert_eq!(found[0] >> 4, 3, "{found:02X?}");
    let start = found[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 2;
    let topic = usize::from(u16::from_be_bytes([found[start], found[start + 1]]));
    let id = start + 2 + topic;
    let payload = id + 2 + usize::from(version == 5);
    (found[0] & !DUP, u16::from_be_bytes([found[id], found[id + 1]]), found[payload..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_waits_for_an_absent_client_across_a_crash() {
    for version in [4, 5] {
        let rig = Rig::new().await;
        absent(&rig, version, 1).await;
        publish_all(&rig, (1..=100).map(number)).await;
        let rig = rig.after_a_crash().await;
        let mut subscriber = persistent(&rig, version, "sub", true, None).await;
        for expected in 1..=100u16 {
            let found = delivery(&mut subscriber, version).await;
            assert_eq!(found, (0x32, expected, number(expected.into())));
        }
        subscriber.expect_quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_every_exchange_goes_on_where_it_was() {
    let rig = Rig::new().await;
    let mut subscriber = persistent(&rig, 4, "sub", false, None).await;
    subscriber.subscribe(4, "t", 2).await;
    let mut publisher = rig.connected(4, "pub").await;
    for (id, flags) in [(1, 2), (2, 4), (3, 4), (4, 2), (5, 4)] {
        publisher.send_bytes(&publish(4, flags, "t", id, &[u8::try_from(id).unwrap()])).await;
        publisher.packet().await;
        subscriber.expect_bytes(&publish(4, flags, "t", id, &[u8::try_from(id).unwrap()])).await;
    }
    // 2: PUBREC was answered. 5: finished. 4: acknowledged; the next synced commit has that, too.
    subscriber.send("40 02 0004 50 02 0005").await;
    subscriber.expect("62 02 0005").await;
    subscriber.send("70 02 0005 50 02 0002").await;
    subscriber.expect("62 02 0002").await;
    let rig = rig.after_a_crash().await;
    for _ in 0..2 {
        let mut subscriber = persistent(&rig, 4, "sub", true, None).await;
        subscriber.expect_bytes(&publish(4, 2 | DUP, "t", 1, &[1])).await;
        subscriber.expect("62 02 0002").await;
        subscriber.expect_bytes(&publish(4, 4 | DUP, "t", 3, &[3])).await;
        subscriber.expect_quiet().await;
    }
    let mut subscriber = persistent(&rig, 4, "sub", true, None).await;
    for _ in 0..3 {
        subscriber.packet().await;
    }
    subscriber.send("70 02 0002 50 02 0003 40 02 0001").await;
    subscriber.expect("62 02 0003").await;
    subscriber.send("70 02 0003").await;
    let mut publisher = rig.connected(4, "pub").await;
    publisher.send_bytes(&publish(4, 2, "t", 9, b"new")).await;
    publisher.packet().await;
    subscriber.expect_bytes(&publish(4, 2, "t", 6, b"new")).await;
    subscriber.send("40 02 0006").await;
    subscriber.expect_quiet().await;
    let rig = rig.restart().await;
    persistent(&rig, 4, "sub", true, None).await.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_nothing_and_marks_what_was_sent_before() {
    let mut rig = Rig::new().await;
    absent(&rig, 5, 1).await;
    publish_all(&rig, (1..=5).map(number)).await;
    let mut subscriber = persistent(&rig, 5, "sub", true, Some(2)).await;
    for expected in 1..=2u16 {
        subscriber.expect_bytes(&publish(5, 2, "t/x", expected, &number(expected.into()))).await;
    }
    subscriber.expect_quiet().await;
    subscriber.send("40 02 0002").await;
    subscriber.expect_bytes(&publish(5, 2, "t/x", 3, &number(3))).await;
    for _ in 0..2 {
        rig = rig.restart().await;
        let mut subscriber = persistent(&rig, 5, "sub", true, Some(3)).await;
        for (expected, dup) in [(1u16, DUP), (3, DUP)] {
            subscriber.expect_bytes(&publish(5, 2 | dup, "t/x", expected, &number(expected.into()))).await;
        }
        let found = subscriber.packet().await;
        assert_eq!(found[7..9], [0, 4], "{found:02X?}");
        subscriber.expect_quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_a_queue_far_beyond_all_memory_in_order() {
    const MESSAGES: u32 = 4000;
    let tune = |listener: &mut tidegate::broker::ListenerSettings| {
        (listener.max_queued_messages, listener.max_queued_bytes) = (0, 0);
    };
    let rig = Rig::with(Options { tune, ..Options::default() }).await;
    absent(&rig, 4, 1).await;
    // One that is connected, and does not read for now.
    let mut slow = persistent(&rig, 4, "slow", false, None).await;
    slow.subscribe(4, "t/x", 1).await;
    let payload = |index: u32| [number(index), vec![7; 4000]].concat();
    publish_all(&rig, (1..=MESSAGES).map(payload)).await;
    let late = persistent(&rig, 4, "sub", true, None).await;
    for mut client in [slow, late] {
        for expected in 1..=MESSAGES {
            let (first, id, found) = delivery(&mut client, 4).await;
            assert_eq!((first, found[..4].to_vec()), (0x32, number(expected)));
            client.send_bytes(&[[0x40, 2], id.to_be_bytes()].concat()).await;
        }
        client.expect_quiet().await;
    }
    assert_eq!(rig.metric("tidegate_broker_dropped_total", "queue-full"), 0);
    assert_eq!(rig.metric("tidegate_broker_dropped_total", "memory-full"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_does_what_its_policy_says() {
    for (when_full, expected) in [(WhenFull::DropNewest, [1, 2, 3]), (WhenFull::DropOldest, [4, 5, 6])] {
        let tune = match when_full {
            WhenFull::DropOldest => |listener: &mut tidegate::broker::ListenerSettings| {
                (listener.max_queued_messages, listener.queue_when_full) = (3, WhenFull::DropOldest);
            },
            WhenFull::DropNewest | WhenFull::Reject => |listener: &mut tidegate::broker::ListenerSettings| {
                (listener.max_queued_messages, listener.queue_when_full) = (3, WhenFull::DropNewest);
            },
        };
        let rig = Rig::with(Options { tune, ..Options::default() }).await;
        absent(&rig, 4, 1).await;
        publish_all(&rig, (1..=6).map(number)).await;
        let rig = rig.restart().await;
        let mut subscriber = persistent(&rig, 4, "sub", true, None).await;
        for expected in expected {
            assert_eq!(delivery(&mut subscriber, 4).await.2, number(expected));
        }
        subscriber.expect_quiet().await;
        let books = rig.handle.queues();
        assert_eq!((books.dropped_total(), books.messages), (3, 3), "{books:?}");
        assert!(books.balances(), "{books:?}");
    }
}

fn reject(listener: &mut tidegate::broker::ListenerSettings) {
    (listener.max_queued_messages, listener.queue_when_full) = (2, WhenFull::Reject);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_rejects_refuses_mqtt_5_and_holds_3_1_1_until_there_is_room() {
    let rig = Rig::with(Options { tune: reject, ..Options::default() }).await;
    absent(&rig, 4, 1).await;
    let mut modern = rig.connected(5, "modern").await;
    for (id, answer) in [(1, "40 02 0001"), (2, "40 02 0002"), (3, "40 03 0003 97")] {
        modern.send_bytes(&publish(5, 2, "t/x", id, &[u8::try_from(id).unwrap()])).await;
        modern.expect(answer).await;
    }
    let mut old = rig.connected(4, "old").await;
    old.send_bytes(&publish(4, 2, "t/x", 7, &[4])).await;
    let mut subscriber = persistent(&rig, 4, "sub", true, None).await;
    for expected in [1, 2] {
        let (_, id, payload) = delivery(&mut subscriber, 4).await;
        assert_eq!(payload, [expected]);
        subscriber.send_bytes(&[[0x40, 2], id.to_be_bytes()].concat()).await;
    }
    old.expect("40 02 0007").await;
    assert_eq!(delivery(&mut subscriber, 4).await.2, [4]);
    assert!(rig.metric("tidegate_broker_refused_total", "queue-full") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_fills_its_own_queue_can_still_empty_it() {
    let rig = Rig::with(Options { tune: reject, ..Options::default() }).await;
    let mut client = persistent(&rig, 4, "sub", false, None).await;
    client.subscribe(4, "t/#", 1).await;
    let burst: Vec<u8> = (1..=5).flat_map(|id| publish(4, 2, "t/x", id, &[u8::try_from(id).unwrap()])).collect();
    client.send_bytes(&burst).await;
    let (mut acknowledged, mut delivered) = (Vec::new(), Vec::new());
    while acknowledged.len() < 5 || delivered.len() < 5 {
        let found = client.packet().await;
        if found[0] == 0x40 {
            acknowledged.push(found[3]);
        } else {
            delivered.push(*found.last().unwrap());
            client.send_bytes(&[0x40, 2, found[7], found[8]]).await;
        }
    }
    assert_eq!((acknowledged, delivered), (vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_for_a_new_subscription_are_in_the_queue_of_the_session() {
    let rig = Rig::new().await;
    let mut publisher = rig.connected(4, "pub").await;
    for id in 1..=200u16 {
        publisher.send_bytes(&publish(4, 3, &format!("t/{id:03}"), id, &id.to_be_bytes())).await;
        publisher.packet().await;
    }
    let mut subscriber = persistent(&rig, 4, "sub", false, None).await;
    subscriber.subscribe(4, "t/#", 1).await;
    for expected in 1..=200u16 {
        let (first, id, payload) = delivery(&mut subscriber, 4).await;
        assert_eq!((first, id, payload), (0x33, expected, expected.to_be_bytes().to_vec()));
        if expected < 199 {
            subscriber.send_bytes(&[[0x40, 2], id.to_be_bytes()].concat()).await;
        }
    }
    subscriber.expect_quiet().await;
    let rig = rig.stop_and_start().await;
    let mut subscriber = persistent(&rig, 4, "sub", true, None).await;
    for expected in 199..=200u16 {
        let again = publish(4, 3 | DUP, &format!("t/{expected}"), expected, &expected.to_be_bytes());
        subscriber.expect_bytes(&again).await;
    }
    subscriber.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_come_back_with_all_their_options() {
    let rig = Rig::new().await;
    let mut client = persistent(&rig, 5, "sub", false, None).await;
    // Identifier 5, QoS 1, No Local, Retain As Published.
    client.send("82 0B 0001 02 0B05 0003 742F61 2D").await;
    client.expect("90 04 0001 00 01").await;
    let rig = rig.after_a_crash().await;
    let mut publisher = rig.connected(5, "pub").await;
    publisher.send_bytes(&publish(5, 3, "t/a", 1, b"x")).await;
    publisher.expect("40 02 0001").await;
    let rig = rig.after_a_crash().await;
    let mut client = persistent(&rig, 5, "sub", true, None).await;
    let found = client.packet().await;
    assert_eq!((found[0] & !DUP, &found[1..]), (0x33, &unhex("0B 0003 742F61 0001 02 0B05 78")[..]));
    client.send("40 02 0001").await;
    client.send_bytes(&publish(5, 2, "t/a", 1, b"own")).await;
    client.expect("40 02 0001").await;
    client.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_leaves_no_queue_behind() {
    let rig = Rig::new().await;
    absent(&rig, 4, 1).await;
    publish_all(&rig, (1..=10).map(number)).await;
    assert_eq!(rig.handle.queues().messages, 10);
    let mut clean = rig.connected(4, "sub").await;
    clean.expect_quiet().await;
    until("the queue is gone", || rig.handle.queues().messages == 0).await;
    publish_all(&rig, (1..=10).map(number)).await;
    let books = rig.handle.queues();
    assert_eq!((books.queued, books.purged), (10, 10), "{books:?}");
}
