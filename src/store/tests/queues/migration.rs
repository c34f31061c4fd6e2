//! A database of version 1 becomes one of version 2 with everything that it holds.

use super::*;
use crate::store::schema;

/// A database of version 1, as the last program of that version left it.
fn version_1(dir: &Path) {
    let path = dir.join("tidegate.db");
    let making = rusqlite::Connection::open(path).unwrap();
    making.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;").unwrap();
    making.execute_batch(include_str!("version-1.sql")).unwrap();
}

fn check(bench: &Bench) {
    assert_eq!(bench.backlog(A).iter().map(|stored| stored.seq).collect::<Vec<_>>(), (6..=20).collect::<Vec<_>>());
    let books = bench.books(A);
    assert_eq!((books.accepted, books.forwarded, books.dead), (20, 4, vec![("refused".to_owned(), 1)]));
    let b = bench.backlog(B);
    assert_eq!((b.len(), b[0].message.properties.as_ref().unwrap().message_expiry_s), (1, Some(3600)));
    let kept = bench.wait(bench.handle.retained()).unwrap();
    assert_eq!(kept.iter().map(|kept| number_of(&kept.message)).collect::<Vec<_>>(), [1, 2]);
    let mut restored = bench.restored();
    restored.sort_by(|one, other| one.record.client_id.cmp(&other.record.client_id));
    let wanted = SessionRecord { expiry_s: u32::MAX, received: vec![9, 65_535], ..record("client", UNLIMITED) };
    assert_eq!((&restored[0].record, restored[0].away_ms), (&wanted, None));
    let wanted = SessionRecord { expiry_s: 60, ..record("other/é", UNLIMITED) };
    assert_eq!((&restored[1].record, restored.len()), (&wanted, 2));
    assert!(restored[0].id != restored[1].id);
}

#[test]
fn an_older_database_is_brought_up_with_all_that_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    version_1(dir.path());
    let open = || Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    let bench = open();
    check(&bench);
    bench.store.abandon();
    assert_eq!(sql_number(dir.path(), "PRAGMA user_version"), schema::VERSION);
    let bench = open();
    check(&bench);
    // And it works.
    let [one, other] = [0, 1].map(|at| bench.restored()[at].id);
    bench.queue(one, 1..=3);
    bench.queue(other, 1..=2);
    let new = bench.save("new", UNLIMITED);
    assert!(new != one && new != other);
    let mut lane = bench.lane(OnRefusal::Report);
    let known = publish_with(&[], 1, |publish| publish.packet_id = Some(9));
    assert_eq!(bench.outcomes(&mut lane, vec![known]), [Outcome::Duplicate]);
    bench.close();
    let bench = open();
    assert_eq!((bench.queued_numbers(one).len(), bench.queued_numbers(other).len()), (3, 2));
    bench.close();
    assert!(!dir.path().join("quarantine").exists());
}

#[test]
fn a_damaged_older_database_is_salvaged_into_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    version_1(dir.path());
    std::fs::write(dir.path().join("tidegate.db.damaged"), "noted").unwrap();
    // Salvaged after it was brought up ...
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    check(&bench);
    bench.close();
    // ... and before: its header cannot be read.
    let dir = tempfile::tempdir().unwrap();
    version_1(dir.path());
    let path = dir.path().join("tidegate.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..100].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    check(&bench);
    let id = bench.restored()[0].id;
    bench.queue(id, 1..=3);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!(bench.queued_numbers(id).len(), 3);
    bench.close();
}
