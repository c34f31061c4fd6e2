//! Forwarding over one connection: fill the window, move bytes, take acknowledgements, until it ends.
//!
//! One task does it all, and whatever can wake it is a [`Wake`]. The expensive parts overlap: rows are read by the store's own thread
//! and arrive as a wake, encoding happens here between two polls of the socket, and the upstream works meanwhile.
//!
//! Filling waits until a quarter of the window is free: the upstream's acknowledgements come in small packets, and answering
//! each with one message would cost both sides a system call for every message. Nothing hangs on it, for while it waits there
//! is something in flight.

mod ending;
mod replies;
mod trial;

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use smallvec::SmallVec;
use tokio::{task::JoinSet, time::sleep_until};

use self::trial::{Others, Trial};
use super::{
    Envelope, ForwardError, envelope,
    feed::Feed,
    ledger::{Ledger, Plan},
    letter,
    progress::{Progress, Standing},
    reasons::TOO_LARGE,
    task::{Rows, Task},
};
use crate::{
    message::QoS,
    store::{Fate, Sequence, StoreError},
    uplink::{self, Answer as Reception, Delivery, Event, Greeting, Session, TooLarge, Upstream},
};

/// Bytes queued for the connection before filling stops.
const QUEUE_BYTES: usize = 128 * 1024;

/// Longest time without a turn of the loop, while there is anything to do.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// The same while there is not: whoever looks at the heartbeat wakes the loop.
const REST: Duration = Duration::from_secs(10);

/// How long to wait for what is in flight before a connection is closed for another reason than stopping.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A connection that lasted this long was a good one, even if there was nothing to acknowledge.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// One connection, being used.
pub(super) struct Connection<'task, U: Upstream> {
    task: &'task mut Task,
    upstream: &'task U,
    session: U::Session,
    greeting: Greeting,
    window: u16,
    events: Vec<Event>,
    /// Messages that are queued and not wholly written, in the order of their last bytes.
    unwritten: VecDeque<Unwritten>,
    mode: Mode,
    since: Instant,
    /// Answers that were due, of any kind.
    answered: u64,
    /// Whether the upstream took a message.
    took_any: bool,
    progress: Progress,
    pace_until: Option<Instant>,
    /// The try of a suspect that is under way.
    trial: Option<Trial>,
    /// Per lane: the oldest in flight while later ones are done, and since when.
    overtaken: Vec<Option<(Sequence, Instant)>>,
    overtaken_look: Instant,
    wants_new_session: bool,
    said_retain: bool,
    /// At most one look whether the first address is back.
    lookout: JoinSet<bool>,
}

struct Unwritten {
    /// Position behind its last byte.
    end: u64,
    lane: usize,
    seq: Sequence,
}

enum Mode {
    Sending,
    /// Nothing new is sent; what is in flight is waited for.
    Draining {
        why: Why,
        until: Instant,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    Stop,
    FailBack,
    Refused(String),
    /// Messages for us were left unacknowledged for want of room; there is room again.
    LeftBehind,
}

/// Everything that can wake the task while it is connected.
enum Wake {
    Upstream(Result<(), uplink::Error>),
    Rows(Rows),
    Settled(Result<(), StoreError>),
    Backlog,
    Stop,
    FirstIsBack(bool),
    Answer(Reception),
    Tuned,
    Time,
}

/// Why a connection ends.
enum Cause {
    Drained(Why),
    NoProgress,
    /// This one was never answered, though later ones were.
    Overtaken {
        lane: usize,
        seq: Sequence,
    },
    Failed(uplink::Error),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) next: Next,
    /// Whether it was a good connection: something was taken, or it lasted.
    pub(super) was_good: bool,
    /// Whether the session may be resumed.
    pub(super) may_resume: bool,
}

/// What to do after a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// End the task.
    Stop,
    /// Connect again at once.
    Reconnect,
    /// Connect again after a backoff.
    BackOff,
}

