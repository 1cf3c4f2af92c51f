//! Trees and their nodes.

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Regular file.
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

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unescaped name, as bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
}
