//! The engine `sqlite`: one SQLite database file, copied while applications write to it.
//!
//! Nothing here ever opens a live database file itself. On POSIX, closing any descriptor of a file
//! drops all locks that the process holds on it, also those of SQLite's own connections in other
//! threads; so the source and a target are looked at by `stat` and by SQLite alone.

mod copy;
mod failure;
mod judge;
mod settle;

use crate::control::Control;
use crate::files::{holds_something, not_cancelled, plain_path};
use crate::{
    Abilities, CaptureSink, Captured, Context, Engine, Error, Inspection, Promoted, Purpose,
    Refresh, Root, RootKind, Running, SnapshotMeta, Staged, TreeOptions, Verdict,
};
use model::config::Service;
use model::{Class, ServiceName};
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// What every SQLite database file begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A service of engine `sqlite`.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    file_name: String,
    control: Control,
}

impl Sqlite {
    /// Reads and judges the definition.
    pub fn new(name: &ServiceName, definition: &Service) -> Result<Self, Error> {
        if !definition.paths.is_empty() {
            return Err(Error::invalid(format!("service {name}: engine sqlite takes one `path`"))
                .hinting("Make a service of each database."));
        }
        let Some(path) = &definition.path else {
            return Err(Error::invalid(format!("service {name} has no `path`"))
                .hinting("Add the path of the database file."));
        };
        let path = plain_path(name, path)?;
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Sqlite { path, file_name, control: Control::of(name, definition) })
    }

    fn in_snapshot(&self) -> String {
        format!("/sqlite/{}", self.file_name)
    }
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
        vec![Root {
            in_snapshot: self.in_snapshot(),
            on_host: self.path.clone(),
            kind: RootKind::File,
        }]
    }

    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error> {
        let size = fs::metadata(&self.path).map(|meta| meta.len()).unwrap_or(0);
        let wal = fs::metadata(beside(&self.path, "-wal")).map(|meta| meta.len()).unwrap_or(0);
        let has_data = holds_something(&self.path)? && size > 0;
        let shown = self.path.display();
        let summary = match (has_data, wal) {
            (false, _) => format!("{shown} is missing or empty"),
            (true, 0) => format!("{shown}, {size} bytes"),
            (true, wal) => format!("{shown}, {size} bytes and {wal} in its write-ahead log"),
        };
        Ok(Inspection {
            running: self.control.running(cx)?,
            has_data,
            version: Some(rusqlite::version().to_owned()),
            size_bytes: has_data.then_some(size.saturating_add(wal)),
            position: None,
            replayed: None,
            following: false,
            summary,
        })
    }

    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error> {
        not_cancelled(cx)?;
        // Nobody else may read the copy while it lies there.
        let dir = cx.scratch.join("sqlite");
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|e| Error::io("create", dir.display(), e))?;
        let copy = dir.join(&self.file_name);
        let captured = capture(cx, sink, &self.path, &copy, &self.in_snapshot());
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

    fn running(&self, cx: &Context<'_>) -> Result<Running, Error> {
        self.control.running(cx)
    }

    fn start(&self, cx: &Context<'_>) -> Result<(), Error> {
        self.control.start(cx)
    }

    fn stop(&self, cx: &Context<'_>) -> Result<(), Error> {
        self.control.stop(cx)
    }

    fn promote(&self, _cx: &Context<'_>) -> Result<Promoted, Error> {
        // A copy of a database file serves as it lies.
        Ok(Promoted { position: None })
    }

    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
        judge::judge(cx, copy)
    }
}

fn capture(
    cx: &Context<'_>,
    sink: &mut dyn CaptureSink,
    source: &Path,
    copy: &Path,
    at: &str,
) -> Result<Captured, Error> {
    let copied = copy::copy(cx, source, copy)?;
    dress(source, copy)?;
    judge::opens(copy)?;
    cx.progress.phase("storing the database");
    // The copy is a new file each time; nothing about it but its bytes says what changed.
    let options = TreeOptions { distrust_times: true, ..TreeOptions::default() };
    sink.tree(at, copy, &options)?;
    Ok(Captured {
        source_time: copied.source_time,
        // SQLite keeps no number that grows with every transaction in every journal mode: in WAL
        // mode the file's change counter stands still. No position is better than a wrong one.
        position: None,
        engine_version: Some(rusqlite::version().to_owned()),
        detail: json!({
            "journal-mode": if copied.wal { "wal" } else { "rollback" },
            "page-size": copied.page_size,
            "pages": copied.pages,
        }),
    })
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
