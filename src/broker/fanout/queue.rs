//! What memory knows of the durable queue of one session: where it ends, how long it is, and what was put into it just
//! now. Pure.
//!
//! The queue itself is in the store. Its connection sends strictly by sequence number and asks here first; what is not
//! here it reads from the store. So nothing that does not fit here is lost, and a client that is slow, late or away
//! costs no memory.

use std::collections::BTreeMap;

use super::Delivery;
use crate::{
    broker::limits::{CACHE_BYTES, CACHE_MESSAGES, QUEUE_SOFT},
    intake::{QueueLimits, Sequence, SessionId},
};

/// A durable queue as memory knows it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// `None` where the session ends with its connection, and nothing here is used.
    session: Option<SessionId>,
    limits: Option<QueueLimits>,
    connection: Connection,
    /// The next message that the connection will ask for; what is older is not kept here.
    cursor: Sequence,
    /// One beyond the last message that is known to be in the store.
    next: Sequence,
    /// Everything before it has left the queue, as far as the connection knows.
    head: Sequence,
    /// Messages on their way into the store.
    routed: u64,
    /// Bytes of what waits, about: it leads nothing but publishers to wait a moment.
    bytes: usize,
    cache: BTreeMap<Sequence, Delivery>,
    cached_bytes: usize,
    /// There may be more in the store than is known here.
    doubtful: bool,
    /// Publishers have waited for it in vain; until it has caught up they do not wait again.
    slow: bool,
    /// Messages that ever left while it was watched.
    left: u64,
    /// The client's window.
    window: u16,
}

/// The client's connection, as far as the queue knows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Connection {
    #[default]
    Away,
    Here,
    /// It has sent all that it knew of, and is to be woken for more.
    Asleep,
}

/// What is to be done next for a connection.
#[derive(Debug)]
pub(crate) enum Next {
    /// Send this one.
    Cached(Box<Delivery>),
    /// Read from the store: what is asked for was committed before, up to the one before this.
    Read(Sequence),
    /// Nothing more is known; whoever adds to the queue wakes the connection.
    Asleep,
}

impl Queue {
    /// The session has a queue in the store: what is in it begins at `head` and ends before `next`.
    pub(crate) fn attach(&mut self, session: SessionId, head: Sequence, next: Sequence) {
        *self = Self { session: Some(session), cursor: head, head, next, ..Self::default() };
    }

    pub(crate) fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// The client came, and its connection looks at the queue from `head` on.
    pub(crate) fn connect(&mut self, window: u16, limits: QueueLimits, head: Sequence) {
        self.connection = Connection::Here;
        self.head = head.min(self.next);
        self.window = window;
        self.limits = Some(limits);
        self.cursor = self.head;
        self.slow = false;
        self.doubtful = true;
    }

    /// The client is away. Gives back the bytes that its cache counted for.
    pub(crate) fn disconnect(&mut self) -> usize {
        self.connection = Connection::Away;
        self.cache = BTreeMap::new();
        std::mem::take(&mut self.cached_bytes)
    }

    /// A message is on its way into the store.
    pub(crate) fn route(&mut self, bytes: usize) {
        self.routed += 1;
        self.bytes += bytes;
    }

    /// It came out again: `seq` where it is in the queue now.
    pub(crate) fn routed(&mut self, seq: Option<Sequence>, bytes: usize) {
        self.routed = self.routed.saturating_sub(1);
        match seq {
            Some(seq) => self.next = self.next.max(seq + 1),
            None => self.bytes = self.bytes.saturating_sub(bytes),
        }
    }

    /// Keeps a message that is in the queue now, where the connection will ask for it soon; says whether it must be
    /// woken, and for how many bytes the message counts.
    pub(crate) fn offer(&mut self, seq: Sequence, delivery: Delivery, has_memory: bool) -> (bool, usize) {
        self.next = self.next.max(seq + 1);
        if !self.is_connected() {
            return (false, 0);
        }
        let cost = delivery.cost();
        let fits = has_memory && self.cache.len() < CACHE_MESSAGES && self.cached_bytes + cost <= CACHE_BYTES;
        let keep = fits && seq >= self.cursor;
        if keep {
            self.cached_bytes += cost;
            self.cache.insert(seq, delivery);
        }
        (self.wake(), if keep { cost } else { 0 })
    }

