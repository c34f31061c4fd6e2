//! The queues of all sessions in the writer's hands: books in memory, rolled back and published with the transaction.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use bytestring::ByteString;
use rusqlite::{Connection, OptionalExtension, Statement};

use crate::store::{
    api::Sequence,
    failure::Failure,
    metrics::Metrics,
    opening::LoadedSessions,
    queue::{self, Counts, Ledger, QueueBooks, SESSION_END},
    sessions::{QueueLimits, SessionId, is_reserved},
    shared::{QueueDoor, Shared, locked},
};

/// Revisions that may be given before the ledger is written again.
const REVISIONS_AHEAD: u64 = 1 << 32;

/// A queue in the writer's hands.
pub(super) struct Queue {
    pub(super) books: QueueBooks,
    pub(super) limits: QueueLimits,
    /// `None`: the session has ended, its rows are yet to be deleted.
    pub(super) client_id: Option<ByteString>,
    pub(super) door: Arc<QueueDoor>,
    /// All of it before this transaction, once it touched it.
    before: Option<Before>,
    /// Whether the row of the books must be written; appended rows alone are their own count.
    dirty: bool,
}

#[derive(Clone)]
struct Before {
    books: QueueBooks,
    limits: QueueLimits,
    client_id: Option<ByteString>,
    /// Made by this transaction: there was nothing before.
    new: bool,
}

/// All queues.
pub(super) struct Queues<'c> {
    map: HashMap<SessionId, Queue>,
    by_client: HashMap<ByteString, SessionId>,
    ledger: Ledger,
    /// It before this transaction, once that touched it.
    ledger_before: Option<Ledger>,
    /// The next revision of a retained message, and the same as of the last commit.
    revision: u64,
    committed_revision: u64,
    touched: Vec<SessionId>,
    /// Rows to be deleted and bytes of them, or more, as of the last commit.
    garbage: (u64, u64),
    pub(super) insert: Statement<'c>,
    save_queue: Statement<'c>,
    save_ledger: Statement<'c>,
}

/// A row of a queue, without its message.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueuedRow {
    pub(super) seq: Sequence,
    pub(super) end: u64,
    pub(super) bytes: u64,
    pub(super) received: bool,
}

impl<'c> Queues<'c> {
    /// All queues as they were loaded, with the doors that were made for them.
    pub(super) fn new(connection: &'c Connection, loaded: LoadedSessions, shared: &Shared) -> Result<Self, Failure> {
        let mut queues = Self {
            map: HashMap::with_capacity(loaded.queues.len()),
            by_client: HashMap::with_capacity(loaded.queues.len()),
            ledger: loaded.ledger,
            ledger_before: None,
            revision: loaded.ledger.revision_end,
            committed_revision: loaded.ledger.revision_end,
            touched: Vec::new(),
            garbage: (0, 0),
            insert: connection.prepare(queue::INSERT_QUEUED)?,
            save_queue: connection.prepare(queue::SAVE_QUEUE)?,
            save_ledger: connection.prepare(queue::SAVE_LEDGER)?,
        };
        for (id, books, session) in loaded.queues {
            let limits = session.as_ref().map_or(QueueLimits::default(), |session| session.limits);
            let door = shared.queue(id).unwrap_or_else(|| Arc::new(QueueDoor::new(books, limits)));
            queues.garbage.0 += books.garbage_rows();
            queues.garbage.1 += books.garbage_bytes();
            let client_id = session.map(|session| session.client_id);
            if let Some(client_id) = &client_id {
                queues.by_client.insert(client_id.clone(), id);
            }
            queues.map.insert(id, Queue { books, limits, client_id, door, before: None, dirty: false });
        }
        Ok(queues)
    }

    pub(super) fn id_of(&self, client_id: &str) -> Option<SessionId> {
        self.by_client.get(client_id).copied()
    }

    /// The queue of a session that has not ended.
    pub(super) fn live(&self, id: SessionId) -> Option<&Queue> {
        self.map.get(&id).filter(|queue| queue.client_id.is_some())
    }

