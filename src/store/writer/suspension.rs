//! Suspended: the disk fails, or the database is being salvaged. Nothing is stored and nothing is acknowledged, nothing else stops,
//! and work goes on by itself, in the same process.
//!
//! # What becomes of what comes
//!
//! | what | what happens |
//! | --- | --- |
//! | a message on a lane that reports | refused ([`Refusal::Suspended`]), QoS 0 counted |
//! | a message on a lane that holds | held, as on a full disk |
//! | QoS 2 in a session that is remembered, and its release | *withheld*: it may be known already, and "refused" would free a packet id that the database still knows |
//! | settlements, sessions, deletions | kept until they can be written, in order; bounded by their permits |
//! | lazy steps | kept, or forgotten as by a crash where there are too many |
//! | reads | kept by the reader; bounded by their permits |
//!
//! *In doubt.* Where the commit failed in its last moment, the transaction may be found in the log afterwards (see [`mend`]). Its
//! jobs are withheld, and so is what follows them on the same lanes. Once the books are loaded anew they say whether it is
//! there: then its outcomes are given; else it is decided again. To refuse it meanwhile could be a lie. A crash
//! while it is in doubt: nobody was told anything.
//!
//! # How long
//!
//! Tried again after 1 s, then after twice as long each time up to 30 s; trouble that is back within a minute goes on where it
//! was. What cannot be read four times in a row is damage. Damage is salvaged at once; where that fails (no space), it is tried again as
//! anything else.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering, mpsc::RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{desk::Desk, resume};
use crate::{
    message::QoS,
    store::{
        api::{Entry, OnRefusal, Outcome, Publish, Refusal, StreamId},
        failure::Failure,
        lane::LaneShared,
        mend::{self, Errand, Mended},
        opening::{DATABASE, LoadError, Loaded},
        sessions::Step,
        shared::{Batch, Blocked, Control, Job, Suspended, Work, locked},
    },
};

const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Longest wait after a salvage that failed: each try reads and writes as much as there is.
const SALVAGE_WAIT_MAX: Duration = Duration::from_secs(300);

/// Trouble that is back within this time goes on where it was.
const RELAPSE: Duration = Duration::from_secs(60);

/// So many times in a row a place is tried that cannot be read, before it is damage.
const UNREADABLE_MAX: u32 = 4;

/// How often to look whether a try is through, at least.
const POLL: Duration = Duration::from_millis(20);

/// How often the log says that it is still so.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How long a try that is under way is waited for when the store closes.
const CLOSE_GRACE: Duration = Duration::from_secs(10);

/// What is remembered from one suspension to the next.
#[derive(Debug, Default)]
pub(super) struct History {
    ended: Option<Instant>,
    wait: Duration,
    unreadable: u32,
}

struct Suspension<'d> {
    desk: &'d mut Desk,
    cause: String,
    damage: Option<String>,
    since: Instant,
    refused: u64,
    /// Lanes whose batches wait, by address: the batches keep them alive.
    withheld: HashSet<usize>,
    mending: Option<JoinHandle<Result<Mended, LoadError>>>,
    next_try: Instant,
    wait: Duration,
    told: Instant,
    beaten: Instant,
    close_by: Option<Instant>,
}

/// Refuses what comes until the store works again; fails where that can never be, or where the store is closed first.
pub(super) fn wait_for_disk(desk: &mut Desk, failure: Failure) -> Result<Loaded, Failure> {
    let now = Instant::now();
    let history = &mut desk.history;
    let relapsed = history.ended.is_some_and(|ended| now.duration_since(ended) < RELAPSE);
    if !relapsed {
        *history = History::default();
    }
    let wait = (history.wait * 2).clamp(WAIT_MIN, WAIT_MAX);
    let mut suspension = Suspension {
        desk,
        cause: String::new(),
        damage: None,
        since: now,
        refused: 0,
        withheld: HashSet::new(),
        mending: None,
        next_try: now + wait,
        wait,
        told: now,
        beaten: now,
        close_by: None,
    };
    match failure {
        Failure::Damaged(cause) => suspension.is_damaged(cause),
        Failure::Unreadable(cause) => suspension.is_unreadable(cause),
        Failure::Full(cause) | Failure::Trouble(cause) | Failure::Fatal(cause) => suspension.is_in_trouble(&cause),
    }
    tracing::error!(
        state = "suspended",
        error = suspension.cause,
        "the store is suspended: messages are refused until it works again"
    );
    // Shown first: whoever gets something back asks at once whether there is room.
    suspension.show(true);
    suspension.keep_failed();
    suspension.run()
}

