//! Salvage: reads what can be read of a damaged database and writes it into a new one, stream by stream and queue by queue,
//! around the damage.

mod sessions;
mod streams;
mod walk;

pub(super) use self::{streams::nameless_streams, walk::Walk};

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, Row, types::Value, wal::CheckpointMode};

use super::{
    alarms,
    api::Durability,
    backup,
    clock::{ERA_UNIX_MS, Now},
    failure::Failure,
    log, mend,
    opening::remove_if_there,
    recovery::QUARANTINE,
    schema::{self, Role},
    wal::Wal,
};

/// Sequence numbers that are skipped: the last rows may be among what cannot be read, and no number is used twice.
const SKIPPED_NUMBERS: u64 = 1_000_000;

/// The header of a SQLite file (SQLite file format, section 1.3).
const HEADER_BYTES: usize = 100;

/// Bytes that are copied at a time; where they cannot be read they count as one page that is damaged.
const COPY_BYTES: usize = 4096;

/// Rows copied by one transaction.
const COPY_ROWS: u64 = 10_000;

/// Tables that are copied as they are, and their key.
const PLAIN_TABLES: [(&str, &str); 6] = [
    ("boot", "id"),
    ("received", "session, packet_id"),
    ("dead", "id"),
    ("dead_left", "fate"),
    ("salvage", "id"),
    ("imported", "stream, source"),
];

/// A number from which others can go on; up to 2^60.
const SENSIBLE_FLOOR: &str = "typeof(first) = 'integer' AND first BETWEEN 1 AND 1152921504606846976";

/// No message takes less of a log.
const LEAST_LOG_BYTES: u64 = 24;

/// How far apart the floors of two salvages are where the clock does not tell them apart.
const FLOOR_STEP: i64 = 1_000_000_000;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Messages that are in the new database.
    pub(super) kept: u64,
    /// Messages that were known to be there and could not be read.
    pub(super) lost: u64,
    /// Sequence numbers that are left out behind the last one that was found.
    skipped: u64,
}

/// Copies what can be read from `source` into the new database `target`, and syncs that. Fails only where writing fails. Without a source
/// nothing is copied, and message numbers go on from the floor.
pub(super) fn salvage(source: Option<&PathBuf>, target: &Path, cause: &str) -> Result<Summary, Failure> {
    // Synced once, at the end.
    let new = schema::connect(target, Role::Writer, Durability::Process)?;
    schema::migrate(&new)?;
    let floor =
        Now::read().unix_ms.max(ERA_UNIX_MS).saturating_add(set_aside_before(target).saturating_mul(FLOOR_STEP));
    new.execute("INSERT INTO floor VALUES(?1)", [floor])?;
    // What lies behind damage in a log may be many messages, and none of their numbers is used again.
    let log_bytes = source.and_then(|source| fs::metadata(mend::log_of(source)).ok()).map_or(0, |log| log.len());
    let mut summary = Summary { skipped: SKIPPED_NUMBERS.max(log_bytes / LEAST_LOG_BYTES), ..Summary::default() };
    let copy = with_suffix(target, "-source");
    match source.map(|source| readable(source, &new, target, &copy)).transpose() {
        Ok(None) => {
            tracing::error!("there is nothing to salvage from; messages that were stored are lost without a count");
        }
        Ok(Some(old)) => {
            for (table, key) in PLAIN_TABLES {
                copy_table(&old, &new, table, key)?;
            }
            // One that makes no sense would be carried from salvage to salvage.
            copy_rows(&old, &new, &format!("SELECT first FROM floor WHERE {SENSIBLE_FLOOR}"), "first", "floor")?;
            backup::keep_above(&new, floor)?;
            streams::copy(&old, &new, &mut summary)?;
            sessions::copy(&old, &new, &mut summary)?;
            if backup::is_backup(&old).unwrap_or_default() {
                backup::begin_anew(&new)?;
            }
        }
        // Not read because of the disk, or of the space: that is no reason to go on without.
        Err(error @ (Failure::Trouble(_) | Failure::Full(_))) => return Err(error),
        Err(error @ (Failure::Damaged(_) | Failure::Unreadable(_) | Failure::Fatal(_))) => {
            tracing::error!(%error, "nothing of the damaged database can be read");
        }
    }
    for part in [copy.clone(), with_suffix(&copy, "-wal"), with_suffix(&copy, "-shm")] {
        // Our own copy; what stays of it is removed by the next salvage.
        let _ = fs::remove_file(part);
    }
    alarms::note_salvage(&new, cause, &summary)?;
    new.pragma_update(None, "synchronous", "FULL")?;
    new.wal_checkpoint_v2(Some("main"), CheckpointMode::TRUNCATE)?;
    new.close().map_err(|(_, error)| Failure::from(error))?;
    let sync = File::open(target).and_then(|file| file.sync_all());
    sync.map_err(|error| Failure::Trouble(format!("cannot sync the new database: {error}")))?;
    Ok(summary)
}

/// How many databases lie in the quarantine already. A board whose clock is in 1970 at every start would give every salvage the same floor.
fn set_aside_before(target: &Path) -> i64 {
    let quarantine = target.with_file_name(QUARANTINE);
    fs::read_dir(quarantine).map_or(0, |entries| i64::try_from(entries.count()).unwrap_or(0))
}

