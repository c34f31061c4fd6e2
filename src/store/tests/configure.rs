//! Another configuration while the store works: streams come, go, come back and change; nothing of what they hold does.

use super::*;
use crate::store::shared::{Fault, Work, locked};

fn changes(streams: &[StreamSettings]) -> Changes {
    Changes { streams: streams.to_vec(), commit_delay: Duration::ZERO, max_bytes: 0, min_free: 0 }
}

impl Bench {
    fn configure(&self, streams: &[StreamSettings]) -> Result<Vec<StreamId>, ConfigureError> {
        self.wait(self.handle.configure(changes(streams)))
    }
}

fn names(bench: &Bench) -> Vec<(String, bool)> {
    bench.handle.streams().into_iter().map(|stream| (stream.name, stream.configured)).collect()
}

fn found(bench: &Bench, name: &str) -> StreamStats {
    let stats = bench.handle.streams().into_iter().find(|stream| stream.name == name).unwrap();
    assert!(stats.balances(), "{stats:?}");
    stats
}

#[test]
fn a_stream_comes_at_run_time_goes_and_comes_back_with_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..3);
    let ids = bench.configure(&[stream("b"), stream("a")]).unwrap();
    assert_eq!(ids, [B, A], "places are never given away");
    assert_eq!(names(&bench), [("b".to_owned(), true), ("a".to_owned(), true)], "in configuration order");
    bench.store(B, 10..14);
    bench.settle(B, 1, 2, Fate::Forwarded);
    assert_eq!(bench.configure(&[stream("a")]).unwrap(), [A]);
    assert_eq!(names(&bench), [("a".to_owned(), true), ("b".to_owned(), false)]);
    // What was on its way is still taken.
    bench.store(B, 14..15);
    assert_eq!(bench.configure(&[stream("b"), stream("c"), stream("a")]).unwrap(), [B, StreamId(2), A]);
    bench.store(StreamId(2), 20..22);
    assert_eq!((bench.numbers(B), bench.numbers(A)), (vec![12, 13, 14], vec![0, 1, 2]));
    let first = bench.backlog(B)[0].seq;
    assert_eq!(first, 3);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("b"), stream("a")]);
    assert_eq!((bench.numbers(A), bench.numbers(B)), (vec![12, 13, 14], vec![0, 1, 2]));
    assert_eq!((found(&bench, "b").accepted, found(&bench, "b").forwarded), (5, 2));
    assert_eq!((found(&bench, "c").backlog_messages, found(&bench, "c").configured), (2, false));
    bench.close();
}