    /// A queue that is there, for a change that rows tell by themselves: appending.
    pub(super) fn appending(&mut self, id: SessionId) -> Option<&mut Queue> {
        let queue = self.map.get_mut(&id)?;
        if queue.before.is_none() {
            queue.before = Some(Before {
                books: queue.books,
                limits: queue.limits,
                client_id: queue.client_id.clone(),
                new: false,
            });
            self.touched.push(id);
        }
        Some(queue)
    }

    /// A queue that is there, for any other change: its books are written at the end.
    pub(super) fn changing(&mut self, id: SessionId) -> Option<&mut Queue> {
        let queue = self.appending(id)?;
        queue.dirty = true;
        Some(queue)
    }

    /// Makes the queue of a new session. Its number is one that no row has; it comes again, if ever, after 8 million others.
    pub(super) fn create(&mut self, client_id: ByteString, limits: QueueLimits) -> SessionId {
        self.keep_ledger();
        let next = &mut self.ledger.next_session;
        while *next == 0 || *next >= SESSION_END || self.map.contains_key(&SessionId(*next)) {
            *next = if *next >= SESSION_END { 1 } else { *next + 1 };
        }
        let id = SessionId(*next);
        *next += 1;
        let books = QueueBooks::default();
        self.by_client.insert(client_id.clone(), id);
        let before = Before { books, limits, client_id: None, new: true };
        let door = Arc::new(QueueDoor::new(books, limits));
        let queue = Queue { books, limits, client_id: Some(client_id), door, before: Some(before), dirty: true };
        self.map.insert(id, queue);
        self.touched.push(id);
        id
    }

    /// Ends a session: what is queued counts as purged, its rows become garbage.
    pub(super) fn end(&mut self, id: SessionId) {
        self.keep_ledger();
        let Some(queue) = self.changing(id) else { return };
        queue.books.purge();
        let counts = std::mem::take(&mut queue.books.counts);
        let client_id = queue.client_id.take();
        self.ledger.ended.add(counts);
        if let Some(client_id) = client_id {
            self.by_client.remove(&client_id);
        }
    }

    /// The next revision of a retained message. The ledger is written once in many: a restart skips those not given.
    pub(super) fn next_revision(&mut self) -> u64 {
        let revision = self.revision;
        self.revision += 1;
        if self.revision > self.ledger.revision_end {
            self.keep_ledger();
            self.ledger.revision_end = revision + REVISIONS_AHEAD;
        }
        revision
    }

    fn keep_ledger(&mut self) {
        self.ledger_before.get_or_insert(self.ledger);
    }

    /// Whether [`Queues::save`] has anything to write.
    pub(super) fn is_dirty(&self) -> bool {
        self.ledger_before.is_some() || self.touched.iter().any(|id| self.map.get(id).is_some_and(|queue| queue.dirty))
    }

    /// The books of a queue that this transaction has changed, as they are now.
    pub(super) fn a_change(&self) -> Option<(SessionId, QueueBooks)> {
        let changed = |id: &SessionId| {
            let queue = self.map.get(id)?;
            let is_changed = queue.before.as_ref().is_some_and(|before| before.books != queue.books);
            (is_changed && !queue.is_gone()).then_some((*id, queue.books))
        };
        self.touched.iter().find_map(changed)
    }

    /// Writes the books that must be written.
    pub(super) fn save(&mut self, connection: &Connection) -> Result<(), Failure> {
        for id in &self.touched {
            let Some(queue) = self.map.get(id).filter(|queue| queue.dirty) else { continue };
            if queue.is_gone() {
                connection.prepare_cached("DELETE FROM queue WHERE session = ?1")?.execute([id.0])?;
            } else {
                queue::save_queue(&mut self.save_queue, *id, &queue.books)?;
            }
        }
        if self.ledger_before.is_some() {
            queue::save_ledger(&mut self.save_ledger, &self.ledger)?;
        }
        Ok(())
    }

