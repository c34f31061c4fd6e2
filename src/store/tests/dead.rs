//! Dead letters: bounded, listed, retried, purged, and counted whatever becomes of them.

use super::*;
use crate::{
    message::Properties,
    stats::{DeadLetter, DeadStats},
};

fn dead_fate(reason: &'static str) -> Fate {
    Fate::Dead { reason, detail: "as the test says".to_owned() }
}

impl Bench {
    /// Stores these and makes each a dead letter.
    fn bury(&self, stream: StreamId, payloads: impl IntoIterator<Item = u64>) {
        let first = self.handle.position(stream).borrow().next;
        self.store(stream, payloads);
        let last = self.handle.position(stream).borrow().next - 1;
        self.settle(stream, first, last, dead_fate("refused"));
    }

    fn dead(&self, filter: DeadFilter) -> Vec<DeadLetter> {
        self.wait(self.handle.dead(DeadFilter { limit: 1000, ..filter })).unwrap()
    }

    fn dead_ids(&self) -> Vec<u64> {
        self.dead(DeadFilter::default()).iter().map(|letter| letter.id).collect()
    }

    fn retry(&self, id: u64) -> Result<(), OrderError> {
        self.wait(self.handle.retry_dead(id, "gw"))
    }
}

fn open_two(dir: &Path) -> Bench {
    Bench::open(&settings(dir), &[stream("a"), stream("b")])
}

#[test]
fn dead_letters_are_shown_with_all_that_is_known_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    bench.store(B, 1..=2);
    bench.bury(A, [10, 11]);
    bench.settle(B, 1, 1, dead_fate("too-large"));
    let all = bench.dead(DeadFilter::default());
    let told: Vec<_> = all.iter().map(|letter| (letter.id, &*letter.stream, letter.seq, &*letter.reason)).collect();
    assert_eq!(told, [(1, "a", 1, "refused"), (2, "a", 2, "refused"), (3, "b", 1, "too-large")]);
    assert_eq!(
        (all[0].topic.as_deref(), all[0].client.as_deref(), &all[0].message),
        (Some("t/3"), Some("client"), &None)
    );
    assert!(
        all.iter().all(|letter| letter.died_unix_ms >= letter.accepted_unix_ms && letter.accepted_unix_ms.is_some())
    );
    let of_b = bench.dead(DeadFilter { stream: Some(B), ..DeadFilter::default() });
    assert_eq!(of_b, all[2..]);
    assert_eq!(bench.dead(DeadFilter { after: 1, ..DeadFilter::default() }), all[1..]);
    let one = bench.dead(DeadFilter { id: Some(2), ..DeadFilter::default() });
    assert_eq!(number_of(one[0].message.as_ref().unwrap()), 11);
    assert_eq!(bench.dead(DeadFilter { id: Some(4), ..DeadFilter::default() }), []);
    let bytes = 3 * (MESSAGE_BYTES + "as the test says".len() as u64);
    assert_eq!(bench.handle.dead_stats(), DeadStats { messages: 3, bytes, ..DeadStats::default() });
    bench.close();
}

#[test]
fn a_retried_letter_is_a_new_message_at_the_end_that_says_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    bench.bury(A, [1]);
    bench.store(A, [2]);
    bench.retry(1).unwrap();
    assert!(matches!(bench.retry(1), Err(OrderError::NoSuchDeadLetter(1))));
    bench.store.abandon();
    let bench = open_two(dir.path());
    let backlog = bench.backlog(A);
    assert_eq!(
        backlog.iter().map(|stored| (stored.seq, number_of(&stored.message))).collect::<Vec<_>>(),
        [(2, 2), (3, 1)]
    );
    let user = &backlog[1].message.properties.as_ref().unwrap().user;
    assert_eq!((&*user[0].0, &*user[0].1, &*user[1].0, user.len()), ("tg-retry-of", "gw/a/1", "tg-retry-time", 2));
    let books = bench.books(A);
    assert_eq!((books.accepted, books.dead_total(), books.backlog_messages), (3, 1, 2));
    let stats = bench.handle.dead_stats();
    assert_eq!((stats.messages, stats.bytes, stats.retried), (0, 0, 1));
    // It dies again and is retried again: it still says where it came from first.
    bench.settle(A, 2, 2, Fate::Forwarded);
    bench.settle(A, 3, 3, dead_fate("refused"));
    assert_eq!(bench.dead_ids(), [2]);
    bench.retry(2).unwrap();
    let again = bench.backlog(A);
    assert_eq!(&again[0].message.properties.as_ref().unwrap().user, user);
    assert_eq!((again[0].seq, bench.books(A).accepted, bench.handle.dead_stats().retried), (4, 4, 2));
    bench.close();
}

