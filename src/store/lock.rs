//! The lock on the data directory: one gateway at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::handle::OpenError;

/// Held while the store is open. The file stays; only the lock on it counts, and the kernel gives that up with the process.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
                let pid = text.trim();
                return Err(OpenError::Locked {
                    path: path.to_owned(),
                    pid: (!pid.is_empty()).then(|| pid.to_owned()),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        // The process id is a courtesy: a full disk must not keep the gateway from starting.
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::debug!(%error, "the lock file does not name this process");
        }
        Ok(Self { _file: file })
    }
}
