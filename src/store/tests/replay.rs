//! Replays, as far as the store goes: which messages, how far, and what stays of it.

use super::*;
use crate::store::{
    api::ReplayPosition,
    clock::{Boot, ERA_UNIX_MS},
    schema,
};

const HOUR: Duration = Duration::from_secs(3600);
const ALL: (i64, i64) = (i64::MIN, i64::MAX);

fn keeping(name: &str) -> StreamSettings {
    StreamSettings { retain_sent: HOUR, ..stream(name) }
}

impl Bench {
    fn begin(&self, (since, until): (i64, i64)) -> Result<u64, OrderError> {
        self.wait(self.handle.replay(A, since, until))
    }

    fn replay_position(&self) -> ReplayPosition {
        *self.handle.replay_position(A).borrow()
    }

    /// The numbers of what is still to be sent.
    fn to_send(&self) -> Vec<u64> {
        let position = self.replay_position();
        let mut all: Vec<u64> = Vec::new();
        loop {
            let from = all.last().map_or(0, |last| last + 1);
            let more = self.wait(self.handle.read_kept(A, position.run, from, 3, 1 << 20)).unwrap();
            if more.is_empty() {
                return all;
            }
            all.extend(more.iter().map(|stored| stored.seq));
        }
    }

    fn replayed(&self, first: u64, last: u64, fate: Fate) {
        let run = self.replay_position().run;
        self.wait(self.handle.replayed(A, run, vec![Run { first, last, fate }])).unwrap();
        self.flush();
    }
}

fn forwarded(dir: &Path, count: u64) -> Bench {
    let bench = Bench::open(&settings(dir), &[keeping("a"), stream("b")]);
    bench.store(A, 1..=count);
    bench.settle(A, 1, count, Fate::Forwarded);
    bench
}

#[test]
fn a_replay_goes_on_where_it_stood_and_moves_no_books() {
    let dir = tempfile::tempdir().unwrap();
    let bench = forwarded(dir.path(), 20);
    bench.store(A, 21..=30);
    let books = bench.books(A);
    assert_eq!(bench.begin(ALL).unwrap(), 20);
    assert!(matches!(bench.begin(ALL), Err(OrderError::ReplayRuns { left: 20, .. })));
    assert_eq!(bench.to_send(), (1..=20).collect::<Vec<_>>());
    bench.replayed(1, 7, Fate::Forwarded);
    bench.replayed(8, 8, Fate::Expired);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[keeping("a"), stream("b")]);
    assert_eq!(bench.to_send(), (9..=20).collect::<Vec<_>>());
    let now = bench.books(A);
    assert_eq!((now.replayed, now.replay_left), (7, Some(12)));
    assert_eq!((now.accepted, now.forwarded, now.kept_messages), (books.accepted, books.forwarded, 20));
    // What is forwarded meanwhile is kept, but no part of this replay.
    bench.settle(A, 21, 25, Fate::Forwarded);
    let mut position = bench.handle.replay_position(A);
    bench.replayed(9, 20, Fate::Forwarded);
    bench.wait(position.wait_for(|position| position.next == position.end)).unwrap();
    assert_eq!((bench.books(A).replayed, bench.books(A).replay_left), (19, None));
    // And once more, all of it.
    assert_eq!(bench.begin(ALL).unwrap(), 25);
    assert_eq!(bench.to_send().len(), 25);
    bench.close();
}

#[test]
fn only_what_is_kept_of_that_time_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = forwarded(dir.path(), 5);
    bench.store(A, 6..=9);
    bench.settle(A, 6, 6, Fate::Expired);
    bench.settle(A, 7, 7, Fate::Dead { reason: "refused", detail: String::new() });
    bench.settle(A, 8, 8, Fate::Forwarded);
    let times: Vec<i64> = {
        bench.begin(ALL).unwrap();
        let position = bench.replay_position();
        let kept = bench.wait(bench.handle.read_kept(A, position.run, 0, 100, 1 << 20)).unwrap();
        assert_eq!(kept.iter().map(|stored| stored.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 8]);
        kept.iter().map(|stored| stored.accepted_unix_ms).collect()
    };
    assert_eq!(bench.wait(bench.handle.stop_replay(A)).unwrap(), 6);
    assert!(matches!(bench.wait(bench.handle.stop_replay(A)), Err(OrderError::NoReplay(_))));
    assert!(matches!(bench.begin((times[5] + 1, i64::MAX)), Err(OrderError::NothingKept(_))));
    assert!(matches!(bench.begin((i64::MIN, times[0])), Err(OrderError::NothingKept(_))));
    assert_eq!(bench.begin((times[0], times[5] + 1)).unwrap(), 6);
    bench.wait(bench.handle.stop_replay(A)).unwrap();
    assert!(matches!(bench.wait(bench.handle.replay(B, i64::MIN, i64::MAX)), Err(OrderError::NothingKept(_))));
    bench.close();
}

