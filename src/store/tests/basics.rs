//! The main road: store, read, settle, close, open again; QoS 2 ids, sessions, retained messages.

use std::{
    pin::pin,
    task::{Context, Waker},
};

use super::*;
use crate::{message::Properties, store::shared::QUEUE_BYTES_MAX};

#[test]
fn what_was_accepted_is_there_after_a_clean_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..100);
    assert_eq!(bench.numbers(A), (0..100).collect::<Vec<_>>());
    bench.close();
    assert!(!dir.path().join("tidegate.db-wal").exists(), "a clean close leaves no log");
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    assert_eq!(bench.numbers(A), (0..100).collect::<Vec<_>>());
    assert_eq!(bench.books(A).accepted, 100);
    assert!(bench.books(A).oldest_age.is_some());
    bench.close();
}

#[test]
fn reading_and_settling_beside_a_busy_writer_finds_no_gaps() {
    const MESSAGES: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..MESSAGES).step_by(5).for_each(|first| bench.store(A, first..first + 5)));
        let mut next = 1;
        while next <= MESSAGES {
            let read = bench.wait(bench.handle.read(A, next, 4096, 1 << 20)).unwrap();
            let Some(last) = read.last() else { continue };
            assert!(read.iter().map(|message| message.seq).eq(next..=last.seq));
            bench.settle(A, next, last.seq, Fate::Forwarded);
            next = last.seq + 1;
        }
    });
    bench.flush();
    assert_eq!(bench.books(A).forwarded, MESSAGES);
    bench.close();
}

#[test]
fn what_was_accepted_is_there_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 0..100);
    bench.store(B, 100..200);
    bench.settle(A, 1, 60, Fate::Forwarded);
    bench.store(A, 200..210);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    assert_eq!(bench.numbers(A), (60..100).chain(200..210).collect::<Vec<_>>());
    assert_eq!(bench.numbers(B), (100..200).collect::<Vec<_>>());
    let books = bench.books(A);
    assert_eq!((books.accepted, books.forwarded, books.backlog_bytes), (110, 60, 50 * MESSAGE_BYTES));
    bench.close();
}

#[test]
fn a_message_comes_back_as_it_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let properties = Properties {
        content_type: Some("text/plain".into()),
        user: vec![("a".into(), "b".into()), ("a".into(), "c".into())],
        message_expiry_s: Some(9),
        ..Properties::default()
    };
    let rich = publish_with(&[A], 1, |publish| {
        publish.message.properties = Some(Box::new(properties));
        publish.message.qos = QoS::ExactlyOnce;
        publish.message.retain = true;
        publish.message.payload = Bytes::from(vec![7; 100_000]);
        publish.message.client = ByteString::new();
    });
    let empty = publish_with(&[A], 2, |publish| publish.message.payload = Bytes::new());
    let wanted: Vec<_> = [&rich, &empty]
        .map(|entry| match entry {
            Entry::Publish(publish) => publish.message.clone(),
            Entry::Release { .. } | Entry::Step { .. } | Entry::Handover(_) => unreachable!(),
        })
        .to_vec();
    let mut lane = bench.lane(OnRefusal::Report);
    assert_eq!(bench.outcomes(&mut lane, vec![rich, empty]), [Outcome::Accepted; 2]);
    let backlog = bench.backlog(A);
    assert_eq!(backlog.iter().map(|stored| stored.message.clone()).collect::<Vec<_>>(), wanted);
    assert_eq!(backlog.iter().map(|stored| u64::from(stored.bytes)).sum::<u64>(), bench.books(A).backlog_bytes);
    assert!(backlog[0].clock_synced && backlog[0].accepted_unix_ms > 1_767_225_600_000 && backlog[0].age_ms < 60_000);
    bench.close();
}

#[test]
fn sequence_numbers_are_never_used_again_also_when_everything_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
        assert_eq!(*bench.handle.position(A).borrow(), Position { head: round * 3000 + 1, next: round * 3000 + 1 });
        bench.store(A, 0..3000);
        bench.settle(A, 0, u64::MAX, Fate::Forwarded);
        bench.close();
    }
}

