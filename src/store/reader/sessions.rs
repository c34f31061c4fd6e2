//! Reads of sessions, their queues, and retained messages.

use std::sync::PoisonError;

use bytes::Bytes;
use bytestring::ByteString;
use rusqlite::{Row, Statement, types::ValueRef};

use super::{READ_BYTES_MAX, READ_MESSAGES_MAX, Reader};
use crate::store::{
    api::{Position, Sequence},
    clock::{Boots, Now},
    failure::Failure,
    queue,
    row::{Columns, Decoder, Senseless, bytes_of, weight},
    sessions::{
        RestoredSession, RetainedMessage, SessionId, SessionMessage, SessionRecord, SessionWill, Stage, is_reserved,
    },
    shared::Place,
};

const RETAINED_COLUMNS: Columns = Columns { topic: 0, flags: 1, client: 2, properties: 3, payload: 4 };
const QUEUED_COLUMNS: Columns = Columns { flags: 5, client: 7, topic: 8, properties: 9, payload: 10 };
const WILL_COLUMNS: Columns = Columns { flags: 8, client: 9, topic: 10, properties: 11, payload: 12 };
const WILL_DELAY_COLUMN: usize = 7;

impl Reader {
    fn boots(&self) -> Boots {
        self.shared.boots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn sessions(&mut self) -> Result<Vec<RestoredSession>, Failure> {
        let (boots, now) = (self.boots(), Now::read());
        let mut ids =
            self.connection.prepare_cached("SELECT packet_id FROM received WHERE session = ?1 ORDER BY packet_id")?;
        let mut statement = self.connection.prepare_cached(
            "SELECT id, client_id, expiry_s, state, max_messages, max_bytes, when_full, will_delay_s, will_flags,
            will_client, will_topic, will_properties, will_payload FROM session ORDER BY id",
        )?;
        let mut rows = statement.query([])?;
        let mut sessions = Vec::new();
        while let Some(row) = rows.next()? {
            let id = SessionId(row.get(0)?);
            // Not there: it ended since this statement began.
            let Some(door) = self.shared.queue(id) else { continue };
            let client_id: String = row.get(1)?;
            if is_reserved(&client_id) {
                continue;
            }
            let received = received(&mut ids, &client_id)?;
            let queue = door.books();
            let record = SessionRecord {
                client_id: ByteString::from(client_id),
                expiry_s: row.get(2)?,
                state: Bytes::copy_from_slice(bytes_of(row, 3).unwrap_or_default()),
                received,
                limits: queue::limits_of(row, 4),
                will: will(row, &mut self.decoder),
            };
            sessions.push(RestoredSession {
                id,
                record,
                away_ms: queue.left.map(|left| boots.age_ms(left.boot, left.at, now)),
                head: queue.head,
                next: queue.next,
                sent: queue.left.map(|left| left.sent),
            });
        }
        Ok(sessions)
    }

    pub(super) fn retained(&mut self) -> Result<Vec<RetainedMessage>, Failure> {
        let (boots, now) = (self.boots(), Now::read());
        let mut statement = self.connection.prepare_cached(
            "SELECT topic, flags, client, properties, payload, boot, at, revision FROM retained ORDER BY topic",
        )?;
        let mut rows = statement.query([])?;
        let mut messages = Vec::new();
        while let Some(row) = rows.next()? {
            let number = |column| row.get::<_, i64>(column).unwrap_or(0);
            let age_ms = boots.age_ms(number(5), number(6).cast_unsigned(), now);
            match self.decoder.message(row, RETAINED_COLUMNS) {
                Ok(message) => {
                    messages.push(RetainedMessage { message, age_ms, revision: number(7).cast_unsigned() });
                }
                Err(error) => tracing::error!(%error, "a retained message cannot be read and is left out"),
            }
        }
        Ok(messages)
    }

    pub(super) fn read_session(
        &mut self,
        id: SessionId,
        mut from: Sequence,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<SessionMessage>, Failure> {
        loop {
            let (page, next) = self.read_page(id, from, max_messages, max_bytes)?;
            match next {
                // Nothing but damage: there is more behind it.
                Some(next) if page.is_empty() => from = next,
                Some(_) | None => return Ok(page),
            }
        }
    }

    /// A page of a queue, and where the next one begins unless this was the last.
    fn read_page(
        &mut self,
        id: SessionId,
        from: Sequence,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<(Vec<SessionMessage>, Option<Sequence>), Failure> {
        let Some(door) = self.shared.queue(id) else { return Ok((Vec::new(), None)) };
        let Position { head, next } = door.books().position();
        let from = from.max(head);
        if from >= next {
            return Ok((Vec::new(), None));
        }
        let limit = max_messages.clamp(1, READ_MESSAGES_MAX);
        let max_bytes = max_bytes.clamp(1, READ_BYTES_MAX) as u64;
        let (boots, now) = (self.boots(), Now::read());
        let mut statement = self.connection.prepare_cached(queue::READ_QUEUED)?;
        let range = (queue::key(id, from), queue::key(id, next), i64::try_from(limit).unwrap_or(i64::MAX));
        let mut rows = statement.query(range)?;
        let mut messages = Vec::with_capacity(limit.min(256));
        let (mut damaged, mut gaps) = (Vec::new(), Vec::new());
        let (mut bytes, mut count, mut expected) = (0, 0, from);
        while bytes < max_bytes && count < limit {
            let Some(row) = rows.next()? else {
                gaps.extend((expected < next).then_some((expected, next)));
                expected = next;
                break;
            };
            let seq = queue::of_key(row.get(0)?).1;
            gaps.extend((expected != seq).then_some((expected, seq)));
            (count, expected) = (count + 1, seq + 1);
            match queued(row, seq, &mut self.decoder, &boots, now) {
                Ok(message) => {
                    if let Stage::Published { message, .. } = &message.stage {
                        bytes += weight(message);
                    }
                    messages.push(message);
                }
                Err(senseless) => damaged.push((seq, senseless.to_string())),
            }
        }
        // The statement ends first: a checkpoint may be waiting for it.
        drop(rows);
        drop(statement);
        if !damaged.is_empty() {
            self.report(Place::Queue(id), damaged);
        }
        self.must_have_left(id, &gaps)?;
        Ok((messages, (expected < next).then_some(expected)))
    }

    /// Numbers that are not there must have left before older ones did, as many as the books know: a page that lost its rows
    /// reads without an error. Judged again once everything that was read is published, as for streams.
    fn must_have_left(&self, id: SessionId, gaps: &[(Sequence, Sequence)]) -> Result<(), Failure> {
        let too_many = || {
            let Some(door) = self.shared.queue(id) else { return false };
            let books = door.books();
            let missing = gaps.iter().map(|(first, end)| end.saturating_sub(*first.max(&books.head))).sum::<u64>();
            missing > books.holes()
        };
        if !too_many() {
            return Ok(());
        }
        self.report(Place::Queue(id), Vec::new());
        if too_many() {
            return Err(Failure::Damaged(format!("messages of the queue {} among {gaps:?} are missing", id.0)));
        }
        Ok(())
    }
}

/// The packet ids of a session; what is none is passed over, for salvage copies it as it is.
fn received(ids: &mut Statement<'_>, client_id: &str) -> Result<Vec<u16>, Failure> {
    let mut rows = ids.query([client_id])?;
    let mut received = Vec::new();
    while let Some(row) = rows.next()? {
        received.extend(row.get::<_, u16>(0).ok());
    }
    Ok(received)
}

fn will(row: &Row<'_>, decoder: &mut Decoder) -> Option<SessionWill> {
    if matches!(row.get_ref(WILL_COLUMNS.flags), Ok(ValueRef::Null)) {
        return None;
    }
    let delay_s = row.get(WILL_DELAY_COLUMN).unwrap_or(0);
    match decoder.message(row, WILL_COLUMNS) {
        Ok(message) => Some(SessionWill { message, delay_s }),
        Err(error) => {
            tracing::error!(%error, "the will of a session cannot be read and is lost");
            None
        }
    }
}

fn queued(
    row: &Row<'_>,
    seq: Sequence,
    decoder: &mut Decoder,
    boots: &Boots,
    now: Now,
) -> Result<SessionMessage, Senseless> {
    let number = |column, name| row.get::<_, i64>(column).map_err(|_| Senseless(name));
    let flags = number(5, "flags")?;
    let (qos, retain) = queue::delivery_of(flags).ok_or(Senseless("flags"))?;
    let subscription_ids = match row.get_ref(6) {
        Ok(ValueRef::Null) => None,
        Ok(ValueRef::Blob(bytes)) => Some(queue::decode_ids(bytes).ok_or(Senseless("subscriptions"))?),
        Ok(_) | Err(_) => return Err(Senseless("subscriptions")),
    };
    let stage = if flags & queue::RECEIVED != 0 {
        Stage::Received
    } else {
        let age_ms = boots.age_ms(number(3, "boot")?, number(4, "at")?.cast_unsigned(), now);
        Stage::Published { message: decoder.message(row, QUEUED_COLUMNS)?, age_ms }
    };
    Ok(SessionMessage { seq, qos, retain, subscription_ids, stage })
}
