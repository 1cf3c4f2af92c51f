//! What an engine is: the trait that every kind of service implements, and the types it speaks.
//!
//! The division of work with `operations`: the operation owns *atomicity* (staging, exchange of
//! directories, journal, start gate), the engine owns *meaning* (what to read, how to make restored
//! files a working service, how to start, stop, promote and judge it).

use crate::control::Control;
use crate::{Enclosed, Error, Proof, Rehearsal, Rehearsed};
use jiff::Timestamp;
use model::config::Service;
use model::{CancelToken, Class, Generation, MemberName, Position, Progress, ServiceName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// What every call to an engine is given.
pub struct Context<'a> {
    /// Checked wherever the engine waits or copies.
    pub cancel: &'a CancelToken,
    /// Where it reports.
    pub progress: &'a dyn Progress,
    /// A directory of this operation, empty at first, removed afterwards.
    pub scratch: &'a Path,
    /// How the engine's server calls us back to fetch its log: the words of
    /// `mainstay --config FILE`, without a command.
    pub callback: &'a [String],
    /// What every command, exporter and importer that is run for this operation finds in its
    /// environment, besides what the engine itself tells it: `MAINSTAY_MEMBER`,
    /// `MAINSTAY_OPERATION`, `MAINSTAY_GENERATION`.
    pub variables: &'a [(String, String)],
    /// Where programs are tried out that this is asked for in a drill, if it is.
    pub enclosed: Option<Enclosed<'a>>,
}

/// What an engine can do. What it has not is refused with its name, never ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Abilities {
    /// Captures a running service without stopping it.
    pub live_capture: bool,
    /// Can start and stop the service.
    pub start_stop: bool,
    /// A standby of it runs, and is promoted.
    pub promote: bool,
    /// Keeps a continuous log, so that points between snapshots can be reached.
    pub log: bool,
    /// Has a checker of its own.
    pub check: bool,
}

/// How a standby of this engine is brought from one point to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// The new copy is built beside the old one and exchanged with it in one step.
    Exchange,
    /// The copy is filled, then the engine loads it ([`Engine::activate`]).
    Import,
    /// The copy runs and replays the log by itself; a snapshot is only needed to seed it.
    Follow,
}

/// One tree or file that is the service's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Root {
    /// Where it is inside snapshots: an absolute slash path, `/srv/docs` or `/postgres/data`.
    pub in_snapshot: String,
    /// Where it is on this host.
    pub on_host: PathBuf,
    /// Tree or single file.
    pub kind: RootKind,
}

/// What a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootKind {
    /// A directory and everything below.
    Tree,
    /// One regular file.
    File,
}

/// How a tree is read.
#[derive(Clone, Debug, Default)]
pub struct TreeOptions {
    /// Patterns of what is left out, in gitignore's style of matching: a pattern without a slash
    /// matches a name anywhere, one with a slash is anchored at the root of the tree or, where it
    /// begins with a slash, is a path on the host.
    pub exclude: Vec<String>,
    /// Leave out the content of directories with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out regular files larger than this.
    pub exclude_larger_than: Option<u64>,
    /// Do not cross into other file systems.
    pub one_file_system: bool,
    /// Files that change or vanish while they are read are what the engine expects (it has a log
    /// that repairs them). Without this, each is named and makes the point incomplete.
    pub changes_expected: bool,
    /// Empty directories are written for these names at the top of the tree, whatever they hold
    /// (`pg_wal`, `pg_replslot`).
    pub emptied: Vec<String>,
    /// Never reuse a file of the previous point on the word of its size and times: read it.
    pub distrust_times: bool,
    /// Cut files that are longer than this at every multiple of it, instead of where their content
    /// says: what is not written to stays in its place (disk images, database files).
    pub chunk_bytes: Option<NonZeroU64>,
}

/// Attributes of a file that is not on disk but streamed.
#[derive(Clone, Copy, Debug)]
pub struct FileMeta {
    /// Permission bits, `0o600`.
    pub mode: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Receives what an engine captures. A call that returns an error has failed the capture: the
/// engine passes it on, and no point comes of it.
pub trait CaptureSink {
    /// Adds the tree (or single file) at `source` to the snapshot as `at`.
    fn tree(&mut self, at: &str, source: &Path, options: &TreeOptions) -> Result<(), Error>;

