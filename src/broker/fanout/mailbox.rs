//! The queue of one session: bounded, QoS 0 gives way first. Pure.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::receipt::Receipt;
use crate::{
    broker::limits::{
        FETCH_BYTES, QUEUE_AWAY_MESSAGES, QUEUE_BYTES, QUEUE_LOW, QUEUE_MESSAGES, QUEUE_RESERVE, QUEUE_SOFT,
    },
    message::{Message, QoS},
    topic::TopicFilter,
};

/// A message on its way to local subscribers; shared by all of them.
#[derive(Debug)]
pub struct Publication {
    /// The message.
    pub message: Message,
    /// When it was accepted, for its expiry interval.
    pub at: Instant,
    /// Whoever wants to know whether a client took it.
    pub(crate) receipt: Option<Receipt>,
}

impl Publication {
    /// A message that was accepted at this time.
    pub(crate) fn new(message: Message, at: Instant) -> Self {
        Self { message, at, receipt: None }
    }

    /// Nobody is to hear what becomes of it.
    pub(crate) fn hush(&self) {
        if let Some(receipt) = &self.receipt {
            receipt.hush();
        }
    }

    /// A client has it: acknowledged it, or was sent it at QoS 0.
    pub(crate) fn taken(&self) {
        if let Some(receipt) = &self.receipt {
            receipt.taken();
        }
    }

    /// The message with its expiry interval lowered by the time spent here (MQTT 5, section 3.3.2.3.3); `None` where that
    /// has passed.
    pub(crate) fn aged(&self, now: Instant) -> Option<Message> {
        let mut message = self.message.clone();
        if let Some(properties) = &mut message.properties
            && let Some(seconds) = &mut properties.message_expiry_s
        {
            let waited = now.saturating_duration_since(self.at).as_secs();
            *seconds =
                u32::try_from(waited).ok().and_then(|waited| seconds.checked_sub(waited)).filter(|left| *left > 0)?;
        }
        Some(message)
    }
}

/// What one session is to get.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub publication: Arc<Publication>,
    /// The lower of the published and the granted QoS.
    pub qos: QoS,
    /// The retain flag to send.
    pub retain: bool,
    /// Subscription identifiers of the subscriptions that matched.
    pub subscription_ids: Option<Box<[u32]>>,
    /// The shared subscription that it comes from: where this client goes without it, another member gets it.
    pub share: Option<Box<TopicFilter>>,
}

impl Delivery {
    /// Bytes it counts for in the bounds of a queue.
    pub(crate) fn cost(&self) -> usize {
        const FIXED: usize = 256;
        FIXED + self.publication.message.footprint()
    }
}

/// What became of a message offered to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It waits; `first` when nothing waited before it.
    Queued { first: bool },
    /// It waits, and an older QoS 0 message made room for it.
    Displaced,
    /// There is no room.
    Full,
    /// QoS 0 for a client that is away is not kept.
    Away,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// How many of the queue are QoS 0.
    expendable: usize,
    connected: bool,
    /// Publishers have waited for it in vain; until it has caught up they do not wait again.
    slow: bool,
    /// Messages ever taken out.
    taken: u64,
    /// The client's window.
    window: u16,
}

impl Mailbox {
    /// Whether publishers should give the subscriber a moment.
    pub(crate) fn is_congested(&self) -> bool {
        self.connected && !self.slow && (self.queue.len() >= QUEUE_SOFT || self.bytes >= QUEUE_BYTES / 2)
    }

    /// Whether so little waits that publishers may go on.
    pub(crate) fn is_low(&self) -> bool {
        self.queue.len() <= QUEUE_LOW && self.bytes <= QUEUE_BYTES / 4
    }

    /// Messages that the subscriber has taken out so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// The subscriber did not catch up while publishers waited.
    pub(crate) fn give_up_waiting(&mut self) {
        self.slow = !self.is_low();
    }

    /// Takes a message in, or says why not.
    pub(crate) fn offer(&mut self, delivery: Delivery) -> Offered {
        let expendable = delivery.qos == QoS::AtMostOnce;
        if expendable && !self.connected {
            return Offered::Away;
        }
        let cost = delivery.cost();
        let mut displaced = false;
        if !self.has_room(cost) {
            if expendable || self.expendable == 0 {
                return Offered::Full;
            }
            self.drop_expendable();
            displaced = true;
            if !self.has_room(cost) {
                return Offered::Full;
            }
        }
        let first = self.queue.is_empty();
        self.bytes += cost;
        self.expendable += usize::from(expendable);
        self.queue.push_back(delivery);
        if displaced { Offered::Displaced } else { Offered::Queued { first } }
    }

    fn has_room(&self, cost: usize) -> bool {
        let messages = if self.connected { QUEUE_MESSAGES } else { QUEUE_AWAY_MESSAGES };
        self.queue.len() < messages && (self.queue.is_empty() || self.bytes + cost <= QUEUE_BYTES)
    }

    /// Whether a message fits into what a connected client may always have, however much waits for others.
    pub(crate) fn has_reserve(&self, delivery: &Delivery) -> bool {
        self.connected && (self.queue.is_empty() || self.bytes + delivery.cost() <= QUEUE_RESERVE)
    }

    fn drop_expendable(&mut self) {
        let at = self.queue.iter().position(|delivery| delivery.qos == QoS::AtMostOnce);
        if let Some(delivery) = at.and_then(|at| self.queue.remove(at)) {
            self.bytes -= delivery.cost();
            self.expendable -= 1;
        }
    }

