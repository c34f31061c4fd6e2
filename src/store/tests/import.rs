//! Imported messages keep their id and time, and come in once.

use super::*;
use crate::message::{Origin, Properties};

const ALL: Imported = Imported { accepted: 10, skipped: 0, stop: None };
const NONE: Imported = Imported { accepted: 0, skipped: 10, stop: None };

/// A message as `export` of the stream `plant-3/alarms` gave it.
pub(super) fn exported(number: u64) -> Message {
    from("plant-3/alarms", number, number)
}

/// The message `number`, exported with the number `sequence` of `source`.
fn from(source: &'static str, sequence: u64, number: u64) -> Message {
    let origin = Origin {
        source: ByteString::from_static(source),
        sequence,
        accepted_unix_ms: 1_700_000_000_000 + number.cast_signed(),
        clock_synced: number.is_multiple_of(2),
    };
    let properties = Properties { origin: Some(Box::new(origin)), ..Properties::default() };
    Message { properties: Some(Box::new(properties)), ..message(number) }
}

fn import(bench: &Bench, messages: Vec<Message>, again: bool) -> Imported {
    bench.wait(bench.handle.import(A, messages, "gw/a".to_owned(), again)).unwrap()
}

fn ten() -> Vec<Message> {
    (1..=10).map(exported).collect()
}

#[test]
fn what_is_imported_is_stored_in_order_with_its_origin_and_counts_as_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, [100, 101]);
    assert_eq!(import(&bench, ten(), false), ALL);
    let backlog = bench.backlog(A);
    assert_eq!(backlog.iter().map(|stored| stored.seq).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
    assert_eq!(backlog[2..].iter().map(|stored| stored.message.clone()).collect::<Vec<_>>(), ten());
    assert!(backlog[11].age_ms < 60_000, "its age here begins with the import");
    assert_eq!((bench.books(A).accepted, bench.books(A).backlog_messages), (12, 12));
    bench.close();
}

#[test]
fn the_same_file_again_is_passed_over_whatever_has_become_of_its_messages() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(import(&bench, ten(), false), ALL);
    assert_eq!(import(&bench, ten(), false), NONE);
    bench.settle(A, 1, 10, Fate::Forwarded);
    assert_eq!(import(&bench, ten(), false), NONE);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(import(&bench, ten(), false), NONE);
    let more = (5..=12).map(exported).collect();
    assert_eq!(import(&bench, more, false), Imported { accepted: 2, skipped: 6, stop: None });
    assert_eq!(import(&bench, ten(), true), ALL);
    // Without an id nothing can be recognised, nor is the number of another source the same message.
    assert_eq!(import(&bench, vec![message(1), message(1), from("plant-4/alarms", 1, 1)], false).accepted, 3);
    bench.close();
}

#[test]
fn what_is_still_here_is_passed_over_but_not_what_only_has_the_same_number() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 1..=10);
    let own = |numbers: std::ops::RangeInclusive<u64>| numbers.map(|n| from("gw/a", n, n)).collect::<Vec<_>>();
    assert_eq!(import(&bench, own(1..=10), false), NONE);
    // Of a data directory that was lost: the same numbers, other messages.
    assert_eq!(import(&bench, vec![from("gw/a", 3, 99)], false).accepted, 1);
    bench.wait(bench.handle.purge(A)).unwrap();
    assert_eq!(import(&bench, own(1..=2), false).accepted, 2, "what was purged can come back");
    assert_eq!(bench.numbers(A), [1, 2]);
    bench.close();
}

#[test]
fn an_import_stops_at_the_limits_and_drops_nothing() {
    for when_full in [WhenFull::Reject, WhenFull::DropOldest, WhenFull::DropNewest] {
        let dir = tempfile::tempdir().unwrap();
        let limited = StreamSettings { max_messages: Some(4), when_full, ..stream("a") };
        let bench = Bench::open(&settings(dir.path()), &[limited]);
        bench.store(A, [100]);
        let full = Some(Stop::NoRoom(Refusal::StreamFull(A)));
        assert_eq!(import(&bench, ten(), false), Imported { accepted: 3, skipped: 0, stop: full });
        assert_eq!(import(&bench, ten(), false), Imported { accepted: 0, skipped: 3, stop: full });
        bench.settle(A, 1, 4, Fate::Forwarded);
        assert_eq!(import(&bench, ten(), false), Imported { accepted: 4, skipped: 3, stop: full });
        assert_eq!((bench.numbers(A), bench.books(A).dropped_total()), (vec![4, 5, 6, 7], 0));
        bench.close();
    }
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[StreamSettings { max_bytes: Some(30), ..stream("a") }]);
    assert_eq!(import(&bench, ten(), false).stop, Some(Stop::TooLarge));
    bench.close();
}

