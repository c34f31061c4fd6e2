//! The writer's transaction: begun by the first write, rolled back with the books, published when synced.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use bytestring::ByteString;
use rusqlite::{Connection, OptionalExtension, Statement};

use super::{
    lazy::Lazy,
    queues::Queues,
    resume::{Evidence, Mark},
};
use crate::stats::DeadStats;
use crate::store::{
    alarms,
    api::{StreamSettings, WhenFull},
    books::{Books, Limits},
    clock::Now,
    dead,
    doors::Door,
    failure::{self, Failure},
    metrics::Metrics,
    opening::LoadedSessions,
    operated,
    schema::{self, StreamSql},
    shared::{OFFLINE, QOS0_FULL, Shared, locked},
};

/// A stream in the writer's hands.
pub(super) struct Stream<'c> {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) door: Arc<Door>,
    pub(super) sql: StreamSql,
    pub(super) books: Books,
    pub(super) limits: Limits,
    pub(super) when_full: WhenFull,
    pub(super) ttl_ms: Option<u64>,
    /// How long forwarded messages are kept; `None` = for ever.
    pub(super) retain_ms: Option<u64>,
    pub(super) insert: Statement<'c>,
    /// Boot and monotonic time of the oldest message, once committed.
    pub(super) head_at: (i64, u64),
    /// The books before this transaction, once it touched them.
    before: Option<Books>,
    /// Whether the row of the books must be written; appended rows alone are their own count.
    dirty: bool,
    /// The `next` that the row of the books knows of, as far as this run has seen.
    noted_next: u64,
    /// What of the door's `offline` and `qos0_full` this transaction has entered.
    entered: (u64, u64),
}

/// All that a transaction changes, and the statements for it.
#[cfg_attr(test, expect(clippy::struct_excessive_bools, reason = "one of them is for tests"))]
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c Connection,
    pub(super) streams: Vec<Stream<'c>>,
    pub(super) queues: Queues<'c>,
    /// What is to be written with the next commit.
    pub(super) lazy: Lazy,
    /// This transaction has written it.
    pub(super) lazy_written: bool,
    #[cfg(test)]
    pub(super) no_space: bool,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    /// Read once a round: all messages of a transaction have the same time.
    pub(super) now: Now,
    /// Pages in the log after the last commit, told by SQLite.
    pub(super) log_pages: Arc<AtomicU32>,
    dead: DeadStats,
    /// The figures of the dead letters before this transaction, once it touched them.
    dead_before: Option<DeadStats>,
    /// Messages inserted by this transaction.
    pub(super) inserted: u64,
    /// The current boot is not in the database yet: the first transaction that commits puts it there.
    boot_unsaved: bool,
    /// Nor is it that this run has begun to write, so that it is seen where it does not end in order.
    begin_unmarked: bool,
    /// The first packet id that this transaction remembers.
    pub(super) remembered: Option<(ByteString, u16)>,
    /// How it is known whether the commit that failed is on the disk all the same.
    pub(super) evidence: Option<Evidence>,
    /// What failed after a commit. What was decided is on disk and is answered first.
    pub(super) late: Option<Failure>,
    touched: Vec<usize>,
    begun: Option<Instant>,
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    save: Statement<'c>,
}

impl<'c> Stream<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        books: Books,
        settings: &StreamSettings,
        door: Arc<Door>,
    ) -> Result<Self, Failure> {
        let id = door.id;
        let sql = StreamSql::new(id);
        Ok(Self {
            id,
            name: settings.name.clone(),
            door,
            insert: connection.prepare(&sql.insert)?,
            sql,
            noted_next: books.next,
            books,
            limits: settings.limits(),
            when_full: settings.when_full,
            ttl_ms: ttl_ms(settings),
            retain_ms: retain_ms(settings),
            head_at: (0, 0),
            before: None,
            dirty: false,
            entered: (0, 0),
        })
    }
}

impl Stream<'_> {
    /// From now on these settings hold.
    pub(super) fn set(&mut self, settings: &StreamSettings) {
        self.limits = settings.limits();
        self.when_full = settings.when_full;
        self.ttl_ms = ttl_ms(settings);
        self.retain_ms = retain_ms(settings);
    }
}

