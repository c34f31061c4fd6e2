//! Damaged databases: the store starts after anything, keeps what can be read, and says what is missing.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use proptest::prelude::*;

use super::*;

/// A closed database with 2000 messages in "a", the first 100 forwarded, and some in "b"; about 200 pages.
fn made(dir: &Path) -> PathBuf {
    let bench = Bench::open(&settings(dir), &[stream("a"), stream("b")]);
    let mut lane = bench.lane(OnRefusal::Report);
    let padded = |n| {
        publish_with(&[A], n, |publish| {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(300, 1);
            publish.message.payload = payload.into();
        })
    };
    bench.outcomes(&mut lane, (1..=2000).map(padded).collect());
    bench.store(B, 1..=10);
    bench.settle(A, 1, 100, Fate::Forwarded);
    bench.close();
    dir.join("tidegate.db")
}

/// Opens and works until nothing fails any more, opened again after every failure that ends the store, as systemd would do it. Reads everything; `writes` too where that may be needed to find the damage.
fn restart_until(dir: &Path, writes: bool) -> Bench {
    let mut causes = Vec::new();
    for _ in 0..10 {
        let bench = Bench::open(&settings(dir), &[stream("a"), stream("b")]);
        match bench.wait(work(&bench.handle, writes)) {
            Ok(()) => return bench,
            Err(error) => causes.push(error.to_string()),
        }
    }
    panic!("the store keeps failing: {causes:?}");
}

fn restart_until_sound(dir: &Path) -> Bench {
    restart_until(dir, false)
}

async fn work(handle: &Handle, writes: bool) -> Result<(), StoreError> {
    for stream in [A, B] {
        let mut from = 0;
        loop {
            let read = handle.read(stream, from, 1000, 1 << 20).await?;
            let Some(last) = read.last() else { break };
            from = last.seq + 1;
        }
        if writes {
            submit_until_taken(handle, (0..2000).map(|n| publish(&[stream], 5000 + n)).collect()).await?;
            handle.settle(stream, vec![Run { first: 0, last: u64::MAX, fate: Fate::Forwarded }]).await?;
        }
    }
    handle.flush(DEADLINE).await
}

fn quarantined(dir: &Path) -> usize {
    fs::read_dir(dir.join("quarantine")).map_or(0, Iterator::count)
}

/// What holds after any damage: nothing is invented, order is kept, the books balance, numbers are new, and it works.
fn check_sound(bench: &Bench) -> Vec<u64> {
    let numbers = bench.numbers(A);
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order");
    for stored in bench.backlog(A) {
        let number = number_of(&stored.message);
        assert!((1..=2000).contains(&number) && number == stored.seq, "number {number} is at {}", stored.seq);
    }
    let before = bench.books(A);
    assert_eq!(before.backlog_messages, numbers.len() as u64);
    bench.store(A, [5000]);
    bench.store(B, [5000]);
    let backlog = bench.backlog(A);
    assert!(backlog.last().unwrap().seq > 2000, "a sequence number is used again");
    bench.settle(A, 0, u64::MAX, Fate::Forwarded);
    bench.settle(B, 0, u64::MAX, Fate::Forwarded);
    assert_eq!(bench.books(A).forwarded, before.forwarded + numbers.len() as u64 + 1);
    assert_eq!((bench.books(A).backlog_messages, bench.books(A).backlog_bytes), (0, 0));
    numbers
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_damaged_page_costs_the_messages_of_that_page_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path());
    let pages = fs::metadata(&path).unwrap().len() / 4096;
    // Not a page of the structures at the front.
    overwrite(&path, pages / 2 * 4096, &[0xEE; 4096]);
    let bench = restart_until_sound(dir.path());
    assert_eq!(quarantined(dir.path()), 1);
    let books = bench.books(A);
    let lost = books.dropped_total();
    assert!((1..=20).contains(&lost), "{books:?}");
    assert_eq!((books.accepted, books.forwarded), (2000, 100));
    let numbers = check_sound(&bench);
    assert_eq!(numbers.len() as u64, 1900 - lost);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!(bench.books(A).dropped, [("damaged".to_owned(), lost)]);
    assert_eq!(quarantined(dir.path()), 1, "a salvaged database is sound");
    bench.close();
}

