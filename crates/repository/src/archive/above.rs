//! The directories above what is archived, up to the root of the snapshot.

use super::meta::{self, Owners};
use super::walk::save_tree;
use crate::{BlobWriter, Error, Node, NodeKind, Time, TreeEncoder, TreeId, disk};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A directory that is put together here.
#[derive(Debug, Default)]
pub(super) struct Above {
    /// What the host says of it.
    node: Option<Node>,
    entries: BTreeMap<Vec<u8>, Place>,
}

#[derive(Debug)]
enum Place {
    Dir(Box<Above>),
    Done(Box<Node>),
}

/// The names in an absolute slash path; none for the root.
pub(super) fn parts(at: &str) -> Result<Vec<&[u8]>, Error> {
    let bad = || Error::Invalid(format!("{at:?} is no absolute path without '.' and '..'"));
    let rest = at.strip_prefix('/').ok_or_else(bad)?;
    let parts: Vec<&[u8]> =
        rest.split('/').filter(|part| !part.is_empty()).map(str::as_bytes).collect();
    if parts.iter().any(|part| *part == b"." || *part == b".." || part.contains(&0)) {
        return Err(bad());
    }
    Ok(parts)
}

/// Reads the entries of a directory that was archived before.
pub(super) type Opener<'a> = &'a dyn Fn(TreeId) -> Result<Vec<Node>, Error>;

impl Above {
    /// Puts a node at a path, under the path's last name. A directory on the way that was archived
    /// before is opened, and gets the node beside what it has.
    pub(super) fn add(
        &mut self,
        parts: &[&[u8]],
        mut node: Node,
        open: Opener<'_>,
    ) -> Result<(), Error> {
        let taken = || {
            let path = disk::shown(&parts.join(&b'/'));
            Error::Invalid(format!("/{path} would be in the snapshot twice"))
        };
        let Some((name, dirs)) = parts.split_last() else { return Err(taken()) };
        let mut dir = self;
        for part in dirs {
            let place =
                dir.entries.entry(part.to_vec()).or_insert_with(|| Place::Dir(Box::default()));
            if let Place::Done(done) = place {
                let Some(subtree) = done.subtree else { return Err(taken()) };
                let entries = open(subtree)?.into_iter();
                *place = Place::Dir(Box::new(Above {
                    node: Some((**done).clone()),
                    entries: entries
                        .map(|node| (node.name.clone(), Place::Done(Box::new(node))))
                        .collect(),
                }));
            }
            let Place::Dir(next) = place else { return Err(taken()) };
            dir = next;
        }
        if dir.entries.contains_key(*name) {
            return Err(taken());
        }
        node.name = name.to_vec();
        dir.entries.insert(name.to_vec(), Place::Done(Box::new(node)));
        Ok(())
    }

    /// Puts nodes into the root.
    pub(super) fn merge(&mut self, nodes: Vec<Node>, open: Opener<'_>) -> Result<(), Error> {
        for node in nodes {
            let name = node.name.clone();
            self.add(&[&name], node, open)?;
        }
        Ok(())
    }

    /// Takes the attributes of the directories above a path of the host from the host.
    pub(super) fn describe(&mut self, parts: &[&[u8]], owners: &Owners) {
        let Some((_, dirs)) = parts.split_last() else { return };
        let mut path = PathBuf::from("/");
        let mut dir = self;
        for part in dirs {
            path.push(std::ffi::OsStr::from_bytes(part));
            let place =
                dir.entries.entry(part.to_vec()).or_insert_with(|| Place::Dir(Box::default()));
            let Place::Dir(next) = place else { return };
            dir = next;
            // What may not be looked at up there gets plain attributes: nothing of it is archived.
            let looked = disk::open_dir(&path)
                .and_then(|handle| Ok((disk::stat(&handle)?, disk::xattrs(&handle)?)));
            if let Ok((stat, xattrs)) = looked {
                let mut node = meta::node(part, &stat, owners);
                node.xattrs = xattrs;
                dir.node = Some(node);
            }
        }
    }

    /// Writes the directories, the deepest first. Returns the root's tree.
    pub(super) fn save(self, writer: &BlobWriter) -> Result<TreeId, Error> {
        let mut encoder = TreeEncoder::new();
        for (name, place) in self.entries {
            let node = match place {
                Place::Done(node) => *node,
                Place::Dir(dir) => {
                    let mut node = dir.node.clone().unwrap_or_else(|| plain(&name));
                    node.subtree = Some(dir.save(writer)?);
                    node
                }
            };
            encoder.push(&node)?;
        }
        save_tree(writer, encoder.finish())
    }
}

/// A directory that the host does not have. Its times are always the same, so that two snapshots of
/// the same content have the same tree.
fn plain(name: &[u8]) -> Node {
    let mut node = Node::new(name, 0o040_755);
    let time = Time::utc(0, 0);
    (node.mtime, node.atime, node.ctime) = (time, time, time);
    debug_assert_eq!(node.kind, NodeKind::Dir);
    node
}
