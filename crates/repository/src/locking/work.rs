//! Which work may run beside which, in one place.
//!
//! The protocol knows two kinds of locks, so the whole table follows from one column: work that
//! only adds or reads shares the repository; work that takes something away that others may count
//! on has it alone.

use super::LockKind;

/// What is done with a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Adds packs, indexes and a snapshot.
    Backup,
    /// Reads a snapshot to a place of this machine.
    Restore,
    /// Brings a standby to a snapshot.
    Refresh,
    /// Reads everything.
    Check,
    /// Shows snapshots as directories.
    Mount,
    /// Looks into snapshots: lists, compares, searches, counts, reads single files.
    Look,
    /// Reads snapshots for another repository.
    CopyFrom,
    /// Adds snapshots of another repository.
    CopyTo,
    /// Adds a key.
    AddKey,
    /// Removes a key: whoever opened the repository with it keeps the master key.
    RemoveKey,
    /// Replaces snapshot files by ones that say something else of the same data.
    Tag,
    /// Removes snapshot files.
    Forget,
    /// Removes packs and replaces indexes.
    Prune,
    /// Replaces indexes, packs or snapshots that are damaged.
    Repair,
    /// Raises the version of the format.
    Migrate,
}

/// Each work, its lock, and why.
pub const TABLE: [(Work, LockKind, &str); 15] = [
    (Work::Backup, LockKind::Shared, "adds; what it relies on must stay"),
    (Work::Restore, LockKind::Shared, "what it reads must stay"),
    (Work::Refresh, LockKind::Shared, "what it reads must stay"),
    (Work::Check, LockKind::Shared, "what is removed meanwhile would look like damage"),
    (Work::Mount, LockKind::Shared, "what it shows must stay"),
    (Work::Look, LockKind::Shared, "what it reads must stay"),
    (Work::CopyFrom, LockKind::Shared, "what it reads must stay"),
    (Work::CopyTo, LockKind::Shared, "adds; what it relies on must stay"),
    (Work::AddKey, LockKind::Shared, "adds"),
    (Work::RemoveKey, LockKind::Exclusive, "takes a way in away"),
    (Work::Tag, LockKind::Exclusive, "replaces snapshots that others may be reading"),
    (Work::Forget, LockKind::Exclusive, "removes snapshots that others may be reading"),
    (Work::Prune, LockKind::Exclusive, "removes packs that others may rely on"),
    (Work::Repair, LockKind::Exclusive, "replaces what others may rely on"),
    (Work::Migrate, LockKind::Exclusive, "changes what may be written"),
];

impl Work {
    /// The lock that it needs.
    pub fn lock(self) -> LockKind {
        let found = TABLE.iter().find(|(work, ..)| *work == self);
        // All are listed, which a test proves; what was not would have the repository alone.
        found.map_or(LockKind::Exclusive, |(_, lock, _)| *lock)
    }

    /// Whether it may run beside the other.
    pub fn may_run_beside(self, other: Work) -> bool {
        self.lock() == LockKind::Shared && other.lock() == LockKind::Shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails to compile when a kind of work is added, so that it is added below and in the table.
    fn place(work: Work) -> usize {
        match work {
            Work::Backup => 0,
            Work::Restore => 1,
            Work::Refresh => 2,
            Work::Check => 3,
            Work::Mount => 4,
            Work::Look => 5,
            Work::CopyFrom => 6,
            Work::CopyTo => 7,
            Work::AddKey => 8,
            Work::RemoveKey => 9,
            Work::Tag => 10,
            Work::Forget => 11,
            Work::Prune => 12,
            Work::Repair => 13,
            Work::Migrate => 14,
        }
    }

    #[test]
    fn the_table_has_every_work_once() {
        for (at, (work, lock, why)) in TABLE.into_iter().enumerate() {
            assert_eq!(place(work), at);
            assert_eq!(work.lock(), lock);
            assert!(!why.is_empty());
        }
    }

    #[test]
    fn what_removes_runs_beside_nothing() {
        assert!(Work::Backup.may_run_beside(Work::Restore));
        for (work, ..) in TABLE {
            assert!(!work.may_run_beside(Work::Prune) && !Work::Forget.may_run_beside(work));
        }
    }
}
