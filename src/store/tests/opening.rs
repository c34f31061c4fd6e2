//! Opening: the lock, modes, versions.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_second_opener_is_refused_and_told_who_holds_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let error = Bench::try_open(&settings(dir.path()), &[stream("a")]).err().unwrap();
    assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
    bench.store(A, 0..3);
    bench.close();
    Bench::open(&settings(dir.path()), &[stream("a")]).close();
}

#[test]
fn nobody_else_can_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data/deep");
    let bench = Bench::open(&settings(&data), &[stream("a")]);
    bench.store(A, 0..3);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let mut files = 0;
    for file in std::fs::read_dir(&data).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
        files += 1;
    }
    assert!(files >= 4, "database, log, index, lock");
    bench.close();
}

#[test]
fn a_newer_database_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..3);
    bench.close();
    let path = dir.path().join("tidegate.db");
    let log = dir.path().join("tidegate.db-wal");
    {
        // Written by a newer program that crashed: the version stands in the log alone.
        let newer = rusqlite::Connection::open(&path).unwrap();
        newer.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
    }
    let before = (std::fs::read(&path).unwrap(), std::fs::read(&log).unwrap());
    let error = Bench::try_open(&settings(dir.path()), &[stream("a")]).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 99, known: 4, .. }), "{error}");
    assert!(error.to_string().contains("99") && error.to_string().contains("up to 4"), "{error}");
    assert_eq!((std::fs::read(&path).unwrap(), std::fs::read(&log).unwrap()), before);
}

#[test]
fn somebody_elses_database_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tidegate.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA application_id = 7; CREATE TABLE t(a); INSERT INTO t VALUES(1);").unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    let error = Bench::try_open(&settings(dir.path()), &[stream("a")]).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { found: 7, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_database_that_was_only_begun_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tidegate.db"), b"").unwrap();
    Bench::open(&settings(dir.path()), &[stream("a")]).close();
    assert!(!dir.path().join("quarantine").exists());
}

#[test]
fn a_power_cut_while_the_database_is_made_does_not_keep_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("making.db");
    let making = rusqlite::Connection::open(&path).unwrap();
    // The cache is too small for the transaction, so that it is in the file before it is committed.
    making
        .execute_batch(
            "PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; CREATE TABLE t(a); BEGIN; PRAGMA application_id = 7;
            WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 100)
            INSERT INTO t SELECT zeroblob(4000) FROM n; PRAGMA application_id = 0;",
        )
        .unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::copy(&path, data.join("tidegate.db")).unwrap();
    std::fs::copy(dir.path().join("making.db-journal"), data.join("tidegate.db-journal")).unwrap();
    let bench = Bench::open(&settings(&data), &[stream("a")]);
    bench.store(A, 0..3);
    bench.close();
    assert!(!data.join("quarantine").exists() && !data.join("tidegate.db-journal").exists());
}

#[test]
fn two_streams_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Bench::try_open(&settings(dir.path()), &[stream("a"), stream("a")]).err().unwrap();
    assert!(matches!(error, OpenError::TwoStreams(name) if name == "a"));
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let error = Bench::try_open(&settings(&file.join("data")), &[]).err().unwrap();
    assert!(error.to_string().contains("file/data"), "{error}");
}

#[test]
fn a_gateway_that_starts_again_and_again_does_not_remember_every_start() {
    let dir = tempfile::tempdir().unwrap();
    Bench::open(&settings(dir.path()), &[stream("a")]).close();
    let path = dir.path().join("tidegate.db");
    let starting = rusqlite::Connection::open(&path).unwrap();
    let starts = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 5000)
        INSERT INTO boot SELECT id, 'boot ' || id, 0, 0 FROM n";
    starting.execute(starts, []).unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, [1]);
    assert!(bench.backlog(A)[0].clock_synced || !bench.handle.clock_synced());
    bench.close();
    let (first, count) = starting
        .query_row("SELECT min(id), count(*) FROM boot", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .unwrap();
    assert_eq!((first, count), (906, 4096));
}
