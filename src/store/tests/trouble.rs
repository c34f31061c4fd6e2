//! A disk in trouble: the store is suspended, refuses, and goes on by itself in the same process; so it does after damage.

use std::{fs, io::Write as _, os::unix::fs::FileExt as _, sync::atomic::Ordering};

use super::*;
use crate::store::shared::{Fault, locked};

const SUSPENDED: Outcome = Outcome::Refused(Refusal::Suspended);

fn fault(bench: &Bench, fault: Option<Fault>) {
    *locked(&bench.handle.shared.fault) = fault;
}

fn until(bench: &Bench, done: impl Fn(&Handle) -> bool) {
    bench.wait(async {
        while !done(&bench.handle) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

fn is_suspended(handle: &Handle) -> bool {
    handle.stats().suspended.is_some()
}

/// Brings the trouble to the store's notice.
fn suspend(bench: &Bench, how: Fault) {
    fault(bench, Some(how));
    let mut lane = bench.lane(OnRefusal::Report);
    bench.submit(&mut lane.0, vec![publish(&[A], 1_000_000)]);
    until(bench, is_suspended);
}

#[test]
fn what_cannot_be_written_is_refused_and_work_goes_on_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..10);
    let beats = bench.handle.shared.heartbeat.load(Ordering::Relaxed);
    suspend(&bench, Fault::NoWrite);
    let mut lane = bench.handle.lane(OnRefusal::Report, None);
    let qos0 = publish_with(&[A], 0, |publish| publish.message.qos = QoS::AtMostOnce);
    let unstored = publish_with(&[], 0, |_| ());
    assert_eq!(
        bench.outcomes(&mut lane, vec![publish(&[A], 10), qos0, unstored]),
        [SUSPENDED, SUSPENDED, Outcome::Accepted]
    );
    let said = bench.handle.stats().suspended.unwrap();
    assert!(said.contains("the disk does not take writes") && said.contains("tried again every"), "{said}");
    assert_eq!(bench.books(A).dropped, [("qos0-full".to_owned(), 1)]);
    let (mut hold, mut returns) = bench.lane(OnRefusal::Hold);
    bench.submit(&mut hold, vec![publish(&[A], 10), publish(&[A], 11)]);
    let back = bench.wait(returns.recv()).unwrap().held;
    assert_eq!(back.len(), 2);
    // The writer goes round: it is not taken for dead.
    until(&bench, |handle| handle.shared.heartbeat.load(Ordering::Relaxed) >= beats + 3);
    // A settlement is kept, a read waits.
    let run = Run { first: 1, last: 4, fate: Fate::Forwarded };
    bench.wait(bench.handle.settle(A, vec![run])).unwrap();
    let read = bench.handle.read(A, 0, 100, 1 << 20);
    let mut read = std::pin::pin!(read);
    let waits = bench.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(100), read.as_mut()).await });
    assert!(waits.is_err());

    fault(&bench, None);
    assert!(bench.wait(read).unwrap().len() >= 6);
    bench.wait(hold.room()).unwrap();
    bench.submit(&mut hold, back);
    assert_eq!(bench.wait(returns.recv()).unwrap().verdicts.len(), 2);
    bench.flush();
    assert_eq!(bench.numbers(A), [4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!((bench.handle.stats().suspended, bench.handle.stats().refusing), (None, None));
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(bench.numbers(A), [4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!((bench.books(A).accepted, bench.books(A).forwarded), (13, 4));
    bench.close();
}

#[test]
fn what_is_in_doubt_is_answered_once_it_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..3);
    let offline = 5;
    bench.wait(bench.handle.drop_offline(A, offline)).unwrap();
    fault(&bench, Some(Fault::LostSync));
    let mut lane = bench.lane(OnRefusal::Report);
    let two = publish_with(&[A], 3, |publish| {
        publish.packet_id = Some(7);
        publish.message.qos = QoS::ExactlyOnce;
    });
    bench.submit(&mut lane.0, vec![two, publish(&[A], 4)]);
    until(&bench, is_suspended);
    // Behind it on the same lane nothing is answered, on another it is.
    bench.submit(&mut lane.0, vec![publish(&[A], 5)]);
    let mut other = bench.handle.lane(OnRefusal::Report, None);
    assert_eq!(bench.outcomes(&mut other, vec![publish(&[A], 99)]), [SUSPENDED]);
    assert!(
        bench.runtime.block_on(async { tokio::time::timeout(Duration::from_millis(50), lane.1.recv()).await }).is_err()
    );
    fault(&bench, None);
    let outcomes = |returned: Returned| returned.verdicts.into_iter().map(|(_, outcome)| outcome).collect::<Vec<_>>();
    assert_eq!(outcomes(bench.wait(lane.1.recv()).unwrap()), [Outcome::Accepted, Outcome::Accepted]);
    assert_eq!(outcomes(bench.wait(lane.1.recv()).unwrap()), [Outcome::Accepted]);
    assert_eq!(bench.numbers(A), [0, 1, 2, 3, 4, 5]);
    bench.flush();
    let books = bench.books(A);
    assert_eq!((books.accepted, books.dropped), (6 + offline, vec![("offline".to_owned(), offline)]));
    bench.close();
}

#[test]
fn a_packet_id_that_may_be_known_is_never_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let mut lane = bench.lane(OnRefusal::Report);
    let two = |id, number| publish_with(&[A], number, move |publish| publish.packet_id = Some(id));
    assert_eq!(bench.outcomes(&mut lane, vec![two(1, 1)]), [Outcome::Accepted]);
    suspend(&bench, Fault::NoWrite);
    let mut again = bench.lane(OnRefusal::Report);
    bench.submit(&mut again.0, vec![two(1, 1), two(2, 2), Entry::Release { packet_id: 1 }]);
    fault(&bench, None);
    let returned = bench.wait(again.1.recv()).unwrap();
    let outcomes: Vec<_> = returned.verdicts.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [Outcome::Duplicate, Outcome::Accepted, Outcome::Released]);
    assert_eq!(bench.numbers(A), [1, 2]);
    bench.close();
}

