//! Go's `FileMode`, which is what a node's `mode` is, and Linux's `st_mode`.

use super::NodeKind;

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;

const S_IFMT: u32 = 0o170_000;

/// The bits beside the nine permission bits.
const SPECIAL: [(u32, u32); 3] = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];

/// Kind, the file type in `st_mode`, and the type bits in Go's mode.
const KINDS: [(NodeKind, u32, u32); 7] = [
    (NodeKind::File, 0o100_000, 0),
    (NodeKind::Dir, 0o040_000, DIR),
    (NodeKind::Symlink, 0o120_000, SYMLINK),
    (NodeKind::Dev, 0o060_000, DEVICE),
    (NodeKind::CharDev, 0o020_000, DEVICE | CHAR_DEVICE),
    (NodeKind::Fifo, 0o010_000, FIFO),
    (NodeKind::Socket, 0o140_000, SOCKET),
];

/// The kind that a `st_mode` names.
pub(super) fn kind(st_mode: u32) -> NodeKind {
    KINDS
        .iter()
        .find(|(_, st, _)| *st == st_mode & S_IFMT)
        .map_or(NodeKind::Irregular, |(kind, ..)| *kind)
}

/// Go's mode for a `st_mode`.
pub(super) fn to_go(st_mode: u32) -> u32 {
    let mut mode = st_mode & 0o777;
    for (st, go) in SPECIAL {
        if st_mode & st != 0 {
            mode |= go;
        }
    }
    let kind = kind(st_mode);
    mode | KINDS.iter().find(|(k, ..)| *k == kind).map_or(0, |(_, _, go)| *go)
}

/// The permission bits with setuid, setgid and sticky, as `chmod` takes them.
pub(super) fn permissions(go: u32) -> u32 {
    SPECIAL.iter().fold(go & 0o777, |mode, (st, bit)| if go & bit != 0 { mode | st } else { mode })
}
