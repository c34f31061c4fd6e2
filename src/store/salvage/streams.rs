//! Salvage of the streams.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, Statement, types::Value};

use super::{Batches, Summary, length, walk::Walk};
use crate::store::{
    api::Sequence,
    books::{Books, Holes},
    failure::Failure,
    operated::{self, Operated},
    schema::{self, StreamRow, StreamSql},
    shared::DAMAGED,
};

/// No stream has so many messages; where search for readable rows ends when nothing says where the stream does.
const SEQUENCE_END: u64 = 1 << 61;

/// Copies all streams, those of which only the rows are left too.
pub(super) fn copy(old: &Connection, new: &Connection, summary: &mut Summary) -> Result<(), Failure> {
    let known = readable_streams(old);
    let nameless = nameless_streams(old, &known);
    for stream in &known {
        copy_stream(old, new, stream, true, summary)?;
    }
    for stream in &nameless {
        copy_stream(old, new, stream, false, summary)?;
    }
    Ok(())
}

/// The streams of which only the rows are left: their names from the schema, their books unknown.
pub(in crate::store) fn nameless_streams(old: &Connection, known: &[StreamRow]) -> Vec<StreamRow> {
    let mut found: Vec<StreamRow> = Vec::new();
    for (table, sql) in stream_tables(old) {
        let Some(id) = table.strip_prefix("s_").and_then(|id| id.parse().ok()) else { continue };
        if known.iter().chain(&found).any(|stream| stream.id == id) {
            continue;
        }
        // `CREATE TABLE s_1(/*name*/ seq ...`
        let name = sql.split("/*").nth(1).and_then(|rest| rest.split("*/").next()).filter(|name| !name.is_empty());
        let name = name.map_or_else(|| format!("salvaged-{id}"), str::to_owned);
        if known.iter().chain(&found).all(|stream| stream.name != name) {
            found.push(StreamRow { id, name, books: Books::default() });
        }
    }
    found
}

/// The table `stream`, if it can be read and makes sense.
fn readable_streams(old: &Connection) -> Vec<StreamRow> {
    if let Ok(mut streams) = schema::load_books(old) {
        let mut names = HashSet::new();
        streams.retain(|stream| names.insert(stream.name.clone()));
        for stream in &mut streams {
            stream.books.operated = operated::load_what_is_left(old, stream.id);
        }
        return streams;
    }
    tracing::error!("the table of streams is damaged: counters start anew, acknowledged messages may be sent again");
    Vec::new()
}

fn stream_tables(old: &Connection) -> Vec<(String, String)> {
    let read = || -> Result<Vec<(String, String)>, rusqlite::Error> {
        let mut statement =
            old.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name GLOB 's_[0-9]*'")?;
        let mut rows = statement.query([])?;
        let mut tables = Vec::new();
        while let Ok(Some(row)) = rows.next() {
            tables.push((row.get(0)?, row.get(1)?));
        }
        Ok(tables)
    };
    read().unwrap_or_default()
}

/// Copies the backlog of a stream row by row, and makes the books say what is missing; `known`: as far as there are books.
fn copy_stream(
    old: &Connection,
    new: &Connection,
    stream: &StreamRow,
    known: bool,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let id = schema::create_stream(new, Some(stream.id), &stream.name)?;
    let mut books = stream.books.clone();
    let sql = StreamSql::new(id);
    let mut copy = Copy {
        insert: new.prepare(&sql.insert)?,
        batches: Batches::begin(new)?,
        known_holes: &stream.books.holes,
        next: books.head,
        first: None,
        seen: books.next,
        offset: 0,
        copied: 0,
        holes: Holes::default(),
    };
    let end = last_sequence(old, &sql).map_or(SEQUENCE_END, |last| last.saturating_add(1)).min(SEQUENCE_END);
    let walk = Walk { old, sql: &sql.read, next: books.head, last: end - 1 };
    walk.run(|seq, row| copy.row(seq, row))?;
    copy.batches.end()?;
    if !known {
        // Nothing is known but the rows: what came begins with the first of them.
        books.head = copy.first.unwrap_or(1);
        books.next = books.head;
    }
    // Every number below `end` was given to a message that was in the backlog: it is here, or it is lost.
    let end = copy.seen.max(books.next);
    copy.holes.add(copy.next, end);
    let lost = copy.holes.within(books.head, end) - stream.books.holes.within(books.head, end);
    books.accepted += end - books.next;
    if lost > 0 {
        books.dropped.add(DAMAGED, lost);
    }
    books.next = end.saturating_add(summary.skipped);
    if !known {
        let floor: i64 = new.query_row("SELECT max(first) FROM floor", [], |row| row.get(0))?;
        books.next = books.next.max(floor.cast_unsigned());
    }
    copy.holes.add(end, books.next);
    books.holes = copy.holes;
    (books.head_offset, books.end_offset) = (0, copy.offset);
    books.skip_holes();
    (books.tail, books.tail_offset) = (books.head, books.head_offset);
    if books.force_balance() {
        tracing::error!(
            stream = stream.name,
            accepted = books.accepted,
            "the books did not balance; `accepted` was set anew"
        );
    }
    schema::save_stream(&mut new.prepare(schema::SAVE_STREAM)?, id, &books)?;
    if books.operated != Operated::default() {
        operated::save(new, id, &books.operated)?;
    }
    tracing::warn!(stream = stream.name, kept = copy.copied, lost, next = books.next, "salvaged a stream");
    summary.lost += lost;
    summary.kept += copy.copied;
    Ok(())
}

/// The last number that can be read in the stream's table, from behind.
fn last_sequence(old: &Connection, sql: &StreamSql) -> Option<Sequence> {
    old.query_row(&sql.last, [], |row| row.get::<_, i64>(0)).optional().ok().flatten().map(i64::cast_unsigned)
}

/// The rows of one stream on their way.
struct Copy<'c> {
    insert: Statement<'c>,
    batches: Batches<'c>,
    /// Numbers that had no message before: what still lies there is in the dead letters.
    known_holes: &'c Holes,
    /// The first number not yet looked at.
    next: Sequence,
    /// The first number that was copied.
    first: Option<Sequence>,
    /// The first number above all that are known to have been given.
    seen: Sequence,
    /// Bytes copied so far.
    offset: u64,
    copied: u64,
    holes: Holes,
}

impl Copy<'_> {
    fn row(&mut self, seq: Sequence, row: &Row<'_>) -> Result<(), Failure> {
        let mut values = Vec::with_capacity(9);
        for column in 0..9 {
            values.push(row.get::<_, Value>(column).unwrap_or(Value::Null));
        }
        let bytes = values[5..9].iter().map(length).sum::<u64>();
        values[1] = Value::Integer((self.offset + bytes).cast_signed());
        self.holes.add(self.next, seq);
        self.next = seq + 1;
        self.seen = self.seen.max(seq + 1);
        if self.known_holes.contains(seq) {
            self.holes.add(seq, seq + 1);
            return Ok(());
        }
        self.first.get_or_insert(seq);
        match self.insert.execute(rusqlite::params_from_iter(values)) {
            Ok(_) => {
                self.offset += bytes;
                self.copied += 1;
            }
            // A column that must not be NULL is: this row is damaged, the next may not be.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                self.holes.add(seq, seq + 1);
            }
            Err(error) => return Err(error.into()),
        }
        self.batches.row()
    }
}
