//! Delivery: from the store to local clients, oldest first, again whenever somebody comes who may want what waits.
//!
//! One task, which reads what waits page by page ([`desk`](super::desk) decides what may go), then sleeps until a message, a change of
//! subscriptions, a report from clients, or the time of the oldest message wakes it. Steps are committed before anything is
//! read again, so that nothing is offered that has left.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    desk::{Again, Desk, WINDOW, Way},
    reception::Place,
};
use crate::{
    broker::{Kept, Locals, Look, Receipt, Report},
    message::Message,
    store::{
        self, Entry, Handover, Lane, OnRefusal, Outcome, Returns, Sequence, SessionMessage, Stage, Step, StoreError,
    },
    topic::TopicName,
};

/// Most messages and bytes that are looked at together.
const PAGE_MESSAGES: usize = 256;
const PAGE_BYTES: usize = 256 << 10;

/// Most messages that move into queues in one transaction.
const BATCH: usize = 64;

/// How soon somebody who wants a message and could not take it is offered it again; and at most how often the oldest is looked at.
const RETRY: Duration = Duration::from_secs(2);

/// How long a commit may take before that is said.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// A message on its way into queues.
struct Leaving {
    seq: Sequence,
    topic: TopicName,
    entry: Entry,
    kept: Kept,
}

/// The messages of one downlink on their way to clients.
pub(super) struct Delivery {
    place: Place,
    store: store::Handle,
    locals: Locals,
    stop: CancellationToken,
    desk: Desk,
    changes: watch::Receiver<u64>,
    tell: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    /// The next message to look at.
    cursor: Sequence,
    /// What has left and is not committed yet.
    steps: Vec<Entry>,
    gone: HashSet<Sequence>,
    batch: Vec<Leaving>,
    hold: (Lane, Returns),
    lane: (Lane, Returns),
    /// Changes when damage was mended while running.
    salvages: watch::Receiver<u64>,
    sweep_now: bool,
    sweep_at: Option<Instant>,
    /// When the present sweep began, while it runs, and how long the last one took.
    sweep_running: Option<Instant>,
    sweep_took: Duration,
}

/// What woke it.
enum Wake {
    Stop,
    Report(Option<Report>),
    News,
}

impl Delivery {
    pub(super) fn new(place: Place, store: store::Handle, locals: Locals, stop: CancellationToken) -> Self {
        // A place for every message that is out.
        let (tell, reports) = mpsc::channel(WINDOW);
        Self {
            changes: locals.changes(),
            salvages: store.salvages(),
            hold: store.lane(OnRefusal::Hold, None),
            lane: store.lane(OnRefusal::Report, None),
            place,
            store,
            locals,
            stop,
            desk: Desk::default(),
            tell,
            reports,
            cursor: 0,
            steps: Vec::new(),
            gone: HashSet::new(),
            batch: Vec::with_capacity(BATCH),
            sweep_now: true,
            sweep_at: None,
            sweep_running: None,
            sweep_took: Duration::ZERO,
        }
    }

