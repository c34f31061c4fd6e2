//! The reader thread: answers reads from its own connection, while the writer writes.

mod check;
mod dead;
mod kept;
mod sessions;

use std::sync::{
    Arc, PoisonError,
    mpsc::{Receiver, RecvTimeoutError},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use self::check::Check;
use super::{
    api::{Sequence, Stored},
    clock::{Boots, Now},
    failure::Failure,
    mend,
    metrics::AlarmMetrics,
    row::{Columns, Decoder, Senseless, weight},
    shared::{Asked, Job, Place, Query, Shared, Work, locked},
    writer::poison,
};

/// Most messages one read gives.
pub const READ_MESSAGES_MAX: usize = 4096;

/// Most bytes one read gives, if it is more than one message.
pub const READ_BYTES_MAX: usize = 1 << 20;

/// Prepared statements that are kept, besides one for each stream: also for streams that come later.
const STATEMENTS: usize = 40;

const STREAM_COLUMNS: Columns = Columns { flags: 4, client: 5, topic: 6, properties: 7, payload: 8 };

/// What the reader needs to begin.
pub(super) struct Start {
    pub(super) connection: Connection,
    pub(super) queries: Receiver<Asked>,
    pub(super) shared: Arc<Shared>,
    /// All that is stored is to be looked at, for the last stop was not clean.
    pub(super) check: bool,
    pub(super) metrics: AlarmMetrics,
}

struct Reader {
    connection: Connection,
    shared: Arc<Shared>,
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
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Desk::new(start).work()));
    match end {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => poison(&shared, &failure),
        Err(_) => poison(&shared, &Failure::Fatal("the reader panicked".to_owned())),
    }
}

/// What outlives a connection to the database.
struct Desk {
    queries: Receiver<Asked>,
    shared: Arc<Shared>,
    /// `None` while the store is suspended.
    reader: Option<Reader>,
    /// What could not be answered: asked again with the next connection. Each keeps its permit.
    held: Vec<Asked>,
    epoch: u64,
    check: Option<Check>,
}

impl Desk {
    fn new(start: Start) -> Self {
        let Start { connection, queries, shared, check, metrics } = start;
        let check = check.then(|| Check::new(metrics));
        let mut desk = Self { queries, shared, reader: None, held: Vec::new(), epoch: 0, check };
        desk.reader = Some(desk.reader_at(connection));
        desk
    }

    fn reader_at(&self, connection: Connection) -> Reader {
        connection.set_prepared_statement_cache_capacity(STATEMENTS + self.shared.doors.all().len());
        Reader { connection, shared: Arc::clone(&self.shared), decoder: Decoder::new() }
    }

