//! Fan-out: from an accepted message to the queues of the local sessions that want it.
//!
//! The index of subscriptions sits behind a read-write lock that publishers share and only SUBSCRIBE, UNSUBSCRIBE and
//! the end of a session take for writing. Each session has a bounded queue of its own behind a lock of its own, so that
//! one slow subscriber is nobody else's business: what its queue cannot hold is dropped and counted
//! (`tidegate_broker_dropped_total`), QoS 0 first. A message is stored once and shared by all its receivers.
//!
//! A fast publisher waits for a fast subscriber: when 2000 messages wait for a connected client, the connection that
//! published the last of them stops reading until half of them are gone, for 50 ms at most. A subscriber that does not
//! manage that is slow, and nobody waits for it again before it has caught up; so it costs publishers 50 ms in the time
//! in which it takes a thousand messages, and one that is stuck 50 ms in all.
//!
//! Why not `rumqttd::Router`, which the design had in mind: `cargo bench --bench fanout` runs both on the same work
//! (128-byte messages, whole messages in and out). Three runs on two cores that others were using as well:
//!
//! | | this | `rumqttd::Router` |
//! | --- | --- | --- |
//! | 1 publisher → 1 subscriber, thousand/s | 610, 2241, 778 | 327, 719, 1251 |
//! | 1 publisher → 10, thousand deliveries/s | 2139, 2660, 1738 | 911, 2768, 3558 |
//! | resident memory after that | 2.0 to 2.4 MiB | 66 to 70 MiB |
//! | subscriber stalled for 20 000 messages | 10 000 delivered, all others counted | 8 800 to 9 700 lost in silence |
//! | 20 000 filters that came and went | 0 KiB left | 128 to 129 MiB left |
//!
//! Speed does not decide: the runs differ more from each other than the two ways do, each won, and with one
//! subscriber both stayed above the 187 000 to 256 000/s that a publisher and a subscriber reach through sockets
//! (`cargo bench --bench broker`). What decides is the same in every run: no loss without a count, memory that comes back.
//! The router was measured plainly. Its leftovers could be bounded by mapping filters onto a pool of topics, and its
//! losses be found by watching its cursors (neither was built); both would need this index and these queues all the
//! same: the index to know the slots, the queues for clients that are away.
//!
//! Bounds: 10 000 messages (1000 while the client is away) and 8 MiB per session; 64 MiB over all sessions, what was sent and
//! not acknowledged included. Where that is used up, a connected client still gets 64 KiB, so that those who do not read
//! cost only themselves.
//! A crash loses what waits here and nothing else: streams are on disk before anything gets here, and what a persistent
//! session subscribed to is restored from the store.

mod index;
mod mailbox;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    broker::{
        access::Badge,
        limits::{KEEPS_UP, PATIENCE, QUEUES_BYTES},
        metrics::Drops,
        sys::is_reserved,
    },
    message::{Message, QoS},
    topic::{TopicFilter, TopicName},
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
    /// Of the last connection; `None` for a session that was restored and whose client has not come back yet.
    badge: RwLock<Option<Arc<Badge>>>,
    mailbox: Mutex<Mailbox>,
    wake: Notify,
    /// Tells waiting publishers that little is left in the queue.
    low: Notify,
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
    /// There are access rules, so receivers are to be asked.
    restricted: AtomicBool,
    /// Bytes in all queues.
    queued: AtomicUsize,
    drops: Drops,
}

impl Subscriber {
    /// A session without subscriptions whose client is away.
    pub fn new(client_id: ByteString) -> Arc<Self> {
        Arc::new(Self {
            client_id,
            badge: RwLock::default(),
            mailbox: Mutex::default(),
            wake: Notify::new(),
            low: Notify::new(),
        })
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // The queue is whole after every statement, so a panic elsewhere does not spoil it.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session is now that of this client, whose rights decide what is queued for it.
    pub(crate) fn set_badge(&self, badge: &Arc<Badge>) {
        *self.badge.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(badge));
    }

    /// Whether its client may get messages of this topic. Asked again before they are sent.
    fn may_receive(&self, topic: &TopicName) -> bool {
        let badge = self.badge.read().unwrap_or_else(PoisonError::into_inner);
        badge.as_ref().is_none_or(|badge| badge.may_receive(topic))
    }