#[test]
fn time_is_found_boot_by_boot_whatever_the_clocks_did() {
    let dir = tempfile::tempdir().unwrap();
    forwarded(dir.path(), 40).close();
    // Ten messages a boot, ten seconds apart. The second boot's clock was never set, the third's was set back by a day.
    let writing = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    writing.execute("UPDATE boot SET id = 9", []).unwrap();
    for (id, offset_ms, synced) in
        [(1, ERA_UNIX_MS, true), (2, 0, false), (3, ERA_UNIX_MS - 86_400_000, true), (4, ERA_UNIX_MS + 1_000_000, true)]
    {
        schema::save_boot(&writing, &Boot { id, kernel_id: format!("b{id}"), offset_ms, synced }).unwrap();
    }
    writing.execute("UPDATE s_1 SET boot = (seq - 1) / 10 + 1, at = (seq - 1) % 10 * 10000", []).unwrap();
    drop(writing);
    let long = StreamSettings { retain_sent: HOUR * 24 * 36_500, ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[long]);
    let era = ERA_UNIX_MS;
    for (span, expected) in [
        ((era, era + 30_000), vec![1, 2, 3]),
        ((era + 85_000, era + 1_005_000), vec![10, 31]),
        ((era - 86_400_000, era + 1), (21..=30).chain([1]).collect()),
        ((0, 50_000), (11..=15).collect()),
        ((era + 1_095_000, i64::MAX), vec![]),
        ((i64::MIN, i64::MAX), (1..=40).collect()),
    ] {
        let mut expected: Vec<u64> = expected;
        expected.sort_unstable();
        match bench.begin(span) {
            Ok(count) => {
                assert_eq!((count, bench.to_send()), (expected.len() as u64, expected), "{span:?}");
                bench.wait(bench.handle.stop_replay(A)).unwrap();
            }
            Err(error) => {
                assert!(expected.is_empty() && matches!(error, OrderError::NothingKept(_)), "{span:?}: {error}");
            }
        }
    }
    bench.close();
}

#[test]
fn what_comes_of_a_replay_that_has_ended_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = forwarded(dir.path(), 10);
    bench.begin(ALL).unwrap();
    let old = bench.replay_position().run;
    bench.wait(bench.handle.stop_replay(A)).unwrap();
    bench.begin(ALL).unwrap();
    assert!(bench.replay_position().run > old);
    bench.wait(bench.handle.replayed(A, old, vec![Run { first: 1, last: 10, fate: Fate::Forwarded }])).unwrap();
    bench.flush();
    assert_eq!((bench.books(A).replayed, bench.books(A).replay_left), (0, Some(10)));
    assert_eq!(bench.wait(bench.handle.read_kept(A, old, 0, 10, 1 << 20)).unwrap(), []);
    bench.close();
}

#[test]
fn a_replay_ends_when_the_rest_of_it_is_not_kept_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let bench = forwarded(dir.path(), 10);
    bench.begin(ALL).unwrap();
    bench.replayed(1, 2, Fate::Forwarded);
    bench.close();
    let writing = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    writing.execute("DELETE FROM s_1 WHERE seq > 2", []).unwrap();
    drop(writing);
    let bench = Bench::open(&settings(dir.path()), &[keeping("a")]);
    let mut position = bench.handle.replay_position(A);
    bench.wait(position.wait_for(|position| position.next == position.end)).unwrap();
    assert_eq!((bench.books(A).replayed, bench.books(A).replay_left), (2, None));
    bench.close();
}

#[test]
fn a_replay_holds_what_it_has_still_to_send_beyond_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let bench = forwarded(dir.path(), 2_000);
    bench.begin(ALL).unwrap();
    bench.replayed(1, 500, Fate::Forwarded);
    bench.close();
    let short = StreamSettings { retain_sent: Duration::from_millis(1), ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[short]);
    let deadline = std::time::Instant::now() + DEADLINE;
    while bench.books(A).kept_messages > 1_500 {
        assert!(std::time::Instant::now() < deadline, "what was replayed is let go");
        bench.flush();
    }
    assert_eq!(bench.to_send(), (501..=2_000).collect::<Vec<_>>());
    bench.replayed(501, 2_000, Fate::Forwarded);
    while bench.books(A).kept_messages > 0 {
        assert!(std::time::Instant::now() < deadline, "all of it is let go");
        bench.flush();
    }
    assert_eq!(bench.books(A).replayed, 2_000);
    bench.close();
}

#[test]
fn a_stream_that_is_not_configured_replays_nothing() {
    let dir = tempfile::tempdir().unwrap();
    forwarded(dir.path(), 10).close();
    let bench = Bench::open(&settings(dir.path()), &[stream("b")]);
    let gone = bench.handle.find("a").unwrap();
    let refused = bench.wait(bench.handle.replay(gone, i64::MIN, i64::MAX));
    assert!(matches!(refused, Err(OrderError::NotConfigured(_))));
    bench.close();
}
