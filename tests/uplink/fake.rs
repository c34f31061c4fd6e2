//! Upstreams that misbehave as no real broker does, speaking bytes on the wire.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::Packet;
use tidegate::{
    message::QoS,
    uplink::{Backoff, Version},
};
use tokio::{io::AsyncReadExt, sync::mpsc};

use crate::{
    gateway::{Gateway, message, number, settings},
    peer::{ACCEPTED, ACCEPTED_WINDOW_1, Fake},
};

pub(crate) async fn gateway_with(
    count: u64,
    port: u16,
    change: impl FnOnce(&mut tidegate::uplink::Settings),
) -> Gateway {
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=count).await;
    let mut settings = settings(port);
    change(&mut settings);
    gateway.start(settings);
    gateway
}

#[tokio::test]
async fn an_upstream_that_never_acknowledges_is_left_again_and_again() {
    let fake = Fake::start(|number, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        if number < 2 {
            while peer.publish().await.is_some() {}
            return Some(());
        }
        peer.acknowledge_all().await
    })
    .await;
    let mut gateway =
        gateway_with(100, fake.port, |settings| settings.progress_timeout = Duration::from_millis(200)).await;
    assert_eq!(gateway.drained(0).await.forwarded, 100);
    assert_eq!(gateway.failures("no-progress"), 2);
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn acknowledgements_out_of_order_and_twice_settle_each_message_once() {
    let mut fake = Fake::start(|_, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        loop {
            let mut ids = Vec::new();
            for _ in 0..20 {
                ids.push(peer.publish().await?.pkid);
            }
            for id in ids.iter().rev().chain(&ids) {
                peer.acknowledge(*id).await?;
            }
            // Numbers that nobody gave out.
            peer.acknowledge(60_000).await?;
            peer.send(&[0x70, 2, 0xea, 0x60]).await?;
        }
    })
    .await;
    let mut gateway = gateway_with(1000, fake.port, |_| {}).await;
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, gateway.stats().connects), (1000, 1));
    assert_eq!(fake.numbers(), (1..=1000).collect::<Vec<_>>());
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn garbage_and_huge_lengths_end_the_connection_and_nothing_else() {
    let garbage: [&[u8]; 8] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0x40, 0xff, 0xff, 0xff, 0x7f],
        &[0x40, 0xff, 0xff, 0xff, 0xff],
        &[0x40, 1, 0],
        &[0x00, 0x00],
        &[0x20, 3, 0, 0, 0],
        &[0x40, 4, 0, 1, 0x97, 0xff],
        &[0xe0, 0],
    ];
    let fake = Fake::start(move |number, mut peer| async move {
        match (garbage.get(number / 2), number % 2) {
            (Some(bytes), 0) => peer.send(bytes).await?,
            (Some(bytes), _) => {
                peer.greet(ACCEPTED).await?;
                peer.publish().await?;
                peer.send(bytes).await?;
            }
            (None, _) => {
                peer.greet(ACCEPTED).await?;
                return peer.acknowledge_all().await;
            }
        }
        // Stays open until the gateway has had enough.
        while peer.next().await.is_some() {}
        Some(())
    })
    .await;
    let mut gateway = gateway_with(50, fake.port, |settings| {
        settings.connect_timeout = Duration::from_millis(300);
        settings.progress_timeout = Duration::from_millis(300);
    })
    .await;
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, books.dead_total()), (50, 0), "{books:?}");
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_refused_login_says_why() {
    let connacks: [(&[u8], Version, &str); 4] = [
        (&[0x20, 3, 0, 0x87, 0], Version::V5, "refused: not authorized (code 0x87)"),
        (&[0x20, 2, 0, 1], Version::V5, "the upstream does not speak this protocol version (code 0x01)"),
        (&[0x20, 2, 0, 4], Version::V311, "bad user name or password (code 0x04)"),
        (&[0x20, 8, 0, 0x97, 5, 0x1f, 0, 2, b'n', b'o'], Version::V5, "quota exceeded (code 0x97): \"no\""),
    ];
    for (connack, version, words) in connacks {
        let fake = Fake::start(move |_, mut peer| async move {
            // Not parsed: the test's codec knows MQTT 5 only.
            peer.stream.read_buf(&mut peer.buffer).await.ok()?;
            peer.send(connack).await
        })
        .await;
        let mut gateway = gateway_with(1, fake.port, |settings| settings.version = version).await;
        let error = gateway.until_error("refused").await;
        assert!(error.ends_with(words), "{error}");
        assert!(gateway.failures("refused") >= 1);
        gateway.stop(Duration::ZERO).await;
        assert_eq!(gateway.books(0).backlog_messages, 1);
    }
}

