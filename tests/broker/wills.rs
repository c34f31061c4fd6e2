//! Wills that survive: a crash of the gateway, an ordered stop, a restart in the middle of the delay.

use super::rig::*;

/// A CONNECT with the will `gone` on the topic `t/will`, QoS 1; `expiry` and `delay` in seconds.
fn with_will(id: &str, clean: bool, expiry: u32, delay: u32) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([5, 0x0C | u8::from(clean) << 1, 0, 0, 5, 0x11]);
    body.extend(expiry.to_be_bytes());
    text(&mut body, id);
    body.extend([5, 0x18]);
    body.extend(delay.to_be_bytes());
    text(&mut body, "t/will");
    text(&mut body, "gone");
    packet(0x10, &body)
}

async fn connected(rig: &Rig, bytes: &[u8], present: bool) -> Client {
    let mut client = rig.client().await;
    client.send_bytes(bytes).await;
    client.expect_connack(5, present).await;
    client
}

/// Somebody who keeps what is published to `t/will`.
async fn keeper(rig: &Rig) {
    let mut keeper = rig.client().await;
    keeper.send_bytes(&connect(4, "keeper", 0, 0, &[])).await;
    keeper.expect_connack(4, false).await;
    keeper.subscribe(4, "t/will", 1).await;
    keeper.send("E0 00").await;
    keeper.expect_closed().await;
}

/// How many wills the keeper has got by now.
fn kept(rig: &Rig) -> u64 {
    rig.handle.queues().messages
}

async fn stored_wills(rig: &Rig) -> usize {
    rig.handle.sessions().await.unwrap().iter().filter(|session| session.record.will.is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_lasting_session_survives_a_crash_and_is_published_once() {
    let rig = Rig::new().await;
    keeper(&rig).await;
    let _client = connected(&rig, &with_will("w", false, u32::MAX, 0), false).await;
    assert_eq!(stored_wills(&rig).await, 1);
    let mut after = rig.after_a_crash().await;
    until("the will is published", || kept(&after) == 1).await;
    for _ in 0..2 {
        after = after.restart().await;
        assert_eq!((kept(&after), stored_wills(&after).await), (1, 0));
    }
    let mut keeper = after.client().await;
    keeper.send_bytes(&connect(4, "keeper", 0, 0, &[])).await;
    keeper.expect_connack(4, true).await;
    let found = keeper.packet().await;
    assert_eq!(found[2..], unhex("0006 742F77696C6C 0001 676F6E65"));
    keeper.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_that_is_taken_back_is_not_published_after_a_crash() {
    let rig = Rig::new().await;
    keeper(&rig).await;
    let mut client = connected(&rig, &with_will("w", false, u32::MAX, 0), false).await;
    client.send("E0 00").await;
    client.expect_closed().await;
    until("it is away", || rig.broker.listeners()[0].connections == 0).await;
    assert_eq!(stored_wills(&rig).await, 0);
    let mut client = connected(&rig, &with_will("w", false, u32::MAX, 0xFFFF), true).await;
    assert_eq!(stored_wills(&rig).await, 1);
    // A connection without a will replaces one with.
    drop(client);
    client = connected(&rig, &connect(5, "w", 0, 0, &unhex("11 FFFFFFFF")), true).await;
    assert_eq!(stored_wills(&rig).await, 0);
    client.expect_quiet().await;
    let after = rig.after_a_crash().await;
    connected(&after, &connect(5, "w", 0, 0, &unhex("11 FFFFFFFF")), true).await.expect_quiet().await;
    assert_eq!(kept(&after), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_stop_publishes_wills_without_delay_and_keeps_the_others() {
    let rig = Rig::new().await;
    keeper(&rig).await;
    let _brief = connected(&rig, &with_will("brief", true, 0, 0xFFFF), false).await;
    let _lasting = connected(&rig, &with_will("lasting", false, u32::MAX, 0), false).await;
    let _later = connected(&rig, &with_will("later", false, u32::MAX, 0xFFFF), false).await;
    let rig = rig.stop_and_start().await;
    assert_eq!((kept(&rig), stored_wills(&rig).await), (2, 1));
    let _later = connected(&rig, &with_will("later", true, u32::MAX, 0), false).await;
    until("the will of the ended session is published", || kept(&rig) == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_will_is_published_after_a_restart_in_the_middle() {
    let rig = Rig::new().await;
    keeper(&rig).await;
    drop(connected(&rig, &with_will("w", false, u32::MAX, 1), false).await);
    until("it is away", || rig.broker.listeners()[0].connections == 0).await;
    let rig = rig.restart().await;
    until("the will is published", || kept(&rig) == 1).await;
    let rig = rig.restart().await;
    assert_eq!((kept(&rig), stored_wills(&rig).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_expires_across_a_restart_and_is_forgotten() {
    let rig = Rig::new().await;
    let mut publisher = rig.connected(5, "pub").await;
    publisher.send("33 0C 0001 72 0001 05 0200000002 78").await;
    publisher.expect("40 02 0001").await;
    publisher.send("33 07 0001 73 0002 00 78").await;
    publisher.expect("40 02 0002").await;
    let rig = rig.restart().await;
    assert_eq!(rig.handle.retained().await.unwrap().len(), 2);
    let gone = async { while rig.handle.retained().await.unwrap().len() > 1 {} };
    tokio::time::timeout(DEADLINE, gone).await.expect("it expires");
    let mut subscriber = rig.connected(5, "sub").await;
    subscriber.subscribe(5, "+", 0).await;
    subscriber.expect_bytes(&publish(5, 1, "s", 0, b"x")).await;
    subscriber.expect_quiet().await;
}
