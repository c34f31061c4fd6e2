//! Salvage of sessions, their queues, and retained messages.
//!
//! A session is its row: where that is lost its messages are of no use to anybody and count as dropped (`damaged`). Where the
//! books of its queue are lost they are made anew from the rows: what was delivered but not deleted yet is delivered again.

use std::collections::HashMap;

use rusqlite::{Connection, Row, Statement, params_from_iter, types::Value};

use super::{Batches, Summary, copy_rows, length, read_around, walk::Walk};
use crate::store::{
    api::Sequence,
    clock::{ERA_UNIX_MS, Now},
    failure::Failure,
    queue::{self, Counts, Drop, QueueBooks, SESSION_END},
    sessions::SessionId,
};

const SESSIONS: &str = "SELECT id, client_id, expiry_s, state, max_messages, max_bytes, when_full,
    will_delay_s, will_flags, will_client, will_topic, will_properties, will_payload FROM session";

/// As [`SESSIONS`], from version 1 of the database.
const SESSIONS_1: &str =
    "SELECT 0, client_id, expiry_s, state, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL FROM session";

const RETAINED: &str = "SELECT topic, flags, client, properties, payload, boot, at, revision FROM retained";
const RETAINED_1: &str = "SELECT topic, flags, client, properties, payload, 0, 0, 0 FROM retained";

const QUEUED: &str = "SELECT id, end, bytes, boot, at, flags, subscriptions, client, topic, properties, payload
    FROM queued WHERE id >= ?1 ORDER BY id LIMIT ?2";

/// What was found of one queue.
#[derive(Debug, Default)]
struct Found {
    /// The books, as far as they could be read.
    books: Option<QueueBooks>,
    /// The first message that was copied.
    first: Option<Sequence>,
    /// The first number above all that are known to have been given.
    seen: Sequence,
    messages: u64,
    bytes: u64,
    /// Bytes of all that was copied.
    end: u64,
}

/// Copies sessions, queues and retained messages.
pub(super) fn copy(old: &Connection, new: &Connection, summary: &mut Summary) -> Result<(), Failure> {
    let is_version_1 = old.prepare(SESSIONS).is_err();
    let (sessions, retained) = if is_version_1 { (SESSIONS_1, RETAINED_1) } else { (SESSIONS, RETAINED) };
    copy_rows(old, new, retained, "rowid", "retained")?;
    let mut ledger = queue::load_ledger(old).unwrap_or_default();
    let revision: Option<i64> = new.query_row("SELECT max(revision) FROM retained", [], |row| row.get(0))?;
    ledger.revision_end = ledger.revision_end.max(revision.map_or(1, |last| last.saturating_add(1).unsigned_abs()));
    let mut found = copy_sessions(old, new, sessions)?;
    read_around(old, queue::SELECT_QUEUES, "session", |row| {
        let Ok((id, mut books)) = queue::queue_of(row) else { return Ok(()) };
        ledger.next_session = ledger.next_session.max(id.0 + 1);
        match found.get_mut(&id) {
            Some(found) => found.books = Some(books),
            None if books.counts != Counts::default() => {
                tracing::error!(session = id.0, messages = books.counts.messages, "a session is lost to damage");
                summary.lost += books.counts.messages;
                lose(&mut books, 0, 0);
                ledger.ended.add(books.counts);
            }
            // Ended: its rows need no deleting here.
            None => {}
        }
        Ok(())
    })?;
    copy_queued(old, new, &mut found)?;
    let mut save = new.prepare(queue::SAVE_QUEUE)?;
    for (id, found) in found {
        ledger.next_session = ledger.next_session.max(id.0 + 1);
        let books = mended(id, &found, summary);
        queue::save_queue(&mut save, id, &books)?;
    }
    ledger.ended.force_balance();
    Ok(queue::save_ledger(&mut new.prepare(queue::SAVE_LEDGER)?, &ledger)?)
}

