//! Several addresses: the first that works, back to the first when it returns; nothing lost, nothing out of order between them.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rumqttc::v5::mqttbytes::v5::Publish;
use tidegate::uplink::{Backoff, Settings};
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

use crate::{
    gateway::{Gateway, PATIENCE, number, settings, url},
    peer::{ACCEPTED, Fake, Peer},
};

/// Each with its own waits, so that looks come every 25 to 250 ms.
fn both(first: u16, second: u16) -> Settings {
    let mut settings = settings(first);
    settings.urls.push(url(second));
    settings.backoff = Backoff { min: Duration::from_millis(5), max: Duration::from_millis(50) };
    settings.max_inflight = 16;
    settings
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Takes everything, a little slowly, so that there is always something in flight; what it takes, and what was sent again as such, goes into `taken`.
async fn slowly(mut peer: Peer, taken: mpsc::UnboundedSender<Publish>) -> Option<()> {
    peer.greet(ACCEPTED).await?;
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    loop {
        let publish = peer.publish().await?;
        tick.tick().await;
        taken.send(publish.clone()).ok()?;
        peer.acknowledge(publish.pkid).await?;
    }
}

#[allow(clippy::disallowed_methods, reason = "what a test takes is bounded by what it sends")]
fn book() -> (mpsc::UnboundedSender<Publish>, mpsc::UnboundedReceiver<Publish>) {
    mpsc::unbounded_channel()
}

fn first_arrivals(taken: &[Publish]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    taken.iter().map(number).filter(|number| seen.insert(*number)).collect()
}

async fn until_at(gateway: &Gateway, port: u16) {
    let wanted = format!("mqtt://127.0.0.1:{port}");
    gateway.until(&format!("at {wanted}"), |stats| stats.url.as_deref() == Some(&wanted)).await;
}

#[tokio::test]
async fn the_second_address_serves_while_the_first_is_away_and_the_first_when_it_is_back() {
    let (taken, mut all) = book();
    let first_port = free_port();
    let to_second = taken.clone();
    let mut second = Fake::start(move |_, peer| slowly(peer, to_second.clone())).await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=1500).await;
    gateway.start(both(first_port, second.port));
    until_at(&gateway, second.port).await;
    assert_eq!(gateway.gauge("tidegate_uplink_address"), 2);
    let mut first = Fake::start_on(first_port, move |_, peer| slowly(peer, taken.clone())).await;
    until_at(&gateway, first.port).await;
    assert_eq!((gateway.gauge("tidegate_uplink_address"), second.connections()), (1, 1));
    assert_eq!(gateway.drained(0).await.forwarded, 1500);
    gateway.stop(Duration::from_secs(1)).await;
    let taken: Vec<_> = std::iter::from_fn(|| all.try_recv().ok()).collect();
    assert!(!first.numbers().is_empty() && !second.numbers().is_empty(), "in the middle");
    // The switch is orderly: nothing comes twice.
    assert_eq!(taken.iter().map(number).collect::<Vec<_>>(), (1..=1500).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_in_flight_at_one_server_is_sent_again_at_the_other_and_is_no_duplicate_there() {
    let (taken, mut all) = book();
    let second = Fake::start(move |_, peer| slowly(peer, taken.clone())).await;
    // Takes 100 messages, acknowledges half of the next ones, and goes for good.
    let first = Fake::start(|number, mut peer| async move {
        if number > 0 {
            return None;
        }
        peer.greet(ACCEPTED).await?;
        for count in 0..110_u32 {
            let publish = peer.publish().await?;
            if count < 100 || count % 2 == 0 {
                peer.acknowledge(publish.pkid).await?;
            }
        }
        // So that what it said gets there.
        peer.stream.shutdown().await.ok()?;
        while peer.next().await.is_some() {}
        None
    })
    .await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=400).await;
    gateway.start(both(first.port, second.port));
    assert_eq!(gateway.drained(0).await.forwarded, 400);
    gateway.stop(Duration::from_secs(1)).await;
    let taken: Vec<_> = std::iter::from_fn(|| all.try_recv().ok()).collect();
    assert!(taken.iter().all(|publish| !publish.dup), "the second server never had them");
    let numbers = first_arrivals(&taken);
    assert!(numbers.is_sorted(), "{numbers:?}");
    let unacknowledged: Vec<_> = (100..110_u64).filter(|count| count % 2 == 1).map(|count| count + 1).collect();
    assert!(unacknowledged.iter().chain(&[111, 400]).all(|number| numbers.contains(number)), "{numbers:?}");
    assert!(numbers[0] > 100, "what was acknowledged does not come again");
}

#[tokio::test]
async fn a_first_address_that_can_be_reached_and_takes_no_login_costs_few_switches() {
    let second = Fake::start(|_, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        peer.acknowledge_all().await
    })
    .await;
    // The connection is there, the service behind it is not.
    let first = Fake::start(|_, _| async { None }).await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.start(both(first.port, second.port));
    let begin = Instant::now();
    gateway.publish_numbers(0, 1..=10).await;
    // Holding off: 0.25, 0.5, 1, 2, 3 s.
    gateway.until("watched for a while", |_| begin.elapsed() > Duration::from_secs(3)).await;
    gateway.drained(0).await;
    let seconds = begin.elapsed().as_secs_f64();
    let (switches, looks) = (second.connections() - 1, first.connections());
    assert!((1..=6).contains(&switches), "{switches} switches, {looks} connections in {seconds} s");
    assert!(looks <= 20, "{looks} connections in {seconds} s");
    gateway.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_switch_waits_for_what_is_in_flight_and_is_given_up_if_that_takes_too_long() {
    let is_slow = Arc::new(AtomicBool::new(true));
    let slow = Arc::clone(&is_slow);
    let second = Fake::start(move |_, mut peer| {
        let slow = Arc::clone(&slow);
        async move {
            peer.greet(ACCEPTED).await?;
            loop {
                let publish = peer.publish().await?;
                while slow.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                peer.acknowledge(publish.pkid).await?;
            }
        }
    })
    .await;
    let first_port = free_port();
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=50).await;
    gateway.start(both(first_port, second.port));
    gateway.until("in flight", |stats| stats.in_flight == 16).await;
    let first = Fake::start_on(first_port, |_, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        peer.acknowledge_all().await
    })
    .await;
    // It looks, and waits; the answers are late, but come.
    let deadline = Instant::now() + PATIENCE;
    while first.connections() == 0 {
        assert!(Instant::now() < deadline, "it never looks");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    is_slow.store(false, Ordering::Relaxed);
    until_at(&gateway, first.port).await;
    assert_eq!(gateway.drained(0).await.forwarded, 50);
    assert_eq!(second.connections(), 1);
    gateway.stop(Duration::from_secs(1)).await;
}

