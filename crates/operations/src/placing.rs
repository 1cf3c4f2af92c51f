//! From a snapshot to data in place: staged beside the target, made ready by the engine, then
//! moved in one rename per root. Restore, refresh and rejoin share it.
//!
//! The journal entry `place: begin` is the commit marker: before it everything staged is thrown
//! away after a crash, from it on the rest is carried out by whoever comes next. In between the
//! start gate is closed.

use crate::exchange::{Placement, beside, discard, redo_of};
use crate::member::{AppliedHere, manifest};
use crate::operation::Operation;
use crate::recover::Left;
use crate::wal::sqlite::HeldLog;
use crate::{Error, MemberRecord, ServiceSite};
use engines::{LogEnd, Purpose, Refresh, Root, RootKind, Running, SnapshotMeta, Staged};
use jiff::Timestamp;
use model::state::Applied;
use model::{
    CancelToken, Class, Classify, OperationId, Position, Progress, RecoveryPoint, Role, SnapshotId,
};
use repository::restore::{Amend, Holds, Lacking, Options, Restored, Reuse};
use repository::{Node, NodeKind, SnapshotReader};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Space that must stay free beside a restore.
const SPACE_MARGIN: u64 = 8 << 20;

/// A root of a snapshot and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Destination {
    /// In the snapshot.
    pub(crate) root: Root,
    /// Where its content is staged.
    pub(crate) staged: PathBuf,
    /// Where it goes.
    pub(crate) target: PathBuf,
    /// What is left out because it lacks bytes. What cleans up needs not know.
    #[serde(skip)]
    pub(crate) without: Lacking,
    /// The target stays where it is, and is changed there.
    #[serde(skip)]
    pub(crate) amends: Option<Amends>,
}

/// How a target is changed in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amends {
    /// What it holds; nothing, if it is empty.
    pub(crate) holds: Option<Holds>,
    /// Bytes that must be free for that, if it is known.
    pub(crate) need: Option<u64>,
}

/// Everything that the rest of a placing needs to know after a crash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Placing {
    pub(crate) placements: Vec<Placement>,
    pub(crate) snapshot: SnapshotId,
    pub(crate) source_time: Timestamp,
    pub(crate) position: Option<Position>,
    pub(crate) purpose: Purpose,
    /// The target is this member's own data, not some other directory.
    pub(crate) own: bool,
    /// Where in their logs the copies are.
    #[serde(default)]
    pub(crate) log: Vec<HeldLog>,
    /// The log was replayed into them.
    #[serde(default)]
    pub(crate) replayed: bool,
    /// The service is started in it, whether it ran before or not.
    #[serde(default)]
    pub(crate) starts: bool,
}

/// The description inside a snapshot, or one made up for a snapshot that plain restic wrote.
pub(crate) fn meta(site: &ServiceSite, snapshot: SnapshotId) -> Result<SnapshotMeta, Error> {
    let repository = site.repository()?;
    let reader = SnapshotReader::open(repository, snapshot)?;
    if reader.node(crate::backup::META_PATH.as_bytes())?.is_some() {
        let mut text = Vec::new();
        reader.dump(crate::backup::META_PATH.as_bytes(), &mut text)?;
        return decode_meta(snapshot, &text);
    }
    by_paths(site, snapshot, &reader)
}

/// The description that a snapshot holds of itself, of a format that is known, and with no root that
/// leads anywhere else.
pub fn decode_meta(snapshot: SnapshotId, text: &[u8]) -> Result<SnapshotMeta, Error> {
    let meta: SnapshotMeta = serde_json::from_slice(text).map_err(|e| {
        let what = format!("{} of snapshot {snapshot} is not valid", crate::backup::META_PATH);
        Error::new(Class::Corrupt, what).because(e)
    })?;
    if meta.format != 1 {
        return Err(Error::invalid(format!(
            "snapshot {snapshot} has description format {}; this version of mainstay knows 1",
            meta.format
        )));
    }
    // Targets are made of these; none may lead out of the place that was named.
    let odd = |root: &&Root| {
        !root.in_snapshot.starts_with('/')
            || root.in_snapshot.split('/').any(|part| part == ".." || part == ".")
    };
    if let Some(root) = meta.roots.iter().find(odd) {
        let what = format!("snapshot {snapshot} names a root {:?}", root.in_snapshot);
        return Err(Error::new(Class::Corrupt, what));
    }
    Ok(meta)
}

