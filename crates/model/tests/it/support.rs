//! What the tests share.

use jiff::{SignedDuration, Timestamp};
use mainstay_model::{Generation, MemberName, RecoveryPoint, SnapshotId};

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

pub(crate) fn id(number: u64) -> SnapshotId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    SnapshotId(id)
}

pub(crate) fn number(id: SnapshotId) -> u64 {
    u64::from_be_bytes(id.0[..8].try_into().unwrap())
}

/// A whole point of member `a` at generation 1.
pub(crate) fn point(number: u64, received: Timestamp) -> RecoveryPoint {
    RecoveryPoint {
        snapshot: id(number),
        engine: "files".to_owned(),
        generation: Generation::FIRST,
        member: member("a"),
        source_time: received - SignedDuration::from_secs(5),
        received,
        verified: None,
        drilled: None,
        drill: None,
        position: None,
        cluster: None,
        size_bytes: 1000,
        added_bytes: 10,
        incomplete: false,
        pinned: false,
        tags: Default::default(),
    }
}