#[tokio::test]
async fn an_upstream_that_accepts_and_drops_is_tried_again_and_nothing_is_lost() {
    let fake = Fake::start(|_, mut peer| async move { peer.greet(ACCEPTED).await }).await;
    let mut gateway = gateway_with(10, fake.port, |settings| {
        settings.backoff = Backoff { min: Duration::from_millis(50), max: Duration::from_secs(3600) };
    })
    .await;
    // Waits of up to 50, 100 and 200 ms lie between; how they grow is a test of the backoff itself.
    gateway.until("dropped a few times", |stats| stats.connects == 4).await;
    gateway.stop(Duration::ZERO).await;
    assert_eq!(gateway.books(0).backlog_messages, 10);
}

#[tokio::test]
async fn the_receive_maximum_is_kept() {
    let fake = Fake::start(|_, mut peer| async move {
        peer.greet(ACCEPTED_WINDOW_1).await?;
        loop {
            let publish = peer.publish().await?;
            let mut more = [0; 1];
            let early = tokio::time::timeout(Duration::from_millis(5), peer.stream.peek(&mut more)).await;
            assert!(peer.buffer.is_empty() && early.is_err(), "a second message before the acknowledgement");
            peer.acknowledge(publish.pkid).await?;
        }
    })
    .await;
    let mut gateway = gateway_with(50, fake.port, |_| {}).await;
    assert_eq!(gateway.drained(0).await.forwarded, 50);
    assert_eq!(gateway.stats().connects, 1);
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn the_upstreams_last_words_are_repeated() {
    let fake = Fake::start(|_, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        peer.send(&[0xe0, 1, 0x8b]).await
    })
    .await;
    let mut gateway = gateway_with(1, fake.port, |_| {}).await;
    gateway.until_error("the upstream disconnected: server shutting down (code 0x8b)").await;
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_stop_with_grace_waits_for_acknowledgements_and_says_good_bye() {
    let (bye, mut byes) = mpsc::channel(1);
    let fake = Fake::start(move |_, mut peer| {
        let bye = bye.clone();
        async move {
            peer.greet(ACCEPTED).await?;
            let first = peer.publish().await?;
            // The acknowledgement comes only after the gateway has been asked to stop.
            let mut stopping = tokio::time::interval(Duration::from_millis(100));
            stopping.tick().await;
            stopping.tick().await;
            peer.acknowledge(first.pkid).await?;
            bye.send(matches!(peer.next().await?, Packet::Disconnect(_))).await.ok()
        }
    })
    .await;
    let mut gateway = gateway_with(1, fake.port, |_| {}).await;
    gateway.until("in flight", |stats| stats.in_flight == 1).await;
    gateway.stop(Duration::from_secs(10)).await;
    assert_eq!(byes.recv().await, Some(true));
    assert_eq!(gateway.drained(0).await.forwarded, 1);
}

#[tokio::test]
async fn what_an_upstream_cannot_do_is_not_asked_of_it() {
    // Maximum QoS 0, Retain Available 0, Maximum Packet Size 200.
    let connack = [0x20, 12, 0, 0, 9, 0x24, 0, 0x25, 0, 0x27, 0, 0, 0, 200];
    let mut fake = Fake::start(move |_, mut peer| async move {
        peer.greet(&connack).await?;
        while peer.publish().await.is_some() {}
        Some(())
    })
    .await;
    let mut gateway = Gateway::new(&["s"]);
    let mut retained = message("s/x", "1");
    retained.retain = true;
    gateway.publish(0, vec![retained, message("s/x", vec![b'x'; 200]), message("s/x", "3")]).await;
    let mut settings = settings(fake.port);
    settings.qos = QoS::ExactlyOnce;
    gateway.start(settings);
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, &books.dead[..]), (2, &[("too-large".to_owned(), 1)][..]));
    for wanted in [1, 3] {
        let publish = fake.seen.recv().await.unwrap();
        assert_eq!((number(&publish), publish.retain, publish.pkid), (wanted, false, 0));
    }
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn each_step_that_never_ends_is_given_up_and_named() {
    // Takes connections and never says a word.
    let silent = Fake::start(|_, mut peer| async move {
        while peer.stream.read_buf(&mut peer.buffer).await.ok()? > 0 {}
        None
    })
    .await;
    for (tls, words) in [(false, "CONNECT: no answer within"), (true, "TLS: no answer within")] {
        let mut gateway = gateway_with(5, silent.port, |settings| {
            settings.connect_timeout = Duration::from_millis(100);
            settings.urls[0].tls = tls;
            settings.urls[0].host = "localhost".to_owned();
        })
        .await;
        gateway.until_error(words).await;
        // Local clients do not notice.
        gateway.publish_numbers(0, 6..=10).await;
        gateway.stop(Duration::ZERO).await;
        assert_eq!(gateway.books(0).backlog_messages, 10);
    }
}