/// What a snapshot's own list of paths says, where there is no description.
fn by_paths(
    site: &ServiceSite,
    snapshot: SnapshotId,
    reader: &SnapshotReader,
) -> Result<SnapshotMeta, Error> {
    let file = site.repository()?.snapshot(snapshot)?;
    let mut roots = Vec::new();
    for path in &file.paths {
        // Restored without one of its paths, a snapshot would look whole.
        let Some((in_snapshot, node)) = find(reader, path)? else {
            let what = format!("snapshot {snapshot} names {path}, but does not hold it");
            return Err(Error::invalid(what).hinting(
                "Look into it with `mainstay ls`, and take files out with `mainstay dump`.",
            ));
        };
        let kind = if node.kind == NodeKind::Dir { RootKind::Tree } else { RootKind::File };
        roots.push(Root { in_snapshot, on_host: PathBuf::from(path), kind });
    }
    if roots.is_empty() {
        return Err(Error::invalid(format!("snapshot {snapshot} names no path that it holds"))
            .hinting("Look into it with `mainstay ls`, and take files out with `mainstay dump`."));
    }
    bare(site, snapshot, roots)
}

/// What can be said of a snapshot whose description cannot be read: what its file names as paths,
/// and if not even those can be reached, that everything in it is one tree.
pub(crate) fn without_description(
    site: &ServiceSite,
    snapshot: SnapshotId,
) -> Result<SnapshotMeta, Error> {
    let reader = SnapshotReader::open(site.repository()?, snapshot)?;
    match by_paths(site, snapshot, &reader) {
        Err(e) if e.class() != Class::Unavailable => {}
        other => return other,
    }
    let root =
        Root { in_snapshot: "/".to_owned(), on_host: PathBuf::from("/"), kind: RootKind::Tree };
    bare(site, snapshot, vec![root])
}

fn bare(site: &ServiceSite, snapshot: SnapshotId, roots: Vec<Root>) -> Result<SnapshotMeta, Error> {
    let file = site.repository()?.snapshot(snapshot)?;
    let source_time = file.time.parse().map_err(|e| {
        Error::new(Class::Corrupt, format!("the time of snapshot {snapshot} is not valid"))
            .because(e)
    })?;
    Ok(SnapshotMeta {
        format: 1,
        service: site.name().clone(),
        definition: site.spec().clone(),
        generation: model::Generation::FIRST,
        member: site.member().clone(),
        source_time,
        position: None,
        engine_version: None,
        roots,
        detail: serde_json::Value::Null,
    })
}

/// A path that restic names, and its place in the tree.
///
/// restic names whole paths, but stores a relative one as it was given: what it backed up as `docs`
/// in /srv is /srv/docs by name and /docs in the tree.
fn find(reader: &SnapshotReader, path: &str) -> Result<Option<(String, Node)>, Error> {
    for (start, _) in path.match_indices('/') {
        let in_tree = &path[start..];
        if let Some(node) = reader.node(in_tree.as_bytes())? {
            return Ok(Some((in_tree.to_owned(), node)));
        }
    }
    Ok(None)
}

/// Where the snapshot's roots go when they go to this member's own place: by its configuration.
pub(crate) fn own_targets(site: &ServiceSite, meta: &SnapshotMeta) -> Result<Vec<PathBuf>, Error> {
    let here = site.engine()?.roots();
    if here.len() != meta.roots.len() {
        return Err(Error::invalid(format!(
            "the snapshot holds {} roots of {}, but its definition on this host has {}",
            meta.roots.len(),
            site.name(),
            here.len()
        ))
        .hinting("Restore to another place with `--target DIR`, or correct the definition."));
    }
    Ok(here.into_iter().map(|root| root.on_host).collect())
}

/// Pairs roots with targets; staging is beside each target, on its file system.
pub(crate) fn destinations(
    meta: &SnapshotMeta,
    targets: Vec<PathBuf>,
    id: &OperationId,
) -> Result<Vec<Destination>, Error> {
    let pairs = meta.roots.iter().cloned().zip(targets);
    pairs.map(|(root, target)| destination(root, target, id)).collect()
}

