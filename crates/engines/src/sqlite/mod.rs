//! The engine `sqlite`: SQLite database files, copied while applications write to them, and their
//! write-ahead logs.
//!
//! Nothing here ever opens a live database file itself. On POSIX, closing any descriptor of a file
//! drops all locks that the process holds on it, also those of SQLite's own connections in other
//! threads; so the source and a target are looked at by `stat` and by SQLite alone.

mod copy;
mod failure;
mod judge;
pub mod log;
mod settle;
mod source;

use crate::control::Control;
use crate::files::{chunk_size, holds_something, not_cancelled, plain_path};
use crate::rehearsal::Asked;
use crate::{
    Abilities, CaptureSink, Captured, Context, Engine, Error, Inspection, Promoted, Proof, Purpose,
    Refresh, Rehearsal, Rehearsed, Root, RootKind, SnapshotMeta, Staged, TreeOptions, Verdict,
};
use copy::Copied;
use jiff::Timestamp;
use model::config::Service;
use model::{Class, ServiceName};
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// What every SQLite database file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Databases are cut at every multiple of this, unless the definition has a `chunk-size`: a page that was
/// written to changes the one chunk that it is in. Every size of a page divides it.
const CHUNK: NonZeroU64 = NonZeroU64::new(64 << 10).unwrap();

/// A service of engine `sqlite`.
#[derive(Debug)]
pub struct Sqlite {
    databases: Vec<Root>,
    chunk: NonZeroU64,
    control: Control,
}

impl Sqlite {
    /// Reads and judges the definition.
    pub fn new(name: &ServiceName, definition: &Service) -> Result<Self, Error> {
        let mut databases = Vec::new();
        match (&definition.path, definition.paths.as_slice()) {
            (Some(path), []) => {
                let path = plain_path(name, path)?;
                let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                databases.push(database(format!("/sqlite/{file_name}"), path));
            }
            // Two of them may have the same name.
            (None, [_, ..]) => {
                for path in &definition.paths {
                    let path = plain_path(name, path)?;
                    databases.push(database(format!("/sqlite{}", path.display()), path));
                }
            }
            (Some(_), [_, ..]) => {
                return Err(Error::invalid(format!("service {name}: `path` contradicts `paths`"))
                    .hinting("Write one of them."));
            }
            (None, []) => {
                return Err(Error::invalid(format!("service {name} has no `path`"))
                    .hinting("Add the path of the database file."));
            }
        }
        let chunk = chunk_size(name, definition)?.unwrap_or(CHUNK);
        Ok(Sqlite { databases, chunk, control: Control::of(name, definition) })
    }
}

fn database(in_snapshot: String, on_host: PathBuf) -> Root {
    Root { in_snapshot, on_host, kind: RootKind::File }
}

/// The file that SQLite keeps beside a database: `app.db-wal`.
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(database.as_os_str());
    path.push(suffix);
    PathBuf::from(path)
}

impl Engine for Sqlite {
    fn name(&self) -> &str {
        "sqlite"
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            live_capture: true,
            start_stop: self.control.can_start_stop(),
            promote: false,
            log: false,
            check: true,
        }
    }

    fn refresh(&self) -> Refresh {
        Refresh::Exchange
    }

    fn roots(&self) -> Vec<Root> {
        self.databases.clone()
    }

    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error> {
        let (mut total, mut there, mut told) = (0_u64, true, Vec::new());
        for root in &self.databases {
            let path = &root.on_host;
            let length = |path: &Path| fs::metadata(path).map(|meta| meta.len()).unwrap_or(0);
            let (size, wal) = (length(path), length(&beside(path, "-wal")));
            let has_data = holds_something(path)? && size > 0;
            let shown = path.display();
            told.push(match (has_data, wal) {
                (false, _) => format!("{shown} is missing or empty"),
                (true, 0) => format!("{shown}, {size} bytes"),
                (true, wal) => format!("{shown}, {size} bytes and {wal} in its write-ahead log"),
            });
            there &= has_data;
            total = total.saturating_add(size).saturating_add(wal);
        }
        let (has_data, summary) = (there, told.join("; "));
        Ok(Inspection {
            running: self.control.running(cx)?,
            has_data,
            version: Some(rusqlite::version().to_owned()),
            size_bytes: has_data.then_some(total),
            position: None,
            replayed: None,
            following: false,
            unarchived: None,
            doubts: Vec::new(),
            summary,
        })
    }

    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error> {
        not_cancelled(cx)?;
        // Nobody else may read the copies while they lie there.
        let dir = cx.scratch.join("sqlite");
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|e| Error::io("create", dir.display(), e))?;
        let captured = self.capture_all(cx, sink, &dir);
        // The scratch directory goes in the end, but the space may be needed before.
        let _ = fs::remove_dir_all(&dir);
        captured
    }

    fn prepare(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        staged: &[Staged],
        _purpose: &Purpose,
    ) -> Result<(), Error> {
        crate::files::all_there(staged)?;
        // A database acts on nobody by itself, so there is nothing to neutralise.
        staged.iter().try_for_each(|root| has_magic(&root.staged))
    }

    fn keeps_staged(&self) -> bool {
        true
    }

    fn ready_to_replace(
        &self,
        _cx: &Context<'_>,
        _root: &Root,
        target: &Path,
    ) -> Result<(), Error> {
        settle::settle(target)
    }

    fn activate(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        _purpose: &Purpose,
    ) -> Result<(), Error> {
        Ok(())
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn promote(&self, _cx: &Context<'_>) -> Result<Promoted, Error> {
        // A copy of a database file serves as it lies.
        Ok(Promoted { position: None })
    }

    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
        judge::judge(cx, copy)
    }

    fn proof(&self) -> Proof {
        Proof::Bytes
    }

    fn rehearse(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Rehearsed, Error> {
        let mut verdict = judge::judge(cx, rehearsal.copy)?;
        let question = rehearsal.question.map(|question| (question, &question.asked));
        let (Some((question, Asked::Query(sql))), Some(copy)) = (question, rehearsal.copy.first())
        else {
            return rehearsal.of_files(cx, verdict);
        };
        let answer = judge::ask(cx, &copy.staged, sql, &mut verdict)?;
        if let Some(answer) = &answer {
            question.judge(answer, &mut verdict);
        }
        Ok(Rehearsed { verdict, answered_after: None, answer })
    }
}

