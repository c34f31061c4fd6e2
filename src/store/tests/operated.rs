//! What operators do to streams, and streams that the configuration does not have any more.

use super::*;

/// Books by name, whatever place the stream has.
fn books_of(bench: &Bench, name: &str) -> StreamStats {
    let stats = bench.handle.streams().into_iter().find(|stream| stream.name == name).unwrap();
    assert!(stats.balances(), "{stats:?}");
    stats
}

fn rows_of(dir: &Path, table: &str) -> i64 {
    let reading = rusqlite::Connection::open(dir.join("tidegate.db")).unwrap();
    reading.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn a_paused_stream_stays_paused_and_takes_messages() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    let mut position = bench.handle.position(A);
    position.borrow_and_update();
    bench.wait(bench.handle.pause(A, true)).unwrap();
    assert!(position.has_changed().unwrap(), "whoever forwards is woken");
    bench.store(A, 1..=3);
    assert!(bench.books(A).paused && !bench.books(B).paused);
    bench.settle(A, 1, 1, Fate::Forwarded);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert!(bench.books(A).paused && bench.handle.paused(A).load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!((bench.numbers(A), bench.books(A).forwarded), (vec![2, 3], 1));
    bench.wait(bench.handle.pause(A, false)).unwrap();
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert!(!bench.books(A).paused);
    bench.close();
}

#[test]
fn a_purge_takes_everything_that_is_there_and_nothing_that_comes() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 1..=10);
    bench.store(B, 1..=10);
    bench.settle(A, 1, 2, Fate::Forwarded);
    assert_eq!(bench.wait(bench.handle.purge(A)).unwrap(), 8);
    assert_eq!(bench.wait(bench.handle.purge(A)).unwrap(), 0);
    bench.store(A, [11]);
    // What was in flight is acknowledged later.
    bench.settle(A, 3, 6, Fate::Forwarded);
    bench.settle(A, 7, 10, Fate::Expired);
    let books = bench.books(A);
    assert_eq!((books.forwarded, books.purged, books.expired, bench.numbers(A)), (2, 8, 0, vec![11]));
    assert_eq!(bench.numbers(B).len(), 10);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!((bench.books(A).purged, bench.backlog(A)[0].seq), (8, 11));
    bench.close();
}

#[test]
fn a_purge_up_to_a_number_leaves_what_came_in_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 1..=10);
    bench.settle(A, 1, 2, Fate::Forwarded);
    let purge = |last| bench.wait(bench.handle.purge_to(A, last)).unwrap();
    assert_eq!((purge(0), purge(2), purge(6), purge(6)), (0, 0, 4, 0));
    // What was in flight is acknowledged later.
    bench.settle(A, 3, 7, Fate::Forwarded);
    assert_eq!((bench.books(A).purged, bench.books(A).forwarded, bench.numbers(A)), (4, 3, vec![8, 9, 10]));
    assert_eq!((purge(9), purge(u64::MAX - 1), purge(u64::MAX)), (2, 1, 0));
    bench.store(A, [11]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let books = bench.books(A);
    assert_eq!((books.purged, books.forwarded, books.backlog_messages, bench.numbers(A)), (7, 3, 1, vec![11]));
    bench.close();
}

#[test]
fn a_purge_of_very_much_is_done_at_once_and_its_rows_go_in_slices() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    for thousand in 0..30 {
        bench.store(A, thousand * 1_000..(thousand + 1) * 1_000);
    }
    assert_eq!(bench.wait(bench.handle.purge(A)).unwrap(), 30_000);
    assert_eq!(bench.books(A).backlog_messages, 0);
    // Whoever comes in between waits for one slice, not for all.
    bench.store(A, [1]);
    let deadline = std::time::Instant::now() + DEADLINE;
    while rows_of(dir.path(), "s_1") > 1_024 {
        assert!(std::time::Instant::now() < deadline, "the rows are deleted");
        bench.flush();
    }
    bench.close();
}

#[test]
fn a_purge_passes_holes_without_counting_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 1..=10);
    bench.close();
    let writing = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    writing.execute("UPDATE s_1 SET topic = x'ff' WHERE seq IN (4, 10)", []).unwrap();
    drop(writing);
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(bench.numbers(A).len(), 8);
    assert_eq!(bench.wait(bench.handle.purge(A)).unwrap(), 8);
    assert_eq!((bench.books(A).purged, bench.books(A).dead_total()), (8, 2));
    bench.store(A, [11]);
    assert_eq!(bench.numbers(A), [11]);
    bench.close();
}

#[test]
fn a_stream_that_is_not_configured_any_more_is_shown_kept_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let expiring = StreamSettings { ttl: Some(Duration::from_millis(1)), ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 1..=5);
    bench.settle(A, 1, 2, Fate::Forwarded);
    bench.close();

    // Another stream in its place, twice, with a crash in between.
    for _ in 0..2 {
        let bench = Bench::open(&settings(dir.path()), &[stream("b"), stream("c")]);
        let gone = books_of(&bench, "a");
        assert_eq!((gone.configured, gone.accepted, gone.forwarded, gone.backlog_messages), (false, 5, 2, 3));
        let names: Vec<_> = bench.handle.streams().into_iter().map(|s| (s.name, s.configured)).collect();
        assert_eq!(names, [("b".to_owned(), true), ("c".to_owned(), true), ("a".to_owned(), false)]);
        bench.store(B, [7]);
        bench.store.abandon();
    }

    let bench = Bench::open(&settings(dir.path()), &[stream("b"), stream("a")]);
    assert_eq!(bench.numbers(B), [3, 4, 5]);
    bench.store(B, [6]);
    assert_eq!(bench.backlog(B).last().unwrap().seq, 6, "the numbers go on");
    bench.close();

    // With a time to live everything is long over.
    let bench = Bench::open(&settings(dir.path()), &[expiring]);
    let mut position = bench.handle.position(A);
    bench.wait(position.wait_for(|position| position.head == 7)).unwrap();
    assert_eq!((bench.books(A).expired, books_of(&bench, "c").backlog_messages), (4, 2));
    bench.close();
}

#[test]
fn a_stream_that_is_not_configured_any_more_can_be_purged() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 1..=5);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("b")]);
    let gone = bench.handle.find("a").unwrap();
    assert_eq!(bench.handle.find("x"), None);
    assert_eq!(bench.wait(bench.handle.purge(gone)).unwrap(), 5);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("b"), stream("a")]);
    let books = bench.books(B);
    assert_eq!((books.accepted, books.purged, books.backlog_messages, books.configured), (5, 5, 0, true));
    bench.store(B, [6]);
    assert_eq!(bench.backlog(B)[0].seq, 6);
    bench.close();
}

#[test]
fn salvage_keeps_a_stream_paused() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 1..=5);
    bench.wait(bench.handle.pause(A, true)).unwrap();
    bench.close();
    std::fs::write(dir.path().join("tidegate.db.damaged"), "noted").unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert!(dir.path().join("quarantine").exists());
    assert!(bench.books(A).paused && !bench.books(B).paused);
    assert_eq!(bench.numbers(A).len(), 5);
    bench.close();
}
