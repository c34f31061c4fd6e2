//! `[[downlink]]`: messages of an upstream that local clients are to get.

use std::time::Duration;

use super::{
    gateway::read_name,
    section::{Section, Text},
    stream::{MIN_TTL, filters, read_uplink},
    uplink::DEFAULT_QOS,
};
use crate::{
    downlink::Settings,
    message::QoS,
    topic::{TopicFilter, TopicTemplate},
    units::MAX_DURATION,
};

pub(super) const KEYS: &[&str] = &["name", "from", "filter", "topic", "qos", "ttl"];

/// Default of a downlink's `ttl`.
pub const DEFAULT_DOWNLINK_TTL: Duration = Duration::from_secs(3600);

/// A downlink, and the texts of its filters for problems that are found later.
pub(super) struct Read {
    pub(super) settings: Settings,
    texts: Vec<(Text, TopicFilter)>,
}

/// Reads one `[[downlink]]`; `uplinks` are the names of all uplinks, in order. `None` where it has no uplink.
pub(super) fn read(section: &Section<'_>, gateway_id: &str, uplinks: &[String]) -> Option<Read> {
    let name = read_name(section);
    if !section.has("from") {
        section.refuse("from", "is missing; expected the name of an uplink");
    }
    let from = read_uplink(section, "from", uplinks);
    let example = "such as [\"plants/plant-7/cmd/#\"]";
    let texts = section.texts("filter", "topic filters");
    if !section.has("filter") || texts.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("filter", format!("expected at least one topic filter, {example}"));
    }
    let texts = texts.unwrap_or_default();
    for text in texts.iter().filter(|text| text.value.starts_with("$share/")) {
        section.refuse_text(
            text,
            "a shared subscription has no place here: each gateway has a session of its own",
            None,
        );
    }
    let texts: Vec<_> = filters(section, &texts)
        .into_iter()
        .zip(&texts)
        .filter_map(|(filter, text)| Some((text.clone(), filter?)))
        .collect();
    let filters: Vec<TopicFilter> = texts.iter().map(|(_, filter)| filter.clone()).collect();
    let topic = read_topic(section, gateway_id, &filters);
    let qos = QoS::from_number(section.integer("qos", DEFAULT_QOS.number(), 0..=2)).unwrap_or(DEFAULT_QOS);
    let ttl = section.duration("ttl", DEFAULT_DOWNLINK_TTL, MIN_TTL..=MAX_DURATION);
    Some(Read { settings: Settings { name, from: from?, filters, topic, qos, ttl }, texts })
}

fn read_topic(section: &Section<'_>, gateway_id: &str, filters: &[TopicFilter]) -> TopicTemplate {
    let Some(text) = section.text("topic", "a topic, with placeholders such as {rest}") else {
        return TopicTemplate::identity();
    };
    if text.value.contains("{client}") {
        section.refuse_text(&text, "{client} has no meaning here: what comes from an upstream has no client", None);
    }
    let read = TopicTemplate::parse(&text.value, gateway_id);
    match read.and_then(|template| template.check_against(filters).map(|()| template)) {
        Ok(template) => template,
        Err(error) => {
            section.refuse_text(&text, error.to_string(), None);
            TopicTemplate::identity()
        }
    }
}

/// Warns of filters of one uplink that match the same: such a message is taken once, by the first - but many upstreams send it once
/// for each subscription.
pub(super) fn overlaps(sections: &[Section<'_>], downlinks: &[Option<Read>]) {
    let mut seen: Vec<(&Settings, &TopicFilter)> = Vec::new();
    for (section, read) in sections.iter().zip(downlinks) {
        let Some(Read { settings, texts }) = read else { continue };
        for (text, filter) in texts {
            let other =
                seen.iter().find(|(it, other)| it.from == settings.from && overlap(other.as_str(), filter.as_str()));
            if let Some((it, other)) = other {
                let why = format!(
                    "overlaps with the filter {other} of the downlink {:?}, which takes what both match; the upstream may send \
                     that twice",
                    it.name
                );
                section.warn_text(text, why);
            }
            seen.push((settings, filter));
        }
    }
}

/// Whether some topic matches both.
fn overlap(one: &str, other: &str) -> bool {
    let is_own = |filter: &str| filter.starts_with('$');
    if is_own(one) != is_own(other)
        && (is_own(one) && other.starts_with(['+', '#']) || is_own(other) && one.starts_with(['+', '#']))
    {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == "+" || b == "+" || a == b => {}
            (Some(_) | None, _) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;
    use proptest::prelude::*;

    #[test]
    fn filters_overlap_where_a_topic_matches_both() {
        let table = [
            ("a/#", "a/b", true),
            ("a/#", "a", true),
            ("a/+/c", "a/b/+", true),
            ("a/+", "a/b/c", false),
            ("a/b", "a/c", false),
            ("#", "$SYS/a", false),
            ("$SYS/#", "$SYS/+", true),
        ];
        for (one, other, expected) in table {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn a_topic_that_matches_both_is_an_overlap(one in "([ab+]/){0,3}[ab+#]", other in "([ab+]/){0,3}[ab+#]", topic in "([ab]/){0,3}[ab]") {
            let (a, b) = (TopicFilter::new(one.as_str()).unwrap(), TopicFilter::new(other.as_str()).unwrap());
            let topic = TopicName::new(topic).unwrap();
            if a.matches(&topic) && b.matches(&topic) {
                prop_assert!(overlap(&one, &other));
            }
        }
    }
}
