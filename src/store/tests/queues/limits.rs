//! What a full queue does.

use super::*;

const ACCEPTED: Outcome = Outcome::Accepted;
const FULL: Outcome = Outcome::Refused(Refusal::QueueFull);

#[test]
fn a_full_queue_that_rejects_refuses_the_message_for_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let (x, y) = (bench.save("x", at_most(2, WhenFull::Reject)), bench.save("y", UNLIMITED));
    let both = |number| publish_with(&[A], number, |publish| publish.copies = vec![copy(y), copy(x)]);
    let outcomes = bench.copied((1..=3).map(both).collect());
    assert_eq!(outcomes[1], (ACCEPTED, vec![Some(2), Some(2)]));
    assert_eq!(outcomes[2], (FULL, vec![None, None]));
    assert_eq!((bench.backlog(A).len(), bench.queued(y, 10).len()), (2, 2));
    let stats = bench.queue_stats(x);
    assert_eq!((stats.queued, stats.messages, stats.dropped_total()), (2, 2, 0));
    bench.close();
}

#[test]
fn a_held_lane_waits_for_room_in_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", at_most(2, WhenFull::Reject));
    let (mut lane, mut returns) = bench.lane(OnRefusal::Hold);
    bench.submit(&mut lane, (1..=3).map(|number| for_sessions(&[x], number)).collect());
    let returned = bench.wait(returns.recv()).unwrap();
    assert_eq!((returned.verdicts.len(), returned.held.len()), (2, 1));
    // A step needs no message's room, and comes from another connection.
    bench.steps(vec![step(x, 1, Step::Delivered)]);
    bench.wait(lane.room()).unwrap();
    bench.submit(&mut lane, returned.held);
    assert_eq!(bench.wait(returns.recv()).unwrap().verdicts.len(), 1);
    assert_eq!(bench.queued_numbers(x), [(2, Some(2)), (3, Some(3))]);
    // A session that ends makes room, too.
    bench.submit(&mut lane, vec![for_sessions(&[x], 4)]);
    let returned = bench.wait(returns.recv()).unwrap();
    bench.wait(bench.handle.delete_session("x".into())).unwrap();
    bench.wait(lane.room()).unwrap();
    bench.submit(&mut lane, returned.held);
    assert_eq!(bench.wait(returns.recv()).unwrap().verdicts[0].1, ACCEPTED);
    bench.close();
}

#[test]
fn a_queue_that_drops_the_newest_keeps_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let limits = QueueLimits { max_bytes: 2 * MESSAGE_BYTES + 1, ..at_most(0, WhenFull::DropNewest) };
    let x = bench.save("x", limits);
    let outcomes = bench.copied((1..=4).map(|number| for_sessions(&[x], number)).collect());
    assert_eq!(outcomes[1..3], [(ACCEPTED, vec![Some(2)]), (ACCEPTED, vec![None])]);
    assert_eq!(bench.queued_numbers(x), [(1, Some(1)), (2, Some(2))]);
    assert_eq!(bench.queue_stats(x).dropped, dropped("newest", 2));
    bench.close();
}

#[test]
fn a_queue_that_drops_the_oldest_spares_what_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", at_most(4, WhenFull::DropOldest));
    bench.queue(x, 1..=5);
    assert_eq!(bench.queued_numbers(x), [(2, Some(2)), (3, Some(3)), (4, Some(4)), (5, Some(5))]);
    bench.handle.sent(x, 3);
    bench.queue(x, 6..=7);
    assert_eq!(bench.queued_numbers(x), [(2, Some(2)), (3, Some(3)), (6, Some(6)), (7, Some(7))]);
    bench.handle.sent(x, 7);
    let outcomes = bench.copied(vec![for_sessions(&[x], 8)]);
    assert_eq!(outcomes, [(ACCEPTED, vec![None])], "everything else is in flight");
    assert_eq!(bench.queue_stats(x).dropped, dropped("oldest", 4));
    // What was in flight leaves, around what was dropped.
    bench.steps([3, 2, 6, 7].map(|seq| step(x, seq, Step::Delivered)).into());
    let stats = bench.queue_stats(x);
    assert_eq!((stats.delivered, stats.messages, stats.bytes), (4, 0, 0));
    bench.close();
}

#[test]
fn a_message_that_was_received_is_not_dropped_as_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", at_most(3, WhenFull::DropOldest));
    bench.queue(x, 1..=3);
    bench.steps(vec![step(x, 1, Step::Received)]);
    bench.store.abandon();
    // What was sent is not known any more, but this was.
    let bench = Bench::open(&settings(dir.path()), &[]);
    bench.queue(x, 4..=5);
    assert_eq!(bench.queued_numbers(x), [(1, None), (4, Some(4)), (5, Some(5))]);
    bench.close();
}

#[test]
fn a_message_larger_than_the_queue_is_refused_or_dropped_but_holds_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", QueueLimits { max_bytes: 10, ..UNLIMITED });
    assert_eq!(bench.copied(vec![for_sessions(&[x], 1)]), [(FULL, vec![None])]);
    let mut hold = bench.lane(OnRefusal::Hold);
    assert_eq!(bench.outcomes(&mut hold, vec![for_sessions(&[x], 1)]), [ACCEPTED]);
    assert_eq!(bench.queue_stats(x).dropped, dropped("too-large", 1));
    bench.close();
}

#[test]
fn a_limit_that_was_lowered_is_kept_from_the_next_message_on() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.queue(x, 1..=3000);
    assert_eq!(bench.save("x", at_most(10, WhenFull::DropOldest)), x);
    assert_eq!(bench.queue_stats(x).messages, 3000);
    bench.queue(x, 3001..=3003);
    assert_eq!(bench.queue_stats(x).messages, 10, "a thousand or so at a time");
    let numbers: Vec<_> = (2994..=3003).map(|number| (number, Some(number))).collect();
    assert_eq!(bench.queued_numbers(x), numbers);
    bench.close();
}

#[test]
fn a_full_store_refuses_for_queues_as_for_streams() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_bytes: 1, ..settings(dir.path()) };
    let bench = Bench::open(&settings, &[]);
    let reject = bench.save("reject", UNLIMITED);
    let newest = bench.save("newest", at_most(0, WhenFull::DropNewest));
    let oldest = bench.save("oldest", at_most(0, WhenFull::DropOldest));
    let store_full = Outcome::Refused(Refusal::StoreFull);
    let outcomes = bench.copied([reject, newest, oldest].map(|id| for_sessions(&[id], 1)).into());
    assert_eq!(outcomes.iter().map(|(outcome, _)| *outcome).collect::<Vec<_>>(), [store_full, ACCEPTED, store_full]);
    assert_eq!(bench.queue_stats(newest).dropped, dropped("newest", 1));
    bench.close();
}
