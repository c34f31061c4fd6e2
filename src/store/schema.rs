//! The tables: how a connection is set up, how the database is made and migrated, what the rows look like in SQL.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, OptionalExtension, ffi, params};

use super::{
    alarms,
    api::Durability,
    books::{Books, Holes, Tally},
    clock::Boot,
    dead,
    failure::Failure,
    import,
    operated::{self, Operated},
    queue::MIGRATION_2,
};

/// Version of the tables below; `PRAGMA user_version`.
pub(super) const VERSION: i64 = 4;

/// `PRAGMA application_id`: "TGDB". What carries another one is somebody else's file.
pub(super) const APPLICATION_ID: i64 = 0x5447_4442;

/// Bytes of a database page. SQLite's default; flash translation layers are built for it.
pub(super) const PAGE_BYTES: u64 = 4096;

/// `PRAGMA auto_vacuum`: free pages are given back when asked for.
const AUTO_VACUUM_INCREMENTAL: i64 = 2;

/// Page cache of the writer, in KiB: the right edges of the tables and what one transaction changes.
const WRITER_CACHE_KIB: i64 = 2048;

/// Page cache of the reader, in KiB: it reads every page once.
const READER_CACHE_KIB: i64 = 256;

/// How long a lock of another connection is waited for; only checkpoints and recovery of the log ever wait.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes to which the log is cut back when it starts anew.
const LOG_LIMIT_BYTES: u64 = 8 << 20;