    /// Shows what was committed; true where there may be room for what there was none for.
    pub(super) fn publish(&mut self, shared: &Shared, metrics: &Metrics) -> bool {
        let (mut came, mut left) = (Counts::default(), Counts::default());
        self.committed_revision = self.revision;
        if let Some(before) = self.ledger_before.take() {
            came.add(self.ledger.ended);
            left.add(before.ended);
        }
        let mut room = false;
        for id in std::mem::take(&mut self.touched) {
            let Some(queue) = self.map.get_mut(&id) else { continue };
            let Some(before) = queue.before.take() else { continue };
            queue.dirty = false;
            if !queue.client_id.as_deref().is_some_and(is_reserved) {
                came.add(queue.books.counts);
                left.add(before.books.counts);
            }
            self.garbage.0 = (self.garbage.0 + queue.books.garbage_rows()).saturating_sub(before.books.garbage_rows());
            self.garbage.1 =
                (self.garbage.1 + queue.books.garbage_bytes()).saturating_sub(before.books.garbage_bytes());
            room |= queue.books.counts.bytes < before.books.counts.bytes
                || queue.books.counts.messages < before.books.counts.messages
                || queue.limits != before.limits;
            *locked(&queue.door.published) = (queue.books, queue.limits);
            if before.new || queue.client_id.is_none() {
                let mut doors = shared.queues.write().unwrap_or_else(PoisonError::into_inner);
                if queue.client_id.is_some() {
                    doors.insert(id, Arc::clone(&queue.door));
                } else {
                    doors.remove(&id);
                }
            }
            if queue.is_gone() {
                self.map.remove(&id);
            }
        }
        if came != left {
            let mut totals = locked(&shared.queue_totals);
            totals.add(came);
            totals.sub(left);
            metrics.queues.show(&totals);
        }
        room
    }

    /// Puts everything back as it was before this transaction.
    pub(super) fn undo(&mut self) {
        self.revision = self.committed_revision;
        if let Some(before) = self.ledger_before.take() {
            self.ledger = before;
        }
        let touched = std::mem::take(&mut self.touched);
        // First what is new: another session may have had the same client id before.
        for id in &touched {
            let new = self.map.get(id).is_some_and(|queue| queue.before.as_ref().is_some_and(|before| before.new));
            if new && let Some(client_id) = self.map.remove(id).and_then(|queue| queue.client_id) {
                self.by_client.remove(&client_id);
            }
        }
        for id in touched {
            let Some(queue) = self.map.get_mut(&id) else { continue };
            let Some(before) = queue.before.take() else { continue };
            (queue.books, queue.limits, queue.client_id) = (before.books, before.limits, before.client_id);
            queue.dirty = false;
            if let Some(client_id) = &queue.client_id {
                self.by_client.insert(client_id.clone(), id);
            }
        }
    }

    /// Rows that are to be deleted and bytes of them, or more, as of the last commit.
    pub(super) fn garbage(&self) -> (u64, u64) {
        self.garbage
    }

    /// The queues that have rows to be deleted.
    pub(super) fn with_garbage(&self) -> Vec<SessionId> {
        self.map.iter().filter(|(_, queue)| queue.books.garbage_rows() > 0).map(|(id, _)| *id).collect()
    }
}

impl Queue {
    /// Nothing of it is left to do.
    fn is_gone(&self) -> bool {
        self.client_id.is_none() && self.books.garbage_rows() == 0
    }
}

/// The first row of a queue from `from` up to, not including, `end`. What makes no sense in it is zero.
pub(super) fn first_row(
    connection: &Connection,
    id: SessionId,
    from: Sequence,
    end: Sequence,
) -> Result<Option<QueuedRow>, Failure> {
    let mut walk = connection.prepare_cached(queue::WALK_QUEUED)?;
    let range = (queue::key(id, from), queue::key(id, end), 1);
    Ok(walk.query_row(range, |row| Ok(queued_row(row))).optional()?)
}

/// The columns of [`queue::WALK_QUEUED`].
pub(super) fn queued_row(row: &rusqlite::Row<'_>) -> QueuedRow {
    let number = |column| row.get::<_, i64>(column).unwrap_or(0);
    QueuedRow {
        seq: queue::of_key(number(0)).1,
        end: number(1).cast_unsigned(),
        bytes: u64::try_from(number(2)).unwrap_or(0),
        received: number(3) & queue::RECEIVED != 0,
    }
}
