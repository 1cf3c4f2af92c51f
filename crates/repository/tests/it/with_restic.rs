//! Both directions with the real restic.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, noise, password, save_file, snapshot_of};
use mainstay_repository as repository;
use repository::{BlobKind, LockKind, Repository};
use std::fs;
use std::sync::Arc;
use storage::Local;

#[test]
fn restic_checks_and_restores_what_we_wrote() {
    let rig = Rig::new();
    let mut content = noise(1, 9_000_000);
    content.extend(b"some text that compresses ".repeat(200_000));
    let writer = rig.writer();
    let tree = save_file(&writer, &rig.repository, &content);
    let lock = rig.lock(LockKind::Shared);
    let id = rig.repository.save_snapshot(&lock, &snapshot_of(tree)).unwrap();
    drop(lock);
    rig.restic(&["check", "--read-data"]);
    let dumped = rig::restic_output(&rig.path(), &["dump", &id.to_string(), "/file"]);
    assert!(dumped.status.success());
    assert!(dumped.stdout == content, "restic dumps other bytes than we stored");
    assert_eq!(fs::read_dir(rig.path().join("locks")).unwrap().count(), 0);
}

#[test]
fn our_chunks_of_a_file_are_those_of_restic() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("repo");
    rig::restic(&path, &["init"]);
    let mut content = noise(2, 30_000_000);
    content.extend(vec![0; 20_000_000]);
    content.extend(noise(3, 700_000));
    let file = dir.path().join("file");
    fs::write(&file, &content).unwrap();
    rig::restic(&path, &["backup", file.to_str().unwrap()]);

    let storage = Arc::new(Local::open(&path).unwrap());
    let repository = Repository::open(storage, &password()).unwrap();
    let writer = repository::BlobWriter::new(
        &repository,
        repository::Compression::default(),
        model::CancelToken::new(),
    )
    .unwrap();
    let mut read = Vec::new();
    for chunk in repository.chunker().chunks(&content[..], writer.buffers(), None) {
        let id = writer.save(BlobKind::Data, chunk.unwrap()).unwrap().wait().unwrap();
        read.extend(repository.load_blob(BlobKind::Data, &id).unwrap());
    }
    writer.flush().unwrap();
    let stats = writer.stats();
    assert_eq!(stats.new_blobs, 0, "we cut where restic does not: {stats:?}");
    assert!(stats.known_blobs > 10);
    assert!(read == content);
}
