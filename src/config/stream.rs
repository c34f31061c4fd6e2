//! `[[stream]]`: what is kept, where it goes, and its limits.

use std::time::Duration;

use super::{
    gateway::read_name,
    nearest::nearest,
    section::{Section, Text},
};
use crate::{
    forward::{Envelope, Route},
    store::{StreamId, StreamSettings, WhenFull},
    topic::{TopicFilter, TopicTemplate},
    units::MAX_DURATION,
};

pub(super) const KEYS: &[&str] = &[
    "name",
    "from",
    "except",
    "to",
    "topic",
    "priority",
    "ttl",
    "max_messages",
    "max_bytes",
    "when_full",
    "qos0",
    "retain_sent",
    "envelope",
];

/// Default of `topic`.
pub const DEFAULT_TOPIC: &str = "{topic}";
/// Default of `priority`.
pub const DEFAULT_PRIORITY: i8 = 0;
/// Default of `max_messages`: no limit.
pub const DEFAULT_MAX_MESSAGES: u64 = 0;
/// Default of a stream's `max_bytes`: 1 GiB.
pub const DEFAULT_STREAM_MAX_BYTES: u64 = 1 << 30;
/// Default of `when_full`.
pub const DEFAULT_WHEN_FULL: WhenFull = WhenFull::Reject;
/// What may happen when something is full.
pub(super) const WHEN_FULL: &[(&str, WhenFull)] =
    &[("reject", WhenFull::Reject), ("drop-oldest", WhenFull::DropOldest), ("drop-newest", WhenFull::DropNewest)];
/// Default of `qos0`.
pub const DEFAULT_QOS0: Qos0 = Qos0::Store;

/// Default of `envelope`.
pub const DEFAULT_ENVELOPE: Envelope = Envelope::None;
/// How payloads may be wrapped.
pub(super) const ENVELOPES: &[(&str, Envelope)] = &[("none", Envelope::None), ("json", Envelope::Json)];

/// Shortest `ttl`: below it a message could be gone before its commit.
pub(super) const MIN_TTL: Duration = Duration::from_secs(1);

/// One stream, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Its name, `[A-Za-z0-9_.-]{1,64}`.
    pub name: String,
    /// It takes a message when one of these matches ...
    pub from: Vec<TopicFilter>,
    /// ... and none of these does.
    pub except: Vec<TopicFilter>,
    /// Index of its uplink in [`Config::uplinks`](super::Config::uplinks); `None`: kept locally only.
    pub to: Option<usize>,
    /// The topic to send under.
    pub topic: TopicTemplate,
    /// -100..=100; higher goes first on the same uplink.
    pub priority: i8,
    /// Time to live.
    pub ttl: Option<Duration>,
    /// Most messages in the backlog; `None` = no limit.
    pub max_messages: Option<u64>,
    /// Most bytes in the backlog; `None` = no limit.
    pub max_bytes: Option<u64>,
    /// What happens to a message that does not fit.
    pub when_full: WhenFull,
    /// What happens to QoS 0 input.
    pub qos0: Qos0,
    /// How payloads are wrapped on their way upstream.
    pub envelope: Envelope,
    /// How long forwarded messages are kept for replay; zero = not at all.
    pub retain_sent: Duration,
}

/// What a stream does with messages published at QoS 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos0 {
    /// Stores them like all others.
    Store,
    /// Takes them only while its uplink is connected.
    LiveOnly,
}

impl Stream {
    /// What the store enforces of it.
    pub fn store_settings(&self) -> StreamSettings {
        StreamSettings {
            name: self.name.clone(),
            ttl: self.ttl,
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            when_full: self.when_full,
            retain_sent: self.retain_sent,
        }
    }

    /// What forwarding needs of it; `id` is its place in the list given to the store.
    pub fn route(&self, id: StreamId) -> Route {
        Route {
            stream: id,
            name: self.name.clone(),
            from: self.from.clone(),
            topic: self.topic.clone(),
            priority: self.priority,
            envelope: self.envelope,
            ttl: self.ttl,
        }
    }
}

/// Reads one `[[stream]]`; `uplinks` are the names of all uplinks, in order.
pub(super) fn read(section: &Section<'_>, gateway_id: &str, uplinks: &[String]) -> Stream {
    let name = read_name(section);
    let from_texts = section.texts("from", "topic filters");
    if !section.has("from") {
        section.refuse("from", "is missing; expected topic filters such as [\"sensors/#\"]");
    } else if from_texts.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("from", "expected at least one topic filter such as \"sensors/#\"");
    }
    let from_texts = from_texts.unwrap_or_default();
    let (from, except) = (
        filters(section, &from_texts),
        filters(section, &section.texts("except", "topic filters").unwrap_or_default()),
    );
    for (text, filter) in from_texts.iter().zip(&from).filter_map(|(text, filter)| Some((text, filter.as_ref()?))) {
        warn_of_dead_filter(section, text, filter, &except);
    }
    let to = read_uplink(section, "to", uplinks);
    let topic = read_topic(section, gateway_id, &from);
    let qos0 = section.choice("qos0", DEFAULT_QOS0, &[("store", Qos0::Store), ("live-only", Qos0::LiveOnly)]);
    if qos0 == Qos0::LiveOnly && !section.has("to") {
        section.refuse("qos0", "needs a `to`: without an uplink nothing is ever live");
    }
    let retain_sent = section.duration("retain_sent", Duration::ZERO, Duration::ZERO..=MAX_DURATION);
    if !retain_sent.is_zero() && !section.has("to") {
        section.warn("retain_sent", "has no effect without a `to`: nothing is ever sent");
    }
    let limit = |number: u64| (number > 0).then_some(number);
    Stream {
        name,
        from: from.into_iter().flatten().collect(),
        except: except.into_iter().flatten().collect(),
        to,
        topic,
        priority: section.integer("priority", DEFAULT_PRIORITY, -100..=100),
        ttl: section.has("ttl").then(|| section.duration("ttl", MAX_DURATION, MIN_TTL..=MAX_DURATION)),
        max_messages: limit(section.integer("max_messages", DEFAULT_MAX_MESSAGES, 0..=i64::MAX)),
        max_bytes: limit(section.size("max_bytes", DEFAULT_STREAM_MAX_BYTES, 0..=i64::MAX.unsigned_abs())),
        when_full: section.choice("when_full", DEFAULT_WHEN_FULL, WHEN_FULL),
        qos0,
        envelope: read_envelope(section),
        retain_sent,
    }
}

