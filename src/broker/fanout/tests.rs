//! Tests of the fan-out as its callers see it.

use std::time::Instant;

use super::*;
use crate::{message::Message, topic::TopicName};
use bytes::Bytes;

#[test]
fn a_round_says_at_once_when_a_subscriber_needs_a_moment() {
    let fanout = Fanout::new(Drops::unregistered());
    let options = Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id: None };
    let (subscriber, publisher) = (Subscriber::new("s".into()), Subscriber::new("p".into()));
    fanout.subscribe(&subscriber, &TopicFilter::new("t").unwrap(), options);
    fanout.connect(&subscriber, 10);
    let mut round = fanout.round(Instant::now());
    let mut count = 0;
    while !round.is_congested(&publisher) {
        let topic = TopicName::new("t").unwrap();
        let (payload, qos) = (Bytes::new(), QoS::AtLeastOnce);
        round.publish(Message { topic, payload, qos, retain: false, client: "p".into(), properties: None });
        count += 1;
    }
    assert_eq!(count, crate::broker::limits::QUEUE_SOFT);
    assert!(!round.is_congested(&subscriber), "nobody waits for himself");
    assert_eq!(round.take_congested(&publisher).len(), 1);
}

#[test]
fn clients_that_read_nothing_leave_room_for_those_that_do() {
    let fanout = Fanout::new(Drops::unregistered());
    let options = Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id: None };
    let subscribe = |id: usize, filter: &str| {
        let subscriber = Subscriber::new(id.to_string().into());
        fanout.subscribe(&subscriber, &TopicFilter::new(filter).unwrap(), options);
        subscriber
    };
    let publish = |topic: &str, payload: usize| {
        let message = Message {
            topic: TopicName::new(topic).unwrap(),
            payload: Bytes::from(vec![0; payload]),
            qos: QoS::AtLeastOnce,
            retain: false,
            client: "p".into(),
            properties: None,
        };
        fanout.round(Instant::now()).publish(message);
    };
    let stuck: Vec<_> = (0..20).map(|id| subscribe(id, "big")).collect();
    let (reader, away) = (subscribe(20, "small"), subscribe(21, "small"));
    fanout.connect(&reader, 10);
    (0..4).for_each(|_| publish("big", 2 << 20));
    assert!(fanout.drops.total() > 0, "the bound over all sessions is reached");
    (0..10).for_each(|_| publish("small", 100));
    let mut got = VecDeque::new();
    fanout.take(&reader, usize::MAX, &mut got);
    assert_eq!(got.len(), 10);
    assert!(away.mailbox().is_empty());
    for subscriber in stuck.iter().chain([&away]) {
        fanout.clear(subscriber);
    }
    assert_eq!(fanout.queued.load(Ordering::Relaxed), 0);
}

fn fill(fanout: &Fanout, count: usize) {
    let mut round = fanout.round(Instant::now());
    for _ in 0..count {
        let topic = TopicName::new("t").unwrap();
        let (payload, qos) = (Bytes::new(), QoS::AtLeastOnce);
        round.publish(Message { topic, payload, qos, retain: false, client: "p".into(), properties: None });
    }
}

/// Once, publishers waited 50 ms in all and then took a subscriber for slow, however fast it was: a burst that takes it
/// longer than that cost it messages.
#[tokio::test]
async fn publishers_wait_for_a_subscriber_as_long_as_it_keeps_taking_messages() {
    let patience = Duration::from_millis(200);
    let fanout = Arc::new(Fanout::new(Drops::unregistered()));
    let options = Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id: None };
    let subscriber = Subscriber::new("s".into());
    fanout.subscribe(&subscriber, &TopicFilter::new("t").unwrap(), options);
    fanout.connect(&subscriber, 10);
    fill(&fanout, 9000);
    let taking = tokio::spawn({
        let (fanout, subscriber) = (Arc::clone(&fanout), Arc::clone(&subscriber));
        async move {
            // More than the least in each patience, and several of these in all.
            let mut inbox = VecDeque::new();
            while fanout.take(&subscriber, usize::try_from(KEEPS_UP).unwrap() + 100, &mut inbox) {
                inbox.clear();
                tokio::time::sleep(patience / 4).await;
            }
        }
    });
    let start = Instant::now();
    wait([Arc::clone(&subscriber)].into_iter().collect(), patience).await;
    assert!(start.elapsed() > patience, "the test is to last longer than one patience");
    assert!(subscriber.is_low(), "nobody waited until it had caught up");
    fill(&fanout, 3000);
    assert!(subscriber.mailbox().is_congested(), "it passes for slow");
    taking.abort();
    // One that takes nothing is given up at once, and not waited for again.
    wait([Arc::clone(&subscriber)].into_iter().collect(), Duration::from_millis(1)).await;
    assert!(!subscriber.mailbox().is_congested());
}

