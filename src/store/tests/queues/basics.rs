//! What goes into a queue comes out of it.

use super::*;
use crate::message::Properties;

#[test]
fn a_queued_message_comes_back_as_it_was_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let (x, y) = (bench.save("x", UNLIMITED), bench.save("y", UNLIMITED));
    let mut rich = message(1);
    rich.qos = QoS::ExactlyOnce;
    rich.retain = true;
    rich.payload = Bytes::from(vec![7; 100_000]);
    rich.properties = Some(Box::new(Properties {
        message_expiry_s: Some(60),
        user: vec![("a".into(), "b".into())],
        ..Properties::default()
    }));
    let special =
        SessionCopy { qos: QoS::ExactlyOnce, retain: true, subscription_ids: Some([1, 268_435_455].into()), ..copy(x) };
    let entry = publish_with(&[A], 1, |publish| {
        publish.message = rich.clone();
        publish.copies = vec![special.clone(), copy(y)];
    });
    let both = vec![(Outcome::Accepted, vec![Some(1), Some(1)])];
    assert_eq!(bench.copied(vec![entry]), both);
    assert_eq!(bench.copied(vec![for_sessions(&[y], 2)]), [(Outcome::Accepted, vec![Some(2)])]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(bench.backlog(A).len(), 1);
    let found = bench.queued(x, 10);
    assert_eq!((found[0].seq, found[0].qos, found[0].retain), (1, special.qos, special.retain));
    assert_eq!(found[0].subscription_ids, special.subscription_ids);
    assert!(matches!(&found[0].stage, Stage::Published { message, age_ms } if *message == rich && *age_ms < 60_000));
    let found = bench.queued(y, 1);
    assert_eq!((found.len(), found[0].qos, found[0].retain), (2, QoS::AtLeastOnce, false));
    assert_eq!(bench.queue_stats(y).bytes, crate::store::row::weight(&rich) + MESSAGE_BYTES);
    bench.close();
}

#[test]
fn a_copy_for_a_session_that_is_gone_is_no_concern_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let (x, y) = (bench.save("x", UNLIMITED), bench.save("y", UNLIMITED));
    bench.queue(x, 1..=3);
    bench.wait(bench.handle.delete_session("x".into())).unwrap();
    let outcome = bench.copied(vec![for_sessions(&[x, y, SessionId(77)], 4)]);
    assert_eq!(outcome, [(Outcome::Accepted, vec![None, Some(1), None])]);
    assert!(bench.queued(x, 10).is_empty());
    assert_eq!((bench.handle.queue(x), bench.handle.queue(SessionId(77))), (None, None));
    let all = bench.handle.queues();
    assert!(all.balances() && (all.queued, all.purged, all.messages) == (4, 3, 1), "{all:?}");
    bench.close();
}

#[test]
fn a_duplicate_is_not_queued_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    let entry = || {
        publish_with(&[], 1, |publish| {
            publish.copies = vec![copy(x)];
            publish.packet_id = Some(9);
        })
    };
    let mut lane = bench.lane(OnRefusal::Report);
    assert_eq!(bench.outcomes(&mut lane, vec![entry(), entry()]), [Outcome::Accepted, Outcome::Duplicate]);
    assert_eq!(bench.queued_numbers(x), [(1, Some(1))]);
    bench.close();
}

#[test]
fn reads_are_bounded_and_give_at_least_one() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.queue(x, 1..=5000);
    let read = |from, messages, bytes| bench.wait(bench.handle.read_session(x, from, messages, bytes)).unwrap();
    assert_eq!(read(0, usize::MAX, usize::MAX).len(), READ_MESSAGES_MAX);
    assert_eq!(read(10, 0, 0).iter().map(|queued| queued.seq).collect::<Vec<_>>(), [10]);
    assert_eq!(read(10, 100, 3 * usize::try_from(MESSAGE_BYTES).unwrap()).len(), 3);
    assert!(read(5001, 1, 1).is_empty());
    bench.close();
}

#[test]
fn counters_of_metrics_go_on_from_the_last_start() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", at_most(2, WhenFull::DropNewest));
    bench.copied((0..5).map(|number| for_sessions(&[x], number)).collect());
    bench.steps(vec![step(x, 1, Step::Delivered)]);
    bench.close();
    let registry = prometheus::Registry::new();
    let (store, _) = open(&settings(dir.path()), &[], &registry).unwrap();
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        "tidegate_session_queue_messages 1",
        "tidegate_session_queue_bytes 17",
        "tidegate_session_queue_delivered_total 1",
        "tidegate_session_queue_dropped_total{reason=\"newest\"} 3",
        "tidegate_session_queue_dropped_total{reason=\"damaged\"} 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    store.close().unwrap();
}
