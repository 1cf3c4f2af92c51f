//! Repositories that restic 0.14 wrote, kept in `tests/golden`: they must open for ever.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, check, open};
use mainstay_repository::{BlobKind, Repository, Tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use storage::Local;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn file(repository: &Repository, path: &[&[u8]]) -> Vec<u8> {
    let (_, snapshot) = repository.snapshots().unwrap().pop().unwrap();
    let mut tree = snapshot.tree_id().unwrap();
    let (name, dirs) = path.split_last().unwrap();
    let load = |id: mainstay_repository::TreeId| {
        Tree::decode(&repository.load_blob(BlobKind::Tree, &id.into()).unwrap()).unwrap()
    };
    for dir in dirs {
        tree = load(tree).get(dir).unwrap().subtree.unwrap();
    }
    let content = load(tree).get(name).unwrap().content.clone();
    content.iter().flat_map(|id| repository.load_blob(BlobKind::Data, id).unwrap()).collect()
}

#[test]
fn repositories_of_restic_open_check_and_read() {
    for version in [1, 2] {
        let path = golden(&format!("restic-0.14-v{version}"));
        let repository = open(Arc::new(Local::open(path).unwrap()));
        assert_eq!(repository.config().version, version);
        let report = check(&repository);
        assert_eq!(report.errors, Vec::<String>::new());
        assert_eq!(report.notes, Vec::<String>::new());
        assert_eq!((report.snapshots, report.packs), (1, 2));
        assert_eq!(file(&repository, &[b"docs", b"hello.txt"]), b"hello\n");
        assert_eq!(file(&repository, &[b"docs", b"zeros"]), [0; 3000]);
        assert_eq!(file(&repository, &[b"docs", b"empty"]), b"");
        let (_, snapshot) = repository.snapshots().unwrap().pop().unwrap();
        assert_eq!(
            (snapshot.hostname.as_str(), &snapshot.tags[..]),
            ("golden", &["golden".to_owned()][..])
        );
    }
}

#[test]
fn repositories_of_restic_can_be_added_to_in_their_own_version() {
    for version in [1, 2] {
        let dir = tempfile::TempDir::new().unwrap();
        let from = golden(&format!("restic-0.14-v{version}"));
        for path in rig::files_below(&from) {
            let to = dir.path().join(&path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from.join(&path), to).unwrap();
        }
        let repository = open(Arc::new(Local::open(dir.path()).unwrap()));
        let content = b"more text that would compress well ".repeat(30_000);
        let id = rig::back_up(&repository, &content);
        rig::restic(dir.path(), &["check", "--read-data"]);
        let dumped = rig::restic(dir.path(), &["dump", &id.to_string(), "/file"]);
        assert!(dumped.as_bytes() == content);
        let stored = fs::metadata(dir.path().join("data")).is_ok().then(|| {
            let files = rig::files_below(&dir.path().join("data"));
            files
                .iter()
                .map(|f| fs::metadata(dir.path().join("data").join(f)).unwrap().len())
                .sum::<u64>()
        });
        assert_eq!(
            stored.unwrap() > content.len() as u64,
            version == 1,
            "only version 2 compresses"
        );
    }
}
