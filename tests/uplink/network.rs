//! A real upstream behind a network that fails in every way: nothing lost, nothing out of order.

use std::time::Duration;

use bytes::Bytes;
use tidegate::{
    message::{Properties, QoS},
    store::StreamId,
    uplink::Version,
};

use crate::{
    broker::{Broker, assert_all, first_arrivals},
    gateway::{Gateway, message, number, settings, url},
    proxy::Proxy,
};

const BOTH: [Version; 2] = [Version::V311, Version::V5];
const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_arrives_once_and_in_order_at_every_qos_and_version() {
    let broker = Broker::anonymous().await;
    let mut subscriber = broker.subscribe("up/#").await;
    for (version, qos) in BOTH.into_iter().flat_map(|version| ALL_QOS.map(|qos| (version, qos))) {
        let mut gateway = Gateway::new(&["s"]);
        gateway.publish_numbers(0, 1..=3000).await;
        let mut settings = settings(broker.port);
        (settings.version, settings.qos) = (version, qos);
        gateway.start(settings);
        assert_all(&subscriber.numbers_to(3000).await, 1..=3000, &format!("{version:?} {qos:?}"));
        assert_eq!(gateway.drained(0).await.forwarded, 3000);
        gateway.publish_numbers(0, 3001..=3010).await;
        assert_all(&subscriber.numbers_to(3010).await, 3001..=3010, "after that");
        gateway.drained(0).await;
        gateway.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_message_carries_topic_properties_and_marks() {
    let broker = Broker::anonymous().await;
    let mut subscriber = broker.subscribe("up/#").await;
    let mut gateway = Gateway::new(&["s"]);
    let mut with_all = message("s/a/b", "payload");
    with_all.properties = Some(Box::new(Properties {
        payload_format: Some(1),
        message_expiry_s: Some(1000),
        content_type: Some("text/plain".into()),
        response_topic: Some("reply".into()),
        correlation_data: Some(Bytes::from_static(b"\x01\x02")),
        user: vec![("unit".into(), "K".into())],
        origin: None,
    }));
    gateway.publish(0, vec![with_all]).await;
    let stored = gateway.handle.read(StreamId(0), 0, 1, 1).await.unwrap().remove(0);
    gateway.start(settings(broker.port));
    let publish = subscriber.next().await;
    assert_eq!((&publish.topic[..], &publish.payload[..]), (&b"up/plant-7/s/a/b"[..], &b"payload"[..]));
    let properties = publish.properties.unwrap();
    assert_eq!(properties.payload_format_indicator, Some(1));
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.response_topic.as_deref(), Some("reply"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"\x01\x02"[..]));
    assert!((990..=1000).contains(&properties.message_expiry_interval.unwrap()));
    let user = properties.user_properties;
    assert_eq!(user[0], ("unit".to_owned(), "K".to_owned()));
    assert_eq!(user[1], ("tg-id".to_owned(), format!("plant-7/s/{}", stored.seq)));
    assert_eq!((user[2].0.as_str(), user[2].1.len()), ("tg-time", "2026-11-21T10:19:18.007Z".len()));
    assert!(user[3..].iter().all(|(name, value)| (&name[..], &value[..]) == ("tg-clock", "unsynced")));
    gateway.drained(0).await;
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_again_and_again_loses_and_reorders_nothing() {
    const LAST: u64 = 20_000;
    for version in BOTH {
        let broker = Broker::anonymous().await;
        let proxy = Proxy::start(broker.port).await;
        let mut subscriber = broker.subscribe("up/#").await;
        let mut gateway = Gateway::new(&["s"]);
        gateway.publish_numbers(0, 1..=LAST).await;
        // Cut in the middle of whatever is at this place, about thirty times.
        proxy.cut_after(40_001);
        let mut settings = settings(proxy.port);
        settings.version = version;
        gateway.start(settings);
        let numbers = subscriber.numbers_to(LAST).await;
        assert_all(&first_arrivals(&numbers), 1..=LAST, "first arrivals");
        proxy.cut_after(0);
        let books = gateway.drained(0).await;
        assert_eq!((books.forwarded, books.dead_total()), (LAST, 0));
        assert!(gateway.stats().connects > 5, "{:?}", gateway.stats());
        gateway.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_survives_cuts_while_the_upstream_keeps_the_session() {
    const LAST: u64 = 4_000;
    for version in BOTH {
        // The subscriber's deliveries, not the gateway's, would wait for Nagle's algorithm.
        let broker = Broker::start("allow_anonymous true\nset_tcp_nodelay true").await;
        let proxy = Proxy::start(broker.port).await;
        let mut subscriber = broker.subscribe("up/#").await;
        let mut gateway = Gateway::new(&["s"]);
        gateway.publish_numbers(0, 1..=LAST).await;
        proxy.cut_after(20_001);
        let mut settings = settings(proxy.port);
        (settings.version, settings.qos) = (version, QoS::ExactlyOnce);
        gateway.start(settings);
        let numbers = subscriber.numbers_to(LAST).await;
        assert!(gateway.stats().connects > 3, "{:?}", gateway.stats());
        proxy.cut_after(0);
        assert_eq!(gateway.drained(0).await.forwarded, LAST);
        assert_all(&numbers, 1..=LAST, &format!("{version:?}"));
        gateway.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_stalled_connection_is_given_up_and_nothing_is_lost() {
    let broker = Broker::anonymous().await;
    let proxy = Proxy::start(broker.port).await;
    let mut subscriber = broker.subscribe("up/#").await;
    let mut gateway = Gateway::new(&["s"]);
    let mut settings = settings(proxy.port);
    settings.progress_timeout = Duration::from_millis(300);
    settings.connect_timeout = Duration::from_millis(300);
    gateway.start(settings);
    gateway.until("connected", |stats| stats.connects == 1).await;
    proxy.stall(true);
    gateway.publish_numbers(0, 1..=1000).await;
    let error = gateway.until_error("nothing was acknowledged for").await;
    assert!(error.starts_with("mqtt://127.0.0.1:"), "{error}");
    assert_eq!(gateway.failures("no-progress"), 1);
    gateway.until_error("CONNECT: no answer within").await;
    proxy.cut();
    proxy.stall(false);
    let numbers = subscriber.numbers_to(1000).await;
    assert_all(&first_arrivals(&numbers), 1..=1000, "first arrivals");
    assert_eq!(gateway.drained(0).await.forwarded, 1000);
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_dead_idle_connection_is_found_by_pings() {
    let broker = Broker::anonymous().await;
    let proxy = Proxy::start(broker.port).await;
    let mut gateway = Gateway::new(&["s"]);
    let mut settings = settings(proxy.port);
    settings.keep_alive = Duration::from_secs(1);
    gateway.start(settings);
    gateway.until("connected", |stats| stats.connects == 1).await;
    proxy.stall(true);
    gateway.until_error("nothing came within").await;
    proxy.cut();
    proxy.stall(false);
    gateway.until("connected again", |stats| stats.connects == 2).await;
    assert_eq!(gateway.failures("keep-alive"), 1);
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_half_closed_connection_is_closed_and_made_anew() {
    let broker = Broker::anonymous().await;
    let proxy = Proxy::start(broker.port).await;
    let mut subscriber = broker.subscribe("up/#").await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=5000).await;
    proxy.half_close_after(2000);
    gateway.start(settings(proxy.port));
    gateway.until("reconnected", |stats| stats.connects > 2).await;
    proxy.half_close_after(0);
    let numbers = subscriber.numbers_to(5000).await;
    assert_all(&first_arrivals(&numbers), 1..=5000, "first arrivals");
    assert_eq!(gateway.drained(0).await.forwarded, 5000);
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn addresses_are_tried_in_order_and_errors_name_their_step() {
    let broker = Broker::anonymous().await;
    let mut subscriber = broker.subscribe("up/#").await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=10).await;
    let closed_port = crate::broker::free_port();
    let mut settings = settings(closed_port);
    settings.urls.push(tidegate::uplink::Url { tls: false, host: "no-such-host.invalid".to_owned(), port: 1883 });
    gateway.start(settings.clone());
    let error = gateway.until_error("TCP").await;
    assert!(error.contains(&format!("mqtt://127.0.0.1:{closed_port}: TCP: ")), "{error}");
    assert!(error.contains("mqtt://no-such-host.invalid:1883: DNS: "), "{error}");
    gateway.stop(Duration::ZERO).await;
    settings.urls.push(url(broker.port));
    gateway.start(settings);
    assert_all(&subscriber.numbers_to(10).await, 1..=10, "the third address");
    gateway.drained(0).await;
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn old_messages_expire_instead_of_being_sent() {
    let broker = Broker::anonymous().await;
    let mut subscriber = broker.subscribe("up/#").await;
    let mut gateway = Gateway::new(&["s"]);
    let mut short_lived = message("s/x", "1");
    short_lived.properties = Some(Box::new(Properties { message_expiry_s: Some(0), ..Properties::default() }));
    gateway.publish(0, vec![short_lived, message("s/x", "2")]).await;
    gateway.start(settings(broker.port));
    assert_eq!(number(&subscriber.next().await), 2);
    let books = gateway.drained(0).await;
    assert_eq!((books.forwarded, books.expired), (1, 1));
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_rate_is_kept() {
    let broker = Broker::anonymous().await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=200).await;
    let mut settings = settings(broker.port);
    settings.messages_per_s = 100;
    let begin = std::time::Instant::now();
    gateway.start(settings);
    assert_eq!(gateway.drained(0).await.forwarded, 200);
    // A burst of ten may go at once; the rest takes 1.9 s.
    assert!(begin.elapsed() >= Duration::from_millis(1850), "{:?}", begin.elapsed());
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_waits_for_what_is_in_flight_and_loses_nothing() {
    let broker = Broker::anonymous().await;
    let mut subscriber = broker.subscribe("up/#").await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=20_000).await;
    gateway.start(settings(broker.port));
    let mut numbers = vec![number(&subscriber.next().await)];
    gateway.stop(Duration::from_secs(10)).await;
    gateway.start(settings(broker.port));
    numbers.extend(subscriber.numbers_to(20_000).await);
    assert_all(&numbers, 1..=20_000, "a graceful stop doubles nothing");
    gateway.drained(0).await;
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn streams_of_one_uplink_each_keep_their_order() {
    let broker = Broker::anonymous().await;
    let mut subscriber = broker.subscribe("up/#").await;
    let mut gateway = Gateway::new(&["a", "b", "c"]);
    gateway.routes[2].priority = 10;
    for stream in 0..3 {
        gateway.publish_numbers(stream, 1..=2000).await;
    }
    gateway.start(settings(broker.port));
    let mut seen = [0_u64; 3];
    while seen != [2000; 3] {
        let publish = subscriber.next().await;
        let stream = usize::from(publish.topic["up/plant-7/".len()] - b'a');
        assert_eq!(number(&publish), seen[stream] + 1);
        seen[stream] += 1;
    }
    gateway.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn an_idle_forwarder_shows_that_it_is_alive() {
    let mut gateway = Gateway::new(&["s"]);
    let mut settings = settings(crate::broker::free_port());
    settings.backoff.min = Duration::from_secs(60);
    settings.backoff.max = Duration::from_secs(60);
    gateway.start(settings);
    gateway.until_error("TCP").await;
    let pulse = gateway.forwarder().pulse();
    let beats = pulse();
    gateway.until("beating", |_| pulse() >= beats + 2).await;
    gateway.stop(Duration::from_secs(1)).await;
}
