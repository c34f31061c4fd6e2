//! The two halves of a message's way to subscribers: routing before the store, delivery after it.

use std::{
    sync::{Arc, RwLockReadGuard, atomic::Ordering},
    time::Instant,
};

use smallvec::SmallVec;

use super::{
    Delivery, Fanout, Options, Publication, Subscriber,
    index::Index,
    offer,
    subscriptions::{Entry, Subscriptions},
};
use crate::{
    intake::{SessionCopy, SessionId},
    message::{Message, QoS},
    topic::TopicFilter,
};

/// What routing found for one message.
#[derive(Debug, Default)]
pub(crate) struct Routed {
    /// To be queued in the store with the message.
    pub(crate) copies: Vec<SessionCopy>,
    /// To be kept until the store has decided.
    pub(crate) onward: Onward,
    /// Subscribers whose durable queues are getting long.
    pub(crate) congested: Congested,
}

/// What is to be done for local subscribers once the store has decided on a message. Dropping it takes back what
/// routing announced.
#[derive(Debug, Default)]
pub(crate) struct Onward {
    tickets: Vec<Ticket>,
    choices: Vec<Choice>,
}

/// A copy on its way into the store; counts in its subscriber's queue as long as it lives.
#[derive(Debug)]
struct Ticket {
    subscriber: Arc<Subscriber>,
    /// `None` once it has arrived.
    session: Option<SessionId>,
    bytes: usize,
}

/// The member of a shared subscription who gets a message.
#[derive(Debug)]
pub(crate) struct Choice {
    /// `$share/{name}/{filter}`.
    pub(super) share: TopicFilter,
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) options: Options,
}

/// A message whose chosen member of a shared subscription has gone: another one is to get it.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) publication: Arc<Publication>,
    pub(crate) share: TopicFilter,
}

/// Subscribers whose queues are getting long.
pub(crate) type Congested = SmallVec<[Arc<Subscriber>; 1]>;

/// A number of messages published at one instant.
#[derive(Debug)]
pub struct Round<'f> {
    fanout: &'f Fanout,
    subscriptions: RwLockReadGuard<'f, Subscriptions>,
    now: Instant,
    woken: SmallVec<[Arc<Subscriber>; 8]>,
    congested: Congested,
    orphans: Vec<Orphan>,
}

/// What several subscriptions of one session make of a message (MQTT 5, section 3.3.4).
struct Merged {
    qos: QoS,
    retain: bool,
    subscription_ids: Option<Box<[u32]>>,
}

impl Merged {
    fn new(message: &Message, options: impl Iterator<Item = Options>) -> Self {
        let mut granted = QoS::AtMostOnce;
        let mut retain = false;
        let mut ids: SmallVec<[u32; 4]> = SmallVec::new();
        for options in options {
            granted = granted.max(options.qos);
            retain |= options.retain_as_published;
            ids.extend(options.id);
        }
        Self {
            qos: granted.min(message.qos),
            retain: retain && message.retain,
            subscription_ids: (!ids.is_empty()).then(|| ids.into_boxed_slice()),
        }
    }

    fn delivery(self, publication: &Arc<Publication>, share: Option<Box<TopicFilter>>) -> Delivery {
        let Self { qos, retain, subscription_ids } = self;
        Delivery { publication: Arc::clone(publication), qos, retain, subscription_ids, share }
    }
}

impl Drop for Ticket {
    /// Without a verdict: it may be in the queue or not, and the connection looks.
    fn drop(&mut self) {
        if self.session.is_none() {
            return;
        }
        let mut queue = self.subscriber.queue();
        if queue.session() == self.session {
            queue.routed(None, self.bytes);
            if queue.doubt() {
                self.subscriber.wake.notify_one();
            }
        }
    }
}

impl Onward {
    pub(crate) fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.choices.is_empty()
    }
}

/// A subscription that matches.
type Found<'s> = (&'s Arc<Subscriber>, Options);

