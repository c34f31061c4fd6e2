//! Imports in the writer's hands.

use std::time::Instant;

use rusqlite::OptionalExtension;

use super::Writer;
use crate::{
    message::{Message, Origin},
    store::{
        api::{Refusal, StreamId},
        books::Fit,
        failure::Failure,
        import::{Import, Imported, Ledger, Stop},
        orders::OrderError,
        row::{Columns, Decoder, weight},
    },
};

/// The columns of a message as `StreamSql::read` gives them.
const COLUMNS: Columns = Columns { flags: 4, client: 5, topic: 6, properties: 7, payload: 8 };

/// What is to be done with a message of an import.
enum Verdict {
    Take,
    Skip,
    Stop(Stop),
}

impl Writer<'_> {
    /// Stores a batch in order, up to where there is no room.
    pub(super) fn import(&mut self, import: &Import) -> Result<Result<Imported, OrderError>, Failure> {
        let Import { stream, messages, own, again } = import;
        let mut ledger = Ledger::new(self.transaction.connection, self.transaction.streams[*stream].id);
        let mut done = Imported::default();
        for message in messages {
            let origin = message.properties.as_ref().and_then(|properties| properties.origin.as_deref());
            let known = match origin {
                Some(origin) => self.is_known(&mut ledger, *stream, message, origin, own)?,
                None => Some(false),
            };
            match self.judge(*stream, message, known, *again) {
                Verdict::Take => {}
                Verdict::Skip => {
                    done.skipped += 1;
                    continue;
                }
                Verdict::Stop(stop) => {
                    done.stop = Some(stop);
                    break;
                }
            }
            let bytes = weight(message);
            let properties = self.encoded_properties(message);
            self.append(*stream, message, properties.as_deref(), bytes)?;
            self.properties = properties.unwrap_or_else(|| std::mem::take(&mut self.properties));
            done.accepted += 1;
            if let Some(origin) = origin {
                ledger.add(&origin.source, origin.sequence);
            }
        }
        ledger.save()?;
        tracing::debug!(
            stream = self.transaction.streams[*stream].name,
            accepted = done.accepted,
            skipped = done.skipped,
            "messages were imported"
        );
        Ok(Ok(done))
    }

    fn judge(&mut self, index: usize, message: &Message, known: Option<bool>, again: bool) -> Verdict {
        match known {
            Some(true) if !again => return Verdict::Skip,
            None => return Verdict::Stop(Stop::TooManySources),
            Some(_) => {}
        }
        let bytes = weight(message);
        if self.space.disk_full(Instant::now()) {
            return Verdict::Stop(Stop::NoRoom(Refusal::DiskFull));
        }
        let stream = &self.transaction.streams[index];
        let id = u32::try_from(index).map_or(StreamId(u32::MAX), StreamId);
        match stream.books.fit(stream.limits, bytes) {
            Fit::Never => Verdict::Stop(Stop::TooLarge),
            Fit::Full => Verdict::Stop(Stop::NoRoom(Refusal::StreamFull(id))),
            Fit::Fits if self.space.store_full(bytes) => Verdict::Stop(Stop::NoRoom(Refusal::StoreFull)),
            Fit::Fits => Verdict::Take,
        }
    }

    /// Whether a message was imported before, or is one of this very stream that is still in the backlog. `None`: its source is one too many.
    fn is_known(
        &self,
        ledger: &mut Ledger<'_>,
        index: usize,
        message: &Message,
        origin: &Origin,
        own: &str,
    ) -> Result<Option<bool>, Failure> {
        match ledger.has(&origin.source, origin.sequence)? {
            Some(false) if *origin.source == *own => Ok(Some(self.is_still_here(index, message, origin.sequence)?)),
            known => Ok(known),
        }
    }

    /// Whether the backlog has this message under this number. Numbers alone do not tell: they may be of a data directory that was lost.
    fn is_still_here(&self, index: usize, message: &Message, sequence: u64) -> Result<bool, Failure> {
        let stream = &self.transaction.streams[index];
        let books = &stream.books;
        if sequence < books.head || sequence >= books.next || books.holes.contains(sequence) {
            return Ok(false);
        }
        let mut read = self.transaction.connection.prepare_cached(&stream.sql.read)?;
        let here = read
            .query_row((sequence.cast_signed(), 1), |row| {
                let same = row.get::<_, i64>(0)?.cast_unsigned() == sequence;
                Ok(Decoder::new().message(row, COLUMNS).ok().filter(|_| same))
            })
            .optional()?
            .flatten();
        Ok(here.is_some_and(|here| {
            (&here.topic, &here.payload, &here.client) == (&message.topic, &message.payload, &message.client)
        }))
    }
}
