//! Making the store work again after its disk was in trouble, or its database damaged, without ending the process.
//!
//! Runs on a thread of its own, for any of these steps may take the disk minutes, and the writer has to refuse meanwhile what comes.
//! All connections to the database are closed: the writer's before this begins, the reader's as the first step.
//!
//! # Why what was acknowledged is on disk afterwards
//!
//! When fsync fails, Linux tells it once and then counts the pages as clean: what a later fsync that succeeds says of them is
//! nothing, though they may never have reached the disk (and reading gives them from memory as if they had). Of the two files:
//!
//! * *The log.* A transaction T whose sync failed was acknowledged to nobody, but its pages may be in the log, and be read as
//!   committed by the next opening. A transaction that follows it, and is synced and acknowledged, would be lost with the next
//!   power cut if T is not really there: the log ends at the first page whose checksum does not fit. Worse, a checkpoint would
//!   put some pages of T into the database beside older ones of a log that ends before T. So before the log is opened, all of it is
//!   written anew, byte for byte, and synced ([`rewrite_log`]). Where that succeeds, what can be read is what is on the disk; a power
//!   cut in between finds old bytes or the same bytes. T is now there or not, as it was found; the writer learns which from the books.
//! * *The database.* Pages that a failed checkpoint wrote are all still in the log, for it starts anew only after a sync of the
//!   database that succeeded. But a checkpoint which a reader holds up moves a part of the log without a sync, and marks in the
//!   index of the log (`-shm`) how far it came; the next one goes on from there, and where its sync fails, that part is forgotten,
//!   too. With all connections closed the index is made anew, and with it the mark: the checkpoint that follows writes every page
//!   of the log again ([`prove`]). For the same reason the orderly end leaves the log where it is when its checkpoint fails.
//!
//! The same holds for a start after a crash of the process: the kernel's memory outlives it. So opening rewrites the log, too.
//!
//! [`prove`] would do without the rewriting where nothing came between: it moves T into the database, and the log begins anew
//! before anything is acknowledged. But a power cut in the middle of it would leave pages of T in a database whose log ends before T, and
//! a start after a crash moves nothing. The rewriting would do without [`prove`], but for a file system that copies on
//! write and has no space for it: there [`prove`] is what is left. So uncovered are, with a disk that is full just when a sync
//! fails, a power cut before [`prove`] is through, and a crash before it and then a power cut. That is said in the log, and not made
//! a reason to stay closed.
//!
//! `tests/faults/36_doubt.py` has a story for each of these, which fails where that part is left out.
//!
//! # Damage
//!
//! Goes through [`recovery`], as at a start. A device that gives nothing at all is no damage, however: to salvage from it would
//! count everything as lost. So first pages all over the file are read, and where most cannot be, it is waited.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
};

use rusqlite::{Connection, config::DbConfig, wal::CheckpointMode};

use super::{
    api::{Settings, StreamSettings},
    failure::Failure,
    opening::{self, DATABASE, LoadError, Loaded},
    recovery,
    schema::{self, PAGE_BYTES, Role},
    shared::{Asked, Query, Shared},
};

/// Bytes that are rewritten at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Pages all over the file that are read before it is called damaged.
const SAMPLES: u64 = 64;

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct Errand {
    pub(super) settings: Settings,
    pub(super) streams: Vec<StreamSettings>,
    pub(super) shared: Arc<Shared>,
    /// The damage that was met, where that is the trouble.
    pub(super) damage: Option<String>,
}

/// A store that works again.
#[derive(Debug)]
pub(super) struct Mended {
    pub(super) loaded: Loaded,
    /// For the reader.
    pub(super) reading: Connection,
}