#[test]
fn settling_passes_over_what_has_left_and_ignores_what_does_not_begin_at_the_head() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    bench.store(A, 0..10);
    bench.settle(A, 1, 4, Fate::Forwarded);
    bench.settle(A, 1, 5, Fate::Forwarded);
    bench.settle(A, 8, 9, Fate::Forwarded);
    assert_eq!(bench.numbers(A), (5..10).collect::<Vec<_>>());
    bench.settle(A, 6, 7, Fate::Expired);
    let dead = Fate::Dead { reason: "refused", detail: "0x99".to_owned() };
    bench.settle(A, 8, 8, dead);
    assert_eq!(bench.numbers(A), [8, 9]);
    let books = bench.books(A);
    assert_eq!((books.forwarded, books.expired, books.dead), (5, 2, vec![("refused".to_owned(), 1)]));
    bench.close();
    let database = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    let dead = database
        .query_row("SELECT seq, reason, detail, topic, payload FROM dead", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .unwrap();
    let wanted =
        (8_u64.cast_signed(), "refused".to_owned(), "0x99".to_owned(), "t/0".to_owned(), 7_u64.to_be_bytes().to_vec());
    assert_eq!(dead, wanted);
}

#[test]
fn a_packet_id_is_stored_once_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let two = |number| publish_with(&[A], number, |publish| publish.packet_id = Some(7));
    let release = || Entry::Release { packet_id: 7 };
    let mut lane = bench.lane(OnRefusal::Report);
    let outcomes = bench.outcomes(&mut lane, vec![two(1), two(1), release(), two(2), two(2)]);
    let (accepted, duplicate) = (Outcome::Accepted, Outcome::Duplicate);
    assert_eq!(outcomes, [accepted, duplicate, Outcome::Released, accepted, duplicate]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let mut lane = bench.lane(OnRefusal::Hold);
    assert_eq!(bench.outcomes(&mut lane, vec![two(2)]), [duplicate]);
    let mut other = bench.handle.lane(OnRefusal::Report, Some("other".into()));
    assert_eq!(bench.outcomes(&mut other, vec![two(3)]), [accepted]);
    let mut none = bench.handle.lane(OnRefusal::Report, None);
    assert_eq!(bench.outcomes(&mut none, vec![two(4), two(4), release()]), [accepted, accepted, Outcome::Released]);
    assert_eq!(bench.numbers(A), [1, 2, 3, 4, 4]);
    bench.close();
}

#[test]
fn sessions_are_remembered_with_their_packet_ids_and_forgotten_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let session = SessionRecord {
        client_id: "client".into(),
        expiry_s: u32::MAX,
        state: Bytes::from_static(b"subscriptions"),
        received: Vec::new(),
        limits: QueueLimits::default(),
        will: None,
    };
    bench.wait(bench.handle.save_session(session.clone())).unwrap();
    let mut lane = bench.lane(OnRefusal::Report);
    let entry = |id| publish_with(&[], 1, |publish| publish.packet_id = Some(id));
    bench.outcomes(&mut lane, vec![entry(9), entry(65_535)]);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let wanted = SessionRecord { received: vec![9, 65_535], ..session };
    let found: Vec<_> = bench.wait(bench.handle.sessions()).unwrap().into_iter().map(|found| found.record).collect();
    assert_eq!(found, [wanted]);
    bench.wait(bench.handle.delete_session("client".into())).unwrap();
    assert!(bench.wait(bench.handle.sessions()).unwrap().is_empty());
    let mut lane = bench.lane(OnRefusal::Report);
    assert_eq!(bench.outcomes(&mut lane, vec![entry(9)]), [Outcome::Accepted]);
    bench.close();
}

