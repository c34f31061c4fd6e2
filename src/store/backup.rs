//! Copies of the database that can be put in the place of a lost one, and what the first start from such a copy does.
//!
//! # Constraints
//!
//! - A copy is one moment of the store: all books, backlogs, sessions, retained messages, dead letters. The gateway goes on meanwhile; a reader of its
//!   own holds the moment, the log grows for as long, and the writer does not wait for it (see `writer::upkeep`).
//! - No sequence number is used twice (guarantee G10, invariant 3). The gateway went on after the copy was made: it gave numbers of which the copy knows
//!   nothing. So a copy is not a database: its `application_id` is [`BACKUP_ID`], which older programs refuse untouched, and the
//!   first start from it gives every stream, and those that are made later, numbers from the microseconds since 1970 on. Whoever puts
//!   the file in place with `cp` gets the same as with `tidegate restore`.
//! - Nothing is deleted: what was in the data directory goes to the quarantine, and the steps are those of [`recovery`], so that
//!   a restore that a power cut ends is finished by the next start.
//!
//! # Why microseconds
//!
//! A stream that has gone on since the copy has given at most as many numbers as messages came since; a million a second it does not reach. Nor does a second
//! restore of the same copy meet the numbers of the first. The copy carries the time at which it was made: where the clock is not behind that, it is
//! believed; where it is (a board without a clock), a random part of 2^50 is added to the time of the copy. All of it is below 2^53, which JSON can carry.
//!
//! # What is not as it was
//!
//! Messages forwarded since the copy are sent again under the `tg-id` they had. Packet ids of QoS 2 that clients had open are forgotten:
//! one of them may since stand for another message, which would be taken for a duplicate and lost.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt, lchown},
    path::{Path, PathBuf},
};

use rusqlite::Connection;

use super::{
    api::Durability,
    at_rest,
    clock::{ERA_UNIX_MS, Now},
    failure::Failure,
    handle::OpenError,
    lock::DirectoryLock,
    log,
    opening::{self, DATABASE, LOCK},
    recovery,
    schema::{self, Role, StreamSql},
};

/// `PRAGMA application_id` of a copy: "TGBK".
pub(super) const BACKUP_ID: i64 = 0x5447_424B;

/// What is added at most where the clock is behind the copy.
const RANDOM_NUMBERS: i64 = 1 << 50;

/// Bytes of the header of a SQLite file up to and with the application id (SQLite file format, section 1.3).
const HEADER_BYTES: usize = 72;

/// Why there is no copy, or why it is not in place. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to be copied.
    #[error("there is no database of a gateway in `{}`", .0.display())]
    Nothing(PathBuf),
    /// Somebody else's, or of a newer version; or a gateway runs there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The source is damaged, or no database.
    #[error("`{}` cannot be read whole: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        cause: String,
    },
    /// The copy could not be written.
    #[error("cannot write `{}`: {cause}", path.display())]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system said.
        cause: String,
    },
}

/// What a copy holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its bytes.
    pub bytes: u64,
    /// Name and backlog of every stream.
    pub streams: Vec<(String, u64)>,
}

/// Copies the database of a data directory into the empty file `target`, whether a gateway runs there or not, and syncs it.
pub fn backup(data_dir: &Path, target: &Path) -> Result<Copied, BackupError> {
    let path = data_dir.join(DATABASE);
    if !path.exists() {
        return Err(BackupError::Nothing(data_dir.to_owned()));
    }
    match DirectoryLock::share(&data_dir.join(LOCK)) {
        // Held until the copy is made, so that no gateway starts meanwhile.
        Ok(_lock) => {
            has_whole_log(&path)?;
            copy(&path, at_rest::open_unchanged, target)
        }
        Err(OpenError::Locked { .. }) => {
            copy(&path, |path| schema::connect(path, Role::Reader, Durability::Full), target)
        }
        Err(error) => Err(error.into()),
    }
}