/// One of these pairs.
pub(crate) fn destination(
    root: Root,
    target: PathBuf,
    id: &OperationId,
) -> Result<Destination, Error> {
    let staged = beside(&target, &format!("mainstay-{id}"))?;
    no_mount_point(&target)?;
    Ok(Destination { root, staged, target, without: Lacking::default(), amends: None })
}

/// Pairs roots with targets that are written to where they stand.
pub(crate) fn in_place(meta: &SnapshotMeta, targets: Vec<PathBuf>) -> Vec<Destination> {
    let pairs = meta.roots.iter().cloned().zip(targets);
    pairs
        .map(|(root, target)| Destination {
            root,
            staged: target.clone(),
            target,
            without: Lacking::default(),
            amends: None,
        })
        .collect()
}

/// What is in place is exchanged by renaming it, and a mount point cannot be renamed. Better said
/// before hours of restoring than after.
fn no_mount_point(target: &Path) -> Result<(), Error> {
    match is_mount_point(target) {
        true => Err(Error::refused(format!(
            "{} is a mount point, and its content cannot be exchanged in one step",
            target.display()
        ))
        .hinting(format!("Use a directory below {} instead.", target.display()))),
        false => Ok(()),
    }
}

/// Whether something is mounted at a path, or it is on another file system than the directory that it
/// is in.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
    use std::os::unix::fs::MetadataExt;
    let (Ok(meta), Some(parent)) = (std::fs::symlink_metadata(path), path.parent()) else {
        return false;
    };
    // A mount of the same file system, too, where the kernel tells (Linux 5.8).
    let asked = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    let told = asked.is_ok_and(|told| told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    let above = std::fs::metadata(parent);
    meta.is_dir() && (told || above.is_ok_and(|above| above.dev() != meta.dev()))
}

/// Whether something stands at a path that a restore must not overwrite. What a file system has of its
/// own at its top is nothing.
pub(crate) fn occupied(path: &Path) -> Result<bool, Error> {
    occupied_but_for(path, None)
}

/// The same, but that what is staged in it, under names that begin with this one, is nothing either.
pub(crate) fn occupied_but_for(path: &Path, staged: Option<&Path>) -> Result<bool, Error> {
    use std::os::unix::ffi::OsStrExt;
    let staged = staged.filter(|staged| staged.parent() == Some(path)).and_then(Path::file_name);
    let is_staged = |name: &std::ffi::OsStr| {
        staged.is_some_and(|staged| name.as_bytes().starts_with(staged.as_bytes()))
    };
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("look at", path, e)),
    };
    if !meta.is_dir() {
        return Ok(true);
    }
    let own = repository::restore::OF_THE_FILE_SYSTEM;
    for item in std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))? {
        let name = item.map_err(|e| Error::io("list", path, e))?.file_name();
        if !is_staged(&name) && (name != own || !is_mount_point(path)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses to begin what cannot end for want of space.
pub(crate) fn check_space(target: &Path, need: u64) -> Result<(), Error> {
    let existing = target.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)
        .map_err(|e| Error::io("ask for free space of", existing, e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let need = need.saturating_add(SPACE_MARGIN);
    if free < need {
        return Err(Error::new(
            Class::NoSpace,
            format!(
                "too little space at {}: {} are free, {} are needed",
                existing.display(),
                model::size::human(free),
                model::size::human(need)
            ),
        )
        .hinting(
            "Free some space, or restore to a larger disk with `--target`; nothing was touched.",
        ));
    }
    Ok(())
}

/// What a target holds, of which a new copy may take what has not changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed {
    /// The state of this snapshot.
    pub(crate) snapshot: SnapshotId,
    /// Or something like it: all of it is read first.
    pub(crate) doubted: bool,
    /// Nobody knows what it is, and whose.
    pub(crate) adopted: bool,
}

impl Seed {
    /// What a restore may take from the copy at one of the targets.
    fn reuse<'a>(
        self,
        site: &ServiceSite,
        destination: &'a Destination,
        redo: &'a Path,
    ) -> Result<Option<Reuse<'a>>, Error> {
        if !destination.target.exists() {
            return Ok(None);
        }
        // A database that nobody knows may have a journal beside it, which is settled into it just
        // before it is replaced: into the old one, and not into the new one as well.
        let settled = self.adopted && destination.root.kind == RootKind::File;
        Ok(Some(Reuse {
            tree: &destination.target,
            snapshot: self.snapshot,
            // What a log may be replayed into, once it is staged, is nobody else's.
            hard_links: site.engine()?.keeps_staged()
                && !crate::wal::sqlite::has_log(site)?
                && !settled,
            redo: Some(redo),
            doubted: self.doubted,
        }))
    }
}

