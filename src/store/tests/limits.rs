//! What a full stream does with the next message, and times to live.

use super::*;

const ACCEPTED: Outcome = Outcome::Accepted;
const FULL: Outcome = Outcome::Refused(Refusal::StreamFull(A));

fn three(when_full: WhenFull) -> [StreamSettings; 2] {
    [StreamSettings { max_messages: Some(3), when_full, ..stream("a") }, stream("b")]
}

fn dropped(stats: &StreamStats, reason: &str) -> u64 {
    stats.dropped.iter().find(|(known, _)| known == reason).map_or(0, |(_, count)| *count)
}

fn qos0(streams: &[StreamId], number: u64) -> Entry {
    publish_with(streams, number, |publish| publish.message.qos = QoS::AtMostOnce)
}

#[test]
fn a_stream_that_rejects_refuses_and_puts_nothing_on_the_books() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &three(WhenFull::Reject));
    let mut lane = bench.lane(OnRefusal::Report);
    let outcomes = bench.outcomes(&mut lane, (0..5).map(|n| publish(&[A], n)).collect());
    assert_eq!(outcomes, [ACCEPTED, ACCEPTED, ACCEPTED, FULL, FULL]);
    assert_eq!(bench.books(A).accepted, 3);
    bench.settle(A, 1, 1, Fate::Forwarded);
    assert_eq!(bench.outcomes(&mut lane, vec![publish(&[A], 5), publish(&[A], 6)]), [ACCEPTED, FULL]);
    assert_eq!(bench.numbers(A), [1, 2, 5]);
    bench.close();
}

#[test]
fn a_message_for_two_streams_is_stored_in_both_or_in_none() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &three(WhenFull::Reject));
    let mut lane = bench.lane(OnRefusal::Report);
    let entry = |n| publish_with(&[B, A], n, |publish| publish.packet_id = Some(7));
    bench.store(A, 0..3);
    assert_eq!(bench.outcomes(&mut lane, vec![entry(9)]), [FULL]);
    assert_eq!((bench.numbers(B), bench.books(B).accepted), (vec![], 0));
    bench.settle(A, 1, 3, Fate::Forwarded);
    assert_eq!(bench.outcomes(&mut lane, vec![entry(9)]), [ACCEPTED], "a refused packet id is not remembered");
    bench.store(A, 0..2);
    assert_eq!(
        bench.outcomes(&mut lane, vec![entry(9)]),
        [Outcome::Duplicate],
        "a full stream does not hide a duplicate"
    );
    bench.close();
}

#[test]
fn refused_qos_0_is_counted_as_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &three(WhenFull::Reject));
    bench.store(A, 0..3);
    for on_refusal in [OnRefusal::Report, OnRefusal::Hold] {
        let mut lane = bench.lane(on_refusal);
        assert_eq!(bench.outcomes(&mut lane, vec![qos0(&[A], 9)]), [FULL]);
    }
    assert_eq!((bench.books(A).accepted, dropped(&bench.books(A), "qos0-full")), (5, 2));
    bench.close();
}

#[test]
fn a_stream_that_drops_the_oldest_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &three(WhenFull::DropOldest));
    bench.store(A, 0..10);
    assert_eq!(bench.numbers(A), [7, 8, 9]);
    assert_eq!((bench.books(A).accepted, dropped(&bench.books(A), "oldest")), (10, 7));
    bench.settle(A, 1, 8, Fate::Forwarded);
    assert_eq!((bench.books(A).forwarded, bench.numbers(A)), (1, vec![8, 9]), "what was dropped is not forwarded too");
    bench.close();
}

#[test]
fn a_limit_that_was_lowered_drops_all_that_is_too_much_at_once() {
    let limited = |max_messages, max_bytes| StreamSettings {
        max_messages,
        max_bytes,
        when_full: WhenFull::DropOldest,
        ..stream("a")
    };
    let lowered = [
        (limited(Some(3), None), 3),
        (limited(None, Some(5 * MESSAGE_BYTES)), 5),
        (limited(None, Some(6 * MESSAGE_BYTES - 1)), 5),
        (limited(Some(700), Some(6 * MESSAGE_BYTES)), 6),
        (limited(Some(7), Some(900 * MESSAGE_BYTES)), 7),
        (limited(None, Some(MESSAGE_BYTES)), 1),
    ];
    for (settings_now, kept) in lowered {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
        bench.store(A, 1..=1000);
        bench.settle(A, 1, 10, Fate::Forwarded);
        bench.close();
        let bench = Bench::open(&settings(dir.path()), &[settings_now]);
        bench.store(A, [1001]);
        assert_eq!(bench.numbers(A), (1002 - kept..=1001).collect::<Vec<_>>());
        assert_eq!(dropped(&bench.books(A), "oldest"), 991 - kept);
        bench.close();
    }
}

