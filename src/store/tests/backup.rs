//! Backups: a copy of a moment; who starts from it uses no number twice, and goes on as ever.

use std::{fs, path::PathBuf, time::Instant};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn open(dir: &Path) -> Bench {
    let keeps = StreamSettings { retain_sent: HOUR, ..stream("b") };
    Bench::open(&settings(dir), &[stream("a"), keeps])
}

/// A file for a backup of this store; the folder goes with the first.
fn backed_up(dir: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("of today.db");
    fs::write(&file, "").unwrap();
    backup(dir, &file).unwrap();
    (folder, file)
}

fn sequences(bench: &Bench, stream: StreamId) -> Vec<u64> {
    bench.backlog(stream).iter().map(|stored| stored.seq).collect()
}

/// Waits for the writer's and the reader's chores.
fn until(bench: &Bench, what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}: {:?}", bench.handle.streams());
        bench.flush();
    }
}

#[test]
fn a_running_store_is_copied_as_it_is_and_no_number_is_used_again() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = open(old.path());
    bench.store(A, 1..=30);
    bench.settle(A, 1, 10, Fate::Forwarded);
    let mut lane = bench.lane(OnRefusal::Report);
    let two = |number| publish_with(&[A], number, |publish| publish.packet_id = Some(7));
    bench.outcomes(&mut lane, vec![two(31)]);
    let (_folder, file) = backed_up(old.path());
    bench.outcomes(&mut lane, vec![Entry::Release { packet_id: 7 }]);
    bench.settle(A, 11, 20, Fate::Forwarded);
    bench.store(A, 32..=500);
    bench.close();

    let (copied, aside) = restore(&file, new.path()).unwrap();
    assert_eq!((copied.streams, aside), (vec![("a".to_owned(), 21), ("b".to_owned(), 0)], None));
    let bench = open(new.path());
    assert_eq!(sequences(&bench, A), (11..=31).collect::<Vec<_>>(), "what was there then is there, as it was called");
    let books = bench.books(A);
    assert_eq!((books.accepted, books.forwarded), (31, 10));
    let mut lane = bench.lane(OnRefusal::Report);
    assert_eq!(bench.outcomes(&mut lane, vec![two(900)]), [Outcome::Accepted], "another message by now");
    bench.store(A, 901..=905);
    bench.store(B, 1..=3);
    for (stream, backlog) in [(A, 27), (B, 3)] {
        let found = sequences(&bench, stream);
        assert_eq!(found.len(), backlog);
        assert!(found[backlog - 1] < 1 << 53, "JSON can carry it");
        assert!(found.iter().all(|&seq| seq <= 31 || seq > 500), "500 was the last: {found:?}");
    }
    // One of those that are made later may have had numbers, too.
    bench.close();
    let bench = Bench::open(&settings(new.path()), &[stream("later")]);
    bench.store(A, [1]);
    assert!(sequences(&bench, A)[0] > 500);
    bench.close();
}

#[test]
fn two_starts_from_one_backup_use_different_numbers_also_where_the_clock_is_behind() {
    let old = tempfile::tempdir().unwrap();
    let bench = open(old.path());
    bench.store(A, 1..=3);
    bench.close();
    let (_folder, file) = backed_up(old.path());
    for clock_is_behind in [false, true] {
        if clock_is_behind {
            let made_later = rusqlite::Connection::open(&file).unwrap();
            made_later.execute("UPDATE floor SET first = first + 1000000000000", []).unwrap();
        }
        let numbers: Vec<u64> = (0..2)
            .map(|_| {
                let new = tempfile::tempdir().unwrap();
                restore(&file, new.path()).unwrap();
                let bench = open(new.path());
                bench.store(A, [4]);
                let number = *sequences(&bench, A).last().unwrap();
                bench.close();
                number
            })
            .collect();
        assert!(numbers[0] != numbers[1] && numbers.iter().all(|&number| number < 1 << 53), "{numbers:?}");
    }
}

#[test]
fn a_restored_store_expires_deletes_keeps_and_checks_across_the_gap_in_its_numbers() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = open(old.path());
    for stream in [A, B] {
        bench.store(stream, 1..=3000);
        bench.settle(stream, 1, 100, Fate::Forwarded);
    }
    let (_folder, file) = backed_up(old.path());
    bench.close();
    restore(&file, new.path()).unwrap();
    open(new.path()).store.abandon();
    // What a crash leaves is checked, to the end of the numbers.
    let bench = open(new.path());
    until(&bench, "all is checked", || bench.handle.stats().checked == Some(1.0));
    for stream in [A, B] {
        bench.store(stream, 3001..=3100);
        bench.settle(stream, 1, 3000, Fate::Forwarded);
        assert_eq!(bench.numbers(stream), (3001..=3100).collect::<Vec<_>>());
        let all = sequences(&bench, stream);
        bench.settle(stream, all[0], all[49], Fate::Forwarded);
        let purged = bench.wait(bench.handle.purge_to(stream, all[79])).unwrap();
        assert_eq!((purged, bench.books(stream).backlog_messages), (30, 20));
    }
    assert_eq!(bench.books(B).kept_messages, 3050);
    assert_eq!(bench.wait(bench.handle.replay(B, i64::MIN, i64::MAX)).unwrap(), 3050);
    bench.wait(bench.handle.stop_replay(B)).unwrap();
    bench.close();
    // Kept no longer, everything goes, on both sides of the gap.
    let bench = Bench::open(&settings(new.path()), &[stream("a"), stream("b")]);
    until(&bench, "nothing is kept", || bench.books(B).kept_messages == 0);
    for stream in [A, B] {
        bench.store(stream, 5000..=7000);
        let last = sequences(&bench, stream)[2020];
        bench.settle(stream, 1, last, Fate::Forwarded);
    }
    let rows = || -> i64 {
        let reading = rusqlite::Connection::open(new.path().join("tidegate.db")).unwrap();
        reading
            .query_row("SELECT (SELECT count(*) FROM s_1) + (SELECT count(*) FROM s_2)", [], |row| row.get(0))
            .unwrap()
    };
    until(&bench, "what left is deleted", || rows() < 2048);
    bench.close();
}

