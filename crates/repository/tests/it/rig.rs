//! What the tests share: repositories in temporary directories, and the real `restic`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use mainstay_repository as repository;
use model::{CancelToken, Secret};
use repository::{BlobKind, BlobWriter, Compression, Kdf, LockKind, Repository, Snapshot, TreeId};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use storage::Local;
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "correct horse battery staple";

pub(crate) fn password() -> Secret {
    Secret::new(PASSWORD.to_owned())
}

/// A repository of ours in a directory of its own.
pub(crate) struct Rig {
    pub(crate) dir: TempDir,
    pub(crate) repository: Repository,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("repo")).unwrap();
        let storage = Arc::new(Local::open(dir.path().join("repo")).unwrap());
        let repository = Repository::create(storage, &password(), Kdf::Fast).unwrap();
        Rig { dir, repository }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub(crate) fn writer(&self) -> BlobWriter {
        BlobWriter::new(&self.repository, Compression::default(), CancelToken::new()).unwrap()
    }

    pub(crate) fn restic(&self, arguments: &[&str]) -> String {
        restic(&self.path(), arguments)
    }

    pub(crate) fn lock(&self, kind: LockKind) -> repository::RepositoryLock {
        self.repository.lock(kind, Duration::ZERO, &CancelToken::new()).unwrap()
    }
}

/// A command line of the real restic.
pub(crate) fn restic_command(repository: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("restic");
    command
        .arg("--repo")
        .arg(repository)
        .args(["--no-cache", "--quiet"])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("RESTIC_PASSWORD", PASSWORD);
    command
}

pub(crate) fn restic_output(repository: &Path, arguments: &[&str]) -> Output {
    restic_command(repository, arguments)
        .output()
        .expect("these tests need the real `restic` on PATH (Debian package restic)")
}

/// Runs the real restic, which must succeed. Returns what it prints.
pub(crate) fn restic(repository: &Path, arguments: &[&str]) -> String {
    let output = restic_output(repository, arguments);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "restic {arguments:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Bytes that do not compress and are always the same for a seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Stores a directory with one file of this content, and everything durable.
pub(crate) fn save_file(writer: &BlobWriter, repository: &Repository, content: &[u8]) -> TreeId {
    let mut tickets = Vec::new();
    for chunk in repository.chunker().chunks(content, writer.buffers(), None) {
        tickets.push(writer.save(BlobKind::Data, chunk.unwrap()).unwrap());
    }
    let ids: Vec<String> =
        tickets.into_iter().map(|ticket| format!("\"{}\"", ticket.wait().unwrap())).collect();
    let tree = format!(
        "{{\"nodes\":[{{\"name\":\"file\",\"type\":\"file\",\"mode\":420,\
         \"mtime\":\"2026-01-02T03:04:05Z\",\"atime\":\"2026-01-02T03:04:05Z\",\
         \"ctime\":\"2026-01-02T03:04:05Z\",\"uid\":0,\"gid\":0,\"size\":{},\"content\":[{}]}}]}}\n",
        content.len(),
        ids.join(",")
    );
    let ticket = writer.save(BlobKind::Tree, tree.into_bytes()).unwrap();
    let id = ticket.wait().unwrap();
    writer.flush().unwrap();
    id.into()
}

pub(crate) fn snapshot_of(tree: TreeId) -> Snapshot {
    Snapshot {
        time: "2026-01-02T03:04:05.678Z".to_owned(),
        tree: tree.to_hex(),
        paths: vec!["/".to_owned()],
        hostname: "host".to_owned(),
        username: "user".to_owned(),
        ..Snapshot::default()
    }
}