impl<'task, U: Upstream> Connection<'task, U> {
    pub(super) fn new(task: &'task mut Task, upstream: &'task U, session: U::Session) -> Self {
        let now = Instant::now();
        task.tune();
        let greeting = session.greeting().clone();
        let window = greeting.window.min(task.settings.max_inflight).max(1);
        let progress = Progress::new(task.settings.progress_timeout);
        let lanes = task.feeds.len();
        Self {
            task,
            upstream,
            session,
            greeting,
            window,
            events: Vec::new(),
            unwritten: VecDeque::new(),
            mode: Mode::Sending,
            since: now,
            answered: 0,
            took_any: false,
            progress,
            pace_until: None,
            trial: None,
            overtaken: vec![None; lanes],
            overtaken_look: now + BEAT,
            wants_new_session: false,
            said_retain: false,
            lookout: JoinSet::new(),
        }
    }

    /// Forwards until the connection ends, whoever ends it.
    pub(super) async fn run(mut self) -> Result<End, ForwardError> {
        for id in self.task.ledger.connect(self.window, self.greeting.resumed) {
            self.session.queue_release(id);
        }
        self.task.restart_feeds();
        self.task.suspects.connected(self.greeting.qos != QoS::AtMostOnce);
        self.task.fail_back.connected(self.greeting.is_first_url(), self.since, fastrand::f64());
        self.task.inbound.connected(&self.greeting);
        self.task.status.connected(&self.greeting, self.window, self.task.waiting());
        let cause = loop {
            let now = Instant::now();
            self.task.status.beat();
            self.fill(now);
            self.task.start_reads(now);
            self.task.start_settling(now);
            self.look_out(now);
            let deadline = match self.check(now) {
                Ok(deadline) => deadline,
                Err(cause) => break cause,
            };
            let wake = self.wake(deadline).await?;
            if let Some(error) = self.handle(wake)? {
                break Cause::Failed(error);
            }
        };
        Ok(self.end(cause).await)
    }

    async fn wake(&mut self, deadline: Instant) -> Result<Wake, ForwardError> {
        let task = &mut *self.task;
        Ok(tokio::select! {
            result = self.session.drive(&mut self.events) => Wake::Upstream(result),
            Some(rows) = task.reads.join_next() => Wake::Rows(rows?),
            Some(settled) = task.settling.join_next() => Wake::Settled(settled?),
            Some(back) = self.lookout.join_next() => Wake::FirstIsBack(back?),
            () = task.backlog.notified() => Wake::Backlog,
            () = task.stop.requested() => Wake::Stop,
            answer = task.inbound.answer() => Wake::Answer(answer),
            Ok(()) = task.tuning.changed() => Wake::Tuned,
            () = task.status.asked() => Wake::Time,
            () = sleep_until(deadline.into()) => Wake::Time,
        })
    }

    fn handle(&mut self, wake: Wake) -> Result<Option<uplink::Error>, ForwardError> {
        match wake {
            Wake::Upstream(result) => {
                self.take_events();
                self.take_written();
                return Ok(result.err());
            }
            Wake::Rows(rows) => self.task.take_rows(rows)?,
            Wake::Settled(settled) => settled?,
            Wake::Stop => self.drain(Why::Stop, self.task.stop.deadline()),
            Wake::Answer(answer) => self.session.queue_answer(answer),
            Wake::Tuned => {
                self.task.tune();
                self.progress.set_limit(self.task.settings.progress_timeout);
                self.pace_until = None;
            }
            Wake::FirstIsBack(true) => self.drain(Why::FailBack, Instant::now() + DRAIN_TIME),
            Wake::FirstIsBack(false) => self.task.fail_back.not_now(Instant::now(), fastrand::f64()),
            Wake::Backlog | Wake::Time => {}
        }
        Ok(None)
    }

