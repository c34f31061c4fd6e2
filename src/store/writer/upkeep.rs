//! What the writer does for the long run: deleting in slices, giving space back, checkpoints, times to live, measuring.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension, wal::CheckpointMode};

use super::queues::queued_row;
use super::{Writer, space::Measured};
use crate::store::{
    alarms,
    api::Sequence,
    books::Books,
    failure::Failure,
    mend, queue,
    schema::{BUSY_TIMEOUT, PAGE_BYTES},
    sessions::SessionId,
    shared::locked,
};

/// Garbage rows of a stream from which on they are deleted, also under load.
const GARBAGE_MIN_ROWS: u64 = 1024;

/// Garbage bytes of a stream from which on they are deleted, also under load.
const GARBAGE_MIN_BYTES: u64 = 1 << 20;

/// Most bytes deleted by one transaction, if it is more than one row: freeing the pages of a large row reads them.
pub(super) const DELETE_SLICE_BYTES: u64 = 4 << 20;

/// Most rows deleted by one transaction.
const DELETE_SLICE_ROWS: u64 = 4096;

/// Rows whose time to live is looked at in one transaction.
const SWEEP_ROWS: i64 = 4096;

/// Free pages in the file from which on they are given back when idle: 16 MiB, so that a backlog which comes and goes
/// does not make the file shrink and grow.
const VACUUM_MIN_PAGES: u64 = 4096;

/// Most pages given back by one transaction.
const VACUUM_SLICE_PAGES: u64 = 256;

/// How long one transaction gives pages back, if it is more than one. SQLite looks through the whole list of free pages for each:
/// 1 to 5 ms a page where 1 GiB is free, so that a slice counted in pages alone would hold acknowledgements back for a second.
const VACUUM_SLICE: Duration = Duration::from_millis(10);

/// Pages in the log from which on they are moved into the database: 4 MiB.
const CHECKPOINT_PAGES: u32 = 1024;

/// Pages in the log from which on readers are waited for, so that it can start anew: 16 MiB.
const CHECKPOINT_WAIT_PAGES: u32 = 4096;

/// How long a checkpoint waits for readers. Those of the gateway are done by then; a backup, which is another process, takes minutes.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(1);

/// Where that was in vain the log grows for so long before it is tried again.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(10);

/// No message for so long is quiet enough for chores.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// Where it is never quiet, a chore is followed by so many times as long without one: 5 % of the writer's time, so that a gateway
/// whose sensors never pause gives space back too.
pub(super) const CHORE_SHARE: u32 = 19;

/// A row as a walk sees it.
struct Walked {
    seq: Sequence,
    end: u64,
    boot: i64,
    at: u64,
}

