//! What the gateway says of itself below `$SYS`.

use std::collections::BTreeMap;

use super::rig::*;

/// Topics, payloads and first bytes of the PUBLISHes (QoS 0, MQTT 3.1.1) that come until the gateway answers a ping.
async fn values(client: &mut Client) -> BTreeMap<String, (String, u8)> {
    client.send("C0 00").await;
    let mut values = BTreeMap::new();
    loop {
        let packet = client.packet().await;
        if packet == [0xD0, 0] {
            return values;
        }
        let start = packet.len()
            - usize::from(packet[1] & 0x7F)
            - if packet[1] & 0x80 == 0 { 0 } else { 128 * usize::from(packet[2]) };
        let body = &packet[start..];
        let (topic, payload) = body[2..].split_at(usize::from(body[1]));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        values.insert(text(topic), (text(payload), packet[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscriber_gets_all_values_at_once_retained_at_qos_0() {
    let rig = Rig::new().await;
    rig.broker.tell_sys(Box::new(|| vec![("tidegate/more".to_owned(), "from elsewhere".to_owned())]));
    let mut busy = rig.connected(4, "busy").await;
    busy.send_bytes(&publish(4, 3, "s/a", 1, b"12345")).await;
    busy.expect("40 02 0001").await;
    let mut client = rig.connected(4, "c").await;
    client.subscribe(4, "$SYS/#", 2).await;
    let values = values(&mut client).await;
    for (name, value) in [
        ("broker/clients/connected", "2"),
        ("broker/clients/total", "2"),
        ("broker/clients/maximum", "2"),
        ("broker/clients/disconnected", "0"),
        // Two CONNECTs and a PUBLISH; what the SUBSCRIBE was read with is counted after it.
        ("broker/messages/received", "3"),
        ("broker/publish/messages/received", "1"),
        ("broker/publish/bytes/received", "5"),
        ("broker/retained messages/count", "1"),
        ("broker/subscriptions/count", "1"),
        ("tidegate/refused/malformed", "0"),
        ("tidegate/more", "from elsewhere"),
    ] {
        assert_eq!(values.get(&format!("$SYS/{name}")), Some(&(value.to_owned(), 0x31)), "{name}");
    }
    assert!(values["$SYS/broker/version"].0.starts_with("tidegate version "));
    assert!(values["$SYS/broker/uptime"].0.ends_with(" seconds"));
    assert!(values.len() > 80, "{}", values.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_it_can_be_had_and_wildcards_at_the_first_level_do_not_match_it() {
    let rig = Rig::new().await;
    let mut client = rig.connected(4, "c").await;
    client.subscribe(4, "$SYS/broker/clients/+", 0).await;
    let got = values(&mut client).await;
    assert!(got.len() == 7 && got.keys().all(|topic| topic.starts_with("$SYS/broker/clients/")), "{got:?}");
    for filter in ["#", "+/broker/version", "+/#"] {
        client.subscribe(4, filter, 0).await;
        assert_eq!(values(&mut client).await, BTreeMap::new(), "{filter}");
    }
}

/// The next packet is the uptime; gives its first byte.
async fn uptime(client: &mut Client) -> u8 {
    let packet = client.packet().await;
    assert_eq!(packet[4..22], b"$SYS/broker/uptime"[..]);
    packet[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_change_are_sent_again_and_nothing_waits_for_a_client_that_is_away() {
    let rig = Rig::new().await;
    let mut away = rig.client().await;
    away.send_bytes(&connect(4, "away", 0, 0, &[])).await;
    away.expect_connack(4, false).await;
    away.subscribe(4, "$SYS/broker/uptime", 2).await;
    assert_eq!(uptime(&mut away).await, 0x31);
    drop(away);
    until("it is away", || rig.broker.listeners()[0].connections == 0).await;
    let mut client = rig.connected(4, "c").await;
    client.subscribe(4, "$SYS/broker/uptime", 1).await;
    assert_eq!(uptime(&mut client).await, 0x31);
    // The next interval; not retained now.
    assert_eq!(uptime(&mut client).await, 0x30);
    assert_eq!(rig.metric("tidegate_broker_dropped_total", "away"), 0);
    let mut away = rig.client().await;
    away.send_bytes(&connect(4, "away", 0, 0, &[])).await;
    away.expect_connack(4, true).await;
    away.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_publish_there_and_no_stream_takes_it() {
    let rig = Rig::with(Options { from: "$SYS/#", ..Options::default() }).await;
    let mut watcher = rig.connected(4, "w").await;
    watcher.subscribe(4, "$SYS/mine", 0).await;
    let mut old = rig.connected(4, "old").await;
    old.send_bytes(&publish(4, 3, "$SYS/mine", 1, b"x")).await;
    old.expect("40 02 0001").await;
    old.send_bytes(&publish(4, 4, "$SYS/mine", 2, b"x")).await;
    old.expect("50 02 0002").await;
    old.send("62 02 0002").await;
    old.expect("70 02 0002").await;
    old.send_bytes(&publish(4, 0, "$SYS/mine", 0, b"x")).await;
    old.expect_quiet().await;
    let mut new = rig.connected(5, "new").await;
    new.send_bytes(&publish(5, 2, "$SYS/mine", 1, b"x")).await;
    new.expect("40 03 0001 87").await;
    new.send_bytes(&publish(5, 4, "$SYS/mine", 2, b"x")).await;
    new.expect("50 03 0002 87").await;
    new.expect_quiet().await;
    assert_eq!(rig.metric("tidegate_broker_refused_total", "sys-topic"), 5);
    // Neither a subscriber nor a stream has seen it, nor is it retained.
    watcher.expect_quiet().await;
    watcher.subscribe(4, "$SYS/mine", 0).await;
    watcher.expect_quiet().await;
    assert_eq!(rig.backlog(), 0);
    // Other topics that begin with a dollar are free.
    watcher.subscribe(4, "$other/a", 0).await;
    old.send_bytes(&publish(4, 2, "$other/a", 3, b"x")).await;
    old.expect("40 02 0003").await;
    watcher.expect_bytes(&publish(4, 0, "$other/a", 0, b"x")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_cannot_go_there_either() {
    let rig = Rig::new().await;
    let mut watcher = rig.connected(4, "w").await;
    watcher.subscribe(4, "$SYS/mine", 0).await;
    let mut body = b"\0\x04MQTT\x04\x06\0\0".to_vec();
    for part in ["doomed", "$SYS/mine", "gone"] {
        text(&mut body, part);
    }
    let mut doomed = rig.client().await;
    doomed.send_bytes(&packet(0x10, &body)).await;
    doomed.expect_connack(4, false).await;
    drop(doomed);
    until("the will is refused", || rig.metric("tidegate_broker_refused_total", "sys-topic") == 1).await;
    watcher.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_shared_subscription_take_turns_with_it_too() {
    let rig = Rig::new().await;
    let mut member = rig.connected(5, "member").await;
    member.subscribe(5, "$share/watch/$SYS/broker/uptime", 1).await;
    // Nothing retained for shared subscriptions; the next interval brings it.
    let packet = member.packet().await;
    assert_eq!((packet[0], &packet[4..22]), (0x30, &b"$SYS/broker/uptime"[..]));
}