fn ttl_ms(settings: &StreamSettings) -> Option<u64> {
    settings.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// `None` = for ever.
fn retain_ms(settings: &StreamSettings) -> Option<u64> {
    u64::try_from(settings.retain_sent.as_millis()).ok()
}

impl<'c> Transaction<'c> {
    pub(super) fn new(
        connection: &'c Connection,
        streams: Vec<Stream<'c>>,
        sessions: LoadedSessions,
        shared: Arc<Shared>,
        metrics: Metrics,
        log_pages: Arc<AtomicU32>,
        boot_unsaved: bool,
    ) -> Result<Self, Failure> {
        let shared_dead = Arc::clone(&shared);
        Ok(Self {
            connection,
            streams,
            queues: Queues::new(connection, sessions, &shared)?,
            lazy: Lazy::default(),
            lazy_written: false,
            #[cfg(test)]
            no_space: false,
            shared,
            metrics,
            now: Now::read(),
            log_pages,
            dead: *locked(&shared_dead.dead),
            dead_before: None,
            inserted: 0,
            boot_unsaved,
            begin_unmarked: true,
            remembered: None,
            evidence: None,
            late: None,
            touched: Vec::new(),
            begun: None,
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            save: connection.prepare(schema::SAVE_STREAM)?,
        })
    }

    /// Makes sure that a transaction is open.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        if self.begun.is_none() {
            #[cfg(test)]
            if self.no_space {
                return Err(Failure::Full("as the test says".to_owned()));
            }
            #[cfg(test)]
            self.fail_to_begin()?;
            let at = Instant::now();
            self.begin.raw_execute()?;
            self.begun = Some(at);
            if self.boot_unsaved {
                let boots = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner);
                schema::save_boot(self.connection, boots.current())?;
                schema::forget_boots(self.connection, boots.first_id())?;
            }
            if self.begin_unmarked {
                alarms::mark(self.connection, false)?;
            }
        }
        Ok(())
    }

    /// The stream for a change that rows tell by themselves: appending.
    pub(super) fn appending(&mut self, index: usize) -> &mut Stream<'c> {
        let stream = &mut self.streams[index];
        if stream.before.is_none() {
            stream.before = Some(stream.books.clone());
            self.touched.push(index);
        }
        stream
    }

    /// The stream for any other change: its books are written at the end.
    pub(super) fn changing(&mut self, index: usize) -> &mut Stream<'c> {
        let stream = self.appending(index);
        stream.dirty = true;
        stream
    }

    /// Streams whose row does not know of all that was appended: it will, with the next commit.
    pub(super) fn note_ends(&mut self) {
        for index in 0..self.streams.len() {
            if self.streams[index].noted_next != self.streams[index].books.next {
                self.changing(index);
            }
        }
    }

    /// The figures of the dead letters, for a change.
    pub(super) fn changing_dead(&mut self) -> &mut DeadStats {
        self.dead_before.get_or_insert(self.dead);
        &mut self.dead
    }

    /// Enters in the books what the doors counted meanwhile.
    pub(super) fn enter_owed(&mut self) {
        for index in 0..self.streams.len() {
            let door = &self.streams[index].door;
            let owed = (door.offline.load(Ordering::Relaxed), door.qos0_full.load(Ordering::Relaxed));
            if owed != (0, 0) {
                let stream = self.changing(index);
                stream.entered = owed;
                for (reason, count) in [(OFFLINE, owed.0), (QOS0_FULL, owed.1)] {
                    if count > 0 {
                        stream.books.drop_at_door(reason, count);
                    }
                }
            }
        }
    }

    /// Where the row `last` ends, in bytes of the stream.
    pub(super) fn end_of(&self, index: usize, last: u64) -> Result<u64, Failure> {
        let stream = &self.streams[index];
        if last + 1 == stream.books.next {
            return Ok(stream.books.end_offset);
        }
        let mut statement = self.connection.prepare_cached(&stream.sql.end_at)?;
        let end: Option<i64> = statement.query_row([last.cast_signed()], |row| row.get(0)).optional()?;
        let end = end.map_or(stream.books.head_offset, i64::cast_unsigned);
        if (stream.books.head_offset..=stream.books.end_offset).contains(&end) {
            Ok(end)
        } else {
            Err(Failure::Damaged(format!("row {last} of {} ends at {end}", stream.sql.insert)))
        }
    }

    /// Commits and syncs; then, and only then, everybody may see it. Nothing to commit is fine.
    pub(super) fn commit(&mut self) -> Result<(), Failure> {
        for at in 0..self.touched.len() {
            let index = self.touched[at];
            if self.streams[index].dirty {
                self.begin()?;
                let stream = &self.streams[index];
                schema::save_stream(&mut self.save, stream.id, &stream.books)?;
                let operated = &stream.books.operated;
                if stream.before.as_ref().is_none_or(|before| before.operated != *operated) {
                    operated::save(self.connection, stream.id, operated)?;
                }
            }
        }
        if self.dead_before.is_some() {
            self.begin()?;
            dead::save(self.connection, &self.dead)?;
        }
        if self.queues.is_dirty() {
            self.begin()?;
            self.queues.save(self.connection)?;
        }
        if let Some(begun) = self.begun {
            self.commit_rows()?;
            self.begun = None;
            (self.boot_unsaved, self.begin_unmarked, self.remembered) = (false, false, None);
            self.metrics.committed(begun.elapsed(), self.inserted);
            locked(&self.shared.glance).last_commit = Some(Instant::now());
        }
        self.inserted = 0;
        if std::mem::take(&mut self.lazy_written) {
            self.lazy.clear();
        }
        // What was decided is on disk: whatever fails from here on, it must not be decided again.
        self.publish();
        Ok(())
    }

    fn commit_rows(&mut self) -> Result<(), Failure> {
        #[cfg(test)]
        let committed = self.commit_as_the_test_says();
        #[cfg(not(test))]
        let committed = self.commit.raw_execute();
        if let Err(error) = &committed
            && failure::leaves_doubt(error)
        {
            self.evidence = Some(self.evidence_of_this());
        }
        Ok(committed.map(|_| ())?)
    }

    /// What will be there if this transaction is.
    fn evidence_of_this(&mut self) -> Evidence {
        let touched = || self.touched.iter().map(|&index| (index, &self.streams[index]));
        let entered = touched().map(|(index, stream)| (index, stream.entered)).collect();
        let stream = touched().find(|(_, stream)| stream.before.as_ref().is_some_and(|before| *before != stream.books));
        let mark = if let Some((index, stream)) = stream {
            Mark::Stream(index, stream.books.clone())
        } else if let Some((id, books)) = self.queues.a_change() {
            Mark::Queue(id, books)
        } else if let Some((session, packet_id)) = self.remembered.take() {
            Mark::Received(session, packet_id)
        } else {
            Mark::Nothing
        };
        Evidence { mark, entered }
    }

    #[cfg(test)]
    fn fail_to_begin(&self) -> Result<(), Failure> {
        use crate::store::shared::Fault;
        let mut fault = locked(&self.shared.fault);
        match *fault {
            Some(Fault::NoWrite) => {}
            Some(Fault::AfterSalvage) if *self.shared.salvages.borrow() > 0 => *fault = None,
            Some(Fault::AfterSalvage | Fault::LostSync | Fault::FullIndex) | None => return Ok(()),
        }
        Err(Failure::Trouble("as the test says".to_owned()))
    }

    /// Also as if the sync had failed, and all that follows; or as if there had been no space for the index of the log.
    #[cfg(test)]
    fn commit_as_the_test_says(&mut self) -> Result<usize, rusqlite::Error> {
        use crate::store::shared::Fault;
        let mut fault = locked(&self.shared.fault);
        let code = match *fault {
            Some(Fault::LostSync) => {
                self.commit.raw_execute()?;
                *fault = Some(Fault::NoWrite);
                rusqlite::ffi::SQLITE_IOERR_FSYNC
            }
            Some(Fault::FullIndex) => {
                self.rollback.raw_execute()?;
                *fault = None;
                rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            }
            Some(Fault::NoWrite | Fault::AfterSalvage) | None => return self.commit.raw_execute(),
        };
        Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some("as the test says".to_owned())))
    }

    fn publish(&mut self) {
        let mut room = false;
        for index in std::mem::take(&mut self.touched) {
            let stream = &mut self.streams[index];
            let before = stream.before.take().expect("a touched stream has books from before");
            if std::mem::take(&mut stream.dirty) {
                stream.noted_next = stream.books.next;
            }
            let entered = std::mem::take(&mut stream.entered);
            let moved = before.head != stream.books.head;
            room |= moved;
            if (moved || before.backlog_messages() == 0)
                && let Err(failure) = self.look_at_head(index)
            {
                self.late.get_or_insert(match failure {
                    Failure::Full(cause) => Failure::Trouble(cause),
                    Failure::Damaged(_) | Failure::Trouble(_) | Failure::Unreadable(_) | Failure::Fatal(_) => failure,
                });
            }
            let stream = &self.streams[index];
            let door = &stream.door;
            {
                let mut published = locked(&door.published);
                published.books.clone_from(&stream.books);
                published.head_at = stream.head_at;
                door.offline.fetch_sub(entered.0, Ordering::Relaxed);
                door.qos0_full.fetch_sub(entered.1, Ordering::Relaxed);
            }
            let position = stream.books.position();
            let paused = stream.books.operated.paused;
            let turned = door.paused.swap(paused, Ordering::Relaxed) != paused;
            let replay = stream.books.operated.replay_position();
            door.replay.send_if_modified(|current| std::mem::replace(current, replay) != replay);
            door.position.send_if_modified(|current| std::mem::replace(current, position) != position || turned);
        }
        if self.dead_before.take().is_some() {
            *locked(&self.shared.dead) = self.dead;
            self.metrics.dead.show(&self.dead);
        }
        room |= self.queues.publish(&self.shared, &self.metrics);
        if room {
            self.shared.announce_room();
        }
    }

    /// Reads the time of the oldest message.
    pub(super) fn look_at_head(&mut self, index: usize) -> Result<(), Failure> {
        let stream = &mut self.streams[index];
        if stream.books.backlog_messages() == 0 {
            return Ok(());
        }
        let mut statement = self.connection.prepare_cached(&stream.sql.walk)?;
        let head = (stream.books.head.cast_signed(), 1);
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(2)?, row.get::<_, i64>(3)?.cast_unsigned()));
        let found: Option<(i64, i64, u64)> = statement.query_row(head, row).optional()?;
        let Some((_, boot, at)) = found.filter(|(seq, ..)| *seq == head.0) else {
            return Err(Failure::Damaged(format!("the row {} is missing", stream.books.head)));
        };
        stream.head_at = (boot, at);
        Ok(())
    }

    /// Undoes everything since the last commit, in the database and in the books.
    pub(super) fn undo(&mut self) -> Result<(), Failure> {
        for index in std::mem::take(&mut self.touched) {
            let stream = &mut self.streams[index];
            if let Some(before) = stream.before.take() {
                stream.books = before;
            }
            stream.dirty = false;
            stream.entered = (0, 0);
        }
        if let Some(before) = self.dead_before.take() {
            self.dead = before;
        }
        self.queues.undo();
        self.lazy_written = false;
        self.inserted = 0;
        self.remembered = None;
        self.begun = None;
        // SQLite has rolled back by itself after some errors (SQLITE_FULL among them).
        if !self.connection.is_autocommit() {
            self.rollback.raw_execute()?;
        }
        Ok(())
    }

    /// Corrects the clock of this boot where it was set meanwhile.
    pub(super) fn correct_clock(&mut self) -> Result<(), Failure> {
        let correction = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner).correction(self.now);
        let Some(boot) = correction else { return Ok(()) };
        self.begin()?;
        schema::save_boot(self.connection, &boot)?;
        self.commit()?;
        tracing::info!(offset_ms = boot.offset_ms, "the clock was set; the times of stored messages are corrected");
        self.shared.boots.write().unwrap_or_else(PoisonError::into_inner).correct(boot);
        Ok(())
    }
}
