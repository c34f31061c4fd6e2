//! A full store and a full disk. "Full" is SQLite's own SQLITE_FULL, brought about by `PRAGMA max_page_count`; `tests/interop/60_disk_full.py`
//! has the kernel say the same (ENOSPC), on a small file system.

use super::*;
use crate::store::shared::Work;

const DISK_FULL: Outcome = Outcome::Refused(Refusal::DiskFull);

fn large(number: u64) -> Entry {
    publish_with(&[A], number, |publish| {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(10_000, 0);
        publish.message.payload = payload.into();
    })
}

fn max_pages(bench: &Bench, pages: u32) {
    bench.flush();
    bench.handle.shared.queue.send(Work::MaxPages(pages)).unwrap();
    bench.flush();
}

/// Stores until the first refusal; gives how many were accepted.
fn fill(bench: &Bench, lane: &mut (Lane, Returns)) -> u64 {
    for number in 0.. {
        match bench.outcomes(lane, vec![large(number)])[..] {
            [Outcome::Accepted] => {}
            [Outcome::Refused(Refusal::DiskFull)] => return number,
            ref other => panic!("{other:?}"),
        }
    }
    unreachable!()
}

#[test]
fn on_a_full_disk_nothing_is_lost_and_work_resumes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    max_pages(&bench, 300);
    let mut report = bench.lane(OnRefusal::Report);
    let accepted = fill(&bench, &mut report);
    assert!(accepted > 50);
    assert_eq!(bench.handle.stats().refusing.as_deref(), Some("disk full"));
    let (mut hold, mut returns) = bench.lane(OnRefusal::Hold);
    let unstored = publish_with(&[], 0, |_| ());
    let qos0 = publish_with(&[A], 0, |publish| publish.message.qos = QoS::AtMostOnce);
    bench.submit(&mut hold, vec![unstored, qos0, large(accepted), large(accepted + 1)]);
    let returned = bench.wait(returns.recv()).unwrap();
    let outcomes: Vec<_> = returned.verdicts.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!((outcomes, returned.held.len()), (vec![Outcome::Accepted, DISK_FULL], 2));
    assert_eq!(bench.books(A).dropped, [("qos0-full".to_owned(), 1)]);
    assert_eq!(bench.numbers(A), (0..accepted).collect::<Vec<_>>());
    // Forwarding goes on, and makes room.
    bench.settle(A, 1, 40, Fate::Forwarded);
    max_pages(&bench, 1_000_000);
    bench.wait(hold.room()).unwrap();
    bench.submit(&mut hold, returned.held);
    let returned = bench.wait(returns.recv()).unwrap();
    assert_eq!(returned.verdicts.len(), 2);
    assert_eq!(bench.numbers(A), (40..accepted + 2).collect::<Vec<_>>());
    assert_eq!(bench.handle.stats().refusing, None);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(bench.numbers(A), (40..accepted + 2).collect::<Vec<_>>());
    assert_eq!((bench.books(A).accepted, bench.books(A).forwarded), (accepted + 3, 40));
    bench.close();
}

#[test]
fn on_a_full_disk_a_packet_id_that_is_remembered_is_still_a_duplicate() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let mut lane = bench.lane(OnRefusal::Report);
    let two = |id| publish_with(&[A], 1, |publish| publish.packet_id = Some(id));
    assert_eq!(bench.outcomes(&mut lane, vec![two(1)]), [Outcome::Accepted]);
    max_pages(&bench, 100);
    fill(&bench, &mut lane);
    assert_eq!(bench.outcomes(&mut lane, vec![two(1), two(2)]), [Outcome::Duplicate, DISK_FULL]);
    let release = Entry::Release { packet_id: 1 };
    assert_eq!(bench.outcomes(&mut lane, vec![release, two(1)]), [Outcome::Released, DISK_FULL]);
    bench.close();
}

#[test]
fn less_than_the_reserve_refuses_before_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&Settings { min_free: u64::MAX, ..settings(dir.path()) }, &[stream("a")]);
    let mut lane = bench.lane(OnRefusal::Report);
    assert_eq!(bench.outcomes(&mut lane, vec![large(1)]), [DISK_FULL]);
    assert!(bench.handle.stats().free_bytes > 0);
    bench.close();
}

#[test]
fn a_full_store_refuses_or_drops_as_the_stream_says() {
    let dir = tempfile::tempdir().unwrap();
    let limited = Settings { max_bytes: 2 << 20, ..settings(dir.path()) };
    let streams = [
        stream("a"),
        StreamSettings { when_full: WhenFull::DropOldest, ..stream("b") },
        StreamSettings { when_full: WhenFull::DropNewest, ..stream("c") },
    ];
    let bench = Bench::open(&limited, &streams);
    let mut lane = bench.lane(OnRefusal::Report);
    let to = |index, number| {
        publish_with(&[StreamId(index)], number, |publish| publish.message.payload = Bytes::from(vec![1; 10_000]))
    };
    assert_eq!(bench.outcomes(&mut lane, (0..20).map(|n| to(1, n)).collect()), [Outcome::Accepted; 20]);
    let mut accepted = 0;
    while bench.outcomes(&mut lane, vec![to(0, 0)]) == [Outcome::Accepted] {
        accepted += 1;
    }
    assert!((100..200).contains(&accepted), "{accepted}");
    assert_eq!(bench.handle.stats().refusing.as_deref(), Some("max_bytes reached"));
    assert_eq!(bench.outcomes(&mut lane, vec![to(0, 0)]), [Outcome::Refused(Refusal::StoreFull)]);
    assert_eq!(bench.outcomes(&mut lane, vec![to(1, 0), to(2, 0)]), [Outcome::Accepted; 2]);
    assert_eq!(bench.books(B).dropped, [("oldest".to_owned(), 1)]);
    assert_eq!(bench.books(StreamId(2)).dropped, [("newest".to_owned(), 1)]);
    // What leaves makes room, as soon as its pages are free.
    bench.settle(A, 1, 120, Fate::Forwarded);
    bench.wait(async {
        while bench.handle.stats().refusing.is_some() {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(bench.outcomes(&mut lane, vec![to(0, 0)]), [Outcome::Accepted]);
    bench.close();
}

#[test]
fn an_empty_stream_that_drops_its_oldest_has_nothing_to_pay_with() {
    let dir = tempfile::tempdir().unwrap();
    let streams = [stream("a"), StreamSettings { when_full: WhenFull::DropOldest, ..stream("b") }];
    let bench = Bench::open(&settings(dir.path()), &streams);
    bench.flush();
    let used = bench.handle.stats().bytes;
    bench.close();
    let bench = Bench::open(&Settings { max_bytes: used + 15_000, ..settings(dir.path()) }, &streams);
    let mut lane = bench.lane(OnRefusal::Report);
    // Room for one row of it, but not for two.
    let both = publish_with(&[A, B], 0, |publish| publish.message.payload = Bytes::from(vec![1; 10_000]));
    assert_eq!(bench.outcomes(&mut lane, vec![both]), [Outcome::Accepted]);
    assert_eq!((bench.books(A).backlog_messages, bench.books(B).backlog_messages), (1, 1));
    bench.close();
}
