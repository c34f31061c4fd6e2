//! From publishers to local subscribers.

use super::rig::*;

#[tokio::test(flavor = "multi_thread")]
async fn delivery_takes_the_lower_qos_and_waits_for_acknowledgements() {
    let rig = Rig::new().await;
    for version in [4, 5] {
        let mut subscriber = rig.connected(version, "sub").await;
        let mut publisher = rig.connected(version, "pub").await;
        let mut id = 0;
        for (granted, sent, flags) in [(0, 4, 0), (1, 4, 2), (1, 0, 0), (2, 2, 2), (2, 4, 4)] {
            subscriber.subscribe(version, "s/+", granted).await;
            publisher.send_bytes(&publish(version, sent, "s/a", 5, b"hello")).await;
            match sent {
                2 => publisher.expect("40 02 0005").await,
                4 => {
                    publisher.expect("50 02 0005").await;
                    publisher.send("62 02 0005").await;
                    publisher.expect("70 02 0005").await;
                }
                _ => {}
            }
            id += u16::from(flags != 0);
            subscriber.expect_bytes(&publish(version, flags, "s/a", id, b"hello")).await;
            match flags {
                2 => subscriber.send(&format!("40 02 {id:04X}")).await,
                4 => {
                    subscriber.send(&format!("50 02 {id:04X}")).await;
                    subscriber.expect(&format!("62 02 {id:04X}")).await;
                    subscriber.send(&format!("70 02 {id:04X}")).await;
                }
                _ => {}
            }
        }
        subscriber.expect_quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receive_maximum_of_the_subscriber_is_kept() {
    let rig = Rig::new().await;
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&connect(5, "sub", 2, 0, &unhex("21 0002"))).await;
    subscriber.expect_connack(5, false).await;
    subscriber.subscribe(5, "#", 1).await;
    let mut publisher = rig.connected(4, "pub").await;
    for id in 1..=4 {
        publisher.send_bytes(&publish(4, 2, "t", id, &[u8::try_from(id).unwrap()])).await;
        publisher.packet().await;
    }
    subscriber.expect_bytes(&publish(5, 2, "t", 1, &[1])).await;
    subscriber.expect_bytes(&publish(5, 2, "t", 2, &[2])).await;
    subscriber.expect_quiet().await;
    subscriber.send("40 02 0002").await;
    subscriber.expect_bytes(&publish(5, 2, "t", 3, &[3])).await;
    subscriber.send("40 02 0001 40 02 0003").await;
    let last = subscriber.packet().await;
    assert_eq!(last.last(), Some(&4));
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_deliveries_are_sent_again_in_order() {
    let rig = Rig::new().await;
    let stay = connect(4, "sub", 0, 0, &[]);
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(4, false).await;
    subscriber.subscribe(4, "t", 2).await;
    let mut publisher = rig.connected(4, "pub").await;
    for (id, flags) in [(1, 4), (2, 2), (3, 4)] {
        publisher.send_bytes(&publish(4, flags, "t", id, &[u8::try_from(id).unwrap()])).await;
        publisher.packet().await;
        subscriber.expect_bytes(&publish(4, flags, "t", id, &[u8::try_from(id).unwrap()])).await;
    }
    subscriber.send("50 02 0001").await;
    subscriber.expect("62 02 0001").await;
    drop(subscriber);
    until("the subscriber is away", || rig.broker.listeners()[0].connections == 1).await;
    publisher.send_bytes(&publish(4, 2, "t", 4, &[4])).await;
    publisher.send_bytes(&publish(4, 0, "t", 0, b"not kept")).await;
    publisher.packet().await;
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(4, true).await;
    subscriber.expect("62 02 0001").await;
    subscriber.expect_bytes(&publish(4, 2 | 8, "t", 2, &[2])).await;
    subscriber.expect_bytes(&publish(4, 4 | 8, "t", 3, &[3])).await;
    subscriber.expect_bytes(&publish(4, 2, "t", 4, &[4])).await;
    subscriber.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscription_options_of_mqtt_5_are_kept() {
    let rig = Rig::new().await;
    let mut client = rig.connected(5, "c").await;
    let mut other = rig.connected(5, "o").await;
    // No Local and Retain As Published; identifiers 5 and 200 on overlapping filters: one delivery.
    client.send("82 09 0001 02 0B05 0001 61 2C").await;
    client.packet().await;
    client.send("82 0A 0001 03 0BC801 0001 2B 01").await;
    client.packet().await;
    client.send_bytes(&publish(5, 0, "a", 0, b"mine")).await;
    client.expect("30 0B 0001 61 03 0BC801 6D696E65").await;
    other.send_bytes(&publish(5, 1, "a", 0, b"x")).await;
    let found = client.packet().await;
    assert_eq!(found[0], 0x31, "retain as published: {found:02X?}");
    assert!(found[6..].starts_with(&unhex("0B05 0BC801")) || found[6..].starts_with(&unhex("0BC801 0B05")));
    client.expect_quiet().await;
    client.send("A2 0A 0002 00 0001 61 0002 7A7A").await;
    client.expect("B0 05 0002 00 00 11").await;
    client.send_bytes(&subscribe(5, 3, "a/#/b", 0)).await;
    client.expect("90 04 0003 00 8F").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_come_to_new_subscribers_also_after_a_restart() {
    let mut rig = Rig::new().await;
    let mut publisher = rig.connected(4, "pub").await;
    publisher.send_bytes(&publish(4, 3, "r/a", 1, b"old")).await;
    publisher.send_bytes(&publish(4, 3, "r/a", 2, b"new")).await;
    publisher.send_bytes(&publish(4, 3, "r/b", 3, b"gone")).await;
    publisher.send_bytes(&publish(4, 3, "r/b", 4, b"")).await;
    for _ in 0..4 {
        publisher.packet().await;
    }
    for restart in [false, true] {
        if restart {
            rig = rig.restart().await;
        }
        let mut subscriber = rig.connected(5, "sub").await;
        subscriber.subscribe(5, "r/#", 1).await;
        subscriber.expect_bytes(&publish(5, 3, "r/a", 1, b"new")).await;
        subscriber.send("40 02 0001").await;
        // Retain handling 1: not for a subscription that exists; 2: never.
        for options in [0x11, 0x21] {
            subscriber.subscribe(5, "r/#", options).await;
            subscriber.expect_quiet().await;
        }
        subscriber.subscribe(5, "r/+", 0x10).await;
        subscriber.expect_bytes(&publish(5, 1, "r/a", 0, b"new")).await;
        subscriber.expect_quiet().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_travel_and_expiry_counts() {
    let rig = Rig::new().await;
    let mut subscriber = rig.connected(5, "sub").await;
    subscriber.subscribe(5, "#", 0).await;
    let mut publisher = rig.connected(5, "pub").await;
    // Alias 1, payload format 1, expiry 100 s, content type, response topic, correlation data, user property.
    let properties = "230001 0101 0200000064 030001 63 080001 72 090001 64 260001 6B 0001 76";
    let mut body = unhex("0001 74");
    let block = unhex(properties);
    body.push(u8::try_from(block.len()).unwrap());
    body.extend(&block);
    body.extend(b"x");
    publisher.send_bytes(&packet(0x30, &body)).await;
    let mut expected = unhex("0001 74");
    expected.push(u8::try_from(block.len() - 3).unwrap());
    expected.extend(&block[3..]);
    expected.extend(b"x");
    subscriber.expect_bytes(&packet(0x30, &expected)).await;
    // The alias alone.
    publisher.send("30 08 0000 03 230001 79 79").await;
    subscriber.expect_bytes(&publish(5, 0, "t", 0, b"yy")).await;
    // Expired at once.
    publisher.send("30 0A 0001 74 05 0200000000 78").await;
    subscriber.expect_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_never_gets_more_than_its_maximum_packet_size() {
    let rig = Rig::new().await;
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&connect(5, "sub", 2, 0, &unhex("27 00000040"))).await;
    subscriber.expect_connack(5, false).await;
    subscriber.subscribe(5, "t", 1).await;
    let mut publisher = rig.connected(4, "pub").await;
    publisher.send_bytes(&publish(4, 2, "t", 1, &[0; 100])).await;
    publisher.send_bytes(&publish(4, 2, "t", 2, &[0; 10])).await;
    subscriber.expect_bytes(&publish(5, 2, "t", 1, &[0; 10])).await;
    assert_eq!(rig.metric("tidegate_broker_dropped_total", "too-large"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_costs_only_its_own_messages() {
    let rig = Rig::new().await;
    let mut slow = rig.connected(4, "slow").await;
    slow.subscribe(4, "t", 0).await;
    let mut fast = rig.connected(4, "fast").await;
    fast.subscribe(4, "t", 0).await;
    let mut publisher = rig.connected(4, "pub").await;
    let payload = vec![7; 10_000];
    for id in 1..=3000 {
        publisher.send_bytes(&publish(4, 2, "t", id, &payload)).await;
        publisher.packet().await;
        assert_eq!(fast.packet().await.len(), payload.len() + 6);
    }
    assert!(rig.metric("tidegate_broker_dropped_total", "queue-full") > 0);
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn wills_are_sent_on_an_unclean_end_and_go_into_the_streams() {
    let rig = Rig::new().await;
    let will = |version: u8, flags: u8, delay: u8| {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend([version, flags, 0, 0]);
        if version == 5 {
            body.extend(unhex("05 1100000064"));
        }
        text(&mut body, "w");
        if version == 5 {
            body.extend([5, 0x18, 0, 0, 0, delay]);
        }
        text(&mut body, "s/will");
        text(&mut body, "gone");
        packet(0x10, &body)
    };
    let mut subscriber = rig.connected(4, "sub").await;
    subscriber.subscribe(4, "s/will", 1).await;
    let mut wills = 0;
    for (version, end, delay, due) in [
        (4, "", 0, true),
        (4, "E0 00", 0, false),
        (5, "E0 00", 0, false),
        (5, "E0 01 04", 0, true),
        (5, "30 03 0000 00", 0, true),
        (5, "", 1, true),
    ] {
        let mut client = rig.client().await;
        client.send_bytes(&will(version, 0x0E, delay)).await;
        client.packet().await;
        client.send(end).await;
        drop(client);
        until("the client is gone", || rig.broker.listeners()[0].connections == 1).await;
        if due {
            wills += 1;
            subscriber.expect_bytes(&publish(4, 2, "s/will", wills, b"gone")).await;
            subscriber.send(&format!("40 02 {wills:04X}")).await;
        }
        subscriber.expect_quiet().await;
    }
    assert_eq!(rig.backlog(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_will_is_due_when_a_clean_start_ends_the_session_and_not_when_it_is_resumed() {
    let rig = Rig::new().await;
    let mut subscriber = rig.connected(4, "sub").await;
    subscriber.subscribe(4, "will", 0).await;
    let with_will = |flags: u8| {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend([5, flags, 0, 0, 5]);
        body.extend(unhex("11 FFFFFFFF"));
        text(&mut body, "w");
        body.extend(unhex("05 18 0000FFFF"));
        text(&mut body, "will");
        text(&mut body, "gone");
        packet(0x10, &body)
    };
    for away in [false, true] {
        let mut first = rig.client().await;
        first.send_bytes(&with_will(0x06)).await;
        first.expect_connack(5, false).await;
        let (mut resumed, mut clean) = (rig.client().await, rig.client().await);
        resumed.send_bytes(&with_will(0x04)).await;
        resumed.expect_connack(5, true).await;
        subscriber.expect_quiet().await;
        if away {
            drop(resumed);
            until("it is away", || rig.broker.listeners()[0].connections == 1).await;
        }
        clean.send_bytes(&connect(5, "w", 2, 0, &[])).await;
        clean.expect_connack(5, false).await;
        subscriber.expect_bytes(&publish(4, 0, "will", 0, b"gone")).await;
        subscriber.expect_quiet().await;
        clean.send("E0 00").await;
        clean.expect_closed().await;
        until("it is gone", || rig.broker.listeners()[0].connections == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_sent_does_not_expire_before_it_is_sent_again() {
    let rig = Rig::new().await;
    let mut subscriber = rig.client().await;
    let stay = connect(5, "sub", 0, 0, &unhex("11 FFFFFFFF"));
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(5, false).await;
    subscriber.subscribe(5, "t", 2).await;
    let mut publisher = rig.connected(5, "pub").await;
    let body = [unhex("0001 74 0001 05 0200000001"), vec![0x78; 40]].concat();
    publisher.send_bytes(&packet(0x34, &body)).await;
    subscriber.expect_bytes(&packet(0x34, &body)).await;
    let sent = std::time::Instant::now();
    drop(subscriber);
    until("its interval has passed", || sent.elapsed() > std::time::Duration::from_millis(1100)).await;
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&stay).await;
    subscriber.expect_connack(5, true).await;
    subscriber.expect_bytes(&packet(0x3C, &body)).await;
    drop(subscriber);
    // It does not fit any more: the packet id is released, for the client may hold half of the exchange.
    let mut subscriber = rig.client().await;
    subscriber.send_bytes(&connect(5, "sub", 0, 0, &unhex("11 FFFFFFFF 27 00000020"))).await;
    subscriber.expect_connack(5, true).await;
    subscriber.expect("62 02 0001").await;
}
