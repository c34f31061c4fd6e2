//! From a stored message to what goes upstream: too old?, under which topic?, with which marks? Pure.

use std::{fmt::Write, time::Duration};

use time::OffsetDateTime;

use super::{Route, reasons::TOPIC};
use crate::{
    message::Origin,
    store::{Fate, Stored},
    topic::TopicName,
};

/// A message that can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    /// The topic to send it under.
    pub(super) topic: TopicName,
    /// What is left of its message expiry interval, in seconds; at least 1.
    pub(super) expiry_s: Option<u32>,
}

/// Decides what becomes of a message at the moment of sending.
///
/// `waited`: time since it was read from the store. `sent_before`: it is being sent again under the same id, so the upstream may
/// hold half of it already and it is too late to expire.
pub(super) fn prepare(route: &Route, stored: &Stored, waited: Duration, sent_before: bool) -> Result<Letter, Fate> {
    let age = Duration::from_millis(stored.age_ms) + waited;
    let expiry = stored.message.properties.as_ref().and_then(|properties| properties.message_expiry_s);
    let expiry_left = expiry.map(|expiry| u64::from(expiry).saturating_sub(age.as_secs()));
    let too_old = route.ttl.is_some_and(|ttl| age >= ttl) || expiry_left == Some(0);
    if too_old && !sent_before {
        return Err(Fate::Expired);
    }
    let message = &stored.message;
    let topic = route
        .topic
        .render(&message.topic, &route.from, &message.client)
        .map_err(|error| Fate::Dead { reason: TOPIC, detail: format!("the topic to send it under {error}") })?;
    let expiry_s = expiry_left.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX).max(1));
    Ok(Letter { topic, expiry_s })
}

/// Writes the values of `tg-id` and `tg-time`; keeps its allocations and the last second's text from one message to the next.
#[derive(Debug)]
pub(super) struct Stamp {
    gateway: String,
    id: String,
    time: String,
    /// The second that `time` holds; `None` before the first.
    second: Option<i64>,
}

/// Length of `2026-11-21T10:12:38`.
const SECONDS_LEN: usize = 19;

impl Stamp {
    pub(super) fn new(gateway: &str) -> Self {
        Self { gateway: gateway.to_owned(), id: String::new(), time: String::new(), second: None }
    }

    /// `tg-id` (`<gateway>/<stream>/<sequence>`) and `tg-time` (RFC 3339, UTC, milliseconds) of a message: of an imported one, those
    /// that it had where it was first accepted.
    pub(super) fn write(&mut self, stream: &str, stored: &Stored) -> (&str, &str) {
        self.id.clear();
        let origin = origin(stored);
        // Writing to a String cannot fail.
        let _ = match origin {
            Some(origin) => write!(self.id, "{}/{}", origin.source, origin.sequence),
            None => write!(self.id, "{}/{stream}/{}", self.gateway, stored.seq),
        };
        let accepted_unix_ms = origin.map_or(stored.accepted_unix_ms, |origin| origin.accepted_unix_ms);
        let second = accepted_unix_ms.div_euclid(1000);
        if self.second != Some(second) {
            self.time = seconds_text(second);
            self.second = Some(second);
        }
        self.time.truncate(SECONDS_LEN);
        let _ = write!(self.time, ".{:03}Z", accepted_unix_ms.rem_euclid(1000));
        (&self.id, &self.time)
    }
}

/// Where an imported message was first accepted.
fn origin(stored: &Stored) -> Option<&Origin> {
    stored.message.properties.as_ref()?.origin.as_deref()
}

/// Whether the clock was set where, and when, the message was first accepted.
pub(super) fn clock_synced(stored: &Stored) -> bool {
    origin(stored).map_or(stored.clock_synced, |origin| origin.clock_synced)
}

