//! What an operator may do with clients and messages: list, disconnect, publish.

use bytes::Bytes;
use tidegate::{
    broker::{Expelled, NotTaken},
    intake::Refusal,
    message::{Message, QoS},
    stats::{ClientPage, ClientQuestion},
    topic::TopicName,
};

use super::rig::*;

fn message(topic: &str, qos: QoS, retain: bool) -> Message {
    let topic = TopicName::new(topic.to_owned()).unwrap();
    Message { topic, payload: Bytes::from_static(b"x"), qos, retain, client: "http".into(), properties: None }
}

fn all() -> ClientQuestion {
    ClientQuestion { connected: true, away: true, after: None, limit: 1000 }
}

fn ids(page: &ClientPage) -> Vec<&str> {
    page.clients.iter().map(|client| &*client.id).collect()
}

/// A lasting session that is subscribed to everything and whose client has gone.
async fn away(rig: &Rig, id: &str) {
    let mut client = rig.client().await;
    client.send_bytes(&connect(4, id, 0, 0, &[])).await;
    client.expect_connack(4, false).await;
    client.subscribe(4, "#", 1).await;
    client.send("E0 00").await;
    client.expect_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_message_takes_the_road_of_any_other() {
    let rig = Rig::new().await;
    away(&rig, "keeper").await;
    let mut live = rig.connected(4, "live").await;
    live.subscribe(4, "s/+", 1).await;
    let taken = rig.broker.publish(message("s/a", QoS::AtLeastOnce, true)).await.unwrap();
    assert_eq!((taken.streams.len(), taken.sessions, taken.retained), (1, 1, true));
    // Not soon: now, for the answer speaks for it.
    assert_eq!((rig.backlog(), rig.handle.queues().messages), (1, 1));
    live.expect("32 08 0003 732F61 0001 78").await;
    let nobody = rig.broker.publish(message("other", QoS::AtMostOnce, false)).await.unwrap();
    assert_eq!((nobody.streams.len(), nobody.sessions), (0, 0));
    assert_eq!((rig.backlog(), rig.handle.queues().messages), (1, 1), "QoS 0 does not wait for who is away");
    let rig = rig.restart().await;
    assert_eq!((rig.backlog(), rig.handle.queues().messages), (1, 1));
    let mut later = rig.connected(4, "later").await;
    later.subscribe(4, "s/#", 0).await;
    later.expect("31 06 0003 732F61 78").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_which_there_is_no_room_is_nowhere() {
    let rig = Rig::with(Options { max_messages: Some(1), ..Options::default() }).await;
    let publish = |topic, qos| rig.broker.publish(message(topic, qos, false));
    publish("s/a", QoS::AtLeastOnce).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert!(matches!(publish("s/a", qos).await, Err(NotTaken::Refused(Refusal::StreamFull(_)))));
    }
    assert_eq!(publish("$SYS/broker/x", QoS::AtLeastOnce).await, Err(NotTaken::Reserved));
    assert_eq!(rig.backlog(), 1);
    assert_eq!(rig.metric("tidegate_broker_refused_total", "stream-full"), 3);
    publish("other", QoS::AtLeastOnce).await.unwrap();
    rig.broker.drain(DEADLINE).await;
    assert_eq!(publish("s/a", QoS::AtLeastOnce).await, Err(NotTaken::Stopping));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_seen_with_what_waits_for_them() {
    let rig = Rig::new().await;
    away(&rig, "keeper").await;
    let mut live = rig.client().await;
    live.send_bytes(&connect(5, "live", 0, 30, &[0x11, 0, 0, 0, 60])).await;
    live.expect_connack(5, false).await;
    live.subscribe(5, "#", 1).await;
    for _ in 0..3 {
        rig.broker.publish(message("s/a", QoS::AtLeastOnce, false)).await.unwrap();
        live.packet().await;
    }
    until("the connection has noted what is in flight", || rig.broker.clients(&all()).clients[1].in_flight == 3).await;
    let page = rig.broker.clients(&all());
    assert_eq!((ids(&page), page.connected, page.away, page.more), (vec!["keeper", "live"], 1, 1, false));
    let [keeper, live_now] = &page.clients[..] else { panic!("{page:?}") };
    assert_eq!((keeper.queued_messages, keeper.in_flight, keeper.subscriptions, keeper.lasting), (3, 0, 1, true));
    assert!(keeper.connection.is_none() && keeper.ends_in.is_none() && keeper.queued_bytes > 0);
    assert_eq!((live_now.queued_messages, live_now.subscriptions, live_now.lasting), (0, 1, true));
    let connection = live_now.connection.as_ref().unwrap();
    assert_eq!((&*connection.user, &*connection.listener, connection.version), ("anonymous", "test", "5"));
    assert_eq!((connection.clean_start, connection.keep_alive_s), (false, 30));
    assert_eq!(connection.address, live.stream.local_addr().unwrap().to_string());
    live.send("E0 00").await;
    live.expect_closed().await;
    until("it is away", || rig.broker.clients(&all()).away == 2).await;
    let page = rig.broker.clients(&ClientQuestion { connected: false, ..all() });
    assert_eq!((ids(&page), page.clients[1].queued_messages), (vec!["keeper", "live"], 3));
    assert!(page.clients[1].ends_in.is_some_and(|left| left.as_secs() <= 60));
    let rig = rig.restart().await;
    assert_eq!(rig.broker.clients(&all()).away, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_everybody_once_and_in_order() {
    let rig = Rig::new().await;
    let names: Vec<String> = (0..25).map(|number| format!("c{:02}", (number * 7) % 25)).collect();
    let mut clients = Vec::new();
    for name in &names {
        clients.push(rig.connected(4, name).await);
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = rig.broker.clients(&ClientQuestion { after, limit: 10, ..all() });
        assert!(page.clients.len() == 10 || !page.more);
        seen.extend(page.clients.iter().map(|client| client.id.clone()));
        after = seen.last().cloned();
        if !page.more {
            break;
        }
    }
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_sent_away_hears_why_and_its_will_is_sent() {
    let rig = Rig::new().await;
    let mut witness = rig.connected(4, "witness").await;
    witness.subscribe(4, "w", 0).await;
    let mut body = b"\0\x04MQTT\x05\x04\0\0\x05\x11\0\0\0\x3c".to_vec();
    text(&mut body, "a/b +#\u{e9}");
    body.push(0);
    text(&mut body, "w");
    text(&mut body, "gone");
    let mut client = rig.client().await;
    client.send_bytes(&packet(0x10, &body)).await;
    client.expect_connack(5, false).await;
    client.send_bytes(&publish(5, 0x02, "s/a", 1, b"last")).await;
    assert_eq!(rig.broker.expel("a/b +#\u{e9}").await, Expelled::Gone);
    // What it had said is decided, and acknowledged before the good-bye where the gateway had read it.
    let mut packet = client.packet().await;
    if packet[0] == 0x40 {
        assert_eq!(rig.backlog(), 1);
        packet = client.packet().await;
    }
    assert_eq!((packet[0], packet[2]), (0xE0, 0x98), "{packet:02X?}");
    client.expect_closed().await;
    witness.expect("30 07 0001 77 676F6E65").await;
    assert_eq!(rig.broker.expel("a/b +#\u{e9}").await, Expelled::Away);
    assert_eq!(rig.broker.expel("nobody").await, Expelled::Unknown);
    let mut old = rig.connected(4, "old").await;
    assert_eq!(rig.broker.expel("old").await, Expelled::Gone);
    old.expect_closed().await;
    assert_eq!(rig.broker.expel("old").await, Expelled::Unknown);
    // Nothing keeps it from coming back.
    rig.connected(4, "old").await.expect_quiet().await;
}
