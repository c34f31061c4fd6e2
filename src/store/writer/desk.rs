//! The writer's thread: serves with one connection after the other, and what outlives them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::Receiver,
    },
    time::Instant,
};

use bytes::BytesMut;

use super::{
    Company, STATEMENTS, TICK, VAIN_ROUNDS_MIN, Writer,
    lazy::Lazy,
    resume::Doubt,
    round::Last,
    settling::PutOff,
    space::Space,
    suspension::{self, History},
    transaction::{Stream, Transaction},
    upkeep,
};
use crate::store::{
    api::{Settings, StreamSettings},
    books::Books,
    failure::Failure,
    mend,
    metrics::Metrics,
    opening::Loaded,
    shared::{Job, Shared, State, Work},
};

/// What the writer needs to begin.
pub(in crate::store) struct Start {
    pub(in crate::store) loaded: Loaded,
    pub(in crate::store) queue: Receiver<Work>,
    pub(in crate::store) shared: Arc<Shared>,
    pub(in crate::store) metrics: Metrics,
    pub(in crate::store) settings: Settings,
    /// Settings of each stream that was loaded.
    pub(in crate::store) streams: Vec<StreamSettings>,
}

/// What outlives a connection to the database.
pub(super) struct Desk {
    pub(super) queue: Receiver<Work>,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    pub(super) settings: Settings,
    pub(super) streams: Vec<StreamSettings>,
    pub(super) history: History,
    pub(super) kept: Kept,
}

/// What the writer takes up and leaves behind.
#[derive(Default)]
pub(super) struct Kept {
    /// See [`Writer::deferred`].
    pub(super) deferred: Vec<Job>,
    /// What was being decided when the disk failed, and whether that may be on the disk.
    pub(super) failed: Vec<Job>,
    pub(super) doubt: Option<Doubt>,
    pub(super) lazy: Lazy,
    pub(super) attempt: u64,
    /// How often it was resumed.
    pub(super) epoch: u64,
    /// The end was asked for.
    pub(super) closing: bool,
    /// The books of all streams as they were before a salvage, until they are taken over.
    pub(super) before: Vec<Books>,
}

/// Runs the writer until the store closes or fails; the body of its thread.
pub(in crate::store) fn run(start: Start) {
    let shared = Arc::clone(&start.shared);
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(start)));
    match end {
        Ok(Ok(())) => shared.end(State::Closed),
        Ok(Err(failure)) => poison(&shared, &failure),
        Err(_) => poison(&shared, &Failure::Fatal("the writer panicked".to_owned())),
    }
}

/// Says loudly that nothing goes on any more.
pub(in crate::store) fn poison(shared: &Shared, failure: &Failure) {
    tracing::error!(error = %failure, "the store has failed; nothing is accepted or acknowledged any more");
    shared.end(State::Failed(failure.to_string().into()));
}

fn work(start: Start) -> Result<(), Failure> {
    let Start { mut loaded, queue, shared, metrics, settings, streams } = start;
    let (history, kept) = (History::default(), Kept::default());
    let mut desk = Desk { queue, shared, metrics, settings, streams, history, kept };
    loop {
        let failure = match serve(&mut desk, loaded) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        if desk.kept.closing || matches!(failure, Failure::Fatal(_)) {
            return Err(failure);
        }
        loaded = suspension::wait_for_disk(&mut desk, failure)?;
    }
}

/// Works with one connection until the store closes or the disk fails.
fn serve(desk: &mut Desk, loaded: Loaded) -> Result<(), Failure> {
    let boot = loaded.boots.current().id;
    let Loaded { mut connection, streams, sessions, boot_unsaved, .. } = loaded;
    let log_pages = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&log_pages);
    connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
        told.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS + 4 * streams.len());
    let end = {
        let (shared, metrics) = (Arc::clone(&desk.shared), desk.metrics.clone());
        let transaction = streams
            .into_iter()
            .zip(&desk.streams)
            .zip(desk.shared.doors.all())
            .map(|(((_, books), settings), door)| Stream::new(&connection, books, settings, door))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|streams| {
                Transaction::new(&connection, streams, sessions, shared, metrics, log_pages, boot_unsaved)
            });
        transaction.and_then(|transaction| Writer::work_at(desk, transaction, boot))
    };
    // Whatever went wrong: the log stays as it is. Only the orderly end moves it into the database.
    if !matches!(end, Ok(Last::Close)) {
        mend::drop_connection(connection);
        return end.map(|_| ());
    }
    connection.flush_prepared_statement_cache();
    upkeep::mark_and_close(connection)
}

impl<'c> Writer<'c> {
    /// Takes up what is kept at the desk, works, and leaves there what is left.
    fn work_at(desk: &'c mut Desk, mut transaction: Transaction<'c>, boot: i64) -> Result<Last, Failure> {
        let Desk { queue, settings, streams, kept, .. } = desk;
        let Kept { deferred, failed, doubt: _, lazy, attempt, epoch, closing, before } = std::mem::take(kept);
        transaction.lazy = lazy;
        let mut writer = Self {
            transaction,
            space: Space::new(settings.max_bytes, settings.min_free),
            queue: &*queue,
            data_dir: settings.data_dir.clone(),
            commit_delay: settings.commit_delay,
            desk_settings: settings,
            desk_streams: streams,
            boot,
            deferred,
            put_off: PutOff::default(),
            failed,
            decided: Vec::new(),
            attempt,
            epoch,
            closing,
            properties: BytesMut::new(),
            company: Company { last_round: None, skip: 0, vain: VAIN_ROUNDS_MIN },
            next_tick: Instant::now() + TICK,
            next_checkpoint: None,
            chores: true,
            next_chore: Instant::now(),
            told: None,
        };
        let taken_over = writer.take_over(&before);
        // Where the disk fails again before that is on it, it is still to be done.
        let before = if taken_over.is_ok() { Vec::new() } else { before };
        let end = taken_over.and_then(|()| writer.work());
        if matches!(end, Ok(Last::Close))
            && let Err(error) = writer.note_ends()
        {
            tracing::warn!(%error, "the books could not be written at the end; the rows are their own count");
        }
        writer.transaction.shared.disk.end();
        let Self { transaction, put_off, mut deferred, failed, decided, attempt, epoch, closing, .. } = writer;
        let doubt = transaction.evidence.map(|evidence| Doubt { outcomes: decided, evidence });
        // They came before everything else that is left.
        deferred.splice(0..0, put_off.into_jobs());
        *kept = Kept { deferred, failed, doubt, lazy: transaction.lazy, attempt, epoch, closing, before };
        end
    }

    /// Enters what is known from before a salvage and could not be found any more: what had left has left, and what was accepted
    /// and is not there was lost. So nothing that was settled comes back, and no counter falls.
    fn take_over(&mut self, before: &[Books]) -> Result<(), Failure> {
        let count = before.len().min(self.transaction.streams.len());
        for (index, before) in before.iter().enumerate().take(count) {
            let books = &self.transaction.streams[index].books;
            if books.head < before.head && books.backlog_messages() > 0 {
                let last = (before.head - 1).min(books.next - 1);
                self.pass(index, last)?;
            }
            let missing = self.transaction.changing(index).books.take_over(before);
            if let Some(missing) = missing.filter(|missing| *missing > 0) {
                let stream = &self.transaction.streams[index].name;
                tracing::error!(
                    stream,
                    missing,
                    "messages were lost to damage without a trace; they are counted as dropped"
                );
            }
        }
        if count > 0 {
            self.transaction.commit()?;
        }
        Ok(())
    }
}
