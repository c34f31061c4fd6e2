//! The table `operated`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Kept, Operated, Replay};
use crate::store::{books::Holes, failure::Failure};

/// Version 3 of the database, as far as operators are concerned.
///
/// `dead_left` counts the dead letters that are no more, by what became of them.
pub(in crate::store) const MIGRATION_3: &str = "
    CREATE TABLE operated(
        stream INTEGER PRIMARY KEY, paused INTEGER NOT NULL,
        kept_messages INTEGER NOT NULL, kept_bytes INTEGER NOT NULL, gone TEXT NOT NULL, marks TEXT NOT NULL,
        replayed INTEGER NOT NULL, replay_run INTEGER NOT NULL, replay_next INTEGER, replay_ranges TEXT);
    CREATE TABLE dead_left(fate TEXT PRIMARY KEY, messages INTEGER NOT NULL);
";

const SELECT: &str =
    "SELECT paused, kept_messages, kept_bytes, gone, marks, replayed, replay_run, replay_next, replay_ranges
    FROM operated WHERE stream = ?1";

/// What is known of a stream; nothing where there is no row.
pub(in crate::store) fn load(connection: &Connection, stream: i64) -> Result<Operated, Failure> {
    let mut select = connection.prepare_cached(SELECT)?;
    let read = select.query_row([stream], |row| Ok(from_row(row))).optional()?;
    let Some(read) = read else { return Ok(Operated::default()) };
    read?.ok_or_else(|| Failure::Damaged(format!("what was done to stream {stream} cannot be read")))
}

/// The same of a damaged database, or of one that does not have the table yet: whatever can be had.
pub(in crate::store) fn load_what_is_left(connection: &Connection, stream: i64) -> Operated {
    load(connection, stream).unwrap_or_default().salvaged()
}

fn from_row(row: &Row<'_>) -> Result<Option<Operated>, rusqlite::Error> {
    let number = |column: usize| row.get::<_, i64>(column).map(|number| u64::try_from(number).ok());
    let ranges: Option<String> = row.get(8)?;
    let next: Option<i64> = row.get(7)?;
    let replay = match (next, ranges) {
        (Some(next), Some(ranges)) => match (u64::try_from(next), Holes::from_text(&ranges)) {
            (Ok(next), Some(ranges)) => Some(Replay { next, ranges }),
            _ => return Ok(None),
        },
        _ => None,
    };
    let (gone, marks): (String, String) = (row.get(3)?, row.get(4)?);
    let (messages, bytes, replayed, replay_run) = (number(1)?, number(2)?, number(5)?, number(6)?);
    let read = || {
        let kept = Kept {
            messages: messages?,
            bytes: bytes?,
            gone: Holes::from_text(&gone)?,
            marks: Kept::marks_from(&marks)?,
        };
        Some((kept, replayed?, replay_run?))
    };
    let paused = row.get(0)?;
    Ok(read().map(|(kept, replayed, replay_run)| Operated { paused, kept, replay_run, replay, replayed }))
}

/// Writes what is known of a stream.
pub(in crate::store) fn save(connection: &Connection, stream: i64, operated: &Operated) -> Result<(), rusqlite::Error> {
    let mut insert =
        connection.prepare_cached("INSERT OR REPLACE INTO operated VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
    let Operated { paused, kept, replay_run, replay, replayed } = operated;
    let replay = replay.as_ref();
    insert.execute(params![
        stream,
        paused,
        kept.messages.cast_signed(),
        kept.bytes.cast_signed(),
        kept.gone.to_text(),
        kept.marks_text(),
        replayed.cast_signed(),
        replay_run.cast_signed(),
        replay.map(|replay| replay.next.cast_signed()),
        replay.map(|replay| replay.ranges.to_text()),
    ])?;
    Ok(())
}