#[test]
fn a_store_that_is_closed_while_suspended_says_so_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..10);
    suspend(&bench, Fault::NoWrite);
    let error = bench.store.close().unwrap_err();
    assert!(error.to_string().contains("the disk does not take writes"), "{error}");
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(bench.numbers(A), (0..10).collect::<Vec<_>>());
    bench.close();
}

/// A database with 2000 messages in "a", the first 100 forwarded; open.
fn made(dir: &Path) -> Bench {
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
    bench.settle(A, 1, 100, Fate::Forwarded);
    bench.close();
    Bench::open(&settings(dir), &[stream("a"), stream("b")])
}

/// Overwrites a page in the middle of the database behind the store's back.
fn damage(dir: &Path) {
    let file = fs::OpenOptions::new().write(true).open(dir.join("tidegate.db")).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    file.write_all_at(&[0xEE; 4096], pages / 2 * 4096).unwrap();
}

#[test]
fn damage_met_while_running_is_salvaged_in_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let bench = made(dir.path());
    let mut salvages = bench.handle.salvages();
    damage(dir.path());
    // The reader meets it; whoever reads gets its answer all the same.
    let numbers = bench.numbers(A);
    let books = bench.books(A);
    let lost = books.dropped_total();
    assert!((1..=20).contains(&lost), "{books:?}");
    assert_eq!(
        (books.dropped, books.accepted, numbers.len() as u64),
        (vec![("damaged".to_owned(), lost)], 2000, 1900 - lost)
    );
    let stats = bench.handle.stats();
    assert_eq!((stats.salvages, stats.lost_messages, stats.suspended), (1, lost, None));
    assert!(stats.quarantine_bytes > 500_000);
    assert_eq!(*salvages.borrow_and_update(), 1);
    bench.store(A, [5000]);
    assert!(bench.backlog(A).last().unwrap().seq > 2000, "a number is used again");
    bench.settle(A, 0, u64::MAX, Fate::Forwarded);
    assert_eq!(bench.books(A).backlog_messages, 0);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!((bench.handle.stats().salvages, bench.handle.stats().lost_messages), (1, lost), "remembered");
    bench.close();
}

#[test]
fn a_doubt_that_is_over_says_nothing_of_what_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 0..3);
    fault(&bench, Some(Fault::FullIndex));
    let mut lane = bench.handle.lane(OnRefusal::Report, None);
    let full = Outcome::Refused(Refusal::DiskFull);
    assert_eq!(bench.outcomes(&mut lane, vec![publish(&[A], 3)]), [full]);
    // The books stand as they would have with the one that was refused.
    while bench.outcomes(&mut lane, vec![publish(&[A], 3)]) == [full] {
        std::thread::sleep(Duration::from_millis(50));
    }
    fault(&bench, Some(Fault::NoWrite));
    bench.submit(&mut lane.0, vec![publish(&[B], 4)]);
    until(&bench, is_suspended);
    fault(&bench, None);
    let outcome = bench.wait(lane.1.recv()).unwrap().verdicts[0].1;
    until(&bench, |handle| !is_suspended(handle));
    assert_eq!((outcome, bench.numbers(A).len(), bench.numbers(B).len()), (SUSPENDED, 4, 0));
    bench.close();
}

#[test]
fn what_had_left_before_a_salvage_does_not_come_back_and_no_counter_falls() {
    had_left_before_a_salvage(None);
}

#[test]
fn nor_does_it_where_the_disk_fails_again_after_the_salvage() {
    had_left_before_a_salvage(Some(Fault::AfterSalvage));
}

