//! Fan-out: from an accepted message to the queues of the local sessions that want it.
//!
//! Three indexes of subscriptions sit behind a read-write lock that publishers share and only SUBSCRIBE, UNSUBSCRIBE and
//! the end of a session take for writing:
//!
//! - *Sessions that end with their connection* get their messages once the store has accepted them, in a bounded queue in
//!   memory, each behind a lock of its own, so that one slow subscriber is nobody else's business: what its queue cannot
//!   hold is dropped and counted (`tidegate_broker_dropped_total`), QoS 0 first. A message is there once, shared by all.
//! - *Sessions that outlive it* are asked before (`route`): a copy of what they get at QoS 1 or 2 is queued in the
//!   store in the same transaction, so that the publisher's acknowledgement speaks for them too. Memory keeps what was put
//!   in just now, as far as it fits (`limits::CACHE_BYTES`); the connection sends by sequence number
//!   and reads from the store what is not here. Nothing durable is ever dropped for want of memory: the limits of a queue
//!   are those of its listener (`max_queued_messages`, `max_queued_bytes`, `queue_when_full`), and the store keeps them.
//!   QoS 0 goes the other way, to those who are connected.
//! - *Shared subscriptions* choose one member for each message, when it is routed: the next in turn who is connected and
//!   can be sent it at once; else one who is connected and has room; else one whose queue outlives the connection. What a
//!   member of the first kind had not acknowledged when its session ended goes to another one, but for QoS 2 messages that
//!   were sent [MQTT-4.8.2-5]. What waits for a session of the second kind when that ends goes with it: the specification
//!   would like it to find another member, and does not ask for it.
//!
//! A site without the second and the third pays one load of a counter a message for them.
//!
//! A retained message is given also to sessions that subscribed between its routing and its commit: they were not asked,
//! and have looked for retained messages already.
//!
//! A fast publisher waits for a fast subscriber: when 2000 messages wait for a connected client (for one with a queue in
//! the store: half of what its limits allow, if that is less), the connection that published the last of them stops reading
//! until half of them are gone, as long as the subscriber takes 500 of them every 50 ms. One that does not is slow, and
//! nobody waits for it again before it has caught up; so one that is stuck costs publishers 50 ms in all.
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
//! Bounds in memory: 10 000 messages and 8 MiB per session; 64 MiB over all sessions, what was sent and not acknowledged
//! and what is kept of durable queues included. Where that is used up, a connected client still gets 64 KiB, so that
//! those who do not read cost only themselves.
//!
//! A crash loses what waits here and nothing else: streams and durable queues are on disk before anything gets here, and
//! what a lasting session subscribed to is restored from the store.

mod census;
mod index;
mod mailbox;
mod queue;
mod receipt;
mod round;
mod share;
mod subscriptions;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use tokio::sync::{Notify, watch};

pub(crate) use mailbox::Mailbox;
use mailbox::Offered;
pub use mailbox::{Delivery, Publication};
pub(crate) use queue::{Next, Queue};
pub(crate) use receipt::{Receipt, Report};
pub use round::Round;
pub(crate) use round::{Choice, Congested, Onward, Orphan, Routed};
use share::Readiness;
pub(crate) use share::{bare, check as check_filter, is_shared};
use subscriptions::Subscriptions;