#[test]
fn a_full_disk_stops_an_import_and_nothing_of_the_batch_is_there_twice() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, [100]);
    bench.handle.shared.queue.send(crate::store::shared::Work::NoSpace(true)).unwrap();
    let refused = import(&bench, ten(), false);
    assert_eq!(refused, Imported { accepted: 0, skipped: 0, stop: Some(Stop::NoRoom(Refusal::DiskFull)) });
    bench.handle.shared.queue.send(crate::store::shared::Work::NoSpace(false)).unwrap();
    bench.wait(async {
        // Tried again every second.
        while bench.handle.import(A, ten(), "gw/a".to_owned(), false).await.unwrap().stop.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(bench.numbers(A), [100, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    bench.close();
}

#[test]
fn salvage_keeps_origins_and_what_was_imported() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(import(&bench, ten(), false), ALL);
    bench.close();
    let path = dir.path().join("tidegate.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..100].fill(0x55);
    std::fs::write(&path, bytes).unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert!(dir.path().join("quarantine").exists());
    assert_eq!(bench.backlog(A).into_iter().map(|stored| stored.message).collect::<Vec<_>>(), ten());
    assert_eq!(import(&bench, ten(), false), NONE);
    bench.close();
}

#[test]
fn a_retried_dead_letter_that_was_imported_says_where_it_came_from_first() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(import(&bench, vec![exported(7)], false).accepted, 1);
    bench.settle(A, 1, 1, Fate::Dead { reason: "refused", detail: "no".to_owned() });
    bench.wait(bench.handle.retry_dead(1, "gw")).unwrap();
    let properties = bench.backlog(A)[0].message.properties.clone().unwrap();
    assert_eq!(properties.origin, None);
    let user =
        |name: &str| properties.user.iter().find(|(known, _)| &**known == name).map(|(_, value)| value.to_string());
    assert_eq!(user("tg-retry-of").as_deref(), Some("plant-3/alarms/7"));
    assert_eq!(user("tg-retry-time").as_deref(), Some("2023-11-14T22:13:20.007Z"));
    bench.close();
}

#[test]
fn what_is_kept_can_be_looked_at_without_what_left_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let keeps = StreamSettings { retain_sent: Duration::from_secs(3600), ..stream("a") };
    let bench = Bench::open(&settings(dir.path()), &[keeps]);
    bench.store(A, 1..=6);
    bench.settle(A, 1, 2, Fate::Forwarded);
    bench.settle(A, 3, 3, Fate::Expired);
    bench.settle(A, 4, 4, Fate::Forwarded);
    let kept = |from| bench.wait(bench.handle.kept(A, from, 100, 1 << 20)).unwrap();
    assert_eq!(kept(0).iter().map(|stored| stored.seq).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(kept(2).iter().map(|stored| number_of(&stored.message)).collect::<Vec<_>>(), [2, 4]);
    bench.close();
}

#[test]
fn no_more_sources_and_ranges_are_remembered_than_agreed() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let of = |source: usize| {
        let mut message = from("x/y", 1, 1);
        let origin = message.properties.as_mut().unwrap().origin.as_mut().unwrap();
        origin.source = format!("gateway-{source}/s").into();
        message
    };
    let done = import(&bench, (0..2000).map(of).collect(), false);
    assert_eq!(done, Imported { accepted: 1024, skipped: 0, stop: Some(Stop::TooManySources) });
    assert_eq!(import(&bench, vec![of(1023), of(1024)], false).skipped, 1);
    // Every second number is a range by itself: of the lowest nothing is known any more, and they come in again.
    for slice in 0..3_u64 {
        let odd = |n: u64| from("gateway-0/s", 2 * (slice * 2000 + n) + 3, n);
        assert_eq!(import(&bench, (0..2000).map(odd).collect(), false).accepted, 2000);
    }
    let again = vec![from("gateway-0/s", 2 * 5999 + 3, 1), from("gateway-0/s", 3, 1)];
    assert_eq!(import(&bench, again, false), Imported { accepted: 1, skipped: 1, stop: None });
    bench.close();
}

#[test]
fn numbers_with_gaps_do_not_hold_up_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    // As many as the body of one request has; what others send waits behind it, so the deadline of `import` is the point.
    let sparse = |numbers: &mut dyn Iterator<Item = u64>| numbers.map(|n| from("plant-3/alarms", 2 * n, n)).collect();
    assert_eq!(import(&bench, sparse(&mut (1..=100_000)), false).accepted, 100_000);
    assert_eq!(import(&bench, sparse(&mut (200_001..=220_000).rev()), false).accepted, 20_000);
    // The highest of them are remembered.
    assert_eq!(import(&bench, sparse(&mut (219_000..=220_000)), false).accepted, 0);
    bench.close();
}
