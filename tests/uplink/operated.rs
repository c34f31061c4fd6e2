//! What operators do to streams, as the upstream sees it.

use std::time::Duration;

use tidegate::store::StreamId;

use crate::{
    fake::{ACCEPTED, Fake},
    gateway::{Gateway, PATIENCE, number, settings},
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