fn durable(id: u32) -> Arc<Subscriber> {
    let subscriber = Subscriber::new(id.to_string().into());
    subscriber.attach(SessionId(id), 1, 1);
    subscriber
}

fn message(topic: &str, qos: QoS) -> Message {
    Message {
        topic: TopicName::new(topic).unwrap(),
        payload: Bytes::from_static(b"p"),
        qos,
        retain: false,
        client: "p".into(),
        properties: None,
    }
}

#[test]
fn routing_makes_one_copy_for_each_lasting_session_and_takes_back_what_never_arrives() {
    let fanout = Fanout::new(Drops::unregistered());
    let options = |qos, id| Options { qos, no_local: false, retain_as_published: false, id };
    let (one, two) = (durable(1), durable(2));
    let brief = Subscriber::new("brief".into());
    for (subscriber, filter, qos, id) in [
        (&one, "a/#", QoS::AtMostOnce, Some(1)),
        (&one, "a/b", QoS::AtLeastOnce, Some(2)),
        (&two, "a/b", QoS::AtMostOnce, None),
        (&brief, "a/b", QoS::ExactlyOnce, None),
    ] {
        assert!(fanout.subscribe(subscriber, &TopicFilter::new(filter).unwrap(), options(qos, id)));
    }
    for subscriber in [&one, &two, &brief] {
        fanout.connect(subscriber, 10);
    }
    assert!(fanout.route(&message("a/b", QoS::AtMostOnce)).copies.is_empty());
    let routed = fanout.route(&message("a/b", QoS::ExactlyOnce));
    let [copy] = &routed.copies[..] else { panic!("{routed:?}") };
    let mut ids = copy.subscription_ids.clone().unwrap();
    ids.sort_unstable();
    assert_eq!((copy.session, copy.qos, &*ids), (SessionId(1), QoS::AtLeastOnce, &[1, 2][..]));
    assert_eq!(one.waiting(), 1);
    drop(routed);
    assert_eq!(one.waiting(), 0);
    // After the store: the others get theirs in memory, and the one with a copy does not get it twice.
    let mut routed = fanout.route(&message("a/b", QoS::AtLeastOnce));
    routed.copies[0].seq = Some(1);
    fanout.round(Instant::now()).deliver(message("a/b", QoS::AtLeastOnce), &routed.copies, routed.onward, false);
    assert_eq!((one.waiting(), one.mailbox().is_empty()), (1, true));
    assert!(!two.mailbox().is_empty() && !brief.mailbox().is_empty());
}

#[test]
fn a_connection_is_told_to_read_what_memory_does_not_have_and_woken_for_what_is_new() {
    let fanout = Fanout::new(Drops::unregistered());
    let subscriber = durable(1);
    let options = Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id: None };
    fanout.subscribe(&subscriber, &TopicFilter::new("t").unwrap(), options);
    let arrive = |seq| {
        let mut routed = fanout.route(&message("t", QoS::AtLeastOnce));
        routed.copies[0].seq = seq;
        fanout.round(Instant::now()).deliver(message("t", QoS::AtLeastOnce), &routed.copies, routed.onward, false);
    };
    arrive(Some(1));
    subscriber.connect_queue(10, QueueLimits::default(), 1);
    let next = |cursor| match fanout.next(&subscriber, cursor) {
        Next::Cached(_) => "cached".to_owned(),
        Next::Read(until) => format!("read to {until}"),
        Next::Asleep => "asleep".to_owned(),
    };
    assert_eq!(next(1), "read to 2", "it came while nobody was there");
    assert_eq!(next(2), "read to 2", "what nobody told memory of may be there at the beginning");
    assert_eq!(next(2), "asleep");
    arrive(Some(3));
    assert_eq!(next(2), "read to 4", "2 is on its way on another connection, or dropped");
    assert_eq!(next(3), "cached");
    arrive(None);
    assert_eq!((next(4), fanout.drops.total()), ("asleep".to_owned(), 1));
    drop(fanout.route(&message("t", QoS::AtLeastOnce)));
    assert_eq!(next(4), "read to 4", "one that came to nothing may have arrived all the same");
    assert_eq!(fanout.queued.load(Ordering::Relaxed), 0);
}
