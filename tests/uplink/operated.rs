//! What operators do to streams, as the upstream sees it.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::Publish;
use tidegate::{
    store::StreamId,
    topic::{TopicFilter, TopicTemplate},
};

use crate::{
    gateway::{Gateway, PATIENCE, message, number, settings},
    peer::{ACCEPTED, Fake},
};

const S: StreamId = StreamId(0);

/// An upstream that takes everything.
async fn obliging() -> Fake {
    Fake::start(|_, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        peer.acknowledge_all().await
    })
    .await
}

#[tokio::test]
async fn a_paused_stream_sends_nothing_while_others_go_on_and_goes_on_in_order() {
    let mut fake = obliging().await;
    let mut gateway = Gateway::new(&["s", "other"]);
    gateway.handle.pause(S, true).await.unwrap();
    gateway.publish_numbers(0, 1..=500).await;
    gateway.start(settings(fake.port));
    gateway.publish_numbers(1, 1001..=1500).await;
    assert_eq!(gateway.drained(1).await.forwarded, 500);
    // A thousand turns of the forwarder later nothing of it has come.
    assert_eq!(fake.numbers(), (1001..=1500).collect::<Vec<_>>());
    let books = gateway.books(0);
    assert_eq!((books.backlog_messages, books.paused), (500, true));
    gateway.handle.pause(S, false).await.unwrap();
    assert_eq!(gateway.drained(0).await.forwarded, 500);
    assert_eq!(fake.numbers(), (1..=500).collect::<Vec<_>>());
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_forwarder_that_is_to_be_replaced_leaves_what_fits_other_rules_to_the_next() {
    let fake = obliging().await;
    let mut gateway = Gateway::new(&["s"]);
    let topic = |parsed: &str| TopicTemplate::parse(parsed, "plant-7").unwrap();
    gateway.routes[0].topic = topic("up/{rest}");
    gateway.start(settings(fake.port));
    gateway.publish_numbers(0, 1..=10).await;
    assert_eq!(gateway.drained(0).await.forwarded, 10);
    gateway.forwarder().hush();
    // By rules that this forwarder does not know it has no topic, and would be dead.
    gateway.publish(0, vec![message("other/x", "11")]).await;
    gateway.stop(PATIENCE).await;
    assert_eq!((gateway.books(0).backlog_messages, gateway.books(0).dead_total()), (1, 0));
    gateway.routes[0].from.push(TopicFilter::new("other/#").unwrap());
    gateway.start(settings(fake.port));
    assert_eq!(gateway.drained(0).await.forwarded, 11);
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn what_is_in_flight_when_a_stream_is_paused_is_still_settled() {
    // Acknowledges the first window only when it is told to.
    let (go, wait) = tokio::sync::watch::channel(false);
    let mut fake = Fake::start(move |_, mut peer| {
        let mut wait = wait.clone();
        async move {
            peer.greet(ACCEPTED).await?;
            let mut ids = Vec::new();
            for _ in 0..10 {
                ids.push(peer.publish().await?.pkid);
            }
            wait.wait_for(|go| *go).await.ok()?;
            for id in ids {
                peer.acknowledge(id).await?;
            }
            peer.acknowledge_all().await
        }
    })
    .await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=100).await;
    let mut settings = settings(fake.port);
    settings.max_inflight = 10;
    gateway.start(settings);
    let first = tokio::time::timeout(PATIENCE, fake.seen.recv()).await.unwrap().unwrap();
    assert_eq!(number(&first), 1);
    gateway.until("a full window", |stats| stats.in_flight == 10).await;
    gateway.handle.pause(S, true).await.unwrap();
    go.send(true).unwrap();
    let mut position = gateway.handle.position(S);
    tokio::time::timeout(PATIENCE, position.wait_for(|position| position.head == 11)).await.unwrap().unwrap();
    gateway.until("nothing in flight", |stats| stats.in_flight == 0).await;
    assert_eq!((fake.numbers(), gateway.books(0).forwarded), ((2..=10).collect(), 10));
    gateway.handle.pause(S, false).await.unwrap();
    assert_eq!(gateway.drained(0).await.forwarded, 100);
    assert_eq!(fake.numbers(), (11..=100).collect::<Vec<_>>());
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn what_was_purged_is_not_sent_though_it_was_read_ahead() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let mut fake = Fake::start(move |_, mut peer| {
        let mut wait = wait.clone();
        async move {
            peer.greet(ACCEPTED).await?;
            let id = peer.publish().await?.pkid;
            wait.wait_for(|go| *go).await.ok()?;
            peer.acknowledge(id).await?;
            peer.acknowledge_all().await
        }
    })
    .await;
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=100).await;
    let mut settings = settings(fake.port);
    settings.max_inflight = 1;
    gateway.start(settings);
    gateway.until("one in flight", |stats| stats.in_flight == 1).await;
    assert_eq!(gateway.handle.purge(S).await.unwrap(), 100);
    gateway.publish_numbers(0, 101..=110).await;
    go.send(true).unwrap();
    let books = gateway.drained(0).await;
    assert_eq!((books.purged, books.forwarded), (100, 10));
    let expected: Vec<u64> = std::iter::once(1).chain(101..=110).collect();
    assert_eq!(fake.numbers(), expected);
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_stream_that_goes_to_another_uplink_goes_on_where_it_stood() {
    let (mut old, mut new) = (obliging().await, obliging().await);
    let mut gateway = Gateway::new(&["s"]);
    gateway.publish_numbers(0, 1..=50).await;
    gateway.start(settings(old.port));
    assert_eq!(gateway.drained(0).await.forwarded, 50);
    gateway.stop(PATIENCE).await;
    gateway.publish_numbers(0, 51..=100).await;
    gateway.start(settings(new.port));
    assert_eq!(gateway.drained(0).await.forwarded, 100);
    assert_eq!((old.numbers(), new.numbers()), ((1..=50).collect(), (51..=100).collect()));
    gateway.stop(Duration::ZERO).await;
}

const HOUR: Duration = Duration::from_secs(3600);

/// The number, `tg-id` and whether it is marked as a replay.
fn told(publish: &Publish) -> (u64, String, bool) {
    let user = &publish.properties.as_ref().unwrap().user_properties;
    let of = |name: &str| user.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    (number(publish), of("tg-id").unwrap(), of("tg-replay").as_deref() == Some("1"))
}

impl Fake {
    fn told(&mut self) -> Vec<(u64, String, bool)> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).map(|publish| told(&publish)).collect()
    }
}

