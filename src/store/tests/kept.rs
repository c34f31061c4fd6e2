//! Forwarded messages that are kept for replay: exactly those, for as long as was asked for, and never at the cost of what is not forwarded.

use std::time::Instant;

use super::*;
use crate::store::{books::Books, shared::locked};

const HOUR: Duration = Duration::from_secs(3600);

fn keeping(name: &str, retain_sent: Duration) -> StreamSettings {
    StreamSettings { retain_sent, ..stream(name) }
}

fn dead() -> Fate {
    Fate::Dead { reason: "refused", detail: "no".to_owned() }
}

impl Bench {
    fn internal(&self, stream: StreamId) -> Books {
        locked(&self.handle.shared.doors.at(stream.0 as usize).published).books.clone()
    }

    /// Waits for the writer's chores.
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "never: {what}: {:?}", self.handle.streams());
            self.flush();
        }
    }
}

/// The rows below the head that are to be sent again, and what they weigh, as the table has them.
fn kept_rows(dir: &Path, books: &Books) -> Vec<(u64, u64)> {
    let reading = rusqlite::Connection::open(dir.join("tidegate.db")).unwrap();
    let mut select = reading
        .prepare("SELECT seq, length(topic) + length(client) + length(payload) FROM s_1 WHERE seq < ?1 ORDER BY seq")
        .unwrap();
    let rows = select.query_map([books.head.cast_signed()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    let rows = rows.unwrap().map(|row| row.map(|(seq, bytes)| (seq.unsigned_abs(), bytes.unsigned_abs())).unwrap());
    rows.filter(|(seq, _)| *seq >= books.tail && !books.operated.kept.gone.contains(*seq)).collect()
}

/// What the books say is kept must be what the table has.
#[track_caller]
fn check_kept(bench: &Bench, dir: &Path) -> Vec<u64> {
    bench.flush();
    let books = bench.internal(A);
    let rows = if books.operated.kept.is_some() { kept_rows(dir, &books) } else { Vec::new() };
    let kept = &books.operated.kept;
    assert_eq!((kept.messages, kept.bytes), (rows.len() as u64, rows.iter().map(|row| row.1).sum()), "{books:?}");
    let stats = bench.books(A);
    assert_eq!((stats.kept_messages, stats.kept_bytes), (kept.messages, kept.bytes));
    rows.into_iter().map(|(seq, _)| seq).collect()
}

#[test]
fn what_was_forwarded_is_kept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Bench::open(&settings(dir.path()), &[keeping("a", HOUR)]);
    let bench = open();
    bench.store(A, 1..=20);
    bench.settle(A, 1, 3, Fate::Forwarded);
    bench.settle(A, 4, 5, Fate::Expired);
    bench.settle(A, 6, 6, dead());
    bench.settle(A, 7, 10, Fate::Forwarded);
    assert_eq!(check_kept(&bench, dir.path()), [1, 2, 3, 7, 8, 9, 10]);
    assert_eq!((bench.books(A).backlog_messages, bench.numbers(A).len()), (10, 10));
    bench.store.abandon();
    let bench = open();
    assert_eq!(check_kept(&bench, dir.path()), [1, 2, 3, 7, 8, 9, 10]);
    bench.settle(A, 11, 12, Fate::Forwarded);
    bench.wait(bench.handle.purge(A)).unwrap();
    bench.store(A, [21]);
    bench.settle(A, 21, 21, Fate::Forwarded);
    assert_eq!(check_kept(&bench, dir.path()), [1, 2, 3, 7, 8, 9, 10, 11, 12, 21]);
    let books = bench.books(A);
    assert_eq!((books.forwarded, books.purged, books.backlog_messages), (10, 8, 0));
    bench.close();
}

#[test]
fn what_is_kept_does_not_count_for_the_limits_of_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let limited = StreamSettings { max_messages: Some(3), max_bytes: Some(3 * MESSAGE_BYTES), ..keeping("a", HOUR) };
    let bench = Bench::open(&settings(dir.path()), &[limited]);
    for round in 0..10 {
        bench.store(A, 0..3);
        bench.settle(A, round * 3 + 1, round * 3 + 3, Fate::Forwarded);
    }
    assert_eq!(check_kept(&bench, dir.path()).len(), 30);
    bench.close();
}

#[test]
fn garbage_of_before_and_damaged_rows_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 1..=20);
    bench.settle(A, 1, 5, Fate::Forwarded);
    bench.close();
    let writing = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    writing.execute("UPDATE s_1 SET topic = x'ff' WHERE seq IN (8, 10, 11)", []).unwrap();
    drop(writing);
    let bench = Bench::open(&settings(dir.path()), &[keeping("a", HOUR)]);
    assert_eq!(bench.backlog(A).len(), 12);
    bench.settle(A, 6, 10, Fate::Forwarded);
    bench.settle(A, 12, 13, Fate::Forwarded);
    bench.flush();
    let books = bench.internal(A);
    let kept: Vec<u64> = kept_rows(dir.path(), &books).into_iter().map(|(seq, _)| seq).collect();
    // The bytes of damaged rows are those of nobody.
    assert_eq!((kept, books.operated.kept.messages), (vec![6, 7, 9, 12, 13], 5));
    bench.close();
}

#[test]
fn messages_are_let_go_when_their_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[keeping("a", Duration::from_millis(1)), keeping("b", HOUR)]);
    bench.store(A, 0..5_000);
    bench.store(B, 0..10);
    bench.settle(A, 1, 5_000, Fate::Forwarded);
    bench.settle(B, 1, 10, Fate::Forwarded);
    bench.until("let go", |bench| bench.books(A).kept_messages == 0);
    assert_eq!(bench.books(B).kept_messages, 10);
    assert_eq!(check_kept(&bench, dir.path()), [] as [u64; 0]);
    assert_eq!(bench.books(A).forwarded, 5_000);
    bench.close();
}