/// Refuses to begin a refresh that cannot end for want of space: it takes what changed, or, where
/// the file system cannot clone files and the engine's must be copied, all of it.
pub(crate) fn check_space_beside(
    site: &ServiceSite,
    point: &RecoveryPoint,
    destinations: &[Destination],
    seed: Seed,
    cancel: &CancelToken,
) -> Result<(), Error> {
    for destination in destinations {
        if let Some(need) = destination.amends.and_then(|amends| amends.need) {
            check_space(&destination.target, need)?;
            continue;
        }
        let redo = redo_of(&destination.staged);
        let Some(reuse) = seed.reuse(site, destination, &redo)? else {
            check_space(&destination.target, point.size_bytes)?;
            continue;
        };
        let root = destination.root.in_snapshot.as_bytes();
        let repository = site.repository()?;
        let need = repository::restore::need(repository, point.snapshot, root, &reuse, cancel)?;
        check_space(&destination.target, need.bytes)?;
    }
    Ok(())
}

/// Restores every root into its staging place, and says what came of each. `reuse` is what the targets
/// hold.
pub(crate) fn stage(
    site: &ServiceSite,
    operation: &mut Operation,
    snapshot: SnapshotId,
    destinations: &[Destination],
    reuse: Option<Seed>,
) -> Result<Staging, Error> {
    let repository = site.repository()?;
    let mut staging = Staging::default();
    operation.step("stage", destinations, |operation| {
        operation.report().phase("restoring");
        for destination in destinations {
            if let Some(parent) = destination.staged.parent() {
                std::fs::create_dir_all(parent).map_err(|e| Error::io("make", parent, e))?;
            }
            let redo = redo_of(&destination.staged);
            let root = destination.root.in_snapshot.as_bytes();
            if let Some(amends) = &destination.amends {
                let amend = Amend {
                    tree: &destination.target,
                    staged: &destination.staged,
                    journal: &redo,
                    holds: amends.holds,
                };
                let (report, cancel) = (operation.report(), operation.cancel());
                let done = repository::restore::amend(
                    repository, snapshot, root, &amend, &*report, cancel,
                );
                staging.roots.push(done?);
                continue;
            }
            let reuse = match reuse {
                Some(seed) => seed.reuse(site, destination, &redo)?,
                None => None,
            };
            let report = operation.report();
            let done = repository::restore::restore_without(
                repository,
                snapshot,
                root,
                &destination.staged,
                Options { reuse, durable: true },
                &destination.without,
                &*report,
                operation.cancel(),
            )?;
            staging.roots.push(done);
        }
        Ok(())
    })?;
    Ok(staging)
}

/// What was staged, root by root.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    pub(crate) roots: Vec<Restored>,
}

impl Staging {
    /// A figure of all roots together.
    pub(crate) fn sum(&self, of: impl Fn(&Restored) -> u64) -> u64 {
        self.roots.iter().map(of).sum()
    }
}

/// Lets the engine make the staged files what they are for.
pub(crate) fn prepare(
    site: &ServiceSite,
    operation: &mut Operation,
    meta: &SnapshotMeta,
    destinations: &[Destination],
    purpose: &Purpose,
) -> Result<(), Error> {
    let engine = site.engine()?;
    operation.step("prepare", (), |operation| {
        let staged = staged(destinations);
        operation.with_context(site, |cx| engine.prepare(cx, meta, &staged, purpose))
    })
}

/// Lets the replay of what was prepared end so.
pub(crate) fn aim(
    site: &ServiceSite,
    operation: &mut Operation,
    destinations: &[Destination],
    end: &LogEnd,
) -> Result<(), Error> {
    let engine = site.engine()?;
    operation.step("aim", end, |_| Ok(engine.aim(&staged(destinations), end)?))
}

