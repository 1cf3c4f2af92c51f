//! Reads what is in a snapshot.

use crate::{BlobId, BlobKind, Error, Node, NodeKind, Repository, Tree, TreeId, disk};
use model::SnapshotId;
use std::io::{self, Read, Write};

/// What [`SnapshotReader::walk`] calls with each absolute path and its node.
pub type Visit<'a> = dyn FnMut(&[u8], &Node) -> Result<(), Error> + 'a;

/// One snapshot, opened for reading.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    repository: Repository,
    id: SnapshotId,
    root: TreeId,
}

impl SnapshotReader {
    /// Opens it.
    pub fn open(repository: &Repository, id: SnapshotId) -> Result<SnapshotReader, Error> {
        let snapshot = repository.snapshot(id)?;
        let root = snapshot
            .tree
            .parse()
            .map_err(|e| Error::damaged(format!("snapshot {}", id.short()), e))?;
        Ok(SnapshotReader { repository: repository.clone(), id, root })
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tree of the root directory.
    pub fn root(&self) -> TreeId {
        self.root
    }

    /// Whether a path is the root, which has no node and so no attributes.
    pub(crate) fn is_root(&self, path: &[u8]) -> Result<bool, Error> {
        Ok(parts(path)?.is_empty())
    }

    /// The node at an absolute slash path; none if there is none. `/` is the root directory.
    pub fn node(&self, path: &[u8]) -> Result<Option<Node>, Error> {
        let parts = parts(path)?;
        if parts.is_empty() {
            // The root has no node of its own.
            let mut root = Node::new([], 0o040_755);
            root.subtree = Some(self.root);
            return Ok(Some(root));
        }
        find(&self.repository, self.root, &parts)
    }

    /// The nodes of the directory at this path.
    pub fn list(&self, path: &[u8]) -> Result<Vec<Node>, Error> {
        Ok(load_tree(&self.repository, self.directory(path)?.1)?.nodes)
    }

    /// Calls `visit` for everything below `path`, parents first, with absolute paths.
    pub fn walk(&self, path: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let mut full = b"/".to_vec();
        full.extend(parts(path)?.join(&b'/'));
        // Nodes of the directories on the way that are not yet visited, the next one last, and how
        // long the directory's path is. No recursion: a snapshot may be as deep as it likes.
        let mut open: Vec<(Vec<Node>, usize)> = Vec::new();
        let mut nodes = self.list(path)?;
        nodes.reverse();
        open.push((nodes, full.len()));
        while let Some((nodes, length)) = open.last_mut() {
            full.truncate(*length);
            let Some(node) = nodes.pop() else {
                open.pop();
                continue;
            };
            if full.last() != Some(&b'/') {
                full.push(b'/');
            }
            full.extend_from_slice(&node.name);
            visit(&full, &node)?;
            if node.kind == NodeKind::Dir
                && let Some(id) = node.subtree
            {
                let mut nodes = load_tree(&self.repository, id)?.nodes;
                nodes.reverse();
                open.push((nodes, full.len()));
            }
        }
        Ok(())
    }

    /// Writes the content of the file at this path, each blob verified by its SHA-256.
    pub fn dump(&self, path: &[u8], to: &mut dyn Write) -> Result<(), Error> {
        let mut content = self.content(path)?;
        while let Some(blob) = content.next_blob()? {
            to.write_all(&blob).map_err(|e| Error::io("write", disk::shown(path), e))?;
        }
        Ok(())
    }

    /// Opens the file at this path for reading from the beginning to the end.
    pub fn content(&self, path: &[u8]) -> Result<Content, Error> {
        let node = self.existing(path)?;
        if node.kind != NodeKind::File {
            return Err(Error::Invalid(format!("{} is not a file", disk::shown(path))));
        }
        Ok(Content {
            repository: self.repository.clone(),
            path: disk::shown(path),
            left: node.size,
            blobs: node.content.into_iter(),
            current: io::Cursor::default(),
        })
    }

    /// The node at this path, which has to be there.
    pub(crate) fn existing(&self, path: &[u8]) -> Result<Node, Error> {
        self.node(path)?.ok_or_else(|| {
            let (path, snapshot) = (disk::shown(path), self.id.short());
            Error::Missing(format!("there is no {path} in snapshot {snapshot}"))
        })
    }

    /// The directory at this path, which has to be there, and the tree of what is in it.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<(Node, TreeId), Error> {
        let node = self.existing(path)?;
        match node.subtree {
            Some(tree) if node.kind == NodeKind::Dir => Ok((node, tree)),
            _ => Err(Error::Invalid(format!("{} is not a directory", disk::shown(path)))),
        }
    }
}

/// The content of a file, as a stream. Every blob is verified; a file that is shorter or longer than
/// its node says ends with an error.
#[derive(Debug)]
pub struct Content {
    repository: Repository,
    path: String,
    left: u64,
    blobs: std::vec::IntoIter<BlobId>,
    current: io::Cursor<Vec<u8>>,
}

impl Content {
    /// The next part of the content; none at its end.
    pub fn next_blob(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let wrong = || {
            Error::damaged(format!("the file {}", self.path), "its blobs are not as long as it is")
        };
        let Some(id) = self.blobs.next() else {
            return if self.left == 0 { Ok(None) } else { Err(wrong()) };
        };
        let blob = self.repository.load_blob(BlobKind::Data, &id)?;
        self.left = self.left.checked_sub(blob.len() as u64).ok_or_else(wrong)?;
        Ok(Some(blob))
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.current.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.next_blob().map_err(io::Error::other)? {
                Some(blob) => self.current = io::Cursor::new(blob),
                None => return Ok(0),
            }
        }
    }
}

/// The names in an absolute slash path; none for the root.
pub(crate) fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    if !path.starts_with(b"/") {
        return Err(Error::Invalid(format!("{:?} is no absolute path", disk::shown(path))));
    }
    Ok(path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect())
}

/// Loads a directory.
pub(crate) fn load_tree(repository: &Repository, id: TreeId) -> Result<Tree, Error> {
    decode_tree(id, &repository.load_blob(BlobKind::Tree, &id.into())?)
}

/// Reads the bytes of a tree, whose hash was verified.
pub(crate) fn decode_tree(id: TreeId, bytes: &[u8]) -> Result<Tree, Error> {
    Tree::decode(bytes).map_err(|e| match e {
        Error::Damaged { what, .. } => Error::damaged(format!("tree {id}"), what),
        e => e,
    })
}

/// How long the plain bytes of a data blob are.
pub(crate) fn blob_length(repository: &Repository, id: &BlobId) -> Result<u64, Error> {
    Ok(repository.locate(BlobKind::Data, id)?.plain_bytes())
}

/// The node at a path below a tree; none if there is none.
pub(crate) fn find(
    repository: &Repository,
    root: TreeId,
    parts: &[&[u8]],
) -> Result<Option<Node>, Error> {
    let Some((name, dirs)) = parts.split_last() else { return Ok(None) };
    let mut tree = root;
    for part in dirs {
        match load_tree(repository, tree)?.get(part) {
            Some(Node { kind: NodeKind::Dir, subtree: Some(id), .. }) => tree = *id,
            _ => return Ok(None),
        }
    }
    Ok(load_tree(repository, tree)?.get(name).cloned())
}
