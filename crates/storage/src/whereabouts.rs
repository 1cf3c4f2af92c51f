//! Which machines look at a file system.

use std::path::Path;

/// Which machines look at a file system, as far as its kind tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// This kernel alone: it shows everybody the same names at every moment.
    Here,
    /// It lies on another machine, or is made by a process that may look there. What was listed
    /// before may be shown for a while.
    Elsewhere,
    /// Nobody has said so of this kind: neither is to be relied on.
    Unknown,
}

/// What is known, by the magic numbers of statfs(2).
const KNOWN: [(i64, Whereabouts); 17] = [
    (0xef53, Whereabouts::Here),           // ext2, ext3, ext4
    (0x5846_5342, Whereabouts::Here),      // XFS
    (0x9123_683e, Whereabouts::Here),      // btrfs
    (0x2fc1_2fc1, Whereabouts::Here),      // ZFS
    (0xf2f5_2010, Whereabouts::Here),      // F2FS
    (0xca45_1a4e, Whereabouts::Here),      // bcachefs
    (0x0102_1994, Whereabouts::Here),      // tmpfs
    (0x8584_58f6, Whereabouts::Here),      // ramfs
    (0x794c_7630, Whereabouts::Here),      // overlayfs
    (0x6969, Whereabouts::Elsewhere),      // NFS
    (0x517b, Whereabouts::Elsewhere),      // SMB
    (0xff53_4d42, Whereabouts::Elsewhere), // CIFS
    (0xfe53_4d42, Whereabouts::Elsewhere), // SMB2
    (0x6573_5546, Whereabouts::Elsewhere), // FUSE: sshfs and the like
    (0x00c3_6400, Whereabouts::Elsewhere), // Ceph
    (0x0102_1997, Whereabouts::Elsewhere), // 9p
    (0x0bd0_0bd0, Whereabouts::Elsewhere), // Lustre
];

impl Whereabouts {
    /// Looks at the file system that a path is on. Of what is not there nothing is known.
    pub fn of(path: &Path) -> Whereabouts {
        let Ok(found) = rustix::fs::statfs(path) else { return Whereabouts::Unknown };
        // The field is as wide, and signed, as the machine has it.
        let known = |magic: i64| i128::from(magic) == i128::from(found.f_type);
        let found = KNOWN.iter().find(|(magic, _)| known(*magic));
        found.map_or(Whereabouts::Unknown, |(_, whereabouts)| *whereabouts)
    }
}