    /// Delivers until it is stopped or the store has failed.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        loop {
            self.take_reports();
            self.commit_steps().await?;
            if self.stop.is_cancelled() {
                return Ok(());
            }
            if self.desk.must_begin_anew(self.changes_now()) {
                self.sweep_now = true;
            }
            if std::mem::take(&mut self.sweep_now) {
                self.begin_sweep();
            }
            if self.salvages.has_changed().unwrap_or(false) {
                self.after_damage().await?;
            }
            let queue = self.place.queue.id();
            let page = self.store.read_session(queue, self.cursor, PAGE_MESSAGES, PAGE_BYTES).await?;
            if page.is_empty() {
                self.sweep_took =
                    std::mem::take(&mut self.sweep_running).map_or(self.sweep_took, |began| began.elapsed());
                self.rest().await;
            } else {
                self.page(page).await?;
            }
        }
    }

    fn changes_now(&self) -> u64 {
        *self.changes.borrow()
    }

    fn begin_sweep(&mut self) {
        let changes = *self.changes.borrow_and_update();
        self.desk.begin(changes);
        (self.cursor, self.sweep_at, self.sweep_running) = (0, None, Some(Instant::now()));
    }

    /// The queue may be another one, whose numbers begin anew: then nothing is out of it.
    async fn after_damage(&mut self) -> Result<(), StoreError> {
        self.salvages.borrow_and_update();
        self.sweep_now = true;
        if self.place.queue.renew(&self.store).await? {
            (self.tell, self.reports) = mpsc::channel(WINDOW);
            self.desk = Desk::default();
            self.begin_sweep();
        }
        Ok(())
    }

    /// Waits until there is something to do.
    async fn rest(&mut self) {
        if self.changes_now() != self.desk.changes() {
            self.sweep_now = true;
            return;
        }
        // Far away where nothing waits for its time.
        let sweep_at = self.sweep_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(24 * 3600));
        let wake = tokio::select! {
            () = self.stop.cancelled() => Wake::Stop,
            report = self.reports.recv() => Wake::Report(report),
            () = self.place.news.notified() => Wake::News,
            _ = self.salvages.changed() => {
                self.salvages.mark_changed();
                Wake::News
            }
            _ = self.changes.changed() => {
                self.sweep_now = true;
                Wake::News
            }
            () = sleep_until(sweep_at.into()) => {
                self.sweep_now = true;
                Wake::News
            }
        };
        match wake {
            Wake::Report(Some(report)) => self.report(report),
            Wake::Report(None) | Wake::Stop | Wake::News => {}
        }
    }

    fn take_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.report(report);
        }
    }

    fn report(&mut self, Report { seq, taken }: Report) {
        let again = if taken {
            self.leaves(seq, Step::Delivered);
            self.desk.taken(seq)
        } else {
            self.desk.came_back(seq, self.changes_now())
        };
        match again {
            Again::Never => {}
            Again::Now => self.sweep_now = true,
            Again::Later => self.retry(),
        }
    }

    fn leaves(&mut self, seq: Sequence, step: Step) {
        self.steps.push(Entry::Step { session: self.place.queue.id(), seq, step });
        self.gone.insert(seq);
    }

    fn retry(&mut self) {
        self.wake_at(Instant::now() + RETRY);
    }

    fn wake_at(&mut self, at: Instant) {
        // Not all the time, however many there are.
        let at = at.max(Instant::now() + self.sweep_took.saturating_mul(10).max(RETRY / 2));
        self.sweep_at = Some(self.sweep_at.map_or(at, |before| before.min(at)));
    }

    /// Has what has left committed. A full disk makes that wait; nothing is offered meanwhile, or it could be offered twice.
    async fn commit_steps(&mut self) -> Result<(), StoreError> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let (lane, returns) = &mut self.lane;
        let steps = std::mem::take(&mut self.steps);
        lane.reserve(steps.len() * size_of::<Entry>()).await?.submit(steps);
        returns.recv().await.ok_or(StoreError::Closed)?;
        // Steps alone are written within a second; here they are waited for.
        // Asked once, however long that takes: what waits for a disk in trouble takes the place of others there.
        let mut flushed = std::pin::pin!(self.store.flush(Duration::MAX));
        let mut is_said = false;
        loop {
            match timeout(COMMIT_PATIENCE, &mut flushed).await {
                Ok(flushed) => {
                    flushed?;
                    break;
                }
                Err(_) if self.stop.is_cancelled() => break,
                Err(_) if is_said => {}
                Err(_) => {
                    is_said = true;
                    let downlink = &self.place.settings.name;
                    tracing::warn!(downlink, "deliveries are not committed: the store takes very long");
                }
            }
        }
        self.gone.clear();
        Ok(())
    }

    /// Deals with waiting messages, oldest first.
    async fn page(&mut self, page: Vec<SessionMessage>) -> Result<(), StoreError> {
        let now = Instant::now();
        for SessionMessage { seq, stage, .. } in page {
            self.take_reports();
            self.cursor = seq + 1;
            let Stage::Published { message, age_ms } = stage else { continue };
            if self.desk.is_out(seq) || self.gone.contains(&seq) {
                continue;
            }
            let at = now.checked_sub(Duration::from_millis(age_ms)).unwrap_or(now);
            if let Some(left) = self.time_left(&message, age_ms) {
                self.wake_at(now + left);
                self.look(seq, message, at).await?;
            } else {
                self.leaves(seq, Step::Expired);
            }
        }
        self.move_batch().await
    }

    /// How long a message may still wait; `None` where its time has passed.
    fn time_left(&self, message: &Message, age_ms: u64) -> Option<Duration> {
        let age = Duration::from_millis(age_ms);
        let expiry = message.properties.as_ref().and_then(|properties| properties.message_expiry_s);
        let ttl = self.place.settings.ttl;
        let limit = expiry.map_or(ttl, |seconds| ttl.min(Duration::from_secs(seconds.into())));
        limit.checked_sub(age).filter(|left| !left.is_zero())
    }

    /// Gives a message to whoever wants it now.
    async fn look(&mut self, seq: Sequence, message: Message, at: Instant) -> Result<(), StoreError> {
        let topic = message.topic.clone();
        if self.desk.is_left(&topic) {
            return Ok(());
        }
        let before = self.changes_now();
        let look = self.locals.look(aged(message.clone(), at));
        if look.is_kept() {
            if self.desk.may_go(&topic, Way::Kept, self.changes_now()) {
                self.put_into_batch(seq, topic, look);
                if self.batch.len() >= BATCH {
                    self.move_batch().await?;
                }
            }
            return Ok(());
        }
        if self.batch.iter().any(|leaving| leaving.topic == topic) {
            self.move_batch().await?;
        }
        if self.changes_now() != before || !self.desk.may_go(&topic, Way::Offered, before) {
            self.desk.leave(&topic);
            return Ok(());
        }
        self.desk.goes_out(seq, &topic, before);
        let receipt = Receipt::new(seq, self.tell.clone());
        let look = look.with_message(message);
        if !self.locals.offer(look, at, receipt, before) {
            self.desk.stays(seq);
        }
        Ok(())
    }

    fn put_into_batch(&mut self, seq: Sequence, topic: TopicName, look: Look) {
        let (publish, kept) = Locals::to_keep(look);
        let entry = Entry::Handover(Box::new(Handover { from: self.place.queue.id(), seq, publish }));
        self.batch.push(Leaving { seq, topic, entry, kept });
    }

    /// Moves what was gathered into the queues of its receivers. What a queue does not take stays, with all of its topic.
    async fn move_batch(&mut self) -> Result<(), StoreError> {
        while !self.batch.is_empty() {
            let mut leaving = Vec::with_capacity(self.batch.len());
            let mut entries = Vec::with_capacity(self.batch.len());
            for Leaving { seq, topic, entry, kept } in self.batch.drain(..) {
                leaving.push((seq, topic, kept));
                entries.push(entry);
            }
            let bytes = entries.iter().map(bytes_of).sum();
            let (lane, returns) = &mut self.hold;
            lane.reserve(bytes).await?.submit(entries);
            let returned = returns.recv().await.ok_or(StoreError::Closed)?;
            let mut leaving = leaving.into_iter();
            for ((entry, outcome), (seq, topic, kept)) in returned.verdicts.into_iter().zip(&mut leaving) {
                self.moved(entry, outcome, (seq, topic, kept));
            }
            self.put_back(returned.held, leaving);
        }
        Ok(())
    }

    fn moved(&mut self, entry: Entry, outcome: Outcome, (seq, topic, kept): (Sequence, TopicName, Kept)) {
        match (entry, outcome) {
            (Entry::Handover(handover), Outcome::Accepted) => self.locals.kept(handover.publish, kept),
            (_, Outcome::Refused(refusal)) => {
                let (downlink, reason) = (&self.place.settings.name, refusal.reason());
                tracing::debug!(downlink, seq, reason, "a command stays, for its receiver has no room");
                self.desk.leave(&topic);
                self.retry();
            }
            // It had left before.
            (_, Outcome::Accepted | Outcome::Duplicate | Outcome::Released | Outcome::Stepped) => {}
        }
    }

    /// The store held these back: the first has no room, and the others are tried without its topic.
    fn put_back(&mut self, held: Vec<Entry>, leaving: impl Iterator<Item = (Sequence, TopicName, Kept)>) {
        if held.is_empty() {
            return;
        }
        self.hold = self.store.lane(OnRefusal::Hold, None);
        self.retry();
        let is_full = self.store.stats().refusing.is_some();
        for (place, (entry, (seq, topic, kept))) in held.into_iter().zip(leaving).enumerate() {
            if place == 0 || is_full || self.desk.is_left(&topic) {
                self.desk.leave(&topic);
            } else {
                self.batch.push(Leaving { seq, topic, entry, kept });
            }
        }
    }
}

/// The message with its expiry interval lowered by the time that it has waited (MQTT 5, section 3.3.2.3.3); at least 1 is left.
fn aged(mut message: Message, at: Instant) -> Message {
    if let Some(properties) = &mut message.properties
        && let Some(seconds) = &mut properties.message_expiry_s
    {
        *seconds = seconds.saturating_sub(u32::try_from(at.elapsed().as_secs()).unwrap_or(u32::MAX)).max(1);
    }
    message
}

fn bytes_of(entry: &Entry) -> usize {
    const FIXED: usize = 128;
    match entry {
        Entry::Handover(handover) => FIXED + handover.publish.message.footprint(),
        Entry::Publish(_) | Entry::Release { .. } | Entry::Step { .. } => FIXED,
    }
}