    /// Whether the connection is to end now; otherwise, when to look again.
    fn check(&mut self, now: Instant) -> Result<Instant, Cause> {
        let in_flight = self.task.ledger.in_flight();
        let with_id = if self.greeting.qos == QoS::AtMostOnce { 0 } else { self.unwritten.len() };
        self.task.status.in_flight(in_flight);
        let has_queued = self.session.queued_bytes() > 0;
        if self.task.inbound.wants_again() {
            self.drain(Why::LeftBehind, now + DRAIN_TIME);
        }
        let is_at_rest = in_flight == 0 && !has_queued && self.unwritten.is_empty() && self.task.has_nothing_to_do();
        let mut deadline = now + if is_at_rest { REST } else { BEAT };
        if let Mode::Draining { why, until } = &self.mode {
            let is_empty = in_flight == 0 && !has_queued && self.unwritten.is_empty();
            if is_empty || (now >= *until && *why != Why::FailBack) {
                return Err(Cause::Drained(why.clone()));
            }
            deadline = deadline.min(*until);
            if now >= *until {
                // What is in flight here would come twice from there.
                self.task.fail_back.not_now(now, fastrand::f64());
                self.mode = Mode::Sending;
                deadline = now;
            }
        }
        let standing = Standing {
            acknowledged: self.answered,
            awaits_acknowledgement: in_flight > with_id,
            written: self.session.written(),
            has_queued,
        };
        let stuck_at = self.progress.look(now, standing);
        if stuck_at.is_some_and(|at| now >= at) {
            return Err(Cause::NoProgress);
        }
        self.look_for_overtaken(now)?;
        let ping_at = self.session.keep_alive(now).map_err(Cause::Failed)?;
        let trial_at = self.check_trial(now)?;
        let look_at = self.task.fail_back.look_at();
        let others = [stuck_at, ping_at, self.pace_until, self.task.settle_at(), trial_at, look_at];
        Ok(others.into_iter().flatten().fold(deadline, Instant::min))
    }

    /// A message that is left unanswered while later ones of its stream are answered holds up the stream (guarantee G6), though something moves.
    fn look_for_overtaken(&mut self, now: Instant) -> Result<(), Cause> {
        if now < self.overtaken_look {
            return Ok(());
        }
        self.overtaken_look = now + BEAT.min(self.task.settings.progress_timeout / 4);
        for (lane, seen) in self.overtaken.iter_mut().enumerate() {
            let seq = self.task.ledger.overtaken(lane);
            match (seq, &seen) {
                (Some(seq), Some((before, since))) if seq == *before => {
                    if now >= *since + self.task.settings.progress_timeout {
                        return Err(Cause::Overtaken { lane, seq });
                    }
                }
                (Some(seq), _) => *seen = Some((seq, now)),
                (None, _) => *seen = None,
            }
        }
        Ok(())
    }

    fn look_out(&mut self, now: Instant) {
        if self.task.fail_back.look_at().is_some_and(|at| now >= at) {
            self.task.fail_back.looking();
            self.lookout.spawn(self.upstream.first_is_back());
        }
    }

    fn drain(&mut self, why: Why, until: Instant) {
        let is_stopping = matches!(&self.mode, Mode::Draining { why: Why::Stop, .. });
        let is_draining = matches!(&self.mode, Mode::Draining { .. });
        if !is_stopping && (!is_draining || why == Why::Stop) {
            self.mode = Mode::Draining { why, until };
        }
    }

    /// Queues messages for as long as there is room, allowance, and something to send.
    fn fill(&mut self, now: Instant) {
        self.pace_until = None;
        for id in self.task.look_at_replays() {
            self.session.queue_release(id);
        }
        if !self.may_send() || self.step_trial(now) == Others::Wait || self.waits_for_room() {
            return;
        }
        self.task.feeds.iter_mut().for_each(Feed::forget_what_left);
        while self.session.queued_bytes() < QUEUE_BYTES {
            let Task { turns, feeds, ledger, suspects, .. } = &mut *self.task;
            let ready = |lane: usize| is_ready(&feeds[lane], ledger, lane) && !suspects.is_held(lane);
            let Some(lane) = turns.next(ready) else { return };
            if self.send_front(lane, now).is_break() {
                return;
            }
        }
    }

    /// Whether anything new may be sent.
    fn may_send(&self) -> bool {
        matches!(self.mode, Mode::Sending) && !self.task.hushed.load(Ordering::Acquire)
    }

    fn waits_for_room(&self) -> bool {
        let ledger = &self.task.ledger;
        self.greeting.qos != QoS::AtMostOnce
            && ledger.in_flight() > 0
            && ledger.room() < usize::from(self.window / 4).max(1)
            // Deliveries in doubt come again without needing room.
            && !(self.greeting.resumed && ledger.has_doubts())
    }