    fn work(mut self) -> Result<(), Failure> {
        loop {
            let asked = match (&self.check, &self.reader) {
                (Some(check), Some(_)) => self.queries.recv_timeout(check.pause()),
                (Some(_) | None, _) => self.queries.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match asked {
                Ok(Asked { query: Query::Suspend { closed }, .. }) => {
                    self.close();
                    // Whoever asked may have given up waiting.
                    let _ = closed.send(());
                }
                Ok(Asked { query: Query::Resume { connection, epoch }, .. }) => {
                    self.reader = Some(self.reader_at(*connection));
                    self.epoch = epoch;
                    for asked in std::mem::take(&mut self.held) {
                        self.take(asked)?;
                    }
                }
                Ok(Asked { query: Query::End, .. }) | Err(RecvTimeoutError::Disconnected) => {
                    self.close();
                    return Ok(());
                }
                Ok(asked) => {
                    self.take(asked)?;
                    if self.check.as_ref().is_some_and(Check::is_overdue) {
                        self.check()?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.check()?,
            }
        }
    }

    /// Answers, or keeps what cannot be answered now.
    fn take(&mut self, asked: Asked) -> Result<(), Failure> {
        let Some(reader) = &mut self.reader else {
            self.held.retain(|asked| !asked.query.is_given_up());
            self.held.push(asked);
            return Ok(());
        };
        let Asked { query, permit } = asked;
        match reader.answer(query) {
            Ok(()) => Ok(()),
            Err(unanswered) => {
                let (query, failure) = *unanswered;
                self.held.push(Asked { query, permit });
                self.fail(failure)
            }
        }
    }

    /// The next slice of the check; what it finds goes the way of what a read finds.
    fn check(&mut self) -> Result<(), Failure> {
        let (Some(reader), Some(check)) = (&mut self.reader, &mut self.check) else { return Ok(()) };
        match check.slice(reader) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.check = None;
                Ok(())
            }
            Err(failure) => self.fail(failure),
        }
    }

    /// Gives the connection up and tells the writer, which suspends the store.
    fn fail(&mut self, failure: Failure) -> Result<(), Failure> {
        self.close();
        if matches!(failure, Failure::Fatal(_)) {
            return Err(failure);
        }
        // The place is reserved, and the writer is gone only when the whole store ends.
        let _ = self.shared.queue.send(Work::Trouble { failure, epoch: self.epoch });
        Ok(())
    }

    fn close(&mut self) {
        if let Some(reader) = self.reader.take() {
            mend::drop_connection(reader.connection);
        }
    }
}

impl Query {
    /// Nobody waits for the answer any more.
    fn is_given_up(&self) -> bool {
        match self {
            Self::Read { reply, .. } | Self::ReadKept { reply, .. } | Self::LookKept { reply, .. } => reply.is_closed(),
            Self::Sessions { reply } => reply.is_closed(),
            Self::ReadSession { reply, .. } => reply.is_closed(),
            Self::Retained { reply } => reply.is_closed(),
            Self::Dead { reply, .. } => reply.is_closed(),
            Self::FindKept { reply, .. } => reply.is_closed(),
            Self::Suspend { .. } | Self::Resume { .. } | Self::End => false,
        }
    }
}

/// Gives an answer, or the query back, `again`, with what kept it from being answered.
fn give<T>(
    found: Result<T, Failure>,
    reply: oneshot::Sender<T>,
    again: impl FnOnce(oneshot::Sender<T>) -> Query,
) -> Result<(), Box<(Query, Failure)>> {
    match found {
        Ok(found) => {
            // Whoever asked may have given up meanwhile: a reply that nobody takes is no error.
            let _ = reply.send(found);
            Ok(())
        }
        Err(failure) => Err(Box::new((again(reply), failure))),
    }
}

impl Reader {
    /// Answers a query, or gives it back with what kept it from being answered.
    fn answer(&mut self, query: Query) -> Result<(), Box<(Query, Failure)>> {
        if query.is_given_up() {
            return Ok(());
        }
        match query {
            Query::Read { stream, from, max_messages, max_bytes, reply } => {
                let found = self.read(&Span { stream, from, max_messages, max_bytes });
                give(found, reply, |reply| Query::Read { stream, from, max_messages, max_bytes, reply })
            }
            Query::Sessions { reply } => give(self.sessions(), reply, |reply| Query::Sessions { reply }),
            Query::ReadSession { session, from, max_messages, max_bytes, reply } => {
                let found = self.read_session(session, from, max_messages, max_bytes);
                give(found, reply, |reply| Query::ReadSession { session, from, max_messages, max_bytes, reply })
            }
            Query::FindKept { stream, since, until, reply } => {
                give(self.find_kept(stream, since, until), reply, |reply| Query::FindKept {
                    stream,
                    since,
                    until,
                    reply,
                })
            }
            Query::ReadKept { stream, run, from, max_messages, max_bytes, reply } => {
                let found = self.read_kept(run, &Span { stream, from, max_messages, max_bytes });
                give(found, reply, |reply| Query::ReadKept { stream, run, from, max_messages, max_bytes, reply })
            }
            Query::LookKept { stream, from, max_messages, max_bytes, reply } => {
                let found = self.look_kept(&Span { stream, from, max_messages, max_bytes });
                give(found, reply, |reply| Query::LookKept { stream, from, max_messages, max_bytes, reply })
            }
            Query::Dead { filter, reply } => give(self.dead(&filter), reply, |reply| Query::Dead { filter, reply }),
            Query::Retained { reply } => give(self.retained(), reply, |reply| Query::Retained { reply }),
            Query::Suspend { .. } | Query::Resume { .. } | Query::End => Ok(()),
        }
    }

    fn read(&mut self, span: &Span) -> Result<Vec<Stored>, Failure> {
        let door = self.shared.doors.at(span.stream);
        let position = *door.position.borrow();
        let from = span.from.max(position.head);
        let limit = span.max_messages.clamp(1, READ_MESSAGES_MAX);
        let max_bytes = span.max_bytes.min(READ_BYTES_MAX) as u64;
        let now = Now::read();
        let boots = self.shared.boots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut statement = self.connection.prepare_cached(&door.sql.read)?;
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
            let name = &self.shared.doors.at(stream).name;
            let cause = format!("messages {first} to {} of the stream {name} are missing or out of order", end - 1);
            Err(Failure::Damaged(cause))
        })
    }

    /// Whether nothing is to be expected from `first` up to and without `end`: settled and perhaps deleted, or a known hole.
    fn is_hole(&self, stream: usize, (first, end): (Sequence, Sequence)) -> bool {
        let door = self.shared.doors.at(stream);
        let published = locked(&door.published);
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

pub(super) fn stored(
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
