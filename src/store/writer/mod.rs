//! The writer thread: gathers what is queued into one transaction, commits, and only then says what became of it.

mod configure;
mod control;
mod dead;
mod decide;
mod deliver;
mod desk;
mod handover;
mod import;
mod kept;
mod lazy;
mod orders;
mod queues;
mod replay;
mod resume;
mod round;
mod sessions;
mod settling;
mod space;
mod suspension;
mod transaction;
mod upkeep;

use std::{
    path::PathBuf,
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;

pub(super) use self::desk::{Start, poison, run};
use self::{
    round::{Last, Round},
    settling::PutOff,
    space::Space,
    transaction::Transaction,
};
use super::{
    api::{Entry, Outcome, Refusal, Settings, StreamSettings},
    clock::Now,
    failure::Failure,
    shared::{Control, Job, Place, Work, locked},
};

/// A commit waits for company in steps of `commit_delay` / this.
const DELAY_STEPS: u32 = 8;

/// After waiting in vain this many rounds go without waiting; doubled each time up to the maximum.
const VAIN_ROUNDS_MIN: u32 = 2;
const VAIN_ROUNDS_MAX: u32 = 256;

/// Prepared statements that are kept, besides those of the streams.
const STATEMENTS: usize = 40;

/// How often clock, space and times to live are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How much may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything.
    Normal,
    /// No messages: the disk is full. What frees space or is tiny goes on.
    NoPublish,
    /// Nothing at all: not even that found space.
    NoWrite,
}

struct Writer<'c> {
    transaction: Transaction<'c>,
    space: Space,
    queue: &'c Receiver<Work>,
    data_dir: PathBuf,
    commit_delay: Duration,
    /// What the desk keeps for the next connection.
    desk_settings: &'c mut Settings,
    desk_streams: &'c mut Vec<StreamSettings>,
    boot: i64,
    /// What could not be written yet, and keeps its permits; it goes first next time.
    deferred: Vec<Job>,
    /// What was being decided when the disk failed, and what would have become of it.
    failed: Vec<Job>,
    decided: Vec<Vec<Outcome>>,
    epoch: u64,
    closing: bool,
    /// Settlements that wait for the next tick.
    put_off: PutOff,
    /// Counts attempts at a transaction; see `LaneShared::is_held`.
    attempt: u64,
    /// Buffer for encoded properties.
    properties: BytesMut,
    company: Company,
    next_tick: Instant,
    /// No checkpoint before this: a reader that stays was waited for in vain.
    next_checkpoint: Option<Instant>,
    /// Something is left for idle moments.
    chores: bool,
    /// When a slice of it may be done although it is not quiet.
    next_chore: Instant,
    /// Why everything is refused, as the log last said.
    told: Option<Refusal>,
}

/// Whether waiting for company has been worth it lately.
#[derive(Debug)]
struct Company {
    last_round: Option<Instant>,
    skip: u32,
    vain: u32,
}

