//! Recovery: a damaged database is set aside, never deleted; what can be read goes into a new one; the gateway starts.
//!
//! The steps are such that a crash between any two of them is made good by the next start:
//!
//! 1. What can be read is copied into `tidegate.db.salvaging`. A crash: the next start finds the damage again, begins anew.
//! 2. Synced, it is renamed to `tidegate.db.salvaged`. From here on the next start goes on with step 3.
//! 3. The damaged files are moved to `quarantine/<time>/`, the log (`-wal`) among them: beside the new database it would be
//!    replayed into it.
//! 4. `tidegate.db.salvaged` is renamed to `tidegate.db`.
//!
//! Damage that is met while running goes the same way, in the same process, after all connections are closed. It is noted in
//! `tidegate.db.damaged` first: should the process end before it is done, the next start salvages.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use super::{
    alarms,
    handle::OpenError,
    mend,
    opening::{DATABASE, LoadError, remove_if_there},
    salvage,
};

/// The folder of what was set aside.
pub(super) const QUARANTINE: &str = "quarantine";
const SALVAGING: &str = "tidegate.db.salvaging";
const SALVAGED: &str = "tidegate.db.salvaged";
const DAMAGED: &str = "tidegate.db.damaged";

/// What says that a salvage is under way, or is to be made by the next start.
pub(super) const MARKS: [&str; 3] = [SALVAGING, SALVAGED, DAMAGED];

/// Everything that belongs to a database and goes to the quarantine with it.
const PARTS: [&str; 4] = [DATABASE, LOG_PARTS[0], LOG_PARTS[1], DAMAGED];

/// The log and its index.
const LOG_PARTS: [&str; 2] = ["tidegate.db-wal", "tidegate.db-shm"];

/// How many databases were set aside, and their bytes.
pub(super) fn set_aside(quarantine: &Path) -> (usize, u64) {
    (fs::read_dir(quarantine).map_or(0, Iterator::count), alarms::bytes_in(quarantine))
}

/// Notes for the next start that the database is to be salvaged, should this process end before it is. Where even that cannot be
/// written, the next start works with the damaged database until it meets the damage again.
pub(super) fn ask_for_salvage(data_dir: &Path, cause: &str) {
    let path = data_dir.join(DAMAGED);
    let written = fs::write(&path, cause).and_then(|()| sync_directory(data_dir));
    if let Err(error) = written {
        tracing::error!(%error, "the damage could not be noted for the next start");
    }
}

/// Loads a sound database: the one that is there, or what can be salvaged of it. `had`: there is to be one, so that none is not a new folder.
/// `known`: damage that was met while running.
pub(super) fn sound<T>(
    data_dir: &Path,
    had: bool,
    known: Option<String>,
    load: impl Fn() -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    let path = data_dir.join(DATABASE);
    if data_dir.join(SALVAGED).exists() {
        finish(data_dir)?;
    }
    let noted = known.or_else(|| fs::read_to_string(data_dir.join(DAMAGED)).ok());
    // Not even opened: SQLite deletes a log that it finds beside an empty file, and who looks into the quarantine may still want it.
    let is_gone = had && is_empty(&path);
    let cause = if is_gone {
        "it is gone, or empty, though this folder had one".to_owned()
    } else {
        match load() {
            Err(LoadError::Damaged(cause)) => cause,
            Err(LoadError::Unreadable(cause)) if noted.is_some() => cause,
            Err(error) => return Err(error),
            Ok(loaded) => match noted {
                None => return Ok(loaded),
                // What loads may still be damaged inside. Closed again before it is read as a damaged one.
                Some(cause) => {
                    drop(loaded);
                    cause
                }
            },
        }
    };
    if !is_gone {
        // A disk that gives nothing has lost nothing: to salvage from it would set everything aside and begin with an empty database.
        mend::give_anything(&path).map_err(|error| LoadError::Sqlite { step: "read", cause: error.to_string() })?;
    }
    tracing::error!(path = %path.display(), error = cause, "the database is damaged: salvaging what can be read");
    let target = data_dir.join(SALVAGING);
    remove_salvaging(data_dir)?;
    let summary = match salvage::salvage((!is_gone).then_some(&path), &target, &cause) {
        Ok(summary) => summary,
        Err(failure) => {
            // What was begun must not take the space that others need; where it cannot be removed the next try does it.
            let _ = remove_salvaging(data_dir);
            return Err(LoadError::Sqlite { step: "salvage", cause: failure.to_string() });
        }
    };
    let done = data_dir.join(SALVAGED);
    fs::rename(&target, &done).map_err(failed("rename", &target))?;
    sync_directory(data_dir).map_err(failed("sync", data_dir))?;
    let aside = finish(data_dir)?;
    tracing::error!(
        kept = summary.kept,
        lost = summary.lost,
        path = %aside.display(),
        "the database was damaged; what could be read is kept, the damaged files are set aside"
    );
    load()
}