pub(crate) fn staged(destinations: &[Destination]) -> Vec<Staged> {
    let one = |d: &Destination| Staged {
        root: d.root.clone(),
        staged: match d.amends {
            // What is staged for a copy that stays where it is, is no copy. Only engines that change
            // nothing of it look there.
            Some(Amends { holds: Some(_), .. }) => d.target.clone(),
            _ => d.staged.clone(),
        },
        target: d.target.clone(),
    };
    destinations.iter().map(one).collect()
}

/// Moves everything in place and settles it. From its first line on there is only forward.
pub(crate) fn place(
    site: &ServiceSite,
    operation: &mut Operation,
    placing: &Placing,
) -> Result<(), Error> {
    let engine = site.engine()?;
    let id = operation.id().clone();
    if placing.own {
        // Whoever began has stopped it or found it stopped; building took time.
        if operation.with_context(site, |cx| engine.running(cx))? == Running::Yes {
            let what = format!("somebody has started {} since this began", site.name());
            return Err(Error::refused(format!("{what}, and its content cannot be exchanged"))
                .hinting("Stop it, and give this again."));
        }
        for (root, placement) in engine.roots().iter().zip(&placing.placements) {
            operation
                .with_context(site, |cx| engine.ready_to_replace(cx, root, &placement.target))?;
        }
    }
    let meta = match placing.own {
        true => Some(keep_meta(site, operation.dir(), placing.snapshot)?),
        false => None,
    };
    operation.check_cancel()?;
    operation.forward("place", placing, |operation| {
        operation.report().phase("putting in place");
        move_all(site, &id, placing)
    })?;
    operation.forward("settle", (), |operation| {
        settle(site, &operation.calm(site).context(), placing, meta.as_ref())
    })
}

/// The description of the point, kept with the operation: whoever brings that to its end after a crash
/// may find the point forgotten, since the dead hold no lock.
const POINT: &str = "point.json";

fn keep_meta(site: &ServiceSite, dir: &Path, snapshot: SnapshotId) -> Result<SnapshotMeta, Error> {
    let meta = meta(site, snapshot)?;
    let text = serde_json::to_vec(&meta).map_err(|e| {
        Error::new(Class::Failed, format!("cannot describe {}", snapshot.short())).because(e)
    })?;
    crate::member::write_durable(dir, POINT, &text)?;
    Ok(meta)
}

