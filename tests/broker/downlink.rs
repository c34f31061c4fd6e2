//! Downlinks: an upstream that speaks bytes, a broker on its real store, and clients in between.

use std::{sync::atomic::Ordering, time::Duration};

use tidegate::{
    downlink::{self, Downlinks, Settings},
    forward::{self, Forwarder, Route},
    message::QoS,
    stats::DownlinkStats,
    store::StreamId,
    topic::{TopicFilter, TopicTemplate},
    uplink::{self, Backoff, Url, Version},
};
use tokio::{net::TcpListener, time::timeout};

use super::rig::*;

/// CONNACK of MQTT 5: accepted, without and with a session.
const NEW: &[u8] = &[0x20, 3, 0, 0, 0];
const PRESENT: &[u8] = &[0x20, 3, 1, 0, 0];

/// What comes down an uplink of a rig, and its upstream.
struct Way {
    listener: TcpListener,
    forwarder: Forwarder,
    downlinks: Downlinks,
    books: Box<dyn Fn() -> Vec<DownlinkStats> + Send + Sync>,
}

fn uplink_settings(port: u16, qos: QoS) -> uplink::Settings {
    uplink::Settings {
        name: "cloud".to_owned(),
        urls: vec![Url { tls: false, host: "127.0.0.1".to_owned(), port }],
        version: Version::V5,
        client_id: "gw".to_owned(),
        username: None,
        password_file: None,
        ca: None,
        identity: None,
        alpn: None,
        qos,
        max_inflight: 16,
        keep_alive: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
        progress_timeout: Duration::from_secs(30),
        backoff: Backoff { min: Duration::from_millis(5), max: Duration::from_millis(40) },
        messages_per_s: 0,
        bytes_per_s: 0,
    }
}

/// A downlink `commands`: `cmd/#` to `local/{rest}`.
fn commands(ttl: Duration) -> Settings {
    Settings {
        name: "commands".to_owned(),
        from: 0,
        filters: vec![TopicFilter::new("cmd/#").unwrap()],
        topic: TopicTemplate::parse("local/{rest}", "gw").unwrap(),
        qos: QoS::ExactlyOnce,
        ttl,
    }
}

impl Way {
    async fn new(rig: &Rig) -> Self {
        Self::with(rig, QoS::AtLeastOnce, Duration::from_secs(600)).await
    }

    /// With the stream of the rig going up.
    async fn with(rig: &Rig, qos: QoS, ttl: Duration) -> Self {
        Self::on(rig, TcpListener::bind("127.0.0.1:0").await.unwrap(), qos, ttl)
    }

    fn on(rig: &Rig, listener: TcpListener, qos: QoS, ttl: Duration) -> Self {
        let port = listener.local_addr().unwrap().port();
        let settings = [commands(ttl)];
        let (mut inbound, arrivals) = downlink::connect(&settings, 1);
        let filter = || vec![TopicFilter::new("s/#").unwrap()];
        let topic = TopicTemplate::identity();
        let route = Route {
            stream: StreamId(0),
            name: "all".to_owned(),
            from: filter(),
            topic,
            priority: 0,
            ttl: None,
            envelope: forward::Envelope::None,
        };
        let (handle, registry) = (rig.handle.clone(), &rig.registry);
        let uplink = uplink_settings(port, qos);
        let forwarder =
            forward::start_both_ways(uplink, vec![route], "gw", handle.clone(), registry, inbound.remove(0)).unwrap();
        let downlinks =
            downlink::start(&settings, &["cloud".to_owned()], arrivals, &handle, &rig.broker, registry).unwrap();
        let books = Box::new(downlinks.watcher());
        Self { listener, forwarder, downlinks, books }
    }

    /// The gateway's next connection, with this answer; what it asked for is in the second.
    async fn upstream(&self, connack: &[u8]) -> (Client, Vec<u8>) {
        let (stream, _) = timeout(DEADLINE, self.listener.accept()).await.expect("the gateway connects").unwrap();
        let mut upstream = Client { stream };
        let connect = upstream.packet().await;
        assert_eq!((connect[0], connect[9] & 2), (0x10, 0), "never a clean start: {connect:02X?}");
        upstream.send_bytes(connack).await;
        let subscribe = upstream.packet().await;
        assert_eq!(subscribe[0], 0x82, "{subscribe:02X?}");
        upstream.send_bytes(&[0x90, 4, subscribe[2], subscribe[3], 0, 2]).await;
        (upstream, connect)
    }

    fn stats(&self) -> DownlinkStats {
        let stats = (self.books)().remove(0);
        assert!(stats.balances(), "{stats:?}");
        stats
    }

