//! What a journal does to names: what is staged takes its place, and what has none any more goes.
//!
//! Each can be done again. What is no longer staged was put in place before; that it is there is looked
//! at, since whoever has removed the staged files would otherwise go unnoticed.

use crate::restore::site::{Site, chmod_at, remove_other_xattrs};
use crate::{Error, Node, NodeKind, disk};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What lets its owner list a directory and change it.
const OURS: u32 = 0o700;

pub(super) struct Names<'a> {
    site: &'a Site,
    /// What is staged; nothing, if it has gone to its place and the rest was removed.
    staged: Option<OwnedFd>,
    /// The directory that was used last, by its path.
    last: Option<(Vec<u8>, Dir)>,
}

/// A directory of the copy, and the one of the same path in what is staged.
struct Dir {
    there: OwnedFd,
    staged: Option<OwnedFd>,
}

impl<'a> Names<'a> {
    pub(super) fn new(site: &'a Site, staged: Option<&Path>) -> Result<Names<'a>, Error> {
        let staged = match staged.map(|path| (path, disk::open_dir(path))) {
            None => None,
            Some((_, Ok(handle))) => Some(handle),
            Some((_, Err(e))) if e.kind() == io::ErrorKind::NotFound => None,
            Some((path, Err(e))) => return Err(Error::io("open", path, e)),
        };
        Ok(Names { site, staged, last: None })
    }

    /// Puts what is staged at this path in its place. Whatever else is there goes.
    pub(super) fn take(&mut self, path: &[u8], node: &Node) -> io::Result<()> {
        let (dir, name) = self.dir(path)?;
        let Dir { there, staged } = dir;
        let coming = match staged {
            Some(staged) => stat(staged, name)?.map(|stat| (staged, stat)),
            None => None,
        };
        let stands = stat(there, name)?;
        let Some((from, coming)) = coming else {
            let placed = stands.is_some_and(|stat| {
                stat.kind() == node.kind && (node.kind != NodeKind::File || stat.size == node.size)
            });
            let gone = || io::Error::new(io::ErrorKind::NotFound, "what was staged for it is gone");
            return if placed { Ok(()) } else { Err(gone()) };
        };
        let is_dir = coming.kind() == NodeKind::Dir;
        if let Some(stands) = stands
            && (is_dir || stands.kind() == NodeKind::Dir)
        {
            remove(there, name)?;
        }
        match rustix::fs::renameat(from, name, there, name) {
            Err(Errno::ACCESS) => {
                open_up(there)?;
                if is_dir {
                    // It gets another directory above it, which is written in it. Its own record
                    // gives it its mode again.
                    open_up(disk::open_dir_at(from, name)?)?;
                }
                Ok(rustix::fs::renameat(from, name, there, name)?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Removes what the copy has at this path, with all below it.
    pub(super) fn remove(&mut self, path: &[u8]) -> io::Result<()> {
        match self.dir(path).and_then(|(dir, name)| remove(&dir.there, name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Gives a directory its attributes.
    pub(super) fn directory(&mut self, path: &[u8], node: &Node) -> io::Result<()> {
        let handle = walk(&self.site.base, &parts(path)?)?;
        remove_other_xattrs(handle.as_fd(), node)?;
        self.site.give_attributes(handle.as_fd(), node)
    }

    /// The directory that a path is in, and its name there.
    fn dir<'p>(&mut self, path: &'p [u8]) -> io::Result<(&Dir, &'p [u8])> {
        let mut parts = parts(path)?;
        let name = parts.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let above = parts.join(&b'/');
        if self.last.as_ref().is_none_or(|(last, _)| *last != above) {
            let there = walk(&self.site.base, &parts)?;
            let staged = match self.staged.as_ref().map(|staged| walk(staged, &parts)) {
                None => None,
                Some(Ok(staged)) => Some(staged),
                // All that was in it has gone to its place, and then it was removed.
                Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => None,
                Some(Err(e)) => return Err(e),
            };
            self.last = Some((above, Dir { there, staged }));
        }
        match &self.last {
            Some((_, dir)) => Ok((dir, name)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// The names in a path, none of which leads elsewhere.
fn parts(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    match parts.as_slice() {
        // The root.
        [b""] => Ok(Vec::new()),
        _ if parts.iter().any(|part| matches!(*part, b"" | b"." | b"..")) => {
            Err(io::ErrorKind::InvalidInput.into())
        }
        _ => Ok(parts),
    }
}

/// Opens a directory below another, through no link.
fn walk(base: &OwnedFd, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let mut handle = base.try_clone()?;
    for part in parts {
        handle = enter(&handle, part)?;
    }
    Ok(handle)
}

fn enter(within: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    match disk::open_dir_at(within, name) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            chmod_at(within, name, |mode| Mode::from_raw_mode(mode | OURS))?;
            disk::open_dir_at(within, name)
        }
        opened => opened,
    }
}

/// Lets us change what is in a directory of ours.
fn open_up(dir: impl AsFd) -> io::Result<()> {
    let mode = disk::stat(&dir)?.st_mode & 0o7777;
    Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode | OURS))?)
}

fn stat(dir: impl AsFd, name: &[u8]) -> io::Result<Option<disk::Stat>> {
    match disk::stat_at(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a name and all below it, through no link, whatever the modes of our directories are.
fn remove(within: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let is_dir = disk::stat_at(within, name)?.kind() == NodeKind::Dir;
    let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    if is_dir {
        let dir = enter(within, name)?;
        for below in disk::names(&dir)? {
            remove(&dir, &below)?;
        }
    }
    match rustix::fs::unlinkat(within, name, flags) {
        Err(Errno::ACCESS) => {
            open_up(within)?;
            Ok(rustix::fs::unlinkat(within, name, flags)?)
        }
        removed => Ok(removed?),
    }
}
