//! Space that goes back to the file system.

use super::*;

#[test]
fn space_is_given_back_also_where_it_is_never_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(&settings(dir.path()), &[stream("a"), stream("b")]);
    let mut lane = bench.lane(OnRefusal::Report);
    let large = |number| publish_with(&[A], number, |publish| publish.message.payload = Bytes::from(vec![7; 1 << 18]));
    for _ in 0..24 {
        let entries = (0..4).map(large).collect();
        assert_eq!(bench.outcomes(&mut lane, entries), [Outcome::Accepted; 4]);
    }
    let bytes = || std::fs::metadata(dir.path().join("tidegate.db")).unwrap().len();
    bench.settle(A, 1, 96, Fate::Forwarded);
    let began = std::time::Instant::now();
    // One message after the other on another stream: never 20 ms without one.
    while bytes() > 20 << 20 {
        bench.store(B, 0..1);
        assert!(began.elapsed() < DEADLINE, "{} MiB", bytes() >> 20);
    }
    bench.close();
}