    async fn waiting(&self, count: u64) {
        until(&format!("{count} wait"), || self.stats().waiting_messages == count).await;
    }

    async fn stop(self) {
        self.downlinks.stop().await.unwrap();
        self.forwarder.stop(Duration::ZERO).await.unwrap();
    }
}

/// The gateway that would be found after a crash now, with its downlink.
async fn after_a_crash(rig: &Rig) -> (Rig, Way) {
    let rig = rig.after_a_crash().await;
    let way = Way::new(&rig).await;
    (rig, way)
}

/// Topic and payload of an MQTT 3.1.1 PUBLISH.
fn content(packet: &[u8]) -> (String, String) {
    assert_eq!(packet[0] >> 4, 3, "{packet:02X?}");
    let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let rest = &packet[4 + len..];
    let payload = if packet[0] & 6 == 0 { rest } else { &rest[2..] };
    (String::from_utf8(packet[4..4 + len].to_vec()).unwrap(), String::from_utf8(payload.to_vec()).unwrap())
}

/// The packet id of an MQTT 3.1.1 PUBLISH at QoS 1 or 2.
fn id_of(packet: &[u8]) -> [u8; 2] {
    let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    [packet[4 + len], packet[5 + len]]
}

async fn expect_command(client: &mut Client, topic: &str, payload: &str) -> Vec<u8> {
    let packet = client.packet().await;
    assert_eq!(content(&packet), (topic.to_owned(), payload.to_owned()));
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_on_disk_when_the_upstream_hears_of_it() {
    let rig = Rig::new().await;
    let way = Way::new(&rig).await;
    let (mut upstream, connect) = way.upstream(NEW).await;
    let asks = |property: &[u8]| connect.windows(property.len()).any(|window| window == property);
    assert!(asks(&[0x11, 0, 9, 0x3a, 0x80]) && asks(&[0x21, 0, 64]), "session expiry, Receive Maximum: {connect:02X?}");
    upstream.send_bytes(&publish(5, 0x02, "cmd/a", 7, b"one")).await;
    upstream.expect("40 02 0007").await;
    let (after, again) = after_a_crash(&rig).await;
    again.waiting(1).await;
    let mut client = after.connected(4, "c").await;
    client.send_bytes(&subscribe(4, 1, "local/#", 1)).await;
    client.expect("90 03 0001 01").await;
    expect_command(&mut client, "local/a", "one").await;
    // Refusals: no topic here, and nobody's.
    upstream.send_bytes(&publish(5, 0x02, "cmd/+", 8, b"")).await;
    upstream.expect("40 03 0008 90").await;
    upstream.send_bytes(&publish(5, 0x02, "other", 9, b"")).await;
    upstream.expect("40 02 0009").await;
    assert_eq!(way.stats().received, 1);
    assert_eq!(rig.metric("tidegate_downlink_refused_total", "topic"), 1);
    assert_eq!(rig.metric("tidegate_downlink_refused_total", "unmatched"), 1);
    again.stop().await;
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_qos_2_a_command_is_taken_once_wherever_a_crash_comes() {
    let rig = Rig::new().await;
    let way = Way::new(&rig).await;
    let mut upstream = way.upstream(NEW).await.0;
    upstream.send_bytes(&publish(5, 0x04, "cmd/a", 9, b"one")).await;
    upstream.expect("50 02 0009").await;
    // It dies with PUBREC on its way: the message comes again, to another process, and is known.
    let rig = rig.after_a_crash().await;
    let Way { listener, forwarder, downlinks, .. } = way;
    forwarder.stop(Duration::ZERO).await.unwrap();
    downlinks.stop().await.unwrap();
    drop(upstream);
    let way = Way::on(&rig, listener, QoS::AtLeastOnce, Duration::from_secs(600));
    let mut upstream = way.upstream(PRESENT).await.0;
    upstream.send_bytes(&publish(5, 0x0c, "cmd/a", 9, b"one")).await;
    upstream.expect("50 02 0009").await;
    assert_eq!(way.stats().received, 1);
    // The connection is lost, the session is not.
    drop(upstream);
    let (stream, _) = way.listener.accept().await.unwrap();
    let mut upstream = Client { stream };
    upstream.packet().await;
    upstream.send_bytes(PRESENT).await;
    upstream.send_bytes(&publish(5, 0x0c, "cmd/a", 9, b"one")).await;
    upstream.expect("50 02 0009").await;
    upstream.send("62 02 0009").await;
    upstream.expect("70 02 0009").await;
    assert_eq!(way.stats().received, 1, "and nothing was subscribed anew");
    upstream.send_bytes(&publish(5, 0x04, "cmd/a", 9, b"two")).await;
    upstream.expect("50 02 0009").await;
    assert_eq!(way.stats().received, 2);
    // The upstream has lost its session: the same id is another message.
    drop(upstream);
    let mut upstream = way.upstream(NEW).await.0;
    upstream.send_bytes(&publish(5, 0x04, "cmd/a", 9, b"three")).await;
    upstream.expect("50 02 0009").await;
    assert_eq!(way.stats().received, 3);
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_topic_whose_device_is_away_holds_up_no_other() {
    let rig = Rig::new().await;
    let way = Way::new(&rig).await;
    let mut upstream = way.upstream(NEW).await.0;
    for id in 1..=20u16 {
        let topic = if id % 2 == 0 { "cmd/here" } else { "cmd/away" };
        upstream.send_bytes(&publish(5, 0x02, topic, id, id.to_string().as_bytes())).await;
        upstream.packet().await;
    }
    let mut here = rig.connected(4, "here").await;
    here.send_bytes(&subscribe(4, 1, "local/here", 1)).await;
    here.expect("90 03 0001 01").await;
    for id in (2..=20).step_by(2) {
        let packet = expect_command(&mut here, "local/here", &id.to_string()).await;
        let [high, low] = id_of(&packet);
        here.send_bytes(&[0x40, 2, high, low]).await;
    }
    way.waiting(10).await;
    let stay = connect(4, "away", 0, 0, &[]);
    let mut away = rig.client().await;
    away.send_bytes(&stay).await;
    away.expect_connack(4, false).await;
    away.send_bytes(&subscribe(4, 1, "local/away", 1)).await;
    away.expect("90 03 0001 01").await;
    // Into its queue, whether it acknowledges or not.
    way.waiting(0).await;
    for id in (1..=20).step_by(2) {
        expect_command(&mut away, "local/away", &id.to_string()).await;
    }
    assert_eq!((way.stats().received, way.stats().delivered), (20, 20));
    assert_eq!(rig.backlog(), 0);
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_before_it_acknowledged_leaves_the_command_for_the_next() {
    let rig = Rig::new().await;
    let way = Way::new(&rig).await;
    let mut upstream = way.upstream(NEW).await.0;
    let mut first = rig.connected(4, "first").await;
    first.subscribe(4, "local/#", 1).await;
    for id in 1..=2u8 {
        upstream.send_bytes(&publish(5, 0x02, "cmd/a", id.into(), &[b'0' + id])).await;
        upstream.expect_bytes(&[0x40, 2, 0, id]).await;
        expect_command(&mut first, "local/a", &id.to_string()).await;
    }
    assert_eq!((way.stats().waiting_messages, way.stats().delivered), (2, 0));
    let mut second = rig.connected(4, "second").await;
    second.subscribe(4, "local/+", 1).await;
    second.expect_quiet().await;
    drop(first);
    for id in 1..=2 {
        let packet = expect_command(&mut second, "local/a", &id.to_string()).await;
        let [high, low] = id_of(&packet);
        second.send_bytes(&[0x40, 2, high, low]).await;
    }
    way.waiting(0).await;
    second.expect_quiet().await;
    assert_eq!(way.stats().delivered, 2);
    // At QoS 0 it is enough that it was sent.
    let mut third = rig.connected(4, "third").await;
    third.subscribe(4, "local/b", 0).await;
    second.send("A2 0B 0003 0007 6C6F63616C2F2B").await;
    second.expect("B0 02 0003").await;
    upstream.send_bytes(&publish(5, 0x02, "cmd/b", 3, b"3")).await;
    upstream.expect("40 02 0003").await;
    expect_command(&mut third, "local/b", "3").await;
    way.waiting(0).await;
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_subscription_passes_a_command_on_when_its_member_goes() {
    let rig = Rig::new().await;
    let way = Way::new(&rig).await;
    let mut upstream = way.upstream(NEW).await.0;
    let mut one = rig.connected(5, "one").await;
    one.subscribe(5, "$share/g/local/#", 1).await;
    upstream.send_bytes(&publish(5, 0x02, "cmd/a", 1, b"1")).await;
    upstream.expect("40 02 0001").await;
    assert_eq!(one.packet().await[0] >> 4, 3);
    let mut other = rig.connected(4, "other").await;
    other.subscribe(4, "$share/g/local/#", 1).await;
    other.expect_quiet().await;
    drop(one);
    let packet = expect_command(&mut other, "local/a", "1").await;
    let [high, low] = id_of(&packet);
    other.send_bytes(&[0x40, 2, high, low]).await;
    way.waiting(0).await;
    other.expect_quiet().await;
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_upstream_is_retained_here_and_does_not_wait() {
    let rig = Rig::new().await;
    let way = Way::new(&rig).await;
    let mut upstream = way.upstream(NEW).await.0;
    upstream.send_bytes(&publish(5, 0x03, "cmd/state", 1, b"on")).await;
    upstream.expect("40 02 0001").await;
    until("it is delivered", || way.stats().delivered == 1).await;
    let rig = {
        way.stop().await;
        rig.restart().await
    };
    let mut client = rig.connected(4, "c").await;
    client.send_bytes(&subscribe(4, 1, "local/#", 1)).await;
    client.expect("90 03 0001 01").await;
    let packet = expect_command(&mut client, "local/state", "on").await;
    assert_eq!(packet[0] & 1, 1, "as retained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_takes_in_time_is_expired() {
    let rig = Rig::new().await;
    let way = Way::with(&rig, QoS::AtLeastOnce, Duration::from_secs(2)).await;
    let mut upstream = way.upstream(NEW).await.0;
    // With a message expiry interval of 1 s, and without.
    upstream.send_bytes(&packet(0x32, b"\0\x05cmd/a\0\x01\x05\x02\0\0\0\x01x")).await;
    upstream.expect("40 02 0001").await;
    upstream.send_bytes(&publish(5, 0x02, "cmd/b", 2, b"y")).await;
    upstream.expect("40 02 0002").await;
    way.waiting(1).await;
    assert_eq!(way.stats().expired, 1, "{:?}", way.stats());
    way.waiting(0).await;
    assert_eq!((way.stats().expired, way.stats().delivered), (2, 0));
    let mut late = rig.connected(4, "late").await;
    late.subscribe(4, "local/#", 1).await;
    late.expect_quiet().await;
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_not_acknowledged_and_forwarding_goes_on() {
    const LARGE: usize = 250 << 10;
    let rig = Rig::new().await;
    let way = Way::new(&rig).await;
    let mut upstream = way.upstream(NEW).await.0;
    let most = downlink::WAITING_BYTES / LARGE as u64;
    let payload = vec![b'x'; LARGE];
    for id in 1..=u16::try_from(most).unwrap() {
        upstream.send_bytes(&publish(5, 0x02, "cmd/a", id, &payload)).await;
        upstream.expect_bytes(&[&[0x40, 2][..], &id.to_be_bytes()].concat()).await;
    }
    upstream.send_bytes(&publish(5, 0x02, "cmd/a", 9001, &payload)).await;
    upstream.send_bytes(&publish(5, 0x02, "cmd/a", 9002, b"small")).await;
    // The other way is open, and the next packet is not an acknowledgement.
    let mut sensor = rig.connected(4, "sensor").await;
    sensor.send_bytes(&publish(4, 0x02, "s/1", 1, b"up")).await;
    sensor.expect("40 02 0001").await;
    let up = upstream.packet().await;
    assert_eq!(up[0] & 0xf6, 0x32, "{:02X?}", &up[..8]);
    assert_eq!((way.stats().waiting_messages, way.stats().received), (most, most));
    // Somebody comes and makes room, at QoS 0, so by being written to.
    let mut client = rig.connected(4, "c").await;
    client.subscribe(4, "local/#", 0).await;
    let reading = tokio::spawn(async move {
        for _ in 0..most + 2 {
            client.packet().await;
        }
        client
    });
    upstream.expect("40 02 2329").await;
    upstream.expect("40 02 232A").await;
    let _client = timeout(DEADLINE, reading).await.unwrap().unwrap();
    way.waiting(0).await;
    assert_eq!(way.stats().delivered, most + 2);
    way.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subscription_stops_nothing_and_ids_of_a_former_process_are_released() {
    let rig = Rig::new().await;
    let way = Way::with(&rig, QoS::ExactlyOnce, Duration::from_secs(600)).await;
    let (stream, _) = way.listener.accept().await.unwrap();
    let mut upstream = Client { stream };
    upstream.packet().await;
    upstream.send_bytes(PRESENT).await;
    assert_eq!(upstream.packet().await[0], 0x82);
    upstream.send("90 04 FFFF 00 87").await;
    let mut sensor = rig.connected(4, "sensor").await;
    sensor.send_bytes(&publish(4, 0x02, "s/1", 1, b"up")).await;
    sensor.expect("40 02 0001").await;
    upstream.expect("62 02 0001").await;
    let up = upstream.packet().await;
    assert_eq!(up[0], 0x34, "{up:02X?}");
    upstream.send("70 02 0001").await;
    upstream.send("50 02 0001").await;
    upstream.expect("62 02 0001").await;
    upstream.send("70 02 0001").await;
    until("it is forwarded", || rig.handle.streams()[0].forwarded == 1).await;
    assert!(way.forwarder.connected().load(Ordering::Relaxed));
    way.stop().await;
}
