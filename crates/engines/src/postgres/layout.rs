//! Which files of a data directory make a copy of the server, and where else some of them are.

use super::connect::Session;
use super::detail::Tablespace;
use super::facts::Facts;
use super::{DATA, conf};
use crate::{CaptureSink, Error, FileMeta, TreeOptions};
use jiff::Timestamp;
use std::fs::{self, Metadata};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories whose content is of no use to a copy, or belongs to this server alone.
/// `pg_basebackup` leaves the same ones out; `pg_wal` and `pg_tblspc` are captured apart.
const EMPTIED: [&str; 9] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_wal",
];

/// Files that belong to this server alone, by name.
const LEFT_OUT: [&str; 21] = [
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles",
    "current_logfiles.tmp",
    "pg_internal.init*",
    "pgsql_tmp*",
    // Of other backups and other restores.
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "tablespace_map",
    "tablespace_map.old",
    "standby.signal",
    "recovery.signal",
    super::STARTUP_LOG,
    super::STARTUP_LOG_OLD,
    super::server::PROMOTING,
    super::over::MARK,
    super::over::MEANWHILE,
    // Captured last, and verified.
    "global/pg_control",
];

/// Settings that say where things are on this host, and not what the server is.
const PLACES: [&str; 5] =
    ["config_file", "data_directory", "external_pid_file", "hba_file", "ident_file"];

