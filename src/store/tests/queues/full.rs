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
            other => panic!("{other:?}"),
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
