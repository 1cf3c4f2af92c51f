//! SQLite's errors in our words.

use crate::Error;
use model::Class;
use rusqlite::ErrorCode;
use std::path::Path;

/// An error for what SQLite refused to do with the database at `path`.
pub(super) fn failure(what: &str, path: &Path, error: rusqlite::Error) -> Error {
    let shown = path.display();
    let plain = |class| Error::new(class, format!("cannot {what} {shown}"));
    let error_for = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::new(
            Class::Invalid,
            format!("cannot {what} {shown}: it is not a SQLite database, or it is encrypted"),
        )
        .hinting(
            "Correct `path`. For an encrypted database use engine `script` with the application's \
             own export.",
        ),
        Some(ErrorCode::DatabaseCorrupt) => plain(Class::Corrupt)
            .hinting("Run `PRAGMA integrity_check` on it, and restore an earlier point."),
        Some(ErrorCode::DiskFull) => plain(Class::NoSpace),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => plain(Class::Unavailable)
            .hinting(
                "Find the process that keeps it locked; an application in \
                 `locking_mode = EXCLUSIVE` must be stopped for a backup (`quiesce = \"stop\"`).",
            ),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            plain(Class::Failed).hinting(
                "Run as a user who may read the database and write to its directory, as every \
                 reader of a database with a journal must.",
            )
        }
        _ => plain(Class::Failed),
    };
    error_for.because(error)
}

/// Whether trying again may help.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
