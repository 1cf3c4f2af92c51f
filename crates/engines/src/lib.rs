//! How each kind of service is captured and revived. One folder per engine, one contract for all.
//!
//! Engines know nothing of repositories: they hand what they capture to a [`CaptureSink`] and are
//! handed back what was restored as files. `operations` pipes one into the other.

pub mod command;
pub mod contract;
pub mod control;
mod error;
pub mod external;
pub mod files;
mod password;
pub mod postgres;
pub mod rehearsal;
pub mod script;
pub mod sqlite;

pub use contract::{
    Abilities, CaptureSink, Captured, Context, Doubt, Engine, FileMeta, Inspection, LogEnd,
    LogPlace, LogTarget, Overwriting, Part, Promoted, Purpose, Refresh, Root, RootKind, Running,
    SnapshotMeta, Staged, TreeOptions, Verdict, Withheld,
};
pub use control::{AtBoot, Waits};
pub use error::Error;
pub use password::Password;
pub use rehearsal::{Enclosed, Isolation, Proof, Question, Rehearsal, Rehearsed};

use model::config::Service;

/// The engine of a service, as its configuration describes it. Nothing of the service is looked at
/// yet; an engine that is a program of its own is asked what it can do.
pub fn open(name: &model::ServiceName, service: &Service) -> Result<Box<dyn Engine>, Error> {
    open_with(name, service, None)
}

/// The same for a service whose `url` leaves its password out, which is not asked for yet.
pub fn open_with(
    name: &model::ServiceName,
    service: &Service,
    password: Option<Password>,
) -> Result<Box<dyn Engine>, Error> {
    match service.engine.as_str() {
        "files" => Ok(Box::new(files::Files::new(name, service)?)),
        "postgres" if service.is_logical() => {
            Ok(Box::new(postgres::Logical::new(name, service, password)?))
        }
        "postgres" => Ok(Box::new(postgres::Postgres::new(name, service, password)?)),
        "script" => Ok(Box::new(script::Script::new(name, service)?)),
        "sqlite" => Ok(Box::new(sqlite::Sqlite::new(name, service)?)),
        other => match external::External::find(name, service)? {
            Some(external) => Ok(Box::new(external)),
            None => Err(Error::invalid(format!("service {name}: there is no engine {other:?}"))
                .hinting(format!(
                    "Use `files`, `sqlite`, `postgres` or `script`, or install \
                     `mainstay-engine-{other}` on PATH."
                ))),
        },
    }
}
