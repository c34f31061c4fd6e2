//! Retained messages: the last one of each topic, in memory for new subscribers, in the store for the next start.
//!
//! - The store keeps what memory keeps: a message that would exceed the bounds is published and not retained, which is
//!   counted as refused (`retained-full`).
//! - Verdicts of different connections come in any order, so the store numbers what it retains (`revision`), and the higher
//!   number wins here as it did there. A deletion leaves its number behind for [`BURIED`], or a message that it deleted
//!   could come after it.
//! - A message with an expiry interval is forgotten when that has passed, here and in the store; across a restart the
//!   interval is counted from when the message was accepted.
//! - A new subscription is not given a list: a wildcard can match 100 000 messages, and a thousand clients would hold a
//!   thousand such lists. It reads page by page ([`Retained::page`]) as its client takes what it is sent, and is given
//!   what had been retained when it began ([`Retained::clock`]): what comes later it gets as a live message.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    fanout::Publication,
    limits::{BURIED_MAX, RETAINED_BYTES, RETAINED_MESSAGES, RETAINED_PAGE, RETAINED_SCAN},
};
use crate::{
    intake::RetainedMessage,
    message::Message,
    topic::{TopicFilter, TopicName},
};

/// How long a deletion is remembered.
pub(crate) const BURIED: Duration = Duration::from_secs(60);

/// All retained messages.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    kept: Mutex<Kept>,
    /// Rung when something was given a time, for the sweeper.
    pub(super) timed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    by_topic: BTreeMap<TopicName, Item>,
    /// What time will remove.
    expiring: BTreeSet<(Instant, TopicName)>,
    bytes: usize,
    /// Items that remember a deletion.
    buried: usize,
    /// Counts what was entered.
    clock: u64,
}

/// What is known of one topic.
#[derive(Debug)]
struct Item {
    /// `None` where it was deleted.
    publication: Option<Arc<Publication>>,
    revision: u64,
    /// The clock when it was entered.
    entered: u64,
    expires: Option<Instant>,
}

/// Some of the messages that a filter matches.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) found: Vec<Arc<Publication>>,
    /// Messages that were looked at.
    pub(crate) scanned: usize,
    /// The last topic that was looked at; `None` where there are no more.
    pub(crate) last: Option<TopicName>,
}

fn cost(message: &Message) -> usize {
    const FIXED: usize = 256;
    FIXED + message.footprint()
}