#[test]
fn what_left_behind_the_last_kept_message_is_garbage_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let streams = [keeping("a", Duration::from_millis(1))];
    let bench = Bench::open(&settings(dir.path()), &streams);
    bench.store(A, 0..5_000);
    let runs =
        vec![Run { first: 1, last: 10, fate: Fate::Forwarded }, Run { first: 11, last: 100, fate: Fate::Expired }];
    bench.wait(bench.handle.settle(A, runs)).unwrap();
    bench.flush();
    bench.until("let go", |bench| bench.books(A).kept_messages == 0);
    bench.settle(A, 101, 4_000, Fate::Expired);
    bench.until("deleted", |bench| bench.internal(A).tail == 4_001);
    assert!(!bench.internal(A).operated.kept.is_some() && bench.internal(A).operated.kept.gone.ranges() == 0);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &streams);
    assert_eq!((bench.handle.stats().salvages, bench.numbers(A).len()), (0, 1_000), "nothing is damaged");
    bench.close();
}

#[test]
fn what_is_kept_is_let_go_when_the_configuration_wants_it_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[keeping("a", HOUR)]);
    bench.store(A, 0..3_000);
    bench.settle(A, 1, 2_000, Fate::Forwarded);
    assert_eq!(bench.books(A).kept_messages, 2_000);
    bench.close();
    // Nobody knows how long they would have been wanted: they stay while the stream is not configured.
    let bench = Bench::open(&settings(dir.path()), &[stream("b")]);
    let gone = bench.handle.find("a").unwrap();
    bench.flush();
    assert_eq!(bench.books(gone).kept_messages, 2_000);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.until("let go", |bench| bench.books(A).kept_messages == 0);
    bench.settle(A, 2_001, 2_500, Fate::Forwarded);
    let books = bench.books(A);
    assert_eq!((books.kept_messages, books.forwarded, bench.numbers(A).len()), (0, 2_500, 500));
    bench.close();
}

#[test]
fn a_purge_of_a_stream_that_is_not_configured_lets_go_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[keeping("a", HOUR)]);
    bench.store(A, 0..100);
    bench.settle(A, 1, 60, Fate::Forwarded);
    assert_eq!(bench.wait(bench.handle.purge(A)).unwrap(), 40);
    assert_eq!(bench.books(A).kept_messages, 60, "what is forwarded is not in the backlog");
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("b")]);
    let gone = bench.handle.find("a").unwrap();
    assert_eq!(bench.wait(bench.handle.purge(gone)).unwrap(), 0);
    assert_eq!(bench.books(gone).kept_messages, 0);
    bench.close();
}

#[test]
fn a_full_store_gives_up_what_is_kept_before_it_refuses_anything() {
    let dir = tempfile::tempdir().unwrap();
    let small = Settings { max_bytes: 8 << 20, ..settings(dir.path()) };
    let bench = Bench::open(&small, &[keeping("a", HOUR)]);
    let mut lane = bench.lane(OnRefusal::Report);
    let mut seq = 0;
    for round in 0..40_u64 {
        let batch: Vec<_> = (0..50)
            .map(|number| {
                publish_with(&[A], round * 50 + number, |publish| {
                    publish.message.payload = Bytes::from(vec![7; 16 << 10]);
                })
            })
            .collect();
        let outcomes = bench.outcomes(&mut lane, batch);
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "round {round}: {outcomes:?}");
        bench.settle(A, seq + 1, seq + 50, Fate::Forwarded);
        seq += 50;
    }
    // 31 MiB went through a store of 8.
    let books = bench.books(A);
    assert!(books.kept_messages > 0 && books.kept_bytes <= 8 << 20, "{books:?}");
    assert_eq!((books.accepted, books.forwarded), (2_000, 2_000));
    let rows = check_kept(&bench, dir.path());
    assert_eq!(rows.last(), Some(&2_000), "the oldest go first");
    bench.close();
}

#[test]
fn the_books_of_what_is_kept_agree_with_the_rows_whatever_happens() {
    for seed in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::open(&settings(dir.path()), &[keeping("a", HOUR)]);
        for _ in 0..40 {
            let position = *bench.handle.position(A).borrow();
            let backlog = position.next - position.head;
            match random.u32(0..12) {
                0..4 => bench.store(A, 0..random.u64(1..300)),
                4..9 if backlog > 0 => {
                    // Many fates at once, as a forwarder settles them.
                    let mut runs = Vec::new();
                    let mut first = position.head;
                    let end = position.head + random.u64(1..=backlog);
                    while first < end {
                        let fate = match random.u32(0..6) {
                            0 => Fate::Expired,
                            1 => dead(),
                            _ => Fate::Forwarded,
                        };
                        let single = matches!(fate, Fate::Dead { .. });
                        let last = if single { first } else { (first + random.u64(0..5)).min(end - 1) };
                        runs.push(Run { first, last, fate });
                        first = last + 1;
                    }
                    bench.wait(bench.handle.settle(A, runs)).unwrap();
                }
                9 => drop(bench.wait(bench.handle.purge(A)).unwrap()),
                10 => {
                    bench.flush();
                    let books = bench.books(A);
                    bench.store.abandon();
                    let retain = if random.u32(0..4) == 0 { Duration::ZERO } else { HOUR };
                    bench = Bench::open(&settings(dir.path()), &[keeping("a", retain)]);
                    assert_eq!(bench.books(A).forwarded, books.forwarded, "seed {seed}");
                }
                _ => bench.flush(),
            }
            check_kept(&bench, dir.path());
            assert!(bench.internal(A).operated.kept.gone.ranges() < 4200, "seed {seed}");
        }
        bench.close();
    }
}
