//! The door for messages that come from elsewhere, and wait there until a local client takes them (see `crate::downlink`).
//!
//! A message is offered in two ways. Where a session that outlives its connection wants it, or it is to be retained, it goes into the
//! store with their copies, as any message, and is with its receivers once that is committed. Where only sessions without a
//! queue in the store want it, it is offered to them from memory, and stays where it is until a [`Report`] says that one has it.
//! No stream takes it: what came down an uplink does not go up again.

use std::{sync::Arc, time::Instant};

use smallvec::SmallVec;
use tokio::sync::watch;

pub(crate) use super::fanout::{Receipt, Report};
use super::{
    fanout::{Onward, Publication, Routed},
    hub::Hub,
    sys::is_reserved,
};
use crate::{intake::Publish, message::Message, topic::TopicName};

/// A way to local clients; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Locals {
    hub: Arc<Hub>,
}

/// A message that was looked at.
#[derive(Debug)]
pub(crate) struct Look {
    /// What goes into the store for it: copies for sessions that outlive their connections, a retained message.
    pub(crate) publish: Publish,
    onward: Onward,
}

impl Look {
    /// The same for the message as it was accepted: from memory, its time runs from then.
    pub(crate) fn with_message(mut self, message: Message) -> Self {
        self.publish.message = message;
        self
    }

    /// Whether the store is to take it.
    pub(crate) fn is_kept(&self) -> bool {
        !self.publish.copies.is_empty() || self.publish.set_retained
    }
}

/// What is left to do for a message once the store has it.
#[derive(Debug)]
pub(crate) struct Kept(Onward);

impl Locals {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Changes whenever somebody may take what nobody took before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.hub.fanout.changes()
    }

    /// Whether messages can be published to this topic at all: `$SYS` is the gateway's own.
    pub(crate) fn may_publish(topic: &TopicName) -> bool {
        !is_reserved(topic)
    }

    /// Whether a message is to become the retained one of its topic; then it need not wait for anybody. Looks who wants it in the
    /// store.
    pub(crate) fn look(&self, message: Message) -> Look {
        let set_retained = self.hub.retains(&message);
        let Routed { copies, onward, .. } = self.hub.fanout.route(&message);
        let streams = SmallVec::new();
        let publish = Publish { message, streams, packet_id: None, copies, set_retained, retained_revision: 0, tag: 0 };
        Look { publish, onward }
    }

    /// The parts of a message that the store is to take.
    pub(crate) fn to_keep(look: Look) -> (Publish, Kept) {
        (look.publish, Kept(look.onward))
    }

    /// The store has taken it: passes it on.
    pub(crate) fn kept(&self, publish: Publish, kept: Kept) {
        let now = Instant::now();
        let mut round = self.hub.fanout.round(now);
        self.hub.accepted(publish, kept.0, &mut round, now);
    }

    /// Offers a message to whoever gets it from memory, where nothing has changed since `changes`; `at`: when it was accepted. False
    /// where nobody wants it; else what comes of it is told.
    pub(crate) fn offer(&self, look: Look, at: Instant, receipt: Receipt, changes: u64) -> bool {
        let mut round = self.hub.fanout.round(Instant::now());
        let publication = Publication { message: look.publish.message, at, receipt: Some(receipt) };
        if round.changes() != changes {
            publication.hush();
            return false;
        }
        round.offer(publication, look.onward)
    }
}
