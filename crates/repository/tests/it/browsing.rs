//! What reading the history costs: counted in calls of the storage.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig;
use mainstay_repository as repository;
use model::CancelToken;
use repository::find::{self, Criteria};
use repository::glob::{Case, Glob};
use repository::{Repository, SnapshotReader, diff, stats};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use storage::doubles::{Recording, Verb};
use storage::{Local, Storage};
use tempfile::TempDir;

/// A repository with a wide tree, captured by restic six times with one change in between each.
struct Wide {
    _dir: TempDir,
    recording: Arc<Recording>,
    repository: Repository,
}

const DIRECTORIES: usize = 150;

impl Wide {
    fn new() -> Wide {
        let dir = TempDir::new().unwrap();
        let (repo, tree) = (dir.path().join("repo"), dir.path().join("tree"));
        for at in 0..DIRECTORIES {
            let sub: PathBuf = tree.join(format!("{at:03}"));
            fs::create_dir_all(&sub).unwrap();
            fs::write(sub.join("file"), format!("content {at}")).unwrap();
        }
        rig::restic(&repo, &["init"]);
        for at in 0..6 {
            fs::write(tree.join("000/file"), format!("changed {at}")).unwrap();
            rig::restic(&repo, &["backup", tree.to_str().unwrap()]);
        }
        let local: Arc<dyn Storage> = Arc::new(Local::open(&repo).unwrap());
        let recording = Arc::new(Recording::new(local));
        let repository = rig::open(recording.clone());
        Wide { _dir: dir, recording, repository }
    }

    /// How many parts of packs are read meanwhile, and how many bytes.
    fn reads(&self, work: impl FnOnce()) -> usize {
        self.repository.refresh_index().unwrap();
        self.recording.take();
        work();
        let calls = self.recording.take();
        calls.iter().filter(|call| call.verb == Verb::ReadRange).count()
    }
}

#[test]
fn a_diff_reads_only_directories_that_differ() {
    let wide = Wide::new();
    let all = wide.repository.snapshots().unwrap();
    let open = |at: usize| SnapshotReader::open(&wide.repository, all[at].0).unwrap();
    let (before, after) = (open(0), open(1));
    let mut changes = 0;
    let reads = wide.reads(|| {
        let cancel = CancelToken::new();
        let options = diff::Options::default();
        let count = &mut |_: &[u8], _, _: Option<&_>, _: Option<&_>| {
            changes += 1;
            Ok(())
        };
        diff::diff(&before, &after, b"/", options, &cancel, count).unwrap();
    });
    assert_eq!(changes, 1);
    assert!(reads < 20, "{reads} reads for one change in a tree of {DIRECTORIES} directories");
    // Looking for what unchanged directories share reads them; the answer is the same here.
    let same = wide.reads(|| {
        let options = diff::Options { exact: true, ..diff::Options::default() };
        let ignore = &mut |_: &[u8], _, _: Option<&_>, _: Option<&_>| Ok(());
        let cancel = CancelToken::new();
        let exact = diff::diff(&before, &after, b"/", options, &cancel, ignore).unwrap();
        assert_eq!((exact.modified, exact.added.data_blobs), (1, 1));
    });
    assert!(same > reads);
}

#[test]
fn a_search_of_many_snapshots_reads_each_tree_once() {
    let wide = Wide::new();
    let all = wide.repository.snapshots().unwrap();
    let roots: Vec<_> = all.iter().map(|(_, file)| file.tree_id().unwrap()).collect();
    let search = |roots: &[_]| {
        let criteria = Criteria {
            patterns: vec![Glob::parse("file", Case::Exact).unwrap()],
            ..Criteria::default()
        };
        let mut found = 0;
        let damaged =
            find::find(&wide.repository, roots, &criteria, &CancelToken::new(), &mut |_| {
                found += 1;
                Ok(())
            });
        assert_eq!(damaged.unwrap(), Vec::<String>::new());
        found
    };
    let one = wide.reads(|| assert_eq!(search(&roots[..1]), DIRECTORIES));
    let six = wide.reads(|| assert_eq!(search(&roots), 6 * DIRECTORIES));
    assert!(six < one + 6 * 15, "{one} reads for one snapshot, {six} for six");
    let measure = |roots: &[_]| {
        let stats = stats::stats(&wide.repository, roots, &CancelToken::new()).unwrap();
        assert_eq!(stats.total.files, (roots.len() * DIRECTORIES) as u64);
    };
    let one = wide.reads(|| measure(&roots[..1]));
    let six = wide.reads(|| measure(&roots));
    assert!(six < one + 6 * 15, "{one} reads for one snapshot, {six} for six");
}