fn read_envelope(section: &Section<'_>) -> Envelope {
    let envelope = section.choice("envelope", DEFAULT_ENVELOPE, ENVELOPES);
    if envelope == Envelope::Json && !section.has("to") {
        section.warn("envelope", "has no effect without a `to`");
    }
    envelope
}

/// One filter for each text, `None` for a wrong one.
pub(super) fn filters(section: &Section<'_>, texts: &[Text]) -> Vec<Option<TopicFilter>> {
    let read = |text: &Text| match TopicFilter::new(text.value.as_str()) {
        Ok(filter) => Some(filter),
        Err(error) => {
            section.refuse_text(text, error.to_string(), None);
            None
        }
    };
    texts.iter().map(read).collect()
}

fn warn_of_dead_filter(section: &Section<'_>, text: &Text, filter: &TopicFilter, except: &[Option<TopicFilter>]) {
    let filter = filter.as_str();
    if let Some(cover) = except.iter().flatten().find(|except| covers(except.as_str(), filter)) {
        section.warn_text(text, format!("takes nothing: `except` has {:?}, which matches all of it", cover.as_str()));
    } else if filter.starts_with("$share/") {
        section.warn_text(text, "takes nothing: shared subscriptions are for clients, a stream has the bare filter");
    }
}

/// Whether `wide` matches every topic that `narrow` matches.
fn covers(wide: &str, narrow: &str) -> bool {
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let (mut wide, mut narrow) = (wide.split('/'), narrow.split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(same), Some(level)) if same == level => {}
            _ => return false,
        }
    }
}

/// The place of the uplink that this key names.
pub(super) fn read_uplink(section: &Section<'_>, key: &str, uplinks: &[String]) -> Option<usize> {
    let text = section.text(key, "the name of an uplink")?;
    let found = uplinks.iter().position(|name| *name == text.value);
    if found.is_none() {
        let near =
            nearest(&text.value, uplinks.iter().map(String::as_str)).map(|near| format!("did you mean {near:?}?"));
        let known = || (!uplinks.is_empty()).then(|| format!("there are {}", uplinks.join(", ")));
        section.refuse_text(&text, "there is no uplink of this name", near.or_else(known));
    }
    found
}

fn read_topic(section: &Section<'_>, gateway_id: &str, from: &[Option<TopicFilter>]) -> TopicTemplate {
    let Some(text) = section.text("topic", "a topic, with placeholders such as {topic}") else {
        return TopicTemplate::identity();
    };
    if !section.has("to") {
        section.warn("topic", "has no effect without a `to`");
    }
    match TopicTemplate::parse(&text.value, gateway_id) {
        Ok(template) => {
            let filters: Vec<TopicFilter> = from.iter().flatten().cloned().collect();
            if let Err(error) = template.check_against(&filters) {
                section.refuse_text(&text, error.to_string(), None);
            }
            template
        }
        Err(error) => {
            section.refuse_text(&text, error.to_string(), None);
            TopicTemplate::identity()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;
    use crate::topic::{TopicFilter, TopicName};
    use proptest::prelude::*;

    #[test]
    fn a_filter_covers_what_it_matches_all_of() {
        let table = [
            ("#", "a/b", true),
            ("#", "$SYS/a", false),
            ("a/#", "a", true),
            ("a/#", "a/+/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a/#", false),
            ("a/b", "a/+", false),
            ("a/+/b", "a/x", false),
        ];
        for (wide, narrow, expected) in table {
            assert_eq!(covers(wide, narrow), expected, "{wide} over {narrow}");
        }
    }

    proptest! {
        #[test]
        fn what_is_covered_is_matched(wide in "([ab+]/){0,3}[ab+#]", narrow in "([ab+]/){0,3}[ab+#]", topic in "([ab]/){0,3}[ab]") {
            let (w, n) = (TopicFilter::new(wide.as_str()).unwrap(), TopicFilter::new(narrow.as_str()).unwrap());
            let topic = TopicName::new(topic).unwrap();
            if covers(&wide, &narrow) && n.matches(&topic) {
                prop_assert!(w.matches(&topic));
            }
        }
    }
}