    /// Waits for the queue to change from empty to not empty. Cancel safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until little is left in the queue. Others may have filled it again since; then the subscriber has kept up all the same.
    async fn is_low(&self) {
        let low = self.low.notified();
        tokio::pin!(low);
        low.as_mut().enable();
        if !self.mailbox().is_low() {
            low.await;
        }
    }
}

impl Fanout {
    /// Nothing subscribed; drops are counted in `drops`.
    pub fn new(drops: Drops) -> Self {
        Self { index: RwLock::default(), restricted: AtomicBool::new(false), queued: AtomicUsize::new(0), drops }
    }

    /// Whether there are access rules; without any nobody is asked.
    pub(crate) fn restrict(&self, restricted: bool) {
        self.restricted.store(restricted, Ordering::Release);
    }

    /// Subscribes, or changes the options of a subscription. True when it is new.
    pub fn subscribe(&self, subscriber: &Arc<Subscriber>, filter: &TopicFilter, options: Options) -> bool {
        let entry = Entry { subscriber: Arc::clone(subscriber), options };
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.insert(filter, entry, |old| Arc::ptr_eq(&old.subscriber, subscriber))
    }

    /// Whether one more subscription is within the bounds on what all take together.
    pub(crate) fn has_room(&self, filter: &TopicFilter) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).has_room(filter)
    }

    /// Number of subscriptions.
    pub(crate) fn subscriptions(&self) -> u64 {
        self.index.read().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Whether somebody subscribed with a filter whose first level is this one.
    pub(crate) fn is_subscribed_below(&self, level: &str) -> bool {
        self.index.read().unwrap_or_else(PoisonError::into_inner).has_branch(level)
    }

    /// Bytes in all queues, and of what was sent and not acknowledged.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.queued.load(Ordering::Relaxed) as u64
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
        let was_low = mailbox.is_low();
        let taken = mailbox.take(most, into);
        if taken > 0 {
            self.queued.fetch_sub(taken, Ordering::Relaxed);
        }
        if !was_low && mailbox.is_low() {
            subscriber.low.notify_waiters();
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
        Round { fanout: self, index, now, woken: SmallVec::new(), congested: SmallVec::new() }
    }

    /// Counts what a session has sent and its client has not acknowledged: `counted` is what was counted before.
    pub(crate) fn recount(&self, counted: &mut usize, now: usize) {
        if *counted != now {
            self.account(std::mem::replace(counted, now), now);
        }
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
    congested: SmallVec<[Arc<Subscriber>; 1]>,
}

/// Subscribers whose queues are getting long.
pub(crate) type Congested = SmallVec<[Arc<Subscriber>; 1]>;

/// Waits until the subscribers have caught up, as long as each takes [`KEEPS_UP`] messages every [`PATIENCE`]; those that take
/// less are not waited for again soon.
pub(crate) async fn wait_for(congested: Congested) {
    for subscriber in congested {
        let mut taken = subscriber.mailbox().taken();
        while tokio::time::timeout(PATIENCE, subscriber.is_low()).await.is_err() {
            let mut mailbox = subscriber.mailbox();
            if mailbox.taken() - taken < KEEPS_UP {
                mailbox.give_up_waiting();
                break;
            }
            taken = mailbox.taken();
        }
    }
}

impl Round<'_> {
    /// Queues a message for everybody who wants it.
    pub fn publish(&mut self, message: Message) {
        if self.index.len() == 0 {
            return;
        }
        let restricted = self.fanout.restricted.load(Ordering::Acquire);
        let mut found: SmallVec<[&Entry; 8]> = SmallVec::new();
        self.index.matches(&message.topic, |entry| {
            let is_own = entry.options.no_local && entry.subscriber.client_id == message.client;
            if !is_own && (!restricted || entry.subscriber.may_receive(&message.topic)) {
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
            let subscriber = &entries[0].subscriber;
            let (first, congested) = offer(self.fanout, subscriber, delivery);
            if first {
                self.woken.push(Arc::clone(subscriber));
            }
            if congested && !self.congested.iter().any(|other| Arc::ptr_eq(other, subscriber)) {
                self.congested.push(Arc::clone(subscriber));
            }
        }
    }

    /// Whether the publisher should give others a moment.
    pub(crate) fn is_congested(&self, publisher: &Arc<Subscriber>) -> bool {
        self.congested.iter().any(|subscriber| !Arc::ptr_eq(subscriber, publisher))
    }

    /// The subscribers that the publisher should give a moment, itself excepted.
    pub(crate) fn take_congested(&mut self, publisher: &Arc<Subscriber>) -> Congested {
        let mut congested = std::mem::take(&mut self.congested);
        congested.retain(|subscriber| !Arc::ptr_eq(subscriber, publisher));
        congested
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

/// Whether the receiver must be woken, and whether its queue is getting long.
fn offer(fanout: &Fanout, subscriber: &Subscriber, delivery: Delivery) -> (bool, bool) {
    let topic_is_ours = is_reserved(&delivery.publication.message.topic);
    let mut mailbox = subscriber.mailbox();
    // A few clients that do not read must not use up what all others live on.
    if fanout.queued.load(Ordering::Relaxed) > QUEUES_BYTES && !mailbox.has_reserve(&delivery) {
        drop(mailbox);
        fanout.drops.memory_full();
        return (false, false);
    }
    let before = mailbox.bytes();
    let offered = mailbox.offer(delivery);
    let (after, congested) = (mailbox.bytes(), mailbox.is_congested());
    drop(mailbox);
    fanout.account(before, after);
    match offered {
        Offered::Queued { first } => return (first, congested),
        Offered::Displaced | Offered::Full => fanout.drops.queue_full(1),
        // `$SYS` says the same again soon, and each drop that is counted would change what it says.
        Offered::Away if topic_is_ours => {}
        Offered::Away => fanout.drops.away(1),
    }
    (false, congested)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;
    use bytes::Bytes;

    #[test]
    fn a_round_says_at_once_when_a_subscriber_needs_a_moment() {
        let fanout = Fanout::new(Drops::unregistered());
        let options = Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id: None };
        let (subscriber, publisher) = (Subscriber::new("s".into()), Subscriber::new("p".into()));
        fanout.subscribe(&subscriber, &TopicFilter::new("t").unwrap(), options);
        fanout.connect(&subscriber);
        let mut round = fanout.round(Instant::now());
        let mut count = 0;
        while !round.is_congested(&publisher) {
            let topic = TopicName::new("t").unwrap();
            let (payload, qos) = (Bytes::new(), QoS::AtLeastOnce);
            round.publish(Message { topic, payload, qos, retain: false, client: "p".into(), properties: None });
            count += 1;
        }
        assert_eq!(count, crate::broker::limits::QUEUE_SOFT);
        assert!(!round.is_congested(&subscriber), "nobody waits for himself");
        assert_eq!(round.take_congested(&publisher).len(), 1);
    }

    #[test]
    fn clients_that_read_nothing_leave_room_for_those_that_do() {
        let fanout = Fanout::new(Drops::unregistered());
        let options = Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id: None };
        let subscribe = |id: usize, filter: &str| {
            let subscriber = Subscriber::new(id.to_string().into());
            fanout.subscribe(&subscriber, &TopicFilter::new(filter).unwrap(), options);
            subscriber
        };
        let publish = |topic: &str, payload: usize| {
            let message = Message {
                topic: TopicName::new(topic).unwrap(),
                payload: Bytes::from(vec![0; payload]),
                qos: QoS::AtLeastOnce,
                retain: false,
                client: "p".into(),
                properties: None,
            };
            fanout.round(Instant::now()).publish(message);
        };
        let stuck: Vec<_> = (0..20).map(|id| subscribe(id, "big")).collect();
        let (reader, away) = (subscribe(20, "small"), subscribe(21, "small"));
        fanout.connect(&reader);
        (0..4).for_each(|_| publish("big", 2 << 20));
        assert!(fanout.drops.total() > 0, "the bound over all sessions is reached");
        (0..10).for_each(|_| publish("small", 100));
        let mut got = VecDeque::new();
        fanout.take(&reader, usize::MAX, &mut got);
        assert_eq!(got.len(), 10);
        assert!(away.mailbox().is_empty());
        for subscriber in stuck.iter().chain([&away]) {
            fanout.clear(subscriber);
        }
        assert_eq!(fanout.queued.load(Ordering::Relaxed), 0);
    }
}