#[test]
fn what_has_no_room_stays_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    for (when_full, room) in [(WhenFull::Reject, false), (WhenFull::DropNewest, false), (WhenFull::DropOldest, true)] {
        let dir = dir.path().join(format!("{when_full:?}"));
        let limited = || StreamSettings { max_messages: Some(2), when_full, ..stream("a") };
        let bench = Bench::open(&settings(&dir), &[limited()]);
        bench.bury(A, [1]);
        bench.store(A, 2..=3);
        let retried = bench.retry(1);
        if room {
            retried.unwrap();
            assert_eq!(bench.numbers(A), [3, 1]);
        } else {
            let error = retried.unwrap_err();
            assert!(matches!(error, OrderError::NoRoom { .. }), "{error}");
            assert_eq!((bench.dead_ids(), bench.numbers(A)), (vec![1], vec![2, 3]));
            bench.settle(A, 2, 2, Fate::Forwarded);
            bench.retry(1).unwrap();
        }
        bench.books(A);
        bench.close();
    }
}

#[test]
fn purged_letters_are_gone_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    bench.bury(A, 0..600);
    bench.bury(B, 0..3);
    bench.wait(bench.handle.purge_dead(5)).unwrap();
    assert!(matches!(bench.wait(bench.handle.purge_dead(5)), Err(OrderError::NoSuchDeadLetter(5))));
    assert_eq!(bench.wait(bench.handle.purge_all_dead(Some(A))).unwrap(), 599);
    assert_eq!(bench.dead_ids(), [601, 602, 603]);
    bench.store.abandon();
    let bench = open_two(dir.path());
    assert_eq!(bench.handle.dead_stats().purged, 600);
    assert_eq!(bench.wait(bench.handle.purge_all_dead(None)).unwrap(), 3);
    assert_eq!(bench.handle.dead_stats(), DeadStats { purged: 603, ..DeadStats::default() });
    assert_eq!((bench.books(A).dead_total(), bench.books(B).dead_total()), (600, 3), "they were dead all the same");
    bench.bury(A, [1]);
    assert_eq!(bench.dead_ids(), [604], "ids are never used again");
    bench.close();
}

#[test]
fn there_are_never_too_many_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    for _ in 0..11 {
        bench.bury(A, 0..1000);
    }
    let stats = bench.handle.dead_stats();
    assert_eq!((stats.messages, stats.dropped, bench.books(A).dead_total()), (DEAD_MESSAGES_MAX, 1000, 11_000));
    assert_eq!(bench.dead(DeadFilter { limit: 1, ..DeadFilter::default() })[0].id, 1001);
    bench.store.abandon();
    let bench = open_two(dir.path());
    assert_eq!(bench.handle.dead_stats(), stats);
    bench.close();
}

#[test]
fn their_bytes_are_bounded_by_an_eighth_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let small = Settings { max_bytes: 8 << 20, ..settings(dir.path()) };
    let bench = Bench::open(&small, &[stream("a")]);
    let large = |number| {
        publish_with(&[A], number, |publish| {
            publish.message.payload = Bytes::from([&number.to_be_bytes()[..], &vec![0; 300 << 10]].concat());
        })
    };
    let mut lane = bench.lane(OnRefusal::Report);
    for number in 1..=8 {
        assert_eq!(bench.outcomes(&mut lane, vec![large(number)]), [Outcome::Accepted]);
        bench.settle(A, number, number, dead_fate("too-large"));
    }
    let stats = bench.handle.dead_stats();
    assert!(stats.bytes <= 1 << 20 && stats.messages == 3 && stats.dropped == 5, "{stats:?}");
    bench.close();
}

