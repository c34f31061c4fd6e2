//! Damaged queues: what can be read is kept, what is missing is counted, numbers are new.

use std::fs;

use proptest::prelude::*;

use super::{super::damage::cases, *};

/// Two sessions: x with 2000 messages of 300 bytes, the first 100 delivered, the third after them received; y with ten.
fn made(dir: &Path) -> (SessionId, SessionId) {
    let bench = Bench::open(&settings(dir), &[]);
    let (x, y) = (bench.save("x", UNLIMITED), bench.save("y", UNLIMITED));
    let padded = |number: u64| {
        publish_with(&[], number, |publish| {
            publish.copies = vec![copy(x)];
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(300, 1);
            publish.message.payload = payload.into();
        })
    };
    bench.copied((1..=1000).map(padded).collect());
    bench.steps((1..=100).map(|seq| step(x, seq, Step::Delivered)).chain([step(x, 103, Step::Received)]).collect());
    bench.queue(y, 1..=10);
    bench.copied((1001..=2000).map(padded).collect());
    bench.close();
    (x, y)
}

fn change(dir: &Path, sql: &str) {
    rusqlite::Connection::open(dir.join("tidegate.db")).unwrap().execute_batch(sql).unwrap();
}

fn quarantined(dir: &Path) -> usize {
    fs::read_dir(dir.join("quarantine")).map_or(0, Iterator::count)
}

/// Opens and works until nothing fails any more, opened again after every failure that the damage brings about. Reads everything;
/// `writes` too where that may be needed to find the damage.
fn restart_until(dir: &Path, writes: bool) -> Bench {
    let mut causes = Vec::new();
    for _ in 0..10 {
        let bench = Bench::open(&settings(dir), &[]);
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
    handle.retained().await?;
    let mut ids: Vec<SessionId> = handle.sessions().await?.into_iter().map(|session| session.id).collect();
    if writes {
        for client_id in ["x", "new"] {
            ids.push(handle.save_session(record(client_id, UNLIMITED)).await?);
        }
        ids.dedup();
        submit_until_taken(handle, (0..100).map(|number| for_sessions(&ids, number)).collect()).await?;
    }
    for id in ids {
        let mut from = 0;
        loop {
            let page = handle.read_session(id, from, 1000, 1 << 20).await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            if writes {
                let (mut lane, mut returns) = handle.lane(OnRefusal::Report, None);
                let steps = page.iter().map(|queued| step(id, queued.seq, Step::Delivered)).collect();
                lane.reserve(0).await?.submit(steps);
                returns.recv().await.ok_or(StoreError::Closed)?;
            }
        }
    }
    if writes {
        handle.delete_session("new".into()).await?;
    }
    handle.flush(DEADLINE).await
}

/// What holds after any damage: order, books, new numbers; gives what is left of a queue.
fn check(bench: &Bench, id: SessionId) -> Vec<Sequence> {
    let left = bench.queued_numbers(id);
    assert!(left.is_sorted_by(|one, other| one.0 < other.0));
    assert!(left.iter().all(|(seq, number)| number.is_none_or(|number| number == *seq)), "{left:?}");
    let before = bench.queue_stats(id);
    assert_eq!(before.messages, left.len() as u64);
    let outcome = bench.copied(vec![for_sessions(&[id], 7)]);
    let seq = outcome[0].1[0].unwrap();
    assert!(seq > 2000 || left.len() == 10 && seq > 10, "a number is used again: {seq}");
    bench.steps(
        left.iter().map(|(seq, _)| step(id, *seq, Step::Delivered)).chain([step(id, seq, Step::Delivered)]).collect(),
    );
    let after = bench.queue_stats(id);
    assert_eq!((after.messages, after.bytes, after.delivered), (0, 0, before.delivered + left.len() as u64 + 1));
    left.into_iter().map(|(seq, _)| seq).collect()
}

#[test]
fn a_damaged_page_costs_the_messages_of_that_page_only() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = made(dir.path());
    let path = dir.path().join("tidegate.db");
    let mut bytes = fs::read(&path).unwrap();
    let pages = bytes.len() / 4096;
    bytes[pages / 2 * 4096..][..4096].fill(0xEE);
    fs::write(&path, bytes).unwrap();
    let bench = restart_until_sound(dir.path());
    assert_eq!(quarantined(dir.path()), 1);
    let stats = bench.queue_stats(x);
    let lost = stats.dropped_total();
    assert!((1..=20).contains(&lost) && stats.dropped == dropped("damaged", lost), "{stats:?}");
    assert_eq!((stats.queued, stats.delivered), (2000, 100));
    assert!(matches!(bench.queued(x, 9)[2].stage, Stage::Received));
    assert_eq!(check(&bench, x).len() as u64, 1900 - lost);
    assert_eq!(check(&bench, y).len(), 10);
    assert!(bench.save("z", UNLIMITED) > y);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!((bench.queue_stats(x).dropped_total(), quarantined(dir.path())), (lost, 1));
    bench.close();
}