use crate::{
    broker::{
        access::Badge,
        limits::{KEEPS_UP, PATIENCE, QUEUES_BYTES},
        metrics::Drops,
        sys::is_reserved,
    },
    intake::{QueueLimits, Sequence, SessionId},
    message::QoS,
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

/// A session as the fan-out sees it: a name, a queue in memory, and what memory knows of one in the store.
#[derive(Debug)]
pub struct Subscriber {
    client_id: ByteString,
    /// Of the last connection; `None` for a session that was restored and whose client has not come back yet.
    badge: RwLock<Option<Arc<Badge>>>,
    mailbox: Mutex<Mailbox>,
    queue: Mutex<Queue>,
    /// The session's id in the store; 0 where it is not there.
    durable: AtomicU32,
    wake: Notify,
    /// Tells waiting publishers that little is left.
    low: Notify,
}

/// All subscriptions.
#[derive(Debug)]
pub struct Fanout {
    subscriptions: RwLock<Subscriptions>,
    /// Subscriptions that must be asked before a message goes into the store: none at most sites.
    routed: AtomicUsize,
    /// There are access rules, so receivers are to be asked.
    restricted: AtomicBool,
    /// Bytes in all queues in memory.
    queued: AtomicUsize,
    drops: Drops,
    /// Grows whenever somebody may want a message whom nobody could give it to before.
    changes: watch::Sender<u64>,
}

impl Subscriber {
    /// A session without subscriptions whose client is away.
    pub fn new(client_id: ByteString) -> Arc<Self> {
        Arc::new(Self {
            client_id,
            badge: RwLock::default(),
            mailbox: Mutex::default(),
            queue: Mutex::default(),
            durable: AtomicU32::new(0),
            wake: Notify::new(),
            low: Notify::new(),
        })
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // The queue is whole after every statement, so a panic elsewhere does not spoil it.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether the session outlives its connection. Changes only while it has no subscriptions.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Relaxed) != 0
    }

    /// Whether nothing waits for the session in the store, as far as memory knows.
    pub(crate) fn has_empty_queue(&self) -> bool {
        self.queue().is_empty()
    }

    /// Messages that wait in the session's durable queue, those that left out of order included.
    pub(crate) fn waiting(&self) -> u64 {
        self.queue().waiting()
    }

    /// Messages that wait for it in memory, and their bytes.
    pub(crate) fn waiting_in_memory(&self) -> (usize, usize) {
        self.mailbox().waiting()
    }

    /// Its queue in the store, where it has one.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.queue().session()
    }

    /// Whether the session's durable queue takes one more message.
    pub(crate) fn has_room(&self) -> bool {
        self.queue().has_room()
    }

    /// The session has a queue in the store from now on. It must not have subscriptions yet.
    pub(crate) fn attach(&self, session: SessionId, head: Sequence, next: Sequence) {
        self.queue().attach(session, head, next);
        self.durable.store(session.0, Ordering::Relaxed);
    }

    /// The client came, and its connection looks at the queue in the store from `head` on. `window`: messages that it
    /// takes at a time.
    pub(crate) fn connect_queue(&self, window: u16, limits: QueueLimits, head: Sequence) {
        self.queue().connect(window, limits, head);
    }

    /// Its connection has seen that it must look into the store, and not looked.
    pub(crate) fn doubt(&self) {
        self.queue().doubt();
    }

    /// A read of its queue found messages up to the one before `next`.
    pub(crate) fn found(&self, next: Sequence) {
        self.queue().found(next);
    }

    /// Messages have left its queue: so many, with so many bytes, and everything before `head`.
    pub(crate) fn left(&self, head: Sequence, count: u64, bytes: usize) {
        if self.queue().left(head, count, bytes) {
            self.low.notify_waiters();
        }
    }

    /// Waits for a queue to change from empty to not empty. Cancel safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn is_low(&self) -> bool {
        self.mailbox().is_low() && (!self.is_durable() || self.queue().is_low())
    }

    fn taken(&self) -> u64 {
        self.mailbox().taken() + self.queue().taken()
    }

    fn give_up_waiting(&self) {
        self.mailbox().give_up_waiting();
        self.queue().give_up_waiting();
    }

    /// Waits until little is left. Others may have added to it again since; then the subscriber has kept up all the same.
    async fn becomes_low(&self) {
        loop {
            let low = self.low.notified();
            tokio::pin!(low);
            low.as_mut().enable();
            if self.is_low() {
                return;
            }
            low.await;
        }
    }

    /// How willing it is to take a message that it would get at this QoS.
    fn readiness(&self, qos: QoS) -> Readiness {
        if qos != QoS::AtMostOnce && self.is_durable() {
            let queue = self.queue();
            return match (queue.is_connected(), queue.is_ready(), queue.has_room()) {
                (true, true, true) => Readiness::Ready,
                (true, false, true) => Readiness::Busy,
                _ => Readiness::Keeps,
            };
        }
        let mailbox = self.mailbox();
        match (mailbox.is_connected(), mailbox.is_ready(), mailbox.has_place()) {
            (false, ..) => Readiness::Absent,
            (true, true, _) => Readiness::Ready,
            (true, false, true) => Readiness::Busy,
            (true, false, false) => Readiness::Full,
        }
    }
}

impl Fanout {
    /// Nothing subscribed; drops are counted in `drops`.
    pub fn new(drops: Drops) -> Self {
        Self {
            subscriptions: RwLock::default(),
            routed: AtomicUsize::new(0),
            restricted: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            drops,
            changes: watch::Sender::new(0),
        }
    }

    /// Changes whenever somebody may want a message whom nobody could give it to before. What the number was when the
    /// subscriptions were asked is never newer than the answer.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    /// Whether there are access rules; without any nobody is asked.
    pub(crate) fn restrict(&self, restricted: bool) {
        self.restricted.store(restricted, Ordering::Release);
        self.changed();
    }

