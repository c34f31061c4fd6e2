//! Tests: what is said when.

use super::*;

fn quiet() -> StreamStats {
    StreamStats {
        name: "telemetry".to_owned(),
        to: Some("cloud".to_owned()),
        configured: true,
        limit_messages: Some(1000),
        ..StreamStats::default()
    }
}

fn cloud(state: UplinkState) -> UplinkStats {
    UplinkStats {
        name: "cloud".to_owned(),
        state,
        since: Duration::ZERO,
        last_error: Some("connection refused".to_owned()),
        in_flight: 0,
        connects: 1,
        url: None,
    }
}

struct Case {
    not_ready: Vec<String>,
    store: StoreStats,
    uplink: (UplinkStats, Option<Duration>),
    books: StreamStats,
    rates: Rates,
    lost_in_hour: u64,
    dead: u64,
    clock_synced: bool,
    left_s: i64,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            not_ready: Vec::new(),
            store: StoreStats::default(),
            uplink: (cloud(UplinkState::Connected), None),
            books: quiet(),
            rates: Rates::default(),
            lost_in_hour: 0,
            dead: 0,
            clock_synced: true,
            left_s: ENDS_SOON_S + 1,
        }
    }
}

/// Level and words of every alarm.
fn judged(case: &Case) -> Vec<(Level, String)> {
    let alarms = judge(&Picture {
        not_ready: &case.not_ready,
        store: &case.store,
        uplinks: std::slice::from_ref(&case.uplink),
        streams: &[Flow { books: &case.books, rates: case.rates, lost_in_hour: case.lost_in_hour }],
        dead: DeadStats { messages: case.dead, ..DeadStats::default() },
        clock_synced: case.clock_synced,
        certificates: &[&Certificate { file: "gw.pem".to_owned(), left_s: case.left_s }],
    });
    assert!(alarms.is_sorted_by_key(|alarm| alarm.level), "{alarms:?}");
    assert!(alarms.iter().all(|alarm| alarm.advice.len() > 20), "every alarm has advice: {alarms:?}");
    alarms.into_iter().map(|alarm| (alarm.level, alarm.what)).collect()
}

#[track_caller]
fn check(case: &Case, level: Level, words: &str) {
    let judged = judged(case);
    assert!(judged.len() == 1 && judged[0].0 == level && judged[0].1.contains(words), "{judged:?}");
}

#[test]
fn all_is_quiet() {
    assert_eq!(judged(&Case::default()), []);
}

#[test]
fn a_store_that_takes_nothing_is_critical() {
    let store = |change: fn(&mut StoreStats)| {
        let mut store = StoreStats { free_bytes: 123_456_789, ..StoreStats::default() };
        change(&mut store);
        Case { store, not_ready: vec!["the store refuses messages".to_owned()], ..Case::default() }
    };
    check(
        &store(|s| s.suspended = Some("no space left".to_owned())),
        Level::Critical,
        "Nothing can be stored: no space",
    );
    check(&store(|s| s.refusing = Some("disk full".to_owned())), Level::Critical, "refused: disk full (118MiB free)");
    check(&store(|s| s.refusing = Some("max_bytes reached".to_owned())), Level::Critical, "`max_bytes`");
    check(&store(|s| s.stalled = Some(Duration::from_secs(7))), Level::Critical, "not answered for 7s");
}

#[test]
fn damage_stays_to_be_seen() {
    let store = StoreStats { salvages: 2, lost_messages: 7, ..StoreStats::default() };
    check(&Case { store, ..Case::default() }, Level::Warning, "salvaged 2 times; 7 stored messages");
    let store = StoreStats { quarantine_bytes: 5 << 20, ..StoreStats::default() };
    check(&Case { store, ..Case::default() }, Level::Notice, "5MiB of databases");
}

#[test]
fn an_uplink_that_is_away_says_since_when_and_why() {
    let away = |seconds| (cloud(UplinkState::Waiting), Some(Duration::from_secs(seconds)));
    let books = StreamStats { backlog_messages: 5, limit_messages: None, ..quiet() };
    let case = Case { uplink: away(3 * 3600 + 65), books, ..Case::default() };
    check(&case, Level::Warning, "The uplink cloud has been away for 3h1m: connection refused.");
    assert_eq!(judged(&Case { uplink: away(2), ..Case::default() }), [], "it is connecting all the time");
    let back = (cloud(UplinkState::Connected), Some(Duration::from_secs(60)));
    assert_eq!(judged(&Case { uplink: back, ..Case::default() }), [], "the sample is older than the state");
}

#[test]
fn a_backlog_is_told_before_it_is_full() {
    let case = |backlog, in_per_s| {
        let books = StreamStats { backlog_messages: backlog, ..quiet() };
        Case { books, rates: Rates { in_per_s, ..Rates::default() }, ..Case::default() }
    };
    assert_eq!(judged(&case(790, 0.0)), []);
    check(&case(800, 0.0), Level::Warning, "takes 80 % of its limit.");
    check(&case(960, 0.0), Level::Critical, "takes 96 % of its limit.");
    check(&case(500, 1.0), Level::Warning, "50 % of its limit; full in about 8m20s");
    check(&case(1000, 1.0), Level::Critical, "takes 100 % of its limit.");
    assert_eq!(judged(&case(100, 50.0)), [], "a burst");
    assert_eq!(judged(&case(500, 0.001)), [], "days");
}

#[test]
fn streams_that_stand_still_or_lose_say_so() {
    check(&Case { lost_in_hour: 12_345, ..Case::default() }, Level::Warning, "lost 12\u{202f}345 messages");
    check(&Case { books: StreamStats { paused: true, ..quiet() }, ..Case::default() }, Level::Notice, "paused");
    let books = StreamStats { configured: false, backlog_messages: 1, limit_messages: None, ..quiet() };
    check(&Case { books, ..Case::default() }, Level::Warning, "1 message of it is still kept");
}

#[test]
fn dead_letters_clock_and_certificates() {
    check(&Case { dead: 1, ..Case::default() }, Level::Warning, "1 message could not");
    check(&Case { clock_synced: false, ..Case::default() }, Level::Warning, "clock");
    check(&Case { left_s: 3600, ..Case::default() }, Level::Warning, "gw.pem ends in 1h");
    check(&Case { left_s: -1, ..Case::default() }, Level::Critical, "gw.pem ended 1s ago");
    check(&Case { not_ready: vec!["stopping".to_owned()], ..Case::default() }, Level::Critical, "not ready: stopping");
}

#[test]
fn numbers_are_grouped() {
    assert_eq!(
        [0, 999, 1000, 10_000, 1_234_567].map(count),
        ["0", "999", "1000", "10\u{202f}000", "1\u{202f}234\u{202f}567"].map(str::to_owned)
    );
}
