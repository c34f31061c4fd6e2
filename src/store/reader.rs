//! The reader thread: answers reads from its own connection, while the writer writes.

mod dead;
mod sessions;

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, mpsc::Receiver},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    api::{Sequence, Stored},
    clock::{Boots, Now},
    failure::Failure,
    row::{Columns, Decoder, Senseless, weight},
    schema::StreamSql,
    shared::{Job, Place, Query, Shared, Work, locked},
    writer::poison,
};

/// Most messages one read gives.
pub const READ_MESSAGES_MAX: usize = 4096;

/// Most bytes one read gives, if it is more than one message.
pub const READ_BYTES_MAX: usize = 1 << 20;

const STREAM_COLUMNS: Columns = Columns { flags: 4, client: 5, topic: 6, properties: 7, payload: 8 };

/// What the reader needs to begin.
pub(super) struct Start {
    pub(super) connection: Connection,
    pub(super) queries: Receiver<Query>,
    pub(super) shared: Arc<Shared>,
    pub(super) data_dir: PathBuf,
    /// Durable ids of all streams.
    pub(super) streams: Vec<i64>,
}

struct Reader {
    connection: Connection,
    shared: Arc<Shared>,
    /// Durable ids of the streams.
    ids: Vec<i64>,
    sql: Vec<StreamSql>,
    decoder: Decoder,
}

/// Which part of a stream is asked for.
struct Span {
    stream: usize,
    from: Sequence,
    max_messages: usize,
    max_bytes: usize,
}

/// Runs the reader until the store ends; the body of its thread.
pub(super) fn run(start: Start) {
    let shared = Arc::clone(&start.shared);
    let data_dir = start.data_dir.clone();
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(start)));
    match end {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => poison(&shared, &data_dir, &failure),
        Err(_) => poison(&shared, &data_dir, &Failure::Fatal("the reader panicked".to_owned())),
    }
}

fn work(start: Start) -> Result<(), Failure> {
    let Start { connection, queries, shared, data_dir: _, streams } = start;
    connection.set_prepared_statement_cache_capacity(8 + streams.len());
    let sql = streams.iter().copied().map(StreamSql::new).collect();
    let mut reader = Reader { connection, shared, ids: streams, sql, decoder: Decoder::new() };
    while let Ok(query) = queries.recv() {
        // Whoever asked may have given up waiting: a reply that nobody takes is no error.
        match query {
            Query::Read { stream, from, max_messages, max_bytes, reply } => {
                if !reply.is_closed() {
                    let _ = reply.send(reader.read(&Span { stream, from, max_messages, max_bytes })?);
                }
            }
            Query::Sessions { reply } => drop(reply.send(reader.sessions()?)),
            Query::ReadSession { session, from, max_messages, max_bytes, reply } => {
                if !reply.is_closed() {
                    let _ = reply.send(reader.read_session(session, from, max_messages, max_bytes)?);
                }
            }
            Query::Dead { filter, reply } => drop(reply.send(reader.dead(&filter)?)),
            Query::Retained { reply } => drop(reply.send(reader.retained()?)),
            Query::End => break,
        }
    }
    Ok(())
}

impl Reader {
    fn read(&mut self, span: &Span) -> Result<Vec<Stored>, Failure> {
        let position = *self.shared.doors[span.stream].position.borrow();
        let from = span.from.max(position.head);
        let limit = span.max_messages.clamp(1, READ_MESSAGES_MAX);
        let max_bytes = span.max_bytes.min(READ_BYTES_MAX) as u64;
        let now = Now::read();
        let boots = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut statement = self.connection.prepare_cached(&self.sql[span.stream].read)?;
        let mut rows = statement.query((from.cast_signed(), i64::try_from(limit).unwrap_or(i64::MAX)))?;
        let mut messages = Vec::with_capacity(limit.min(256));
        let mut damaged = Vec::new();
        let mut gaps = Vec::new();
        let (mut bytes, mut count, mut expected) = (0, 0, from);
        while bytes < max_bytes && count < limit {
            let Some(row) = rows.next()? else {
                // Messages committed since `position` was looked at may have been read, so this can be behind us.
                gaps.extend((expected < position.next).then_some((expected, position.next)));
                break;
            };
            let seq = row.get::<_, i64>(0)?.cast_unsigned();
            gaps.extend((expected != seq).then_some((expected, seq)));
            (count, expected) = (count + 1, seq + 1);
            match stored(row, seq, &mut self.decoder, &boots, now) {
                Ok(message) => {
                    bytes += u64::from(message.bytes);
                    messages.push(message);
                }
                Err(senseless) => damaged.push((seq, senseless.to_string())),
            }
        }
        // The statement ends first: a checkpoint may be waiting for it.
        drop(rows);
        drop(statement);
        if !damaged.is_empty() {
            self.report(Place::Stream(span.stream), damaged);
        }
        self.must_be_holes(span.stream, &gaps)?;
        Ok(messages)
    }

    /// Numbers that are not there must be known not to be there: a page that lost its rows reads without an error, and whoever
    /// settled past them would count them as forwarded.
    ///
    /// What was read may be newer than what is published: the writer settles and deletes in one transaction, and publishes
    /// after it. So a gap is judged again once the writer has gone round, when everything that was read is published.
    fn must_be_holes(&self, stream: usize, gaps: &[(Sequence, Sequence)]) -> Result<(), Failure> {
        let unknown = || gaps.iter().find(|gap| !self.is_hole(stream, **gap));
        if unknown().is_none() {
            return Ok(());
        }
        self.report(Place::Stream(stream), Vec::new());
        unknown().map_or(Ok(()), |(first, end)| {
            let name = &self.shared.doors[stream].name;
            let cause = format!("messages {first} to {} of the stream {name} are missing or out of order", end - 1);
            Err(Failure::Damaged(cause))
        })
    }

    /// Whether nothing is to be expected from `first` up to and without `end`: settled and perhaps deleted, or a known hole.
    fn is_hole(&self, stream: usize, (first, end): (Sequence, Sequence)) -> bool {
        let published = locked(&self.shared.doors[stream].published);
        let first = first.max(published.books.head.min(end));
        first <= end && published.books.holes.within(first, end) == end - first
    }

    /// Has the writer bury rows (or just go round, where there are none), and waits until that is committed: so no settlement of what follows comes first, and at most
    /// one such job takes a place in the queue, whose other places belong to those who hold permits.
    fn report(&self, place: Place, rows: Vec<(Sequence, String)>) {
        let (done, buried) = oneshot::channel();
        if self.shared.queue.send(Work::Job(Job::Damaged { place, rows, done })).is_ok() {
            // Dropped unanswered where it could not be written: then the next read meets the rows again.
            let _ = buried.blocking_recv();
        }
    }
}

fn stored(
    row: &rusqlite::Row<'_>,
    seq: Sequence,
    decoder: &mut Decoder,
    boots: &Boots,
    now: Now,
) -> Result<Stored, Senseless> {
    let boot = row.get(2).map_err(|_| Senseless("boot"))?;
    let at = row.get::<_, i64>(3).map_err(|_| Senseless("at"))?.cast_unsigned();
    let message = decoder.message(row, STREAM_COLUMNS)?;
    let (accepted_unix_ms, clock_synced) = boots.accepted(boot, at);
    let bytes = u32::try_from(weight(&message)).unwrap_or(u32::MAX);
    let age_ms = boots.age_ms(boot, at, now);
    Ok(Stored { seq, bytes, accepted_unix_ms, clock_synced, age_ms, message })
}
