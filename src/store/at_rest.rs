//! The database of a stopped gateway, read without changing anything: for whoever stands in front of a device whose gateway does not start, or has
//! only its disk.
//!
//! # Constraints
//!
//! - Nothing is written: no migration, no checkpoint, no recovery, no file made. Older versions are read as they are, a file system may be read-only.
//! - The lock is shared with others who read, and keeps a gateway from starting meanwhile; where one runs, this fails ([`AtRestError::Held`]).
//! - Memory does not grow with what is stored: a page is one read, bounded as those of the running store.
//!
//! # How
//!
//! After an orderly stop all is in the database, which is opened as `immutable`: SQLite then neither looks for a log nor makes one. After a crash
//! there is a log (`-wal`) with what was acknowledged last, and its index (`-shm`); with `readonly_shm` SQLite reads the log, finds that nobody else has the index, and
//! makes its own in memory. Where only the index is missing, which a power cut can do, a connection that may write is opened for itself alone, and does
//! not write: then too the index is in memory, and there is no checkpoint at its end.
//!
//! # Damage
//!
//! What cannot be read is passed over, as salvage does it, and counted ([`RestingPage::lost`]): rows around a damaged page, rows that make no sense, rows that are missing.
//! Where the list of streams is lost, they are those that have tables. Where the first page is lost, nothing can be read; a gateway that starts
//! there salvages from a copy with another first page.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, config::DbConfig};

use super::{
    api::{DeadFilter, Sequence, Stored},
    backup::BACKUP_ID,
    books::Holes,
    clock::{self, Boots, Now},
    dead,
    failure::Failure,
    figures::stream_stats,
    handle::OpenError,
    lock::DirectoryLock,
    opening::{self, DATABASE, LOCK},
    operated::{self, Operated},
    reader::{READ_BYTES_MAX, READ_MESSAGES_MAX, stored},
    row::Decoder,
    salvage::{self, Walk},
    schema::{self, StreamRow, StreamSql},
};
use crate::stats::{DeadLetter, DeadStats, StreamStats};

/// The version with which what operators do came into the database.
const OPERATED_SINCE: i64 = 3;

/// Why the database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AtRestError {
    /// There is none.
    #[error("there is no database of a gateway in `{}`", .0.display())]
    Nothing(PathBuf),
    /// A gateway has it: ask that.
    #[error(transparent)]
    Held(OpenError),
    /// It belongs to somebody else, or to a newer version, or cannot be locked.
    #[error(transparent)]
    Open(OpenError),
    /// It cannot be read at all.
    #[error("the database `{}` cannot be read: {cause}; a gateway that starts here sets it aside and salvages what it can", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        cause: String,
    },
}

/// A page of a stream.
#[derive(Debug, Default)]
pub struct RestingPage {
    /// Messages, oldest first.
    pub messages: Vec<Stored>,
    /// Where the next page begins; `None` where this is the last.
    pub next: Option<Sequence>,
    /// Messages that should have been between these and cannot be read.
    pub lost: u64,
}

/// The database of a stopped gateway.
#[derive(Debug)]
pub struct AtRest {
    path: PathBuf,
    connection: Connection,
    streams: Vec<(StreamRow, StreamSql)>,
    boots: Boots,
    decoder: Decoder,
    version: i64,
    damage: Option<String>,
    /// Given up with this.
    _lock: Option<File>,
}

impl AtRest {
    /// Opens the database in a data directory.
    pub fn open(data_dir: &Path) -> Result<Self, AtRestError> {
        let path = data_dir.join(DATABASE);
        if !path.exists() {
            return Err(AtRestError::Nothing(data_dir.to_owned()));
        }
        let lock = DirectoryLock::share(&data_dir.join(LOCK)).map_err(|error| match error {
            OpenError::Locked { .. } => AtRestError::Held(error),
            other @ (OpenError::Directory { .. }
            | OpenError::Newer { .. }
            | OpenError::Foreign { .. }
            | OpenError::Database { .. }
            | OpenError::TwoStreams(_)
            | OpenError::Metrics(_)
            | OpenError::Threads(_)) => AtRestError::Open(other),
        })?;
        let unreadable =
            |error: &dyn std::fmt::Display| AtRestError::Unreadable { path: path.clone(), cause: error.to_string() };
        let connection = connect(&path).map_err(|error| unreadable(&error))?;
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let application = pragma("application_id").map_err(|error| unreadable(&error))?;
        let version = pragma("user_version").map_err(|error| unreadable(&error))?;
        match (application, version) {
            (0, 0) => return Err(AtRestError::Nothing(data_dir.to_owned())),
            (schema::APPLICATION_ID | BACKUP_ID, found) if found > schema::VERSION => {
                return Err(AtRestError::Open(OpenError::Newer { path, found, known: schema::VERSION }));
            }
            (schema::APPLICATION_ID | BACKUP_ID, _) => {}
            (found, _) => return Err(AtRestError::Open(OpenError::Foreign { path, found })),
        }
        let mut damage = None;
        let boots = opening::this_start(&connection).map_or_else(
            |error| {
                damage = Some(error.to_string());
                Boots::new(vec![clock::this_boot(1, clock::kernel_boot_id(), Now::read())])
            },
            |(boots, _)| boots,
        );
        let streams = load_streams(&connection, version, &mut damage);
        let decoder = Decoder::new();
        Ok(Self { path, connection, streams, boots, decoder, version, damage, _lock: lock })
    }