fn expiry_s(message: &Message) -> Option<u32> {
    message.properties.as_ref().and_then(|properties| properties.message_expiry_s)
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
                && (kept.by_topic.len() - kept.buried < RETAINED_MESSAGES
                    || kept.by_topic.get(&message.topic).is_some_and(|item| item.publication.is_some())))
    }

    /// Keeps a message, or forgets the one of its topic where the payload is empty (MQTT 5, section 3.3.1.3); nothing
    /// where something newer was there before.
    pub(crate) fn set(&self, message: &Message, revision: u64, now: Instant) {
        let expires = expiry_s(message).map(|seconds| now + seconds_of(seconds));
        let mut kept = self.kept();
        kept.set(message, revision, now, expires);
        if expires.is_some() || message.payload.is_empty() {
            self.timed.notify_one();
        }
    }

    /// Brings back a message that the store remembered.
    pub(crate) fn restore(&self, restored: RetainedMessage, now: Instant) {
        let RetainedMessage { mut message, age_ms, revision } = restored;
        let mut expires = None;
        if let Some(seconds) = message.properties.as_mut().and_then(|properties| properties.message_expiry_s.as_mut()) {
            let left = seconds_of(*seconds).saturating_sub(Duration::from_millis(age_ms));
            expires = Some(now + left);
            *seconds = u32::try_from(left.as_secs()).expect("less than it was").max(1);
        }
        self.kept().set(&message, revision, now, expires);
    }

    /// How many there are, and the bytes of memory that they take, about.
    pub(crate) fn size(&self) -> (u64, u64) {
        let kept = self.kept();
        ((kept.by_topic.len() - kept.buried) as u64, kept.bytes as u64)
    }

    /// The moment before which everything that is retained now was entered.
    pub(crate) fn clock(&self) -> u64 {
        self.kept().clock
    }

    /// Some of the retained messages that a filter matches and that were entered up to `clock`, in the order of their
    /// topics, beyond the topic `after`.
    pub(crate) fn page(&self, filter: &TopicFilter, after: Option<&TopicName>, clock: u64, now: Instant) -> Page {
        let kept = self.kept();
        let due = |item: &Item| {
            let fresh = item.entered <= clock && item.expires.is_none_or(|at| at > now);
            item.publication.clone().filter(|_| fresh)
        };
        let text = filter.as_str();
        let Some(wildcard) = text.find(['+', '#']) else {
            let item = TopicName::new(text).ok().and_then(|topic| kept.by_topic.get(&topic));
            return Page { found: item.and_then(due).into_iter().collect(), scanned: 1, last: None };
        };
        // All topics that match begin with what stands before the first wildcard, less the slash: `a/#` matches `a`.
        let prefix = text[..wildcard].trim_end_matches('/');
        let from = after.cloned().map(Bound::Excluded);
        let from = from.unwrap_or_else(|| TopicName::new(prefix).map_or(Bound::Unbounded, Bound::Included));
        let mut page = Page::default();
        for (topic, item) in kept.by_topic.range((from, Bound::Unbounded)) {
            if !topic.as_str().starts_with(prefix) {
                break;
            }
            if page.scanned >= RETAINED_SCAN || page.found.len() >= RETAINED_PAGE {
                return page;
            }
            page.scanned += 1;
            page.last = Some(topic.clone());
            if filter.matches(topic) {
                page.found.extend(due(item));
            }
        }
        page.last = None;
        page
    }

    /// When the first is due to be forgotten.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.kept().expiring.first().map(|(at, _)| *at)
    }

    /// Forgets up to `most` messages whose time is over, and gives topics and revisions for the store to forget.
    pub(crate) fn take_expired(&self, now: Instant, most: usize) -> Vec<(TopicName, u64)> {
        let mut kept = self.kept();
        let mut expired = Vec::new();
        while expired.len() < most
            && let Some((at, _)) = kept.expiring.first()
            && *at <= now
            && let Some((_, topic)) = kept.expiring.pop_first()
        {
            if let Some(item) = kept.remove(&topic)
                && item.publication.is_some()
            {
                expired.push((topic, item.revision));
            }
        }
        expired
    }
}

impl Kept {
    fn set(&mut self, message: &Message, revision: u64, now: Instant, expires: Option<Instant>) {
        if self.by_topic.get(&message.topic).is_some_and(|item| item.revision > revision) {
            return;
        }
        self.remove(&message.topic);
        self.clock += 1;
        let mut item = Item { publication: None, revision, entered: self.clock, expires };
        if message.payload.is_empty() {
            if self.buried >= BURIED_MAX {
                return;
            }
            self.buried += 1;
            item.expires = Some(now + BURIED);
        } else {
            self.bytes += cost(message);
            // Copied: a payload that is kept must not keep the read buffer that it came in.
            let message = Message { payload: Bytes::copy_from_slice(&message.payload), ..message.clone() };
            item.publication = Some(Arc::new(Publication::new(message, now)));
        }
        self.expiring.extend(item.expires.map(|at| (at, message.topic.clone())));
        self.by_topic.insert(message.topic.clone(), item);
    }

    fn remove(&mut self, topic: &TopicName) -> Option<Item> {
        let item = self.by_topic.remove(topic)?;
        match &item.publication {
            Some(publication) => self.bytes -= cost(&publication.message),
            None => self.buried -= 1,
        }
        if let Some(at) = item.expires {
            self.expiring.remove(&(at, topic.clone()));
        }
        Some(item)
    }
}

