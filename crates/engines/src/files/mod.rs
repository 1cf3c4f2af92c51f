//! The engine `files`: trees of files, captured as they lie.
//!
//! It knows no meaning in the files. What makes several of them consistent with each other is the
//! service's `quiesce`, which the operation does around the capture.

mod read;

pub(crate) use read::everything as read_everything;

use crate::control::Control;
use crate::{
    Abilities, CaptureSink, Captured, Context, Engine, Error, Inspection, Promoted, Proof, Purpose,
    Refresh, Rehearsal, Rehearsed, Root, RootKind, SnapshotMeta, Staged, TreeOptions, Verdict,
};
use jiff::Timestamp;
use model::config::Service;
use model::{Class, ServiceName};
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::path::{Component, Path, PathBuf};

/// A service of engine `files`.
#[derive(Debug)]
pub struct Files {
    name: ServiceName,
    paths: Vec<PathBuf>,
    options: TreeOptions,
    control: Control,
}

impl Files {
    /// Reads and judges the definition.
    pub fn new(name: &ServiceName, definition: &Service) -> Result<Self, Error> {
        let paths = match (&definition.path, definition.paths.as_slice()) {
            (Some(path), []) => vec![path.clone()],
            (None, paths @ [_, ..]) => paths.to_vec(),
            (Some(_), _) => {
                return Err(Error::invalid(format!("service {name} has both `path` and `paths`"))
                    .hinting("Put all of them into `paths`."));
            }
            (None, []) => {
                return Err(Error::invalid(format!("service {name} has no `path`"))
                    .hinting(format!("Add `path = \"/…\"` to [service.{name}].")));
            }
        };
        let paths = paths
            .iter()
            .map(|path| plain_path(name, path))
            .collect::<Result<Vec<PathBuf>, Error>>()?;
        for (at, path) in paths.iter().enumerate() {
            for (other_at, other) in paths.iter().enumerate() {
                if at != other_at && path.starts_with(other) {
                    return Err(Error::invalid(format!(
                        "service {name}: {} is within {}",
                        path.display(),
                        other.display()
                    ))
                    .hinting("Name each tree once; leave the inner one out."));
                }
            }
        }
        let bad = |key: &'static str| {
            move |e| Error::invalid(format!("service {name}: bad `{key}`")).because(e)
        };
        let larger = definition.exclude_larger_than.as_deref().map(model::size::parse).transpose();
        Ok(Files {
            name: name.clone(),
            paths,
            options: TreeOptions {
                exclude: definition.exclude.clone(),
                exclude_caches: definition.exclude_caches,
                exclude_larger_than: larger.map_err(bad("exclude-larger-than"))?,
                chunk_bytes: chunk_size(name, definition)?,
                one_file_system: definition.one_file_system,
                ..TreeOptions::default()
            },
            control: Control::of(name, definition),
        })
    }

    /// The real place of a root that must be there.
    fn present(&self, path: &Path) -> Result<PathBuf, Error> {
        // A path that is a link means what it points to: the link alone would be no backup.
        let real = path.canonicalize().map_err(|error| {
            let missing = error.kind() == io::ErrorKind::NotFound;
            let error = Error::io("read", path.display(), error);
            if missing {
                error.hinting(format!(
                    "Mount or create {}, or correct `path` of service {}.",
                    path.display(),
                    self.name
                ))
            } else {
                error
            }
        })?;
        let kind = fs::metadata(&real).map_err(|e| Error::io("read", real.display(), e))?;
        if kind.is_dir() || kind.is_file() {
            Ok(real)
        } else {
            Err(Error::invalid(format!(
                "{} is neither a directory nor a regular file",
                path.display()
            )))
        }
    }
}

/// Where files are to be cut, as far as the definition says.
pub(crate) fn chunk_size(
    name: &ServiceName,
    definition: &Service,
) -> Result<Option<NonZeroU64>, Error> {
    let size = definition.chunk_size.as_deref().map(model::size::parse).transpose();
    let size =
        size.map_err(|e| Error::invalid(format!("service {name}: bad `chunk-size`")).because(e))?;
    Ok(size.and_then(NonZeroU64::new))
}

/// An absolute path without `.` and `..`, which is also its name in snapshots.
pub(crate) fn plain_path(name: &ServiceName, path: &Path) -> Result<PathBuf, Error> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(Error::invalid(format!("service {name}: the path {shown} is not absolute"))
            .hinting("Begin it with a slash."));
    }
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !plain {
        return Err(Error::invalid(format!("service {name}: the path {shown} has `..` in it"))
            .hinting("Write where it leads to."));
    }
    if path.to_str().is_none() {
        return Err(Error::invalid(format!("service {name}: the path {shown} is not UTF-8")));
    }
    // Collected anew, because that drops doubled and trailing slashes.
    let path: PathBuf = path.components().collect();
    if path == Path::new("/") {
        return Err(Error::invalid(format!("service {name}: `/` cannot be a service's path"))
            .hinting("Name the directories below it in `paths`."));
    }
    Ok(path)
}