    /// The database.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was found to be damaged so far.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// The books of all streams; whether they are configured, and where they go, only the configuration knows.
    pub fn streams(&self) -> Vec<StreamStats> {
        let now = Now::read();
        let stats = |(stream, sql): &(StreamRow, StreamSql)| {
            let head_at = self.head_at(stream, sql).unwrap_or((self.boots.current().id, now.mono_ms));
            stream_stats(&stream.name, true, &stream.books, head_at, &self.boots, now)
        };
        self.streams.iter().map(stats).collect()
    }

    fn head_at(&self, stream: &StreamRow, sql: &StreamSql) -> Option<(i64, u64)> {
        let head = (stream.books.head.cast_signed(), 1);
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(2)?, row.get::<_, i64>(3)?.cast_unsigned()));
        self.connection.query_row(&sql.walk, head, row).optional().ok().flatten()
    }

    /// Where the backlog of a stream begins and ends; `None` where there is no such stream.
    pub fn position(&self, stream: &str) -> Option<(Sequence, Sequence)> {
        let books = &self.find(stream)?.0.books;
        Some((books.head, books.next))
    }

    fn find(&self, stream: &str) -> Option<&(StreamRow, StreamSql)> {
        self.streams.iter().find(|(known, _)| known.name == stream)
    }

    /// Messages of the backlog from `from` on, or with `kept` of what is kept for replay. `None`: there is no such stream.
    pub fn read(&mut self, stream: &str, kept: bool, from: Sequence, max_messages: usize) -> Option<RestingPage> {
        let (row, sql) = self.find(stream)?;
        let books = &row.books;
        let mut ranges = Holes::default();
        if !kept {
            ranges.add(from.max(books.head), books.next);
            books.holes.overlaps(0, Sequence::MAX).for_each(|(first, end)| ranges.remove(first, end));
        } else if books.operated.kept.is_some() {
            ranges.add(from.max(books.tail), books.head);
            let gone = &books.operated.kept.gone;
            gone.overlaps(0, Sequence::MAX).for_each(|(first, end)| ranges.remove(first, end));
        }
        let sql = sql.read.clone();
        let mut reading = Reading {
            connection: &self.connection,
            sql: &sql,
            boots: &self.boots,
            decoder: &mut self.decoder,
            limit: max_messages.clamp(1, READ_MESSAGES_MAX),
            bytes: 0,
            page: RestingPage::default(),
        };
        let all: Vec<_> = ranges.overlaps(0, Sequence::MAX).collect();
        for (first, end) in all {
            if let Some(next) = reading.range(first, end) {
                reading.page.next = Some(next);
                break;
            }
        }
        let page = reading.page;
        if page.lost > 0 {
            self.damage.get_or_insert_with(|| format!("messages of the stream {stream} cannot be read"));
        }
        Some(page)
    }

    /// Dead letters, as [`super::Handle::dead`] gives them; `stream` by name.
    pub fn dead(&mut self, filter: &DeadFilter, stream: Option<&str>) -> Result<Vec<DeadLetter>, String> {
        let id = stream.map(|name| self.find(name).map_or(-1, |(row, _)| row.id));
        self.dead_letters(filter, id).map_err(|failure| failure.to_string())
    }

    fn dead_letters(&mut self, filter: &DeadFilter, stream: Option<i64>) -> Result<Vec<DeadLetter>, Failure> {
        let sql = match filter.id {
            Some(_) => format!("{}WHERE id = ?1 AND ?2 IS NULL LIMIT ?3", dead::COLUMNS),
            None => format!("{}WHERE id > ?1 AND (?2 IS NULL OR stream = ?2) ORDER BY id LIMIT ?3", dead::HEADS),
        };
        let mut select = self.connection.prepare_cached(&sql)?;
        let limit = i64::try_from(filter.limit.max(1)).unwrap_or(i64::MAX);
        let mut rows = select.query((filter.id.unwrap_or(filter.after).cast_signed(), stream, limit))?;
        let mut letters = Vec::new();
        while let Some(row) = rows.next()? {
            let streams = &self.streams;
            let name =
                |id| streams.iter().find(|(row, _)| row.id == id).map_or(String::new(), |(row, _)| row.name.clone());
            letters.push(dead::of_row(row, &mut self.decoder, &self.boots, name)?);
        }
        Ok(letters)
    }

    /// The figures of all dead letters.
    pub fn dead_stats(&self) -> Result<DeadStats, String> {
        let load = if self.version < OPERATED_SINCE { dead::sums } else { dead::load };
        load(&self.connection).map_err(|failure| failure.to_string())
    }
}

