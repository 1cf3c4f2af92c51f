//! Nodes from what the system says of files.

use crate::disk::Stat;
use crate::{Node, NodeKind, Time};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::io::Errno;
use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

/// Names of users and groups.
///
/// Read from the local files alone, so that no name service can hold a backup up. The names are for
/// people: a restore goes by numbers.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    pub(super) fn load() -> Owners {
        Owners { users: read(Path::new("/etc/passwd")), groups: read(Path::new("/etc/group")) }
    }
}

/// Numbers and names of a file like `/etc/passwd`; the first line of a number counts.
fn read(path: &Path) -> HashMap<u32, String> {
    let text = std::fs::read(path).unwrap_or_default();
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// A node with everything that `stat` tells. Which fields a kind has is restic's choice.
pub(super) fn node(name: &[u8], stat: &Stat, owners: &Owners) -> Node {
    let mut node = Node::new(name, stat.st_mode);
    node.mtime = time(stat.mtime);
    node.atime = node.mtime;
    node.ctime = time(stat.ctime);
    (node.uid, node.gid) = (stat.uid, stat.gid);
    node.user = owners.users.get(&stat.uid).cloned().unwrap_or_default();
    node.group = owners.groups.get(&stat.gid).cloned().unwrap_or_default();
    node.inode = stat.inode;
    if !matches!(node.kind, NodeKind::Dir | NodeKind::Fifo) {
        node.links = stat.links;
    }
    if stat.links > 1 && node.kind != NodeKind::Dir {
        node.device_id = stat.device;
    }
    match node.kind {
        NodeKind::File => node.size = stat.size,
        NodeKind::Dev | NodeKind::CharDev => node.device = stat.special,
        _ => {}
    }
    node
}

/// Whether a file is what the parent says, as far as the system tells without reading it.
pub(super) fn unchanged(stat: &Stat, before: &Node) -> bool {
    before.kind == NodeKind::File
        && before.size == stat.size
        && before.inode == stat.inode
        && same_instant(before.mtime, time(stat.mtime))
        && same_instant(before.ctime, time(stat.ctime))
}

/// Whether the node of an unchanged regular file is the one that the parent has, to the last field.
/// Its attributes need not be read for that: a change of them would be one of `ctime`, too.
pub(super) fn same_node(stat: &Stat, before: &Node, owners: &Owners) -> bool {
    let name = |names: &HashMap<u32, String>, id, known: &str| {
        names.get(&id).map_or("", String::as_str) == known
    };
    let device = if stat.links > 1 { stat.device } else { 0 };
    let plain = before.error.is_empty()
        && before.other.is_empty()
        && before.generic_attributes.is_empty()
        && before.device == 0;
    plain
        && Node::new([], stat.st_mode).mode == before.mode
        && (stat.uid, stat.gid, stat.links) == (before.uid, before.gid, before.links)
        && device == before.device_id
        && before.atime == before.mtime
        && name(&owners.users, stat.uid, &before.user)
        && name(&owners.groups, stat.gid, &before.group)
}

fn same_instant(a: Time, b: Time) -> bool {
    (a.seconds, a.nanos) == (b.seconds, b.nanos)
}

/// A time with this host's offset, as restic writes it: the same file then has the same node,
/// whichever of the two wrote it.
fn time((seconds, nanos): (i64, u32)) -> Time {
    static ZONE: LazyLock<TimeZone> = LazyLock::new(TimeZone::system);
    let offset = Timestamp::from_second(seconds).map_or(0, |time| ZONE.to_offset(time).seconds());
    // Offsets with seconds (local mean times of the past) cannot be written.
    Time::local(seconds, nanos, if offset % 60 == 0 { offset } else { 0 })
}

/// What went wrong, in words for a list of problems.
pub(super) fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it vanished while it was read".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ if is_replaced(error) => "it became something else while it was read".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a name that was just looked at leads to nothing any more, or to another kind of file:
/// what the calls for one kind answer when they meet another.
pub(super) fn is_replaced(error: &std::io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        // A link where there was a file; no directory; no link; a socket.
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::INVAL | Errno::NXIO)
    )
}