async fn replay_done(gateway: &Gateway) {
    let mut position = gateway.handle.replay_position(S);
    let done = position.wait_for(|position| position.next == position.end);
    tokio::time::timeout(PATIENCE, done).await.expect("the replay ends").unwrap();
}

#[tokio::test]
async fn a_replay_sends_the_same_messages_again_marked_and_beside_the_live_ones() {
    let mut fake = obliging().await;
    let mut gateway = Gateway::keeping(&["s"], HOUR);
    gateway.publish_numbers(0, 1..=1000).await;
    gateway.start(settings(fake.port));
    gateway.drained(0).await;
    gateway.handle.flush(PATIENCE).await.unwrap();
    let first = fake.told();
    assert!(first.len() == 1000 && first.iter().all(|(_, _, replay)| !replay));
    assert_eq!(gateway.handle.replay(S, i64::MIN, i64::MAX).await.unwrap(), 1000);
    gateway.publish_numbers(0, 1001..=2000).await;
    let books = gateway.drained(0).await;
    replay_done(&gateway).await;
    let (again, live): (Vec<_>, Vec<_>) = fake.told().into_iter().partition(|(_, _, replay)| *replay);
    assert_eq!(live.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), (1001..=2000).collect::<Vec<_>>());
    let unmarked: Vec<_> = again.into_iter().map(|(number, id, _)| (number, id, false)).collect();
    assert_eq!(unmarked, first, "the same ids, in the same order");
    let now = gateway.books(0);
    assert_eq!((now.replayed, now.accepted, now.forwarded), (1000, books.accepted, books.forwarded));
    assert!(now.balances());
    gateway.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_replay_goes_on_after_lost_connections_and_restarts() {
    // Hangs up after 30 messages, each time.
    let mut fake = Fake::start(|_, mut peer| async move {
        peer.greet(ACCEPTED).await?;
        for _ in 0..30 {
            let id = peer.publish().await?.pkid;
            peer.acknowledge(id).await?;
        }
        None
    })
    .await;
    let mut gateway = Gateway::keeping(&["s"], HOUR);
    gateway.publish_numbers(0, 1..=100).await;
    gateway.start(settings(fake.port));
    gateway.drained(0).await;
    gateway.stop(PATIENCE).await;
    gateway.handle.flush(PATIENCE).await.unwrap();
    fake.told();
    gateway.handle.replay(S, i64::MIN, i64::MAX).await.unwrap();
    gateway.handle.pause(S, true).await.unwrap();
    gateway.start(settings(fake.port));
    gateway.until("connected", |stats| stats.connects > 0).await;
    assert_eq!(fake.told(), [], "a paused stream replays nothing");
    gateway.handle.pause(S, false).await.unwrap();
    let mut position = gateway.handle.replay_position(S);
    tokio::time::timeout(PATIENCE, position.wait_for(|position| position.next > 10)).await.unwrap().unwrap();
    gateway.stop(Duration::ZERO).await;
    gateway.start(settings(fake.port));
    replay_done(&gateway).await;
    assert_eq!(gateway.books(0).replayed, 100);
    let mut numbers: Vec<_> = fake.told().into_iter().map(|(number, _, replay)| (number, replay)).collect();
    assert!(numbers.iter().all(|(_, replay)| *replay));
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 100);
    gateway.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_replay_that_was_stopped_sends_nothing_more_and_another_begins_at_its_beginning() {
    let mut fake = obliging().await;
    let mut gateway = Gateway::keeping(&["s"], HOUR);
    gateway.publish_numbers(0, 1..=200).await;
    gateway.start(settings(fake.port));
    gateway.drained(0).await;
    gateway.handle.flush(PATIENCE).await.unwrap();
    gateway.stop(PATIENCE).await;
    fake.told();
    gateway.handle.replay(S, i64::MIN, i64::MAX).await.unwrap();
    assert_eq!(gateway.handle.stop_replay(S).await.unwrap(), 200);
    gateway.start(settings(fake.port));
    for round in 1..=3 {
        assert_eq!(gateway.handle.replay(S, i64::MIN, i64::MAX).await.unwrap(), 200);
        replay_done(&gateway).await;
        let numbers: Vec<_> = fake.told().into_iter().map(|(number, ..)| number).collect();
        assert_eq!((numbers, gateway.books(0).replayed), ((1..=200).collect(), 200 * round));
    }
    gateway.stop(Duration::ZERO).await;
}
