//! Fan-out: from an accepted message to the queues of the local sessions that want it.
//!
//! The index of subscriptions sits behind a read-write lock that publishers share and only SUBSCRIBE, UNSUBSCRIBE and
//! the end of a session take for writing. Each session has a bounded queue of its own behind a lock of its own, so that
//! one slow subscriber is nobody else's business: what its queue cannot hold is dropped and counted
//! (`tidegate_broker_dropped_total`), QoS 0 first. A message is stored once and shared by all its receivers.
//!
//! Bounds: 10 000 messages (1000 while the client is away) and 8 MiB per session, 64 MiB over all sessions.
//! A crash loses what waits here and nothing else: streams are on disk before anything gets here, and what a persistent
//! session subscribed to is restored from the store.

mod index;
mod mailbox;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytestring::ByteString;
use smallvec::SmallVec;
use tokio::sync::Notify;

use index::Index;
pub(crate) use mailbox::Mailbox;
use mailbox::Offered;
pub use mailbox::{Delivery, Publication};

use crate::{
    broker::{limits::QUEUES_BYTES, metrics::Drops},
    message::{Message, QoS},
    topic::TopicFilter,
};

/// How a session subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Highest QoS of deliveries.
    pub qos: QoS,
    /// Leave out what the client published itself.
    pub no_local: bool,
    /// Keep the publisher's retain flag.
    pub retain_as_published: bool,
    /// Subscription identifier (MQTT 5).
    pub id: Option<u32>,
}

/// A session as the fan-out sees it: a name and a queue.
#[derive(Debug)]
pub struct Subscriber {
    client_id: ByteString,
    mailbox: Mutex<Mailbox>,
    wake: Notify,
}

#[derive(Debug)]
struct Entry {
    subscriber: Arc<Subscriber>,
    options: Options,
}

/// All subscriptions.
#[derive(Debug)]
pub struct Fanout {
    index: RwLock<Index<Entry>>,
    /// Bytes in all queues.
    queued: AtomicUsize,
    drops: Drops,
}

impl Subscriber {
    /// A session without subscriptions whose client is away.
    pub fn new(client_id: ByteString) -> Arc<Self> {
        Arc::new(Self { client_id, mailbox: Mutex::default(), wake: Notify::new() })
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // The queue is whole after every statement, so a panic elsewhere does not spoil it.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the queue to change from empty to not empty. Cancel safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Fanout {
    /// Nothing subscribed; drops are counted in `drops`.
    pub fn new(drops: Drops) -> Self {
        Self { index: RwLock::default(), queued: AtomicUsize::new(0), drops }
    }

    /// Subscribes, or changes the options of a subscription. True when it is new.
    pub fn subscribe(&self, subscriber: &Arc<Subscriber>, filter: &TopicFilter, options: Options) -> bool {
        let entry = Entry { subscriber: Arc::clone(subscriber), options };
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.insert(filter, entry, |old| Arc::ptr_eq(&old.subscriber, subscriber))
    }

    /// Ends a subscription; false where there was none.
    pub fn unsubscribe(&self, subscriber: &Arc<Subscriber>, filter: &TopicFilter) -> bool {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.remove(filter, |old| Arc::ptr_eq(&old.subscriber, subscriber))
    }

    /// The client of a session came: its queue takes QoS 0 and more.
    pub fn connect(&self, subscriber: &Subscriber) {
        subscriber.mailbox().connect();
    }

    /// The client of a session went; `unsent` is what it had taken and not sent.
    pub fn disconnect(&self, subscriber: &Subscriber, unsent: &mut VecDeque<Delivery>) {
        let mut mailbox = subscriber.mailbox();
        let before = mailbox.bytes();
        mailbox.put_back(unsent);
        let (expendable, too_many) = mailbox.disconnect();
        self.account(before, mailbox.bytes());
        drop(mailbox);
        self.drops.away(expendable);
        self.drops.queue_full(too_many);
    }

    /// Throws the queue of a session away.
    pub fn clear(&self, subscriber: &Subscriber) {
        let mut mailbox = subscriber.mailbox();
        let before = mailbox.bytes();
        mailbox.clear();
        self.account(before, 0);
    }

    /// Moves up to `most` messages of the queue to `into`; false when the queue is empty afterwards.
    pub fn take(&self, subscriber: &Subscriber, most: usize, into: &mut VecDeque<Delivery>) -> bool {
        let mut mailbox = subscriber.mailbox();
        let taken = mailbox.take(most, into);
        if taken > 0 {
            self.queued.fetch_sub(taken, Ordering::Relaxed);
        }
        !mailbox.is_empty()
    }

    /// Gives memory of an idle queue back.
    pub fn shrink(&self, subscriber: &Subscriber) {
        subscriber.mailbox().shrink();
    }

    /// Starts publishing. The subscriptions stand still until the round is dropped; that wakes the receivers.
    pub fn round(&self, now: Instant) -> Round<'_> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        Round { fanout: self, index, now, woken: SmallVec::new() }
    }

