//! What operations read of a host that may have crashed, and of snapshots that others made.

use mainstay_operations::{Event, MemberRecord, decode_meta, parse_journal};
use model::SnapshotId;

/// By its name.
pub(crate) type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const ALL: &[Entry] =
    &[("journal", journal), ("snapshot_meta", snapshot_meta), ("member_record", member_record)];

/// A crash may end a journal anywhere, and it is the journal of what was done until then.
pub(crate) fn journal(bytes: &[u8]) {
    let Ok(entries) = parse_journal(bytes) else { return };
    for end in [bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let before = parse_journal(&bytes[..end]);
        assert!(before.is_ok_and(|before| entries.starts_with(&before)));
    }
    for entry in &entries {
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        let again = parse_journal(&line);
        assert!(again.is_ok_and(|again| again.as_slice() == std::slice::from_ref(entry)));
        if let Event::Start { id, .. } = &entry.event {
            // It names a directory.
            assert!(!id.as_str().contains('/'), "{id}");
        }
    }
}

/// No root leads out of the place that a restore is made to.
pub(crate) fn snapshot_meta(bytes: &[u8]) {
    let Ok(meta) = decode_meta(SnapshotId([7; 32]), bytes) else { return };
    for root in &meta.roots {
        assert!(root.in_snapshot.starts_with('/') && !root.in_snapshot.contains("/../"));
    }
}

pub(crate) fn member_record(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<MemberRecord>(bytes) {
        let text = serde_json::to_vec(&record).unwrap_or_default();
        let again = serde_json::from_slice::<MemberRecord>(&text);
        assert!(again.is_ok_and(|again| again == record));
    }
}
