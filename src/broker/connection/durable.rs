//! The durable queue of a session on its way to the client: pages of the store, the window, and the steps back.
//!
//! 1. [`Connection::pump_queue`] sends strictly by sequence number: what memory has, or else a page read from the store.
//! 2. What the client answers becomes a step on a lane of its own, so that a client whose publishes are held back can
//!    still take what it is sent, and so make room for others.
//! 3. PUBREL goes out when the store has the step; the end of a message frees its place in the window at once, and its
//!    packet id when the store has that step, too.
//!
//! What the connection still has here when it ends is lost with it and read again by the next one: what was sent before
//! is sent with DUP then.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Connection, Ending, Submitting,
    outbound::Fate,
    submission,
    window::{Left, Received, Window, packet_id},
};
use crate::{
    broker::{
        fanout::{Delivery, Next, Onward, Publication, Routed},
        limits::{PAGE_BYTES, WRITE_HIGH},
        packet::{AckKind, Reason, ack},
    },
    intake::{
        Entry, Lane, OnRefusal, Outcome, Publish, Returned, Returns, Sequence, SessionId, SessionMessage, Stage, Step,
        StoreError,
    },
    message::QoS,
};

/// How soon the store is told again of a PUBREC that it could not take.
pub(super) const STEP_RETRY: Duration = Duration::from_secs(1);

/// What a step takes in the store's queue.
const STEP_BYTES: usize = 128;

/// The durable queue towards one client.
pub(super) struct Durable {
    session: SessionId,
    window: Window,
    /// The last message that may have been sent before this connection.
    sent_before: Sequence,
    reading: Option<Reading>,
    /// The beginning of the queue is not here yet: what waited for the client comes before anything that it says now.
    opening: bool,
    lane: Option<Lane>,
    returns: Option<Returns>,
    /// Not submitted yet.
    batch: Vec<Entry>,
    batch_bytes: usize,
    submitting: Option<Submitting>,
    /// Batches submitted and not returned.
    submitted: usize,
    /// What is left to do for the messages that this connection itself puts into the queue, in their order.
    own: VecDeque<Onward>,
    /// PUBRECs that the store could not take, to be tried again.
    refused: Vec<Sequence>,
}

/// A page on its way from the store.
struct Reading {
    page: Pin<Box<dyn Future<Output = Result<Vec<SessionMessage>, StoreError>> + Send>>,
    /// Everything before it was committed when the page was asked for.
    until: Sequence,
}

/// What can happen to a durable queue without the client.
pub(super) enum Progress {
    Submitted(Result<Lane, StoreError>),
    Returned(Option<Returned>),
    Page(Result<Vec<SessionMessage>, StoreError>),
}

impl Durable {
    pub(super) fn new(session: SessionId, receive_maximum: u16, head: Sequence, sent_before: Sequence) -> Self {
        Self {
            session,
            window: Window::new(receive_maximum, head),
            sent_before,
            reading: None,
            opening: true,
            lane: None,
            returns: None,
            batch: Vec::new(),
            batch_bytes: 0,
            submitting: None,
            submitted: 0,
            own: VecDeque::new(),
            refused: Vec::new(),
        }
    }

    /// Messages that were sent and whose exchange is not finished.
    pub(super) fn in_flight(&self) -> usize {
        self.window.unfinished()
    }

    /// Whether this answer of the client may come now.
    pub(super) fn allows(&self, packet_id: u16, kind: AckKind) -> bool {
        self.window.allows(packet_id, kind)
    }

    /// Whether [`Durable::progress`] has something to wait for.
    pub(super) fn is_busy(&self) -> bool {
        self.reading.is_some() || self.submitting.is_some() || self.submitted > 0
    }

    /// Whether the beginning of the queue has not been read yet.
    pub(super) fn is_opening(&self) -> bool {
        self.opening
    }

    /// Everything before it has left the queue, and the store knows.
    pub(super) fn oldest(&self) -> Sequence {
        self.window.oldest()
    }

    /// Waits for the next thing to happen. Cancel safe.
    pub(super) async fn progress(&mut self) -> Progress {
        let Self { reading, returns, submitting, submitted, .. } = self;
        tokio::select! {
            biased;
            lane = submission(submitting), if submitting.is_some() => Progress::Submitted(lane),
            returned = returned(returns), if *submitted > 0 => Progress::Returned(returned),
            page = page(reading), if reading.is_some() => Progress::Page(page),
        }
    }

    /// Begins to submit the steps that were taken.
    pub(super) fn begin_submit(&mut self) {
        if self.batch.is_empty() || self.submitting.is_some() {
            return;
        }
        let Some(mut lane) = self.lane.take() else { return };
        let batch = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.batch_bytes);
        let work = async move {
            lane.reserve(bytes).await?.submit(batch);
            Ok(lane)
        };
        self.submitting = Some(Submitting { work: Box::pin(work), releases: Vec::new() });
    }

    fn submitted(&mut self, lane: Lane) {
        self.submitting = None;
        self.lane = Some(lane);
        self.submitted += 1;
    }

    /// Gets the last steps on their way; nobody waits for the verdicts. What does not get there is sent again.
    pub(super) async fn last_steps(&mut self) {
        while self.submitting.is_some() || !self.batch.is_empty() {
            self.begin_submit();
            let Ok(lane) = submission(&mut self.submitting).await else { return };
            self.submitted(lane);
        }
    }
}

