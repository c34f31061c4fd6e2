//! The rate of an uplink, as the upstream sees it: held over time, no burst beyond the documented one, also across reconnects.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tidegate::message::QoS;

use crate::{
    gateway::{Gateway, message, settings},
    peer::{ACCEPTED, Fake},
};

/// What a bucket saves up.
const BURST_S: f64 = 0.1;

/// When each message came, and how large it was.
type Arrivals = Arc<Mutex<Vec<(Instant, usize)>>>;

/// An upstream that takes `per_connection` messages of each connection and hangs up.
async fn taking(per_connection: usize) -> (Fake, Arrivals) {
    let arrivals = Arrivals::default();
    let book = Arc::clone(&arrivals);
    let fake = Fake::start(move |_, mut peer| {
        let book = Arc::clone(&book);
        async move {
            peer.greet(ACCEPTED).await?;
            for _ in 0..per_connection {
                let publish = peer.publish().await?;
                book.lock().unwrap().push((Instant::now(), publish.payload.len()));
                if publish.pkid != 0 {
                    peer.acknowledge(publish.pkid).await?;
                }
            }
            None
        }
    })
    .await;
    (fake, arrivals)
}

/// No more than the rate and one burst has come at any time; `unit` gives what a message takes of the allowance.
fn check(arrivals: &Arrivals, begin: Instant, rate: f64, unit: impl Fn(usize) -> f64) {
    let mut sum = 0.0;
    let mut largest = 0.0_f64;
    for (at, bytes) in arrivals.lock().unwrap().iter() {
        // The last one may spend the future.
        let allowed = rate * ((*at - begin).as_secs_f64() + BURST_S) + largest.max(unit(*bytes));
        largest = largest.max(unit(*bytes));
        sum += unit(*bytes);
        assert!(sum <= allowed + 0.001, "{sum} of {allowed} after {:?}", *at - begin);
    }
}

async fn run(rate: (u64, u64), count: u64, bytes: usize, per_connection: usize, qos: QoS) -> (Arrivals, Instant, Fake) {
    let (fake, arrivals) = taking(per_connection).await;
    let mut gateway = Gateway::new(&["s", "t"]);
    for stream in 0..2 {
        let name = ["s/x", "t/x"][stream as usize];
        let payload = |number: u64| format!("{number} {}", "x".repeat(bytes));
        gateway.publish(stream, (1..=count / 2).map(|number| message(name, payload(number))).collect()).await;
    }
    let mut settings = settings(fake.port);
    (settings.messages_per_s, settings.bytes_per_s, settings.qos) = (rate.0, rate.1, qos);
    let begin = Instant::now();
    gateway.start(settings);
    gateway.drained(0).await;
    gateway.drained(1).await;
    gateway.stop(Duration::from_secs(1)).await;
    (arrivals, begin, fake)
}

#[tokio::test]
async fn a_rate_in_messages_is_held_and_used_over_reconnects_and_streams() {
    let (arrivals, begin, fake) = run((200, 0), 300, 10, 25, QoS::AtLeastOnce).await;
    check(&arrivals, begin, 200.0, |_| 1.0);
    // Twelve fresh bursts of twenty would have been most of it.
    assert!(fake.connections() >= 12, "{}", fake.connections());
    let seconds = begin.elapsed().as_secs_f64();
    assert!((1.4..6.0).contains(&seconds), "300 messages at 200/s in {seconds} s");
}

#[tokio::test]
async fn a_rate_in_bytes_is_held_also_at_qos_0() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let (arrivals, begin, _fake) = run((0, 100_000), 100, 1_000, 1_000, qos).await;
        #[allow(clippy::cast_precision_loss, reason = "sizes of a test")]
        check(&arrivals, begin, 100_000.0, |bytes| bytes as f64);
        let seconds = begin.elapsed().as_secs_f64();
        assert!((0.8..4.0).contains(&seconds), "100 kB at 100 kB/s in {seconds} s");
    }
}

#[tokio::test]
async fn zero_is_no_limit() {
    let (arrivals, begin, _fake) = run((0, 0), 2_000, 10, 10_000, QoS::AtLeastOnce).await;
    assert_eq!(arrivals.lock().unwrap().len(), 2_000);
    assert!(begin.elapsed() < Duration::from_secs(30));
}
