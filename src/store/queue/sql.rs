//! The tables of sessions and their queues in SQL.

use rusqlite::{Connection, OptionalExtension, Row, Statement};

use super::books::{Counts, Ledger, Left, QueueBooks, SEQUENCE_END, SESSION_END};
use crate::{
    message::QoS,
    store::{
        api::{Sequence, WhenFull},
        failure::Failure,
        sessions::{QueueLimits, SessionCopy, SessionId},
    },
};

/// Version 2 of the database: sessions get numbers, queues, limits and wills; retained messages get ages.
///
/// `queue` has a row for each session, and for each ended one whose rows are not all deleted. `ledger` has one row: the next
/// session id, the end of the revisions given, and what became of the messages of sessions that are no more. `queued` has all messages of all queues: `id` is
/// the session's id << 40 | sequence number, `end` counts the bytes of all messages that came before it in its queue, and its own.
pub(in crate::store) const MIGRATION_2: &str = "
    ALTER TABLE session RENAME TO session_1;
    CREATE TABLE session(
        id INTEGER PRIMARY KEY, client_id TEXT NOT NULL UNIQUE, expiry_s INTEGER NOT NULL, state BLOB NOT NULL,
        max_messages INTEGER NOT NULL, max_bytes INTEGER NOT NULL, when_full INTEGER NOT NULL,
        will_delay_s INTEGER, will_flags INTEGER, will_client TEXT, will_topic TEXT, will_properties BLOB, will_payload BLOB);
    CREATE TABLE queue(
        session INTEGER PRIMARY KEY,
        head INTEGER NOT NULL, next INTEGER NOT NULL, tail INTEGER NOT NULL,
        tail_offset INTEGER NOT NULL, head_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL,
        messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
        queued INTEGER NOT NULL, delivered INTEGER NOT NULL, expired INTEGER NOT NULL, purged INTEGER NOT NULL,
        oldest INTEGER NOT NULL, newest INTEGER NOT NULL, too_large INTEGER NOT NULL, damaged INTEGER NOT NULL,
        left_boot INTEGER, left_at INTEGER, sent INTEGER);
    CREATE TABLE queued(
        id INTEGER PRIMARY KEY, end INTEGER NOT NULL, bytes INTEGER NOT NULL, boot INTEGER NOT NULL, at INTEGER NOT NULL,
        flags INTEGER NOT NULL, subscriptions BLOB, client TEXT, topic TEXT, properties BLOB, payload BLOB);
    CREATE TABLE ledger(
        next_session INTEGER NOT NULL, revision_end INTEGER NOT NULL, messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
        queued INTEGER NOT NULL, delivered INTEGER NOT NULL, expired INTEGER NOT NULL, purged INTEGER NOT NULL,
        oldest INTEGER NOT NULL, newest INTEGER NOT NULL, too_large INTEGER NOT NULL, damaged INTEGER NOT NULL);
    INSERT INTO session SELECT row_number() OVER (ORDER BY client_id), client_id, expiry_s, state, 0, 0, 0,
        NULL, NULL, NULL, NULL, NULL, NULL FROM session_1;
    INSERT INTO queue SELECT id, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL FROM session;
    INSERT INTO ledger SELECT coalesce(max(id), 0) + 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM session;
    DROP TABLE session_1;
    ALTER TABLE retained ADD COLUMN boot INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE retained ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE retained ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
";

/// Appends a message: id, end, bytes, boot, at, flags, subscriptions, client, topic, properties, payload.
pub(in crate::store) const INSERT_QUEUED: &str =
    "INSERT INTO queued VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

/// Messages from ?1 up to, not including, ?2, at most ?3; columns as in [`INSERT_QUEUED`].
pub(in crate::store) const READ_QUEUED: &str =
    "SELECT id, end, bytes, boot, at, flags, subscriptions, client, topic, properties, payload
    FROM queued WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3";

/// id, end, bytes, flags of the messages from ?1 up to, not including, ?2, at most ?3.
pub(in crate::store) const WALK_QUEUED: &str =
    "SELECT id, end, bytes, flags FROM queued WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3";

/// id and end of the last message from ?1 up to, not including, ?2.
const LAST_QUEUED: &str = "SELECT id, end FROM queued WHERE id >= ?1 AND id < ?2 ORDER BY id DESC LIMIT 1";

/// Messages from ?1 up to, not including, ?2.
pub(in crate::store) const DELETE_QUEUED: &str = "DELETE FROM queued WHERE id >= ?1 AND id < ?2";

/// What is left of a message once PUBREC came; ?1 id, ?2 flag.
pub(in crate::store) const RECEIVE_QUEUED: &str =
    "UPDATE queued SET bytes = 0, flags = flags | ?2, subscriptions = NULL,
    client = NULL, topic = NULL, properties = NULL, payload = NULL WHERE id = ?1";

