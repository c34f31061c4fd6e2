//! A log that is damaged in its middle: found where that can be known, had again where that can be done, and never seen in what a power cut leaves.

use std::{fs, path::PathBuf};

use rusqlite::{Connection, config::DbConfig};

use super::{super::wal::Wal, *};

const FRAME: usize = 4096 + 24;

fn durable(dir: &Path) -> Settings {
    Settings { durability: Durability::Full, ..settings(dir) }
}

const MESSAGES: u64 = 40;

/// A directory as a crash leaves it, with everything in the log: a commit for each message, some of which fill pages of their own.
fn crashed(dir: &Path) -> PathBuf {
    Bench::open(&durable(dir), &[stream("a")]).close();
    let bench = Bench::open(&durable(dir), &[stream("a")]);
    let mut lane = bench.lane(OnRefusal::Report);
    for n in 1..=MESSAGES {
        let large = publish_with(&[A], n, |publish| {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(if n % 5 == 0 { 9000 } else { 300 }, 1);
            publish.message.payload = payload.into();
        });
        assert_eq!(bench.outcomes(&mut lane, vec![large]), [Outcome::Accepted]);
    }
    bench.store.abandon();
    dir.join("tidegate.db-wal")
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn flip_in_the_middle(log: &Path) {
    let mut bytes = fs::read(log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(log, bytes).unwrap();
}

/// What is found after a start with the log changed like this: the messages, those counted as lost, and the log as it was set aside.
fn found(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> (Vec<u64>, u64, Option<Vec<u8>>) {
    let log = dir.join("tidegate.db-wal");
    let mut bytes = fs::read(&log).unwrap();
    change(&mut bytes);
    fs::write(&log, &bytes).unwrap();
    let bench = Bench::open(&durable(dir), &[stream("a")]);
    let (numbers, books) = (bench.numbers(A), bench.books(A));
    let lost = books.dropped_total();
    assert_eq!((books.accepted, books.backlog_messages), (numbers.len() as u64 + lost, numbers.len() as u64));
    let used = bench.backlog(A).last().map_or(0, |last| last.seq);
    bench.store(A, [MESSAGES + 1]);
    assert!(bench.backlog(A).last().unwrap().seq > used);
    let left =
        fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.file_name().to_string_lossy().contains("salvag"));
    assert_eq!(left.count(), 0, "nothing is left over");
    bench.close();
    let aside = fs::read_dir(dir.join("quarantine")).ok().map(|mut found| found.next().unwrap().unwrap().path());
    let aside = aside.map(|folder| fs::read(folder.join("tidegate.db-wal")).unwrap());
    assert!(aside.as_ref().is_none_or(|aside| *aside == bytes), "the log is set aside as it was found");
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.iter().all(|number| (1..=MESSAGES).contains(number)));
    (numbers, lost, aside)
}

#[test]
fn damage_anywhere_but_in_the_last_two_commits_is_found_and_costs_no_more_than_its_page() {
    let made = tempfile::tempdir().unwrap();
    let log = fs::read(crashed(made.path())).unwrap();
    let frames = (log.len() - 32) / FRAME;
    // The frames that end transactions.
    let commits: Vec<usize> = (0..frames).filter(|at| log[32 + at * FRAME + 4..][..4] != [0; 4]).collect();
    let last_but_one = commits[commits.len() - 2];
    for frame in (0..frames).step_by(9).chain(frames.saturating_sub(5)..frames) {
        for place in [30, 4100] {
            let dir = tempfile::tempdir().unwrap();
            copy(made.path(), dir.path());
            let (numbers, lost, aside) = found(dir.path(), |log| log[32 + frame * FRAME + place] ^= 4);
            if frame < last_but_one {
                assert!(aside.is_some(), "frame {frame} of {frames}");
                assert_eq!(numbers.len() as u64 + lost, MESSAGES, "frame {frame}: all are there, or counted");
                // Small ones share a page, which comes again with the next message.
                assert!(lost <= 12, "frame {frame}: {lost} lost");
            } else if aside.is_none() {
                assert!(numbers.len() as u64 >= MESSAGES - 2, "frame {frame}");
            }
        }
    }
}

#[test]
fn where_the_damaged_page_comes_again_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let log = fs::read(crashed(dir.path())).unwrap();
    let page = |at: usize| &log[32 + at * FRAME..][..4];
    let frames = (log.len() - 32) / FRAME;
    let again =
        (frames / 2..frames - 20).find(|at| (at + 1..frames - 8).any(|later| page(later) == page(*at))).unwrap();
    let (numbers, lost, aside) = found(dir.path(), |log| log[32 + again * FRAME + 500..][..300].fill(0x5A));
    assert_eq!((numbers, lost), ((1..=MESSAGES).collect(), 0));
    assert!(aside.is_some());
}