    /// Adds one streamed file as `at`. A reader that fails fails the capture.
    fn file(&mut self, at: &str, meta: &FileMeta, content: &mut dyn Read) -> Result<(), Error>;
}

/// What a capture tells about the point it captured.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Consistency time on the source. Only data from before it is surely in.
    pub source_time: Timestamp,
    /// Position in the engine's log.
    pub position: Option<Position>,
    /// Version of the engine's server or library.
    pub engine_version: Option<String>,
    /// What the engine wants to find again at restore.
    pub detail: serde_json::Value,
}

/// What is written into every snapshot as `/.mainstay/snapshot.json`, so that a restore needs
/// nothing but the snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotMeta {
    /// Format number, 1.
    pub format: u32,
    /// The service.
    pub service: ServiceName,
    /// Its definition, without secrets.
    pub definition: Service,
    /// Generation at capture.
    pub generation: Generation,
    /// The member that captured.
    pub member: MemberName,
    /// Consistency time.
    pub source_time: Timestamp,
    /// Log position.
    #[serde(default)]
    pub position: Option<Position>,
    /// Version of the engine's server.
    #[serde(default)]
    pub engine_version: Option<String>,
    /// Where the data is in the snapshot and was on the host.
    pub roots: Vec<Root>,
    /// The engine's own notes.
    #[serde(default)]
    pub detail: serde_json::Value,
}

/// A root whose content was restored, but is not in place yet.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The root as the snapshot describes it.
    pub root: Root,
    /// Where its content is now.
    pub staged: PathBuf,
    /// Where it will be.
    pub target: PathBuf,
}

/// What is special about a copy that is restored over where it stands, while that lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overwriting {
    /// Names at its top that are neither written nor removed.
    pub kept: Vec<String>,
    /// A file that gets its own name from [`Engine::end_overwriting`].
    pub withheld: Option<Withheld>,
}

/// A file that is written under another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// Its directory below the root, as a slash path.
    pub dir: String,
    /// Its name.
    pub name: String,
    /// The name that it has meanwhile, in the same directory.
    pub meanwhile: String,
}

/// What a restored copy is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "kebab-case")]
pub enum Purpose {
    /// To serve, at this point or (with a log) at `until` in source time.
    Primary {
        /// Stop replay here; the end of the log without it.
        until: Option<Timestamp>,
    },
    /// To follow the primary and be ready.
    Standby,
    /// To be looked at in an isolated place: nothing of it may reach production.
    Scratch {
        /// As for `Primary`.
        until: Option<Timestamp>,
    },
}

/// A place in an engine's log at which the replay of a restored copy ends, other than a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogTarget {
    /// Which.
    pub place: LogPlace,
    /// What happened at that very place is left out.
    pub exclusive: bool,
}

/// How the replay of a restored copy ends, if not at the end of the newest log, or at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogEnd {
    /// At this place; at the end of the log without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LogTarget>,
    /// Along this timeline; the newest without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
}

/// What a [`LogTarget`] names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogPlace {
    /// A mark that somebody left in the log.
    Name(String),
    /// A position.
    Lsn(u64),
    /// The end of a transaction.
    Xid(u32),
}

/// A part of a service that is restored by itself into the service's own server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Part {
    /// A database.
    pub database: String,
    /// Only these tables of it, as `SCHEMA.TABLE`; all of it if there are none.
    pub tables: Vec<String>,
    /// The database that it goes to, if not the one of the same name.
    pub as_name: Option<String>,
    /// A database that is there is put aside.
    pub replace: bool,
}

/// Whether the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Running {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// There is no way to tell (no unit, no status command).
    Unknown,
}

/// What an engine sees of the service on this host.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// Whether it runs.
    pub running: Running,
    /// Whether there is data at all.
    pub has_data: bool,
    /// Version of the server.
    pub version: Option<String>,
    /// Bytes of its data, where that is cheap to know.
    pub size_bytes: Option<u64>,
    /// Where it is in its log.
    pub position: Option<Position>,
    /// Source time of the newest transaction it has replayed (a following standby).
    pub replayed: Option<Timestamp>,
    /// It follows a primary and refuses writes.
    pub following: bool,
    /// The part of its log that it tried last to hand over by itself, and could not.
    pub unarchived: Option<String>,
    /// What makes it doubtful that the copy can be relied upon here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
    /// One sentence for people.
    pub summary: String,
}

