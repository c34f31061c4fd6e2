//! Salvage: reads what can be read of a damaged database and writes it into a new one, stream by stream, around the damage.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, ToSql, types::Value, wal::CheckpointMode};

use super::{
    api::{Durability, Sequence},
    books::{Books, Holes},
    clock::{ERA_UNIX_MS, Now},
    failure::Failure,
    schema::{self, Role, StreamRow, StreamSql},
    shared::DAMAGED,
};

/// Sequence numbers that are skipped: the last rows may be among what cannot be read, and no number is used twice.
const SKIPPED_NUMBERS: u64 = 1_000_000;

/// The header of a SQLite file (SQLite file format, section 1.3).
const HEADER_BYTES: usize = 100;

/// Rows copied by one transaction.
const COPY_ROWS: u64 = 10_000;

/// No stream has so many messages; where search for readable rows ends when nothing says where the stream does.
const SEQUENCE_END: u64 = 1 << 61;

/// Tables that are copied as they are, and their key.
const PLAIN_TABLES: [(&str, &str); 5] = [
    ("boot", "id"),
    ("session", "client_id"),
    ("received", "session, packet_id"),
    ("retained", "rowid"),
    ("dead", "id"),
];

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Messages that are in the new database.
    pub(super) kept: u64,
    /// Messages that were known to be there and could not be read.
    pub(super) lost: u64,
}

/// Copies what can be read from `source` into the new database `target`, and syncs that. Fails only where writing fails.
pub(super) fn salvage(source: &Path, target: &Path) -> Result<Summary, Failure> {
    // Synced once, at the end.
    let new = schema::connect(target, Role::Writer, Durability::Process)?;
    schema::migrate(&new)?;
    let floor = Now::read().unix_ms.max(ERA_UNIX_MS);
    new.execute("INSERT INTO floor VALUES(?1)", [floor])?;
    let mut summary = Summary::default();
    let copy = with_suffix(target, "-source");
    match readable(source, &new, target, &copy) {
        Ok(old) => {
            for (table, key) in PLAIN_TABLES {
                copy_table(&old, &new, table, key)?;
            }
            let known = readable_streams(&old);
            let nameless = nameless_streams(&old, &known);
            for stream in &known {
                copy_stream(&old, &new, stream, true, &mut summary)?;
            }
            for stream in &nameless {
                copy_stream(&old, &new, stream, false, &mut summary)?;
            }
        }
        Err(error) => tracing::error!(%error, "nothing of the damaged database can be read"),
    }
    for part in [copy.clone(), with_suffix(&copy, "-wal"), with_suffix(&copy, "-shm")] {
        // Our own copy; what stays of it is removed by the next salvage.
        let _ = fs::remove_file(part);
    }
    new.pragma_update(None, "synchronous", "FULL")?;
    new.wal_checkpoint_v2(Some("main"), CheckpointMode::TRUNCATE)?;
    new.close().map_err(|(_, error)| Failure::from(error))?;
    let sync = File::open(target).and_then(|file| file.sync_all());
    sync.map_err(|error| Failure::Fatal(format!("cannot sync the new database: {error}")))?;
    Ok(summary)
}