async fn returned(returns: &mut Option<Returns>) -> Option<Returned> {
    match returns {
        Some(returns) => returns.recv().await,
        None => std::future::pending().await,
    }
}

async fn page(reading: &mut Option<Reading>) -> Result<Vec<SessionMessage>, StoreError> {
    match reading {
        Some(reading) => reading.page.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Connection {
    /// Something happened to the durable queue.
    pub(super) fn progressed(&mut self, progress: Progress) -> Result<(), Ending> {
        let Some(durable) = &mut self.durable else { return Ok(()) };
        match progress {
            Progress::Submitted(lane) => durable.submitted(lane?),
            Progress::Returned(returned) => self.steps_decided(returned.ok_or(Ending::StoreGone)?),
            Progress::Page(page) => {
                let until = durable.reading.take().map_or(0, |reading| reading.until);
                durable.opening = false;
                self.page(page?, until);
            }
        }
        Ok(())
    }

    /// Sends what is next in the queue, as far as there is room.
    pub(super) fn pump_queue(&mut self, now: Instant) {
        loop {
            let Some(durable) = &mut self.durable else { return };
            let room = durable.window.room();
            if durable.reading.is_some() || room == 0 || self.wire.output.len() >= WRITE_HIGH {
                break;
            }
            let seq = durable.window.cursor();
            match self.hub.fanout.next(self.claim.subscriber(), seq) {
                Next::Cached(delivery) => self.send_queued(seq, &delivery, now),
                Next::Read(until) if self.wire.output.len() < WRITE_HIGH / 2 => {
                    let (hub, session) = (Arc::clone(&self.hub), durable.session);
                    let page = Box::pin(async move { hub.intake.read_session(session, seq, room, PAGE_BYTES).await });
                    durable.reading = Some(Reading { page, until });
                }
                // With a page that small, reading would cost more than waiting until some of it is written.
                Next::Read(_) => {
                    self.claim.subscriber().doubt();
                    break;
                }
                Next::Asleep => break,
            }
        }
    }

    /// A page of the queue is here.
    fn page(&mut self, page: Vec<SessionMessage>, until: Sequence) {
        let now = Instant::now();
        let last = page.last().map(|message| message.seq);
        for SessionMessage { seq, qos, retain, subscription_ids, stage } in page {
            let Some(durable) = &mut self.durable else { return };
            durable.window.skip_to(seq);
            if durable.window.room() == 0 {
                break;
            }
            match stage {
                Stage::Received => {
                    durable.window.release(seq);
                    ack(&mut self.wire.output, self.version, AckKind::PubRel, packet_id(seq), Reason::SUCCESS);
                }
                Stage::Published { message, age_ms } => {
                    let at = now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now);
                    let publication = Arc::new(Publication::new(message, at));
                    let delivery = Delivery { publication, qos, retain, subscription_ids, share: None };
                    self.send_queued(seq, &delivery, now);
                }
            }
        }
        let Some(durable) = &mut self.durable else { return };
        match last {
            Some(last) => self.claim.subscriber().found(last + 1),
            None => durable.window.skip_to(until),
        }
        self.left(0, 0);
    }

    fn send_queued(&mut self, seq: Sequence, delivery: &Delivery, now: Instant) {
        let Some(sent_before) = self.durable.as_ref().map(|durable| durable.sent_before) else { return };
        let again = seq <= sent_before;
        let fate = self.encode(delivery, packet_id(seq), again, now);
        self.count_unsent(&fate);
        let Some(durable) = &mut self.durable else { return };
        let bytes = delivery.publication.message.footprint();
        match fate {
            Fate::Encoded => {
                durable.window.publish(seq, delivery.qos, bytes);
                let kept = &mut self.claim.kept;
                kept.sent = kept.sent.max(seq);
                self.hub.intake.sent(durable.session, kept.sent);
                self.tally.sent(&delivery.publication.message, delivery.qos);
            }
            // The client may hold half of it: the packet id is released first, or the next message under it would pass for
            // this one.
            Fate::Expired | Fate::TooLarge | Fate::Denied if again && delivery.qos == QoS::ExactlyOnce => {
                durable.window.withdraw(seq, bytes);
                self.step(seq, Step::Received);
            }
            Fate::Expired | Fate::TooLarge | Fate::Denied => {
                durable.window.pass_over(seq);
                self.step(seq, if matches!(fate, Fate::Expired) { Step::Expired } else { Step::TooLarge });
                self.left(1, bytes);
            }
        }
    }

    /// Messages have left the queue.
    fn left(&mut self, count: u64, bytes: usize) {
        if let Some(durable) = &self.durable {
            self.claim.subscriber().left(durable.window.head(), count, bytes);
        }
    }

    fn delivered(&mut self, left: Option<Left>) {
        if let Some(Left { seq, bytes }) = left {
            self.step(seq, Step::Delivered);
            self.left(1, bytes);
        }
    }

    /// PUBACK from a client whose session has a queue in the store; what is unknown harms nobody and is passed over.
    pub(super) fn queue_acknowledged(&mut self, id: u16) {
        let left = self.durable.as_mut().and_then(|durable| durable.window.acknowledged(id));
        self.delivered(left);
    }

    /// The same for PUBREC with an error.
    pub(super) fn queue_refused(&mut self, id: u16) {
        let left = self.durable.as_mut().and_then(|durable| durable.window.refused(id));
        self.delivered(left);
    }

    /// The same for PUBCOMP.
    pub(super) fn queue_completed(&mut self, id: u16) {
        let left = self.durable.as_mut().and_then(|durable| durable.window.completed(id));
        self.delivered(left);
    }

    /// The same for PUBREC.
    pub(super) fn queue_received(&mut self, id: u16) {
        let Some(durable) = &mut self.durable else { return };
        let reason = match durable.window.received(id) {
            Received::New(seq) => return self.step(seq, Step::Received),
            Received::Underway => return,
            Received::Again => Reason::SUCCESS,
            Received::Unknown => Reason::PACKET_ID_NOT_FOUND,
        };
        ack(&mut self.wire.output, self.version, AckKind::PubRel, id, reason);
    }

    fn step(&mut self, seq: Sequence, step: Step) {
        if let Some(durable) = &self.durable {
            let session = durable.session;
            self.entry(Entry::Step { session, seq, step }, STEP_BYTES);
        }
    }

    fn entry(&mut self, entry: Entry, bytes: usize) {
        let Some(durable) = &mut self.durable else { return };
        if durable.lane.is_none() && durable.submitting.is_none() {
            let (lane, returns) = self.hub.intake.lane(OnRefusal::Report, None);
            (durable.lane, durable.returns) = (Some(lane), Some(returns));
        }
        durable.batch.push(entry);
        durable.batch_bytes += bytes;
    }

    /// Puts a message into the queue of this session: retained ones that a new subscription is due, so that every packet
    /// id belongs to the queue.
    pub(super) fn queue_own(&mut self, delivery: &Delivery, now: Instant) {
        let Some(message) = delivery.publication.aged(now) else { return self.hub.metrics.drops.expired() };
        let routed = Routed::own(self.claim.subscriber(), delivery);
        if routed.copies.is_empty() {
            return;
        }
        let bytes = STEP_BYTES + message.footprint();
        let publish = Publish {
            message,
            streams: smallvec::SmallVec::new(),
            packet_id: None,
            copies: routed.copies,
            set_retained: false,
            retained_revision: 0,
            tag: 0,
        };
        self.entry(Entry::Publish(publish), bytes);
        if let Some(durable) = &mut self.durable {
            durable.own.push_back(routed.onward);
        }
    }

    /// The store has decided on steps.
    fn steps_decided(&mut self, returned: Returned) {
        if let Some(durable) = &mut self.durable {
            durable.submitted -= 1;
        }
        let hub = Arc::clone(&self.hub);
        for (entry, outcome) in returned.verdicts {
            let Some(durable) = &mut self.durable else { return };
            match (entry, outcome) {
                (Entry::Step { seq, step: Step::Received, .. }, Outcome::Refused(refusal)) => {
                    hub.metrics.refused(refusal.reason());
                    durable.refused.push(seq);
                    self.timer.as_mut().reset((Instant::now() + STEP_RETRY).into());
                }
                (Entry::Step { seq, step: Step::Received, .. }, _) => {
                    if durable.window.stored_received(seq) {
                        ack(&mut self.wire.output, self.version, AckKind::PubRel, packet_id(seq), Reason::SUCCESS);
                    }
                }
                (Entry::Step { seq, .. }, _) => durable.window.stored_left(seq),
                (Entry::Publish(publish), outcome) => {
                    let onward = durable.own.pop_front().unwrap_or_default();
                    if let Outcome::Refused(refusal) = outcome {
                        hub.metrics.refused(refusal.reason());
                    } else {
                        hub.fanout.round(Instant::now()).pass_on(publish.message, &publish.copies, onward);
                    }
                }
                (Entry::Release { .. } | Entry::Handover(_), _) => {}
            }
        }
    }

    /// Tells the store again what it could not take; false when there is nothing of the kind.
    pub(super) fn retry_steps(&mut self) -> bool {
        let Some(durable) = &mut self.durable else { return false };
        let refused = std::mem::take(&mut durable.refused);
        for seq in &refused {
            self.step(*seq, Step::Received);
        }
        !refused.is_empty()
    }
}
