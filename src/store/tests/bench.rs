//! Measurements, run by hand: `cargo test --release --lib store::tests::bench -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn full(dir: &Path) -> Settings {
    Settings { durability: Durability::Full, ..settings(dir) }
}

fn sized(number: u64, bytes: usize) -> Entry {
    publish_with(&[A], number, |publish| publish.message.payload = Bytes::from(vec![7; bytes]))
}

/// Stores `count` messages over `lanes` lanes, `batch` a batch, each lane with at most `window` messages unanswered.
async fn ingest(handle: &Handle, lanes: u64, count: u64, batch: u64, window: u64, bytes: usize) -> f64 {
    ingest_for(handle, &[], lanes, count, batch, window, bytes).await
}

/// As [`ingest`], with a copy of each message for each of these sessions.
async fn ingest_for(
    handle: &Handle,
    sessions: &[SessionId],
    lanes: u64,
    count: u64,
    batch: u64,
    window: u64,
    bytes: usize,
) -> f64 {
    let began = Instant::now();
    let tasks: Vec<_> = (0..lanes)
        .map(|_| {
            let (mut lane, mut returns) = handle.lane(OnRefusal::Report, None);
            let sessions = sessions.to_vec();
            let message = move |number| match sized(number, bytes) {
                Entry::Publish(mut publish) => {
                    publish.copies = sessions.iter().copied().map(super::queues::copy).collect();
                    Entry::Publish(publish)
                }
                other @ (Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_)) => other,
            };
            tokio::spawn(async move {
                let (mut sent, mut answered) = (0, 0);
                while answered < count / lanes {
                    while sent < count / lanes && sent - answered + batch <= window.max(batch) {
                        let entries: Vec<_> = (0..batch).map(|n| message(sent + n)).collect();
                        lane.reserve(bytes * entries.len()).await.unwrap().submit(entries);
                        sent += batch;
                    }
                    answered += returns.recv().await.unwrap().verdicts.len() as u64;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    f64::from(u32::try_from(count).unwrap()) / began.elapsed().as_secs_f64()
}

#[test]
#[ignore = "measures, does not test"]
fn synced_appends_a_second() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (lanes, batch, window, bytes, count) in [
        (1, 1, 1, 128, 5_000),
        (1, 1, 100, 128, 200_000),
        (1, 20, 1000, 128, 1_000_000),
        (20, 20, 1000, 128, 1_000_000),
        (20, 1, 100, 128, 400_000),
        (1, 20, 1000, 1024, 400_000),
        (20, 20, 1000, 1024, 400_000),
    ] {
        let dir = tempfile::tempdir_in(std::env::var("TIDEGATE_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
        let (store, handle) = open(&full(dir.path()), &[stream("a")], &prometheus::Registry::new()).unwrap();
        let rate = runtime.block_on(ingest(&handle, lanes, count, batch, window, bytes));
        eprintln!("{lanes:>3} lanes, batches of {batch:>3}, window {window:>4}, {bytes:>4} B: {rate:>9.0} rows/s");
        store.close().unwrap();
    }
}

#[test]
#[ignore = "measures, does not test"]
fn what_copies_for_sessions_cost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (lanes, batch, window, bytes, count) in [
        (1, 1, 1, 128, 3_000),
        (1, 20, 1000, 128, 400_000),
        (20, 20, 1000, 128, 400_000),
        (20, 20, 1000, 1024, 200_000),
    ] {
        // Twice the same, for the scatter of the machine.
        for copies in [0, 1, 0, 1, 10] {
            let dir = tempfile::tempdir_in(std::env::var("TIDEGATE_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
            let (store, handle) = open(&full(dir.path()), &[stream("a")], &prometheus::Registry::new()).unwrap();
            let save = async |number| {
                let record = super::queues::record(&format!("c{number}"), super::queues::UNLIMITED);
                handle.save_session(record).await.unwrap()
            };
            let rate = runtime.block_on(async {
                let mut sessions = Vec::new();
                for number in 0..copies {
                    sessions.push(save(number).await);
                }
                ingest_for(&handle, &sessions, lanes, count / (copies + 1), batch, window, bytes).await
            });
            eprintln!(
                "{lanes:>3} lanes, batches of {batch:>3}, {bytes:>4} B, {copies:>2} copies: {rate:>9.0} messages/s"
            );
            store.close().unwrap();
        }
    }
}

/// The whole way of a queued message: appended, read, received and delivered, by one client that keeps up.
#[test]
#[ignore = "measures, does not test"]
fn deliveries_a_second() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (steps, count) in [(&[Step::Delivered][..], 200_000_u64), (&[Step::Received, Step::Delivered][..], 100_000)] {
        let dir = tempfile::tempdir_in(std::env::var("TIDEGATE_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
        let (store, handle) = open(&full(dir.path()), &[stream("a")], &prometheus::Registry::new()).unwrap();
        runtime.block_on(async {
            let x = handle.save_session(super::queues::record("x", super::queues::UNLIMITED)).await.unwrap();
            ingest_for(&handle, &[x], 20, count, 20, 1000, 128).await;
            let (began, resident) = (Instant::now(), resident_kib());
            let (mut lane, mut returns) = handle.lane(OnRefusal::Report, None);
            let mut from = 0;
            loop {
                let page = handle.read_session(x, from, 256, 1 << 20).await.unwrap();
                let Some(last) = page.last() else { break };
                from = last.seq + 1;
                for step in steps {
                    let entry = |queued: &SessionMessage| super::queues::step(x, queued.seq, *step);
                    lane.reserve(0).await.unwrap().submit(page.iter().map(entry).collect());
                    returns.recv().await.unwrap();
                }
            }
            handle.flush(DEADLINE).await.unwrap();
            let rate = f64::from(u32::try_from(count).unwrap()) / began.elapsed().as_secs_f64();
            let more = resident_kib().saturating_sub(resident);
            eprintln!("{} steps: {rate:.0} deliveries/s, resident {more} KiB more; {:?}", steps.len(), handle.queues());
        });
        store.close().unwrap();
    }
}

#[test]
#[ignore = "measures, does not test"]
fn a_million_messages() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir_in(std::env::var("TIDEGATE_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
    let began = Instant::now();
    let (store, handle) = open(&full(dir.path()), &[stream("a")], &prometheus::Registry::new()).unwrap();
    eprintln!("open empty: {:?}; resident {} KiB", began.elapsed(), resident_kib());
    let rate = runtime.block_on(ingest(&handle, 20, 1_000_000, 20, 1000, 128));
    eprintln!("stored at {rate:.0} rows/s; resident {} KiB; {:?}", resident_kib(), handle.stats());
    let began = Instant::now();
    store.close().unwrap();
    eprintln!("close: {:?}", began.elapsed());
    let began = Instant::now();
    let (store, handle) = open(&full(dir.path()), &[stream("a")], &prometheus::Registry::new()).unwrap();
    eprintln!("open with 1 000 000: {:?}; resident {} KiB", began.elapsed(), resident_kib());
    let began = Instant::now();
    runtime.block_on(async {
        let mut from = 0;
        loop {
            let read = handle.read(A, from, 1024, 1 << 20).await.unwrap();
            let Some(last) = read.last() else { break };
            from = last.seq + 1;
        }
    });
    eprintln!("read: {:.0} rows/s; resident {} KiB", 1e6 / began.elapsed().as_secs_f64(), resident_kib());
    let began = Instant::now();
    runtime.block_on(async {
        let mut from = 0;
        loop {
            let read = handle.read(A, from, 1024, 1 << 20).await.unwrap();
            let Some(last) = read.last() else { break };
            from = last.seq + 1;
            handle.settle(A, vec![Run { first: read[0].seq, last: last.seq, fate: Fate::Forwarded }]).await.unwrap();
        }
        handle.flush(DEADLINE).await.unwrap();
    });
    eprintln!("read and settled: {:.0} rows/s; resident {} KiB", 1e6 / began.elapsed().as_secs_f64(), resident_kib());
    let began = Instant::now();
    while handle.stats().bytes > 1 << 20 {
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!(
        "rows deleted after {:?}; file {} KiB",
        began.elapsed(),
        std::fs::metadata(dir.path().join("tidegate.db")).unwrap().len() >> 10
    );
    let began = Instant::now();
    store.close().unwrap();
    eprintln!("close: {:?}; resident {} KiB", began.elapsed(), resident_kib());
}

/// Ten million messages made by SQL: 8 bytes of payload, accepted when this boot began.
fn ten_million(dir: &Path) {
    Bench::open(&settings(dir), &[stream("a")]).close();
    let making = rusqlite::Connection::open(dir.join("tidegate.db")).unwrap();
    let rows = "INSERT INTO s_1 SELECT value, 10 * value, 1, 0, 1, 'c', 't', NULL, x'0000000000000000'
        FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 10000000) SELECT value FROM n)";
    making.execute(rows, []).unwrap();
}

/// Publishes one message after the other until `done`; says how long the slowest took.
fn slowest_while(bench: &Bench, done: impl Fn(&StreamStats) -> bool) -> (Duration, Duration) {
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    let mut lane = bench.lane(OnRefusal::Report);
    loop {
        let asked = Instant::now();
        assert_eq!(bench.outcomes(&mut lane, vec![sized(1, 8)]), [Outcome::Accepted]);
        slowest = slowest.max(asked.elapsed());
        if done(&bench.books(A)) {
            return (slowest, began.elapsed());
        }
    }
}

#[test]
#[ignore = "measures, does not test"]
fn ten_million_messages_leave_at_once() {
    let short = StreamSettings { ttl: Some(Duration::from_secs(60)), ..stream("a") };
    let few = StreamSettings { max_messages: Some(10), when_full: WhenFull::DropOldest, ..stream("a") };
    for (how, streams) in [("expired", [short]), ("dropped", [few])] {
        let dir = tempfile::tempdir_in(std::env::var("TIDEGATE_BENCH_DIR").unwrap_or("/tmp".into())).unwrap();
        ten_million(dir.path());
        let (before, began) = (resident_kib(), Instant::now());
        let bench = Bench::open(&full(dir.path()), &streams);
        eprintln!("open: {:?}; resident {} KiB more", began.elapsed(), resident_kib().saturating_sub(before));
        let (slowest, all) = slowest_while(&bench, |books| books.expired + books.dropped_total() >= 10_000_000);
        eprintln!("{how} within {all:?}, the slowest message meanwhile {slowest:?}");
        let (slowest, all) = slowest_while(&bench, |_| bench.handle.stats().bytes < 64 << 20);
        eprintln!("rows deleted within {all:?}, the slowest message meanwhile {slowest:?}");
        eprintln!("resident {} KiB more", resident_kib().saturating_sub(before));
        let bytes = || std::fs::metadata(dir.path().join("tidegate.db")).unwrap().len();
        // Now and then a message, with pauses in which the writer finds it quiet enough for chores.
        let (began, mut slowest, mut lane) = (Instant::now(), Duration::ZERO, bench.lane(OnRefusal::Report));
        while bytes() > 32 << 20 && began.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(100));
            let asked = Instant::now();
            assert_eq!(bench.outcomes(&mut lane, vec![sized(1, 8)]), [Outcome::Accepted]);
            slowest = slowest.max(asked.elapsed());
        }
        eprintln!("file {} MiB after {:?}, the slowest message meanwhile {slowest:?}", bytes() >> 20, began.elapsed());
        bench.close();
    }
}