    fn account(&self, before: usize, after: usize) {
        if after >= before {
            self.queued.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.queued.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

/// A number of messages published at one instant.
#[derive(Debug)]
pub struct Round<'f> {
    fanout: &'f Fanout,
    index: RwLockReadGuard<'f, Index<Entry>>,
    now: Instant,
    woken: SmallVec<[Arc<Subscriber>; 8]>,
}

impl Round<'_> {
    /// Queues a message for everybody who wants it.
    pub fn publish(&mut self, message: Message) {
        if self.index.len() == 0 {
            return;
        }
        let mut found: SmallVec<[&Entry; 8]> = SmallVec::new();
        self.index.matches(&message.topic, |entry| {
            if !(entry.options.no_local && entry.subscriber.client_id == message.client) {
                found.push(entry);
            }
        });
        if found.is_empty() {
            return;
        }
        let publication = Arc::new(Publication { message, at: self.now });
        if found.len() > 1 {
            // Overlapping subscriptions of one session become one delivery (MQTT 5, section 3.3.4).
            found.sort_unstable_by_key(|entry| Arc::as_ptr(&entry.subscriber));
        }
        for entries in found.chunk_by(|a, b| Arc::ptr_eq(&a.subscriber, &b.subscriber)) {
            let delivery = Delivery::merge(&publication, entries.iter().map(|entry| entry.options));
            if offer(self.fanout, &entries[0].subscriber, delivery) {
                self.woken.push(Arc::clone(&entries[0].subscriber));
            }
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        for subscriber in &self.woken {
            subscriber.wake.notify_one();
        }
    }
}

impl Delivery {
    fn merge(publication: &Arc<Publication>, options: impl Iterator<Item = Options>) -> Self {
        let mut granted = QoS::AtMostOnce;
        let mut retain = false;
        let mut ids: SmallVec<[u32; 4]> = SmallVec::new();
        for options in options {
            granted = granted.max(options.qos);
            retain |= options.retain_as_published;
            ids.extend(options.id);
        }
        Self {
            publication: Arc::clone(publication),
            qos: granted.min(publication.message.qos),
            retain: retain && publication.message.retain,
            subscription_ids: (!ids.is_empty()).then(|| ids.into_boxed_slice()),
        }
    }
}

/// True when the receiver must be woken.
fn offer(fanout: &Fanout, subscriber: &Subscriber, delivery: Delivery) -> bool {
    if fanout.queued.load(Ordering::Relaxed) > QUEUES_BYTES {
        fanout.drops.memory_full();
        return false;
    }
    let mut mailbox = subscriber.mailbox();
    let before = mailbox.bytes();
    let offered = mailbox.offer(delivery);
    let after = mailbox.bytes();
    drop(mailbox);
    fanout.account(before, after);
    match offered {
        Offered::Queued { first } => return first,
        Offered::Displaced | Offered::Full => fanout.drops.queue_full(1),
        Offered::Away => fanout.drops.away(1),
    }
    false
}
