//! Who is offered what, and when: keeps the order of each topic, and what is out at clients within bounds. Pure.
//!
//! Waiting messages are looked at in *sweeps* from the oldest to the newest; what comes meanwhile is at the end of the present one.
//!
//! - What was left in a sweep (nobody wants it, or not yet) makes all later messages of its topic be left in this sweep, too:
//!   whoever subscribes in the middle of it gets the older ones first, from the next.
//! - A message that is out at clients without a queue in the store may come back. So the next of its topic goes out
//!   only while everybody who would get it got the first, which is so while no subscription has changed; and into a queue of the
//!   store, from where nothing comes back, only when none is out.

use std::collections::{HashMap, HashSet};

use crate::{store::Sequence, topic::TopicName};

/// Most messages that are out at clients.
pub(super) const WINDOW: usize = 1024;

/// Most of one topic: a client that does not answer must not use up what others live on.
const TOPIC_WINDOW: usize = 64;

/// Most topics that are remembered as left; with more, a change of subscriptions ends the sweep at once.
const LEFT_MAX: usize = 1 << 16;

/// How a message would leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Into the store, with the copies of its receivers.
    Kept,
    /// To clients that get it from memory.
    Offered,
}

/// What is to be done after a message came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Nothing.
    Never,
    /// A new sweep: subscriptions have changed since it went out, or there is a place again.
    Now,
    /// A new sweep, after a while: somebody wants it and cannot have it.
    Later,
}

#[derive(Debug)]
struct Topic {
    out: usize,
    /// The state of the subscriptions when its messages went out.
    changes: u64,
}

/// The state of the present sweep, and what is out.
#[derive(Debug, Default)]
pub(super) struct Desk {
    out: HashMap<Sequence, (TopicName, u64)>,
    topics: HashMap<TopicName, Topic>,
    left: HashSet<TopicName>,
    /// There is no room in `left`.
    overflowed: bool,
    /// Something was left only because too much is out.
    starved: bool,
    /// The state of the subscriptions when the sweep began.
    changes: u64,
}

impl Desk {
    /// A sweep begins at the oldest message.
    pub(super) fn begin(&mut self, changes: u64) {
        self.left = HashSet::new();
        (self.overflowed, self.starved, self.changes) = (false, false, changes);
    }

    /// The state of the subscriptions when the sweep began.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether a sweep must end early where the subscriptions are as `changes` says.
    pub(super) fn must_begin_anew(&self, changes: u64) -> bool {
        self.overflowed && changes != self.changes
    }

    /// Whether a message is out.
    pub(super) fn is_out(&self, seq: Sequence) -> bool {
        self.out.contains_key(&seq)
    }

    /// Whether messages of a topic may still go in this sweep; nobody needs to be asked where not.
    pub(super) fn is_left(&self, topic: &TopicName) -> bool {
        self.left.contains(topic)
    }

    /// Whether a message of this topic may go this way now. Where it may not, it is left.
    pub(super) fn may_go(&mut self, topic: &TopicName, way: Way, changes: u64) -> bool {
        if self.is_left(topic) || self.must_begin_anew(changes) {
            return false;
        }
        let waits = match (self.topics.get(topic), way) {
            (None, Way::Kept) => false,
            (Some(_), Way::Kept) => true,
            (None, Way::Offered) => self.out.len() >= WINDOW,
            (Some(known), Way::Offered) => {
                known.changes != changes || known.out >= TOPIC_WINDOW || self.out.len() >= WINDOW
            }
        };
        if waits {
            self.starved = true;
            self.leave(topic);
        }
        !waits
    }

    /// A message of this topic stays where it is.
    pub(super) fn leave(&mut self, topic: &TopicName) {
        if self.left.len() < LEFT_MAX {
            self.left.insert(topic.clone());
        } else {
            self.overflowed = true;
        }
    }

    /// A message goes out to clients.
    pub(super) fn goes_out(&mut self, seq: Sequence, topic: &TopicName, changes: u64) {
        self.out.insert(seq, (topic.clone(), changes));
        self.topics.entry(topic.clone()).or_insert(Topic { out: 0, changes }).out += 1;
    }

    /// Nobody was there for it after all.
    pub(super) fn stays(&mut self, seq: Sequence) {
        if let Some(topic) = self.take(seq).map(|(topic, _)| topic) {
            self.leave(&topic);
        }
    }

    /// A client has it.
    pub(super) fn taken(&mut self, seq: Sequence) -> Again {
        self.take(seq);
        if std::mem::take(&mut self.starved) { Again::Now } else { Again::Never }
    }

    /// It came back, with the subscriptions as `changes` says.
    pub(super) fn came_back(&mut self, seq: Sequence, changes: u64) -> Again {
        let Some((topic, then)) = self.take(seq) else { return Again::Never };
        self.leave(&topic);
        if then == changes { Again::Later } else { Again::Now }
    }

    fn take(&mut self, seq: Sequence) -> Option<(TopicName, u64)> {
        let (topic, changes) = self.out.remove(&seq)?;
        if let Some(known) = self.topics.get_mut(&topic) {
            known.out -= 1;
            if known.out == 0 {
                self.topics.remove(&topic);
            }
        }
        Some((topic, changes))
    }
}

#[cfg(test)]
mod tests;