fn had_left_before_a_salvage(then: Option<Fault>) {
    let dir = tempfile::tempdir().unwrap();
    let bench = made(dir.path());
    // All of this is in the log alone.
    bench.settle(A, 101, 600, Fate::Forwarded);
    bench.store(A, 2001..=2010);
    let log = fs::OpenOptions::new().write(true).open(dir.path().join("tidegate.db-wal")).unwrap();
    log.write_all_at(&[0xEE; 64], 0).unwrap();
    damage(dir.path());
    fault(&bench, then);
    let numbers = bench.numbers(A);
    assert_eq!(bench.handle.stats().salvages, 1);
    bench.flush();
    let books = bench.books(A);
    let lost = books.dropped_total();
    assert_eq!((books.accepted, books.forwarded, books.backlog_messages), (2010, 600, 1410 - lost));
    assert!((10..=30).contains(&lost), "the ten of the log, and a page: {books:?}");
    assert!(
        numbers.iter().all(|number| *number > 600) || bench.numbers(A)[0] == 601,
        "what was forwarded is not sent again"
    );
    bench.settle(A, 601, 700, Fate::Forwarded);
    assert!(bench.books(A).forwarded > 600 + 70, "a settlement that follows the last one is taken");
    bench.store(A, [3000]);
    assert!(bench.backlog(A).last().unwrap().seq > 2010, "a number is used again");
    bench.close();
}

#[test]
fn after_a_stop_that_was_not_clean_everything_is_checked_and_after_a_clean_one_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = made(dir.path());
    assert_eq!(bench.handle.stats().checked, None, "the last stop was clean");
    bench.store(A, [3000]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    until(&bench, |handle| handle.stats().checked == Some(1.0));
    bench.store.abandon();
    // Nobody reads: the check finds it.
    damage(dir.path());
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    until(&bench, |handle| handle.stats().salvages == 1 && handle.stats().suspended.is_none());
    let lost = bench.books(A).dropped_total();
    assert!((1..=20).contains(&lost));
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!(bench.handle.stats().checked, None);
    bench.close();
}

#[test]
fn a_run_that_wrote_nothing_leaves_the_mark_of_the_last_stop() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path()).close();
    let before = fs::read(dir.path().join("tidegate.db")).unwrap();
    Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]).store.abandon();
    assert!(fs::read(dir.path().join("tidegate.db")).unwrap() == before);
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!(bench.handle.stats().checked, None);
    bench.close();
}

#[test]
fn a_queue_goes_on_after_the_salvage_of_its_database() {
    let dir = tempfile::tempdir().unwrap();
    let bench = made(dir.path());
    let limits = QueueLimits::default();
    let record = SessionRecord {
        client_id: "x".into(),
        expiry_s: 60,
        state: Bytes::new(),
        received: Vec::new(),
        limits,
        will: None,
    };
    let x = bench.wait(bench.handle.save_session(record)).unwrap();
    let copy = SessionCopy { session: x, qos: QoS::AtLeastOnce, retain: false, subscription_ids: None, seq: None };
    let for_x = |number| publish_with(&[], number, |publish| publish.copies = vec![copy.clone()]);
    let mut lane = bench.lane(OnRefusal::Report);
    assert_eq!(bench.outcomes(&mut lane, (0..5).map(for_x).collect()), [Outcome::Accepted; 5]);
    damage(dir.path());
    bench.numbers(A);
    assert_eq!(bench.outcomes(&mut lane, vec![for_x(5)]), [Outcome::Accepted]);
    let queued = bench.wait(bench.handle.read_session(x, 0, 10, 1 << 20)).unwrap();
    assert_eq!(queued.len(), 6);
    assert!(queued[5].seq > 5);
    let sums = bench.handle.queues();
    assert!(sums.balances() && sums.messages == 6, "{sums:?}");
    bench.close();
}

#[test]
fn a_lock_of_another_process_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..3);
    let other = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut lane = bench.handle.lane(OnRefusal::Report, None);
    assert_eq!(bench.outcomes(&mut lane, vec![publish(&[A], 3)]), [SUSPENDED]);
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    until(&bench, |handle| !is_suspended(handle));
    bench.store(A, [3]);
    assert_eq!(bench.numbers(A), [0, 1, 2, 3]);
    bench.close();
}

#[test]
fn a_log_that_cannot_be_written_anew_keeps_the_store_closed() {
    let dir = tempfile::tempdir().unwrap();
    let durable = Settings { durability: Durability::Full, ..settings(dir.path()) };
    let bench = Bench::open(&durable, &[stream("a")]);
    bench.store(A, 0..3);
    bench.store.abandon();
    let log = dir.path().join("tidegate.db-wal");
    let bytes = fs::read(&log).unwrap();
    // Something that opens, and takes no writes: a folder in its place.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    assert!(Bench::try_open(&durable, &[stream("a")]).is_err());
    fs::remove_dir(&log).unwrap();
    fs::File::create(&log).unwrap().write_all(&bytes).unwrap();
    let bench = Bench::open(&durable, &[stream("a")]);
    assert_eq!(bench.numbers(A), [0, 1, 2]);
    bench.close();
}