/// What was kept; of an operation that kept nothing, what the vault says still.
fn kept_meta(site: &ServiceSite, dir: &Path, snapshot: SnapshotId) -> Result<SnapshotMeta, Error> {
    let path = dir.join(POINT);
    match std::fs::read(&path) {
        Ok(text) => decode_meta(snapshot, &text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => meta(site, snapshot),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// After a crash: throws away what was staged, or carries on what was being placed.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    let decode = |what: &str, e: serde_json::Error| {
        Error::new(Class::Corrupt, format!("the journal's entry `{what}` is not valid")).because(e)
    };
    if let Some(data) = left.begun("place") {
        if left.done("settle").is_some() {
            return Ok(());
        }
        let placing: Placing = serde_json::from_value(data).map_err(|e| decode("place", e))?;
        if placing.own && MemberRecord::load(left.site)?.recorded.as_ref() == Some(left.id) {
            return tell_vault(left, &placing);
        }
        return match carry_on(left, &placing) {
            Ok(()) => bring_to_life(left, &placing),
            Err(error) if any_lost(&placing)? => give_up(left, &placing, &error),
            Err(error) if !any_placed(&placing)? => take_back(left, &placing, &error),
            Err(error) if is_final(&error) => give_up(left, &placing, &error),
            Err(error) => Err(error),
        };
    }
    if let Some(data) = left.begun("stage") {
        let destinations: Vec<Destination> =
            serde_json::from_value(data).map_err(|e| decode("stage", e))?;
        for destination in &destinations {
            discard(&destination.staged)?;
        }
        if left.begun("prepare").is_some() {
            abandon(left)?;
        }
        left.undone("stage", "what was staged was removed")?;
    }
    Ok(())
}

/// Where a placing, by what the journal says of it, keeps what it puts aside.
pub(crate) fn put_aside(place: serde_json::Value) -> Result<Vec<PathBuf>, Error> {
    let placing: Placing = serde_json::from_value(place).map_err(|e| {
        Error::new(Class::Corrupt, "the journal's entry `place` is not valid").because(e)
    })?;
    Ok(placing.placements.into_iter().filter_map(|placement| placement.keep_old_at).collect())
}

/// Lets the engine take back what it made elsewhere. Where that cannot be reached now, nothing waits
/// for it: the engine does not mistake what it left for something whole, and removes it next time.
pub(crate) fn abandon(left: &mut Left<'_>) -> Result<(), Error> {
    let engine = left.site.engine()?;
    if let Err(error) = left.with_context(|cx| engine.abandon(cx)) {
        left.found(format!("what was prepared could not be removed: {}", error.chain()));
    }
    Ok(())
}

fn any_placed(placing: &Placing) -> Result<bool, Error> {
    for placement in &placing.placements {
        if placement.is_placed()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether trying again would only fail again: a damaged journal, or a file of the copy that is gone or
/// cannot be written to. Such a copy is built anew; it must not keep everybody from doing that. What an
/// engine or the vault says of the moment, or a full disk, passes.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Repository(error) => matches!(error.class(), Class::Corrupt | Class::Failed),
        error => error.class() == Class::Corrupt,
    }
}

fn any_lost(placing: &Placing) -> Result<bool, Error> {
    for placement in &placing.placements {
        if placement.is_lost()? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves what has not been moved yet.
fn carry_on(left: &Left<'_>, placing: &Placing) -> Result<(), Error> {
    let site = left.site;
    if placing.own {
        let engine = site.engine()?;
        for (root, placement) in engine.roots().iter().zip(&placing.placements) {
            if !placement.is_placed()? || placement.is_half_applied() {
                left.with_context(|cx| engine.ready_to_replace(cx, root, &placement.target))?;
            }
        }
    }
    move_all(site, left.id, placing)
}

/// Nothing could be moved: the old content stands whole, so the new goes, and nobody is kept
/// waiting for what will not happen.
fn take_back(left: &mut Left<'_>, placing: &Placing, why: &Error) -> Result<(), Error> {
    abandon(left)?;
    for placement in &placing.placements {
        placement.drop_staged()?;
    }
    if placing.own {
        MemberRecord::change(left.site, |record| record.applying = None)?;
    }
    left.undone("place", format!("nothing was put in place ({})", why.chain()))?;
    left.undone("stage", "what was staged was removed")
}

/// What was to be written is damaged or gone, so the copy is neither the old point nor the new one. It
/// must not bar the way to a new copy: nothing is known of it any more, and its gate stays closed.
fn give_up(left: &mut Left<'_>, placing: &Placing, why: &Error) -> Result<(), Error> {
    for placement in &placing.placements {
        // The last there is of it is not ours to remove.
        if placement.is_lost()? {
            let (target, kept) = (&placement.target, placement.keep_old()?);
            left.found(format!("what stood at {} is at {}", target.display(), kept.display()));
        }
        placement.drop_staged()?;
    }
    if placing.own {
        MemberRecord::change(left.site, |record| {
            record.applying = None;
            record.applied = None;
            record.unloaded = Some(placing.snapshot);
        })?;
    }
    let said = format!("the copy is of no use any more ({}); build it anew", why.chain());
    left.finished("settle", said)
}

/// The content is in place; its engine takes it, or refuses it once more. A refusal is an end, too:
/// the gate stays closed, and the next restore or refresh may bring something better.
fn bring_to_life(left: &mut Left<'_>, placing: &Placing) -> Result<(), Error> {
    let site = left.site;
    for placement in &placing.placements {
        placement.drop_staged()?;
    }
    if !placing.own {
        return left.finished("settle", "what was being put in place was brought to its end");
    }
    let (engine, meta) = (site.engine()?, kept_meta(site, left.dir, placing.snapshot)?);
    let activated = left.with_context(|cx| engine.activate(cx, &meta, &placing.purpose));
    match activated {
        Ok(()) => {
            record_left(left, placing, true)?;
            left.finished("settle", "what was being put in place was brought to its end")
        }
        Err(error) if error.class() == Class::Cancelled => Err(error),
        Err(error) => {
            record_left(left, placing, false)?;
            let said = format!("it is in place, but was not taken: {}", error.chain());
            left.finished("settle", said)
        }
    }
}

/// The content was taken, and that was written down here, but the vault has not heard of it. What stands there
/// now is not written down again: what somebody has written to it since would count as what was put there.
fn tell_vault(left: &mut Left<'_>, placing: &Placing) -> Result<(), Error> {
    record_left_there(left, placing, true)?;
    left.finished("settle", "what was being put in place was brought to its end")
}

fn move_all(site: &ServiceSite, id: &OperationId, placing: &Placing) -> Result<(), Error> {
    if placing.own {
        MemberRecord::change(site, |record| record.applying = Some(id.clone()))?;
    }
    placing.placements.iter().try_for_each(Placement::place)
}

/// `meta` describes what was put in this member's own place; none if it went elsewhere.
fn settle(
    site: &ServiceSite,
    cx: &engines::Context<'_>,
    placing: &Placing,
    meta: Option<&SnapshotMeta>,
) -> Result<(), Error> {
    for placement in &placing.placements {
        placement.drop_staged()?;
    }
    let Some(meta) = meta else { return Ok(()) };
    site.engine()?.activate(cx, meta, &placing.purpose)?;
    record(site, placing, true)
}

/// Writes down what this member holds now, here and in the vault.
pub(crate) fn record(site: &ServiceSite, placing: &Placing, loaded: bool) -> Result<(), Error> {
    record_here(site, placing, loaded)?;
    record_there(site, placing, loaded)
}

/// The same for what an operation left that died.
pub(crate) fn record_left(left: &Left<'_>, placing: &Placing, loaded: bool) -> Result<(), Error> {
    record_here(left.site, placing, loaded)?;
    record_left_there(left, placing, loaded)
}

fn record_left_there(left: &Left<'_>, placing: &Placing, loaded: bool) -> Result<(), Error> {
    if placing.purpose == Purpose::Standby && loaded {
        left.vault_answers()?;
    }
    record_there(left.site, placing, loaded)
}

fn record_here(site: &ServiceSite, placing: &Placing, loaded: bool) -> Result<(), Error> {
    let engine = site.engine()?;
    let standby = placing.purpose == Purpose::Standby;
    let follows = engine.refresh() == Refresh::Follow;
    if standby && !follows {
        for (number, placement) in placing.placements.iter().enumerate() {
            let (target, manifest) = (&placement.target, manifest(site, number));
            match placement.touched.as_ref().filter(|_| engine.refresh() == Refresh::Exchange) {
                // What somebody has written elsewhere in it still shows.
                Some(touched) if manifest.exists() => {
                    repository::restore::update_manifest(target, &manifest, touched)?;
                }
                _ => repository::restore::record_manifest(target, &manifest)?,
            }
        }
    }
    MemberRecord::change(site, |record| {
        // In one step: before it nobody but this operation knows what is here, and from it on the copy may
        // be written to. What its engine did not take is offered to it again.
        record.recorded = record.applying.take().filter(|_| loaded);
        // Whatever had rotted, what is in place now was read and found whole, or came from the vault.
        record.rotten = false;
        record.unloaded = (!loaded).then_some(placing.snapshot);
        record.overwriting = None;
        record.restored = (!standby).then_some(placing.snapshot);
        record.applied = standby.then_some(AppliedHere {
            snapshot: placing.snapshot,
            source_time: placing.source_time,
            roots: if follows { 0 } else { placing.placements.len() },
            log: placing.log.clone(),
            replayed: placing.replayed,
        });
    })?;
    Ok(())
}

fn record_there(site: &ServiceSite, placing: &Placing, loaded: bool) -> Result<(), Error> {
    // In the vault a standby that was not taken is still importing, and cannot take over.
    if placing.purpose == Purpose::Standby && loaded {
        let applied = Applied {
            snapshot: placing.snapshot,
            source_time: placing.source_time,
            position: placing.position.clone(),
            at: Timestamp::now(),
        };
        site.state()?.update(|state| {
            // A member that has left meanwhile has nothing to say there.
            if state.members.get(site.member()).is_none_or(|m| m.role != Role::Standby) {
                return Ok(());
            }
            state.applied(site.member(), Some(applied.clone()))
        })?;
    }
    Ok(())
}