/// Something that may be wrong, and nobody can tell by looking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Doubt {
    /// What was found.
    pub found: String,
    /// What to do about it: a sentence.
    pub advice: String,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.found, self.advice)
    }
}

/// What a promotion did.
#[derive(Clone, Debug, Serialize)]
pub struct Promoted {
    /// Where the new primary's own history begins.
    pub position: Option<Position>,
}

/// An engine's judgement of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// No error was found.
    pub sound: bool,
    /// What was checked, by what, and what it said.
    pub findings: Vec<String>,
}

/// A kind of service.
pub trait Engine: Send + Sync {
    /// Its name in configurations.
    fn name(&self) -> &str;

    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// How its standbys are refreshed.
    fn refresh(&self) -> Refresh;

    /// Where the service's data is.
    fn roots(&self) -> Vec<Root>;

    /// Looks at the service without changing it.
    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error>;

    /// Connects to the service as a capture would, and says why that does not work. [`Engine::inspect`]
    /// tells what it can without. What does not run, and need not, is no failure.
    fn reach(&self, _cx: &Context<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// Hands the service at one consistent point to the sink. Whatever it had to change in the
    /// service (backup mode, a slot) is undone before it returns, and by the server itself if the
    /// process dies.
    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error>;

    /// Makes restored files into what `purpose` needs, while they are still staged.
    fn prepare(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        staged: &[Staged],
        purpose: &Purpose,
    ) -> Result<(), Error>;

    /// Whether [`prepare`](Engine::prepare) for a standby leaves every restored file as it is. Only
    /// then may staged files share their bytes with those of the copy that they replace (hard links),
    /// which takes neither time nor space.
    fn keeps_staged(&self) -> bool {
        false
    }

    /// Whether [`another`](Engine::another) can tell anything. Where not, nobody reads what it would ask
    /// for.
    fn tells_others_apart(&self) -> bool {
        false
    }

    /// Why what is here now is not what a point holds, at another time, but something else in its place;
    /// nothing if it is, or if nobody can tell. Whoever asks adds which point.
    fn another(&self, _cx: &Context<'_>, _head: &SnapshotMeta) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// What a restore or refresh for this purpose would replace outside of the roots (databases of a
    /// server that is not ours), in one sentence; nothing if it would replace nothing, or only what
    /// an earlier refresh put there and nobody could have written to since. Asked before anything
    /// is done. The operation refuses then, unless it was told to replace.
    fn occupied(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        _purpose: &Purpose,
    ) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// Takes back what [`Engine::prepare`] and [`Engine::restore_part`] made outside of what is
    /// staged, of a run that failed, was cancelled or died before anything was put in place.
    fn abandon(&self, _cx: &Context<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// The files and trees of a snapshot that this part is restored from, as paths in the snapshot.
    fn part_needs(&self, _meta: &SnapshotMeta, _part: &Part) -> Result<Vec<String>, Error> {
        Err(no_parts(self.name()))
    }

    /// Restores a part from what [`Engine::part_needs`] named, which lies below `fetched` at the
    /// same paths; all of it or nothing. What was done, in sentences.
    fn restore_part(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        _fetched: &Path,
        _part: &Part,
    ) -> Result<Vec<String>, Error> {
        Err(no_parts(self.name()))
    }

    /// Lets the replay of a prepared copy that is still staged end so.
    fn aim(&self, _staged: &[Staged], _end: &LogEnd) -> Result<(), Error> {
        let name = self.name();
        Err(Error::new(Class::Refused, format!("engine {name} has no such places in a log")))
    }

    /// Makes the copy of a former primary on this host, which is stopped, a standby of the primary
    /// that took over, by taking back what it has beyond it; says whether it did. Where it did not,
    /// the copy is of no use any more, and has to be built anew.
    fn rewind(&self, _cx: &Context<'_>, _meta: &SnapshotMeta) -> Result<bool, Error> {
        Ok(false)
    }

    /// Refuses to let what stands in the service's own place, and nobody knows, become the seed of a
    /// copy of this snapshot, if that can be told to be of another service, or is in use. Where the
    /// bytes alone can tell, nothing is refused: whatever is taken is compared with the snapshot
    /// first. Changes nothing.
    fn may_adopt(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        _copy: &Staged,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// Refuses what may not be restored over in its place: what is no copy of the service that the
    /// snapshot is of, or is in use. Changes nothing.
    fn may_overwrite(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        _copy: &Staged,
    ) -> Result<(), Error> {
        let name = self.name();
        let what = format!("engine {name} does not restore over what stands there");
        Err(Error::new(Class::Refused, what)
            .hinting("Put what is there aside with `--replace`: the new copy is built beside it."))
    }

    /// Makes sure, durably, that nobody takes the copy for whole until [`Engine::end_overwriting`],
    /// also after a crash. Looks first, as [`Engine::may_overwrite`] does; a refusal has changed
    /// nothing. Is called again where a restore is given again that did not come to its end.
    fn begin_overwriting(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        copy: &Staged,
    ) -> Result<Overwriting, Error> {
        self.may_overwrite(cx, meta, copy).map(|()| Overwriting::default())
    }

    /// The copy is whole, prepared and durable: it may be taken for that. Can be repeated.
    fn end_overwriting(&self, _cx: &Context<'_>, _copy: &Staged) -> Result<(), Error> {
        Ok(())
    }

    /// Refuses to let `target` be replaced if something there would make the restored copy wrong
    /// (an open database). Called just before the exchange, with the start gate closed and the
    /// service stopped; `target` may not exist. What lies beside an old copy and must not survive
    /// beside a new one (a database's journal) is settled into the old copy and removed here, so
    /// that at every instant the old copy is whole and afterwards one exchange is all there is to
    /// do. May be called again after a crash.
    fn ready_to_replace(&self, cx: &Context<'_>, root: &Root, target: &Path) -> Result<(), Error>;

    /// Brings what is in place to life where starting is not enough (an import script).
    fn activate(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        purpose: &Purpose,
    ) -> Result<(), Error>;

    /// What starts, stops and looks at the service as its definition says.
    fn control(&self) -> &Control;

    /// Whether the service runs.
    fn running(&self, cx: &Context<'_>) -> Result<Running, Error> {
        self.control().running(cx)
    }

    /// Whether this host has what it takes to start and stop the service, as far as that can be known
    /// beforehand. Asked before anything is done that counts on it.
    fn equipped(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Starts the service and returns when it accepts work.
    fn start(&self, cx: &Context<'_>) -> Result<(), Error> {
        self.control().start(cx)
    }

    /// Stops the service and returns when it has stopped. Stopping a stopped one is no error.
    fn stop(&self, cx: &Context<'_>) -> Result<(), Error> {
        self.control().stop(cx)
    }

    /// Makes a following copy the primary. Promoting a primary is no error: the step is repeated
    /// after a crash.
    fn promote(&self, cx: &Context<'_>) -> Result<Promoted, Error>;

    /// Judges the copy whose root files are at these places. Must not change it.
    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error>;

    /// As whom, by numbers of user and group, what a rehearsal starts runs, if not as whoever owns
    /// the copy.
    fn rehearses_as(&self) -> Option<(u32, u32)> {
        None
    }

    /// What a drill proves of a copy.
    fn proof(&self) -> Proof {
        Proof::None
    }

    /// Brings a scratch copy to life, judges it there, asks it the user's question, and leaves
    /// nothing running, also if this process dies. Everything that it starts runs within the
    /// rehearsal's isolation and works on the copy alone: no port, file, slot or archive of the
    /// service, which may run on this very host. A copy that does not come up is a verdict; that it
    /// could not be tried is an error.
    fn rehearse(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Rehearsed, Error> {
        let (_, _) = (cx, rehearsal);
        Err(Error::invalid(format!(
            "engine {} has no rehearsal, so its copies cannot be drilled",
            self.name()
        )))
    }
}

fn no_parts(engine: &str) -> Error {
    Error::invalid(format!(
        "this service of engine {engine} is restored as a whole: it has no single databases or tables"
    ))
    .hinting(
        "Restore it elsewhere with `--target DIR`, start it there, and take from it what is needed; \
         or dump it as well, by a service with `method = \"logical\"`.",
    )
}