impl Writer<'_> {
    fn work(&mut self) -> Result<Last, Failure> {
        self.measure()?;
        self.show_heads()?;
        if !self.deferred.is_empty() || self.closing {
            // What was kept through a suspension.
            let jobs = std::mem::take(&mut self.deferred);
            self.settle_round(Round {
                jobs,
                due: true,
                last: self.closing.then_some(Last::Close),
                ..Round::default()
            })?;
            if self.closing {
                return Ok(Last::Close);
            }
        }
        loop {
            self.transaction.shared.disk.end();
            if let Some(failure) = self.transaction.late.take() {
                return Err(failure);
            }
            let wait = self.patience();
            let work = self.queue.recv_timeout(wait);
            self.transaction.shared.disk.begin();
            match work {
                Ok(Work::Trouble { failure, epoch }) => {
                    if epoch == self.epoch {
                        return Err(failure);
                    }
                }
                #[cfg(test)]
                Ok(Work::MaxPages(pages)) => {
                    let connection = self.transaction.connection;
                    connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
                }
                #[cfg(test)]
                Ok(Work::NoSpace(no_space)) => self.transaction.no_space = no_space,
                Ok(work) => {
                    if let Some(last) = self.go_round(work)? {
                        return Ok(last);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Last::Close),
            }
            if Instant::now() >= self.next_tick {
                self.next_tick = Instant::now() + TICK;
                self.tick()?;
                self.transaction.shared.heartbeat.fetch_add(1, Ordering::Relaxed);
            } else if self.chores && self.may_do_chore() {
                let began = Instant::now();
                self.chore()?;
                self.next_chore = Instant::now() + began.elapsed() * upkeep::CHORE_SHARE;
            }
        }
    }

    /// One round, whatever is in it; the end, where that was asked for.
    fn go_round(&mut self, work: Work) -> Result<Option<Last>, Failure> {
        let mut round = self.gather(work);
        let (last, trouble, configure) = (round.last, round.trouble.take(), round.configure.take());
        #[cfg(test)]
        if last == Some(Last::Abandon) {
            return Ok(last);
        }
        self.closing = last == Some(Last::Close);
        let settled = self.settle_round(round);
        match (settled, configure) {
            (settled, None) => settled?,
            (Ok(()), Some(configure)) => self.configure(configure)?,
            (Err(failure), Some(configure)) => {
                configure.refuse(Refusal::Suspended);
                return Err(failure);
            }
        }
        if last.is_some() {
            return Ok(last);
        }
        if let Some((failure, epoch)) = trouble
            && epoch == self.epoch
        {
            return Err(failure);
        }
        self.after_round()?;
        Ok(None)
    }

    /// Publishes when the oldest message of each stream was accepted.
    fn show_heads(&mut self) -> Result<(), Failure> {
        for index in 0..self.transaction.streams.len() {
            self.transaction.look_at_head(index)?;
            let head_at = self.transaction.streams[index].head_at;
            locked(&self.transaction.streams[index].door.published).head_at = head_at;
        }
        Ok(())
    }

    /// How long to wait for work: until the next tick, or until it is quiet enough for chores. Never a spin in between.
    fn patience(&self) -> Duration {
        let tick = self.next_tick.saturating_duration_since(Instant::now());
        if !self.chores {
            return tick;
        }
        let quiet = self.company.last_round.map_or(Duration::ZERO, |at| upkeep::QUIET.saturating_sub(at.elapsed()));
        quiet.min(tick)
    }

    /// Whether it is time for what can wait: nothing arrived for a while, or, where something always does, the last slice was long ago.
    fn may_do_chore(&self) -> bool {
        self.company.last_round.is_none_or(|at| at.elapsed() >= upkeep::QUIET) || Instant::now() >= self.next_chore
    }

    /// Takes what is queued, waits a little for more where that has been worth it.
    fn gather(&mut self, first: Work) -> Round {
        let mut round = Round { jobs: std::mem::take(&mut self.deferred), ..Round::default() };
        round.push(first);
        self.drain_into(&mut round);
        let busy = self.company.last_round.is_some_and(|at| at.elapsed() <= self.commit_delay);
        if busy && !self.commit_delay.is_zero() && !round.is_big() {
            if self.company.skip > 0 {
                self.company.skip -= 1;
            } else {
                self.wait_for_company(&mut round);
            }
        }
        round
    }

    fn drain_into(&self, round: &mut Round) {
        while !round.is_big() {
            match self.queue.try_recv() {
                Ok(work) => round.push(work),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn wait_for_company(&mut self, round: &mut Round) {
        let until = Instant::now() + self.commit_delay;
        let step = self.commit_delay / DELAY_STEPS;
        let mut came = false;
        while !round.is_big() && Instant::now() < until {
            match self.queue.recv_timeout(step) {
                Ok(work) => {
                    came = true;
                    round.push(work);
                    self.drain_into(round);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        if came {
            self.company.vain = VAIN_ROUNDS_MIN;
        } else {
            self.company.skip = self.company.vain;
            self.company.vain = (self.company.vain * 2).min(VAIN_ROUNDS_MAX);
        }
    }

    /// Decides a round, commits it, and hands everything back. Where the disk is full, with less ambition again.
    fn settle_round(&mut self, mut round: Round) -> Result<(), Failure> {
        self.put_off_settlements(&mut round);
        let forced = round.due || round.last.is_some() || self.transaction.lazy.is_due();
        if !forced && round.jobs.iter().all(lazy::is_lazy) {
            self.put_off_round(round);
            return Ok(());
        }
        self.transaction.now = Now::read();
        let mut mode = if self.space.disk_full(Instant::now()) { Mode::NoPublish } else { Mode::Normal };
        let outcomes = loop {
            let error = match self.attempt(&mut round.jobs, mode) {
                Ok(outcomes) => break outcomes,
                Err(error) => error,
            };
            let undone = self.transaction.undo();
            match (&error, mode, undone) {
                (Failure::Full(_), Mode::Normal, Ok(())) => mode = Mode::NoPublish,
                (Failure::Full(_), Mode::NoPublish, Ok(())) => mode = Mode::NoWrite,
                (_, _, undone) => {
                    // The connection is given up, and with it what could not be rolled back.
                    self.failed = round.jobs;
                    return Err(match error {
                        Failure::Full(_) => undone.err().unwrap_or(error),
                        Failure::Damaged(_) | Failure::Trouble(_) | Failure::Unreadable(_) | Failure::Fatal(_) => error,
                    });
                }
            }
            self.disk_was_full(&error);
        };
        // A commit that was in doubt has been decided again and written over.
        self.transaction.evidence = None;
        self.announce_refusing();
        self.hand_back(round.jobs, outcomes, mode);
        self.company.last_round = Some(Instant::now());
        Ok(())
    }

    /// A round of what nobody waits for: it is written with the next commit. What a held lane sends is held as ever.
    fn put_off_round(&mut self, round: Round) {
        for job in round.jobs {
            match job {
                Job::Batch(batch) => {
                    let mut outcomes = Vec::new();
                    if !batch.lane.is_held(u64::MAX) {
                        outcomes.resize(batch.entries.len(), Outcome::Stepped);
                        for entry in &batch.entries {
                            if let Entry::Step { session, seq, step } = entry {
                                self.put_off(*session, *seq, *step);
                            }
                        }
                    }
                    batch.lane.give_back(batch.entries, &outcomes, batch.slot);
                }
                Job::Control(Control::SessionLeft { session, sent, at }, _) => {
                    self.transaction.lazy.leave(session, sent, at);
                }
                Job::Control(..) | Job::Damaged { .. } => unreachable!("only what is lazy is put off"),
            }
        }
    }

    /// One transaction with everything in it; the outcomes of each work, empty for controls.
    fn attempt(&mut self, jobs: &mut [Job], mode: Mode) -> Result<Vec<Vec<Outcome>>, Failure> {
        self.attempt += 1;
        let attempt = self.attempt;
        if mode != Mode::NoWrite {
            self.transaction.enter_owed();
            self.catch_up_lazy()?;
        }
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            outcomes.push(match job {
                Job::Batch(batch) => self.decide_batch(batch, mode, attempt)?,
                Job::Control(..) | Job::Damaged { .. } if mode == Mode::NoWrite => Vec::new(),
                Job::Control(control, _) => self.control(control).map(|()| Vec::new())?,
                Job::Damaged { place, rows, .. } => {
                    for (seq, detail) in rows {
                        match place {
                            Place::Stream(stream) => self.bury_damaged(*stream, *seq, detail)?,
                            Place::Queue(session) => self.drop_damaged(*session, *seq, detail)?,
                        }
                    }
                    Vec::new()
                }
            });
        }
        if mode != Mode::NoWrite {
            self.delete_garbage()?;
        }
        let stores = self.transaction.inserted > 0;
        if let Err(failure) = self.transaction.commit() {
            self.decided = outcomes;
            return Err(failure);
        }
        if stores {
            self.space.note_stored();
        }
        Ok(outcomes)
    }

    fn hand_back(&mut self, jobs: Vec<Job>, outcomes: Vec<Vec<Outcome>>, mode: Mode) {
        for (job, outcomes) in jobs.into_iter().zip(outcomes) {
            match job {
                Job::Batch(batch) => {
                    batch.lane.give_back(batch.entries, &outcomes, batch.slot);
                    drop(batch.room);
                }
                Job::Control(control, permit) if mode == Mode::NoWrite => {
                    // Bounded: they keep their permits.
                    self.deferred.push(Job::Control(control, permit));
                }
                Job::Control(control, permit) => {
                    control.done();
                    drop(permit);
                }
                // Damaged rows that could not be noted are met again by the next read.
                Job::Damaged { .. } if mode == Mode::NoWrite => {}
                Job::Damaged { done, .. } => {
                    let _ = done.send(());
                }
            }
        }
    }

    fn disk_was_full(&mut self, cause: &Failure) {
        let known = self.space.unproven();
        self.space.note_full(Instant::now());
        if !known {
            tracing::error!(error = %cause, "the disk is full: nothing is accepted until there is space");
        }
    }

    /// Publishes whether everything is refused, and wakes who waits for that to end.
    fn announce_refusing(&mut self) {
        let refusing = self.space.refusing(Instant::now());
        let before = std::mem::replace(&mut locked(&self.transaction.shared.glance).refusing, refusing);
        if before.is_some() && refusing.is_none() {
            self.transaction.shared.announce_room();
        }
        // Said once, though a full disk is tried again every second.
        match refusing {
            Some(reason) if self.told != refusing => {
                tracing::warn!(state = "refusing", reason = reason.reason(), "messages are refused");
            }
            None if self.told.is_some() && !self.space.unproven() => {
                tracing::info!(state = "accepting", "there is space again: messages are accepted");
            }
            Some(_) | None => return,
        }
        self.told = refusing;
    }
}