/// Brings the subscriptions of each session together.
fn sort(found: &mut [Found<'_>]) {
    if found.len() > 1 {
        found.sort_unstable_by_key(|(subscriber, _)| Arc::as_ptr(subscriber));
    }
}

fn same(a: &Found<'_>, b: &Found<'_>) -> bool {
    Arc::ptr_eq(a.0, b.0)
}

fn note(list: &mut Congested, subscriber: &Arc<Subscriber>) {
    if !list.iter().any(|other| Arc::ptr_eq(other, subscriber)) {
        list.push(Arc::clone(subscriber));
    }
}

/// The subscriptions that match; `restricted`: and whose clients may have the message.
fn entries<'s>(index: &'s Index<Entry>, message: &Message, restricted: bool) -> SmallVec<[Found<'s>; 8]> {
    let mut found = SmallVec::new();
    index.matches(&message.topic, |entry| {
        let is_own = entry.options.no_local && entry.subscriber.client_id == message.client;
        if !is_own && (!restricted || entry.subscriber.may_receive(&message.topic)) {
            found.push((&entry.subscriber, entry.options));
        }
    });
    found
}

impl Fanout {
    /// Finds the sessions that want a message in the queue that outlives their connections, and chooses the members of
    /// shared subscriptions. Costs nothing where there are neither.
    pub(crate) fn route(&self, message: &Message) -> Routed {
        let mut routed = Routed::default();
        if self.routed.load(Ordering::Relaxed) == 0 {
            return routed;
        }
        let subscriptions = self.read();
        let restricted = self.is_restricted();
        let (mut kept, passed) = (Vec::new(), &mut routed.onward.choices);
        subscriptions.choose(message, restricted, |choice| {
            if choice.is_kept(message) { kept.push(choice) } else { passed.push(choice) }
        });
        if message.qos != QoS::AtMostOnce {
            let mut found = entries(&subscriptions.durable, message, restricted);
            found.extend(kept.iter().map(|choice| (&choice.subscriber, choice.options)));
            sort(&mut found);
            for found in found.chunk_by(same) {
                routed.copy(message, found[0].0, Merged::new(message, found.iter().map(|(_, options)| *options)));
            }
        }
        routed
    }

    /// The same for a message that only the members of one shared subscription are to get.
    pub(crate) fn route_share(&self, message: &Message, share: &TopicFilter) -> Routed {
        let mut routed = Routed::default();
        if let Some(choice) = self.read().choose_of(share, message, self.is_restricted()) {
            if choice.is_kept(message) {
                let merged = Merged::new(message, std::iter::once(choice.options));
                routed.copy(message, &choice.subscriber, merged);
            } else {
                routed.onward.choices.push(choice);
            }
        }
        routed
    }

    /// Starts publishing. The subscriptions stand still until the round is dropped; that wakes the receivers.
    pub fn round(&self, now: Instant) -> Round<'_> {
        let (woken, congested) = (SmallVec::new(), SmallVec::new());
        Round { fanout: self, subscriptions: self.read(), now, woken, congested, orphans: Vec::new() }
    }
}

impl Routed {
    /// A copy that a connection itself puts into the queue of its session.
    pub(crate) fn own(subscriber: &Arc<Subscriber>, delivery: &Delivery) -> Self {
        let mut routed = Self::default();
        let Delivery { qos, retain, .. } = *delivery;
        let merged = Merged { qos, retain, subscription_ids: delivery.subscription_ids.clone() };
        routed.copy(&delivery.publication.message, subscriber, merged);
        routed
    }

    fn copy(&mut self, message: &Message, subscriber: &Arc<Subscriber>, merged: Merged) {
        let Merged { qos, retain, subscription_ids } = merged;
        if qos == QoS::AtMostOnce {
            return;
        }
        let mut queue = subscriber.queue();
        let Some(session) = queue.session() else { return };
        let bytes = message.footprint();
        queue.route(bytes);
        if queue.is_congested() {
            note(&mut self.congested, subscriber);
        }
        drop(queue);
        self.copies.push(SessionCopy { session, qos, retain, subscription_ids, seq: None });
        let subscriber = Arc::clone(subscriber);
        self.onward.tickets.push(Ticket { subscriber, session: Some(session), bytes });
    }

