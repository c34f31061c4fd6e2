//! The writer thread: gathers what is queued into one transaction, commits, and only then says what became of it.

mod control;
mod decide;
mod deliver;
mod handover;
mod lazy;
mod queues;
mod sessions;
mod space;
mod transaction;
mod upkeep;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rusqlite::{Connection, config::DbConfig};

pub(super) use self::transaction::limits;
use self::{
    space::Space,
    transaction::{Stream, Transaction},
};
use super::{
    api::{Entry, Outcome, Refusal, Settings, StreamSettings},
    books::Books,
    clock::Now,
    failure::Failure,
    metrics::Metrics,
    opening::LoadedSessions,
    recovery,
    shared::{Control, Job, Place, Shared, State, Work, locked},
};

/// Most bytes of messages in one transaction, more or less one batch.
const ROUND_BYTES_MAX: usize = 1 << 20;

/// Most entries in one transaction, more or less one batch.
const ROUND_ENTRIES_MAX: usize = 4096;

/// Most batches and controls in one transaction.
const ROUND_JOBS_MAX: usize = 2048;

/// A commit waits for company in steps of `commit_delay` / this.
const DELAY_STEPS: u32 = 8;

/// After waiting in vain this many rounds go without waiting; doubled each time up to the maximum.
const VAIN_ROUNDS_MIN: u32 = 2;
const VAIN_ROUNDS_MAX: u32 = 256;

/// Prepared statements that are kept, besides those of the streams.
const STATEMENTS: usize = 40;

/// How often clock, space and times to live are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the writer needs to begin.
pub(super) struct Start {
    pub(super) connection: Connection,
    pub(super) queue: Receiver<Work>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) settings: Settings,
    /// Durable id, books and settings of each configured stream.
    pub(super) streams: Vec<(i64, Books, StreamSettings)>,
    pub(super) sessions: LoadedSessions,
    /// The current boot.
    pub(super) boot: i64,
    /// It is not in the database yet.
    pub(super) boot_unsaved: bool,
}

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

/// What is decided together.
#[derive(Debug, Default)]
struct Round {
    jobs: Vec<Job>,
    bytes: usize,
    entries: usize,
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Close,
    #[cfg(test)]
    Abandon,
}

struct Writer<'c> {
    transaction: Transaction<'c>,
    space: Space,
    queue: Receiver<Work>,
    data_dir: PathBuf,
    commit_delay: Duration,
    boot: i64,
    /// Controls that could not be written for want of space; they go first next time.
    deferred: Vec<Job>,
    /// Counts attempts at a transaction; see `LaneShared::is_held`.
    attempt: u64,
    /// Buffer for encoded properties.
    properties: BytesMut,
    company: Company,
    next_tick: Instant,
    /// Something is left for idle moments.
    chores: bool,
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

/// Runs the writer until the store closes or fails; the body of its thread.
pub(super) fn run(start: Start) {
    let shared = Arc::clone(&start.shared);
    let data_dir = start.settings.data_dir.clone();
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(start)));
    match end {
        Ok(Ok(())) => shared.end(State::Closed),
        Ok(Err(failure)) => poison(&shared, &data_dir, &failure),
        Err(_) => poison(&shared, &data_dir, &Failure::Fatal("the writer panicked".to_owned())),
    }
}

/// Says loudly that nothing is to be trusted any more; damage is noted for the next start.
pub(super) fn poison(shared: &Shared, data_dir: &std::path::Path, failure: &Failure) {
    tracing::error!(cause = %failure, "the store has failed; nothing is accepted or acknowledged any more");
    if let Failure::Damaged(cause) = failure {
        recovery::ask_for_salvage(data_dir, cause);
    }
    shared.end(State::Failed(failure.to_string().into()));
}

fn work(start: Start) -> Result<(), Failure> {
    let Start { mut connection, queue, shared, metrics, settings, streams, sessions, boot, boot_unsaved } = start;
    let log_pages = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&log_pages);
    connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
        told.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS + 4 * streams.len());
    let end = {
        let streams = streams
            .into_iter()
            .map(|(id, books, settings)| Stream::new(&connection, id, books, &settings))
            .collect::<Result<Vec<_>, _>>()?;
        let mut writer = Writer {
            transaction: Transaction::new(&connection, streams, sessions, shared, metrics, log_pages, boot_unsaved)?,
            space: Space::new(settings.max_bytes, settings.min_free),
            queue,
            data_dir: settings.data_dir,
            commit_delay: settings.commit_delay,
            boot,
            deferred: Vec::new(),
            attempt: 0,
            properties: BytesMut::new(),
            company: Company { last_round: None, skip: 0, vain: VAIN_ROUNDS_MIN },
            next_tick: Instant::now() + TICK,
            chores: true,
            told: None,
        };
        writer.work()
    };
    connection.flush_prepared_statement_cache();
    // Whatever went wrong: the log stays as it is. Only the orderly end moves it into the database.
    let orderly = matches!(end, Ok(Last::Close));
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !orderly)?;
    if orderly {
        upkeep::checkpoint_and_truncate(&connection);
    }
    end?;
    connection.close().map_err(|(_, error)| Failure::from(error))
}