/// A connection that can read at least the schema: to the file itself, or where its header is garbage, to a copy with the
/// header of a sound database. All that matters in a header is the same in all our databases.
fn readable(source: &Path, new: &Connection, target: &Path, copy: &Path) -> Result<Connection, Failure> {
    let connect = |path: &Path| -> Result<Connection, Failure> {
        let connection = schema::connect(path, Role::Salvager, Durability::Full)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let error = match connect(source) {
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
        fs::copy(source, copy)?;
        let mut file = OpenOptions::new().write(true).open(copy)?;
        file.write_all(&header)?;
        match fs::copy(with_suffix(source, "-wal"), with_suffix(copy, "-wal")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    };
    patch().map_err(|error| Failure::Fatal(format!("cannot copy the damaged database: {error}")))?;
    connect(copy)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The streams of which only the rows are left: their names from the schema, their books unknown.
fn nameless_streams(old: &Connection, known: &[StreamRow]) -> Vec<StreamRow> {
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
    if let Ok(mut streams) = schema::load_streams(old) {
        let mut names = HashSet::new();
        streams.retain(|stream| names.insert(stream.name.clone()));
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
    let mut copy = Copy {
        old,
        new,
        sql: StreamSql::new(id),
        known_holes: &stream.books.holes,
        next: books.head,
        first: None,
        seen: books.next,
        offset: 0,
        copied: 0,
        holes: Holes::default(),
        in_transaction: 0,
    };
    copy.run(last_sequence(old, &copy.sql).unwrap_or(SEQUENCE_END).min(SEQUENCE_END))?;
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
    books.next = end + SKIPPED_NUMBERS;
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
    tracing::warn!(stream = stream.name, kept = copy.copied, lost, next = books.next, "salvaged a stream");
    summary.lost += lost;
    summary.kept += copy.copied;
    Ok(())
}

/// The last number that can be read in the stream's table, from behind.
fn last_sequence(old: &Connection, sql: &StreamSql) -> Option<Sequence> {
    old.query_row(&sql.last, [], |row| row.get::<_, i64>(0)).optional().ok().flatten().map(i64::cast_unsigned)
}

struct Copy<'c> {
    old: &'c Connection,
    new: &'c Connection,
    sql: StreamSql,
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
    in_transaction: u64,
}

impl Copy<'_> {
    /// Copies all readable rows up to `last`.
    fn run(&mut self, last: Sequence) -> Result<(), Failure> {
        self.new.execute_batch("BEGIN")?;
        while self.next <= last {
            if self.copy_up_to_damage(last)? {
                break;
            }
            match self.first_readable(last) {
                Some(next) => {
                    self.holes.add(self.next, next);
                    self.next = next;
                }
                None => break,
            }
        }
        self.new.execute_batch("COMMIT")?;
        Ok(())
    }

    /// True when the end was reached. Reading errors end it with false, writing errors are errors.
    fn copy_up_to_damage(&mut self, last: Sequence) -> Result<bool, Failure> {
        let Ok(mut read) = self.old.prepare(&self.sql.read) else { return Ok(true) };
        let mut insert = self.new.prepare(&self.sql.insert)?;
        let Ok(mut rows) = read.query((self.next.cast_signed(), -1)) else { return Ok(false) };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
            };
            let mut values = Vec::with_capacity(9);
            for column in 0..9 {
                values.push(row.get::<_, Value>(column).unwrap_or(Value::Null));
            }
            let Some(seq) = integer(&values[0]).map(i64::cast_unsigned) else { return Ok(false) };
            if seq < self.next || seq > last || seq >= SEQUENCE_END {
                // Out of order: a page that belongs elsewhere.
                return Ok(false);
            }
            let bytes = values[5..9].iter().map(length).sum::<u64>();
            values[1] = Value::Integer((self.offset + bytes).cast_signed());
            let columns: Vec<&dyn ToSql> = values.iter().map(|value| value as &dyn ToSql).collect();
            self.holes.add(self.next, seq);
            self.next = seq + 1;
            self.seen = self.seen.max(seq + 1);
            if self.known_holes.contains(seq) {
                self.holes.add(seq, seq + 1);
                continue;
            }
            self.first.get_or_insert(seq);
            match insert.execute(&*columns) {
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
            self.in_transaction += 1;
            if self.in_transaction >= COPY_ROWS {
                self.in_transaction = 0;
                self.new.execute_batch("COMMIT; BEGIN")?;
                self.new.wal_checkpoint_v2(Some("main"), CheckpointMode::PASSIVE)?;
            }
        }
    }

    /// The first number after the damage at `next` from which on a row can be read: found by growing steps, then bisected,
    /// for damage is whole pages, that is, ranges of numbers.
    fn first_readable(&self, last: Sequence) -> Option<Sequence> {
        let mut step = 1;
        let mut bad = self.next;
        let mut good = loop {
            let probe = self.next.saturating_add(step).min(last);
            if self.probe(probe, last) {
                break probe;
            }
            bad = probe;
            if probe == last {
                return None;
            }
            step = step.saturating_mul(2);
        };
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            if self.probe(middle, last) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        Some(good)
    }

    /// Whether what is read from here on can be copied: where it cannot, each number would be tried in turn.
    fn probe(&self, from: Sequence, last: Sequence) -> bool {
        let Ok(mut statement) = self.old.prepare_cached(&self.sql.read) else { return false };
        let row = statement.query_row((from.cast_signed(), 1), |row| row.get::<_, i64>(0));
        row.is_ok_and(|seq| (from..=last).contains(&seq.cast_unsigned()) && seq.cast_unsigned() < SEQUENCE_END)
    }
}

fn integer(value: &Value) -> Option<i64> {
    if let Value::Integer(number) = value { Some(*number) } else { None }
}

fn length(value: &Value) -> u64 {
    match value {
        Value::Text(text) => text.len() as u64,
        Value::Blob(blob) => blob.len() as u64,
        Value::Null | Value::Integer(_) | Value::Real(_) => 0,
    }
}

/// Copies a table as it is: from the front up to the damage, then from behind.
fn copy_table(old: &Connection, new: &Connection, table: &str, key: &str) -> Result<(), Failure> {
    for order in ["ASC", "DESC"] {
        let by = key.split(", ").map(|column| format!("{column} {order}")).collect::<Vec<_>>().join(", ");
        let Ok(mut read) = old.prepare(&format!("SELECT * FROM {table} ORDER BY {by}")) else { return Ok(()) };
        let columns = read.column_count();
        let places = vec!["?"; columns].join(", ");
        let transaction = new.unchecked_transaction()?;
        let mut insert = transaction.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES({places})"))?;
        let mut complete = false;
        if let Ok(mut rows) = read.query([]) {
            complete = loop {
                let row = match rows.next() {
                    Ok(Some(row)) => row,
                    Ok(None) => break true,
                    Err(_) => break false,
                };
                let values: Result<Vec<Value>, _> = (0..columns).map(|column| row.get(column)).collect();
                if let Ok(values) = values {
                    insert.execute(rusqlite::params_from_iter(values))?;
                }
            };
        }
        drop(insert);
        transaction.commit()?;
        if complete {
            return Ok(());
        }
        tracing::warn!(table, "a part of this table cannot be read");
    }
    Ok(())
}