#[test]
fn rows_that_are_missing_without_an_error_are_found_by_reading_and_counted() {
    for (which, count) in [("BETWEEN 500 AND 519", 20), ("= 101", 1), ("IN (1500, 1502)", 2)] {
        let dir = tempfile::tempdir().unwrap();
        let (x, _) = made(dir.path());
        change(dir.path(), &format!("DELETE FROM queued WHERE id - ({} << 40) {which}", x.0));
        let bench = restart_until_sound(dir.path());
        let stats = bench.queue_stats(x);
        assert_eq!((stats.queued, stats.dropped), (2000, dropped("damaged", count)), "{which}");
        assert_eq!(check(&bench, x).len() as u64, 1900 - count, "{which}");
        bench.close();
    }
}

#[test]
fn a_row_that_makes_no_sense_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = made(dir.path());
    let which = format!("id - ({} << 40) IN (101, 150, 2000)", x.0);
    change(dir.path(), &format!("UPDATE queued SET topic = 'a/#' WHERE {which}"));
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.queued(x, 100).len(), 1897);
    let stats = bench.queue_stats(x);
    assert_eq!((stats.messages, stats.dropped), (1897, dropped("damaged", 3)));
    assert_eq!(check(&bench, y).len(), 10);
    bench.close();
    assert_eq!(quarantined(dir.path()), 0);
}

#[test]
fn a_lost_session_costs_its_messages_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = made(dir.path());
    change(dir.path(), "DELETE FROM session WHERE client_id = 'x'");
    let bench = restart_until_sound(dir.path());
    assert_eq!((bench.handle.queue(x), quarantined(dir.path())), (None, 1));
    let all = bench.handle.queues();
    assert!(all.balances() && all.messages == 10, "{all:?}");
    assert!(all.dropped_total() >= 900 && all.delivered == 100, "{all:?}");
    assert_eq!(check(&bench, y).len(), 10);
    assert!(bench.save("x", UNLIMITED) > y, "an id is used again");
    bench.close();
}

#[test]
fn lost_books_are_made_anew_from_the_rows() {
    for sql in [
        "DELETE FROM queue",
        "UPDATE queue SET head = next + 1",
        "UPDATE queue SET messages = 'x'",
        "DELETE FROM ledger",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (x, y) = made(dir.path());
        change(dir.path(), sql);
        let bench = restart_until_sound(dir.path());
        assert_eq!(quarantined(dir.path()), 1, "{sql}");
        let left = check(&bench, x);
        assert!(left.ends_with(&(104..=2000).collect::<Vec<_>>()), "{sql}");
        assert_eq!(check(&bench, y).len(), 10, "{sql}");
        bench.close();
    }
}

#[test]
fn nonsense_in_the_row_of_a_session_does_not_keep_the_store_from_starting() {
    for change_to in
        ["state = 7", "expiry_s = 'x'", "max_messages = 'x', when_full = 9", "will_flags = 3", "expiry_s = -1"]
    {
        let dir = tempfile::tempdir().unwrap();
        let (x, _) = made(dir.path());
        change(dir.path(), &format!("UPDATE session SET {change_to}"));
        let bench = restart_until_sound(dir.path());
        assert_eq!(bench.restored().len(), 2, "{change_to}");
        bench.save("x", UNLIMITED);
        assert_eq!(check(&bench, x).len(), 1900, "{change_to}");
        bench.close();
    }
}

#[test]
fn a_page_of_nothing_but_damage_does_not_end_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let (x, _) = made(dir.path());
    let which = format!("id - ({} << 40) BETWEEN 104 AND 150", x.0);
    change(dir.path(), &format!("UPDATE queued SET topic = 'a/#' WHERE {which}"));
    let bench = Bench::open(&settings(dir.path()), &[]);
    let page = bench.wait(bench.handle.read_session(x, 104, 10, 1 << 20)).unwrap();
    assert_eq!((page[0].seq, bench.queue_stats(x).dropped), (151, dropped("damaged", 47)));
    bench.close();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_anywhere_keep_a_store_with_queues_from_starting(
        places in proptest::collection::vec((0.0..1.0f64, proptest::collection::vec(any::<u8>(), 1..200)), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        let path = dir.path().join("tidegate.db");
        let mut file = fs::read(&path).unwrap();
        for (place, bytes) in places {
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a small file")]
            let at = (file.len() as f64 * place) as usize;
            let end = file.len().min(at + bytes.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
        }
        fs::write(&path, file).unwrap();
        let bench = restart_until(dir.path(), true);
        let all = bench.handle.queues();
        prop_assert!(all.balances() && all.messages == 0, "{:?}", all);
        bench.close();
    }
}
