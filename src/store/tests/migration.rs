//! Databases of versions 2 and 3 become ones of this version with everything that they hold.

use super::*;
use crate::store::schema;

/// A database of version 2, as a program of that version wrote it.
fn version_2(dir: &Path) {
    make(dir, include_str!("version-2.sql"));
}

fn make(dir: &Path, sql: &str) {
    let making = rusqlite::Connection::open(dir.join("tidegate.db")).unwrap();
    making.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;").unwrap();
    making.execute_batch(sql).unwrap();
}

fn open(dir: &Path) -> Bench {
    Bench::open(&settings(dir), &[stream("a"), stream("b")])
}

fn check(bench: &Bench) {
    assert_eq!(bench.backlog(A).iter().map(|stored| stored.seq).collect::<Vec<_>>(), (7..=20).collect::<Vec<_>>());
    let books = bench.books(A);
    assert_eq!((books.accepted, books.forwarded, books.dead), (20, 4, vec![("refused".to_owned(), 2)]));
    assert_eq!((books.paused, books.configured), (false, true));
    let letters = bench.wait(bench.handle.dead(DeadFilter { limit: 10, ..DeadFilter::default() })).unwrap();
    assert_eq!(letters.iter().map(|letter| (letter.id, letter.seq)).collect::<Vec<_>>(), [(1, 5), (2, 6)]);
    let stats = bench.handle.dead_stats();
    assert_eq!((stats.messages, stats.retried + stats.purged + stats.dropped), (2, 0));
    assert_eq!((bench.handle.queues().messages, bench.handle.queues().bytes), (2, 34));
    assert_eq!(bench.wait(bench.handle.retained()).unwrap().len(), 2);
}

#[test]
fn a_database_of_version_2_is_brought_up_with_all_that_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    version_2(dir.path());
    let bench = open(dir.path());
    check(&bench);
    bench.store.abandon();
    let reading = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    let version: i64 = reading.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, schema::VERSION);
    drop(reading);
    let bench = open(dir.path());
    check(&bench);
    // And it works.
    bench.wait(bench.handle.pause(A, true)).unwrap();
    bench.wait(bench.handle.retry_dead(2, "gw")).unwrap();
    assert_eq!(bench.wait(bench.handle.purge(A)).unwrap(), 15);
    bench.close();
    let bench = open(dir.path());
    assert!(bench.books(A).paused && bench.books(A).purged == 15);
    bench.close();
    assert!(!dir.path().join("quarantine").exists());
}

#[test]
fn a_damaged_database_of_version_2_is_salvaged_into_a_new_one() {
    // Its header cannot be read, so it is salvaged before it is brought up.
    let dir = tempfile::tempdir().unwrap();
    version_2(dir.path());
    let path = dir.path().join("tidegate.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..100].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    let bench = open(dir.path());
    check(&bench);
    bench.close();
}

#[test]
fn a_database_of_version_3_is_brought_up_and_takes_imports() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), include_str!("version-3.sql"));
    let bench = open(dir.path());
    assert_eq!(bench.backlog(A).iter().map(|stored| stored.seq).collect::<Vec<_>>(), (7..=20).collect::<Vec<_>>());
    let books = bench.books(A);
    assert_eq!((books.accepted, books.forwarded, books.paused, books.replayed), (20, 4, true, 3));
    let stats = bench.handle.dead_stats();
    assert_eq!((stats.messages, stats.retried), (2, 1));
    let import = || bench.handle.import(B, vec![super::import::exported(1)], "gw/b".to_owned(), false);
    assert_eq!(bench.wait(import()).unwrap(), Imported { accepted: 1, skipped: 0, stop: None });
    bench.close();
    let bench = open(dir.path());
    assert_eq!((bench.numbers(B), bench.books(A).backlog_messages), (vec![1, 1], 14), "one was there already");
    bench.close();
    assert!(!dir.path().join("quarantine").exists());
}