/// A connection that can read at least the schema: to the file itself, or where its header is garbage, to a copy with the
/// header of a sound database. All that matters in a header is the same in all our databases. Where the log is damaged, what can be had of it
/// lies beside `copy`, which then is the file itself under another name.
fn readable(source: &Path, new: &Connection, target: &Path, copy: &Path) -> Result<Connection, Failure> {
    let connect = |path: &Path| -> Result<Connection, Failure> {
        let connection = schema::connect(path, Role::Salvager, Durability::Full)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let (from, to) = (mend::log_of(source), mend::log_of(copy));
    let trouble = |error: io::Error| Failure::Trouble(format!("cannot copy the damaged database: {error}"));
    let has_own_log = repair_log(source, &from, &to).map_err(trouble)?;
    if has_own_log {
        // No copy, where the file system can do without: there may be no space for one. It is only read.
        fs::hard_link(source, copy).or_else(|_| copy_around(source, copy)).map_err(trouble)?;
    }
    let error = match connect(if has_own_log { copy } else { source }) {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    tracing::warn!(%error, "trying with the header of a sound database");
    new.wal_checkpoint_v2(Some("main"), CheckpointMode::TRUNCATE)?;
    let patch = || -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        File::open(target)?.read_exact(&mut header)?;
        // "Version valid for" unlike the change counter: SQLite takes the number of pages from the size of the file.
        header[92..96].copy_from_slice(&[0xFF; 4]);
        // It may be the file itself.
        remove_if_there(copy)?;
        copy_around(source, copy)?;
        let mut file = OpenOptions::new().write(true).open(copy)?;
        file.write_all(&header)?;
        match if has_own_log { Ok(()) } else { copy_around(&from, &to) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    patch().map_err(trouble)?;
    connect(copy)
}

/// Writes what can be had of a log that is damaged; false where it is not, or nothing more can be had of it than SQLite reads.
fn repair_log(source: &Path, from: &Path, to: &Path) -> io::Result<bool> {
    if log::may_have_holes(source) {
        return Ok(false);
    }
    let Some(log) = Wal::read(from, true)? else { return Ok(false) };
    let Some(damage) = log.damage() else { return Ok(false) };
    let is_repaired = log.repair(damage, source, from, to)?;
    if is_repaired {
        tracing::warn!(%damage, "the log is put together again as far as it can be");
    } else {
        tracing::error!(%damage, "the log cannot be put together again: what lies behind the damage is lost without a count of messages");
    }
    Ok(is_repaired)
}

/// Copies a file; what cannot be read of it is zeros.
fn copy_around(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    let bytes = from.metadata()?.len();
    // Never over what is there: a hard link that was made although that was said to have failed is the database itself.
    let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut block = [0; COPY_BYTES];
    let mut at = 0;
    while at < bytes {
        let read = from.read_at(&mut block, at).unwrap_or(0);
        if read == 0 {
            block.fill(0);
        }
        let whole = u64::try_from(if read == 0 { COPY_BYTES } else { read }).unwrap_or(u64::MAX).min(bytes - at);
        to.write_all_at(&block[..usize::try_from(whole).unwrap_or(COPY_BYTES)], at)?;
        at += whole;
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Copies a table as it is.
fn copy_table(old: &Connection, new: &Connection, table: &str, key: &str) -> Result<(), Failure> {
    copy_rows(old, new, &format!("SELECT * FROM {table}"), key, table)
}

/// Copies what `select` gives into a table of as many columns. Where it cannot be prepared there is nothing to copy.
fn copy_rows(old: &Connection, new: &Connection, select: &str, key: &str, table: &str) -> Result<(), Failure> {
    let Ok(columns) = old.prepare(select).map(|statement| statement.column_count()) else { return Ok(()) };
    let places = vec!["?"; columns].join(", ");
    let transaction = new.unchecked_transaction()?;
    let mut insert = transaction.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES({places})"))?;
    read_around(old, select, key, |row| {
        let values: Result<Vec<Value>, _> = (0..columns).map(|column| row.get(column)).collect();
        if let Ok(values) = values {
            insert.execute(rusqlite::params_from_iter(values))?;
        }
        Ok(())
    })?;
    drop(insert);
    transaction.commit()?;
    Ok(())
}

/// Reads a table from the front up to the damage, then from behind: rows may come twice. False where it cannot be read at all.
fn read_around(
    old: &Connection,
    select: &str,
    key: &str,
    mut each: impl FnMut(&Row<'_>) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    for order in ["ASC", "DESC"] {
        let by = key.split(", ").map(|column| format!("{column} {order}")).collect::<Vec<_>>().join(", ");
        let Ok(mut read) = old.prepare(&format!("{select} ORDER BY {by}")) else { return Ok(false) };
        if let Ok(mut rows) = read.query([]) {
            loop {
                match rows.next() {
                    Ok(Some(row)) => each(row)?,
                    Ok(None) => return Ok(true),
                    Err(_) => break,
                }
            }
        }
        tracing::warn!(select, "a part of this cannot be read");
    }
    Ok(true)
}

fn length(value: &Value) -> u64 {
    match value {
        Value::Text(text) => text.len() as u64,
        Value::Blob(blob) => blob.len() as u64,
        Value::Null | Value::Integer(_) | Value::Real(_) => 0,
    }
}

/// Commits what is copied now and then.
struct Batches<'c> {
    new: &'c Connection,
    rows: u64,
}

impl<'c> Batches<'c> {
    fn begin(new: &'c Connection) -> Result<Self, Failure> {
        new.execute_batch("BEGIN")?;
        Ok(Self { new, rows: 0 })
    }

    /// A row was written.
    fn row(&mut self) -> Result<(), Failure> {
        self.rows += 1;
        if self.rows >= COPY_ROWS {
            self.rows = 0;
            self.new.execute_batch("COMMIT; BEGIN")?;
            self.new.wal_checkpoint_v2(Some("main"), CheckpointMode::PASSIVE)?;
        }
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        Ok(self.new.execute_batch("COMMIT")?)
    }
}