/// Real servers: at every QoS what one did not confirm is sent to the other, in order, and sessions do not get mixed up.
#[cfg(feature = "interop")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_mosquittos_share_the_work_without_loss() {
    use crate::{broker::Broker, proxy::Proxy};
    use tidegate::{message::QoS, uplink::Version};

    const LAST: u64 = 4_000;
    for (version, qos) in
        [(Version::V5, QoS::AtLeastOnce), (Version::V5, QoS::ExactlyOnce), (Version::V311, QoS::ExactlyOnce)]
    {
        // The subscribers' deliveries, not the gateway's, would wait for Nagle's algorithm.
        let config = "allow_anonymous true\nset_tcp_nodelay true";
        let (first, second) = (Broker::start(config).await, Broker::start(config).await);
        let proxy = Proxy::start(first.port).await;
        let mut subscribers = (first.subscribe("up/#").await, second.subscribe("up/#").await);
        let mut gateway = Gateway::new(&["s"]);
        gateway.publish_numbers(0, 1..=LAST / 2).await;
        // The first is cut in the middle of whatever goes on, again and again, and then does not answer at all.
        proxy.cut_after(30_001);
        let mut settings = both(proxy.port, second.port);
        (settings.version, settings.qos) = (version, qos);
        settings.connect_timeout = Duration::from_millis(300);
        settings.progress_timeout = Duration::from_millis(500);
        gateway.start(settings);
        gateway.until("cut", |stats| stats.connects >= 3).await;
        proxy.stall(true);
        until_at(&gateway, second.port).await;
        proxy.cut_after(0);
        proxy.cut();
        proxy.stall(false);
        until_at(&gateway, proxy.port).await;
        gateway.publish_numbers(0, LAST / 2 + 1..=LAST).await;
        assert_eq!(gateway.drained(0).await.forwarded, LAST, "{version:?} {qos:?}");
        gateway.stop(Duration::from_secs(1)).await;
        // Marks the end at both.
        let mut all = BTreeSet::new();
        for (subscriber, broker) in [(&mut subscribers.0, &first), (&mut subscribers.1, &second)] {
            let mut marker = Gateway::new(&["s"]);
            marker.publish_numbers(0, 1_000_000..=1_000_000).await;
            marker.start(crate::gateway::settings(broker.port));
            let came = subscriber.numbers_to(1_000_000).await;
            marker.stop(Duration::from_secs(1)).await;
            let mut seen = BTreeSet::new();
            let in_order: Vec<_> = came.iter().copied().filter(|number| seen.insert(*number)).collect();
            assert!(in_order.is_sorted(), "{version:?} {qos:?}: out of order at one server");
            all.extend(came);
        }
        all.remove(&1_000_000);
        assert!(all.iter().copied().eq(1..=LAST), "{version:?} {qos:?}: {} of {LAST} came", all.len());
    }
}
