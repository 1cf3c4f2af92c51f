//! A line of a manifest: what is compared of a file.

use crate::NodeKind;
use crate::disk::{self, Stat};
use std::io::{self, Write};

/// One line: a path below the root, and what is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) st_mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// None if they were not looked at: with the same time of the last change of the inode they are the
    /// same, and to ask for them takes longer than for all the rest.
    pub(super) xattrs: Option<String>,
    /// For all but directories, whose times change with their entries, and these have lines.
    pub(super) file: Option<FileState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) ctime: (i64, u32),
    pub(super) inode: u64,
    pub(super) special: u64,
    pub(super) link_target: Vec<u8>,
}

impl Entry {
    /// Whether it is as it was recorded, as far as it was looked at.
    pub(super) fn looks_like(&self, recorded: &Entry) -> bool {
        let (now, before) = (&self.state, &recorded.state);
        self.path == recorded.path
            && (now.st_mode, now.uid, now.gid) == (before.st_mode, before.uid, before.gid)
            && now.file == before.file
            && (now.xattrs.is_none() || now.xattrs == before.xattrs)
    }

    /// Tabs between the fields: quoted names have none.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let state = &self.state;
        let xattrs = state.xattrs.as_deref().unwrap_or_default();
        write!(out, "{:o}\t{}\t{}\t{xattrs}\t", state.st_mode, state.uid, state.gid)?;
        if let Some(file) = &state.file {
            let ((ms, mn), (cs, cn)) = (file.mtime, file.ctime);
            let (size, inode, special) = (file.size, file.inode, file.special);
            let target = disk::shown(&file.link_target);
            write!(out, "{size}\t{ms}.{mn:09}\t{cs}.{cn:09}\t{inode}\t{special}\t{target}\t")?;
        }
        writeln!(out, "{}", disk::shown(&self.path))
    }

    pub(super) fn parse(line: &str) -> Option<Entry> {
        let mut fields = line.split('\t');
        let st_mode = u32::from_str_radix(fields.next()?, 8).ok()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let xattrs = Some(fields.next()?.to_owned());
        let file = if NodeKind::from_st_mode(st_mode) == NodeKind::Dir {
            None
        } else {
            let size = fields.next()?.parse().ok()?;
            let mut time = || -> Option<(i64, u32)> {
                let (seconds, nanos) = fields.next()?.split_once('.')?;
                Some((seconds.parse().ok()?, nanos.parse().ok()?))
            };
            let (mtime, ctime) = (time()?, time()?);
            let inode = fields.next()?.parse().ok()?;
            let special = fields.next()?.parse().ok()?;
            let link_target = crate::format::tree::unquoted(fields.next()?)?;
            Some(FileState { size, mtime, ctime, inode, special, link_target })
        };
        let path = crate::format::tree::unquoted(fields.next()?)?;
        if fields.next().is_some() {
            return None;
        }
        Some(Entry { path, state: State { st_mode, uid, gid, xattrs, file } })
    }
}

impl FileState {
    pub(super) fn new(stat: &Stat, link_target: Vec<u8>) -> FileState {
        let (mtime, ctime, inode) = (stat.mtime, stat.ctime, stat.inode);
        FileState { size: stat.size, mtime, ctime, inode, special: stat.special, link_target }
    }
}