#[test]
fn a_frame_whose_page_cannot_be_named_costs_what_lies_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = crashed(dir.path());
    let frames = (fs::read(&log).unwrap().len() - 32) / FRAME;
    let (numbers, _, aside) = found(dir.path(), |log| log[32 + frames / 2 * FRAME..][..300].fill(0x5A));
    assert!(aside.is_some());
    assert_eq!(
        numbers,
        (1..=numbers.len() as u64).collect::<Vec<_>>(),
        "what came before, and nothing older than that"
    );
    assert!((5..MESSAGES - 5).contains(&(numbers.len() as u64)), "{}", numbers.len());
}

#[test]
fn a_log_without_a_head_is_had_again() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path());
    let (numbers, lost, aside) = found(dir.path(), |log| log[..32].fill(0x5A));
    assert!(aside.is_some());
    assert_eq!(numbers.len() as u64 + lost, MESSAGES);
}

#[test]
fn no_backup_is_made_of_what_lies_before_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = crashed(dir.path());
    flip_in_the_middle(&log);
    let target = dir.path().join("copy.db");
    fs::write(&target, []).unwrap();
    let refused = backup(dir.path(), &target).unwrap_err();
    assert!(refused.to_string().contains("the log is damaged"), "{refused}");
    let other = tempfile::tempdir().unwrap();
    assert!(restore(&dir.path().join("tidegate.db"), other.path()).is_err());
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0, "nothing was begun");
}

#[test]
fn the_first_page_is_stood_in_for() {
    let dir = tempfile::tempdir().unwrap();
    Bench::open(&durable(dir.path()), &[stream("a")]).close();
    let bench = Bench::open(&durable(dir.path()), &[stream("a")]);
    let mut lane = bench.lane(OnRefusal::Report);
    // Some of the first fill pages of their own, the others go into pages that are there.
    for n in 1..=MESSAGES {
        let sized = publish_with(&[A], n, |publish| {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(if n <= 3 { 9000 } else { 30 }, 1);
            publish.message.payload = payload.into();
        });
        assert_eq!(bench.outcomes(&mut lane, vec![sized]), [Outcome::Accepted]);
    }
    bench.store.abandon();
    let log = fs::read(dir.path().join("tidegate.db-wal")).unwrap();
    let frames = (log.len() - 32) / FRAME;
    let newest = (0..frames).rev().find(|at| log[32 + at * FRAME..][..4] == [0, 0, 0, 1]).unwrap();
    assert!(newest + 8 < frames, "page 1 is frame {newest} of {frames}: too late for this test");
    let (numbers, lost, aside) = found(dir.path(), |log| log[32 + newest * FRAME + 2000] ^= 4);
    assert!(aside.is_some());
    assert_eq!((numbers, lost), ((1..=MESSAGES).collect(), 0));
}

#[test]
fn a_log_of_frames_that_were_not_synced_is_no_proof_also_after_a_change_of_durability() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path());
    // A run without syncs between, which crashes as well.
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, [MESSAGES + 1]);
    bench.store.abandon();
    let log = dir.path().join("tidegate.db-wal");
    flip_in_the_middle(&log);
    let bench = Bench::open(&durable(dir.path()), &[stream("a")]);
    assert!(!dir.path().join("quarantine").exists() && !bench.numbers(A).is_empty());
    (51..=90).for_each(|n| bench.store(A, [n]));
    bench.store.abandon();
    // That log is gone, and the next one is judged again.
    flip_in_the_middle(&log);
    Bench::open(&durable(dir.path()), &[stream("a")]).close();
    assert!(dir.path().join("quarantine").exists());
}

