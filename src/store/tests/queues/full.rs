//! Session queues on a full disk.

use super::*;
use crate::store::shared::Work;

const DISK_FULL: Outcome = Outcome::Refused(Refusal::DiskFull);

fn max_pages(bench: &Bench, pages: u32) {
    bench.flush();
    bench.handle.shared.queue.send(Work::MaxPages(pages)).unwrap();
    bench.flush();
}

fn large(session: SessionId, number: u64) -> Entry {
    publish_with(&[], number, |publish| {
        publish.copies = vec![SessionCopy { qos: QoS::ExactlyOnce, ..copy(session) }];
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(10_000, 0);
        publish.message.payload = payload.into();
    })
}

fn fill(bench: &Bench, session: SessionId) -> u64 {
    for number in 1.. {
        match bench.copied(vec![large(session, number)])[0].0 {
            Outcome::Accepted => {}
            DISK_FULL => return number - 1,
            other @ (Outcome::Duplicate | Outcome::Refused(_) | Outcome::Released | Outcome::Stepped) => {
                panic!("{other:?}")
            }
        }
    }
    unreachable!()
}

#[test]
fn on_a_full_disk_nothing_queued_is_lost_and_delivery_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    max_pages(&bench, 300);
    let accepted = fill(&bench, x);
    assert!(accepted > 50);
    assert_eq!(bench.copied(vec![large(x, 0)]), [(DISK_FULL, vec![None])]);
    assert_eq!(bench.queued(x, 10).len() as u64, accepted);
    // PUBREC and PUBCOMP are tiny, and make room.
    bench.steps((1..=40).flat_map(|seq| [step(x, seq, Step::Received), step(x, seq, Step::Delivered)]).collect());
    assert_eq!(bench.queue_stats(x).delivered, 40);
    max_pages(&bench, 1_000_000);
    bench.wait(async {
        while bench.handle.stats().refusing.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(bench.copied(vec![large(x, 1)]), [(Outcome::Accepted, vec![Some(accepted + 1)])]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.queue_stats(x).messages, accepted - 40 + 1);
    bench.close();
}

fn no_space(bench: &Bench, no_space: bool) {
    bench.handle.shared.queue.send(Work::NoSpace(no_space)).unwrap();
}

#[test]
fn where_nothing_can_be_written_lazy_steps_wait_and_synced_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let (x, y) = (bench.save("x", UNLIMITED), bench.save("y", UNLIMITED));
    bench.copied((1..=10_000).map(|number| for_sessions(&[x], number)).collect());
    bench.queue(y, 1..=3);
    no_space(&bench, true);
    assert_eq!(bench.copied(vec![for_sessions(&[x], 0)]), [(DISK_FULL, vec![None])]);
    let mut lane = bench.lane(OnRefusal::Report);
    let steps = vec![step(x, 1, Step::Delivered), step(y, 1, Step::Received), step(y, 2, Step::Delivered)];
    assert_eq!(bench.outcomes(&mut lane, steps), [Outcome::Stepped, DISK_FULL, Outcome::Stepped]);
    // More of them than wait for a commit of their own.
    for first in (2..=9_000).step_by(500) {
        let steps = (first..first + 500).map(|seq| step(x, seq, Step::Delivered)).collect();
        assert_eq!(bench.outcomes(&mut lane, steps), [Outcome::Stepped; 500]);
    }
    let (mut hold, mut returns) = bench.lane(OnRefusal::Hold);
    bench.submit(&mut hold, vec![step(y, 3, Step::Delivered), step(y, 1, Step::Received), step(y, 1, Step::Delivered)]);
    let returned = bench.wait(returns.recv()).unwrap();
    assert_eq!((returned.verdicts.len(), returned.held.len()), (1, 2));
    assert_eq!(bench.queue_stats(x).messages, 10_000, "nothing was committed");
    bench.wait(bench.handle.session_left(x, 9_501)).unwrap();
    let saving = bench.handle.save_session(record("z", UNLIMITED));
    let mut saving = std::pin::pin!(saving);
    let mut is_pending = || {
        let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
        saving.as_mut().poll(context).is_pending()
    };
    assert!(is_pending());
    // Decided after it.
    assert_eq!(bench.copied(vec![for_sessions(&[x], 0)]), [(DISK_FULL, vec![None])]);
    assert!(is_pending(), "it waits for space");
    no_space(&bench, false);
    bench.wait(saving).unwrap();
    bench.wait(hold.room()).unwrap();
    bench.submit(&mut hold, returned.held);
    assert_eq!(bench.wait(returns.recv()).unwrap().verdicts.len(), 2);
    bench.flush();
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let stats = bench.queue_stats(x);
    assert_eq!((stats.delivered, stats.messages), (9_001, 999));
    assert_eq!(bench.queued_numbers(y), []);
    assert_eq!((bench.restored().len(), bench.restored()[0].sent), (3, Some(9_501)));
    bench.close();
}