#[test]
fn a_truncated_database_keeps_what_is_left_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2 + 1000).unwrap();
    let bench = restart_until_sound(dir.path());
    assert_eq!(quarantined(dir.path()), 1);
    let numbers = check_sound(&bench);
    assert!(numbers.len() > 500, "{}", numbers.len());
    bench.close();
}

#[test]
fn a_garbage_header_is_set_aside_and_the_gateway_starts() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path());
    overwrite(&path, 0, &[0x55; 100]);
    let damaged = fs::read(&path).unwrap();
    let bench = restart_until_sound(dir.path());
    check_sound(&bench);
    bench.close();
    let aside =
        fs::read_dir(dir.path().join("quarantine")).unwrap().next().unwrap().unwrap().path().join("tidegate.db");
    assert_eq!(fs::read(aside).unwrap(), damaged, "what was set aside is as it was found");
}

#[test]
fn a_file_of_garbage_is_set_aside_and_the_gateway_starts() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tidegate.db"), [7; 10_000]).unwrap();
    let bench = restart_until_sound(dir.path());
    assert_eq!(quarantined(dir.path()), 1);
    bench.close();
}

#[test]
fn streams_are_not_mixed_up_where_all_of_them_are_lost_while_running() {
    let dir = tempfile::tempdir().unwrap();
    // Made in another order than they are configured in.
    Bench::open(&settings(dir.path()), &[stream("b")]).close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 1..=3);
    bench.store(B, 11..=12);
    let salvages = bench.handle.salvages();
    // Nothing of the list of streams, nor of any table, can be found.
    let (path, log) = (dir.path().join("tidegate.db"), dir.path().join("tidegate.db-wal"));
    fs::write(&log, []).unwrap();
    fs::write(&path, [0xAA; 4096]).unwrap();
    let handle = bench.handle.clone();
    bench.wait(async {
        while *salvages.borrow() == 0 {
            let (mut lane, mut returns) = handle.lane(OnRefusal::Report, None);
            lane.reserve(0).await.unwrap().submit(vec![publish(&[A], 20)]);
            let _ = returns.recv().await;
            let _ = handle.read(A, 0, 10, 1 << 20).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    bench.store(A, [100]);
    bench.store(B, [200]);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!((bench.numbers(A).last(), bench.numbers(B).last()), (Some(&100), Some(&200)));
    bench.close();
}

#[test]
fn a_database_that_is_gone_is_no_new_folder() {
    type Harm = fn(&Path);
    let harms: [Harm; 2] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap(),
    ];
    for harm in harms {
        let dir = tempfile::tempdir().unwrap();
        crashed(dir.path());
        harm(&dir.path().join("tidegate.db"));
        let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
        assert_eq!(quarantined(dir.path()), 1);
        let set_aside = fs::read_dir(dir.path().join("quarantine")).unwrap().next().unwrap().unwrap().path();
        assert!(set_aside.join("tidegate.db-wal").metadata().unwrap().len() > 0, "the log may be all that is left");
        bench.store(A, [7]);
        assert!(bench.backlog(A)[0].seq > 1 << 40, "numbers that may have been used are not used again");
        assert_eq!(bench.handle.stats().salvages, 1);
        bench.close();
        let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
        assert_eq!((bench.numbers(A), quarantined(dir.path())), (vec![7], 1));
        let first = bench.backlog(A)[0].seq;
        bench.close();
        harm(&dir.path().join("tidegate.db"));
        let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
        bench.store(A, [8]);
        // As if no time had passed, which a clock that is never set may say.
        assert!(bench.backlog(A)[0].seq >= first + 1_000_000_000);
        bench.close();
    }
}

#[test]
fn a_row_that_makes_no_sense_goes_to_the_dead_letters() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path());
    let damaging = rusqlite::Connection::open(&path).unwrap();
    damaging.execute_batch("UPDATE s_1 SET topic = 'a/#' WHERE seq IN (101, 150, 2000)").unwrap();
    drop(damaging);
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    let numbers = bench.numbers(A);
    assert_eq!(numbers.len(), 1897);
    bench.flush();
    let books = bench.books(A);
    assert_eq!((books.dead, books.backlog_messages), (vec![("damaged".to_owned(), 3)], 1897));
    assert_eq!(bench.handle.position(A).borrow().head, 102);
    bench.settle(A, 102, 2000, Fate::Forwarded);
    assert_eq!((bench.books(A).backlog_messages, bench.books(A).forwarded), (0, 1997));
    bench.close();
    assert_eq!(quarantined(dir.path()), 0);
}

