//! A data directory that is restored over: from the first byte that changes to the last, no server
//! starts on it, whoever tries.
//!
//! Its control file loses its name first and gets it back last; without it every version refuses to
//! start. A mark that is durable before that says whose copy it is, so that the restore can be given
//! again after a crash, when nothing else there could say so.

use super::detail::Detail;
use super::pg_control::{self, PgControl};
use super::programs::{Owner, data_version};
use super::server;
use crate::{Context, Error, Overwriting, SnapshotMeta, Withheld};
use model::Class;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// The mark, at the top of the data directory.
pub(super) const MARK: &str = "mainstay_restore.json";
/// Where the control file is meanwhile.
pub(super) const MEANWHILE: &str = "global/pg_control.mainstay";
/// A mark is no longer than this.
const MARK_BYTES: u64 = 4096;

/// What a half restored directory says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mark {
    system_identifier: String,
    uid: u32,
    gid: u32,
}

/// Whether a restore over this directory did not come to its end.
pub(super) fn is_marked(dir: &Path) -> bool {
    dir.join(MARK).exists()
}

/// To whom the directory belonged before it was restored over.
pub(super) fn owner_before(dir: &Path) -> Result<Option<Owner>, Error> {
    Ok(read_mark(dir)?.map(|mark| Owner { uid: mark.uid, gid: mark.gid }))
}

fn read_mark(dir: &Path) -> Result<Option<Mark>, Error> {
    let path = dir.join(MARK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("read", path.display(), e)),
    };
    let mut text = Vec::new();
    file.take(MARK_BYTES)
        .read_to_end(&mut text)
        .map_err(|e| Error::io("read", path.display(), e))?;
    let mark = serde_json::from_slice(&text).map_err(|e| {
        Error::new(Class::Corrupt, format!("{} is damaged", path.display()))
            .because(e)
            .hinting("Put the directory aside and restore anew: `mainstay restore --replace`.")
    })?;
    Ok(Some(mark))
}

/// Refuses what is no stopped copy of the snapshot's server. Changes nothing. `own` is the service's
/// own directory.
pub(super) fn judge(meta: &SnapshotMeta, dir: &Path, own: &Path) -> Result<(), Error> {
    let shown = dir.display();
    let detail = Detail::of(meta)?;
    not_in_use(dir, own)?;
    let other = |system: &str| {
        Error::new(
            Class::Refused,
            format!(
                "{shown} is of another server than the snapshot (system identifier {system} and \
                 not {})",
                detail.system_identifier
            ),
        )
        .hinting("Name the right directory, or put this one aside with `--replace`.")
    };
    if let Some(mark) = read_mark(dir)? {
        return match mark.system_identifier == detail.system_identifier {
            true => Ok(()),
            false => Err(other(&mark.system_identifier)),
        };
    }
    // An empty one is nobody's.
    let mut entries = fs::read_dir(dir).map_err(|e| Error::io("list", &shown, e))?;
    if entries.next().is_none() {
        return Ok(());
    }
    if let Err(error) = data_version(dir) {
        return Err(Error::new(
            Class::Refused,
            format!("{shown} is no data directory of a PostgreSQL server, and is not empty"),
        )
        .because(error)
        .hinting("Name the right directory: what is not in the snapshot would be removed there."));
    }
    let control = PgControl::read(dir).map_err(|e| {
        Error::new(Class::Refused, format!("nothing tells whose copy {shown} is"))
            .because(e)
            .hinting("Put it aside with `--replace`, or restore to an empty directory.")
    })?;
    match control.system.to_string() == detail.system_identifier {
        true => Ok(()),
        false => Err(other(&control.system.to_string())),
    }
}