/// Writes a row of the table `queue`; parameters from [`save_queue`].
pub(in crate::store) const SAVE_QUEUE: &str = "INSERT OR REPLACE INTO queue
    VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)";

/// Reads the table `queue`; for [`queue_of`].
pub(in crate::store) const SELECT_QUEUES: &str =
    "SELECT session, head, next, tail, tail_offset, head_offset, end_offset, messages, bytes,
    queued, delivered, expired, purged, oldest, newest, too_large, damaged, left_boot, left_at, sent FROM queue";

const LOAD_LEDGER: &str = "SELECT next_session, revision_end, messages, bytes, queued, delivered, expired, purged,
    oldest, newest, too_large, damaged FROM ledger";

/// Writes the ledger; parameters from [`save_ledger`].
pub(in crate::store) const SAVE_LEDGER: &str =
    "UPDATE ledger SET next_session = ?1, revision_end = ?2, messages = ?3, bytes = ?4, queued = ?5,
    delivered = ?6, expired = ?7, purged = ?8, oldest = ?9, newest = ?10, too_large = ?11, damaged = ?12";

/// A row's delivery QoS, above the flags of its message.
const DELIVERY_QOS_SHIFT: u32 = 3;
const DELIVERY_RETAIN: i64 = 1 << 5;

/// Flag of a row whose PUBREC came.
pub(in crate::store) const RECEIVED: i64 = 1 << 6;

/// The key of a message; of the end of a queue's range with `Sequence::MAX`.
pub(in crate::store) fn key(session: SessionId, seq: Sequence) -> i64 {
    ((u64::from(session.0) << SEQUENCE_END.trailing_zeros()) + seq.min(SEQUENCE_END)).cast_signed()
}

/// The session and the sequence number of a key.
pub(in crate::store) fn of_key(key: i64) -> (SessionId, Sequence) {
    let key = key.cast_unsigned();
    let session = u32::try_from(key >> SEQUENCE_END.trailing_zeros()).unwrap_or(u32::MAX);
    (SessionId(session), key & (SEQUENCE_END - 1))
}

/// The flags of a row, with those of its message.
pub(in crate::store) fn delivery_flags(message: i64, copy: &SessionCopy) -> i64 {
    message | i64::from(copy.qos.number()) << DELIVERY_QOS_SHIFT | if copy.retain { DELIVERY_RETAIN } else { 0 }
}

/// QoS and retain flag of the delivery.
pub(in crate::store) fn delivery_of(flags: i64) -> Option<(QoS, bool)> {
    let qos = QoS::from_number(u8::try_from(flags >> DELIVERY_QOS_SHIFT & 0b11).ok()?)?;
    Some((qos, flags & DELIVERY_RETAIN != 0))
}

pub(in crate::store) fn encode_ids(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_be_bytes()).collect()
}

pub(in crate::store) fn decode_ids(bytes: &[u8]) -> Option<Box<[u32]>> {
    let (ids, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| ids.iter().map(|id| u32::from_be_bytes(*id)).collect())
}

pub(in crate::store) fn when_full_number(when_full: WhenFull) -> i64 {
    match when_full {
        WhenFull::Reject => 0,
        WhenFull::DropOldest => 1,
        WhenFull::DropNewest => 2,
    }
}

/// Limits from three columns; what makes no sense is no limit.
pub(in crate::store) fn limits_of(row: &Row<'_>, first: usize) -> QueueLimits {
    let number =
        |column: usize| row.get::<_, i64>(first + column).ok().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    let when_full = match number(2) {
        1 => WhenFull::DropOldest,
        2 => WhenFull::DropNewest,
        _ => WhenFull::Reject,
    };
    QueueLimits { max_messages: number(0), max_bytes: number(1), when_full }
}

fn number(row: &Row<'_>, column: usize) -> Result<u64, Failure> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| Failure::Damaged(format!("column {column} of a queue is {number}")))
}

/// Reads ten columns.
fn counts(row: &Row<'_>, first: usize) -> Result<Counts, Failure> {
    let number = |column| number(row, first + column);
    Ok(Counts {
        messages: number(0)?,
        bytes: number(1)?,
        queued: number(2)?,
        delivered: number(3)?,
        expired: number(4)?,
        purged: number(5)?,
        dropped: [number(6)?, number(7)?, number(8)?, number(9)?],
    })
}

fn bind_counts(statement: &mut Statement<'_>, first: usize, counts: &Counts) -> Result<(), rusqlite::Error> {
    let Counts { messages, bytes, queued, delivered, expired, purged, dropped: [a, b, c, d] } = *counts;
    let numbers = [messages, bytes, queued, delivered, expired, purged, a, b, c, d];
    numbers.into_iter().enumerate().try_for_each(|(at, n)| statement.raw_bind_parameter(first + at, n.cast_signed()))
}

