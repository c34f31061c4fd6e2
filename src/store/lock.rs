//! The lock on the data directory: one gateway at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::handle::OpenError;

/// Second line of the file once the folder has a database, which was synced before: where that is gone later, something has happened to it.
const HAS_DATABASE: &str = "database";

/// Held while the store is open. The file stays; only the lock on it counts, and the kernel gives that up with the process.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
    had_database: bool,
}

impl DirectoryLock {
    /// Takes the lock without waiting and writes our process id into the file, for whoever comes second.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let failed = |step| move |source| OpenError::Directory { step, path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed("open the lock file"))?;
        let locked = file.try_lock();
        let mut text = String::new();
        // Garbage in it is nobody's process id, and no database.
        let _ = Read::by_ref(&mut file).take(64).read_to_string(&mut text);
        let mut lines = text.lines().map(str::trim);
        let pid = lines.next().unwrap_or_default();
        let had_database = lines.next() == Some(HAS_DATABASE);
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked { path: path.to_owned(), pid: holder(pid) });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let lock = Self { file, had_database };
        lock.write(had_database);
        Ok(lock)
    }

    /// Takes the lock beside others who only read, so that no gateway starts meanwhile; changes nothing. `Ok(None)`: there is no lock file,
    /// so no gateway runs here.
    pub(super) fn share(path: &Path) -> Result<Option<File>, OpenError> {
        let failed = |step| move |source| OpenError::Directory { step, path: path.to_owned(), source };
        let mut file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open the lock file"))?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = Read::by_ref(&mut file).take(64).read_to_string(&mut text);
                let pid = holder(text.lines().next().unwrap_or_default().trim());
                Err(OpenError::Locked { path: path.to_owned(), pid })
            }
            Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
        }
    }

    /// Whether an earlier start has left a database in the folder.
    pub(super) fn had_database(&self) -> bool {
        self.had_database
    }

    /// There is a database in the folder now, and it is synced.
    pub(super) fn has_database(&self) {
        if !self.had_database {
            self.write(true);
        }
    }

    /// A courtesy, the whole of it: a full disk must not keep the gateway from starting.
    fn write(&self, has_database: bool) {
        let second = if has_database { HAS_DATABASE } else { "" };
        let text = format!("{}\n{second}\n", std::process::id());
        let mut file = &self.file;
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        if let Err(error) = written {
            tracing::debug!(%error, "the lock file does not name this process");
        }
    }
}

/// The process that the file names, if there is one: who only reads does not write its name into it, and the last gateway's may still be there.
fn holder(pid: &str) -> Option<String> {
    let is_there =
        !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) && Path::new("/proc").join(pid).exists();
    is_there.then(|| pid.to_owned())
}