impl Sqlite {
    /// One after the other: each is consistent by itself.
    fn capture_all(
        &self,
        cx: &Context<'_>,
        sink: &mut dyn CaptureSink,
        dir: &Path,
    ) -> Result<Captured, Error> {
        let mut source_time: Option<Timestamp> = None;
        let mut details = Vec::new();
        for (number, root) in self.databases.iter().enumerate() {
            let name = root.on_host.file_name().unwrap_or_default();
            // Each in a directory of its own: they may have the same name.
            let own = dir.join(number.to_string());
            fs::create_dir(&own).map_err(|e| Error::io("create", own.display(), e))?;
            let copied = self.capture_one(cx, sink, root, &own.join(name))?;
            fs::remove_dir_all(&own).map_err(|e| Error::io("remove", own.display(), e))?;
            source_time =
                Some(source_time.map_or(copied.source_time, |t| t.min(copied.source_time)));
            details.push(json!({
                "root": root.in_snapshot,
                "journal-mode": if copied.wal { "wal" } else { "rollback" },
                "page-size": copied.page_size,
                "pages": copied.pages,
                "log": copied.span,
            }));
        }
        let mut detail = match details.as_slice() {
            [one] => one.clone(),
            _ => json!({}),
        };
        detail["databases"] = details.into();
        Ok(Captured {
            source_time: source_time.unwrap_or_else(Timestamp::now),
            // SQLite keeps no number that grows with every transaction in every journal mode: in WAL
            // mode the file's change counter stands still. No position is better than a wrong one.
            position: None,
            engine_version: Some(rusqlite::version().to_owned()),
            detail,
        })
    }
}

impl Sqlite {
    fn capture_one(
        &self,
        cx: &Context<'_>,
        sink: &mut dyn CaptureSink,
        root: &Root,
        copy: &Path,
    ) -> Result<Copied, Error> {
        let copied = copy::copy(cx, &root.on_host, copy)?;
        dress(&root.on_host, copy)?;
        judge::opens(copy)?;
        cx.progress.phase("storing the database");
        // The copy is a new file each time; nothing about it but its bytes says what changed.
        let options = TreeOptions {
            distrust_times: true,
            chunk_bytes: Some(self.chunk),
            ..TreeOptions::default()
        };
        sink.tree(&root.in_snapshot, copy, &options)?;
        Ok(copied)
    }
}

/// Where in their logs the databases of a snapshot are, by what its description says: by root. Those
/// that were in no log are not among them.
pub fn spans(detail: &serde_json::Value) -> Vec<(String, log::Span)> {
    let databases = detail.get("databases").and_then(serde_json::Value::as_array);
    let span = |one: &serde_json::Value| {
        let root = one.get("root")?.as_str()?.to_owned();
        let span = serde_json::from_value::<Option<log::Span>>(one.get("log")?.clone()).ok()??;
        Some((root, span))
    };
    databases.into_iter().flatten().filter_map(span).collect()
}

/// Gives the copy the owner and mode of its source, for the restore to give back.
fn dress(source: &Path, copy: &Path) -> Result<(), Error> {
    let like = fs::metadata(source).map_err(|e| Error::io("read", source.display(), e))?;
    let failed = |e| Error::io("set the owner and mode of", copy.display(), e);
    let own = fs::metadata(copy).map_err(failed)?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        // Without root the copy stays ours, as every file of such a capture does.
        let _ = chown(copy, Some(like.uid()), Some(like.gid()));
    }
    fs::set_permissions(copy, Permissions::from_mode(like.mode() & 0o7777)).map_err(failed)
}

/// What was restored must begin as a database does.
fn has_magic(path: &Path) -> Result<(), Error> {
    let read = |e| Error::io("read", path.display(), e);
    let mut begin = Vec::new();
    File::open(path).map_err(read)?.take(16).read_to_end(&mut begin).map_err(read)?;
    if begin == MAGIC {
        return Ok(());
    }
    Err(Error::new(Class::Corrupt, format!("{} is not a SQLite database", path.display())))
}