/// One migration a version: `MIGRATIONS[n]` turns version n into n + 1, in these steps.
const MIGRATIONS: [&[&str]; 4] = [&["
    CREATE TABLE boot(id INTEGER PRIMARY KEY, kernel_id TEXT NOT NULL, offset_ms INTEGER NOT NULL, synced INTEGER NOT NULL);
    CREATE TABLE stream(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        head INTEGER NOT NULL, next INTEGER NOT NULL, tail INTEGER NOT NULL,
        tail_offset INTEGER NOT NULL, head_offset INTEGER NOT NULL, end_offset INTEGER NOT NULL,
        accepted INTEGER NOT NULL, forwarded INTEGER NOT NULL, expired INTEGER NOT NULL, purged INTEGER NOT NULL,
        dropped TEXT NOT NULL, dead TEXT NOT NULL, holes TEXT NOT NULL);
    CREATE TABLE floor(first INTEGER NOT NULL);
    CREATE TABLE dead(
        id INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL, seq INTEGER NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, dead_boot INTEGER NOT NULL, dead_at INTEGER NOT NULL,
        boot INTEGER, at INTEGER, flags INTEGER, client TEXT, topic TEXT, properties BLOB, payload BLOB);
    CREATE TABLE session(client_id TEXT PRIMARY KEY, expiry_s INTEGER NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE received(session TEXT NOT NULL, packet_id INTEGER NOT NULL, PRIMARY KEY(session, packet_id)) WITHOUT ROWID;
    CREATE TABLE retained(
        topic TEXT PRIMARY KEY, flags INTEGER NOT NULL, client TEXT NOT NULL, properties BLOB, payload BLOB NOT NULL);
"], &[MIGRATION_2], &[operated::MIGRATION_3, alarms::MIGRATION_3], &[import::MIGRATION_4]];

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The only one that writes.
    Writer,
    /// Reads while the writer writes.
    Reader,
    /// Reads what it can of a damaged file; changes nothing.
    Salvager,
}

/// Opens a connection. A [`Role::Writer`] makes the file (mode 0600) where it is missing.
pub(super) fn connect(path: &Path, role: Role, durability: Durability) -> Result<Connection, rusqlite::Error> {
    let access = match role {
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Role::Reader | Role::Salvager => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if role == Role::Salvager {
        // Before anything reads the schema: lets SQLite read a file with fewer pages than its header says.
        connection.pragma_update(None, "writable_schema", true)?;
    }
    let cache_kib = if role == Role::Writer { WRITER_CACHE_KIB } else { READER_CACHE_KIB };
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    if role == Role::Writer {
        set_up_writer(&connection, durability)?;
    }
    Ok(connection)
}

fn set_up_writer(connection: &Connection, durability: Durability) -> Result<(), rusqlite::Error> {
    // These two bind only while the file is empty; later the second would write a page each time, which a full disk forbids.
    connection.pragma_update(None, "page_size", PAGE_BYTES.cast_signed())?;
    let auto_vacuum: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if auto_vacuum != AUTO_VACUUM_INCREMENTAL {
        connection.pragma_update(None, "auto_vacuum", AUTO_VACUUM_INCREMENTAL)?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Process => "OFF",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // The writer checkpoints itself, after the acknowledgements are out; see `writer::upkeep`.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", LOG_LIMIT_BYTES.cast_signed())
}

/// Whose database this is and how new, without writing anything: `(application_id, user_version)`; both 0 in an empty file.
///
/// One exception: where the power went away while the file was made, before its log was, a rollback journal lies beside it that must be
/// played back before anything can be read. Who only reads may not do that, and the gateway would never start again.
pub(super) fn identity(path: &Path) -> Result<(i64, i64), rusqlite::Error> {
    let read = |connection: Connection| {
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        Ok((pragma("application_id")?, pragma("user_version")?))
    };
    match connect(path, Role::Reader, Durability::Full).and_then(read) {
        Err(error) if error.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_READONLY_ROLLBACK) => {
            let access = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            read(Connection::open_with_flags(path, access)?)
        }
        found => found,
    }
}

/// Brings the tables up to [`VERSION`], each step in a transaction of its own.
pub(super) fn migrate(connection: &Connection) -> Result<(), rusqlite::Error> {
    let mut version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let is_new = version == 0;
    while let Some(steps) = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version)) {
        let transaction = connection.unchecked_transaction()?;
        steps.iter().try_for_each(|step| transaction.execute_batch(step))?;
        version += 1;
        if is_new && version == VERSION {
            // Nothing is in it that could be checked.
            transaction.execute("UPDATE stop SET clean = 1", [])?;
        }
        transaction.pragma_update(None, "user_version", version)?;
        if is_new {
            // Once: an older backup is still one.
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        transaction.commit()?;
        tracing::info!(version, "the database was brought up to this version");
    }
    Ok(())
}

/// A stream as the database knows it.
#[derive(Debug, Clone)]
pub(super) struct StreamRow {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) books: Books,
}

/// All streams, also those that are not configured.
pub(super) fn load_streams(connection: &Connection) -> Result<Vec<StreamRow>, Failure> {
    let mut streams = load_books(connection)?;
    for stream in &mut streams {
        stream.books.operated = operated::load(connection, stream.id)?;
        if !stream.books.operated.makes_sense(stream.books.tail, stream.books.head) {
            return Err(Failure::Damaged(format!("what was done to stream {} makes no sense", stream.name)));
        }
    }
    Ok(streams)
}

/// The table `stream` alone.
pub(super) fn load_books(connection: &Connection) -> Result<Vec<StreamRow>, Failure> {
    let mut statement = connection.prepare(
        "SELECT id, name, head, next, tail, tail_offset, head_offset, end_offset, accepted, forwarded, expired, purged,
         dropped, dead, holes FROM stream ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    let mut streams = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |column: usize| -> Result<u64, Failure> {
            let number: i64 = row.get(column)?;
            u64::try_from(number).map_err(|_| Failure::Damaged(format!("stream column {column} is {number}")))
        };
        let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from).map(str::to_owned);
        let bad = |column: &str| Failure::Damaged(format!("stream column {column} cannot be read"));
        let books = Books {
            head: number(2)?,
            next: number(3)?,
            tail: number(4)?,
            tail_offset: number(5)?,
            head_offset: number(6)?,
            end_offset: number(7)?,
            accepted: number(8)?,
            forwarded: number(9)?,
            expired: number(10)?,
            purged: number(11)?,
            dropped: Tally::from_text(&text(12)?).ok_or_else(|| bad("dropped"))?,
            dead: Tally::from_text(&text(13)?).ok_or_else(|| bad("dead"))?,
            holes: Holes::from_text(&text(14)?).ok_or_else(|| bad("holes"))?,
            operated: Operated::default(),
        };
        if row.get::<_, i64>(0)? <= 0 || !books.make_sense() {
            return Err(Failure::Damaged(format!("the numbers of stream {} make no sense", text(1)?)));
        }
        streams.push(StreamRow { id: row.get(0)?, name: text(1)?, books });
    }
    Ok(streams)
}