/// All streams with their books as far as they can be had.
fn load_streams(connection: &Connection, version: i64, damage: &mut Option<String>) -> Vec<(StreamRow, StreamSql)> {
    let known = schema::load_books(connection).unwrap_or_else(|failure| {
        *damage = Some(failure.to_string());
        Vec::new()
    });
    let is_whole = damage.is_none();
    let nameless = if is_whole { Vec::new() } else { salvage::nameless_streams(connection, &known) };
    let mut streams = Vec::new();
    for (mut stream, is_known) in
        known.into_iter().zip(std::iter::repeat(true)).chain(nameless.into_iter().zip(std::iter::repeat(false)))
    {
        let sql = StreamSql::new(stream.id);
        if !is_known {
            let first: Option<i64> =
                connection.query_row(&sql.walk, (0, 1), |row| row.get(0)).optional().unwrap_or_default();
            let first = first.map_or(1, i64::cast_unsigned);
            (stream.books.head, stream.books.next, stream.books.tail) = (first, first, first);
        }
        if version >= OPERATED_SINCE {
            stream.books.operated = operated::load(connection, stream.id).unwrap_or_else(|failure| {
                damage.get_or_insert(failure.to_string());
                Operated::default()
            });
        }
        if let Err(failure) = sql.catch_up(connection, &mut stream.books) {
            damage.get_or_insert(failure.to_string());
        }
        streams.push((stream, sql));
    }
    streams
}

/// One page in the making.
struct Reading<'a> {
    connection: &'a Connection,
    sql: &'a str,
    boots: &'a Boots,
    decoder: &'a mut Decoder,
    limit: usize,
    bytes: u64,
    page: RestingPage,
}

impl Reading<'_> {
    /// Reads `[first, end)`; where the page is full before its end, the number with which the next begins.
    fn range(&mut self, first: Sequence, end: Sequence) -> Option<Sequence> {
        let mut next = first;
        while next < end {
            if self.up_to_damage(&mut next, end) {
                return (next < end).then_some(next);
            }
            let walk = Walk { old: self.connection, sql: self.sql, next, last: end - 1 };
            let readable = walk.first_readable().unwrap_or(end);
            self.page.lost += readable - next;
            next = readable;
        }
        None
    }

    /// Reads on from `next`; false where something cannot be read there.
    fn up_to_damage(&mut self, next: &mut Sequence, end: Sequence) -> bool {
        let Ok(mut read) = self.connection.prepare_cached(self.sql) else { return false };
        let limit = i64::try_from(self.limit + 1).unwrap_or(i64::MAX);
        let Ok(mut rows) = read.query((next.cast_signed(), limit)) else { return false };
        let now = Now::read();
        loop {
            if self.page.messages.len() >= self.limit || self.bytes >= READ_BYTES_MAX as u64 {
                return true;
            }
            let Ok(row) = rows.next() else { return false };
            let seq = row.map(|row| row.get::<_, i64>(0).map(i64::cast_unsigned));
            match (row, seq) {
                (Some(row), Some(Ok(seq))) if seq < end => {
                    if seq < *next {
                        return false;
                    }
                    // Holes are between the ranges: what is missing here was there.
                    self.page.lost += seq - *next;
                    *next = seq + 1;
                    match stored(row, seq, self.decoder, self.boots, now) {
                        Ok(message) => {
                            self.bytes += u64::from(message.bytes);
                            self.page.messages.push(message);
                        }
                        Err(_) => self.page.lost += 1,
                    }
                }
                (Some(_), Some(Err(_))) => return false,
                (Some(_) | None, _) => {
                    self.page.lost += end - *next;
                    *next = end;
                    return true;
                }
            }
        }
    }
}

/// A connection that changes nothing; see the module.
fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = open_unchanged(path)?;
    // Lets SQLite read a file with fewer pages than its header says. Of this connection only: nothing is written.
    connection.pragma_update(None, "writable_schema", true)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    Ok(connection)
}

/// A connection that leaves the database, its log and its index as they are, as long as nothing is written through it.
pub(super) fn open_unchanged(path: &Path) -> Result<Connection, rusqlite::Error> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let has_log = beside("-wal").metadata().is_ok_and(|log| log.len() > 0);
    let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if !has_log {
        Connection::open_with_flags(uri(path, "immutable=1"), read_only)?
    } else if beside("-shm").exists() {
        Connection::open_with_flags(uri(path, "readonly_shm=1"), read_only)?
    } else {
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        connection
    };
    Ok(connection)
}

/// A file name as a URI: everything but letters, digits and `/-._~` encoded.
fn uri(path: &Path, parameter: &str) -> PathBuf {
    // Relative names would be taken for a host.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut text = b"file://".to_vec();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            text.push(byte);
        } else {
            text.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    text.extend_from_slice(format!("?{parameter}").as_bytes());
    PathBuf::from(OsString::from_vec(text))
}