/// Puts a copy of `source`, a backup or the database of a copied data directory, in the place of the database of `data_dir`. What was there
/// is set aside; gives where, if there was something.
pub fn restore(source: &Path, data_dir: &Path) -> Result<(Copied, Option<PathBuf>), BackupError> {
    if !source.is_file() {
        return Err(BackupError::Unreadable { path: source.to_owned(), cause: "there is no such file".to_owned() });
    }
    has_whole_log(source)?;
    opening::make_directory(data_dir)?;
    let lock = DirectoryLock::take(&data_dir.join(LOCK))?;
    let mut copied = None;
    let aside = recovery::put_in_place(data_dir, |target| -> Result<(), BackupError> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
        made.map_err(|error| unwritten(target, &error))?;
        copied = Some(copy(source, at_rest::open_unchanged, target)?);
        // Before it takes its place: a power cut may end this at any step.
        own_as(data_dir, data_dir).map_err(|error| unwritten(data_dir, &error))
    })?;
    lock.has_database();
    own_as(data_dir, data_dir).map_err(|error| unwritten(data_dir, &error))?;
    copied.map(|copied| (copied, aside)).ok_or_else(|| BackupError::Nothing(source.to_owned()))
}

/// Refuses a database that a crash left whose log is damaged in its middle: SQLite would read what comes before, and say nothing.
fn has_whole_log(path: &Path) -> Result<(), BackupError> {
    let unreadable = |cause: String| BackupError::Unreadable { path: path.to_owned(), cause };
    match log::damage(path) {
        Ok(None) => Ok(()),
        Ok(Some(damage)) => Err(unreadable(format!("{damage}; a gateway that starts there salvages what can be read"))),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

fn unwritten(path: &Path, cause: &dyn std::fmt::Display) -> BackupError {
    BackupError::Unwritten { path: path.to_owned(), cause: cause.to_string() }
}

/// Copies what can be read whole, marks the copy as one, and syncs it.
fn copy(
    path: &Path,
    connect: impl FnOnce(&Path) -> Result<Connection, rusqlite::Error>,
    target: &Path,
) -> Result<Copied, BackupError> {
    let unreadable =
        |error: &dyn std::fmt::Display| BackupError::Unreadable { path: path.to_owned(), cause: error.to_string() };
    let source = connect(path).map_err(|error| unreadable(&error))?;
    let pragma = |name| source.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application = pragma("application_id").map_err(|error| unreadable(&error))?;
    let version = pragma("user_version").map_err(|error| unreadable(&error))?;
    match (application, version) {
        (0, 0) => return Err(BackupError::Nothing(path.to_owned())),
        (schema::APPLICATION_ID | BACKUP_ID, found) if found > schema::VERSION => {
            let path = path.to_owned();
            return Err(OpenError::Newer { path, found, known: schema::VERSION }.into());
        }
        (schema::APPLICATION_ID | BACKUP_ID, _) => {}
        (found, _) => return Err(OpenError::Foreign { path: path.to_owned(), found }.into()),
    }
    let whole = std::path::absolute(target).map_err(|error| unwritten(target, &error))?;
    let name = whole.to_str().ok_or_else(|| unwritten(target, &"its name is not UTF-8"))?;
    source.execute("VACUUM INTO ?1", [name]).map_err(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => unreadable(&error),
        _ => unwritten(target, &error),
    })?;
    mark(&whole, application).map_err(|failure| unwritten(target, &failure))
}

/// Makes a backup of a copy. It is synced as a whole, so that its folder never sees a journal.
fn mark(target: &Path, application: i64) -> Result<Copied, Failure> {
    let copy = Connection::open(target)?;
    copy.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
    copy.pragma_update(None, "synchronous", "OFF")?;
    if application != BACKUP_ID {
        // A copy of a copy is as old as the first.
        copy.execute("INSERT INTO floor VALUES(?1)", [now_us()])?;
    }
    copy.pragma_update(None, "application_id", BACKUP_ID)?;
    let mut streams = Vec::new();
    for mut stream in schema::load_books(&copy)? {
        StreamSql::new(stream.id).catch_up(&copy, &mut stream.books)?;
        streams.push((stream.name, stream.books.backlog_messages()));
    }
    copy.close().map_err(|(_, error)| Failure::from(error))?;
    let trouble = |error: io::Error| Failure::Trouble(error.to_string());
    let file = File::open(target).map_err(trouble)?;
    file.sync_all().map_err(trouble)?;
    Ok(Copied { bytes: file.metadata().map_err(trouble)?.len(), streams })
}

fn now_us() -> i64 {
    Now::read().unix_ms.max(ERA_UNIX_MS).saturating_mul(1000)
}

/// Whether this database is a copy from which no start was made yet.
pub(super) fn is_backup(connection: &Connection) -> Result<bool, rusqlite::Error> {
    connection.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0)).map(|found| found == BACKUP_ID)
}

