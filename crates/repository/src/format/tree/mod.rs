//! Trees and their nodes: the content of one directory, as JSON.
//!
//! A tree is named by the SHA-256 of its bytes, so the bytes are made exactly as restic makes them:
//! order of fields, what is left out when empty, and the escapes of Go's encoders. Sources: restic's
//! design document, and the documentation of Go's packages `encoding/json`, `strconv` and `os`.

mod decode;
mod json;
mod mode;
mod plain;
mod quote;

use super::time::Time;
use super::{BlobId, TreeId};
use crate::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeKind {
    /// Regular file.
    #[default]
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Block device.
    Dev,
    /// Character device.
    CharDev,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// A kind that a later version of the format may add; kept, never restored.
    Irregular,
}

impl NodeKind {
    const NAMES: [(NodeKind, &'static str); 8] = [
        (NodeKind::File, "file"),
        (NodeKind::Dir, "dir"),
        (NodeKind::Symlink, "symlink"),
        (NodeKind::Dev, "dev"),
        (NodeKind::CharDev, "chardev"),
        (NodeKind::Fifo, "fifo"),
        (NodeKind::Socket, "socket"),
        (NodeKind::Irregular, "irregular"),
    ];

    /// The kind of file that a `st_mode` names.
    pub fn from_st_mode(st_mode: u32) -> NodeKind {
        mode::kind(st_mode)
    }

    /// The word in a node's `type`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("irregular", |(_, name)| name)
    }

    fn from_name(name: &str) -> NodeKind {
        Self::NAMES.iter().find(|(_, n)| *n == name).map_or(NodeKind::Irregular, |(kind, _)| *kind)
    }
}

/// An extended attribute. POSIX ACLs and capabilities are among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    /// Name with its namespace: `user.comment`, `system.posix_acl_access`.
    pub name: String,
    /// Value.
    pub value: Vec<u8>,
}

/// One entry of a tree. Numbers that are zero and texts that are empty are not written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Unescaped name, as bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// The word in `type` where it is none that we know; `kind` is then `Irregular`.
    pub unknown_kind: Option<String>,
    /// Go's `FileMode`; see [`Node::set_st_mode`] and [`Node::permissions`].
    pub mode: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last access. Set to `mtime`, as restic does, so that reading a file changes no tree.
    pub atime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name.
    pub user: String,
    /// Group's name.
    pub group: String,
    /// Inode number.
    pub inode: u64,
    /// `st_dev`. Written for hard links only, which it is needed for; elsewhere it would change
    /// every tree whenever a file system is mounted under another number.
    pub device_id: u64,
    /// Bytes of a regular file.
    pub size: u64,
    /// Hard links to the inode.
    pub links: u64,
    /// Target of a symbolic link, as bytes.
    pub link_target: Vec<u8>,
    /// Extended attributes in the order in which the system lists them.
    pub xattrs: Vec<Xattr>,
    /// Attributes of other systems, by name, as JSON text.
    pub generic_attributes: BTreeMap<String, String>,
    /// `st_rdev` of a device.
    pub device: u64,
    /// Blobs of a regular file.
    pub content: Vec<BlobId>,
    /// Tree of a directory.
    pub subtree: Option<TreeId>,
    /// What went wrong when another program captured this.
    pub error: String,
    /// Fields that we do not know, as JSON text, in their order.
    pub other: Vec<(String, String)>,
}

impl Default for Time {
    /// The first instant of the year 1, as Go writes a time that was never set.
    fn default() -> Self {
        Time::utc(-62_135_596_800, 0)
    }
}

impl Node {
    /// A node with this name and `st_mode`, and nothing else.
    pub fn new(name: impl Into<Vec<u8>>, st_mode: u32) -> Node {
        let mut node = Node { name: name.into(), ..Node::default() };
        node.set_st_mode(st_mode);
        node
    }