#[test]
fn a_stream_that_drops_the_newest_keeps_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &three(WhenFull::DropNewest));
    bench.store(A, 0..10);
    assert_eq!(bench.numbers(A), [0, 1, 2]);
    assert_eq!((bench.books(A).accepted, dropped(&bench.books(A), "newest")), (10, 7));
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &three(WhenFull::DropNewest));
    assert_eq!((bench.books(A).accepted, dropped(&bench.books(A), "newest")), (10, 7));
    bench.close();
}

#[test]
fn bytes_are_limited_like_messages() {
    let dir = tempfile::tempdir().unwrap();
    let limited = |when_full| StreamSettings { max_bytes: Some(3 * MESSAGE_BYTES), when_full, ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[limited(WhenFull::Reject)]);
    let mut lane = bench.lane(OnRefusal::Report);
    let large = || publish_with(&[A], 1, |p| p.message.payload = Bytes::from(vec![0; 100]));
    let outcomes = bench
        .outcomes(&mut lane, vec![large(), publish(&[A], 1), publish(&[A], 2), publish(&[A], 3), publish(&[A], 4)]);
    assert_eq!(outcomes, [FULL, ACCEPTED, ACCEPTED, ACCEPTED, FULL], "what can be told is told that it is too large");
    let mut hold = bench.lane(OnRefusal::Hold);
    assert_eq!(bench.outcomes(&mut hold, vec![large()]), [ACCEPTED], "what cannot be told must not block for ever");
    assert_eq!(dropped(&bench.books(A), "too-large"), 1);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[limited(WhenFull::DropOldest)]);
    let double = publish_with(&[A], 5, |publish| {
        publish.message.payload = Bytes::from([&5_u64.to_be_bytes()[..], &[0; 17]].concat());
    });
    let mut lane = bench.lane(OnRefusal::Report);
    assert_eq!(bench.outcomes(&mut lane, vec![large(), double]), [ACCEPTED, ACCEPTED]);
    assert_eq!((bench.numbers(A), bench.books(A).backlog_bytes), (vec![3, 5], 3 * MESSAGE_BYTES));
    bench.close();
}

#[test]
fn a_held_lane_gets_everything_back_in_order_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &three(WhenFull::Reject));
    let (mut lane, mut returns) = bench.lane(OnRefusal::Hold);
    bench.submit(&mut lane, (0..5).map(|n| publish(&[A], n)).collect());
    bench.submit(&mut lane, vec![qos0(&[B], 5), Entry::Release { packet_id: 1 }]);
    bench.submit(&mut lane, vec![publish(&[B], 6)]);
    let mut again = Vec::new();
    for (decided, held) in [(3, 2), (0, 2), (0, 1)] {
        let returned = bench.wait(returns.recv()).unwrap();
        assert_eq!((returned.verdicts.len(), returned.held.len()), (decided, held));
        again.extend(returned.held);
    }
    assert!(bench.books(B).accepted == 0, "what comes after is held, whatever it is for");
    let mut waiting = Box::pin(lane.room());
    bench.runtime.block_on(async {
        let waited = tokio::time::timeout(Duration::ZERO, &mut waiting).await;
        assert!(waited.is_err(), "there is no room yet");
    });
    bench.settle(A, 1, 2, Fate::Forwarded);
    bench.wait(waiting).unwrap();
    bench.submit(&mut lane, again);
    let returned = bench.wait(returns.recv()).unwrap();
    assert_eq!(returned.held.len(), 0);
    assert_eq!((bench.numbers(A), bench.numbers(B)), (vec![2, 3, 4], vec![5, 6]));
    bench.close();
}

#[test]
fn old_messages_expire_though_nobody_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let expiring = StreamSettings { ttl: Some(Duration::from_millis(1)), ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[expiring, stream("b")]);
    bench.store(A, 0..10_000);
    bench.store(B, 0..10);
    let mut position = bench.handle.position(A);
    bench.wait(position.wait_for(|position| position.head == 10_001)).unwrap();
    assert_eq!((bench.books(A).expired, bench.books(A).oldest_age), (10_000, None));
    assert_eq!(bench.numbers(B).len(), 10);
    bench.close();
}

#[test]
fn what_a_live_only_stream_drops_is_counted_at_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.wait(bench.handle.drop_offline(A, 3)).unwrap();
    assert_eq!((bench.books(A).accepted, dropped(&bench.books(A), "offline")), (3, 3));
    bench.flush();
    bench.wait(bench.handle.drop_offline(A, 2)).unwrap();
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!((bench.books(A).accepted, dropped(&bench.books(A), "offline")), (5, 5));
    bench.close();
}
