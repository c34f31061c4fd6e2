//! Sessions: ids, away times, wills.

use super::*;

fn will(number: u64) -> SessionWill {
    SessionWill { message: Message { retain: true, ..message(number) }, delay_s: 30 }
}

#[test]
fn a_session_keeps_its_id_until_it_ends_and_nobody_gets_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    let y = bench.save("y", UNLIMITED);
    assert_eq!(bench.save("x", at_most(7, WhenFull::DropNewest)), x);
    bench.wait(bench.handle.delete_session("y".into())).unwrap();
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let found = bench.restored();
    assert_eq!((found.len(), found[0].id, &found[0].record), (1, x, &record("x", at_most(7, WhenFull::DropNewest))));
    let again = bench.save("y", UNLIMITED);
    assert!(again != y && again != x);
    bench.close();
}

#[test]
fn ids_begin_anew_after_the_last_one_and_pass_over_those_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.save("x", UNLIMITED), SessionId(1));
    bench.close();
    let last = crate::store::queue::SESSION_END - 1;
    let changing = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
    changing.execute("UPDATE ledger SET next_session = ?1", [last]).unwrap();
    drop(changing);
    let bench = Bench::open(&settings(dir.path()), &[]);
    let ids = ["a", "b", "c"].map(|client| bench.save(client, UNLIMITED));
    assert_eq!(ids, [SessionId(last), SessionId(2), SessionId(3)]);
    bench.queue(ids[0], 1..=3);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.queued(ids[0], 2).len(), 3);
    bench.close();
}

#[test]
fn how_long_a_client_is_away_is_known_after_a_restart_and_not_after_a_crash_while_it_was_connected() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let (x, y) = (bench.save("x", UNLIMITED), bench.save("y", UNLIMITED));
    bench.queue(x, 1..=5);
    bench.wait(bench.handle.session_left(x, 3)).unwrap();
    bench.flush();
    let away = |bench: &Bench| bench.restored().into_iter().find(|found| found.id == x).unwrap().away_ms.unwrap();
    let early = away(&bench);
    bench.wait(async {
        while away_now(&bench.handle, x).await <= early + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let found = bench.restored();
    assert!(found[0].away_ms.is_some_and(|away_ms| (early + 20..60_000).contains(&away_ms)), "{found:?}");
    assert_eq!((found[0].head, found[0].next, found[0].sent), (1, 6, Some(3)));
    assert_eq!((found[1].id, found[1].away_ms, found[1].sent), (y, None, None));
    // It comes back: connected when the gateway ends.
    bench.save("x", UNLIMITED);
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!((bench.restored()[0].away_ms, bench.restored()[0].sent), (None, None));
    bench.close();
}

async fn away_now(handle: &Handle, id: SessionId) -> u64 {
    handle
        .sessions()
        .await
        .unwrap()
        .into_iter()
        .find(|found| found.id == id)
        .and_then(|found| found.away_ms)
        .unwrap_or(0)
}

#[test]
fn leaving_is_written_within_a_second_or_so_without_other_commits() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.wait(async {
        bench.handle.session_left(x, 0).await.unwrap();
        while bench.handle.sessions().await.unwrap()[0].away_ms.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert!(bench.restored()[0].away_ms.is_some());
    bench.close();
}

#[test]
fn coming_back_at_once_is_coming_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let x = bench.save("x", UNLIMITED);
    bench.wait(bench.handle.session_left(x, 0)).unwrap();
    bench.save("x", UNLIMITED);
    bench.flush();
    assert_eq!(bench.restored()[0].away_ms, None);
    bench.close();
}

#[test]
fn a_will_survives_a_crash_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let with = SessionRecord { will: Some(will(9)), ..record("x", UNLIMITED) };
    let x = bench.wait(bench.handle.save_session(with.clone())).unwrap();
    bench.wait(bench.handle.session_left(x, 0)).unwrap();
    bench.flush();
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.restored()[0].record, with);
    bench.wait(bench.handle.forget_will(x)).unwrap();
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let found = &bench.restored()[0];
    assert_eq!(found.record, record("x", UNLIMITED));
    assert!(found.away_ms.is_some(), "it is still away");
    bench.close();
}

#[test]
fn what_was_only_appended_is_counted_when_opening() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[]);
    let ids: Vec<SessionId> = bench.wait(async {
        let mut ids = Vec::new();
        for number in 0..1000 {
            ids.push(bench.handle.save_session(record(&format!("c{number}"), UNLIMITED)).await.unwrap());
        }
        ids
    });
    for number in 0..10 {
        assert_eq!(bench.copied(vec![for_sessions(&ids, number)])[0].1, vec![Some(number + 1); 1000]);
    }
    bench.store.abandon();
    let bench = Bench::open(&settings(dir.path()), &[]);
    assert_eq!(bench.handle.queues().messages, 10_000);
    assert_eq!(bench.queue_stats(ids[999]).bytes, 10 * MESSAGE_BYTES);
    bench.close();
}