#[tokio::test]
async fn a_name_that_is_not_known_and_a_port_that_refuses_are_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (host, words, reason) in [("no-such-host.invalid", "DNS: ", "dns"), ("127.0.0.1", "TCP: ", "tcp")] {
        let mut gateway = gateway_with(5, free, |settings| host.clone_into(&mut settings.urls[0].host)).await;
        gateway.until_error(words).await;
        assert!(gateway.failures(reason) >= 1);
        gateway.stop(Duration::ZERO).await;
        assert_eq!(gateway.books(0).backlog_messages, 5);
    }
}

#[tokio::test]
async fn acknowledgements_that_get_lost_cost_time_and_nothing_else() {
    // Every seventh acknowledgement is lost; the message was taken all the same.
    let mut fake = Fake::start(|number, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        for count in 0.. {
            let publish = peer.publish().await?;
            if count % 7 != 3 || number > 2 {
                peer.acknowledge(publish.pkid).await?;
            }
        }
        None
    })
    .await;
    let mut gateway =
        gateway_with(300, fake.port, |settings| settings.progress_timeout = Duration::from_millis(150)).await;
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, books.dead_total()), (300, 0));
    let mut seen = std::collections::BTreeSet::new();
    let first: Vec<_> = fake.numbers().into_iter().filter(|number| seen.insert(*number)).collect();
    assert_eq!(first, (1..=300).collect::<Vec<_>>());
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn an_envelope_goes_upstream_with_its_properties_and_counts_for_the_size() {
    // Maximum Packet Size 300.
    let connack = [0x20, 8, 0, 0, 5, 0x27, 0, 0, 1, 44];
    let mut fake = Fake::start(move |_, mut peer| async move {
        peer.greet(&connack).await?;
        peer.acknowledge_all().await
    })
    .await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.routes[0].envelope = tidegate::forward::Envelope::Json;
    // The second fits only without its envelope.
    gateway
        .publish(0, vec![message("s/x", "21.5"), message("s/x", "x".repeat(120)), message("s/x", b"\xff".to_vec())])
        .await;
    gateway.start(settings(fake.port));
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, &books.dead[..]), (2, &[("too-large".to_owned(), 1)][..]));
    for (seq, key, value) in [(1, "payload", serde_json::json!(21.5)), (3, "payload_base64", serde_json::json!("/w=="))]
    {
        let publish = fake.seen.recv().await.unwrap();
        let all: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
        assert_eq!(all["id"], format!("plant-7/s/{seq}"));
        assert_eq!((&all["topic"], &all["client"], &all[key]), (&"s/x".into(), &"sensor-1".into(), &value));
        let properties = publish.properties.unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(properties.payload_format_indicator, Some(1));
        assert_eq!(properties.user_properties[0].1, all["id"].as_str().unwrap());
    }
    gateway.stop(Duration::ZERO).await;
}
