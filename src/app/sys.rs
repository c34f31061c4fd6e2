//! What the gateway as a whole adds to `$SYS`: streams, uplinks, store, listeners, process.
//!
//! Any client may read it, so it has figures and states, not the texts of errors: those name hosts and files.

use std::{sync::Weak, time::Duration};

use super::facts::Facts;
use crate::{
    admin::Sources as _,
    broker::SysFacts,
    stats::{StoreStats, StreamStats, UplinkState, UplinkStats},
};

/// For [`Broker::tell_sys`](crate::broker::Broker::tell_sys). The broker is itself among what is told of, hence weak.
pub(super) fn facts(gateway: Weak<Facts>) -> SysFacts {
    Box::new(move || gateway.upgrade().map(|facts| all(&facts)).unwrap_or_default())
}

fn all(facts: &Facts) -> Vec<(String, String)> {
    let mut all = vec![
        ("tidegate/gateway".to_owned(), facts.gateway_id()),
        ("tidegate/ready".to_owned(), yes_no(facts.not_ready().is_empty())),
        ("tidegate/clock/synced".to_owned(), yes_no(facts.clock_synced())),
    ];
    all.extend(resident_bytes().map(|bytes| ("tidegate/process/resident_bytes".to_owned(), bytes.to_string())));
    all.extend(of_store(&facts.store()));
    for listener in facts.listeners() {
        all.push((format!("tidegate/listeners/{}/connections", listener.name), listener.connections.to_string()));
    }
    facts.streams().iter().for_each(|stream| all.extend(of_stream(stream)));
    facts.uplinks().iter().for_each(|uplink| all.extend(of_uplink(uplink)));
    all
}

fn of_store(store: &StoreStats) -> impl Iterator<Item = (String, String)> {
    [
        ("bytes", store.bytes.to_string()),
        ("free_bytes", store.free_bytes.to_string()),
        ("written_bytes", store.written_bytes.to_string()),
        ("last_commit", ago(store.last_commit_ago)),
        ("refusing", yes_no(store.refusing.is_some())),
    ]
    .into_iter()
    .map(|(name, value)| (format!("tidegate/store/{name}"), value))
}

fn of_stream(stream: &StreamStats) -> impl Iterator<Item = (String, String)> {
    let books = [
        ("accepted", stream.accepted),
        ("forwarded", stream.forwarded),
        ("expired", stream.expired),
        ("dropped", stream.dropped_total()),
        ("dead", stream.dead_total()),
        ("purged", stream.purged),
        ("backlog/messages", stream.backlog_messages),
        ("backlog/bytes", stream.backlog_bytes),
        ("backlog/oldest_seconds", stream.oldest_age.unwrap_or_default().as_secs()),
    ];
    let name = stream.name.clone();
    books.into_iter().map(move |(what, number)| (format!("tidegate/streams/{name}/{what}"), number.to_string()))
}

fn of_uplink(uplink: &UplinkStats) -> [(String, String); 4] {
    let name = &uplink.name;
    let own = |what: &str| format!("tidegate/uplinks/{name}/{what}");
    let connected = uplink.state == UplinkState::Connected;
    [
        // Where Mosquitto says it of a bridge.
        (format!("broker/connection/{name}/state"), u8::from(connected).to_string()),
        (own("state"), state(uplink.state).to_owned()),
        (own("in_flight"), uplink.in_flight.to_string()),
        (own("connects"), uplink.connects.to_string()),
    ]
}

const fn state(state: UplinkState) -> &'static str {
    match state {
        UplinkState::Connecting => "connecting",
        UplinkState::Connected => "connected",
        UplinkState::Waiting => "waiting",
        UplinkState::Stopped => "stopped",
    }
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn ago(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{} seconds ago", time.as_secs()))
}

/// Resident memory of this process; `None` where the system does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_how_much_memory_is_resident() {
        let bytes = resident_bytes().unwrap();
        assert!((1 << 20..1 << 33).contains(&bytes), "{bytes}");
    }

    #[test]
    fn streams_and_uplinks_are_told_with_their_names() {
        let stream = StreamStats {
            name: "telemetry".into(),
            dropped: vec![("full".into(), 1), ("offline".into(), 2)],
            oldest_age: Some(Duration::from_millis(1500)),
            ..StreamStats::default()
        };
        let told: Vec<_> = of_stream(&stream).collect();
        let has =
            |name: &str, value: &str| told.contains(&(format!("tidegate/streams/telemetry/{name}"), value.to_owned()));
        assert!(has("dropped", "3") && has("backlog/oldest_seconds", "1"), "{told:?}");
        let uplink = UplinkStats {
            name: "cloud".into(),
            state: UplinkState::Connected,
            since: Duration::ZERO,
            last_error: None,
            in_flight: 4,
            connects: 1,
            url: None,
        };
        let told = of_uplink(&uplink);
        assert_eq!(told[0], ("broker/connection/cloud/state".to_owned(), "1".to_owned()));
        assert_eq!(told[1], ("tidegate/uplinks/cloud/state".to_owned(), "connected".to_owned()));
    }
}