/// Copies the rows of sessions that have a client id.
fn copy_sessions(old: &Connection, new: &Connection, select: &str) -> Result<HashMap<SessionId, Found>, Failure> {
    let transaction = new.unchecked_transaction()?;
    let places = ["?"; 13].join(", ");
    let mut insert = transaction.prepare(&format!("INSERT OR IGNORE INTO session VALUES({places})"))?;
    let mut found = HashMap::new();
    read_around(old, select, "client_id", |row| {
        let mut values: Vec<Value> = (0..13).map(|column| row.get(column).unwrap_or(Value::Null)).collect();
        let Value::Integer(id) = values[0] else { return Ok(()) };
        let id = match u32::try_from(id) {
            // Version 1 has none.
            Ok(0) => u32::try_from(found.len() + 1).unwrap_or(SESSION_END),
            Ok(id) => id,
            Err(_) => SESSION_END,
        };
        if id >= SESSION_END || !matches!(values[1], Value::Text(_)) {
            return Ok(());
        }
        values[0] = Value::Integer(i64::from(id));
        if !matches!(values[2], Value::Integer(expiry_s) if u32::try_from(expiry_s).is_ok()) {
            values[2] = Value::Integer(i64::from(u32::MAX));
        }
        if !matches!(values[3], Value::Blob(_)) {
            values[3] = Value::Blob(Vec::new());
        }
        for limit in &mut values[4..7] {
            if !matches!(limit, Value::Integer(_)) {
                *limit = Value::Integer(0);
            }
        }
        if insert.execute(params_from_iter(values))? == 1 {
            found.insert(SessionId(id), Found::default());
        }
        Ok(())
    })?;
    drop(insert);
    transaction.commit()?;
    Ok(found)
}

/// Copies the messages of the sessions that are left.
fn copy_queued(old: &Connection, new: &Connection, found: &mut HashMap<SessionId, Found>) -> Result<(), Failure> {
    let mut insert = new.prepare(queue::INSERT_QUEUED)?;
    let mut batches = Batches::begin(new)?;
    let last = queue::key(SessionId(SESSION_END), 0).cast_unsigned();
    let walk = Walk { old, sql: QUEUED, next: 0, last };
    walk.run(|key, row| {
        let (id, seq) = queue::of_key(key.cast_signed());
        if let Some(found) = found.get_mut(&id) {
            found.take(seq, row, &mut insert)?;
            batches.row()?;
        }
        Ok(())
    })?;
    batches.end()
}

impl Found {
    fn take(&mut self, seq: Sequence, row: &Row<'_>, insert: &mut Statement<'_>) -> Result<(), Failure> {
        self.seen = self.seen.max(seq + 1);
        if self.books.is_some_and(|books| seq < books.head) {
            return Ok(());
        }
        let mut values: Vec<Value> = (0..11).map(|column| row.get(column).unwrap_or(Value::Null)).collect();
        let bytes = values[7..11].iter().map(length).sum::<u64>();
        values[1] = Value::Integer((self.end + bytes).cast_signed());
        values[2] = Value::Integer(bytes.cast_signed());
        match insert.execute(params_from_iter(values)) {
            Ok(_) => {
                self.first.get_or_insert(seq);
                self.messages += 1;
                self.bytes += bytes;
                self.end += bytes;
                Ok(())
            }
            // A column that must not be NULL is: this row is damaged, the next may not be.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The books of a queue as what was copied says; what is missing is counted.
fn mended(id: SessionId, found: &Found, summary: &mut Summary) -> QueueBooks {
    let mut books = found.books.unwrap_or_default();
    let mut next = found.seen.max(books.next);
    // Every number from the next one on that the books knew was given to a message.
    let appended = if found.books.is_some() { next - books.next } else { found.messages };
    books.counts.queued += appended;
    books.counts.messages += appended;
    let lost = lose(&mut books, found.messages, found.bytes);
    next = next.saturating_add(summary.skipped);
    if found.books.is_none() {
        // Nothing says how far it was: the numbers go on from the seconds since 1970.
        let seconds = Now::read().unix_ms.max(ERA_UNIX_MS) / 1000;
        next = next.max(seconds.unsigned_abs());
    }
    books.next = next;
    books.head = found.first.unwrap_or(next);
    books.tail = books.head;
    (books.tail_offset, books.head_offset, books.end_offset) = (0, 0, found.end);
    if books.counts.messages == 0 {
        (books.tail_offset, books.head_offset) = (found.end, found.end);
    }
    if books.counts.force_balance() {
        tracing::error!(session = id.0, ?books, "the books of a queue did not balance; `queued` was set anew");
    }
    if lost > 0 || found.books.is_none() {
        tracing::warn!(session = id.0, kept = found.messages, lost, next, "salvaged a session queue");
    }
    summary.kept += found.messages;
    summary.lost += lost;
    books
}

/// Counts as damaged what should be there beyond so many messages; gives how many.
fn lose(books: &mut QueueBooks, messages: u64, bytes: u64) -> u64 {
    let lost = books.counts.messages.saturating_sub(messages);
    books.counts.drop(Drop::Damaged, lost);
    (books.counts.messages, books.counts.bytes) = (messages, bytes);
    lost
}
