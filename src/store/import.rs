//! Import: messages that were exported elsewhere (or here) enter a stream with the id and time that they had.
//!
//! # Constraints
//!
//! - A batch is one order and one transaction: answered once it is synced, and counted as accepted by its rows like any other.
//! - The row is the new message's: it has the next number, and its age and time to live begin with the import, so that rows stay in the order
//!   of their clock. Where the message was first accepted (`Origin`: source `<gateway>/<stream>`, number, time, clock) is stored with its properties,
//!   and is what goes upstream as `tg-id` and `tg-time`. Older programs would take such a row for damage: hence version 4 of the database.
//! - An import never drops anything, whatever `when_full` says: where the stream, the store or the disk has no room it stops ([`Imported::stop`]), and whoever
//!   imports goes on from there later.
//!
//! # No message twice
//!
//! The table `imported` has a row for each source, with the numbers of that source that were imported into the stream, as ranges: one for a
//! whole export, whatever has become of the messages since. It changes in the transaction that stores the rows, so that a connection
//! that breaks, a timeout or a crash leaves no doubt: the same file again is passed over up to where it got, message by message,
//! and counted ([`Imported::skipped`]). A message of this very stream that is still in its backlog, all of it equal, is passed over too. What has no id cannot be recognised.
//! At most [`RANGES_MAX`] ranges a source (the lowest are forgotten) and [`SOURCES_MAX`] sources a stream (no more are taken).
//!
//! Where numbers of a source began anew (its data directory was lost), a second generation looks like the first; and who purged what was imported may
//! want it again. For both the order can say `again`, which asks nothing and stores all.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    api::{Refusal, StreamId},
    books::Holes,
    failure::Failure,
    handle::{Handle, StoreError},
    orders::OrderError,
    shared::Control,
};
use crate::message::Message;

/// Version 4 of the database: what was imported, and origins among the properties.
pub(super) const MIGRATION_4: &str = "
    CREATE TABLE imported(
        stream INTEGER NOT NULL, source TEXT NOT NULL, ranges TEXT NOT NULL, PRIMARY KEY(stream, source)) WITHOUT ROWID;
";

/// Most ranges of numbers that are remembered of one source.
const RANGES_MAX: usize = 4096;

/// Most sources of one stream.
pub(super) const SOURCES_MAX: usize = 1024;

/// A batch on its way to the writer.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) stream: usize,
    pub(super) messages: Vec<Message>,
    /// `<gateway>/<stream>` of the stream itself.
    pub(super) own: String,
    /// Also what was imported before.
    pub(super) again: bool,
}

/// What became of a batch, on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Imported {
    /// Messages stored.
    pub accepted: u64,
    /// Messages passed over: they were imported before, or are still here.
    pub skipped: u64,
    /// Why it ended before the message behind those; `None` where all were taken.
    pub stop: Option<Stop>,
}

/// Why an import cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There is no room at the moment.
    NoRoom(Refusal),
    /// The message alone is larger than the stream may be.
    TooLarge,
    /// Messages of too many sources were imported into the stream.
    TooManySources,
}

impl Stop {
    /// The words for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoRoom(refusal) => refusal.sentence(),
            Self::TooLarge => "the message alone is larger than `max_bytes` of the stream",
            Self::TooManySources => "messages of 1024 other streams were imported into this one already",
        }
    }
}

/// What is known of one source.
#[derive(Debug)]
struct Source {
    ranges: Holes,
    /// The table has no row for it yet.
    is_new: bool,
    is_changed: bool,
}

/// The numbers of each source that were imported into a stream, as far as they were asked for.
#[derive(Debug)]
pub(super) struct Ledger<'c> {
    connection: &'c Connection,
    stream: i64,
    sources: HashMap<String, Source>,
}

impl<'c> Ledger<'c> {
    /// Of the stream with this durable id.
    pub(super) fn new(connection: &'c Connection, stream: i64) -> Self {
        Self { connection, stream, sources: HashMap::new() }
    }

    /// Whether this number of the source was imported before. `None`: there are too many sources already for a new one.
    pub(super) fn has(&mut self, source: &str, sequence: u64) -> Result<Option<bool>, Failure> {
        if let Some(known) = self.sources.get(source) {
            return Ok(Some(known.ranges.contains(sequence)));
        }
        let mut select =
            self.connection.prepare_cached("SELECT ranges FROM imported WHERE stream = ?1 AND source = ?2")?;
        let text: Option<String> = select.query_row(params![self.stream, source], |row| row.get(0)).optional()?;
        if text.is_none() {
            let new = self.sources.values().filter(|source| source.is_new).count();
            let mut count = self.connection.prepare_cached("SELECT count(*) FROM imported WHERE stream = ?1")?;
            let known: i64 = count.query_row([self.stream], |row| row.get(0))?;
            if usize::try_from(known).unwrap_or(usize::MAX) + new >= SOURCES_MAX {
                return Ok(None);
            }
        }
        let is_new = text.is_none();
        // What cannot be read is forgotten: a message twice is better than a message not at all.
        let ranges = text.and_then(|text| Holes::from_text(&text)).unwrap_or_default();
        let known = ranges.contains(sequence);
        self.sources.insert(source.to_owned(), Source { ranges, is_new, is_changed: false });
        Ok(Some(known))
    }

    /// Enters a number that is stored now.
    pub(super) fn add(&mut self, source: &str, sequence: u64) {
        if let Some(known) = self.sources.get_mut(source) {
            known.ranges.add(sequence, sequence.saturating_add(1));
            known.is_changed = true;
            // Each costs as much as there are, where they come in no order.
            if known.ranges.ranges() > 2 * RANGES_MAX {
                known.ranges.keep_last(RANGES_MAX);
            }
        }
    }

    /// Writes what changed.
    pub(super) fn save(self) -> Result<(), Failure> {
        let mut insert = self.connection.prepare_cached("INSERT OR REPLACE INTO imported VALUES(?1, ?2, ?3)")?;
        for (source, mut known) in self.sources {
            if known.is_changed {
                known.ranges.keep_last(RANGES_MAX);
                insert.execute(params![self.stream, source, known.ranges.to_text()])?;
            }
        }
        Ok(())
    }
}

impl Handle {
    /// Stores a batch of messages in a stream, in order, each with the origin that its properties name; returns when that is committed.
    ///
    /// `own`: `<gateway>/<stream>` of the stream itself. `again`: also what was imported before. See `import` in the room's files.
    pub async fn import(
        &self,
        stream: StreamId,
        messages: Vec<Message>,
        own: String,
        again: bool,
    ) -> Result<Imported, OrderError> {
        let door = self.shared.door(stream).ok_or(StoreError::NoSuchStream(stream))?;
        if !door.is_configured() {
            return Err(OrderError::NotConfigured(door.name.clone()));
        }
        let import = Box::new(Import { stream: stream.0 as usize, messages, own, again });
        let (done, answer) = tokio::sync::oneshot::channel();
        self.control(Control::Import { import, outcome: None, done }).await?;
        self.answered(answer).await?
    }
}