/// Makes a database of a copy, inside of a transaction: see the module.
pub(super) fn begin_anew(connection: &Connection) -> Result<(), Failure> {
    let made: i64 = connection.query_row("SELECT coalesce(max(first), 0) FROM floor", [], |row| row.get(0))?;
    let now = now_us();
    let first = if now > made {
        now
    } else {
        let random: i64 = connection.query_row("SELECT random()", [], |row| row.get(0))?;
        made.saturating_add(1 + random.rem_euclid(RANDOM_NUMBERS))
    };
    let mut save = connection.prepare(schema::SAVE_STREAM)?;
    for mut stream in schema::load_streams(connection)? {
        let books = &mut stream.books;
        StreamSql::new(stream.id).catch_up(connection, books)?;
        let end = books.next;
        books.next = end.saturating_add(1).max(first.unsigned_abs());
        books.holes.add(end, books.next);
        books.skip_holes();
        schema::save_stream(&mut save, stream.id, books)?;
        super::operated::save(connection, stream.id, &books.operated)?;
        tracing::info!(
            stream = stream.name,
            backlog = books.backlog_messages(),
            next = books.next,
            "restored a stream"
        );
    }
    connection.execute("INSERT INTO floor VALUES(?1)", [first])?;
    connection.execute("DELETE FROM received", [])?;
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
    tracing::warn!("this is the first start from a backup: what was forwarded since it was made is sent again");
    Ok(())
}

/// A salvage of what was once restored: its numbers are far above the `floor` of a salvage, and so are those that go on without books.
pub(super) fn keep_above(connection: &Connection, floor: i64) -> Result<(), Failure> {
    let highest: i64 = connection.query_row("SELECT max(first) FROM floor", [], |row| row.get(0))?;
    if highest > floor {
        connection.execute("INSERT INTO floor VALUES(?1)", [highest.max(now_us())])?;
    }
    Ok(())
}

/// Sets the log of another database aside that lies beside a copy: who put the file there with `cp` after a crash left it, and SQLite
/// would play it back into the copy. A copy that was opened has a log of its own, and says so in its header.
pub(super) fn set_strange_log_aside(data_dir: &Path) -> Result<(), OpenError> {
    let log = data_dir.join("tidegate.db-wal");
    let mut header = [0; HEADER_BYTES];
    let read = File::open(data_dir.join(DATABASE)).and_then(|mut file| file.read_exact(&mut header));
    // A rollback journal's file: what a copy is before it is opened.
    let is_fresh = read.is_ok() && header[18] == 1 && i64::from(application(&header)) == BACKUP_ID;
    if is_fresh && fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        let aside = recovery::set_log_aside(data_dir)?;
        tracing::warn!(path = %aside.display(), "a log that does not belong to this backup lay beside it and is set aside");
    }
    Ok(())
}

fn application(header: &[u8; HEADER_BYTES]) -> i32 {
    header.last_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes))
}

/// Gives what root made in a data directory to whom that belongs: the gateway could not open it.
fn own_as(data_dir: &Path, folder: &Path) -> io::Result<()> {
    let owner = fs::metadata(data_dir)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        if (found.uid(), found.gid()) != (owner.uid(), owner.gid()) && rustix::process::geteuid().is_root() {
            lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
        }
        if found.is_dir() {
            own_as(data_dir, &entry.path())?;
        }
    }
    Ok(())
}