/// Deletes rows behind the store's back, as a page does that lost a part of its cells: what is left reads without an error.
fn lose(path: &Path, which: &str) {
    rusqlite::Connection::open(path).unwrap().execute(&format!("DELETE FROM s_1 WHERE {which}"), []).unwrap();
}

#[test]
fn rows_that_are_missing_without_an_error_are_found_by_reading_and_counted() {
    for (which, count) in [("seq BETWEEN 500 AND 519", 20), ("seq = 101", 1), ("seq = 1500 OR seq = 1502", 2)] {
        let dir = tempfile::tempdir().unwrap();
        lose(&made(dir.path()), which);
        let bench = restart_until_sound(dir.path());
        assert_eq!(bench.books(A).dropped, [("damaged".to_owned(), count)], "{which}");
        assert_eq!(bench.books(A).accepted, 2000, "{which}");
        assert_eq!(check_sound(&bench).len() as u64, 1900 - count, "{which}");
        bench.close();
    }
}

#[test]
fn rows_that_are_missing_without_an_error_are_not_expired_as_if_they_were_there() {
    let dir = tempfile::tempdir().unwrap();
    lose(&made(dir.path()), "seq BETWEEN 500 AND 519");
    let short = StreamSettings { ttl: Some(Duration::from_millis(1)), ..stream("a") };
    let open = || Bench::open(&settings(dir.path()), &[short.clone(), stream("b")]);
    // Salvaged in the same process.
    let bench = open();
    bench.wait(async {
        while bench.handle.streams()[0].backlog_messages > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let books = bench.books(A);
    assert_eq!((books.expired, books.dropped), (1880, vec![("damaged".to_owned(), 20)]));
    bench.close();
}

#[test]
fn a_row_with_an_impossible_number_is_salvaged_around() {
    for number in ["-1", "9223372036854775807"] {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
        bench.store(A, [1]);
        bench.close();
        let damaging = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
        damaging.execute_batch(&format!("UPDATE s_1 SET seq = {number}")).unwrap();
        drop(damaging);
        let bench = restart_until_sound(dir.path());
        assert_eq!((bench.books(A).backlog_messages, quarantined(dir.path())), (0, 1), "{number}");
        bench.store(A, [2]);
        bench.close();
    }
}

#[test]
fn what_is_lost_of_a_stream_that_was_only_appended_to_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 1..=2000);
    bench.close();
    lose(&dir.path().join("tidegate.db"), "seq <= 8");
    let bench = restart_until_sound(dir.path());
    assert_eq!((bench.books(A).accepted, bench.books(A).dropped), (2000, vec![("damaged".to_owned(), 8)]));
    assert_eq!(check_sound(&bench).len(), 1992);
    bench.close();
}

#[test]
fn an_orderly_end_and_a_checkpoint_note_how_far_a_stream_goes_that_was_only_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path());
    let noted = |name: &str| -> u64 {
        let reading = rusqlite::Connection::open(&path).unwrap();
        let next = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        reading.query_row("SELECT next FROM stream WHERE name = ?1", [name], next).unwrap().cast_unsigned()
    };
    assert_eq!(noted("b"), 11, "after an orderly end");

    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    let mut lane = bench.lane(OnRefusal::Report);
    let large = |n| {
        publish_with(&[B], n, |publish| {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(8000, 1);
            publish.message.payload = payload.into();
        })
    };
    for batch in 0..10 {
        bench.outcomes(&mut lane, (1..=100).map(|n| large(1000 * batch + n)).collect());
    }
    assert!(noted("b") > 11, "8 MB are more than a checkpoint");
    bench.close();
    assert_eq!(noted("b"), 1011);
}