#[test]
fn what_was_there_is_set_aside_and_a_running_gateway_is_left_alone() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(old.path()).close();
    let (_folder, file) = backed_up(old.path());
    let bench = open(new.path());
    bench.store(A, 1..=5);
    let refused = restore(&file, new.path()).unwrap_err();
    assert!(matches!(refused, BackupError::Open(OpenError::Locked { .. })), "{refused}");
    assert_eq!(bench.numbers(A), [1, 2, 3, 4, 5]);
    bench.store.abandon();
    let (_, aside) = restore(&file, new.path()).unwrap();
    let aside = aside.unwrap();
    assert!(aside.starts_with(new.path().join("quarantine")));
    let bench = open(new.path());
    assert_eq!(bench.backlog(A).len(), 0);
    bench.close();
    // With its log, it is whole; and so is a data directory that was copied after a crash.
    restore(&aside.join("tidegate.db"), new.path()).unwrap();
    let bench = open(new.path());
    assert_eq!(bench.numbers(A), [1, 2, 3, 4, 5]);
    bench.store(A, [6]);
    assert!(sequences(&bench, A)[5] > 1 << 40, "its numbers may have been used since");
    bench.close();
}

#[test]
fn a_backup_that_is_copied_beside_a_log_of_another_database_is_not_spoilt_by_it() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = open(old.path());
    bench.store(A, 1..=5);
    let (_folder, file) = backed_up(old.path());
    bench.close();
    let bench = open(new.path());
    bench.store(A, 100..=2000);
    bench.store.abandon();
    assert!(fs::metadata(new.path().join("tidegate.db-wal")).unwrap().len() > 0);
    fs::copy(&file, new.path().join("tidegate.db")).unwrap();
    for _ in 0..2 {
        let bench = open(new.path());
        assert_eq!(bench.numbers(A), [1, 2, 3, 4, 5]);
        assert_eq!(bench.handle.stats().salvages, 0);
        bench.store.abandon();
    }
    assert!(AtRest::open(new.path()).unwrap().damage().is_none());
}

#[test]
fn a_damaged_backup_is_refused_and_salvaged_where_it_is_put_in_place_by_hand() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = open(old.path());
    bench.store(A, 1..=3000);
    let (_folder, file) = backed_up(old.path());
    bench.close();
    let mut bytes = fs::read(&file).unwrap();
    let row = bytes.windows(8).position(|window| window == 1500_u64.to_be_bytes()).unwrap();
    let page = row / 4096 * 4096;
    bytes[page..page + 4096].fill(0xFF);
    fs::write(&file, bytes).unwrap();
    let refused = restore(&file, new.path()).unwrap_err();
    assert!(matches!(refused, BackupError::Unreadable { .. }), "{refused}");
    assert!(!new.path().join("tidegate.db").exists() && !new.path().join("quarantine").exists());
    fs::copy(&file, new.path().join("tidegate.db")).unwrap();
    fs::write(new.path().join("tidegate.db.damaged"), "seen before").unwrap();
    let bench = open(new.path());
    assert_eq!(bench.handle.stats().salvages, 1);
    let kept = sequences(&bench, A);
    assert!(kept.len() > 2700 && kept.iter().all(|&seq| seq <= 3000));
    bench.store(A, [1]);
    assert!(*sequences(&bench, A).last().unwrap() > 1 << 40);
    bench.close();
}

#[test]
fn what_is_no_backup_is_refused_with_its_name_and_changes_nothing() {
    let (folder, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = folder.path().join("some.db");
    let making = rusqlite::Connection::open(&file).unwrap();
    making.execute_batch("CREATE TABLE mine(x); PRAGMA application_id = 7; PRAGMA user_version = 1").unwrap();
    drop(making);
    let refused = |what: &str| {
        let error = restore(&file, new.path()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("some.db"), "{what}: {error}");
        assert_eq!(fs::read_dir(new.path()).unwrap().count(), 1, "the lock alone");
    };
    refused("some other program");
    let making = rusqlite::Connection::open(&file).unwrap();
    making.execute_batch(&format!("PRAGMA application_id = {}; PRAGMA user_version = 99", 0x5447_424B)).unwrap();
    drop(making);
    refused("version 99");
    fs::write(&file, "a file of notes, whatever its name says").unwrap();
    refused("cannot be read whole");
    fs::remove_file(&file).unwrap();
    refused("no such file");
    let error = backup(folder.path(), &file).unwrap_err();
    assert!(matches!(error, BackupError::Nothing(_)), "{error}");
}