    /// A plain file that is on no disk, with these permission bits (`0o600`), for
    /// [`Archiver::file`](crate::Archiver::file).
    pub fn streamed(permissions: u32, mtime: jiff::Timestamp, uid: u32, gid: u32) -> Node {
        let mut node = Node::new([], 0o100_000 | (permissions & 0o7777));
        let time = Time::from(mtime);
        (node.mtime, node.atime, node.ctime) = (time, time, time);
        (node.uid, node.gid, node.links) = (uid, gid, 1);
        node
    }

    /// Takes kind and mode from a `st_mode`.
    pub fn set_st_mode(&mut self, st_mode: u32) {
        self.kind = mode::kind(st_mode);
        self.mode = mode::to_go(st_mode);
    }

    /// The permission bits with setuid, setgid and sticky, as `chmod` takes them.
    pub fn permissions(&self) -> u32 {
        mode::permissions(self.mode)
    }

    /// Appends the node's JSON.
    fn write(&self, out: &mut String) {
        let start = out.len();
        json_key("name", start, out);
        json::string(quote::quote(&self.name).as_bytes(), out);
        json_key("type", start, out);
        let kind = self.unknown_kind.as_deref().unwrap_or(self.kind.name());
        json::string(kind.as_bytes(), out);
        json_number("mode", self.mode.into(), start, out);
        for (key, time) in [("mtime", self.mtime), ("atime", self.atime), ("ctime", self.ctime)] {
            json_key(key, start, out);
            out.push('"');
            let _ = write!(out, "{time}");
            out.push('"');
        }
        let _ = write!(out, ",\"uid\":{},\"gid\":{}", self.uid, self.gid);
        json_text("user", self.user.as_bytes(), start, out);
        json_text("group", self.group.as_bytes(), start, out);
        json_number("inode", self.inode, start, out);
        json_number("device_id", self.device_id, start, out);
        json_number("size", self.size, start, out);
        json_number("links", self.links, start, out);
        json_text("linktarget", &self.link_target, start, out);
        if std::str::from_utf8(&self.link_target).is_err() {
            json_key("linktarget_raw", start, out);
            let _ = write!(out, "\"{}\"", STANDARD.encode(&self.link_target));
        }
        if !self.xattrs.is_empty() {
            json_key("extended_attributes", start, out);
            for (at, xattr) in self.xattrs.iter().enumerate() {
                out.push_str(if at == 0 { "[{\"name\":" } else { ",{\"name\":" });
                json::string(xattr.name.as_bytes(), out);
                let _ = write!(out, ",\"value\":\"{}\"}}", STANDARD.encode(&xattr.value));
            }
            out.push(']');
        }
        if !self.generic_attributes.is_empty() {
            json_key("generic_attributes", start, out);
            for (at, (name, value)) in self.generic_attributes.iter().enumerate() {
                out.push(if at == 0 { '{' } else { ',' });
                json::string(name.as_bytes(), out);
                out.push(':');
                json::raw(value, out);
            }
            out.push('}');
        }
        json_number("device", self.device, start, out);
        json_key("content", start, out);
        if self.content.is_empty() {
            out.push_str(if self.kind == NodeKind::File { "[]" } else { "null" });
        } else {
            for (at, id) in self.content.iter().enumerate() {
                let _ = write!(out, "{}\"{}\"", if at == 0 { '[' } else { ',' }, id);
            }
            out.push(']');
        }
        if let Some(id) = &self.subtree {
            json_key("subtree", start, out);
            let _ = write!(out, "\"{id}\"");
        }
        json_text("error", self.error.as_bytes(), start, out);
        for (name, value) in &self.other {
            out.push(',');
            json::string(name.as_bytes(), out);
            out.push(':');
            json::raw(value, out);
        }
        out.push('}');
    }
}

/// Begins a field of the object that began at `start`.
fn json_key(key: &str, start: usize, out: &mut String) {
    out.push(if out.len() == start { '{' } else { ',' });
    let _ = write!(out, "\"{key}\":");
}

fn json_number(key: &str, value: u64, start: usize, out: &mut String) {
    if value != 0 {
        json_key(key, start, out);
        let _ = write!(out, "{value}");
    }
}