/// Where the server's files are.
#[derive(Debug)]
pub(super) struct Layout {
    /// Files that a copy needs in its data directory and that are not in this one's: name, bytes.
    gathered: Vec<(&'static str, Vec<u8>)>,
}

impl Layout {
    /// Asks where the configuration is, and gathers what of it is outside the data directory, as
    /// Debian has it.
    pub(super) fn look(
        session: &mut Session,
        facts: &Facts,
        data_dir: &Path,
    ) -> Result<Layout, Error> {
        let inside = |file: &str| {
            // As the server sees it; it may run in a container.
            Path::new(file).starts_with(facts.setting("data_directory"))
                || Path::new(file).canonicalize().is_ok_and(|file| {
                    data_dir.canonicalize().is_ok_and(|data_dir| file.starts_with(data_dir))
                })
        };
        let mut gathered = Vec::new();
        let rows = session.rows(
            "show its settings",
            "SELECT name, reset_val, sourcefile FROM pg_settings \
             WHERE source IN ('configuration file', 'command line', 'environment variable') \
             ORDER BY name",
            &[],
        )?;
        let config_inside = inside(facts.setting("config_file"));
        let all_inside = rows.iter().all(|row| row.get::<_, Option<&str>>(2).is_none_or(&inside));
        if !(config_inside && all_inside) {
            let mut text = String::from(
                "# The settings that the server had when it was captured. Its own files were\n\
                 # outside its data directory.\n",
            );
            for row in &rows {
                let (name, value): (&str, Option<&str>) = (row.get(0), row.get(1));
                if !PLACES.contains(&name) {
                    text.push_str(&format!("{name} = {}\n", conf::quoted(value.unwrap_or(""))));
                }
            }
            gathered.push(("postgresql.conf", text.into_bytes()));
        }
        for (setting, name, needed) in
            [("hba_file", "pg_hba.conf", true), ("ident_file", "pg_ident.conf", false)]
        {
            let file = facts.setting(setting);
            if inside(file) && Path::new(file).ends_with(name) {
                continue;
            }
            match fs::read(file) {
                Ok(bytes) => gathered.push((name, bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && !needed => {}
                Err(e) => {
                    return Err(Error::io("read the server's", file, e).hinting(format!(
                        "Without {name} a restored copy admits nobody. Let this user read it."
                    )));
                }
            }
        }
        Ok(Layout { gathered })
    }

    /// Nothing is outside the data directory, as far as is known.
    pub(super) fn all_inside() -> Layout {
        Layout { gathered: Vec::new() }
    }

    /// How the data directory is read.
    pub(super) fn tree_options(&self, chunk: Option<NonZeroU64>) -> TreeOptions {
        let gathered = self.gathered.iter().map(|(name, _)| (*name).to_owned());
        TreeOptions {
            exclude: LEFT_OUT.iter().map(|name| (*name).to_owned()).chain(gathered).collect(),
            emptied: EMPTIED.iter().map(|name| (*name).to_owned()).collect(),
            ..relation_options(chunk)
        }
    }

    /// Adds the configuration that was gathered.
    pub(super) fn stream_configuration(
        &self,
        data_dir: &Path,
        sink: &mut dyn CaptureSink,
    ) -> Result<(), Error> {
        self.gathered.iter().try_for_each(|(name, bytes)| stream(sink, data_dir, name, bytes))
    }
}

/// How files that the server writes to are read.
///
/// A file whose times and size are those of the previous base is not read again. That is safe here
/// for three reasons, and all are needed. The server writes through the file system and never sets
/// times back, so that each write moves the change time of the inode. Who reads the file waits,
/// after looking at its times, until no write could leave the same ones, and does not vouch for a
/// file that is never at rest. And what was torn or half new in the previous base is of a file that
/// was written to after its times were noted, so it is read now.
///
/// What is read is cut at fixed places: a page that was written to changes the one chunk that it is
/// in, and all others are known by their hash.
pub(super) fn relation_options(chunk: Option<NonZeroU64>) -> TreeOptions {
    TreeOptions {
        chunk_bytes: chunk,
        exclude: vec!["pgsql_tmp*".to_owned(), "pg_internal.init*".to_owned()],
        changes_expected: true,
        ..TreeOptions::default()
    }
}

/// The directories of each tablespace that belong to a server, by name.
type Versions = Vec<(String, PathBuf)>;

/// The tablespaces, as the data directory links to them. They are captured as plain directories in
/// its `pg_tblspc`: a restored link would lead into the source's own files if the copy is on the
/// same host, and nowhere if it is not.
pub(super) fn tablespaces(
    data_dir: &Path,
    major: u32,
) -> Result<Vec<(Tablespace, Versions)>, Error> {
    let links = data_dir.join("pg_tblspc");
    let mut found = Vec::new();
    for entry in fs::read_dir(&links).map_err(|e| Error::io("read", links.display(), e))? {
        let entry = entry.map_err(|e| Error::io("read", links.display(), e))?;
        let path = entry.path();
        let Some(oid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let location = fs::canonicalize(&path)
            .map_err(|e| Error::io("follow the tablespace", path.display(), e))?;
        let mut versions = Versions::new();
        for entry in fs::read_dir(&location)
            .map_err(|e| Error::io("read the tablespace", location.display(), e))?
        {
            let entry = entry.map_err(|e| Error::io("read", location.display(), e))?;
            // A server of another version, before an upgrade, has a directory of its own beside.
            let ours = format!("PG_{major}_");
            if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(&ours)) {
                versions.push((name.to_owned(), entry.path()));
            }
        }
        versions.sort();
        let location = location.display().to_string();
        found.push((Tablespace { oid, location }, versions));
    }
    found.sort_by_key(|(tablespace, _)| tablespace.oid);
    Ok(found)
}

/// Adds a file of the data directory with these bytes.
pub(super) fn stream(
    sink: &mut dyn CaptureSink,
    data_dir: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<(), Error> {
    let dir = fs::metadata(data_dir).map_err(|e| Error::io("look at", data_dir.display(), e))?;
    let meta = FileMeta { mode: 0o600, mtime: Timestamp::now(), uid: dir.uid(), gid: dir.gid() };
    let mut content = bytes;
    sink.file(&format!("{DATA}/{name}"), &meta, &mut content)
}

/// What a file on disk has.
pub(super) fn meta_of(meta: &Metadata) -> FileMeta {
    let nanoseconds = i32::try_from(meta.mtime_nsec()).unwrap_or(0);
    FileMeta {
        mode: meta.mode() & 0o7777,
        mtime: Timestamp::new(meta.mtime(), nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH),
        uid: meta.uid(),
        gid: meta.gid(),
    }
}
