//! What this host remembers of its own copy: which point it holds, and whether the start gate is
//! closed because the copy is being changed or was taken out of service.

use crate::wal::sqlite::HeldLog;
use crate::{Error, ServiceSite};
use jiff::Timestamp;
use model::{Class, Generation, OperationId, SnapshotId};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// The record, in `member.json` of the service's state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemberRecord {
    /// The point that the last restore or refresh put here, untouched as far as we know.
    #[serde(default)]
    pub applied: Option<AppliedHere>,
    /// An operation is changing the copy at this moment, or died while it did. The gate is closed.
    #[serde(default)]
    pub applying: Option<OperationId>,
    /// The operation that has written down here what it put in place, whatever the vault has heard of that.
    /// Somebody may have written to the copy since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<OperationId>,
    /// The copy in place is whole, but its engine refused to load it. The gate is closed.
    #[serde(default)]
    pub unloaded: Option<SnapshotId>,
    /// The copy is being restored over in its place, to this point, or that did not come to its end.
    /// The gate is closed until it does.
    #[serde(default)]
    pub overwriting: Option<SnapshotId>,
    /// The primary's copy is that of this point, put here by a restore, and no backup has become the
    /// head since: what is here differs from the head by more than what was written to.
    #[serde(default)]
    pub restored: Option<SnapshotId>,
    /// A scrub found that something of the standby's copy has rotted, and nothing has replaced it yet:
    /// the next refresh takes nothing of the copy unread.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotten: bool,
    /// What the last scrub found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrubbed: Option<Scrubbed>,
    /// The engine takes the copy back to where a new primary began, or died while it did: what it has
    /// left there is no copy to rewind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rewinding: bool,
    /// The generation at which a rejoin has made this member a standby: what it holds since is what that
    /// has put here, even if it died then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoined: Option<Generation>,
    /// Somebody took this member out of service. The gate is closed.
    #[serde(default)]
    pub offline: Option<Timestamp>,
}

/// What a scrub of a standby's copy found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Scrubbed {
    /// When it was through.
    pub at: Timestamp,
    /// What the copy was compared with.
    pub snapshot: SnapshotId,
    /// How many files had rotted.
    pub rotten: usize,
    /// Who judged the copy.
    #[serde(default)]
    pub judged_by: JudgedBy,
}

/// Who judged a standby's copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JudgedBy {
    /// The snapshot: every byte was compared.
    #[default]
    Snapshot,
    /// Its engine's own check: a log was replayed into the copy, so that no snapshot holds it byte for
    /// byte. Bytes that the check does not see through may have rotted.
    Engine,
}

/// A point that is in place on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AppliedHere {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its consistency time.
    pub source_time: Timestamp,
    /// How many roots have a manifest beside this record.
    pub roots: usize,
    /// Where in their logs the copies are, if the service has a log that we replay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<HeldLog>,
    /// The log was replayed into the copies: they are not byte for byte what the snapshot holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replayed: bool,
}

impl MemberRecord {
    /// What is remembered; nothing yet is an empty record.
    pub fn load(site: &ServiceSite) -> Result<MemberRecord, Error> {
        let path = site.dir().join("member.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::new(Class::Corrupt, format!("{} is damaged", path.display()))
                    .because(e)
                    .hinting("Look at what the copy of this member is, then remove the file and run `mainstay refresh --reseed`.")
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(MemberRecord::default()),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    /// Remembers it, durable on return.
    pub(crate) fn save(&self, site: &ServiceSite) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        write_durable(&site.dir(), "member.json", &text)
    }

    /// Loads, changes and saves.
    pub(crate) fn change(
        site: &ServiceSite,
        change: impl FnOnce(&mut MemberRecord),
    ) -> Result<MemberRecord, Error> {
        let mut record = MemberRecord::load(site)?;
        let before = record.clone();
        change(&mut record);
        if record != before {
            record.save(site)?;
        }
        Ok(record)
    }
}

/// The manifest of one root.
pub(crate) fn manifest(site: &ServiceSite, root: usize) -> std::path::PathBuf {
    site.dir().join(format!("manifest-{root}"))
}

/// Replaces a small file atomically and durably.
pub(crate) fn write_durable(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    private_dir(dir).map_err(|e| Error::io("make the directory", dir, e))?;
    let (path, temporary) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| Error::io("write", &path, e))
}

/// Makes a directory and those above it that are missing, for this user alone: copies of data pass
/// through, and whoever can open a lock file can hold the lock.
pub(crate) fn private_dir(dir: &Path) -> std::io::Result<()> {
    // On a file system that is frozen, whoever asks for one that is there waits until it is not.
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
