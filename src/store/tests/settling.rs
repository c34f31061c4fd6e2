//! Settlements that wait for company, and what they must never cost.

use super::*;

fn settle(bench: &Bench, first: u64, last: u64) {
    bench.wait(bench.handle.settle(A, vec![Run { first, last, fate: Fate::Forwarded }])).unwrap();
}

#[test]
fn a_settlement_is_written_by_itself_before_long() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..3);
    settle(&bench, 1, 2);
    settle(&bench, 3, 3);
    let began = std::time::Instant::now();
    while bench.books(A).forwarded < 3 {
        assert!(began.elapsed() < DEADLINE, "{:?}", bench.books(A));
        std::thread::yield_now();
    }
    bench.close();
}

#[test]
fn what_was_forwarded_is_neither_in_the_way_nor_dropped_in_a_full_stream() {
    for when_full in [WhenFull::Reject, WhenFull::DropOldest, WhenFull::DropNewest] {
        let dir = tempfile::tempdir().unwrap();
        let three = StreamSettings { max_messages: Some(3), when_full, ..stream("a") };
        let bench = Bench::open(&settings(dir.path()), &[three]);
        for round in 0..20 {
            bench.store(A, 0..3);
            settle(&bench, 3 * round + 1, 3 * round + 3);
        }
        bench.flush();
        let books = bench.books(A);
        assert_eq!((books.forwarded, books.dropped_total(), books.backlog_messages), (60, 0, 0), "{when_full:?}");
        bench.close();
    }
}

#[test]
fn a_lane_that_waits_for_room_gets_it_from_a_settlement() {
    let dir = tempfile::tempdir().unwrap();
    let three = StreamSettings { max_messages: Some(3), ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[three]);
    bench.store(A, 0..3);
    let (mut lane, mut returns) = bench.lane(OnRefusal::Hold);
    bench.submit(&mut lane, vec![publish(&[A], 3)]);
    let held = bench.wait(returns.recv()).unwrap().held;
    assert_eq!(held.len(), 1);
    bench.wait(async {
        let (room, ()) = tokio::join!(lane.room(), async {
            bench.handle.settle(A, vec![Run { first: 1, last: 1, fate: Fate::Forwarded }]).await.unwrap();
        });
        room.unwrap();
    });
    bench.submit(&mut lane, held);
    assert_eq!(bench.wait(returns.recv()).unwrap().verdicts.len(), 1);
    bench.close();
}

#[test]
fn an_orderly_end_writes_what_was_put_off() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..3);
    settle(&bench, 1, 3);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!((bench.books(A).forwarded, bench.books(A).backlog_messages), (3, 0));
    bench.close();
}