    /// Deals with the next message of a lane: sends it, settles it, or says that this is not the time.
    fn send_front(&mut self, lane: usize, now: Instant) -> ControlFlow<()> {
        let Task { feeds, ledger, .. } = &mut *self.task;
        let Some(seq) = feeds[lane].front().map(|(_, stored)| stored.seq) else { return ControlFlow::Continue(()) };
        for id in ledger.pass_over(lane, seq) {
            self.session.queue_release(id);
        }
        let again = match ledger.plan(lane, seq) {
            Plan::Skip => {
                feeds[lane].pop();
                return ControlFlow::Continue(());
            }
            Plan::Send if self.greeting.qos != QoS::AtMostOnce && ledger.room() == 0 => return ControlFlow::Break(()),
            Plan::Send => None,
            Plan::SendAgain(id) => Some(id),
        };
        match self.queue_row(lane, 0, again, now) {
            Ok(Some(end)) => {
                self.unwritten.push_back(Unwritten { end, lane, seq });
                let Task { turns, feeds, .. } = &mut *self.task;
                turns.sent(lane, feeds[lane].front().map_or(0, |(_, stored)| u64::from(stored.bytes)));
                feeds[lane].pop();
                ControlFlow::Continue(())
            }
            Ok(None) => ControlFlow::Break(()),
            Err(fate) => {
                self.task.settle(lane, seq, fate);
                self.task.feeds[lane].pop();
                ControlFlow::Continue(())
            }
        }
    }

    /// Queues a message that a lane has in memory, `again` under its old id. `None`: there is no allowance for it yet.
    fn queue_row(&mut self, lane: usize, index: usize, again: Option<u16>, now: Instant) -> Result<Option<u64>, Fate> {
        let Task { feeds, ledger, pacing, stamp, status, sources, .. } = &mut *self.task;
        let feed = &feeds[lane];
        let Some((read_at, stored)) = feed.rows().nth(index) else { return Ok(None) };
        let waited = now.saturating_duration_since(*read_at);
        let letter = letter::prepare(&feed.route, stored, waited, again.is_some())?;
        let message = &stored.message;
        let (tg_id, tg_time) = stamp.write(&feed.route.name, stored);
        let wrapped = (feed.route.envelope == Envelope::Json)
            .then(|| (envelope::wrap(tg_id, tg_time, message), envelope::properties(message.properties.as_deref())));
        let grown = wrapped.as_ref().map_or(0, |(payload, _)| payload.len().saturating_sub(message.payload.len()));
        if let Err(at) = pacing.take(now, u64::from(stored.bytes) + grown as u64) {
            self.pace_until = Some(at);
            return Ok(None);
        }
        if message.retain && !self.greeting.retain_available && !self.said_retain {
            self.said_retain = true;
            status.retain_not_available();
        }
        let unsynced = (!letter::clock_synced(stored)).then_some(("tg-clock", "unsynced"));
        let again_asked = sources[lane].is_replay().then_some(("tg-replay", "1"));
        let marks: SmallVec<[_; 4]> =
            [("tg-id", tg_id), ("tg-time", tg_time)].into_iter().chain(unsynced).chain(again_asked).collect();
        let qos = self.greeting.qos;
        let id = again.unwrap_or_else(|| if qos == QoS::AtMostOnce { 0 } else { ledger.next_id() });
        let delivery = Delivery {
            id,
            qos,
            dup: again.is_some(),
            retain: message.retain && self.greeting.retain_available,
            topic: &letter.topic,
            payload: wrapped.as_ref().map_or(&message.payload, |(payload, _)| payload),
            expiry_s: letter.expiry_s,
            properties: wrapped.as_ref().map(|(_, properties)| properties).or(message.properties.as_deref()),
            marks: &marks,
        };
        let too_large = |error: TooLarge| Fate::Dead { reason: TOO_LARGE, detail: error.to_string() };
        let end = self.session.queue(&delivery).map_err(too_large)?;
        ledger.sent(lane, stored.seq, id, qos, now);
        Ok(Some(end))
    }

    fn take_written(&mut self) {
        let written = self.session.written();
        while let Some(first) = self.unwritten.front().filter(|first| first.end <= written) {
            let (lane, seq) = (first.lane, first.seq);
            self.unwritten.pop_front();
            if self.greeting.qos == QoS::AtMostOnce {
                self.task.settle(lane, seq, Fate::Forwarded);
            }
        }
    }
}

/// Whether the next message of a lane may be dealt with. Of a paused one only what is on its way already: a delivery in doubt comes again.
fn is_ready(feed: &Feed, ledger: &Ledger, lane: usize) -> bool {
    let Some((_, stored)) = feed.front() else { return false };
    ledger.lane_has_room(lane) && (!feed.is_paused() || ledger.plan(lane, stored.seq) != Plan::Send)
}