fn seconds_of(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Properties, QoS};

    fn message(topic: &str, payload: impl Into<Bytes>) -> Message {
        Message {
            topic: TopicName::new(topic).unwrap(),
            payload: payload.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            client: "c".into(),
            properties: None,
        }
    }

    fn expiring(topic: &str, seconds: u32) -> Message {
        let properties = Properties { message_expiry_s: Some(seconds), ..Properties::default() };
        Message { properties: Some(Box::new(properties)), ..message(topic, "x") }
    }

    fn all(retained: &Retained, filter: &str, clock: u64, now: Instant) -> Vec<String> {
        let filter = TopicFilter::new(filter).unwrap();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = retained.page(&filter, after.as_ref(), clock, now);
            assert!(page.scanned <= RETAINED_SCAN && page.found.len() <= RETAINED_PAGE);
            found.extend(page.found.iter().map(|p| format!("{:?}", p.message.payload)));
            after = page.last;
            if after.is_none() {
                return found;
            }
        }
    }

    #[test]
    fn the_last_message_of_a_topic_is_kept_until_an_empty_one_comes() {
        let retained = Retained::default();
        let now = Instant::now();
        let found = |filter: &str| all(&retained, filter, u64::MAX, now);
        let topics = [("a", "0"), ("a/b", "1"), ("a/b", "2"), ("a/c", "3"), ("ab", "4"), ("$S/x", "5")];
        for ((topic, payload), revision) in topics.into_iter().zip(1..) {
            retained.set(&message(topic, payload), revision, now);
        }
        assert_eq!(found("a/b"), [r#"b"2""#]);
        assert_eq!(found("a/#"), [r#"b"0""#, r#"b"2""#, r#"b"3""#]);
        assert_eq!(found("a/+"), [r#"b"2""#, r#"b"3""#]);
        assert_eq!(found("+").len(), 2);
        assert_eq!(found("#").len(), 4);
        assert_eq!(found("$S/#").len(), 1);
        let user = vec![("k".into(), "v".into()); 256];
        let heavy =
            Message { properties: Some(Box::new(Properties { user, ..Default::default() })), ..message("a", "0") };
        let before = retained.kept().bytes;
        retained.set(&heavy, 7, now);
        assert!(retained.kept().bytes > before + 256 * 64, "properties take memory too");
        for topic in ["a", "a/b", "a/c", "ab", "$S/x"] {
            retained.set(&message(topic, ""), 8, now);
        }
        assert_eq!((found("#").len(), retained.kept().bytes), (0, 0));
        assert!(retained.take_expired(now + BURIED, 9).is_empty(), "the store has forgotten them itself");
        let kept = retained.kept();
        assert_eq!((kept.by_topic.len(), kept.expiring.len(), kept.buried), (0, 0, 0));
    }

    #[test]
    fn the_higher_revision_wins_in_whatever_order_they_come() {
        let retained = Retained::default();
        let now = Instant::now();
        for (payload, revision) in [("second", 2), ("first", 1)] {
            retained.set(&message("t", payload), revision, now);
        }
        assert_eq!(all(&retained, "t", u64::MAX, now), [r#"b"second""#]);
        for (payload, revision) in [("", 4), ("third", 3)] {
            retained.set(&message("t", payload), revision, now);
        }
        assert!(all(&retained, "t", u64::MAX, now).is_empty());
        retained.set(&message("t", "fifth"), 5, now);
        assert_eq!(all(&retained, "t", u64::MAX, now), [r#"b"fifth""#]);
    }

    #[test]
    fn a_subscription_is_given_page_by_page_what_was_there_when_it_began() {
        let retained = Retained::default();
        let now = Instant::now();
        let many = 3 * RETAINED_SCAN / 2;
        for number in 0..many {
            let topic = if number % 5 == 0 { format!("n/{number:05}/x") } else { format!("n/{number:05}/y") };
            retained.set(&message(&topic, "1"), 1, now);
        }
        let clock = retained.clock();
        retained.set(&message("n/00000/x", "later"), 2, now);
        retained.set(&message("n/99999/x", "later"), 2, now);
        assert_eq!(all(&retained, "n/+/x", clock, now).len(), many.div_ceil(5) - 1);
        assert_eq!(all(&retained, "n/#", u64::MAX, now).len(), many + 1);
    }

    #[test]
    fn what_expires_is_forgotten_with_the_revision_that_the_store_knows() {
        let retained = Retained::default();
        let start = Instant::now();
        let seconds = |seconds: u32| start + seconds_of(seconds);
        retained.set(&expiring("a", 10), 1, start);
        retained.set(&expiring("b", 10), 2, start);
        retained.set(&message("b", "for ever"), 3, start);
        let restored = RetainedMessage { message: expiring("c", 10), age_ms: 4_500, revision: 4 };
        retained.restore(restored, start);
        assert_eq!(all(&retained, "#", u64::MAX, seconds(5)).len(), 3);
        assert_eq!(all(&retained, "#", u64::MAX, seconds(6)).len(), 2, "counted from when it was accepted");
        assert_eq!(retained.take_expired(seconds(9), 9), [(TopicName::new("c").unwrap(), 4)]);
        assert_eq!(retained.take_expired(seconds(10), 9), [(TopicName::new("a").unwrap(), 1)]);
        assert!(retained.take_expired(seconds(99), 9).is_empty());
        assert_eq!(all(&retained, "#", u64::MAX, seconds(99)), [r#"b"for ever""#]);
    }
}