/// What lies at a path; a tree where nothing lies.
pub(crate) fn kind_of(path: &Path) -> RootKind {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => RootKind::File,
        _ => RootKind::Tree,
    }
}

/// Whether there is a file, or a directory with something in it.
pub(crate) fn holds_something(path: &Path) -> Result<bool, Error> {
    let read = |e| Error::io("read", path.display(), e);
    match fs::metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(e) => Err(read(e)),
        Ok(meta) if meta.is_dir() => Ok(fs::read_dir(path).map_err(read)?.next().is_some()),
        Ok(_) => Ok(true),
    }
}

/// Every root that was restored must be there and be what the snapshot says.
pub(crate) fn all_there(staged: &[Staged]) -> Result<(), Error> {
    for root in staged {
        let at = &root.staged;
        let meta = fs::symlink_metadata(at).map_err(|e| Error::io("read", at.display(), e))?;
        let right = match root.root.kind {
            RootKind::Tree => meta.is_dir(),
            RootKind::File => meta.is_file(),
        };
        if !right {
            let message =
                format!("{} was not restored as what the snapshot says it is", at.display());
            return Err(Error::new(Class::Corrupt, message));
        }
    }
    Ok(())
}

/// The exchange works on the target itself. Through a link it would replace the link and leave the
/// data behind it as it was.
pub(crate) fn no_link(target: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_symlink() => Err(Error::new(
            Class::Refused,
            format!("{} is a symbolic link and cannot be replaced", target.display()),
        )
        .hinting("Name the place it points to as the service's path on this host.")),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("read", target.display(), e)),
    }
}

impl Engine for Files {
    fn name(&self) -> &str {
        "files"
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
        let root = |path: &PathBuf| Root {
            in_snapshot: path.to_string_lossy().into_owned(),
            on_host: path.clone(),
            kind: kind_of(path),
        };
        self.paths.iter().map(root).collect()
    }

    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error> {
        let mut with_data = 0;
        for path in &self.paths {
            with_data += usize::from(holds_something(path)?);
        }
        let summary = match (self.paths.as_slice(), with_data) {
            ([one], 0) => format!("{} is missing or empty", one.display()),
            ([one], _) => format!("{} holds data", one.display()),
            (all, some) => format!("{some} of {} paths hold data", all.len()),
        };
        Ok(Inspection {
            running: self.control.running(cx)?,
            has_data: with_data > 0,
            version: None,
            size_bytes: None,
            position: None,
            replayed: None,
            following: false,
            unarchived: None,
            doubts: Vec::new(),
            summary,
        })
    }

    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error> {
        // Before the first byte is read: what changes from now on may be missing.
        let source_time = Timestamp::now();
        // All of them are looked at first: a tree that is not mounted must not cost an hour.
        let real = self.paths.iter().map(|p| self.present(p)).collect::<Result<Vec<_>, _>>()?;
        for (path, real) in self.paths.iter().zip(&real) {
            not_cancelled(cx)?;
            if !holds_something(real)? {
                cx.progress.warn(&format!("{} is empty", path.display()));
            }
            sink.tree(&path.to_string_lossy(), real, &self.options)?;
        }
        Ok(Captured {
            source_time,
            position: None,
            engine_version: None,
            detail: serde_json::Value::Null,
        })
    }

    fn prepare(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        staged: &[Staged],
        _purpose: &Purpose,
    ) -> Result<(), Error> {
        all_there(staged)
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
        no_link(target)
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
        // A copy of files serves as it lies.
        Ok(Promoted { position: None })
    }

    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
        read_everything(cx, copy)
    }

    fn proof(&self) -> Proof {
        Proof::Bytes
    }

    fn rehearse(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Rehearsed, Error> {
        // What is in the files was compared with the snapshot before.
        rehearsal.of_files(cx, Verdict { sound: true, findings: Vec::new() })
    }
}

/// An error if somebody asked for the operation to stop.
pub(crate) fn not_cancelled(cx: &Context<'_>) -> Result<(), Error> {
    if cx.cancel.is_cancelled() {
        return Err(Error::new(Class::Cancelled, "the operation was cancelled"));
    }
    Ok(())
}
