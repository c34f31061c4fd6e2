//! Dead letters in the writer's hands: buried within bounds, retried, purged.

use bytestring::ByteString;
use rusqlite::{OptionalExtension, params};

use super::Writer;
use crate::{
    message::{Message, Properties},
    stats::DeadLetter,
    store::{
        api::{Refusal, Sequence, StreamId, WhenFull},
        books::Fit,
        dead,
        failure::Failure,
        orders::{Done, OrderError},
        row::{Decoder, weight},
    },
    units::rfc3339_of_unix_ms,
};

/// User property of a message that was retried: the `tg-id` that it had first.
const RETRY_OF: &str = "tg-retry-of";

/// User property of a message that was retried: when it was first accepted.
const RETRY_TIME: &str = "tg-retry-time";

impl Writer<'_> {
    /// Copies a row to the dead letters; the oldest make room where there are too many.
    pub(super) fn bury(&mut self, index: usize, seq: Sequence, reason: &str, detail: &str) -> Result<(), Failure> {
        self.transaction.begin()?;
        let connection = self.transaction.connection;
        let stream = &self.transaction.streams[index];
        let at = self.transaction.now.mono_ms.cast_signed();
        let bytes = connection
            .prepare_cached(&stream.sql.bury)?
            .query_row(params![seq.cast_signed(), stream.id, reason, detail, self.boot, at], |row| row.get::<_, i64>(0))
            .optional()?;
        let bytes_max = dead::bytes_max(self.space.max_bytes());
        let letters = self.transaction.changing_dead();
        letters.messages += u64::from(bytes.is_some());
        letters.bytes += bytes.unwrap_or(0).unsigned_abs();
        while dead::is_over(letters, bytes_max) {
            let Some(bytes) = dead::drop_oldest(connection)? else { break };
            letters.messages -= 1;
            letters.bytes = letters.bytes.saturating_sub(bytes);
            letters.dropped += 1;
            if letters.dropped.is_power_of_two() {
                tracing::warn!(dropped = letters.dropped, "there are too many dead letters: the oldest are dropped");
            }
        }
        Ok(())
    }

    /// Puts the message of a dead letter at the end of its stream.
    pub(super) fn retry_dead(&mut self, id: u64, gateway: &str) -> Result<Done, Failure> {
        let Some((stream, letter)) = self.dead_letter(id)? else { return Ok(Err(OrderError::NoSuchDeadLetter(id))) };
        let index = self.transaction.streams.iter().position(|known| known.id == stream);
        let (Some(index), Some(mut message)) = (index, letter.message.clone()) else {
            return Ok(Err(OrderError::Unreadable(id)));
        };
        note_origin(&mut message, &letter, gateway);
        let bytes = weight(&message);
        if let Some(refusal) = self.no_room_for(index, bytes) {
            return Ok(Err(OrderError::NoRoom { stream: letter.stream, refusal }));
        }
        let properties = self.encoded_properties(&message);
        self.take(index, &message, properties.as_deref(), bytes)?;
        let letters = self.delete_dead(id)?;
        letters.retried += 1;
        tracing::info!(id, stream = letter.stream, "an operator retried a dead letter");
        Ok(Ok(1))
    }

    /// Forgets a dead letter.
    pub(super) fn purge_dead(&mut self, id: u64) -> Result<Done, Failure> {
        if self.dead_letter(id)?.is_none() {
            return Ok(Err(OrderError::NoSuchDeadLetter(id)));
        }
        self.delete_dead(id)?.purged += 1;
        tracing::warn!(id, "an operator purged a dead letter");
        Ok(Ok(1))
    }

    /// Forgets a slice of the dead letters, of one stream or of all.
    pub(super) fn purge_dead_slice(&mut self, stream: Option<usize>) -> Result<Done, Failure> {
        self.transaction.begin()?;
        let stream = stream.map(|index| self.transaction.streams[index].id);
        let (count, bytes) = dead::drop_some(self.transaction.connection, stream, dead::PURGE_SLICE)?;
        let letters = self.transaction.changing_dead();
        letters.messages = letters.messages.saturating_sub(count);
        letters.bytes = letters.bytes.saturating_sub(bytes);
        letters.purged += count;
        if count > 0 {
            tracing::warn!(count, "an operator purged dead letters");
        }
        Ok(Ok(count))
    }

    /// The dead letter and the durable id of its stream.
    fn dead_letter(&self, id: u64) -> Result<Option<(i64, DeadLetter)>, Failure> {
        let boots = self.transaction.shared.boots.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let mut select = self.transaction.connection.prepare_cached(&format!("{}WHERE id = ?1", dead::COLUMNS))?;
        let mut rows = select.query([id.cast_signed()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let streams = &self.transaction.streams;
        let name = |id| streams.iter().find(|known| known.id == id).map_or(String::new(), |known| known.name.clone());
        Ok(Some((row.get(1)?, dead::of_row(row, &mut Decoder::new(), &boots, name)?)))
    }

    fn delete_dead(&mut self, id: u64) -> Result<&mut crate::stats::DeadStats, Failure> {
        self.transaction.begin()?;
        let bytes = dead::delete(self.transaction.connection, id)?;
        let letters = self.transaction.changing_dead();
        letters.messages = letters.messages.saturating_sub(u64::from(bytes.is_some()));
        letters.bytes = letters.bytes.saturating_sub(bytes.unwrap_or(0));
        Ok(letters)
    }

    /// Why a message that somebody wants to be there now cannot be; a stream that drops the oldest makes room.
    fn no_room_for(&mut self, index: usize, bytes: u64) -> Option<Refusal> {
        if self.space.disk_full(std::time::Instant::now()) {
            return Some(Refusal::DiskFull);
        }
        let stream = &self.transaction.streams[index];
        let fit = stream.books.fit(stream.limits, bytes);
        let id = u32::try_from(index).map_or(StreamId(u32::MAX), StreamId);
        match (fit, stream.when_full) {
            (Fit::Never, _) | (Fit::Full, WhenFull::Reject | WhenFull::DropNewest) => Some(Refusal::StreamFull(id)),
            (Fit::Fits | Fit::Full, WhenFull::DropOldest) if stream.books.backlog_messages() > 0 => None,
            (Fit::Fits | Fit::Full, _) => self.space.store_full(bytes).then_some(Refusal::StoreFull),
        }
    }
}

/// Says in the message itself where it came from; one that is retried a second time keeps what it says.
fn note_origin(message: &mut Message, letter: &DeadLetter, gateway: &str) {
    let properties = message.properties.get_or_insert_with(|| Box::new(Properties::default()));
    if properties.user.iter().any(|(name, _)| &**name == RETRY_OF) {
        return;
    }
    // A retried message is a new one with an id of its own, an imported one too.
    let origin = properties.origin.take();
    let id =
        origin.as_ref().map_or_else(|| format!("{gateway}/{}/{}", letter.stream, letter.seq), |origin| origin.id());
    properties.user.push((ByteString::from_static(RETRY_OF), ByteString::from(id)));
    let accepted_unix_ms = origin.map(|origin| origin.accepted_unix_ms).or(letter.accepted_unix_ms);
    if let Some(time) = accepted_unix_ms.and_then(rfc3339_of_unix_ms) {
        properties.user.push((ByteString::from_static(RETRY_TIME), ByteString::from(time)));
    }
}