    /// The subscribers that the publisher should give a moment, itself excepted.
    pub(crate) fn take_congested(&mut self, publisher: &Arc<Subscriber>) -> Congested {
        without(std::mem::take(&mut self.congested), publisher)
    }
}

fn without(mut congested: Congested, publisher: &Arc<Subscriber>) -> Congested {
    congested.retain(|subscriber| !Arc::ptr_eq(subscriber, publisher));
    congested
}

impl Choice {
    /// Whether the member's queue in the store takes it.
    fn is_kept(&self, message: &Message) -> bool {
        self.subscriber.is_durable() && self.options.qos.min(message.qos) != QoS::AtMostOnce
    }
}

impl Round<'_> {
    /// Queues a message in memory for everybody who wants it there.
    pub fn publish(&mut self, message: Message) {
        self.deliver(message, &[], Onward::default(), false);
    }

    /// The store has taken a message with its copies: does what routing left to do, and queues it in memory for everybody
    /// who wants it there. `retained`: those who subscribed since it was routed are to get it too, or they would have
    /// missed a state that no retained message tells them any more.
    pub(crate) fn deliver(&mut self, message: Message, copies: &[SessionCopy], onward: Onward, retained: bool) {
        let Self { fanout, subscriptions, now, woken, congested, orphans } = self;
        let late = subscriptions.has_late(message.qos) || (retained && subscriptions.durable.len() > 0);
        let restricted = fanout.is_restricted();
        let mut found = entries(&subscriptions.volatile, &message, restricted);
        let mut durable = if late { entries(&subscriptions.durable, &message, restricted) } else { SmallVec::new() };
        if found.is_empty() && durable.is_empty() && onward.is_empty() {
            return;
        }
        let publication = Arc::new(Publication::new(message, *now));
        let message = &publication.message;
        let mut hall = Hall { fanout, woken, congested };
        // Overlapping subscriptions of one session become one delivery (MQTT 5, section 3.3.4).
        sort(&mut found);
        for found in found.chunk_by(same) {
            let merged = Merged::new(message, found.iter().map(|(_, options)| *options));
            hall.give(found[0].0, merged.delivery(&publication, None));
        }
        sort(&mut durable);
        for found in durable.chunk_by(same) {
            let merged = Merged::new(message, found.iter().map(|(_, options)| *options));
            let session = found[0].0.queue().session();
            let has_copy = || copies.iter().any(|copy| Some(copy.session) == session);
            // A session may have subscribed again since the copy was made, and gets the message once all the same.
            if (merged.qos == QoS::AtMostOnce || retained) && !has_copy() {
                hall.give(found[0].0, merged.delivery(&publication, None));
            }
        }
        hall.pass_on(&publication, copies, onward, orphans);
    }

    /// Offers a message that stays where it is until a client has it, to everybody who would get it from memory now; its receipt
    /// says what comes of it. False where there is nobody; then the receipt says nothing.
    pub(crate) fn offer(&mut self, publication: Publication, onward: Onward) -> bool {
        let Self { fanout, subscriptions, woken, congested, .. } = self;
        let publication = Arc::new(publication);
        let message = &publication.message;
        let restricted = fanout.is_restricted();
        let mut found = entries(&subscriptions.volatile, message, restricted);
        if subscriptions.has_late(message.qos) {
            // At QoS 0 whoever has a queue in the store gets it from memory as well, while connected.
            let late = entries(&subscriptions.durable, message, restricted);
            found.extend(late.into_iter().filter(|(subscriber, _)| subscriber.mailbox().is_connected()));
        }
        let mut hall = Hall { fanout, woken, congested };
        let mut is_wanted = false;
        sort(&mut found);
        for found in found.chunk_by(same) {
            let merged = Merged::new(message, found.iter().map(|(_, options)| *options));
            if merged.qos == QoS::AtMostOnce || !found[0].0.is_durable() {
                is_wanted = true;
                hall.give(found[0].0, merged.delivery(&publication, None));
            }
        }
        let Onward { tickets: _, choices } = onward;
        for Choice { share, subscriber, options } in choices {
            if subscriber.mailbox().is_connected() {
                is_wanted = true;
                let merged = Merged::new(message, std::iter::once(options));
                hall.give(&subscriber, merged.delivery(&publication, Some(Box::new(share))));
            }
        }
        if !is_wanted {
            publication.hush();
        }
        is_wanted
    }

    /// What [`Fanout::changes`] says of the subscriptions that this round sees.
    pub(crate) fn changes(&self) -> u64 {
        *self.fanout.changes.borrow()
    }

    /// The store has taken copies of a message that nobody else is to get.
    pub(crate) fn pass_on(&mut self, message: Message, copies: &[SessionCopy], onward: Onward) {
        let Self { fanout, now, woken, congested, orphans, .. } = self;
        let publication = Arc::new(Publication::new(message, *now));
        Hall { fanout, woken, congested }.pass_on(&publication, copies, onward, orphans);
    }

    /// Messages of shared subscriptions whose chosen members have gone meanwhile.
    pub(crate) fn take_orphans(&mut self) -> Vec<Orphan> {
        std::mem::take(&mut self.orphans)
    }

    /// Whether the publisher should give others a moment.
    pub(crate) fn is_congested(&self, publisher: &Arc<Subscriber>) -> bool {
        self.congested.iter().any(|subscriber| !Arc::ptr_eq(subscriber, publisher))
    }

    /// The subscribers that the publisher should give a moment, itself excepted.
    pub(crate) fn take_congested(&mut self, publisher: &Arc<Subscriber>) -> Congested {
        without(std::mem::take(&mut self.congested), publisher)
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        for subscriber in &self.woken {
            subscriber.wake.notify_one();
        }
    }
}