impl Writer<'_> {
    /// After the acknowledgements are out: measures and checkpoints if that is due.
    pub(super) fn after_round(&mut self) -> Result<(), Failure> {
        if self.space.wants_measuring() {
            self.measure()?;
        }
        self.chores |= self.has_garbage();
        self.checkpoint_if_due()
    }

    /// Once a second.
    pub(super) fn tick(&mut self) -> Result<(), Failure> {
        self.transaction.now = super::Now::read();
        if !self.deferred.is_empty() || !self.put_off.is_empty() {
            let jobs = std::mem::take(&mut self.deferred);
            self.settle_round(super::Round { jobs, due: true, ..super::Round::default() })?;
        }
        let swept = self.in_transaction(|writer| {
            writer.transaction.correct_clock()?;
            writer.catch_up_lazy()?;
            writer.transaction.enter_owed();
            let more = writer.sweep()?;
            writer.end_empty_replays()?;
            writer.delete_garbage()?;
            Ok(more)
        })?;
        self.chores = true;
        if swept == Some(true) {
            self.next_tick = Instant::now();
        }
        self.measure()?;
        self.announce_refusing();
        self.checkpoint_if_due()
    }

    /// One slice of what can wait; sets `chores` to whether there is more.
    pub(super) fn chore(&mut self) -> Result<(), Failure> {
        self.chores = false;
        if self.has_garbage() {
            let done = self.in_transaction(Self::delete_garbage)?;
            self.chores = done.is_some();
            if self.space.wants_measuring() {
                self.measure()?;
            }
        } else if self.space.last().free_in_file_bytes >= VACUUM_MIN_PAGES * PAGE_BYTES {
            let before = self.space.last().free_in_file_bytes;
            self.in_transaction(Self::give_back_pages)?;
            self.measure()?;
            // Only while it helps: a file that cannot shrink must not be tried for ever.
            self.chores = self.space.last().free_in_file_bytes < before;
        }
        self.checkpoint_if_due()
    }

    /// Commits what `f` does; `None` where the disk is too full for it, which these things can wait for.
    fn in_transaction<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<Option<T>, Failure> {
        let result = f(self).and_then(|value| self.transaction.commit().map(|()| value));
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ Failure::Full(_)) => {
                self.transaction.undo()?;
                self.transaction.evidence = None;
                self.disk_was_full(&error);
                Ok(None)
            }
            Err(error) => {
                // Where even that fails: the connection is given up anyway.
                let _ = self.transaction.undo();
                Err(error)
            }
        }
    }

    /// Rows of a stream from its head on, at most `limit`. What is missing among them is damage, for it would leave uncounted.
    fn walk(&mut self, index: usize, limit: i64) -> Result<Vec<Walked>, Failure> {
        let stream = &self.transaction.streams[index];
        let mut statement = self.transaction.connection.prepare_cached(&stream.sql.walk)?;
        let rows = statement.query_map((stream.books.head.cast_signed(), limit), |row| {
            Ok(Walked {
                seq: row.get::<_, i64>(0)?.cast_unsigned(),
                end: row.get::<_, i64>(1)?.cast_unsigned(),
                boot: row.get(2)?,
                at: row.get::<_, i64>(3)?.cast_unsigned(),
            })
        })?;
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let (mut seq, mut end) = (stream.books.head, stream.books.head_offset);
        for row in &rows {
            if !stream.books.may_follow(seq, end, row.seq, row.end) {
                return Err(Failure::Damaged(format!("row {} makes no sense where {seq} should be", row.seq)));
            }
            (seq, end) = (row.seq + 1, row.end);
        }
        if rows.is_empty() && stream.books.backlog_messages() > 0 {
            return Err(Failure::Damaged(format!("rows from {seq} on are missing")));
        }
        Ok(rows)
    }

    /// Lets the head of each stream expire; true where a slice was not enough.
    fn sweep(&mut self) -> Result<bool, Failure> {
        let mut more = false;
        for index in 0..self.transaction.streams.len() {
            let stream = &self.transaction.streams[index];
            let Some(ttl_ms) = stream.ttl_ms.filter(|_| stream.books.backlog_messages() > 0) else { continue };
            let head_at = stream.head_at;
            let known_boots = self.transaction.shared.boots.read().unwrap_or_else(PoisonError::into_inner).clone();
            let now = self.transaction.now;
            let expired = |boot, at| known_boots.age_ms(boot, at, now) > ttl_ms;
            if !expired(head_at.0, head_at.1) {
                continue;
            }
            let rows = self.walk(index, SWEEP_ROWS)?;
            let full_slice = rows.len() as u64 == SWEEP_ROWS.unsigned_abs();
            let young = rows.iter().position(|row| !expired(row.boot, row.at));
            more |= full_slice && young.is_none();
            for row in &rows[..young.unwrap_or(rows.len())] {
                let books = &mut self.transaction.changing(index).books;
                if row.seq >= books.head && row.seq < books.next {
                    books.expired += books.pass(row.seq, row.end);
                }
            }
        }
        Ok(more)
    }

    /// Deletes a slice of the rows below the heads, where there are enough of them to be worth it.
    pub(super) fn delete_garbage(&mut self) -> Result<(), Failure> {
        let mut slice = DELETE_SLICE_ROWS;
        for index in 0..self.transaction.streams.len() {
            if slice > 0 && is_worth_deleting(&self.transaction.streams[index].books) {
                slice -= self.delete_slice(index, slice)?;
            }
            if slice > 0 && self.transaction.streams[index].books.operated.kept.is_some() {
                slice = slice.saturating_sub(self.delete_kept(index, slice)?);
            }
        }
        if slice > 0 && self.queues_have_garbage() {
            self.delete_queued_garbage(slice)?;
        }
        Ok(())
    }

    fn has_garbage(&self) -> bool {
        let streams = &self.transaction.streams;
        self.queues_have_garbage()
            || streams.iter().any(|stream| is_worth_deleting(&stream.books))
            || (0..streams.len()).any(|index| self.kept_has_garbage(index))
    }

    /// Of all queues together: a thousand queues must not keep a thousand times as much.
    fn queues_have_garbage(&self) -> bool {
        let (rows, bytes) = self.transaction.queues.garbage();
        rows >= GARBAGE_MIN_ROWS || bytes >= GARBAGE_MIN_BYTES
    }

    /// Deletes at most `rows` rows of at most about [`DELETE_SLICE_BYTES`] that have left their queues.
    fn delete_queued_garbage(&mut self, mut rows: u64) -> Result<(), Failure> {
        let mut bytes = DELETE_SLICE_BYTES;
        for id in self.transaction.queues.with_garbage() {
            if rows == 0 || bytes == 0 {
                break;
            }
            self.delete_queue_slice(id, &mut rows, &mut bytes)?;
        }
        Ok(())
    }

    /// Deletes from the tail of one queue on what still may be deleted.
    fn delete_queue_slice(&mut self, id: SessionId, rows: &mut u64, bytes: &mut u64) -> Result<(), Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        let Some(queue) = self.transaction.queues.changing(id) else { return Ok(()) };
        let books = &mut queue.books;
        let range = (queue::key(id, books.tail), queue::key(id, books.head));
        let mut walk = connection.prepare_cached(queue::WALK_QUEUED)?;
        let mut found = walk.query((range.0, range.1, rows.cast_signed()))?;
        let mut last = None;
        while *rows > 0 && *bytes > 0 {
            let Some(row) = found.next()? else {
                last = None;
                break;
            };
            let row = queued_row(row);
            *rows -= 1;
            *bytes = bytes.saturating_sub(row.bytes.max(1));
            last = Some(row);
        }
        drop(found);
        // Where the slice ends; all that is left where it did not.
        let (tail, offset) = last.map_or((books.head, books.head_offset), |row| (row.seq + 1, row.end));
        connection.prepare_cached(queue::DELETE_QUEUED)?.execute((range.0, queue::key(id, tail)))?;
        books.tail = tail.clamp(books.tail, books.head);
        books.tail_offset = offset.clamp(books.tail_offset, books.head_offset);
        Ok(())
    }

    /// Deletes at most `rows` rows of at most about [`DELETE_SLICE_BYTES`] below the head; returns how many.
    fn delete_slice(&mut self, index: usize, rows: u64) -> Result<u64, Failure> {
        self.transaction.begin()?;
        let books = &self.transaction.streams[index].books;
        let (tail, head) = (books.tail, books.head);
        let first = self.first_row(index, tail, head)?;
        let connection = self.transaction.connection;
        let stream = self.transaction.changing(index);
        let mut end = head.min(first.saturating_add(rows));
        let end_offset = loop {
            let offset = if end == head {
                stream.books.head_offset
            } else {
                let mut end_at = connection.prepare_cached(&stream.sql.end_at)?;
                let offset: Option<i64> = end_at.query_row([(end - 1).cast_signed()], |row| row.get(0)).optional()?;
                offset.map_or(stream.books.tail_offset, i64::cast_unsigned)
            };
            if end - first <= 1 || offset.saturating_sub(stream.books.tail_offset) <= DELETE_SLICE_BYTES {
                break offset;
            }
            end = first + (end - first) / 2;
        };
        connection.prepare_cached(&stream.sql.delete)?.execute((tail.cast_signed(), end.cast_signed()))?;
        stream.books.tail = end;
        stream.books.tail_offset = end_offset.clamp(stream.books.tail_offset, stream.books.head_offset);
        Ok(end - first)
    }

    /// The first number from `from` on that has a row; `end` where none before that has: after a salvage or a restore numbers go on
    /// far behind the last, and nobody may count his way across.
    pub(super) fn first_row(&self, index: usize, from: Sequence, end: Sequence) -> Result<Sequence, Failure> {
        let mut walk = self.transaction.connection.prepare_cached(&self.transaction.streams[index].sql.walk)?;
        let row: Option<i64> = walk.query_row((from.cast_signed(), 1), |row| row.get(0)).optional()?;
        Ok(row.map_or(end, i64::cast_unsigned).clamp(from, end))
    }

    fn give_back_pages(&mut self) -> Result<(), Failure> {
        self.transaction.begin()?;
        let sql = format!("PRAGMA incremental_vacuum({VACUUM_SLICE_PAGES})");
        let mut statement = self.transaction.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        // One row a page.
        let began = Instant::now();
        while rows.next()?.is_some() && began.elapsed() < VACUUM_SLICE {}
        Ok(())
    }

    /// Looks how much room there is and publishes it.
    pub(super) fn measure(&mut self) -> Result<(), Failure> {
        let connection = self.transaction.connection;
        let pages = |pragma: &str| -> Result<u64, Failure> {
            let count: i64 = connection.prepare_cached(pragma)?.query_row([], |row| row.get(0))?;
            Ok(count.unsigned_abs())
        };
        let free_pages = pages("PRAGMA freelist_count")?;
        let used_pages = pages("PRAGMA page_count")?.saturating_sub(free_pages);
        // A file system that does not say how much is free is taken at its word when it says "full".
        let free_bytes =
            rustix::fs::statvfs(&self.data_dir).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let used_bytes = used_pages * PAGE_BYTES;
        self.space.measured(Measured { free_bytes, used_bytes, free_in_file_bytes: free_pages * PAGE_BYTES });
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.transaction.metrics.bytes.set(gauge(used_bytes));
        self.transaction.metrics.free_bytes.set(gauge(free_bytes));
        let written_bytes = self.transaction.metrics.show_written();
        let mut glance = locked(&self.transaction.shared.glance);
        glance.bytes = used_bytes;
        glance.written_bytes = written_bytes;
        glance.free_bytes = free_bytes;
        Ok(())
    }

    /// Writes the books of streams that were only appended to since they were written last. Rows are their own count, but where
    /// those at the end cannot be read one day, only the books know that there were any. With every checkpoint and at the end: one
    /// page in a thousand, and no more than a checkpoint's worth of messages (4 MiB) can vanish without being counted.
    pub(super) fn note_ends(&mut self) -> Result<(), Failure> {
        self.in_transaction(|writer| {
            writer.transaction.note_ends();
            Ok(())
        })
        .map(|_| ())
    }

    fn checkpoint_if_due(&mut self) -> Result<(), Failure> {
        let pages = self.transaction.log_pages.load(Ordering::Relaxed);
        if pages < CHECKPOINT_PAGES || self.next_checkpoint.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.next_checkpoint = None;
        self.note_ends()?;
        let connection = self.transaction.connection;
        let done = if pages < CHECKPOINT_WAIT_PAGES {
            checkpoint(connection, CheckpointMode::PASSIVE)
        } else {
            connection.busy_timeout(CHECKPOINT_PATIENCE)?;
            let done = checkpoint(connection, CheckpointMode::RESTART);
            connection.busy_timeout(BUSY_TIMEOUT)?;
            done
        };
        match done {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.next_checkpoint = Some(Instant::now() + CHECKPOINT_PAUSE);
                Ok(())
            }
            Err(error @ Failure::Full(_)) => {
                self.disk_was_full(&error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn is_worth_deleting(books: &Books) -> bool {
    books.garbage_rows() >= GARBAGE_MIN_ROWS || books.garbage_bytes() >= GARBAGE_MIN_BYTES
}

/// Moves the log into the database. A reader that keeps a part of it busy is no error: the next checkpoint gets it. False where one did.
fn checkpoint(connection: &Connection, mode: CheckpointMode) -> Result<bool, Failure> {
    match connection.wal_checkpoint_v2(Some("main"), mode) {
        Ok(_) => Ok(true),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => Ok(false),
        Err(error) => Err(Failure::from(error)),
    }
}

/// The orderly end: says so in the database, and a last checkpoint. Where that fails nothing is lost: the log is read at the next
/// start, and all that is stored is checked.
///
/// The log then has to stay: closing would move the rest of it once more, and remove it when that works. But a part that an earlier
/// checkpoint had moved would not be written again, though the sync that failed was the one for it, too; see [`mend`].
pub(super) fn mark_and_close(connection: Connection) -> Result<(), Failure> {
    if let Err(error) = alarms::mark(&connection, true) {
        tracing::warn!(%error, "that the stop was clean could not be noted; the next start checks what is stored");
    }
    if let Err(error) = checkpoint(&connection, CheckpointMode::TRUNCATE) {
        tracing::warn!(%error, "the log could not be moved into the database; the next start does it");
        mend::drop_connection(connection);
        return Ok(());
    }
    connection.close().map_err(|(_, error)| Failure::from(error))
}