    /// Moves up to `most` messages to `into`, oldest first, until they have [`FETCH_BYTES`]; says how many bytes they counted for.
    pub(crate) fn take(&mut self, most: usize, into: &mut VecDeque<Delivery>) -> usize {
        let before = self.bytes;
        for _ in 0..most {
            if before - self.bytes >= FETCH_BYTES {
                break;
            }
            let Some(delivery) = self.queue.pop_front() else { break };
            self.bytes -= delivery.cost();
            self.expendable -= usize::from(delivery.qos == QoS::AtMostOnce);
            into.push_back(delivery);
            self.taken += 1;
        }
        self.slow = self.slow && !self.is_low();
        before - self.bytes
    }

    /// Puts back what was taken and not sent; returns the bytes it counts for.
    pub(crate) fn put_back(&mut self, from: &mut VecDeque<Delivery>) -> usize {
        let before = self.bytes;
        while let Some(delivery) = from.pop_back() {
            self.bytes += delivery.cost();
            self.expendable += usize::from(delivery.qos == QoS::AtMostOnce);
            self.queue.push_front(delivery);
        }
        self.bytes - before
    }

    /// The client came: its queue may be longer.
    pub(crate) fn connect(&mut self, window: u16) {
        self.connected = true;
        self.window = window;
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether what waits could be sent at once, and one more.
    pub(crate) fn is_ready(&self) -> bool {
        self.connected && self.queue.len() < usize::from(self.window)
    }

    /// Whether one more message of usual size is taken.
    pub(crate) fn has_place(&self) -> bool {
        self.connected && self.queue.len() < QUEUE_MESSAGES && self.bytes < QUEUE_BYTES
    }

    /// Takes out the messages of shared subscriptions that another member is to get.
    pub(crate) fn take_shared(&mut self) -> Vec<Delivery> {
        let is_shared = |delivery: &Delivery| delivery.share.is_some() && delivery.qos != QoS::AtMostOnce;
        let (shared, own): (Vec<_>, Vec<_>) = std::mem::take(&mut self.queue).into_iter().partition(is_shared);
        self.queue = own.into();
        self.bytes = self.queue.iter().map(Delivery::cost).sum();
        shared
    }

    /// The client went: QoS 0 and what does not fit any more leave. Returns how many went of each.
    pub(crate) fn disconnect(&mut self) -> (usize, usize) {
        self.connected = false;
        let before = self.queue.len();
        self.queue.retain(|delivery| delivery.qos != QoS::AtMostOnce);
        let expendable = before - self.queue.len();
        let too_many = self.queue.len().saturating_sub(QUEUE_AWAY_MESSAGES);
        self.queue.truncate(QUEUE_AWAY_MESSAGES);
        self.queue.shrink_to_fit();
        self.bytes = self.queue.iter().map(Delivery::cost).sum();
        self.expendable = 0;
        (expendable, too_many)
    }

    /// Throws everything away.
    pub(crate) fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
        self.expendable = 0;
    }

    /// Messages that wait, and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives memory back where little of it is used.
    pub(crate) fn shrink(&mut self) {
        if self.queue.capacity() > 64 && self.queue.len() < self.queue.capacity() / 4 {
            self.queue.shrink_to(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;
    use bytes::Bytes;

    fn delivery(qos: QoS, payload: usize) -> Delivery {
        let message = Message {
            topic: TopicName::new("t").unwrap(),
            payload: Bytes::from(vec![0; payload]),
            qos,
            retain: false,
            client: "c".into(),
            properties: None,
        };
        let publication = Arc::new(Publication::new(message, Instant::now()));
        Delivery { publication, qos, retain: false, subscription_ids: None, share: None }
    }

    #[test]
    fn a_full_queue_drops_qos_0_first_and_never_grows() {
        let mut mailbox = Mailbox::default();
        mailbox.connect(10);
        assert_eq!(mailbox.offer(delivery(QoS::AtMostOnce, 1)), Offered::Queued { first: true });
        for _ in 1..QUEUE_MESSAGES {
            assert_eq!(mailbox.offer(delivery(QoS::AtLeastOnce, 1)), Offered::Queued { first: false });
        }
        assert_eq!(mailbox.offer(delivery(QoS::AtMostOnce, 1)), Offered::Full);
        assert_eq!(mailbox.offer(delivery(QoS::AtLeastOnce, 1)), Offered::Displaced);
        assert_eq!(mailbox.offer(delivery(QoS::AtLeastOnce, 1)), Offered::Full);
        assert_eq!(mailbox.disconnect(), (0, QUEUE_MESSAGES - QUEUE_AWAY_MESSAGES));
        assert_eq!(mailbox.offer(delivery(QoS::AtMostOnce, 1)), Offered::Away);
        let mut out = VecDeque::new();
        mailbox.take(usize::MAX, &mut out);
        assert_eq!((out.len(), mailbox.bytes()), (QUEUE_AWAY_MESSAGES, 0));
    }

    #[test]
    fn bytes_are_bounded_but_one_message_always_fits() {
        let mut mailbox = Mailbox::default();
        assert_eq!(mailbox.offer(delivery(QoS::ExactlyOnce, QUEUE_BYTES)), Offered::Queued { first: true });
        assert_eq!(mailbox.offer(delivery(QoS::ExactlyOnce, 1)), Offered::Full);
        let mut out = VecDeque::new();
        let taken = mailbox.take(1, &mut out);
        assert_eq!(mailbox.put_back(&mut out), taken);
        mailbox.clear();
        assert_eq!((mailbox.is_empty(), mailbox.bytes()), (true, 0));
    }
}
