//! Retained messages: the last one of each topic, in memory for new subscribers, in the store for the next start.
//!
//! The store keeps what memory keeps: a message that would exceed the bounds is published and not retained, which is
//! counted as refused (`retained-full`).

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;

use super::{
    fanout::Publication,
    limits::{RETAINED_BYTES, RETAINED_MESSAGES},
};
use crate::{
    message::Message,
    topic::{TopicFilter, TopicName},
};

/// All retained messages.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_topic: BTreeMap<TopicName, Arc<Publication>>,
    bytes: usize,
}

fn cost(message: &Message) -> usize {
    const FIXED: usize = 256;
    FIXED + message.footprint()
}

impl Retained {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the message may become the retained one of its topic.
    pub(crate) fn has_room(&self, message: &Message) -> bool {
        let kept = self.kept();
        message.payload.is_empty()
            || (kept.bytes + cost(message) <= RETAINED_BYTES
                && (kept.by_topic.len() < RETAINED_MESSAGES || kept.by_topic.contains_key(&message.topic)))
    }

    /// Keeps a message, or forgets the one of its topic where the payload is empty (MQTT 5, section 3.3.1.3).
    pub(crate) fn set(&self, message: &Message, now: Instant) {
        let mut kept = self.kept();
        let old = if message.payload.is_empty() {
            kept.by_topic.remove(&message.topic)
        } else {
            kept.bytes += cost(message);
            // Copied: a payload that is kept must not keep the read buffer that it came in.
            let message = Message { payload: Bytes::copy_from_slice(&message.payload), ..message.clone() };
            let publication = Arc::new(Publication { message, at: now });
            kept.by_topic.insert(publication.message.topic.clone(), publication)
        };
        if let Some(old) = old {
            kept.bytes -= cost(&old.message);
        }
    }

    /// How many there are, and the bytes of memory that they take, about.
    pub(crate) fn size(&self) -> (u64, u64) {
        let kept = self.kept();
        (kept.by_topic.len() as u64, kept.bytes as u64)
    }

    /// The retained messages that a filter matches, in the order of their topics.
    pub(crate) fn matching(&self, filter: &TopicFilter) -> Vec<Arc<Publication>> {
        let kept = self.kept();
        let text = filter.as_str();
        let Some(wildcard) = text.find(['+', '#']) else {
            let topic = TopicName::new(text).ok();
            return topic.and_then(|topic| kept.by_topic.get(&topic).cloned()).into_iter().collect();
        };
        // All topics that match begin with what stands before the first wildcard, less the slash: `a/#` matches `a`.
        let prefix = text[..wildcard].trim_end_matches('/');
        let from = TopicName::new(prefix).map_or(Bound::Unbounded, Bound::Included);
        kept.by_topic
            .range((from, Bound::Unbounded))
            .take_while(|(topic, _)| topic.as_str().starts_with(prefix))
            .filter(|(topic, _)| filter.matches(topic))
            .map(|(_, publication)| Arc::clone(publication))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QoS;

    #[test]
    fn the_last_message_of_a_topic_is_kept_until_an_empty_one_comes() {
        let retained = Retained::default();
        let message = |topic: &str, payload: &'static str| Message {
            topic: TopicName::new(topic).unwrap(),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            client: "c".into(),
            properties: None,
        };
        let found = |filter: &str| -> Vec<String> {
            let filter = TopicFilter::new(filter).unwrap();
            retained.matching(&filter).iter().map(|p| format!("{:?}", p.message.payload)).collect()
        };
        for (topic, payload) in [("a", "0"), ("a/b", "1"), ("a/b", "2"), ("a/c", "3"), ("ab", "4"), ("$S/x", "5")] {
            retained.set(&message(topic, payload), Instant::now());
        }
        assert_eq!(found("a/b"), [r#"b"2""#]);
        assert_eq!(found("a/#"), [r#"b"0""#, r#"b"2""#, r#"b"3""#]);
        assert_eq!(found("a/+"), [r#"b"2""#, r#"b"3""#]);
        assert_eq!(found("+").len(), 2);
        assert_eq!(found("#").len(), 4);
        assert_eq!(found("$S/#").len(), 1);
        let user = vec![("k".into(), "v".into()); 256];
        let heavy = Message {
            properties: Some(Box::new(crate::message::Properties { user, ..Default::default() })),
            ..message("a", "0")
        };
        let before = retained.kept().bytes;
        retained.set(&heavy, Instant::now());
        assert!(retained.kept().bytes > before + 256 * 64, "properties take memory too");
        for topic in ["a", "a/b", "a/c", "ab", "$S/x"] {
            retained.set(&message(topic, ""), Instant::now());
        }
        assert_eq!((found("#").len(), retained.kept().bytes), (0, 0));
    }
}
