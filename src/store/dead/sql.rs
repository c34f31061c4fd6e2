//! The tables `dead` and `dead_left`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fates;
use crate::{
    stats::{DeadLetter, DeadStats},
    store::{
        clock::Boots,
        failure::Failure,
        row::{Columns, Decoder, bytes_of},
    },
};

/// Bytes that a dead letter counts for.
macro_rules! bytes {
    () => {
        "octet_length(detail) + coalesce(octet_length(client), 0) + coalesce(octet_length(topic), 0)
         + coalesce(octet_length(properties), 0) + coalesce(octet_length(payload), 0)"
    };
}

/// SQL: bytes that a row of `dead` counts for. Reads no payload: SQLite knows lengths from the head of the row.
pub(in crate::store) const BYTES: &str = bytes!();

/// Whole dead letters, for [`of_row`]; to be followed by WHERE.
pub(in crate::store) const COLUMNS: &str = concat!(
    "SELECT id, stream, seq, reason, detail, dead_boot, dead_at, boot, at, ",
    bytes!(),
    ", flags, client, topic, properties, payload FROM dead "
);

/// The same without payloads and properties.
pub(in crate::store) const HEADS: &str = concat!(
    "SELECT id, stream, seq, reason, detail, dead_boot, dead_at, boot, at, ",
    bytes!(),
    ", NULL, client, topic, NULL, NULL FROM dead "
);

/// The columns of the message in [`COLUMNS`].
const MESSAGE: Columns = Columns { flags: 10, client: 11, topic: 12, properties: 13, payload: 14 };

/// Longest detail that is shown; longer ones are the upstream's own words.
const DETAIL_CHARS_MAX: usize = 1_000;

/// A dead letter; its stream is named by `name`. What cannot be read of the message is `None`.
pub(in crate::store) fn of_row(
    row: &Row<'_>,
    decoder: &mut Decoder,
    boots: &Boots,
    name: impl FnOnce(i64) -> String,
) -> Result<DeadLetter, Failure> {
    let text = |column| bytes_of(row, column).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let time = |boot: usize, at: usize| -> Option<i64> {
        let (boot, at): (i64, i64) = (row.get(boot).ok()?, row.get(at).ok()?);
        Some(boots.accepted(boot, u64::try_from(at).ok()?))
            .filter(|time| *time != (0, false))
            .map(|(unix_ms, _)| unix_ms)
    };
    Ok(DeadLetter {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        stream: name(row.get(1)?),
        seq: row.get::<_, i64>(2)?.cast_unsigned(),
        reason: text(3).unwrap_or_default(),
        detail: text(4).unwrap_or_default().chars().take(DETAIL_CHARS_MAX).collect(),
        died_unix_ms: time(5, 6),
        accepted_unix_ms: time(7, 8),
        bytes: row.get::<_, i64>(9)?.unsigned_abs(),
        client: text(11),
        topic: text(12),
        message: decoder.message(row, MESSAGE).ok(),
    })
}

/// How many dead letters there are, and their bytes. Looks at the head of each row, of which there are not many.
pub(in crate::store) fn sums(connection: &Connection) -> Result<DeadStats, Failure> {
    let sum = format!("SELECT count(*), coalesce(sum({BYTES}), 0) FROM dead");
    let number = |row: &Row<'_>, column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let (messages, bytes) = connection.query_row(&sum, [], |row| Ok((number(row, 0)?, number(row, 1)?)))?;
    Ok(DeadStats { messages, bytes, ..DeadStats::default() })
}

/// The figures of all dead letters.
pub(in crate::store) fn load(connection: &Connection) -> Result<DeadStats, Failure> {
    let mut stats = sums(connection)?;
    let number = |row: &Row<'_>, column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let mut select = connection.prepare("SELECT fate, messages FROM dead_left")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let count = number(row, 1)?;
        match row.get_ref(0)?.as_str().unwrap_or_default() {
            "retried" => stats.retried = count,
            "purged" => stats.purged = count,
            "dropped" => stats.dropped = count,
            _ => {}
        }
    }
    Ok(stats)
}

/// Writes the counts of what is no more.
pub(in crate::store) fn save(connection: &Connection, stats: &DeadStats) -> Result<(), rusqlite::Error> {
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO dead_left VALUES(?1, ?2)")?;
    fates(stats)
        .into_iter()
        .try_for_each(|(fate, count)| insert.execute(params![fate, count.cast_signed()]).map(|_| ()))
}

/// Deletes one; its bytes, if it was there.
pub(in crate::store) fn delete(connection: &Connection, id: u64) -> Result<Option<u64>, rusqlite::Error> {
    let mut delete = connection.prepare_cached(concat!("DELETE FROM dead WHERE id = ?1 RETURNING ", bytes!()))?;
    delete
        .query_row([id.cast_signed()], |row| row.get::<_, i64>(0))
        .optional()
        .map(|bytes| bytes.map(i64::unsigned_abs))
}

/// Deletes the oldest; its bytes, if there was one.
pub(in crate::store) fn drop_oldest(connection: &Connection) -> Result<Option<u64>, rusqlite::Error> {
    let oldest: Option<i64> = connection.prepare_cached("SELECT min(id) FROM dead")?.query_row([], |row| row.get(0))?;
    oldest.map_or(Ok(None), |id| delete(connection, id.cast_unsigned()))
}

/// Deletes the oldest, of one stream or of all, at most so many; how many that were, and their bytes.
pub(in crate::store) fn drop_some(
    connection: &Connection,
    stream: Option<i64>,
    most: u64,
) -> Result<(u64, u64), rusqlite::Error> {
    let mut delete = connection.prepare_cached(concat!(
        "DELETE FROM dead WHERE id IN (SELECT id FROM dead WHERE ?1 IS NULL OR stream = ?1 ORDER BY id LIMIT ?2) RETURNING ",
        bytes!()
    ))?;
    let rows = delete.query_map(params![stream, most.cast_signed()], |row| row.get::<_, i64>(0))?;
    let mut sum = (0, 0);
    for bytes in rows {
        sum = (sum.0 + 1, sum.1 + bytes?.unsigned_abs());
    }
    Ok(sum)
}
