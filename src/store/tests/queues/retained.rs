//! Retained messages: ages and revisions.

use super::*;

fn retain(number: u64, payload: &'static [u8]) -> Entry {
    publish_with(&[], number, |publish| {
        publish.set_retained = true;
        publish.message.payload = Bytes::from_static(payload);
    })
}

fn revisions(bench: &Bench, entries: Vec<Entry>) -> Vec<u64> {
    let (mut lane, mut returns) = bench.lane(OnRefusal::Report);
    bench.submit(&mut lane, entries);
    let verdicts = bench.wait(returns.recv()).unwrap().verdicts;
    let revision = |(entry, _)| match entry {
        Entry::Publish(publish) => publish.retained_revision,
        Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_) => unreachable!(),
    };
    verdicts.into_iter().map(revision).collect()
}

#[test]
fn revisions_grow_in_the_order_of_the_commits_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let first =
        revisions(&bench, vec![retain(1, b"a"), publish(&[], 2), retain(1, b"b"), retain(2, b"c"), retain(2, b"")]);
    assert_eq!(first[1], 0);
    assert!(0 < first[0] && first[0] < first[2] && first[2] < first[3] && first[3] < first[4]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let kept = bench.wait(bench.handle.retained()).unwrap();
    assert_eq!((kept.len(), kept[0].revision, &kept[0].message.payload[..]), (1, first[2], &b"b"[..]));
    assert!(revisions(&bench, vec![retain(3, b"d")])[0] > kept[0].revision);
    bench.close();
}

#[test]
fn what_is_refused_or_known_has_no_revision() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&Settings { max_bytes: 1, ..settings(dir.path()) }, &[]);
    assert_eq!(revisions(&bench, vec![retain(1, b"a")]), [0]);
    bench.close();
}

#[test]
fn a_retained_message_grows_older_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    revisions(&bench, vec![retain(1, b"a")]);
    bench.wait(async {
        while bench.handle.retained().await.unwrap()[0].age_ms <= 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let age_ms = bench.wait(bench.handle.retained()).unwrap()[0].age_ms;
    assert!((21..60_000).contains(&age_ms), "{age_ms}");
    bench.close();
}

#[test]
fn only_the_revision_that_expired_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let old = revisions(&bench, vec![retain(1, b"a"), retain(2, b"b")]);
    revisions(&bench, vec![retain(2, b"newer")]);
    let expired = vec![(message(1).topic, old[0]), (message(2).topic, old[1])];
    bench.wait(bench.handle.forget_retained(expired)).unwrap();
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let kept = bench.wait(bench.handle.retained()).unwrap();
    assert_eq!((kept.len(), &kept[0].message.payload[..]), (1, &b"newer"[..]));
    bench.close();
}