fn json_text(key: &str, value: &[u8], start: usize, out: &mut String) {
    if !value.is_empty() {
        json_key(key, start, out);
        json::string(value, out);
    }
}

/// A name or path as text on one line, as Go would quote it: what is no plain text is escaped.
pub(crate) fn quoted(name: &[u8]) -> String {
    quote::quote(name)
}

/// What [`quoted`] made of a name; none if it is nothing that it makes.
pub(crate) fn unquoted(text: &str) -> Option<Vec<u8>> {
    quote::unquote(text)
}

/// What is wrong with a name, if something is. Such a name could leave the directory it is in when
/// it is restored, so it is neither written nor read.
fn bad_name(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("is empty"),
        b"." | b".." => Some("is no name of its own"),
        _ if name.contains(&b'/') => Some("has a slash"),
        _ if name.contains(&0) => Some("has a NUL byte"),
        _ => None,
    }
}

/// The content of one directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// Entries, strictly increasing by the bytes of their names.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// The entry of this name.
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        self.nodes.get(self.find(name)?)
    }

    /// Which entry has this name; most likely this one, says who asks.
    pub(crate) fn find_near(&self, name: &[u8], likely: usize) -> Option<usize> {
        match self.nodes.get(likely) {
            Some(node) if node.name == name => Some(likely),
            _ => self.find(name),
        }
    }

    /// Which entry has this name.
    pub(crate) fn find(&self, name: &[u8]) -> Option<usize> {
        self.nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).ok()
    }

    /// The bytes of the tree. Names that are out of order, twice there or not fit for a directory
    /// are an error.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut encoder = TreeEncoder::new();
        self.nodes.iter().try_for_each(|node| encoder.push(node))?;
        Ok(encoder.finish())
    }

    /// Reads the bytes of a tree (whose hash the caller has verified), with the same rules.
    pub fn decode(bytes: &[u8]) -> Result<Tree, Error> {
        plain::tree(bytes).map_or_else(|| decode::tree(bytes), Ok)
    }

    /// Reads the bytes of a tree by each of the two ways there are, for tests that compare them:
    /// the first knows one form only.
    #[doc(hidden)]
    pub fn decode_both_ways(bytes: &[u8]) -> (Option<Tree>, Result<Tree, Error>) {
        (plain::tree(bytes), decode::tree(bytes))
    }
}

/// Encodes a tree node by node, so that a huge directory is held once and not twice.
#[derive(Debug)]
pub struct TreeEncoder {
    json: String,
    last: Vec<u8>,
}

impl TreeEncoder {
    /// An empty tree.
    pub fn new() -> TreeEncoder {
        TreeEncoder { json: "{\"nodes\":[".to_owned(), last: Vec::new() }
    }

    /// Appends the next node.
    pub fn push(&mut self, node: &Node) -> Result<(), Error> {
        check_order(&self.last, &node.name).map_err(Error::Invalid)?;
        if !self.last.is_empty() {
            self.json.push(',');
        }
        self.last.clone_from(&node.name);
        node.write(&mut self.json);
        Ok(())
    }

    /// The bytes of the tree.
    pub fn finish(mut self) -> Vec<u8> {
        self.json.push_str("]}\n");
        self.json.into_bytes()
    }
}

impl Default for TreeEncoder {
    fn default() -> Self {
        TreeEncoder::new()
    }
}

/// Refuses a name that is no name, or does not come after the last one (empty: there is none).
fn check_order(last: &[u8], name: &[u8]) -> Result<(), String> {
    if let Some(what) = bad_name(name) {
        return Err(format!("the name \"{}\" in a directory {what}", quote::quote(name)));
    }
    match name.cmp(last) {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Equal => {
            Err(format!("the name \"{}\" is twice in a directory", quote::quote(name)))
        }
        std::cmp::Ordering::Less => Err(format!(
            "the name \"{}\" is out of order in a directory, behind \"{}\"",
            quote::quote(name),
            quote::quote(last)
        )),
    }
}
