//! The database of a stopped gateway is read as it is, and stays as it is.

use std::{collections::BTreeMap, time::SystemTime};

use super::*;

/// Names, contents and times of all files of a folder.
fn snapshot(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let modified = path.metadata().unwrap().modified().unwrap();
        (path.display().to_string(), (std::fs::read(&path).unwrap(), modified))
    };
    std::fs::read_dir(dir).unwrap().map(file).collect()
}

/// All of a stream's messages, page by page, and how many could not be read.
fn read_all(resting: &mut AtRest, stream: &str, kept: bool) -> (Vec<Stored>, u64) {
    let (mut all, mut lost, mut from) = (Vec::new(), 0, Some(0));
    while let Some(next) = from {
        let page = resting.read(stream, kept, next, 7).unwrap();
        assert!(page.messages.len() <= 7);
        all.extend(page.messages);
        lost += page.lost;
        from = page.next;
    }
    (all, lost)
}

fn sequences(rows: &[Stored]) -> Vec<u64> {
    rows.iter().map(|stored| stored.seq).collect()
}

/// A store with a backlog of 11 to 30, 1 to 10 kept, and one dead letter among them.
fn filled(dir: &Path) -> Bench {
    let keeps = StreamSettings { retain_sent: Duration::from_secs(3600), ..stream("a") };
    let bench = Bench::open(&settings(dir), &[keeps, stream("b")]);
    bench.store(A, 1..=30);
    bench.settle(A, 1, 4, Fate::Forwarded);
    bench.settle(A, 5, 5, Fate::Dead { reason: "refused", detail: "no".to_owned() });
    bench.settle(A, 6, 10, Fate::Forwarded);
    bench
}

#[test]
fn everything_is_there_after_a_stop_and_after_a_crash_and_nothing_is_changed() {
    for end in ["closed", "crashed", "crashed, without the index"] {
        let dir = tempfile::tempdir().unwrap();
        let bench = filled(dir.path());
        let (backlog, books) = (bench.backlog(A), bench.books(A));
        let kept = bench.wait(bench.handle.kept(A, 0, 100, 1 << 20)).unwrap();
        match end {
            "closed" => bench.close(),
            _ => bench.store.abandon(),
        }
        assert_eq!(dir.path().join("tidegate.db-wal").exists(), end != "closed", "{end}");
        if end == "crashed, without the index" {
            std::fs::remove_file(dir.path().join("tidegate.db-shm")).unwrap();
        }
        let before = snapshot(dir.path());
        let mut resting = AtRest::open(dir.path()).unwrap();
        let (rows, lost) = read_all(&mut resting, "a", false);
        assert_eq!(lost, 0, "{end}");
        let messages = |rows: &[Stored]| rows.iter().map(|row| (row.seq, row.message.clone())).collect::<Vec<_>>();
        assert_eq!(messages(&rows), messages(&backlog), "{end}");
        assert_eq!(rows[0].accepted_unix_ms, backlog[0].accepted_unix_ms);
        assert_eq!(sequences(&read_all(&mut resting, "a", true).0), sequences(&kept));
        assert_eq!(sequences(&kept), [1, 2, 3, 4, 6, 7, 8, 9, 10]);
        let found = resting.streams().swap_remove(0);
        assert_eq!(StreamStats { oldest_age: books.oldest_age, ..found }, books);
        assert_eq!(resting.position("a"), Some((11, 31)));
        assert!(resting.read("c", false, 0, 1).is_none());
        let filter = DeadFilter { limit: 10, ..DeadFilter::default() };
        assert_eq!(resting.dead(&filter, Some("a")).unwrap()[0].seq, 5);
        assert!(resting.dead(&filter, Some("b")).unwrap().is_empty());
        let whole = resting.dead(&DeadFilter { id: Some(1), ..filter }, None).unwrap().remove(0);
        assert_eq!(whole.message.unwrap(), message(5));
        assert_eq!((resting.dead_stats().unwrap().messages, resting.damage()), (1, None));
        drop(resting);
        assert!(snapshot(dir.path()) == before, "{end}: something was changed");
        let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
        assert_eq!(sequences(&bench.backlog(A)), (11..=30).collect::<Vec<_>>(), "{end}");
        bench.close();
    }
}

#[test]
fn a_gateway_and_a_reader_keep_each_other_out() {
    let dir = tempfile::tempdir().unwrap();
    let bench = filled(dir.path());
    let held = AtRest::open(dir.path()).unwrap_err();
    assert!(matches!(held, AtRestError::Held(OpenError::Locked { pid: Some(_), .. })), "{held}");
    bench.close();
    let readers = (AtRest::open(dir.path()).unwrap(), AtRest::open(dir.path()).unwrap());
    let refused = Bench::try_open(&settings(dir.path()), &[stream("a")]).err().unwrap();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(readers);
    Bench::open(&settings(dir.path()), &[stream("a")]).close();
}

#[test]
fn an_older_version_is_read_as_it_is_and_a_newer_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let making = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    making.execute_batch("PRAGMA journal_mode = WAL;").unwrap();
    making.execute_batch(include_str!("version-2.sql")).unwrap();
    drop(making);
    let before = snapshot(dir.path());
    let mut resting = AtRest::open(dir.path()).unwrap();
    assert_eq!(sequences(&read_all(&mut resting, "a", false).0), (7..=20).collect::<Vec<_>>());
    assert_eq!((resting.dead_stats().unwrap().messages, resting.damage()), (2, None));
    drop(resting);
    assert!(snapshot(dir.path()) == before);
    let making = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    making.pragma_update(None, "user_version", 99).unwrap();
    drop(making);
    assert!(matches!(AtRest::open(dir.path()), Err(AtRestError::Open(OpenError::Newer { found: 99, .. }))));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(AtRest::open(empty.path()), Err(AtRestError::Nothing(_))));
    std::fs::write(empty.path().join("tidegate.db"), "no database at all, whatever its name says").unwrap();
    assert!(matches!(AtRest::open(empty.path()), Err(AtRestError::Unreadable { .. })));
}

#[test]
fn what_is_damaged_is_passed_over_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 1..=3000);
    bench.close();
    let path = dir.path().join("tidegate.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // A page in the middle of the rows: their payloads are numbers that stand one behind the other.
    let row = bytes.windows(8).position(|window| window == 1500_u64.to_be_bytes()).unwrap();
    let page = row / 4096 * 4096;
    bytes[page..page + 4096].fill(0xFF);
    std::fs::write(&path, bytes).unwrap();
    let mut resting = AtRest::open(dir.path()).unwrap();
    let (rows, lost) = read_all(&mut resting, "a", false);
    assert!(lost > 0 && lost < 300, "{lost}");
    assert_eq!(rows.len() as u64 + lost, 3000);
    assert!(rows.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    assert_eq!((rows[0].seq, rows.last().unwrap().seq), (1, 3000));
    assert!(resting.damage().is_some());
}
