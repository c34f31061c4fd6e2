//! Shared subscriptions (MQTT 5, section 4.8.2).

use super::rig::*;

async fn send(publisher: &mut Client, qos: u8, payload: &[u8]) {
    publisher.send_bytes(&publish(4, qos << 1, "t/a", 1, payload)).await;
    if qos > 0 {
        publisher.packet().await;
    }
    if qos == 2 {
        publisher.send("62 02 0001").await;
        publisher.packet().await;
    }
}

fn payload(packet: &[u8]) -> u8 {
    *packet.last().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_goes_to_one_member_in_turn_and_to_everybody_else_besides() {
    let rig = Rig::new().await;
    let mut members = Vec::new();
    for (index, version) in [4, 5, 5].into_iter().enumerate() {
        let mut member = rig.connected(version, &format!("m{index}")).await;
        member.subscribe(version, "$share/g/t/+", 0).await;
        members.push(member);
    }
    let mut other = rig.connected(5, "other group").await;
    other.subscribe(5, "$share/h/t/#", 0).await;
    let mut plain = rig.connected(5, "plain").await;
    plain.subscribe(5, "t/a", 0).await;
    let mut publisher = rig.connected(4, "pub").await;
    for number in 0..6 {
        send(&mut publisher, 0, &[number]).await;
    }
    for number in 0..6u8 {
        assert_eq!(payload(&members[usize::from(number % 3)].packet().await), number);
        assert_eq!(payload(&other.packet().await), number);
        assert_eq!(payload(&plain.packet().await), number);
    }
    // Unsubscribed: the others share.
    members[0].send_bytes(&packet(0xA2, &[&[0, 1, 0, 12], &b"$share/g/t/+"[..]].concat())).await;
    members[0].expect("B0 02 0001").await;
    for number in 0..4 {
        send(&mut publisher, 0, &[number]).await;
    }
    let mut found = Vec::new();
    for member in [1, 2, 1, 2] {
        found.push(payload(&members[member].packet().await));
    }
    found.sort_unstable();
    assert_eq!(found, [0, 1, 2, 3]);
    members[0].expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shared_subscription_must_not_be() {
    let rig = Rig::new().await;
    let mut publisher = rig.connected(4, "pub").await;
    publisher.send_bytes(&publish(4, 3, "t/a", 1, b"kept")).await;
    publisher.packet().await;
    let mut client = rig.connected(5, "c").await;
    for wrong in ["$share/g", "$share//t", "$share/+/t", "$share/g/", "$share/g/t#"] {
        client.send_bytes(&subscribe(5, 3, wrong, 0)).await;
        client.expect("90 04 0003 00 8F").await;
    }
    // No retained messages.
    client.subscribe(5, "$share/g/t/a", 0).await;
    client.expect_quiet().await;
    // No Local is a protocol error.
    client.send_bytes(&subscribe(5, 3, "$share/g/t/a", 4)).await;
    client.expect("E0 01 82").await;
    client.expect_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_there_is_preferred_and_one_that_is_away_keeps_what_nobody_takes() {
    let rig = Rig::new().await;
    let stay = connect(4, "stays", 0, 0, &[]);
    let mut away = rig.client().await;
    away.send_bytes(&stay).await;
    away.expect_connack(4, false).await;
    away.subscribe(4, "$share/g/t/a", 1).await;
    drop(away);
    until("the member is away", || rig.broker.listeners()[0].connections == 0).await;
    let mut publisher = rig.connected(4, "pub").await;
    let mut present = rig.connected(5, "present").await;
    present.subscribe(5, "$share/g/t/a", 1).await;
    for number in 0..4 {
        send(&mut publisher, 1, &[number]).await;
        assert_eq!(payload(&present.packet().await), number);
    }
    present.send("40 02 0001 40 02 0002 40 02 0003 40 02 0004 E0 00").await;
    present.expect_closed().await;
    until("nobody is there", || rig.broker.listeners()[0].connections == 1).await;
    for number in 4..6 {
        send(&mut publisher, 1, &[number]).await;
    }
    let rig = rig.after_a_crash().await;
    let mut away = rig.client().await;
    away.send_bytes(&stay).await;
    away.expect_connack(4, true).await;
    for number in 4..6 {
        assert_eq!(payload(&away.packet().await), number);
    }
    away.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_had_not_acknowledged_when_it_went_for_good_goes_to_another() {
    let rig = Rig::new().await;
    let mut publisher = rig.connected(4, "pub").await;
    let mut goes = rig.client().await;
    goes.send_bytes(&connect(5, "goes", 2, 0, &unhex("21 0002"))).await;
    goes.expect_connack(5, false).await;
    goes.subscribe(5, "$share/g/t/a", 2).await;
    // Sent: 0 with QoS 1 and 1 with QoS 2. Not sent: 2 and 3.
    for (number, qos) in [(0, 1), (1, 2), (2, 1), (3, 2)] {
        send(&mut publisher, qos, &[number]).await;
    }
    for number in 0..2 {
        assert_eq!(payload(&goes.packet().await), number);
    }
    let mut heir = rig.connected(5, "heir").await;
    heir.subscribe(5, "$share/g/t/a", 2).await;
    drop(goes);
    // The QoS 2 message that was sent must not go to anybody else.
    let mut found = Vec::new();
    for _ in 0..3 {
        found.push(payload(&heir.packet().await));
    }
    assert_eq!(found, [0, 2, 3]);
    heir.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_window_is_full_is_passed_over() {
    let rig = Rig::new().await;
    let mut publisher = rig.connected(4, "pub").await;
    let mut narrow = rig.client().await;
    narrow.send_bytes(&connect(5, "narrow", 2, 0, &unhex("21 0001"))).await;
    narrow.expect_connack(5, false).await;
    narrow.subscribe(5, "$share/g/t/a", 1).await;
    let mut wide = rig.connected(5, "wide").await;
    wide.subscribe(5, "$share/g/t/a", 1).await;
    for number in 0..20 {
        send(&mut publisher, 1, &[number]).await;
    }
    // One in flight and two that wait, at most.
    let mut found: Vec<u8> = Vec::new();
    for _ in 0..17 {
        found.push(payload(&wide.packet().await));
    }
    assert!(found.is_sorted(), "{found:?}");
}
