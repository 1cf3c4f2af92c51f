//! The engine `postgres`: a PostgreSQL server as a whole, by base backup and write-ahead log.
//!
//! A capture reads the data directory of the running server while it is in backup mode, and the
//! log that makes what was read consistent. A standby is a restored copy that runs and replays the
//! log from the vault by itself, so that its promotion takes well under a second.

mod capture;
mod check;
mod cold;
mod collation;
mod conf;
mod connect;
mod detail;
mod facts;
mod files;
mod inspect;
mod layout;
mod live;
mod logical;
mod lsn;
mod over;
mod pg_control;
mod place;
mod preload;
mod prepare;
mod programs;
mod receive;
mod record;
mod rehearse;
mod rewind;
mod server;
mod wal;

pub use inspect::{cluster_of, segments_of, unarchived};
pub use live::Live;
pub use logical::Logical;
pub use lsn::{Lsn, Segments, WalFile};
pub use receive::{Log, Slot, Source, Waiting};
#[cfg(any(test, feature = "doubles"))]
pub use record::made;
pub use record::{Cut, Record, Records, What};
pub use server::{ancestors, asks_again, left_at};
pub use wal::{check_file as check_wal_file, cluster_in};

use crate::control::Control;
use crate::files::{chunk_size, plain_path};
use crate::{
    Abilities, CaptureSink, Captured, Context, Engine, Error, Inspection, LogEnd, Overwriting,
    Password, Promoted, Proof, Purpose, Refresh, Rehearsal, Rehearsed, Root, RootKind, Running,
    SnapshotMeta, Staged, Verdict,
};
use connect::{Address, missing};
use detail::Detail;
use model::config::Service;
use model::{Class, Classify, ServiceName};
use pg_control::PgControl;
use programs::Programs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// Where the data directory is in snapshots.
const DATA: &str = "/postgres/data";
/// In the data directory: what a server that we start says before it has a log of its own.
const STARTUP_LOG: &str = "mainstay_startup.log";
/// The previous one.
const STARTUP_LOG_OLD: &str = "mainstay_startup.log.old";
/// Files are cut at every multiple of this, unless the definition has a `chunk-size`. Pages are
/// written to all over a table, so that what is cut coarsely changes everywhere; what is cut finely
/// needs more memory for the index, 48 bytes for each chunk.
const CHUNK: u64 = 64 << 10;

/// A service of engine `postgres`.
#[derive(Debug)]
pub struct Postgres {
    name: ServiceName,
    address: Address,
    /// How the primary is reached, if this host's copy is a standby.
    upstream: Option<Address>,
    data_dir: PathBuf,
    bin_dir: Option<PathBuf>,
    chunk: Option<NonZeroU64>,
    /// The libraries that a server on a scratch copy preloads.
    preload: Vec<String>,
    control: Control,
    /// What the definition leaves to us.
    own_start: bool,
    own_stop: bool,
}

impl Postgres {
    /// Reads and judges the definition; the password is what its `url` leaves out.
    pub fn new(
        name: &ServiceName,
        definition: &Service,
        password: Option<Password>,
    ) -> Result<Self, Error> {
        let address = Address::of(name, definition, password)?;
        let data_dir = definition
            .data_dir
            .as_deref()
            .ok_or_else(|| missing(name, "data-dir", "/var/lib/postgresql/15/main"))?;
        let chunk = chunk_size(name, definition)?;
        let unit = definition.unit.is_some();
        Ok(Postgres {
            name: name.clone(),
            address,
            upstream: definition
                .stream_from
                .as_deref()
                .map(|url| Address::parse(name, url))
                .transpose()?,
            data_dir: plain_path(name, data_dir)?,
            bin_dir: definition.bin_dir.clone(),
            chunk: chunk.or(NonZeroU64::new(CHUNK)),
            preload: definition.drill_preload.clone(),
            control: Control::of(name, definition),
            own_start: definition.start.is_none() && !unit,
            own_stop: definition.stop.is_none() && !unit,
        })
    }

    fn programs(&self, data_dir: &Path) -> Result<Programs, Error> {
        Programs::find(&self.name, self.bin_dir.as_deref(), data_dir)
    }

    /// The server's log, as it is written.
    pub fn source(&self) -> Source<'_> {
        Source::new(self)
    }

    /// What a backup is called in the server's own files.
    fn label(&self) -> String {
        format!("mainstay backup of {}", self.name)
    }

    /// What to do about a `data-dir` and a `url` that do not fit.
    fn place_hint(&self, says: &str) -> String {
        let name = &self.name;
        match says {
            "" => format!("Correct `data-dir` or `url` of [service.{name}]."),
            says => format!(
                "Correct `data-dir` or `url` of [service.{name}]; the server says that its data \
                 directory is {says}."
            ),
        }
    }
}

impl Engine for Postgres {
    fn name(&self) -> &str {
        "postgres"
    }

    fn abilities(&self) -> Abilities {
        Abilities { live_capture: true, start_stop: true, promote: true, log: true, check: true }
    }

    fn refresh(&self) -> Refresh {
        Refresh::Follow
    }

