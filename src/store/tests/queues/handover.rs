//! Queues of the gateway's own, and messages that go from there to those of clients.

use super::*;
use crate::store::shared::Work;

const OWN: &str = "\0own/x";

fn handover(from: SessionId, seq: Sequence, to: &[SessionId], number: u64) -> Entry {
    let Entry::Publish(publish) = for_sessions(to, number) else { unreachable!() };
    Entry::Handover(Box::new(Handover { from, seq, publish }))
}

#[test]
fn what_the_gateway_has_for_itself_is_no_session_and_counts_with_none() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let (own, x) = (bench.save(OWN, UNLIMITED), bench.save("x", UNLIMITED));
    bench.queue(own, 1..=5);
    bench.queue(x, 1..=2);
    bench.steps(vec![step(own, 2, Step::Expired)]);
    let check = |bench: &Bench| {
        assert_eq!(bench.restored().iter().map(|found| found.id).collect::<Vec<_>>(), [x]);
        let totals = bench.handle.queues();
        assert_eq!((totals.queued, totals.messages, totals.expired), (2, 2, 0));
        let stats = bench.queue_stats(own);
        assert_eq!((stats.queued, stats.messages, stats.expired), (5, 4, 1));
        assert_eq!(bench.queued_numbers(own).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 3, 4, 5]);
    };
    check(&bench);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    check(&bench);
    assert_eq!(bench.save(OWN, UNLIMITED), own, "it is found again by its name");
    bench.close();
}

#[test]
fn a_message_is_handed_over_once_across_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let (own, x, y) = (bench.save(OWN, UNLIMITED), bench.save("x", UNLIMITED), bench.save("y", UNLIMITED));
    bench.queue(own, 1..=3);
    let found = bench.copied(vec![handover(own, 2, &[x, y], 2), handover(own, 1, &[x], 1)]);
    assert_eq!(found, [(Outcome::Accepted, vec![Some(1), Some(1)]), (Outcome::Accepted, vec![Some(2)])]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.copied(vec![handover(own, 2, &[x, y], 2)]), [(Outcome::Duplicate, vec![None, None])]);
    assert_eq!(bench.queued_numbers(x), [(1, Some(2)), (2, Some(1))]);
    assert_eq!(bench.queued_numbers(y), [(1, Some(2))]);
    assert_eq!(bench.queued_numbers(own), [(3, Some(3))]);
    assert_eq!(bench.queue_stats(own).delivered, 2);
    // To nobody's queue, for it is with a client that has none: it only leaves, and at once.
    assert_eq!(bench.copied(vec![handover(own, 3, &[], 3)])[0].0, Outcome::Accepted);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!((bench.queue_stats(own).delivered, bench.queue_stats(own).messages), (3, 0));
    bench.close();
}

#[test]
fn what_is_refused_stays_where_it_is_and_holds_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let own = bench.save(OWN, UNLIMITED);
    let (full, free) = (bench.save("full", at_most(1, WhenFull::Reject)), bench.save("free", UNLIMITED));
    bench.queue(full, [0]);
    bench.queue(own, 1..=3);
    let refused = (Outcome::Refused(Refusal::QueueFull), vec![None]);
    assert_eq!(bench.copied(vec![handover(own, 1, &[full], 1)]), [refused]);
    let (mut lane, mut returns) = bench.lane(OnRefusal::Hold);
    let entries = vec![handover(own, 2, &[free], 2), handover(own, 1, &[full], 1), handover(own, 3, &[free], 3)];
    bench.submit(&mut lane, entries);
    let returned = bench.wait(returns.recv()).unwrap();
    assert_eq!((returned.verdicts.len(), returned.held.len()), (1, 2));
    assert_eq!(bench.queued_numbers(own), [(1, Some(1)), (3, Some(3))]);
    bench.handle.shared.queue.send(Work::NoSpace(true)).unwrap();
    let disk_full = (Outcome::Refused(Refusal::DiskFull), vec![None]);
    assert_eq!(bench.copied(vec![handover(own, 3, &[free], 3)]), [disk_full]);
    bench.handle.shared.queue.send(Work::NoSpace(false)).unwrap();
    bench.flush();
    assert_eq!((bench.queue_stats(own).messages, bench.queue_stats(free).messages), (2, 1));
    bench.close();
}