impl Suspension<'_> {
    fn is_in_trouble(&mut self, cause: &str) {
        self.cause = format!("the disk does not take writes: {cause}");
    }

    fn is_damaged(&mut self, cause: String) {
        self.cause = format!("a damaged database is being salvaged: {cause}");
        self.damage = Some(cause);
        self.next_try = Instant::now();
    }

    fn is_unreadable(&mut self, cause: String) {
        self.desk.history.unreadable += 1;
        if self.desk.history.unreadable >= UNREADABLE_MAX {
            return self.is_damaged(cause);
        }
        self.cause = format!("the database cannot be read: {cause}");
    }

    fn run(mut self) -> Result<Loaded, Failure> {
        loop {
            let now = Instant::now();
            if now.duration_since(self.beaten) >= Duration::from_millis(500) {
                self.beaten = now;
                self.desk.shared.heartbeat.fetch_add(1, Ordering::Relaxed);
            }
            if now.duration_since(self.told) >= TELL_EVERY {
                self.told = now;
                let for_s = self.since.elapsed().as_secs();
                tracing::warn!(error = self.cause, for_s, refused = self.refused, "the store is still suspended");
            }
            if let Some(mended) = self.tried()? {
                return Ok(self.resume(mended));
            }
            if self.close_by.is_some_and(|by| now >= by) {
                return Err(Failure::Trouble(format!("closed while {}", self.cause)));
            }
            if self.mending.is_none() && now >= self.next_try {
                self.mending = Some(self.begin_to_mend()?);
            }
            let poll =
                if self.mending.is_some() || self.close_by.is_some() { POLL } else { Duration::from_millis(500) };
            match self.desk.queue.recv_timeout(poll.min(self.next_try.saturating_duration_since(now).max(POLL))) {
                Ok(Work::Job(job)) => self.take(job),
                // Nothing could be added now.
                Ok(Work::Configure(configure)) => configure.refuse(Refusal::Suspended),
                Ok(Work::Close) => self.close(),
                Ok(Work::Trouble { .. }) | Err(RecvTimeoutError::Timeout) => {}
                #[cfg(test)]
                Ok(Work::Abandon) => return Err(Failure::Fatal("abandoned".to_owned())),
                #[cfg(test)]
                Ok(Work::MaxPages(_) | Work::NoSpace(_)) => {}
                Err(RecvTimeoutError::Disconnected) => self.close(),
            }
        }
    }

    /// One more try, and the end.
    fn close(&mut self) {
        let now = Instant::now();
        self.desk.kept.closing = true;
        self.close_by.get_or_insert(now + CLOSE_GRACE);
        self.next_try = now;
    }

    fn begin_to_mend(&self) -> Result<JoinHandle<Result<Mended, LoadError>>, Failure> {
        let errand = Errand {
            settings: self.desk.settings.clone(),
            streams: self.desk.streams.clone(),
            shared: Arc::clone(&self.desk.shared),
            damage: self.damage.clone(),
        };
        let thread = std::thread::Builder::new().name("store-mender".to_owned());
        thread.spawn(move || mend::mend(&errand)).map_err(|error| Failure::Fatal(format!("no thread: {error}")))
    }

    /// What came of the try that is under way, if it is through.
    fn tried(&mut self) -> Result<Option<Mended>, Failure> {
        let Some(mending) = self.mending.take_if(|mending| mending.is_finished()) else { return Ok(None) };
        let Ok(result) = mending.join() else { return Err(Failure::Fatal("mending the store panicked".to_owned())) };
        let now = Instant::now();
        let longest = if self.damage.is_some() { SALVAGE_WAIT_MAX } else { WAIT_MAX };
        self.wait = (self.wait * 2).clamp(WAIT_MIN, longest);
        self.next_try = now + self.wait;
        if self.close_by.is_some() {
            self.close_by = Some(now);
        }
        match result {
            Ok(mended) => {
                let doors = self.desk.shared.doors.all();
                // Everything here goes by these ids; a new process takes them as they are.
                if doors.iter().zip(&mended.loaded.streams).any(|(door, (id, _))| door.id != *id) {
                    return Err(Failure::Fatal(
                        "a stream that was lost to damage could not be made anew in its place".to_owned(),
                    ));
                }
                return Ok(Some(mended));
            }
            Err(LoadError::Damaged(cause)) if self.damage.is_none() => self.is_damaged(cause),
            Err(LoadError::Unreadable(cause)) if self.damage.is_none() => self.is_unreadable(cause),
            Err(LoadError::Damaged(cause) | LoadError::Unreadable(cause)) => {
                self.cause = format!("a damaged database cannot be salvaged: {cause}");
            }
            Err(error @ (LoadError::Sqlite { .. } | LoadError::Open(_))) => {
                let is_strange = error.is_strange();
                let cause = error.into_open(self.desk.settings.data_dir.join(DATABASE)).to_string();
                if is_strange {
                    return Err(Failure::Fatal(cause));
                }
                if self.damage.is_some() {
                    self.cause = format!("a damaged database cannot be salvaged: {cause}");
                } else {
                    self.is_in_trouble(&cause);
                }
            }
        }
        self.show(true);
        Ok(None)
    }

    fn show(&self, suspended: bool) {
        let shown = Suspended { cause: self.cause.clone(), retry: self.wait };
        let mut glance = locked(&self.desk.shared.glance);
        glance.refusing = suspended.then_some(Refusal::Suspended);
        glance.suspended = suspended.then_some(shown);
        self.desk.metrics.alarms.suspended.set(i64::from(suspended));
    }

    fn resume(self, mended: Mended) -> Loaded {
        self.desk.history.ended = Some(Instant::now());
        self.desk.history.wait = self.wait / 2;
        // What was published since a salvage that was not taken over yet is what that found.
        if self.damage.is_some() && self.desk.kept.before.is_empty() {
            let doors = self.desk.shared.doors.all();
            self.desk.kept.before = doors.iter().map(|door| locked(&door.published).books.clone()).collect();
        }
        resume::publish(&self.desk.shared, &self.desk.metrics, &mended.loaded);
        resume::settle_doubt(self.desk, &mended.loaded);
        if self.damage.is_some() {
            self.desk.shared.salvages.send_modify(|count| *count += 1);
        }
        self.show(false);
        self.desk.kept.epoch += 1;
        resume::wake_reader(&self.desk.shared, mended.reading, self.desk.kept.epoch);
        self.desk.shared.announce_room();
        let for_s = self.since.elapsed().as_secs_f64();
        tracing::warn!(
            state = "working",
            for_s,
            refused = self.refused,
            "the store works again: messages are accepted"
        );
        mended.loaded
    }

    /// Finds a place for what was being decided when it happened.
    fn keep_failed(&mut self) {
        let jobs = std::mem::take(&mut self.desk.kept.failed);
        if self.desk.kept.doubt.is_none() {
            return jobs.into_iter().for_each(|job| self.take(job));
        }
        for job in &jobs {
            if let Job::Batch(batch) = job {
                self.withheld.insert(address(&batch.lane));
            }
        }
        self.desk.kept.failed = jobs;
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Batch(batch) => {
                let lane = address(&batch.lane);
                if self.withheld.contains(&lane) || must_be_withheld(&batch) {
                    self.withheld.insert(lane);
                    self.desk.kept.deferred.push(Job::Batch(batch));
                } else {
                    self.refuse(batch);
                }
            }
            Job::Control(Control::SessionLeft { session, sent, at }, _) => {
                self.desk.kept.lazy.leave(session, sent, at);
            }
            Job::Control(control, permit) => self.desk.kept.deferred.push(Job::Control(control, permit)),
            // Met again by the next read.
            Job::Damaged { .. } => {}
        }
    }

    fn refuse(&mut self, batch: Batch) {
        let Batch { lane, entries, room, slot, .. } = batch;
        self.desk.kept.attempt += 1;
        let mut outcomes = Vec::with_capacity(entries.len());
        if !lane.is_held(u64::MAX) {
            for entry in &entries {
                let Some(outcome) = self.verdict(entry, &lane) else {
                    lane.hold(self.desk.kept.attempt, Blocked::wholly(Refusal::Suspended));
                    break;
                };
                outcomes.push(outcome);
            }
        }
        let refused = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Refused(_))).count() as u64;
        self.refused += refused;
        self.desk.metrics.alarms.refused.inc_by(refused);
        lane.give_back(entries, &outcomes, slot);
        drop(room);
    }

    /// `None`: it is held.
    fn verdict(&mut self, entry: &Entry, lane: &LaneShared) -> Option<Outcome> {
        let refused = (lane.on_refusal == OnRefusal::Report).then_some(Outcome::Refused(Refusal::Suspended));
        match entry {
            Entry::Publish(publish) if !is_kept(publish, lane) => Some(Outcome::Accepted),
            Entry::Publish(publish) if publish.message.qos == QoS::AtMostOnce => {
                for &StreamId(index) in &publish.streams {
                    self.desk.shared.doors.at(index as usize).qos0_full.fetch_add(1, Ordering::Relaxed);
                }
                Some(Outcome::Refused(Refusal::Suspended))
            }
            Entry::Release { .. } if lane.session.is_none() => Some(Outcome::Released),
            Entry::Publish(_)
            | Entry::Handover(_)
            | Entry::Release { .. }
            | Entry::Step { step: Step::Received, .. } => refused,
            Entry::Step { session, seq, step } => {
                if !self.desk.kept.lazy.step(*session, *seq, *step) {
                    tracing::debug!(session = session.0, seq, "a step of a delivery is forgotten: the disk fails");
                }
                Some(Outcome::Stepped)
            }
        }
    }
}

fn address(lane: &Arc<LaneShared>) -> usize {
    Arc::as_ptr(lane).addr()
}

/// Whether there is anything in it for the disk.
fn is_kept(publish: &Publish, lane: &LaneShared) -> bool {
    let remembered = lane.session.is_some() && publish.packet_id.is_some();
    !publish.streams.is_empty() || !publish.copies.is_empty() || publish.set_retained || remembered
}

/// Whether only the database knows the answer. A lane that holds gives none anyway.
fn must_be_withheld(batch: &Batch) -> bool {
    batch.lane.on_refusal == OnRefusal::Report
        && batch.lane.session.is_some()
        && batch.entries.iter().any(|entry| match entry {
            Entry::Publish(publish) => publish.packet_id.is_some(),
            Entry::Release { .. } => true,
            Entry::Step { .. } | Entry::Handover(_) => false,
        })
}
