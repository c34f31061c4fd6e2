//! Topic aliases towards one client (MQTT 5, section 3.3.2.3.4). Pure.
//!
//! A message whose topic has an alias goes out without the topic: 5 bytes instead of a long name, message after message,
//! which is money on a metered link. An alias costs 3 bytes when it is given, so it must come to use:
//!
//! - A topic of [`SHORT`] bytes or fewer gets none: there is nothing to save.
//! - While there are free aliases, the first message of a topic gets one.
//! - Then a topic takes the alias that was not used for longest, but only when it was seen twice within the last messages
//!   without one. So more topics than aliases, taken in turns, do not throw each other out again and again at 3 bytes each.
//!
//! Bounds: aliases up to the client's Topic Alias Maximum and [`TOPIC_ALIAS_MAX`], their topics [`TOPIC_ALIAS_BYTES`], and as
//! many hashes of topics without an alias. All of it ends with the connection.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};

use crate::{
    broker::{
        limits::{TOPIC_ALIAS_BYTES, TOPIC_ALIAS_MAX},
        packet::Alias,
    },
    topic::TopicName,
};

/// Longest topic that gets no alias: without its topic a message has 3 bytes more of properties.
const SHORT: usize = 3;

/// The aliases of one client.
#[derive(Debug)]
pub(super) struct Aliases {
    max: u16,
    given: HashMap<TopicName, Given>,
    /// Counts what was sent, as the clock of `used`.
    now: u64,
    bytes: usize,
    /// Hashes of the last topics that were sent without an alias, oldest first.
    without: VecDeque<u64>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Given {
    alias: u16,
    used: u64,
}

/// How one message says its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// By name alone.
    Name,
    /// By name, and this alias is to stand for it from now on.
    Both(u16),
    /// By an alias that the client knows.
    Alias(u16),
}

impl Choice {
    /// What goes into the PUBLISH.
    pub(super) fn alias(self) -> Option<Alias> {
        match self {
            Self::Name => None,
            Self::Both(number) => Some(Alias { number, known: false }),
            Self::Alias(number) => Some(Alias { number, known: true }),
        }
    }
}

impl Aliases {
    /// For a client with this Topic Alias Maximum; `None` where it takes none.
    pub(super) fn new(client_max: u16) -> Option<Box<Self>> {
        let max = client_max.min(TOPIC_ALIAS_MAX);
        (max > 0).then(|| {
            let hasher = RandomState::new();
            Box::new(Self { max, given: HashMap::new(), now: 0, bytes: 0, without: VecDeque::new(), hasher })
        })
    }

    /// How the next message should say its topic. Nothing changes before [`Aliases::sent`].
    pub(super) fn choose(&self, topic: &TopicName) -> Choice {
        if let Some(given) = self.given.get(topic) {
            return Choice::Alias(given.alias);
        }
        let len = topic.as_str().len();
        if len <= SHORT {
            return Choice::Name;
        }
        if self.given.len() < usize::from(self.max) {
            let fits = self.bytes + len <= TOPIC_ALIAS_BYTES;
            let free = u16::try_from(self.given.len() + 1).expect("there are at most `max`");
            return if fits { Choice::Both(free) } else { Choice::Name };
        }
        if !self.without.contains(&self.hasher.hash_one(topic)) {
            return Choice::Name;
        }
        match self.longest_unused() {
            Some((old, given)) if self.bytes - old.as_str().len() + len <= TOPIC_ALIAS_BYTES => {
                Choice::Both(given.alias)
            }
            _ => Choice::Name,
        }
    }

    /// The message was sent with its topic said like this.
    pub(super) fn sent(&mut self, topic: &TopicName, choice: Choice) {
        self.now += 1;
        let used = self.now;
        match choice {
            Choice::Name if topic.as_str().len() <= SHORT => {}
            Choice::Name => {
                if self.without.len() >= usize::from(self.max) {
                    self.without.pop_front();
                }
                self.without.push_back(self.hasher.hash_one(topic));
            }
            Choice::Both(alias) => {
                let before = self.given.iter().find(|(_, given)| given.alias == alias);
                if let Some(old) = before.map(|(old, _)| old.clone()) {
                    self.bytes -= old.as_str().len();
                    self.given.remove(&old);
                }
                self.bytes += topic.as_str().len();
                self.given.insert(topic.clone(), Given { alias, used });
            }
            Choice::Alias(_) => {
                if let Some(given) = self.given.get_mut(topic) {
                    given.used = used;
                }
            }
        }
    }

    fn longest_unused(&self) -> Option<(&TopicName, &Given)> {
        self.given.iter().min_by_key(|(_, given)| given.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn send(aliases: &mut Aliases, name: &str) -> Choice {
        let choice = aliases.choose(&topic(name));
        aliases.sent(&topic(name), choice);
        choice
    }

    #[test]
    fn a_client_that_takes_none_has_none_and_short_topics_need_none() {
        assert!(Aliases::new(0).is_none());
        let mut aliases = Aliases::new(9).unwrap();
        assert_eq!((send(&mut aliases, "abc"), send(&mut aliases, "abc")), (Choice::Name, Choice::Name));
    }

    #[test]
    fn the_alias_that_was_not_used_for_longest_goes_to_a_topic_that_comes_again() {
        let mut aliases = Aliases::new(2).unwrap();
        assert_eq!(send(&mut aliases, "one/"), Choice::Both(1));
        assert_eq!(send(&mut aliases, "two/"), Choice::Both(2));
        assert_eq!(send(&mut aliases, "one/"), Choice::Alias(1));
        assert_eq!(send(&mut aliases, "three"), Choice::Name);
        assert_eq!(send(&mut aliases, "three"), Choice::Both(2));
        assert_eq!(send(&mut aliases, "three"), Choice::Alias(2));
        assert_eq!(send(&mut aliases, "one/"), Choice::Alias(1));
        assert_eq!(send(&mut aliases, "two/"), Choice::Name);
    }

    #[test]
    fn more_topics_than_aliases_do_not_throw_each_other_out() {
        let mut aliases = Aliases::new(4).unwrap();
        for round in 0..5 {
            for at in 0..20 {
                let choice = send(&mut aliases, &format!("topic/{at}"));
                let expected = match (at, round) {
                    (0..4, 0) => Choice::Both(at + 1),
                    (0..4, _) => Choice::Alias(at + 1),
                    _ => Choice::Name,
                };
                assert_eq!(choice, expected, "topic {at} in round {round}");
            }
        }
    }

    #[test]
    fn the_topics_behind_the_aliases_are_bounded() {
        let mut aliases = Aliases::new(u16::MAX).unwrap();
        let names: Vec<String> = (0..9).map(|at| format!("{at}{}", "x".repeat(60_000))).collect();
        for _ in 0..3 {
            for name in &names {
                send(&mut aliases, name);
            }
            assert!(aliases.bytes <= TOPIC_ALIAS_BYTES && aliases.without.len() <= usize::from(TOPIC_ALIAS_MAX));
        }
        assert_eq!(aliases.given.len(), 2);
    }
}