/// Tries once; the module says how. Blocks for as long as the disk takes.
pub(super) fn mend(errand: &Errand) -> Result<Mended, LoadError> {
    close_reader(&errand.shared);
    #[cfg(test)]
    if super::shared::locked(&errand.shared.fault).is_some_and(|it| it != super::shared::Fault::AfterSalvage) {
        return Err(LoadError::Sqlite { step: "open", cause: "as the test says".to_owned() });
    }
    let data_dir = &errand.settings.data_dir;
    let path = data_dir.join(DATABASE);
    if let Some(damage) = &errand.damage {
        // First: a note would have the next start salvage at once, from a device that may give nothing at that moment either.
        give_anything(&path).map_err(|error| LoadError::Sqlite { step: "read", cause: error.to_string() })?;
        recovery::ask_for_salvage(data_dir, damage);
    }
    let ids: Vec<i64> = errand.shared.doors.all().iter().map(|door| door.id).collect();
    let load = || opening::load(&path, &errand.settings, &errand.streams, &ids);
    let loaded = recovery::sound(data_dir, true, errand.damage.clone(), load)?;
    prove(&loaded).map_err(LoadError::from_failure("write to"))?;
    let reading = schema::connect(&path, Role::Reader, errand.settings.durability)
        .map_err(|error| LoadError::from_failure("open for reading")(error.into()))?;
    Ok(Mended { loaded, reading })
}

fn close_reader(shared: &Shared) {
    let (closed, was_closed) = sync_channel(1);
    if shared.queries.send(Asked { query: Query::Suspend { closed }, permit: None }).is_ok() {
        // The reader is gone only when the whole store ends.
        let _ = was_closed.recv();
    }
}

/// Why a log could not be written anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum RewriteError {
    /// It cannot be read, which may pass.
    #[error("{0}")]
    Read(io::Error),
    /// It cannot be written.
    #[error("{0}")]
    Write(#[from] io::Error),
}

/// Writes the log anew in its place, and syncs it; see the module. All connections must be closed.
pub(super) fn rewrite_log(database: &Path) -> Result<(), RewriteError> {
    let path = log_of(database);
    let log = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let read = log.read_at(&mut chunk, at).map_err(RewriteError::Read)?;
        if read == 0 {
            break;
        }
        log.write_all_at(&chunk[..read], at)?;
        at += read as u64;
    }
    log.sync_all()?;
    Ok(sync_folder_of(database)?)
}

/// Syncs the folder that a file is in.
pub(super) fn sync_folder_of(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// Moves the whole log into the database and writes a transaction of our own, both synced. That there is no space is an answer,
/// too: the writer knows what to do then.
fn prove(loaded: &Loaded) -> Result<(), Failure> {
    let full_is_fine = |result: Result<(), Failure>| match result {
        Err(Failure::Full(_)) | Ok(()) => Ok(()),
        Err(failure @ (Failure::Damaged(_) | Failure::Trouble(_) | Failure::Unreadable(_) | Failure::Fatal(_))) => {
            Err(failure)
        }
    };
    let connection = &loaded.connection;
    full_is_fine(
        connection.wal_checkpoint_v2(Some("main"), CheckpointMode::TRUNCATE).map(|_| ()).map_err(Failure::from),
    )?;
    let write = || -> Result<(), Failure> {
        let transaction = connection.unchecked_transaction()?;
        schema::save_boot(&transaction, loaded.boots.current())?;
        Ok(transaction.commit()?)
    };
    full_is_fine(write())
}

/// Fails where the device gives next to nothing of the file.
pub(super) fn give_anything(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let pages = file.metadata()?.len() / PAGE_BYTES;
    let (mut failed, mut first_error) = (0, None);
    let samples = SAMPLES.min(pages);
    for sample in 0..samples {
        let at = sample * pages / samples * PAGE_BYTES;
        if let Err(error) = file.read_exact_at(&mut [0; 16], at) {
            failed += 1;
            first_error.get_or_insert(error);
        }
    }
    match first_error {
        Some(error) if failed * 2 > samples => Err(error),
        Some(_) | None => Ok(()),
    }
}

/// Closes a connection and leaves the log as it is.
pub(super) fn drop_connection(connection: Connection) {
    connection.flush_prepared_statement_cache();
    // It fails only for a connection that is not open.
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    drop(connection);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_rewritten_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("tidegate.db");
        rewrite_log(&database).unwrap();
        assert!(!log_of(&database).exists(), "what is not there is not made");
        let bytes: Vec<u8> = (0..(CHUNK_BYTES * 2 + 77)).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::fs::write(log_of(&database), &bytes).unwrap();
        rewrite_log(&database).unwrap();
        assert!(std::fs::read(log_of(&database)).unwrap() == bytes);
    }
}