/// All queues, those of ended sessions too, as they were last written.
pub(in crate::store) fn load_queues(connection: &Connection) -> Result<Vec<(SessionId, QueueBooks)>, Failure> {
    let mut statement = connection.prepare(&format!("{SELECT_QUEUES} ORDER BY session"))?;
    let mut rows = statement.query([])?;
    let mut queues = Vec::new();
    while let Some(row) = rows.next()? {
        queues.push(queue_of(row)?);
    }
    Ok(queues)
}

/// The queue of a row of [`SELECT_QUEUES`].
pub(in crate::store) fn queue_of(row: &Row<'_>) -> Result<(SessionId, QueueBooks), Failure> {
    let id: u32 = row.get(0)?;
    let left = row.get::<_, Option<i64>>(17)?.zip(row.get::<_, Option<i64>>(18)?).zip(row.get::<_, Option<i64>>(19)?);
    let left = left.map(|((boot, at), sent)| Left { boot, at: at.cast_unsigned(), sent: sent.cast_unsigned() });
    let books = QueueBooks {
        head: number(row, 1)?,
        next: number(row, 2)?,
        tail: number(row, 3)?,
        tail_offset: number(row, 4)?,
        head_offset: number(row, 5)?,
        end_offset: number(row, 6)?,
        counts: counts(row, 7)?,
        left,
    };
    if !(1..SESSION_END).contains(&id) || !books.make_sense() {
        return Err(Failure::Damaged(format!("the numbers of the queue {id} make no sense: {books:?}")));
    }
    Ok((SessionId(id), books))
}

/// Writes a row of the table `queue`.
pub(in crate::store) fn save_queue(
    statement: &mut Statement<'_>,
    id: SessionId,
    books: &QueueBooks,
) -> Result<(), rusqlite::Error> {
    let QueueBooks { head, next, tail, tail_offset, head_offset, end_offset, counts, left } = books;
    statement.raw_bind_parameter(1, id.0)?;
    for (at, number) in [head, next, tail, tail_offset, head_offset, end_offset].into_iter().enumerate() {
        statement.raw_bind_parameter(2 + at, number.cast_signed())?;
    }
    bind_counts(statement, 8, counts)?;
    statement.raw_bind_parameter(18, left.map(|left| left.boot))?;
    statement.raw_bind_parameter(19, left.map(|left| left.at.cast_signed()))?;
    statement.raw_bind_parameter(20, left.map(|left| left.sent.cast_signed()))?;
    statement.raw_execute().map(|_| ())
}

/// The ledger.
pub(in crate::store) fn load_ledger(connection: &Connection) -> Result<Ledger, Failure> {
    let mut statement = connection.prepare(LOAD_LEDGER)?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Err(Failure::Damaged("the ledger of sessions is missing".to_owned())) };
    let ledger = Ledger { next_session: row.get(0)?, revision_end: number(row, 1)?, ended: counts(row, 2)? };
    if !ledger.ended.make_sense() {
        return Err(Failure::Damaged(format!("the ledger of sessions makes no sense: {ledger:?}")));
    }
    Ok(ledger)
}

/// Writes the ledger.
pub(in crate::store) fn save_ledger(statement: &mut Statement<'_>, ledger: &Ledger) -> Result<(), rusqlite::Error> {
    statement.raw_bind_parameter(1, ledger.next_session)?;
    statement.raw_bind_parameter(2, ledger.revision_end.cast_signed())?;
    bind_counts(statement, 3, &ledger.ended)?;
    statement.raw_execute().map(|_| ())
}

/// Adds what was appended since the books were last written, and looks whether the oldest message is where they say.
pub(in crate::store) fn catch_up(
    connection: &Connection,
    id: SessionId,
    books: &mut QueueBooks,
) -> Result<(), Failure> {
    let damaged = |cause: String| Err(Failure::Damaged(format!("queue {}: {cause}", id.0)));
    let mut last = connection.prepare_cached(LAST_QUEUED)?;
    let range = (key(id, books.next), key(id, Sequence::MAX));
    let last = last.query_row(range, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
    if let Some((_, seq, end)) = last.map(|(key, end)| (of_key(key).0, of_key(key).1, end.cast_unsigned())) {
        if end < books.end_offset || end >= 1 << 60 {
            return damaged(format!("row {seq} ends at {end}, after {}", books.end_offset));
        }
        let appended = seq + 1 - books.next;
        books.counts.queued += appended;
        books.counts.messages += appended;
        books.counts.bytes += end - books.end_offset;
        books.next = seq + 1;
        books.end_offset = end;
    }
    if books.counts.messages > 0 {
        let mut walk = connection.prepare_cached(WALK_QUEUED)?;
        let head = (key(id, books.head), key(id, books.head + 1), 1);
        if walk.query_row(head, |_| Ok(())).optional()?.is_none() {
            return damaged(format!("the oldest message should be {}, but is not there", books.head));
        }
    }
    if !books.make_sense() {
        return damaged(format!("the books make no sense: {books:?}"));
    }
    Ok(())
}
