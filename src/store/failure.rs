//! What a failed SQLite call means for the store: wait for space, salvage, or stop.

use rusqlite::ErrorCode;

/// Why a transaction or a read did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No space: rolled back, nothing lost, worth trying again.
    #[error("the disk is full ({0})")]
    Full(String),
    /// The database is damaged: the next start salvages it.
    #[error("the database is damaged ({0})")]
    Damaged(String),
    /// Anything else: the disk is not to be trusted, the process must end.
    #[error("{0}")]
    Fatal(String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        // A value of an unexpected type in a row can only come from damage.
        let wrong_value = matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..)
        );
        // Our statements are right, and nobody stores more than SQLite can: a table or column that is missing, a number that
        // is there already, a length beyond all bounds come from damage too.
        let senseless = matches!(error, rusqlite::Error::SqlInputError { .. })
            || matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::Unknown | ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch)
            );
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(text),
            Some(ErrorCode::SystemIoFailure)
                if error.sqlite_error().is_some_and(|e| is_shared_memory(e.extended_code)) =>
            {
                Self::Full(text)
            }
            // A place that cannot be read (a worn-out flash block) stays so: only salvage, which reads around it, gets past it.
            Some(ErrorCode::SystemIoFailure)
                if error.sqlite_error().is_some_and(|e| is_unreadable(e.extended_code)) =>
            {
                Self::Damaged(text)
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(text),
            _ if wrong_value || senseless => Self::Damaged(text),
            _ => Self::Fatal(text),
        }
    }
}

/// The index of the log (`-shm`) could not grow. It holds no data, and lack of space is what keeps it from growing;
/// SQLite has no `SQLITE_FULL` for it.
fn is_shared_memory(extended_code: i32) -> bool {
    extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
}

/// The device could not read, or gave less than there should be.
fn is_unreadable(extended_code: i32) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ};
    [SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_CORRUPTFS].contains(&extended_code)
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_salvaged_and_what_cannot_be_written_ends_the_process() {
        let failure = |code| Failure::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for code in [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(failure(code), Failure::Damaged(_)), "{code}");
        }
        for code in [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_READONLY, ffi::SQLITE_BUSY] {
            assert!(matches!(failure(code), Failure::Fatal(_)), "{code}");
        }
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            assert!(matches!(failure(code), Failure::Full(_)), "{code}");
        }
    }
}
