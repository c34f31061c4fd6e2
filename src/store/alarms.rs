//! What has been found of damage, and what is kept about it: salvages, what they lost, what lies in the quarantine, how the last run
//! ended, how far the check of all that is stored has come.
//!
//! The table `salvage` has a row for each salvage ever, and goes along into the new database: counters that began anew with every start
//! would hide from whoever looks once a day that something was lost. The table `stop` says whether the last run ended in order:
//! it is cleared by the first transaction of a run and set by the last, so that a run which wrote nothing changes nothing.

use std::{fs, path::Path};

use rusqlite::{Connection, OptionalExtension, params};

use super::{clock::Now, failure::Failure, salvage::Summary};

/// Version 3 of the database, the part of this room: see the module.
pub(super) const MIGRATION_3: &str = "
    CREATE TABLE stop(clean INTEGER NOT NULL);
    INSERT INTO stop VALUES(0);
    CREATE TABLE salvage(
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, cause TEXT NOT NULL, kept INTEGER NOT NULL, lost INTEGER NOT NULL);
";

/// What is to be seen of it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Alarms {
    /// Salvages, ever.
    pub(super) salvages: u64,
    /// Messages that they did not find, ever.
    pub(super) lost: u64,
    /// Bytes that lie in the quarantine.
    pub(super) quarantine_bytes: u64,
    /// How much of what is stored has been checked, 0 to 1; `None`: no check was needed.
    pub(super) checked: Option<f64>,
}

/// Reads what is kept of it in the database, and looks into the quarantine.
pub(super) fn load(connection: &Connection, quarantine: &Path) -> Result<Alarms, Failure> {
    let sums = connection.query_row("SELECT count(*), coalesce(sum(lost), 0) FROM salvage", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    })?;
    let quarantine_bytes = bytes_in(quarantine);
    Ok(Alarms { salvages: sums.0.unsigned_abs(), lost: sums.1.unsigned_abs(), quarantine_bytes, checked: None })
}

/// Whether the last run ended in order.
pub(super) fn ended_in_order(connection: &Connection) -> Result<bool, Failure> {
    let clean: Option<i64> = connection.query_row("SELECT clean FROM stop", [], |row| row.get(0)).optional()?;
    Ok(clean == Some(1))
}

/// Says whether this run ended in order, if it ends here.
pub(super) fn mark(connection: &Connection, clean: bool) -> Result<(), Failure> {
    Ok(connection.execute("UPDATE stop SET clean = ?1", [clean]).map(|_| ())?)
}

/// Enters a salvage into the new database, whose contents need no check.
pub(super) fn note_salvage(new: &Connection, cause: &str, summary: &Summary) -> Result<(), Failure> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    new.execute(
        "INSERT INTO salvage(at, cause, kept, lost) VALUES(?1, ?2, ?3, ?4)",
        params![Now::read().unix_ms, cause, number(summary.kept), number(summary.lost)],
    )?;
    mark(new, true)
}

/// Bytes of the files below a folder; what cannot be looked at counts nothing.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