/// Puts what `make` writes into a file of the name given in the place of the database, in the same steps; gives where what was there is now.
pub(super) fn put_in_place<E: From<OpenError>>(
    data_dir: &Path,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<Option<PathBuf>, E> {
    let target = data_dir.join(SALVAGING);
    remove_salvaging(data_dir)?;
    if let Err(error) = make(&target) {
        // What was begun must not take the space that others need; where it cannot be removed the next try does it.
        let _ = remove_salvaging(data_dir);
        return Err(error);
    }
    let done = data_dir.join(SALVAGED);
    // One that a power cut has left: what is restored goes before it.
    remove_if_there(&done).map_err(failed("remove", &done))?;
    fs::rename(&target, &done).map_err(failed("rename", &target))?;
    sync_directory(data_dir).map_err(failed("sync", data_dir))?;
    let aside = finish(data_dir)?;
    // Only where nothing was there it is empty.
    Ok(fs::remove_dir(&aside).is_err().then_some(aside))
}

/// Moves a log that belongs to no database here into the quarantine; gives the folder.
pub(super) fn set_log_aside(data_dir: &Path) -> Result<PathBuf, OpenError> {
    let aside = quarantine_folder(data_dir)?;
    move_aside(data_dir, &aside, &LOG_PARTS)?;
    Ok(aside)
}

/// Whether there is no byte of a database.
fn is_empty(path: &Path) -> bool {
    fs::metadata(path).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |metadata| metadata.len() == 0)
}

fn remove_salvaging(data_dir: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm", "-source", "-source-wal", "-source-shm"] {
        let part = data_dir.join(format!("{SALVAGING}{suffix}"));
        remove_if_there(&part).map_err(failed("remove", &part))?;
    }
    Ok(())
}

/// Steps 3 and 4; gives the folder in the quarantine.
fn finish(data_dir: &Path) -> Result<PathBuf, OpenError> {
    let aside = quarantine_folder(data_dir)?;
    // The moves must be on disk before the new database takes the old one's place.
    move_aside(data_dir, &aside, &PARTS)?;
    let done = data_dir.join(SALVAGED);
    fs::rename(&done, data_dir.join(DATABASE)).map_err(failed("rename", &done))?;
    sync_directory(data_dir).map_err(failed("sync", data_dir))?;
    Ok(aside)
}

/// Moves what there is of these into the folder, and syncs that.
fn move_aside(data_dir: &Path, aside: &Path, parts: &[&str]) -> Result<(), OpenError> {
    for part in parts {
        let from = data_dir.join(part);
        match fs::rename(&from, aside.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("move aside", &from)(error)),
            Ok(()) | Err(_) => {}
        }
    }
    sync_directory(aside).map_err(failed("sync", aside))?;
    sync_directory(data_dir).map_err(failed("sync", data_dir))
}

/// A new folder named by the time, with a number behind it where that is taken (clocks stand still, too).
fn quarantine_folder(data_dir: &Path) -> Result<PathBuf, OpenError> {
    let quarantine = data_dir.join(QUARANTINE);
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    match builder.create(&quarantine) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make", &quarantine)(error)),
        Ok(()) | Err(_) => {}
    }
    let now = OffsetDateTime::now_utc();
    let (date, (hour, minute, second)) = (now.date(), now.to_hms());
    let time = format!("{date}T{hour:02}{minute:02}{second:02}Z");
    let mut number = 0_u32;
    loop {
        let name = if number == 0 { time.clone() } else { format!("{time}-{number}") };
        let folder = quarantine.join(name);
        match builder.create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(failed("make", &folder)(error)),
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn failed<'p>(step: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> OpenError + 'p {
    move |source| OpenError::Directory { step, path: path.to_owned(), source }
}