fn seconds_text(second: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(second).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // RFC 3339 has four digits for the year and no sign.
    let time = if (0..=9999).contains(&time.year()) { time } else { OffsetDateTime::UNIX_EPOCH };
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::{Message, Properties, QoS},
        store::StreamId,
        topic::{TopicFilter, TopicTemplate},
    };
    use bytes::Bytes;

    fn route(from: &str, template: &str, ttl: Option<Duration>) -> Route {
        Route {
            stream: StreamId(0),
            name: "s".to_owned(),
            from: vec![TopicFilter::new(from).unwrap()],
            topic: TopicTemplate::parse(template, "gw").unwrap(),
            priority: 0,
            envelope: crate::forward::Envelope::None,
            ttl,
        }
    }

    fn stored(topic: &str, age_ms: u64, message_expiry_s: Option<u32>) -> Stored {
        let properties = message_expiry_s
            .map(|seconds| Box::new(Properties { message_expiry_s: Some(seconds), ..Properties::default() }));
        Stored {
            seq: 42,
            bytes: 10,
            accepted_unix_ms: 1_795_256_358_007,
            clock_synced: true,
            age_ms,
            message: Message {
                topic: TopicName::new(topic).unwrap(),
                payload: Bytes::from_static(b"x"),
                qos: QoS::AtLeastOnce,
                retain: false,
                client: "c#".into(),
                properties,
            },
        }
    }

    fn check(route: &Route, stored: &Stored, waited_ms: u64) -> Result<Letter, Fate> {
        prepare(route, stored, Duration::from_millis(waited_ms), false)
    }

    #[test]
    fn the_time_to_live_counts_until_the_moment_of_sending() {
        let route = route("#", "{topic}", Some(Duration::from_secs(10)));
        assert!(check(&route, &stored("a", 9_000, None), 999).is_ok());
        assert_eq!(check(&route, &stored("a", 9_000, None), 1_000), Err(Fate::Expired));
    }

    #[test]
    fn the_message_expiry_is_lowered_by_the_time_spent_here() {
        let route = route("#", "{topic}", None);
        assert_eq!(check(&route, &stored("a", 2_500, Some(10)), 1_000).unwrap().expiry_s, Some(7));
        assert_eq!(check(&route, &stored("a", 9_999, Some(10)), 1), Err(Fate::Expired));
        let again = prepare(&route, &stored("a", 99_999, Some(10)), Duration::ZERO, true);
        assert_eq!(again.unwrap().expiry_s, Some(1));
    }

    #[test]
    fn a_topic_that_cannot_be_written_is_dead() {
        let result = check(&route("#", "from/{client}", None), &stored("a", 0, None), 0);
        assert!(matches!(result, Err(Fate::Dead { reason: "topic", .. })), "{result:?}");
    }

    #[test]
    fn a_message_whose_filter_is_gone_is_dead_where_its_topic_would_be_wrong() {
        for template in ["plants/{rest}", "plants/{1}/x"] {
            let result = check(&route("other/+/#", template, None), &stored("a/b", 0, None), 0);
            assert!(matches!(result, Err(Fate::Dead { reason: "topic", .. })), "{result:?}");
        }
        let route = route("other/#", "plants/{topic}", None);
        assert_eq!(check(&route, &stored("a/b", 0, None), 0).unwrap().topic.as_str(), "plants/a/b");
    }

    #[test]
    fn marks_are_as_the_contract_says() {
        let mut stamp = Stamp::new("plant-7");
        let mut message = stored("a", 0, None);
        assert_eq!(stamp.write("telemetry", &message), ("plant-7/telemetry/42", "2026-11-21T10:19:18.007Z"));
        message.accepted_unix_ms += 992;
        message.seq = 43;
        assert_eq!(stamp.write("telemetry", &message), ("plant-7/telemetry/43", "2026-11-21T10:19:18.999Z"));
        message.accepted_unix_ms += 1;
        assert_eq!(stamp.write("x", &message).1, "2026-11-21T10:19:19.000Z");
        let origin = Origin {
            source: "plant-3/alarms".into(),
            sequence: 7,
            accepted_unix_ms: 1_795_256_358_123,
            clock_synced: false,
        };
        let mut imported = message.clone();
        imported.message.properties =
            Some(Box::new(Properties { origin: Some(Box::new(origin)), ..Properties::default() }));
        assert_eq!(stamp.write("x", &imported), ("plant-3/alarms/7", "2026-11-21T10:19:18.123Z"));
        assert!(!clock_synced(&imported) && clock_synced(&message));
        for (unix_ms, text) in [(-1, "1969-12-31T23:59:59.999Z"), (i64::MAX, "1970-01-01T00:00:00.807Z")] {
            message.accepted_unix_ms = unix_ms;
            assert_eq!(stamp.write("x", &message).1, text);
        }
    }
}