    fn roots(&self) -> Vec<Root> {
        vec![Root {
            in_snapshot: DATA.to_owned(),
            on_host: self.data_dir.clone(),
            kind: RootKind::Tree,
        }]
    }

    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error> {
        inspect::inspect(self, cx)
    }

    fn reach(&self, cx: &Context<'_>) -> Result<(), Error> {
        // One that is stopped is captured as it lies there.
        if programs::data_version(&self.data_dir).is_err() || self.running(cx)? == Running::No {
            return Ok(());
        }
        self.address.connect().map(drop)
    }

    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error> {
        go_on(cx)?;
        // Without a data directory there is nothing to capture, whatever the server says.
        programs::data_version(&self.data_dir)?;
        match self.address.connect() {
            Ok(session) => capture::live(self, cx, session, sink),
            Err(error) if error.class() == Class::Unavailable => {
                cold::capture(self, cx, error, sink)
            }
            Err(error) => Err(error),
        }
    }

    fn tells_others_apart(&self) -> bool {
        true
    }

    fn another(&self, _cx: &Context<'_>, head: &SnapshotMeta) -> Result<Option<String>, Error> {
        // Whoever captures it says what is wrong with a directory that has none.
        let Ok(control) = PgControl::read(&self.data_dir) else { return Ok(None) };
        let Ok(detail) = Detail::of(head) else { return Ok(None) };
        let (here, there) = (control.system.to_string(), detail.system_identifier);
        let what = || {
            format!(
                "{} holds the database cluster {here}, and not {there}",
                self.data_dir.display()
            )
        };
        Ok((here != there).then(what))
    }

    fn prepare(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        staged: &[Staged],
        purpose: &Purpose,
    ) -> Result<(), Error> {
        prepare::prepare(self, cx, meta, data_of(staged)?, purpose)
    }

    fn aim(&self, staged: &[Staged], end: &LogEnd) -> Result<(), Error> {
        prepare::aim(&data_of(staged)?.staged, end)
    }

    fn rewind(&self, cx: &Context<'_>, meta: &SnapshotMeta) -> Result<bool, Error> {
        rewind::rewind(self, cx, meta)
    }

    fn may_adopt(&self, cx: &Context<'_>, meta: &SnapshotMeta, copy: &Staged) -> Result<(), Error> {
        self.may_overwrite(cx, meta, copy)
    }

    fn may_overwrite(
        &self,
        _cx: &Context<'_>,
        meta: &SnapshotMeta,
        copy: &Staged,
    ) -> Result<(), Error> {
        over::judge(meta, &copy.target, &self.data_dir)
    }

    fn begin_overwriting(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        copy: &Staged,
    ) -> Result<Overwriting, Error> {
        over::begin(cx, meta, &copy.target, &self.data_dir)
    }

    fn end_overwriting(&self, _cx: &Context<'_>, copy: &Staged) -> Result<(), Error> {
        over::end(&copy.target)
    }

    fn ready_to_replace(
        &self,
        _cx: &Context<'_>,
        _root: &Root,
        target: &Path,
    ) -> Result<(), Error> {
        match server::postmaster(target)? {
            None => Ok(()),
            Some(postmaster) => Err(Error::new(
                Class::Refused,
                format!("a server (process {}) works on {}", postmaster.pid, target.display()),
            )
            .hinting(format!("Stop it first: `mainstay offline {}`.", self.name))),
        }
    }

    fn activate(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        _purpose: &Purpose,
    ) -> Result<(), Error> {
        // Starting is enough.
        Ok(())
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn running(&self, cx: &Context<'_>) -> Result<Running, Error> {
        server::running(self, cx)
    }

    fn equipped(&self) -> Result<(), Error> {
        if !self.own_start && !self.own_stop {
            return Ok(());
        }
        Programs::require(&self.name, self.bin_dir.as_deref(), &self.data_dir)
    }

    fn start(&self, cx: &Context<'_>) -> Result<(), Error> {
        server::start(self, cx)
    }

    fn stop(&self, cx: &Context<'_>) -> Result<(), Error> {
        server::stop(self, cx)
    }

    fn promote(&self, cx: &Context<'_>) -> Result<Promoted, Error> {
        server::promote(self, cx)
    }

    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
        check::check(self, cx, data_of(copy)?)
    }

    fn proof(&self) -> Proof {
        Proof::Server
    }

    fn rehearse(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Rehearsed, Error> {
        rehearse::rehearse(self, cx, rehearsal)
    }
}

/// The data directory among the roots.
fn data_of(staged: &[Staged]) -> Result<&Staged, Error> {
    staged.iter().find(|staged| staged.root.in_snapshot == DATA).ok_or_else(|| {
        Error::new(Class::Corrupt, format!("the snapshot has no data directory at {DATA}"))
    })
}

/// Ends what is going on if somebody asked for it.
fn go_on(cx: &Context<'_>) -> Result<(), Error> {
    if cx.cancel.is_cancelled() {
        return Err(Error::new(Class::Cancelled, "cancelled"));
    }
    Ok(())
}