#[test]
fn a_retained_message_is_replaced_and_deleted_by_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let retained = |number| publish_with(&[], number, |publish| publish.set_retained = true);
    let mut lane = bench.lane(OnRefusal::Report);
    bench.outcomes(&mut lane, vec![retained(1), retained(8), retained(2)]);
    let kept = bench.wait(bench.handle.retained()).unwrap();
    assert_eq!(kept.iter().map(|kept| number_of(&kept.message)).collect::<Vec<_>>(), [8, 2]);
    let empty = publish_with(&[], 1, |publish| {
        publish.set_retained = true;
        publish.message.payload = Bytes::new();
    });
    bench.outcomes(&mut lane, vec![empty]);
    bench.close();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let kept = bench.wait(bench.handle.retained()).unwrap();
    assert_eq!(kept.into_iter().map(|kept| kept.message).collect::<Vec<_>>(), [message(2)]);
    bench.close();
}

#[test]
fn a_stream_that_is_no_longer_configured_keeps_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    bench.store(A, 0..5);
    bench.store(B, 5..10);
    bench.close();
    Bench::open(&settings(dir.path()), &[stream("c")]).close();
    let bench = Bench::open(&settings(dir.path()), &[stream("b"), stream("c"), stream("a")]);
    assert_eq!(bench.numbers(StreamId(0)), (5..10).collect::<Vec<_>>());
    assert!(bench.numbers(StreamId(1)).is_empty());
    assert_eq!(bench.numbers(StreamId(2)), (0..5).collect::<Vec<_>>());
    bench.close();
}

#[test]
fn a_message_for_two_streams_has_two_fates() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    let mut lane = bench.lane(OnRefusal::Report);
    bench.outcomes(&mut lane, vec![publish(&[A, B], 1), publish(&[B], 2)]);
    bench.settle(A, 1, 1, Fate::Forwarded);
    assert_eq!((bench.numbers(A), bench.numbers(B)), (vec![], vec![1, 2]));
    bench.close();
}

#[test]
fn a_closed_store_says_so_to_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let (mut lane, mut returns) = bench.lane(OnRefusal::Report);
    bench.submit(&mut lane, vec![publish(&[A], 1)]);
    let Bench { store, handle, runtime } = bench;
    store.close().unwrap();
    runtime.block_on(async {
        assert_eq!(
            returns.recv().await.unwrap().verdicts[0].1,
            Outcome::Accepted,
            "what was queued is committed first"
        );
        assert!(returns.recv().await.is_none());
        assert!(matches!(lane.reserve(1).await, Err(StoreError::Closed)));
        assert!(matches!(lane.room().await, Err(StoreError::Closed)));
        assert!(matches!(handle.read(A, 0, 1, 1).await, Err(StoreError::Closed)));
        assert!(matches!(handle.flush(DEADLINE).await, Err(StoreError::Closed)));
        assert!(matches!(handle.save_session(session()).await, Err(StoreError::Closed)));
        assert!(matches!(handle.drop_offline(A, 1).await, Err(StoreError::Closed)));
    });
}

fn session() -> SessionRecord {
    SessionRecord {
        client_id: "x".into(),
        expiry_s: 0,
        state: Bytes::new(),
        received: Vec::new(),
        limits: QueueLimits::default(),
        will: None,
    }
}

#[test]
fn a_lane_that_asks_again_has_kept_its_place_in_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a")]);
    let all = QUEUE_BYTES_MAX;
    let mut context = Context::from_waker(Waker::noop());
    let (mut owner, _) = bench.lane(OnRefusal::Report);
    let (mut first, _) = bench.lane(OnRefusal::Report);
    let (mut second, _) = bench.lane(OnRefusal::Hold);
    let permit = bench.wait(owner.reserve(all)).unwrap();
    assert!(pin!(first.reserve(all)).poll(&mut context).is_pending());
    let mut waiting = Box::pin(second.reserve(all));
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    drop(permit);
    assert!(waiting.as_mut().poll(&mut context).is_pending(), "somebody else came first");
    drop(waiting);
    drop(bench.wait(first.reserve(all)).unwrap());
    // Its turn has come, but it waits for room in its stream first, and keeps nobody waiting meanwhile.
    bench.wait(second.room()).unwrap();
    drop(bench.wait(first.reserve(all)).unwrap());
    bench.close();
}