    fn is_restricted(&self) -> bool {
        self.restricted.load(Ordering::Acquire)
    }

    fn read(&self) -> RwLockReadGuard<'_, Subscriptions> {
        self.subscriptions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Subscriptions> {
        self.subscriptions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes, or changes the options of a subscription. True when it is new.
    pub fn subscribe(&self, subscriber: &Arc<Subscriber>, filter: &TopicFilter, options: Options) -> bool {
        let mut subscriptions = self.write();
        let new = subscriptions.insert(subscriber, filter, options);
        self.routed.store(subscriptions.routed(), Ordering::Relaxed);
        self.changed();
        new
    }

    /// Whether one more subscription is within the bounds on what all take together.
    pub(crate) fn has_room(&self, filter: &TopicFilter) -> bool {
        self.read().has_room(filter)
    }

    /// Ends a subscription; false where there was none.
    pub fn unsubscribe(&self, subscriber: &Arc<Subscriber>, filter: &TopicFilter) -> bool {
        let mut subscriptions = self.write();
        let known = subscriptions.remove(subscriber, filter);
        self.routed.store(subscriptions.routed(), Ordering::Relaxed);
        // Of a shared one, another member may be next.
        self.changed();
        known
    }

    /// The client of a session came: its queue takes QoS 0 and more. `window`: messages that it takes at a time.
    pub fn connect(&self, subscriber: &Subscriber, window: u16) {
        subscriber.mailbox().connect(window);
        self.changed();
    }

    /// The client of a session went; `unsent` is what it had taken and not sent.
    pub fn disconnect(&self, subscriber: &Subscriber, unsent: &mut VecDeque<Delivery>) {
        let mut mailbox = subscriber.mailbox();
        let before = mailbox.bytes();
        mailbox.put_back(unsent);
        let (expendable, too_many) = mailbox.disconnect();
        self.account(before, mailbox.bytes());
        drop(mailbox);
        self.account(subscriber.queue().disconnect(), 0);
        subscriber.low.notify_waiters();
        self.drops.away(expendable);
        self.drops.queue_full(too_many);
    }

    /// Throws the queue of a session away, and what is known of the one in the store. It must not have subscriptions any more.
    pub fn clear(&self, subscriber: &Subscriber) {
        let mut mailbox = subscriber.mailbox();
        let before = mailbox.bytes();
        mailbox.clear();
        drop(mailbox);
        self.account(before, 0);
        subscriber.durable.store(0, Ordering::Relaxed);
        let cached = std::mem::take(&mut *subscriber.queue()).disconnect();
        self.account(cached, 0);
    }

    /// Takes out the messages of shared subscriptions that wait for a client that has gone for good.
    pub(crate) fn take_shared(&self, subscriber: &Subscriber) -> Vec<Delivery> {
        let mut mailbox = subscriber.mailbox();
        let before = mailbox.bytes();
        let shared = mailbox.take_shared();
        self.account(before, mailbox.bytes());
        shared
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

    /// What the connection does about the message at `cursor` of its durable queue.
    pub(crate) fn next(&self, subscriber: &Subscriber, cursor: Sequence) -> Next {
        let (next, freed) = subscriber.queue().next(cursor);
        self.account(freed, 0);
        next
    }

    /// Gives memory of an idle queue back.
    pub fn shrink(&self, subscriber: &Subscriber) {
        subscriber.mailbox().shrink();
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

    fn has_memory(&self) -> bool {
        self.queued.load(Ordering::Relaxed) <= QUEUES_BYTES
    }
}

/// Waits until the subscribers have caught up, as long as each takes [`KEEPS_UP`] messages every [`PATIENCE`]; those that take
/// less are not waited for again soon.
pub(crate) async fn wait_for(congested: Congested) {
    wait(congested, PATIENCE).await;
}

async fn wait(congested: Congested, patience: Duration) {
    for subscriber in congested {
        let mut taken = subscriber.taken();
        while tokio::time::timeout(patience, subscriber.becomes_low()).await.is_err() {
            if subscriber.taken() - taken < KEEPS_UP {
                subscriber.give_up_waiting();
                break;
            }
            taken = subscriber.taken();
        }
    }
}

/// Whether the receiver must be woken, and whether its queue is getting long.
fn offer(fanout: &Fanout, subscriber: &Subscriber, delivery: Delivery) -> (bool, bool) {
    let topic_is_ours = is_reserved(&delivery.publication.message.topic);
    let mut mailbox = subscriber.mailbox();
    // A few clients that do not read must not use up what all others live on.
    if !fanout.has_memory() && !mailbox.has_reserve(&delivery) {
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
mod tests;
