//! What a failed SQLite call means for the store: wait for space, wait for the disk, salvage, or stop.

use rusqlite::ErrorCode;

/// Why a transaction or a read did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No space: rolled back, nothing lost, worth trying again.
    #[error("the disk is full ({0})")]
    Full(String),
    /// The database is damaged: it is to be salvaged.
    #[error("the database is damaged ({0})")]
    Damaged(String),
    /// The disk does not do what it should: it is tried again, see `writer::suspension`.
    #[error("{0}")]
    Trouble(String),
    /// A place could not be read. That may pass (a cable, a reset of the bus); where it does not, it is damage.
    #[error("{0}")]
    Unreadable(String),
    /// Nothing that waiting makes better: the process must end.
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
            // A worn-out flash block stays so: only salvage, which reads around it, gets past it. But first it is tried again.
            Some(ErrorCode::SystemIoFailure)
                if error.sqlite_error().is_some_and(|e| is_unreadable(e.extended_code)) =>
            {
                Self::Unreadable(text)
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(text),
            _ if wrong_value || senseless => Self::Damaged(text),
            Some(ErrorCode::ApiMisuse) => Self::Fatal(text),
            _ => Self::Trouble(text),
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
    // What unixRead of SQLite makes of EIO is SQLITE_IOERR_CORRUPTFS.
    [SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_CORRUPTFS].contains(&extended_code)
}

/// What a failed COMMIT leaves open: whether the transaction is in the log. It is not where one of its pages could not be
/// written, for the last page is what makes it one; but where only the sync failed, it may be there at the next opening.
pub(super) fn leaves_doubt(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_WRITE};
    error.sqlite_error().is_none_or(|error| ![SQLITE_IOERR_WRITE, SQLITE_FULL].contains(&error.extended_code))
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn each_error_goes_its_own_road() {
        let failure = |code| Failure::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert!(matches!(failure(code), Failure::Damaged(_)), "{code}");
        }
        for code in [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS] {
            assert!(matches!(failure(code), Failure::Unreadable(_)), "{code}");
        }
        for code in [
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_CANTOPEN,
        ] {
            assert!(matches!(failure(code), Failure::Trouble(_)), "{code}");
        }
        assert!(matches!(failure(ffi::SQLITE_MISUSE), Failure::Fatal(_)));
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_SHMSIZE] {
            assert!(matches!(failure(code), Failure::Full(_)), "{code}");
        }
    }
}
