//! A look at a data directory from outside, by somebody who must change nothing: no SQLite, no lock taken, nothing made.
//!
//! A read-only connection would make `-shm` beside the database, as the user who looks, and the gateway's own could not open it afterwards. So the
//! version is read from the file's header: a migration writes it into the file itself. Whether the lock is held is read from `/proc/locks`, for taking it even for
//! a moment could keep a gateway from starting.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    backup::BACKUP_ID,
    opening::{DATABASE, LOCK},
    recovery::{self, QUARANTINE},
    schema, trial,
};

/// Bytes of the header of a database file (SQLite file format, section 1.3).
const HEADER_BYTES: usize = 100;
/// Where `user_version` is in it, four bytes, big-endian.
const VERSION_AT: usize = 60;
/// Where `application_id` is in it, likewise.
const APPLICATION_AT: usize = 68;

/// What lies in a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The database; `None` where there is none.
    pub database: Option<DatabaseFile>,
    /// Bytes of the log beside it.
    pub log_bytes: u64,
    /// Who holds the lock.
    pub lock: Held,
    /// The databases that were set aside: how many, and their bytes.
    pub quarantined: (usize, u64),
    /// Files that say that a database is being salvaged, or will be at the next start.
    pub salvage: Vec<PathBuf>,
    /// What killed disk trials have left.
    pub trials: Vec<PathBuf>,
}

/// The database file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// What its header says.
    pub header: Header,
}

/// What the header of a database says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// Ours, of this version.
    Version(i64),
    /// Empty: it was just made.
    Empty,
    /// A database of another program.
    Foreign,
    /// No database, or one whose header is damaged.
    Garbage,
    /// It could not be read.
    Unreadable(String),
}

/// Who holds the lock on a data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Held {
    /// Nobody.
    #[default]
    Free,
    /// This process.
    By(u32),
    /// It cannot be seen.
    Unknown(String),
}

/// The version of the database that this program makes.
pub const DATABASE_VERSION: i64 = schema::VERSION;

/// The version of SQLite that is built in.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// Looks at a data directory. The error is that it cannot be looked into at all.
pub fn inspect(data_dir: &Path) -> io::Result<Inspection> {
    fs::read_dir(data_dir)?;
    let path = data_dir.join(DATABASE);
    let database = match fs::metadata(&path) {
        Ok(metadata) => Some(DatabaseFile { bytes: metadata.len(), header: header(&path), path }),
        Err(_) => None,
    };
    let log_bytes = fs::metadata(data_dir.join("tidegate.db-wal")).map_or(0, |metadata| metadata.len());
    let salvage = recovery::MARKS.iter().map(|name| data_dir.join(name)).filter(|path| path.exists()).collect();
    Ok(Inspection {
        database,
        log_bytes,
        lock: held(&data_dir.join(LOCK)),
        quarantined: recovery::set_aside(&data_dir.join(QUARANTINE)),
        salvage,
        trials: trial::leftovers(data_dir),
    })
}

fn header(path: &Path) -> Header {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let read = File::open(path).and_then(|file| file.take(HEADER_BYTES as u64).read_to_end(&mut bytes));
    match read {
        Err(error) => Header::Unreadable(error.to_string()),
        Ok(0) => Header::Empty,
        Ok(_) => read_header(&bytes),
    }
}

fn read_header(bytes: &[u8]) -> Header {
    let number = |at: usize| {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(i64::from(i32::from_be_bytes(bytes)))
    };
    match (bytes.starts_with(b"SQLite format 3\0"), number(VERSION_AT), number(APPLICATION_AT)) {
        (true, Some(version), Some(schema::APPLICATION_ID | BACKUP_ID)) => Header::Version(version),
        // The first page is written with the first migration: until then it is in the log.
        (true, Some(0), Some(0)) => Header::Empty,
        (true, Some(_), Some(_)) => Header::Foreign,
        (true | false, ..) => Header::Garbage,
    }
}

/// Who holds the lock on this file.
fn held(lock: &Path) -> Held {
    let metadata = match fs::metadata(lock) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Held::Free,
        Err(error) => return Held::Unknown(error.to_string()),
    };
    match fs::read_to_string("/proc/locks") {
        Ok(locks) => holder(&locks, metadata.ino(), fs::read_to_string(lock).ok().as_deref()),
        Err(error) => Held::Unknown(format!("/proc/locks: {error}")),
    }
}

/// `locks` is `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 4242 fd:01:1835034 0 EOF`. Devices are not compared, for on some file systems they are
/// others there than elsewhere; an inode of the same number elsewhere is told by the process id in the file.
fn holder(locks: &str, inode: u64, file: Option<&str>) -> Held {
    let inode = inode.to_string();
    let written: Option<u32> = file.and_then(|text| text.lines().next()?.trim().parse().ok());
    let pids = locks.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, place, ..] = words[..] else { return None };
        (place.rsplit(':').next() == Some(&*inode)).then(|| pid.parse::<u32>().ok()).flatten()
    });
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_by_key(|pid| Some(*pid) != written);
    pids.first().map_or(Held::Free, |pid| Held::By(*pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::lock::DirectoryLock;

    #[test]
    fn a_lock_is_seen_without_taking_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(inspect(folder.path()).unwrap(), Inspection::default());
        let lock = DirectoryLock::take(&folder.path().join(LOCK)).unwrap();
        assert_eq!(inspect(folder.path()).unwrap().lock, Held::By(std::process::id()));
        drop(lock);
        assert_eq!(inspect(folder.path()).unwrap().lock, Held::Free);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is made");
    }

    #[test]
    fn the_process_that_wrote_its_name_is_the_one_that_holds_it() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fd:01:99 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 fd:02:99 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 9 fd:01:99 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 10 fd:01:99 0 EOF\n";
        assert_eq!(holder(locks, 99, Some("9\ndatabase\n")), Held::By(9));
        assert_eq!(holder(locks, 99, None), Held::By(8));
        assert_eq!(holder(locks, 98, Some("9\n")), Held::Free);
        assert_eq!(holder("garbage\n\n: : :", 99, Some("x")), Held::Free);
    }

    #[test]
    fn headers_of_all_kinds_are_told_apart() {
        let mut header = b"SQLite format 3\0".to_vec();
        header.resize(HEADER_BYTES, 0);
        assert_eq!(read_header(&header), Header::Empty);
        header[VERSION_AT + 3] = 9;
        assert_eq!(read_header(&header), Header::Foreign);
        header[APPLICATION_AT..APPLICATION_AT + 4].copy_from_slice(b"TGDB");
        assert_eq!(read_header(&header), Header::Version(9));
        for garbage in [&header[..40], b"\0", b"SQLite format 3\0", &[0xff; 100]] {
            assert_eq!(read_header(garbage), Header::Garbage);
        }
    }
}