/// Where a round puts what it delivers.
struct Hall<'r> {
    fanout: &'r Fanout,
    woken: &'r mut SmallVec<[Arc<Subscriber>; 8]>,
    congested: &'r mut Congested,
}

impl Hall<'_> {
    /// Does what routing left to do.
    fn pass_on(
        &mut self,
        publication: &Arc<Publication>,
        copies: &[SessionCopy],
        onward: Onward,
        orphans: &mut Vec<Orphan>,
    ) {
        let Onward { mut tickets, choices } = onward;
        tickets.iter_mut().zip(copies).for_each(|(ticket, copy)| ticket.arrive(copy, publication, self));
        for Choice { share, subscriber, options } in choices {
            let merged = Merged::new(&publication.message, std::iter::once(options));
            if merged.qos == QoS::AtMostOnce || subscriber.mailbox().is_connected() {
                self.give(&subscriber, merged.delivery(publication, Some(Box::new(share))));
            } else {
                orphans.push(Orphan { publication: Arc::clone(publication), share });
            }
        }
    }

    fn give(&mut self, subscriber: &Arc<Subscriber>, delivery: Delivery) {
        let (first, congested) = offer(self.fanout, subscriber, delivery);
        if first {
            self.woken.push(Arc::clone(subscriber));
        }
        if congested {
            note(self.congested, subscriber);
        }
    }
}

impl Ticket {
    /// The copy is in the queue, or was dropped.
    fn arrive(&mut self, copy: &SessionCopy, publication: &Arc<Publication>, hall: &mut Hall<'_>) {
        let mut queue = self.subscriber.queue();
        if queue.session() != self.session.take() {
            return;
        }
        queue.routed(copy.seq, self.bytes);
        let Some(seq) = copy.seq else {
            drop(queue);
            return hall.fanout.drops.queue_full(1);
        };
        let SessionCopy { qos, retain, .. } = *copy;
        let subscription_ids = copy.subscription_ids.clone();
        let delivery = Delivery { publication: Arc::clone(publication), qos, retain, subscription_ids, share: None };
        let (wake, cached) = queue.offer(seq, delivery, hall.fanout.has_memory());
        drop(queue);
        hall.fanout.account(0, cached);
        if wake {
            hall.woken.push(Arc::clone(&self.subscriber));
        }
    }
}