    /// What the connection does about the message at `cursor`, which is where it has got to; and how many bytes that
    /// frees.
    pub(crate) fn next(&mut self, cursor: Sequence) -> (Next, usize) {
        self.cursor = cursor;
        let before = self.cached_bytes;
        while let Some(entry) = self.cache.first_entry().filter(|entry| *entry.key() <= cursor) {
            let (seq, delivery) = entry.remove_entry();
            self.cached_bytes -= delivery.cost();
            if seq == cursor {
                return (Next::Cached(Box::new(delivery)), before - self.cached_bytes);
            }
        }
        let next = if cursor < self.next || std::mem::take(&mut self.doubtful) {
            Next::Read(self.next)
        } else {
            self.connection = Connection::Asleep;
            Next::Asleep
        };
        (next, before - self.cached_bytes)
    }

    /// Whether the connection must be woken.
    fn wake(&mut self) -> bool {
        let is_asleep = self.connection == Connection::Asleep;
        if is_asleep {
            self.connection = Connection::Here;
        }
        is_asleep
    }

    /// There may be more in the store than is known here; true when the connection must be woken to look.
    pub(crate) fn doubt(&mut self) -> bool {
        self.doubtful = self.is_connected();
        self.wake()
    }

    /// The store had messages up to the one before `next`.
    pub(crate) fn found(&mut self, next: Sequence) {
        if next > self.next {
            self.next = next;
            self.doubtful = true;
        }
    }

    /// A message has left, and everything before `head` has; true when publishers that wait may go on.
    pub(crate) fn left(&mut self, head: Sequence, count: u64, bytes: usize) -> bool {
        let was_low = self.is_low();
        self.left += count;
        self.head = self.head.max(head);
        self.bytes = if self.waiting() == 0 { 0 } else { self.bytes.saturating_sub(bytes) };
        let is_low = self.is_low();
        self.slow = self.slow && !is_low;
        !was_low && is_low
    }

    /// Messages that wait, on their way into the store included. Those that left out of order still count.
    pub(crate) fn waiting(&self) -> u64 {
        self.next.saturating_sub(self.head) + self.routed
    }

    /// Whether nothing is in it or on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection != Connection::Away
    }

    /// Whether one more message could be sent at once.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_connected() && self.waiting() < u64::from(self.window)
    }

    /// Whether one more message is within the limits.
    pub(crate) fn has_room(&self) -> bool {
        let limits = self.limits.unwrap_or_default();
        (limits.max_messages == 0 || self.waiting() < limits.max_messages)
            && (limits.max_bytes == 0 || (self.bytes as u64) < limits.max_bytes)
    }

    /// Whether publishers should give the subscriber a moment.
    pub(crate) fn is_congested(&self) -> bool {
        let (messages, bytes) = self.soft();
        self.is_connected() && !self.slow && (self.waiting() >= messages || self.bytes as u64 >= bytes)
    }

    /// Whether so little waits that publishers may go on.
    pub(crate) fn is_low(&self) -> bool {
        let (messages, bytes) = self.soft();
        !self.is_connected() || (self.waiting() <= messages / 2 && self.bytes as u64 <= bytes / 2)
    }

    /// From how many messages and bytes on publishers should wait.
    fn soft(&self) -> (u64, u64) {
        let limits = self.limits.unwrap_or_default();
        let half = |most: u64| if most == 0 { u64::MAX } else { (most / 2).max(1) };
        (half(limits.max_messages).min(QUEUE_SOFT as u64), half(limits.max_bytes))
    }

    /// Messages that have left so far.
    pub(crate) fn taken(&self) -> u64 {
        self.left
    }

    /// The subscriber did not catch up while publishers waited.
    pub(crate) fn give_up_waiting(&mut self) {
        self.slow = !self.is_low();
    }
}