/// Makes sure that no server starts on the directory. A refusal leaves it as it was.
pub(super) fn begin(
    cx: &Context<'_>,
    meta: &SnapshotMeta,
    dir: &Path,
    own: &Path,
) -> Result<Overwriting, Error> {
    judge(meta, dir, own)?;
    tell_of_links(cx, dir);
    let begun = is_marked(dir);
    if !begun {
        let owner = Owner::of(dir)?;
        let system_identifier = Detail::of(meta)?.system_identifier;
        write_mark(dir, &Mark { system_identifier, uid: owner.uid, gid: owner.gid })?;
    }
    let moved = rename(dir, pg_control::PATH, MEANWHILE)?;
    if let Err(error) = not_in_use(dir, own) {
        // It was started just now, and has read the file: it is as if we had never been there.
        if moved {
            rename(dir, MEANWHILE, pg_control::PATH)?;
        }
        if !begun {
            remove_mark(dir)?;
        }
        return Err(error);
    }
    let (global, meanwhile) = MEANWHILE.split_once('/').unwrap_or_default();
    Ok(Overwriting {
        kept: vec![MARK.to_owned()],
        withheld: Some(Withheld {
            dir: global.to_owned(),
            name: pg_control::PATH.rsplit('/').next().unwrap_or_default().to_owned(),
            meanwhile: meanwhile.to_owned(),
        }),
    })
}

/// The directory is whole, and durable: from now on a server starts on it. Can be repeated.
pub(super) fn end(dir: &Path) -> Result<(), Error> {
    rename(dir, MEANWHILE, pg_control::PATH)?;
    PgControl::read(dir)?;
    remove_mark(dir)
}

fn not_in_use(dir: &Path, own: &Path) -> Result<(), Error> {
    if let Some(postmaster) = server::postmaster(dir)? {
        return Err(Error::new(
            Class::Refused,
            format!("a server (process {}) works on {}", postmaster.pid, dir.display()),
        )
        .hinting("Stop it first."));
    }
    // A server in a container has another process number than we see. Of the service's own it is
    // known by asking it; of another directory nobody knows but this file.
    let is_own = match (dir.canonicalize(), own.canonicalize()) {
        (Ok(dir), Ok(own)) => dir == own,
        _ => dir == own,
    };
    let file = dir.join("postmaster.pid");
    match file.symlink_metadata() {
        Ok(_) if !is_own => Err(Error::new(
            Class::Refused,
            format!("{} is there: a server, maybe in a container, works there", file.display()),
        )
        .hinting("Stop it first. If none runs there, remove the file: one that died left it.")),
        Err(e) if !is_own && e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("look at", file.display(), e))
        }
        _ => Ok(()),
    }
}

/// Links lead out of the directory, where nothing is restored: plain directories take their place.
fn tell_of_links(cx: &Context<'_>, dir: &Path) {
    let tablespaces = fs::read_dir(dir.join("pg_tblspc")).into_iter().flatten().flatten();
    for link in tablespaces.map(|entry| entry.path()).chain([dir.join("pg_wal")]) {
        if let Ok(to) = fs::read_link(&link) {
            let (link, to) = (link.display(), to.display());
            cx.progress.warn(&format!(
                "{link} becomes a plain directory; what is at {to} stays there, and is not used \
                 any more"
            ));
        }
    }
}

/// Renames a file of the directory, durable on return; says whether it was there.
fn rename(dir: &Path, from: &str, to: &str) -> Result<bool, Error> {
    let (from, to) = (dir.join(from), dir.join(to));
    match fs::rename(&from, &to) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("rename", from.display(), e)),
    }
    sync(to.parent().unwrap_or(dir)).map(|()| true)
}

fn write_mark(dir: &Path, mark: &Mark) -> Result<(), Error> {
    let path = dir.join(MARK);
    let failed = |e| Error::io("write", path.display(), e);
    let text = serde_json::to_vec(mark)
        .map_err(|e| Error::failed("cannot encode the mark of a restore").because(e))?;
    let staged = dir.join(format!(".{MARK}"));
    // Left over from one that was cut off before it counted.
    match fs::remove_file(&staged) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let mut file = File::create_new(&staged).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&staged, &path).map_err(failed)?;
    sync(dir)
}

fn remove_mark(dir: &Path) -> Result<(), Error> {
    let path = dir.join(MARK);
    match fs::remove_file(&path) {
        Ok(()) => sync(dir),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path.display(), e)),
    }
}

fn sync(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", dir.display(), e))
}