impl Writer<'_> {
    fn work(&mut self) -> Result<Last, Failure> {
        self.measure()?;
        for index in 0..self.transaction.streams.len() {
            self.transaction.look_at_head(index)?;
            let head_at = self.transaction.streams[index].head_at;
            locked(&self.transaction.shared.doors[index].published).head_at = head_at;
        }
        loop {
            let wait = self.patience();
            match self.queue.recv_timeout(wait) {
                #[cfg(test)]
                Ok(Work::MaxPages(pages)) => {
                    let connection = self.transaction.connection;
                    connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
                }
                #[cfg(test)]
                Ok(Work::NoSpace(no_space)) => self.transaction.no_space = no_space,
                Ok(work) => {
                    let round = self.gather(work);
                    let last = round.last;
                    #[cfg(test)]
                    if last == Some(Last::Abandon) {
                        return Ok(Last::Abandon);
                    }
                    self.settle_round(round)?;
                    if let Some(last) = last {
                        return Ok(last);
                    }
                    self.after_round()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Last::Close),
            }
            if Instant::now() >= self.next_tick {
                self.next_tick = Instant::now() + TICK;
                self.tick()?;
                self.transaction.shared.heartbeat.fetch_add(1, Ordering::Relaxed);
            } else if self.chores && self.queue_is_quiet() {
                self.chore()?;
            }
        }
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

    /// Nothing arrived for a while: time for what can wait. Chores must not delay somebody's acknowledgement.
    fn queue_is_quiet(&self) -> bool {
        self.company.last_round.is_none_or(|at| at.elapsed() >= upkeep::QUIET)
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
        if round.last.is_none() && !self.transaction.lazy.is_due() && round.jobs.iter().all(lazy::is_lazy) {
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
            self.transaction.undo()?;
            match (&error, mode) {
                (Failure::Full(_), Mode::Normal) => mode = Mode::NoPublish,
                (Failure::Full(_), Mode::NoPublish) => mode = Mode::NoWrite,
                (Failure::Full(_) | Failure::Damaged(_) | Failure::Fatal(_), _) => return Err(error),
            }
            self.disk_was_full(&error);
        };
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
        self.transaction.commit()?;
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
            tracing::error!(%cause, "the disk is full: nothing is accepted until there is space");
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
            Some(reason) if self.told != refusing => tracing::warn!(reason = reason.sentence(), "messages are refused"),
            None if self.told.is_some() && !self.space.unproven() => {
                tracing::info!("there is space again: messages are accepted");
            }
            Some(_) | None => return,
        }
        self.told = refusing;
    }
}

impl Round {
    fn push(&mut self, work: Work) {
        match work {
            Work::Close => self.last = Some(Last::Close),
            #[cfg(test)]
            Work::Abandon => self.last = Some(Last::Abandon),
            #[cfg(test)]
            Work::MaxPages(_) | Work::NoSpace(_) => unreachable!("tests set it while nothing else is queued"),
            Work::Job(job) => {
                if let Job::Batch(batch) = &job {
                    self.bytes += batch.bytes;
                    self.entries += batch.entries.len();
                    for entry in &batch.entries {
                        let publish = match entry {
                            Entry::Publish(publish) => publish,
                            Entry::Handover(handover) => &handover.publish,
                            Entry::Release { .. } | Entry::Step { .. } => continue,
                        };
                        self.entries += publish.copies.len();
                        self.bytes += publish.copies.len() * publish.message.footprint();
                    }
                }
                self.jobs.push(job);
            }
        }
    }

    fn is_big(&self) -> bool {
        self.bytes >= ROUND_BYTES_MAX
            || self.entries >= ROUND_ENTRIES_MAX
            || self.jobs.len() >= ROUND_JOBS_MAX
            || self.last.is_some()
    }
}