#[test]
fn other_limits_hold_at_once_and_what_was_held_is_taken_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let limited = |max| StreamSettings { max_messages: Some(max), ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[limited(2)]);
    bench.store(A, 0..2);
    let (mut hold, mut returns) = bench.lane(OnRefusal::Hold);
    bench.submit(&mut hold, vec![publish(&[A], 2)]);
    let back = bench.wait(returns.recv()).unwrap().held;
    assert_eq!(back.len(), 1);
    bench.configure(&[limited(3)]).unwrap();
    bench.wait(hold.room()).unwrap();
    bench.submit(&mut hold, back);
    assert_eq!(bench.wait(returns.recv()).unwrap().verdicts.len(), 1);
    let mut lane = bench.lane(OnRefusal::Report);
    let full = Outcome::Refused(Refusal::StreamFull(A));
    assert_eq!(bench.outcomes(&mut lane, vec![publish(&[A], 3)]), [full]);
    bench.configure(&[StreamSettings { when_full: WhenFull::DropOldest, ..limited(2) }]).unwrap();
    bench.store(A, 3..4);
    assert_eq!(bench.numbers(A), [2, 3]);
    assert_eq!(found(&bench, "a").dropped, [("oldest".to_owned(), 2)]);
    let expiring = StreamSettings { ttl: Some(Duration::ZERO), ..stream("a") };
    bench.configure(&[expiring]).unwrap();
    bench.wait(async {
        while bench.handle.streams()[0].expired < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // The whole store, too.
    bench.wait(bench.handle.configure(Changes { max_bytes: 1, ..changes(&[stream("a")]) })).unwrap();
    assert_eq!(bench.outcomes(&mut lane, vec![publish(&[A], 4)]), [Outcome::Refused(Refusal::StoreFull)]);
    bench.configure(&[stream("a")]).unwrap();
    bench.store(A, 4..5);
    bench.close();
}

#[test]
fn nothing_changes_where_a_stream_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..1);
    let no_space = |is| {
        bench.flush();
        bench.handle.shared.queue.send(Work::NoSpace(is)).unwrap();
        bench.flush();
    };
    no_space(true);
    let small = StreamSettings { max_messages: Some(1), ..stream("a") };
    let refused = bench.configure(&[small.clone(), stream("b")]);
    assert!(matches!(refused, Err(ConfigureError::NotNow(Refusal::DiskFull))), "{refused:?}");
    assert_eq!(names(&bench), [("a".to_owned(), true)]);
    // Without a new one nothing has to be written.
    assert_eq!(bench.configure(&[stream("a")]).unwrap(), [A]);
    no_space(false);
    bench.wait(async {
        while bench.handle.stats().refusing.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    bench.store(A, 1..3);
    // While it is suspended.
    *locked(&bench.handle.shared.fault) = Some(Fault::NoWrite);
    let refused = bench.configure(&[stream("a"), stream("b")]);
    assert!(matches!(refused, Err(ConfigureError::Disk(_))), "{refused:?}");
    let refused = bench.configure(&[stream("a"), stream("b")]);
    assert!(matches!(refused, Err(ConfigureError::NotNow(Refusal::Suspended))), "{refused:?}");
    *locked(&bench.handle.shared.fault) = None;
    bench.wait(async {
        while bench.handle.stats().suspended.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(bench.configure(&[stream("b"), stream("a")]).unwrap(), [B, A]);
    bench.store(B, 5..6);
    assert_eq!((bench.numbers(A), bench.numbers(B)), (vec![0, 1, 2], vec![5]));
    bench.close();
}

#[test]
fn streams_that_came_at_run_time_are_there_after_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("z")]);
    let ids = bench.configure(&[stream("b"), stream("a")]).unwrap();
    bench.store(ids[0], 0..3);
    bench.store(ids[1], 3..5);
    *locked(&bench.handle.shared.fault) = Some(Fault::NoWrite);
    let mut lane = bench.lane(OnRefusal::Report);
    bench.submit(&mut lane.0, vec![publish(&[ids[0]], 9)]);
    bench.wait(async {
        while bench.handle.stats().suspended.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        *locked(&bench.handle.shared.fault) = None;
        while bench.handle.stats().suspended.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    bench.store(ids[0], 10..11);
    assert_eq!(bench.numbers(ids[0]).last(), Some(&10));
    assert_eq!(bench.numbers(ids[1]), [3, 4]);
    assert_eq!(names(&bench), [("b".to_owned(), true), ("a".to_owned(), true), ("z".to_owned(), false)]);
    bench.close();
}

#[test]
fn what_nobody_waits_for_any_more_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..1);
    // The writer is stuck after its round, as with a disk that does not answer, until this is let go.
    let stuck = locked(&bench.handle.shared.glance);
    let other = changes(&[stream("b"), StreamSettings { max_messages: Some(1), ..stream("a") }]);
    bench.wait(async {
        let given_up = tokio::time::timeout(Duration::from_millis(50), bench.handle.configure(other)).await;
        assert!(given_up.is_err(), "{given_up:?}");
    });
    drop(stuck);
    bench.flush();
    let configured: Vec<_> = names(&bench).into_iter().filter(|(_, configured)| *configured).collect();
    assert_eq!(configured, [("a".to_owned(), true)], "refused, so all stays as it was");
    bench.store(A, 1..3);
    bench.close();
}
