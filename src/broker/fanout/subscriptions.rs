//! Who subscribed to what: three indexes that are asked separately, so that a site pays only for what it uses.

use std::sync::Arc;

use super::{
    Choice, Options, Subscriber,
    index::Index,
    share::{Readiness, Turns, bare, is_shared},
};
use crate::{
    broker::limits::{ALL_FILTER_BYTES, ALL_SUBSCRIPTIONS, INDEX_NODES_MAX},
    message::{Message, QoS},
    topic::TopicFilter,
};

/// One subscription of one session.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) options: Options,
}

/// The members of one shared subscription.
#[derive(Debug)]
pub(super) struct Group {
    /// `$share/{name}/{filter}`.
    name: TopicFilter,
    members: Vec<Entry>,
    turns: Turns,
}

/// All subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Of sessions that end with their connections.
    pub(super) volatile: Index<Entry>,
    /// Of sessions that outlive them.
    pub(super) durable: Index<Entry>,
    /// How many of those have QoS 0.
    durable_qos0: usize,
    pub(super) groups: Index<Group>,
    /// Members of all groups.
    members: usize,
}

impl Subscriptions {
    /// Whether one more subscription is within the bounds on what all take together.
    pub(super) fn has_room(&self, filter: &TopicFilter) -> bool {
        let levels = filter.as_str().split('/').count();
        let sum = |of: fn(&dyn Size) -> usize| of(&self.volatile) + of(&self.durable) + of(&self.groups);
        sum(|index| index.len()) + self.members < ALL_SUBSCRIPTIONS
            && sum(|index| index.filter_bytes()) + filter.as_str().len() <= ALL_FILTER_BYTES
            && sum(|index| index.nodes()) + levels <= INDEX_NODES_MAX
    }

    /// How many there are of one session each, and how many members of shared ones.
    pub(super) fn count(&self) -> (u64, u64) {
        ((self.volatile.len() + self.durable.len()) as u64, self.members as u64)
    }

    /// Whether there is one whose filter has this first level.
    pub(super) fn has_branch(&self, level: &str) -> bool {
        self.volatile.has_branch(level) || self.durable.has_branch(level) || self.groups.has_branch(level)
    }

    /// Enters a subscription or replaces its options; true when it is new.
    pub(super) fn insert(&mut self, subscriber: &Arc<Subscriber>, filter: &TopicFilter, options: Options) -> bool {
        let entry = Entry { subscriber: Arc::clone(subscriber), options };
        if is_shared(filter) {
            return self.join(filter, entry);
        }
        if !subscriber.is_durable() {
            return self.volatile.insert(filter, entry, |old| old.is_of(subscriber)).is_none();
        }
        let old = self.durable.insert(filter, entry, |old| old.is_of(subscriber));
        self.durable_qos0 += usize::from(options.qos == QoS::AtMostOnce);
        self.durable_qos0 -= old.as_ref().map_or(0, |old| usize::from(old.options.qos == QoS::AtMostOnce));
        old.is_none()
    }

    fn join(&mut self, name: &TopicFilter, entry: Entry) -> bool {
        let filter = bare(name);
        if let Some(group) = self.groups.get_mut(&filter, |group| group.name == *name) {
            if let Some(old) = group.members.iter_mut().find(|old| old.is_of(&entry.subscriber)) {
                *old = entry;
                return false;
            }
            group.members.push(entry);
        } else {
            let group = Group { name: name.clone(), members: vec![entry], turns: Turns::default() };
            self.groups.insert(&filter, group, |_| false);
        }
        self.members += 1;
        true
    }

    /// Ends a subscription; false where there was none.
    pub(super) fn remove(&mut self, subscriber: &Arc<Subscriber>, filter: &TopicFilter) -> bool {
        if is_shared(filter) {
            return self.leave(subscriber, filter);
        }
        if !subscriber.is_durable() {
            return self.volatile.remove(filter, |old| old.is_of(subscriber)).is_some();
        }
        let old = self.durable.remove(filter, |old| old.is_of(subscriber));
        self.durable_qos0 -= old.as_ref().map_or(0, |old| usize::from(old.options.qos == QoS::AtMostOnce));
        old.is_some()
    }

    fn leave(&mut self, subscriber: &Arc<Subscriber>, name: &TopicFilter) -> bool {
        let filter = bare(name);
        let Some(group) = self.groups.get_mut(&filter, |group| group.name == *name) else { return false };
        let Some(at) = group.members.iter().position(|member| member.is_of(subscriber)) else { return false };
        group.members.remove(at);
        self.members -= 1;
        if group.members.is_empty() {
            self.groups.remove(&filter, |group| group.name == *name);
        }
        true
    }

    /// Subscriptions that must be asked before a message goes into the store.
    pub(super) fn routed(&self) -> usize {
        self.durable.len() + self.members
    }

    /// Whether a message that has been through the store may still be wanted by a session that outlives its connection.
    pub(super) fn has_late(&self, qos: QoS) -> bool {
        self.durable.len() > 0 && (qos == QoS::AtMostOnce || self.durable_qos0 > 0)
    }

    /// One member of every group that wants the message; `restricted`: one whose client may have it.
    pub(super) fn choose(&self, message: &Message, restricted: bool, mut chosen: impl FnMut(Choice)) {
        if self.members > 0 {
            self.groups.matches(&message.topic, |group| {
                if let Some(choice) = group.choose(message, restricted) {
                    chosen(choice);
                }
            });
        }
    }

    /// One member of the group of this name (`$share/{name}/{filter}`).
    pub(super) fn choose_of(&self, name: &TopicFilter, message: &Message, restricted: bool) -> Option<Choice> {
        self.groups.get(&bare(name), |group| group.name == *name)?.choose(message, restricted)
    }
}

impl Entry {
    pub(super) fn is_of(&self, subscriber: &Arc<Subscriber>) -> bool {
        Arc::ptr_eq(&self.subscriber, subscriber)
    }
}

impl Group {
    fn choose(&self, message: &Message, restricted: bool) -> Option<Choice> {
        let readiness = |Entry { subscriber, options }: &Entry| {
            if restricted && !subscriber.may_receive(&message.topic) {
                return Readiness::Absent;
            }
            subscriber.readiness(options.qos.min(message.qos))
        };
        let at = self.turns.choose(&self.members, readiness)?;
        let Entry { subscriber, options } = &self.members[at];
        Some(Choice { share: self.name.clone(), subscriber: Arc::clone(subscriber), options: *options })
    }
}

/// What an index takes.
trait Size {
    fn len(&self) -> usize;
    fn filter_bytes(&self) -> usize;
    fn nodes(&self) -> usize;
}

impl<T> Size for Index<T> {
    fn len(&self) -> usize {
        Index::len(self)
    }

    fn filter_bytes(&self) -> usize {
        Index::filter_bytes(self)
    }

    fn nodes(&self) -> usize {
        Index::nodes(self)
    }
}
