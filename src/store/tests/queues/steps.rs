//! The steps of a delivery, lazy and synced, across crashes.

use super::*;

fn exactly_once(session: SessionId, number: u64) -> Entry {
    publish_with(&[], number, |publish| {
        publish.copies = vec![SessionCopy { qos: QoS::ExactlyOnce, ..copy(session) }];
    })
}

#[test]
fn what_was_received_stays_so_across_a_crash_until_it_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.copied((1..=3).map(|number| exactly_once(x, number)).collect());
    let mut lane = bench.lane(OnRefusal::Report);
    // Its outcome alone is enough: nothing is flushed.
    assert_eq!(bench.outcomes(&mut lane, vec![step(x, 2, Step::Received)]), [Outcome::Stepped]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.queued_numbers(x), [(1, Some(1)), (2, None), (3, Some(3))]);
    assert_eq!(bench.queue_stats(x).bytes, 2 * MESSAGE_BYTES, "the message is gone, its place is not");
    assert!(bench.queued(x, 9).iter().all(|queued| queued.qos == QoS::ExactlyOnce));
    bench.steps(vec![step(x, 2, Step::Received), step(x, 2, Step::Delivered), step(x, 2, Step::Delivered)]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.queued_numbers(x), [(1, Some(1)), (3, Some(3))]);
    let stats = bench.queue_stats(x);
    assert_eq!((stats.delivered, stats.messages, stats.bytes), (1, 2, 2 * MESSAGE_BYTES));
    bench.close();
}

#[test]
fn a_lazy_step_is_answered_at_once_and_written_within_a_second_or_so() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.queue(x, 1..=3);
    let mut lane = bench.lane(OnRefusal::Report);
    let steps = vec![step(x, 1, Step::Delivered), step(x, 2, Step::Expired), step(x, 3, Step::TooLarge)];
    assert_eq!(bench.outcomes(&mut lane, steps), [Outcome::Stepped; 3]);
    bench.wait(async {
        while bench.handle.queue(x).unwrap().messages > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let stats = bench.queue_stats(x);
    assert_eq!((stats.delivered, stats.expired, stats.dropped), (1, 1, dropped("too-large", 1)));
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.queue_stats(x).messages, 0);
    bench.close();
}

#[test]
fn a_lazy_step_rides_with_the_next_commit() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let x = bench.save("x", UNLIMITED);
    bench.queue(x, 1..=2);
    let mut lane = bench.lane(OnRefusal::Report);
    bench.outcomes(&mut lane, vec![step(x, 1, Step::Delivered)]);
    bench.store(A, [1]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(bench.queued_numbers(x), [(2, Some(2))]);
    bench.close();
}

#[test]
fn lazy_steps_come_before_the_received_that_follows_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.copied((1..=2).map(|number| exactly_once(x, number)).collect());
    let mut lane = bench.lane(OnRefusal::Report);
    for entry in [step(x, 1, Step::Delivered), step(x, 2, Step::Received)] {
        assert_eq!(bench.outcomes(&mut lane, vec![entry]), [Outcome::Stepped]);
    }
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.queued_numbers(x), [(2, None)]);
    bench.close();
}

#[test]
fn steps_of_what_is_not_there_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.queue(x, 1..=3);
    let other = SessionId(x.0 + 1);
    let mut steps = Vec::new();
    for kind in [Step::Received, Step::Delivered, Step::Expired, Step::TooLarge] {
        steps.extend([step(x, 0, kind), step(x, 4, kind), step(x, u64::MAX, kind), step(other, 1, kind)]);
    }
    steps.extend([step(x, 2, Step::Delivered), step(x, 2, Step::Delivered), step(x, 2, Step::Received)]);
    bench.steps(steps);
    assert_eq!(bench.queued_numbers(x), [(1, Some(1)), (3, Some(3))]);
    assert_eq!(bench.queue_stats(x).delivered, 1);
    bench.close();
}

#[test]
fn a_held_lane_holds_steps_in_their_place_too() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let (x, y) = (bench.save("x", at_most(1, WhenFull::Reject)), bench.save("y", UNLIMITED));
    bench.queue(y, [1]);
    let (mut lane, mut returns) = bench.lane(OnRefusal::Hold);
    bench.submit(&mut lane, vec![for_sessions(&[x], 1), for_sessions(&[x], 2), step(y, 1, Step::Delivered)]);
    assert_eq!(bench.wait(returns.recv()).unwrap().held.len(), 2);
    bench.submit(&mut lane, vec![step(y, 1, Step::Delivered)]);
    let returned = bench.wait(returns.recv()).unwrap();
    assert_eq!((returned.verdicts.len(), returned.held.len()), (0, 1));
    bench.close();
}

#[test]
fn rows_of_what_was_delivered_and_of_ended_sessions_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let (x, y) = (bench.save("x", UNLIMITED), bench.save("y", UNLIMITED));
    let rows = |id: SessionId| {
        let id = u64::from(id.0);
        sql_number(
            dir.path(),
            &format!("SELECT count(*) FROM queued WHERE id >= {} AND id < {}", id << 40, (id + 1) << 40),
        )
    };
    let gone = |id, left: i64| {
        bench.wait(async {
            while rows(id) > left {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    };
    bench.queue(x, 1..=10_000);
    bench.queue(y, 1..=10_000);
    bench.steps((1..=9_000).map(|seq| step(x, seq, Step::Delivered)).collect());
    gone(x, 2_024);
    assert_eq!(bench.queued(x, 4096).len(), 1_000);
    assert_eq!(rows(y), 10_000);
    bench.wait(bench.handle.delete_session("y".into())).unwrap();
    assert!(bench.queued(y, 1).is_empty());
    gone(y, 0);
    assert_eq!(bench.handle.queues().purged, 10_000);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let all = bench.handle.queues();
    assert!(all.balances() && (all.purged, all.delivered, all.messages) == (10_000, 9_000, 1_000), "{all:?}");
    assert_eq!(sql_number(dir.path(), "SELECT count(*) FROM queue"), 1, "nothing is left of the ended session");
    bench.close();
}
