//! What one session remembers between connections, and how that is written down.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use crate::{
    broker::{
        connection::{Outgoing, Replay},
        fanout::{Fanout, Options, Subscriber},
        packet::SubscribeOptions,
    },
    intake::{QueueLimits, Sequence, SessionId, SessionRecord, SessionWill},
    topic::TopicFilter,
};

/// What a session remembers between connections.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) subscriptions: HashMap<TopicFilter, Subscription>,
    pub(crate) outgoing: Outgoing,
    /// Bytes of `outgoing` that count in the bound over all sessions.
    pub(crate) counted: usize,
    /// QoS 2 packet ids that arrived and are not released.
    pub(crate) received: HashMap<u16, Receipt>,
    /// The session expiry in the store's record; `None` where there is no record.
    pub(crate) stored: Option<u32>,
    /// The session's id in the store, once it has one.
    pub(crate) id: Option<SessionId>,
    /// The will in the store's record.
    pub(crate) will: Option<SessionWill>,
    /// What its queue in the store may hold.
    pub(crate) limits: QueueLimits,
    /// The last message of that queue that was ever sent.
    pub(crate) sent: Sequence,
    /// Everything before it has left that queue.
    pub(crate) resume: Sequence,
    /// Retained messages that are still due.
    pub(crate) replays: VecDeque<Replay>,
    /// Whether there is a session to resume.
    pub(crate) present: bool,
}

/// One subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) options: SubscribeOptions,
    pub(crate) id: Option<u32>,
}

/// A QoS 2 message between PUBLISH and PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Whether the message is safe; until then the id must not come again.
    pub(crate) decided: bool,
    /// Whether it counts in the Receive Maximum of this connection.
    pub(crate) counted: bool,
}

impl Kept {
    /// Ends the session in memory.
    pub(super) fn reset(&mut self, fanout: &Fanout, subscriber: &Arc<Subscriber>) {
        for filter in self.subscriptions.keys() {
            fanout.unsubscribe(subscriber, filter);
        }
        fanout.clear(subscriber);
        fanout.recount(&mut self.counted, 0);
        *self = Self { stored: self.stored, id: self.id, ..Self::default() };
    }

    /// Retained messages for this filter are no longer due.
    pub(crate) fn forget_replay(&mut self, filter: &TopicFilter) {
        self.replays.retain(|replay| !replay.is_of(filter));
    }

    /// What the store remembers of the session, beside its QoS 2 ids.
    pub(crate) fn record(&self, client_id: &ByteString, expiry_s: u32) -> SessionRecord {
        let mut state = BytesMut::new();
        state.put_u8(STATE_VERSION);
        for (filter, subscription) in &self.subscriptions {
            state.put_u8(subscription.options.bits());
            state.put_u32(subscription.id.unwrap_or(0));
            state.put_u16(u16::try_from(filter.as_str().len()).expect("a filter has at most 65 535 bytes"));
            state.put_slice(filter.as_str().as_bytes());
        }
        SessionRecord {
            client_id: client_id.clone(),
            expiry_s,
            state: state.freeze(),
            received: Vec::new(),
            limits: self.limits,
            will: self.will.clone(),
        }
    }
}

const STATE_VERSION: u8 = 1;

pub(super) fn decode_state(mut state: Bytes) -> Option<HashMap<TopicFilter, Subscription>> {
    if state.try_get_u8().ok()? != STATE_VERSION {
        return None;
    }
    let mut subscriptions = HashMap::new();
    while state.has_remaining() {
        let options = SubscribeOptions::from_bits(state.try_get_u8().ok()?)?;
        let id = Some(state.try_get_u32().ok()?).filter(|id| *id != 0);
        let len = usize::from(state.try_get_u16().ok()?);
        if state.remaining() < len {
            return None;
        }
        let text = ByteString::from(std::str::from_utf8(&state.split_to(len)).ok()?);
        subscriptions.insert(TopicFilter::new(text).ok()?, Subscription { options, id });
    }
    Some(subscriptions)
}

impl Subscription {
    pub(crate) fn fanout_options(self) -> Options {
        Options {
            qos: self.options.qos,
            no_local: self.options.no_local,
            retain_as_published: self.options.retain_as_published,
            id: self.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_come_back_as_they_were_stored() {
        let mut kept = Kept::default();
        for (text, bits, id) in [("a/+/#", 0b0010_1101, Some(7)), ("b", 0, None)] {
            let options = SubscribeOptions::from_bits(bits).unwrap();
            kept.subscriptions.insert(TopicFilter::new(text).unwrap(), Subscription { options, id });
        }
        let record = kept.record(&"c".into(), 5);
        assert_eq!(decode_state(record.state.clone()), Some(kept.subscriptions));
        for len in 1..record.state.len() {
            let _ = decode_state(record.state.slice(..len));
        }
        assert_eq!(decode_state(Bytes::new()), None);
    }
}