#[test]
fn without_syncs_nothing_is_proof() {
    let dir = tempfile::tempdir().unwrap();
    let log = crashed(dir.path());
    flip_in_the_middle(&log);
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert!(!dir.path().join("quarantine").exists() && bench.books(A).accepted < MESSAGES);
    bench.close();
}

/// The writer of a log as the store is one, and what the disk has of its log.
struct Writer {
    connection: Connection,
    log: PathBuf,
    dice: fastrand::Rng,
}

impl Writer {
    fn new(dir: &Path, dice: fastrand::Rng) -> Self {
        let connection = Connection::open(dir.join("x.db")).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0;
                PRAGMA cache_size = 10; CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB);",
            )
            .unwrap();
        Self { connection, log: dir.join("x.db-wal"), dice }
    }

    fn log(&self) -> Vec<u8> {
        fs::read(&self.log).unwrap()
    }

    /// A transaction, small or larger than the page cache (what does not fit there is in the log before the end), with the end that is asked for.
    fn transaction(&mut self, end: &str) {
        self.connection.execute_batch("BEGIN").unwrap();
        let most = if self.dice.bool() { 4 } else { 40 };
        for _ in 0..self.dice.usize(1..most) {
            let sql = "INSERT OR REPLACE INTO t VALUES(?1, randomblob(?2))";
            self.connection.execute(sql, (self.dice.u8(..), self.dice.u32(1..3000))).unwrap();
        }
        self.connection.execute_batch(end).unwrap();
    }
}

/// What is left of a file: `synced`, and of what was written since, sector by sector, this or that.
fn torn(synced: &[u8], written: &[u8], dice: &mut fastrand::Rng) -> Vec<u8> {
    let mut left = synced.to_vec();
    left.resize(
        if dice.bool() { written.len() } else { dice.usize(synced.len().min(written.len())..=written.len()) },
        0,
    );
    let newest = dice.f64();
    for at in (0..left.len()).step_by(512) {
        let end = (at + 512).min(left.len()).min(written.len());
        if at < end && dice.f64() < newest {
            left[at..end].copy_from_slice(&written[at..end]);
        } else if at >= synced.len() && dice.u8(..) < 8 {
            left[at..].iter_mut().take(512).for_each(|byte| *byte = dice.u8(..));
        }
    }
    left
}

#[test]
fn what_a_power_cut_leaves_is_never_taken_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut");
    let is_damaged = |bytes: &[u8]| {
        fs::write(&cut, bytes).unwrap();
        Wal::read(&cut, false).unwrap().and_then(|wal| wal.damage()).is_some()
    };
    let (mut cuts, mut flips, mut found) = (0, 0, 0);
    for seed in 0..3 {
        let folder = dir.path().join(seed.to_string());
        fs::create_dir(&folder).unwrap();
        let mut writer = Writer::new(&folder, fastrand::Rng::with_seed(seed));
        let mut dice = fastrand::Rng::with_seed(seed + 100);
        for _ in 0..50 {
            match dice.u8(..10) {
                // The log begins anew with the next transaction.
                0 => writer.connection.execute_batch("PRAGMA wal_checkpoint(RESTART)").unwrap(),
                1..=3 => writer.transaction("ROLLBACK"),
                _ => writer.transaction("COMMIT"),
            }
            // The power goes away in the next transaction; what was rolled back was never synced, but may be there.
            let mut synced = writer.log();
            writer.transaction("COMMIT");
            let written = writer.log();
            // A log that begins anew has its head synced before anything follows.
            synced[..32].copy_from_slice(&written[..32]);
            for _ in 0..4 {
                let left = torn(&synced, &written, &mut dice);
                cuts += 1;
                assert!(!is_damaged(&left), "seed {seed}, cut {cuts}");
            }
            // The judge can say yes, too.
            let at = dice.usize(32..written.len());
            let mut flipped = written;
            flipped[at] ^= 1;
            flips += 1;
            found += usize::from(is_damaged(&flipped));
        }
    }
    assert!(cuts >= 600 && found * 4 > flips, "{found} of {flips} found, {cuts} cuts");
}