#[test]
fn a_letter_that_is_no_message_any_more_can_be_looked_at_and_purged() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    bench.store(A, 1..=3);
    bench.close();
    let writing = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    writing.execute("UPDATE s_1 SET topic = x'ff', flags = 'no' WHERE seq = 2", []).unwrap();
    drop(writing);
    let bench = open_two(dir.path());
    assert_eq!(bench.numbers(A), [1, 3]);
    let letters = bench.dead(DeadFilter { id: Some(1), ..DeadFilter::default() });
    assert_eq!((&*letters[0].reason, letters[0].seq, &letters[0].message), ("damaged", 2, &None));
    assert!(matches!(bench.retry(1), Err(OrderError::Unreadable(1))));
    bench.wait(bench.handle.purge_dead(1)).unwrap();
    assert_eq!(bench.handle.dead_stats(), DeadStats { purged: 1, ..DeadStats::default() });
    bench.close();
}

#[test]
fn letters_of_a_stream_that_is_not_configured_any_more_can_be_retried() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    bench.bury(A, [1]);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("b")]);
    assert_eq!(bench.dead(DeadFilter::default())[0].stream, "a");
    bench.retry(1).unwrap();
    bench.close();
    let bench = open_two(dir.path());
    assert_eq!(bench.numbers(A), [1]);
    bench.close();
}

#[test]
fn a_full_disk_loses_no_letter() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    bench.bury(A, [1, 2]);
    bench.store.shared.queue.send(crate::store::shared::Work::NoSpace(true)).unwrap();
    assert!(matches!(bench.retry(1), Err(OrderError::NoRoom { refusal: Refusal::DiskFull, .. })));
    assert_eq!((bench.dead_ids(), bench.books(A).backlog_messages), (vec![1, 2], 0));
    // What needs no room waits until it can be written.
    let handle = bench.handle.clone();
    let purging = bench.runtime.spawn(async move { handle.purge_dead(2).await });
    bench.store.shared.queue.send(crate::store::shared::Work::NoSpace(false)).unwrap();
    bench.wait(purging).unwrap().unwrap();
    let deadline = std::time::Instant::now() + DEADLINE;
    while bench.retry(1).is_err() {
        assert!(std::time::Instant::now() < deadline, "tried again after a second");
    }
    assert_eq!((bench.dead_ids(), bench.numbers(A)), (vec![], vec![1]));
    bench.close();
}

#[test]
fn salvage_keeps_the_letters_and_what_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    bench.bury(A, 0..5);
    bench.retry(1).unwrap();
    bench.settle(A, 6, 6, Fate::Forwarded);
    bench.wait(bench.handle.purge_dead(2)).unwrap();
    let stats = bench.handle.dead_stats();
    bench.close();
    std::fs::write(dir.path().join("tidegate.db.damaged"), "noted").unwrap();
    let bench = open_two(dir.path());
    assert_eq!((bench.handle.dead_stats(), bench.dead_ids()), (stats, vec![3, 4, 5]));
    bench.bury(A, [9]);
    assert_eq!(bench.dead_ids().last(), Some(&6));
    bench.close();
}

#[test]
fn a_message_with_properties_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open_two(dir.path());
    let mut lane = bench.lane(OnRefusal::Report);
    let properties = Properties { content_type: Some("text/plain".into()), ..Properties::default() };
    let entry = publish_with(&[A], 1, |publish| publish.message.properties = Some(Box::new(properties)));
    bench.outcomes(&mut lane, vec![entry]);
    bench.settle(A, 1, 1, dead_fate("topic"));
    bench.retry(1).unwrap();
    let back = bench.backlog(A).remove(0).message.properties.unwrap();
    assert_eq!((back.content_type.as_deref(), back.user.len()), (Some("text/plain"), 2));
    bench.close();
}