/// The statement that writes a row of the table `stream`; parameters from [`save_stream`].
pub(super) const SAVE_STREAM: &str =
    "UPDATE stream SET head=?2, next=?3, tail=?4, tail_offset=?5, head_offset=?6, end_offset=?7,
    accepted=?8, forwarded=?9, expired=?10, purged=?11, dropped=?12, dead=?13, holes=?14 WHERE id=?1";

/// Writes the books of a stream.
pub(super) fn save_stream(
    statement: &mut rusqlite::Statement<'_>,
    id: i64,
    books: &Books,
) -> Result<(), rusqlite::Error> {
    let numbers = [
        books.head,
        books.next,
        books.tail,
        books.tail_offset,
        books.head_offset,
        books.end_offset,
        books.accepted,
        books.forwarded,
        books.expired,
        books.purged,
    ];
    statement.raw_bind_parameter(1, id)?;
    for (index, number) in numbers.into_iter().enumerate() {
        statement.raw_bind_parameter(index + 2, number.cast_signed())?;
    }
    statement.raw_bind_parameter(12, books.dropped.to_text())?;
    statement.raw_bind_parameter(13, books.dead.to_text())?;
    statement.raw_bind_parameter(14, books.holes.to_text())?;
    statement.raw_execute().map(|_| ())
}

/// Makes a stream: its row and its table. Its first number is 1, or where numbers were lost to damage, the floor set then.
pub(super) fn create_stream(connection: &Connection, id: Option<i64>, name: &str) -> Result<i64, rusqlite::Error> {
    let id = connection.query_row(
        "INSERT INTO stream SELECT ?1, ?2, first, first, first, 0, 0, 0, 0, 0, 0, 0, '', '', ''
         FROM (SELECT coalesce(max(first), 1) AS first FROM floor) RETURNING id",
        params![id, name],
        |row| row.get(0),
    )?;
    // The name in the comment is kept by SQLite in `sqlite_schema`; salvage finds it there when the row is lost.
    let comment: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "_.-".contains(*c)).collect();
    connection.execute_batch(&format!(
        "CREATE TABLE s_{id}(/*{comment}*/ seq INTEGER PRIMARY KEY, end INTEGER NOT NULL, boot INTEGER NOT NULL, at INTEGER NOT NULL,
         flags INTEGER NOT NULL, client TEXT NOT NULL, topic TEXT NOT NULL, properties BLOB, payload BLOB NOT NULL)"
    ))?;
    Ok(id)
}

/// The SQL of one stream's table.
#[derive(Debug, Clone)]
pub(super) struct StreamSql {
    /// seq, end, boot, at, flags, client, topic, properties, payload
    pub(super) insert: String,
    /// Rows from ?1 on, at most ?2; columns as in `insert`.
    pub(super) read: String,
    /// end, seq of the last row up to ?1.
    pub(super) end_at: String,
    /// seq, end, boot, at of the rows from ?1 on, at most ?2.
    pub(super) walk: String,
    /// Rows from ?1 up to, not including, ?2.
    pub(super) delete: String,
    /// The last row: seq, end.
    pub(super) last: String,
    /// How many rows there are from ?1 up to, not including, ?2, and what they weigh. Reads no payload.
    pub(super) weigh: String,
    /// Copies the row ?1 to the dead letters of stream ?2: ?3 reason, ?4 detail, ?5 boot, ?6 time. Gives the bytes of the letter.
    pub(super) bury: String,
}