#[test]
fn many_rows_that_make_no_sense_leave_the_queue_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path());
    let damaging = rusqlite::Connection::open(&path).unwrap();
    damaging.execute_batch("UPDATE s_1 SET topic = 'a/#' WHERE seq < 1990").unwrap();
    drop(damaging);
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!(bench.wait(bench.handle.read(A, 0, 4096, 1 << 20)).unwrap().len(), 11);
    // The answer came after the commit.
    assert_eq!(bench.handle.position(A).borrow().head, 1990);
    assert_eq!(bench.books(A).dead, [("damaged".to_owned(), 1889)]);
    bench.close();
}

#[test]
fn a_crash_at_any_step_of_recovery_is_made_good() {
    let steps: [fn(&Path); 3] = [
        |dir| fs::write(dir.join("tidegate.db.salvaging"), b"half").unwrap(),
        |dir| {
            // Salvaged, nothing moved yet.
            fs::copy(dir.join("tidegate.db"), dir.join("tidegate.db.salvaged")).unwrap();
            fs::write(dir.join("tidegate.db"), b"damaged").unwrap();
        },
        |dir| {
            // The damaged database is moved, its log is not: it must not get into the new one.
            fs::rename(dir.join("tidegate.db"), dir.join("tidegate.db.salvaged")).unwrap();
            fs::write(dir.join("tidegate.db-wal"), b"stale").unwrap();
        },
    ];
    for step in steps {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        step(dir.path());
        let bench = restart_until_sound(dir.path());
        assert_eq!(check_sound(&bench).len(), 1900);
        bench.close();
    }
}

/// A directory as a crash leaves it, with everything in the log.
fn crashed(dir: &Path) -> PathBuf {
    Bench::open(&settings(dir), &[stream("a"), stream("b")]).close();
    let bench = Bench::open(&settings(dir), &[stream("a"), stream("b")]);
    for n in 1..=50 {
        bench.store(A, [n]);
    }
    bench.store.abandon();
    dir.join("tidegate.db-wal")
}

/// As many as `PROPTEST_CASES` says; each opens and closes databases, so few where it says nothing.
pub(super) fn cases() -> u32 {
    std::env::var_os("PROPTEST_CASES").map_or(24, |_| ProptestConfig::default().cases)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_cut_at_any_byte_leaves_a_prefix(cut in 0.0..1.0f64) {
        let dir = tempfile::tempdir().unwrap();
        let log = crashed(dir.path());
        let file = fs::OpenOptions::new().write(true).open(&log).unwrap();
        let len = file.metadata().unwrap().len();
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a small file")]
        file.set_len((len as f64 * cut) as u64).unwrap();
        let bench = restart_until_sound(dir.path());
        let numbers = bench.numbers(A);
        prop_assert_eq!(&numbers, &(1..=numbers.len() as u64).collect::<Vec<_>>());
        bench.books(A);
        bench.store(A, [51]);
        bench.close();
    }

    #[test]
    fn no_bytes_anywhere_keep_the_store_from_starting(
        places in proptest::collection::vec((0.0..1.0f64, proptest::collection::vec(any::<u8>(), 1..200)), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = made(dir.path());
        let len = fs::metadata(&path).unwrap().len();
        for (place, bytes) in places {
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a small file")]
            overwrite(&path, (len as f64 * place) as u64, &bytes);
        }
        let bench = restart_until(dir.path(), true);
        for stream in [A, B] {
            prop_assert_eq!(bench.books(stream).backlog_messages, 0);
        }
        bench.close();
        let mut header = [0; 16];
        fs::File::open(&path).unwrap().read_exact(&mut header).unwrap();
        prop_assert_eq!(&header, b"SQLite format 3\0");
    }
}
