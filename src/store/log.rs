//! The log at a start: made durable, and judged.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rusqlite::{Connection, wal::CheckpointMode};

use super::{
    api::Durability,
    mend::{self, RewriteError},
    opening::{LoadError, remove_if_there},
    wal::{Damage, Wal},
};

/// Beside a database whose log may have frames that were never synced (`durability = "process"`): a power cut leaves holes in it, and behind them commits
/// of a past that was given up, which are no proof of damage. It stays until that log is gone.
const UNSYNCED: &str = "tidegate.db.unsynced";

/// The log that a crash left may hold what the kernel only remembers; see [`mend`]. And it may be damaged where SQLite takes it for ended;
/// see [`wal`](super::wal). Without syncs there is nothing to keep, and nothing to be said of it.
pub(super) fn make_durable(path: &Path, durability: Durability) -> Result<(), LoadError> {
    let mark = path.with_file_name(UNSYNCED);
    if durability == Durability::Process {
        note_unsynced(&mark);
        return Ok(());
    }
    let unreadable = |error: io::Error| LoadError::Unreadable(format!("cannot read the log of it: {error}"));
    match mend::rewrite_log(path) {
        Ok(()) => {}
        Err(RewriteError::Write(error)) if error.kind() == ErrorKind::StorageFull => {
            tracing::warn!(%error, "the log could not be written anew: the disk is full");
        }
        Err(RewriteError::Read(error)) => return Err(unreadable(error)),
        Err(RewriteError::Write(error)) => {
            return Err(LoadError::Sqlite { step: "write the log anew of", cause: error.to_string() });
        }
    }
    match damage(path).map_err(unreadable)? {
        Some(damage) => Err(LoadError::Damaged(damage.to_string())),
        None => Ok(()),
    }
}

/// What is wrong in the middle of the log of a database, where that can be told.
pub(super) fn damage(path: &Path) -> io::Result<Option<Damage>> {
    if may_have_holes(path) {
        return Ok(None);
    }
    Ok(Wal::read(&mend::log_of(path), false)?.and_then(|log| log.damage()))
}

/// Whether frames of the log of a database may never have been synced: then what lies behind a bad one is no part of it.
pub(super) fn may_have_holes(path: &Path) -> bool {
    path.with_file_name(UNSYNCED).exists()
}

/// Notes that from now on frames are not synced. Without the note nothing is lost but certainty.
fn note_unsynced(mark: &Path) {
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(mark);
    if let Err(error) = made.and_then(|made| made.sync_all()).and_then(|()| mend::sync_folder_of(mark)) {
        tracing::warn!(path = %mark.display(), %error, "cannot leave a mark beside the database");
    }
}

/// From now on every commit is synced before the next frame: what was written otherwise goes into the database, and the mark goes.
pub(super) fn forget_unsynced(connection: &Connection, path: &Path, durability: Durability) {
    let mark = path.with_file_name(UNSYNCED);
    if durability == Durability::Process || !mark.exists() {
        return;
    }
    // Where somebody still reads the log the mark stays, and damage is looked for after a later start.
    if connection.wal_checkpoint_v2(Some("main"), CheckpointMode::TRUNCATE).is_err() {
        return;
    }
    // The log must be gone for good before the mark is.
    let gone = File::open(mend::log_of(path)).and_then(|log| log.sync_all()).and_then(|()| remove_if_there(&mark));
    if let Err(error) = gone {
        tracing::warn!(path = %mark.display(), %error, "cannot remove a mark beside the database");
    }
}