impl StreamSql {
    pub(super) fn new(id: i64) -> Self {
        Self {
            insert: format!("INSERT INTO s_{id} VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"),
            read: format!(
                "SELECT seq, end, boot, at, flags, client, topic, properties, payload FROM s_{id} WHERE seq >= ?1 ORDER BY seq LIMIT ?2"
            ),
            end_at: format!("SELECT end, seq FROM s_{id} WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1"),
            walk: format!("SELECT seq, end, boot, at FROM s_{id} WHERE seq >= ?1 ORDER BY seq LIMIT ?2"),
            delete: format!("DELETE FROM s_{id} WHERE seq >= ?1 AND seq < ?2"),
            last: format!("SELECT seq, end FROM s_{id} ORDER BY seq DESC LIMIT 1"),
            weigh: format!(
                "SELECT count(*), coalesce(sum(octet_length(client) + octet_length(topic) + coalesce(octet_length(properties), 0)
                 + octet_length(payload)), 0) FROM s_{id} WHERE seq >= ?1 AND seq < ?2"
            ),
            bury: format!(
                "INSERT INTO dead(stream, seq, reason, detail, dead_boot, dead_at, boot, at, flags, client, topic, properties, payload)
                 SELECT ?2, seq, ?3, ?4, ?5, ?6, boot, at, flags, client, topic, properties, payload FROM s_{id} WHERE seq = ?1
                 RETURNING {}",
                dead::BYTES
            ),
        }
    }

    /// Adds what was appended since the books were last written: the rows themselves are the count of it (see the room's
    /// documentation, "Books").
    pub(super) fn catch_up(&self, connection: &Connection, books: &mut Books) -> Result<(), Failure> {
        let last = connection
            .query_row(&self.last, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .optional()?
            .map(|(seq, end)| (seq.cast_unsigned(), end.cast_unsigned()));
        let Some((seq, end)) = last else { return Ok(()) };
        if seq >= books.next {
            // Numbers are at most i64, and what is negative there is huge here.
            if seq >= 1 << 62 || end < books.end_offset {
                return Err(Failure::Damaged(format!("row {seq} ends at {end}, after {}", books.end_offset)));
            }
            books.accepted += seq + 1 - books.next;
            books.next = seq + 1;
            books.end_offset = end;
        }
        Ok(())
    }
}

/// All boots; a row that makes no sense is none, for salvage copies it as it is.
pub(super) fn load_boots(connection: &Connection) -> Result<Vec<Boot>, rusqlite::Error> {
    let mut statement = connection.prepare("SELECT id, kernel_id, offset_ms, synced FROM boot ORDER BY id")?;
    let boot = |row: &rusqlite::Row<'_>| -> Result<Boot, rusqlite::Error> {
        Ok(Boot { id: row.get(0)?, kernel_id: row.get(1)?, offset_ms: row.get(2)?, synced: row.get(3)? })
    };
    let mut rows = statement.query([])?;
    let mut boots = Vec::new();
    while let Some(row) = rows.next()? {
        boots.extend(boot(row).ok());
    }
    Ok(boots)
}

/// Writes a boot, new or corrected.
pub(super) fn save_boot(connection: &Connection, boot: &Boot) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO boot VALUES(?1, ?2, ?3, ?4)")?;
    statement.execute(params![boot.id, boot.kernel_id, boot.offset_ms, boot.synced]).map(|_| ())
}

/// Deletes the boots before this one.
pub(super) fn forget_boots(connection: &Connection, first_id: i64) -> Result<(), rusqlite::Error> {
    connection.execute("DELETE FROM boot WHERE id < ?1", [first_id]).map(|_| ())
}
