//! What the tests share: repositories in temporary directories, and the real `restic`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the unexpected"
)]

use mainstay_repository as repository;
use model::progress::Silent;
use model::{CancelToken, Secret, SnapshotId};
use repository::check::{self, Report};
use repository::{
    BlobKind, BlobWriter, Compression, Error, Kdf, LockKind, Repository, Snapshot, Tree, TreeId,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};
use storage::{Local, Storage};
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
        Rig::in_dir(TempDir::new().unwrap())
    }

    /// Where syncing costs nothing, if there is such a place: for tests that write thousands of
    /// files, and care neither for durability nor for what a file system can hold.
    pub(crate) fn light() -> Rig {
        Rig::in_dir(TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap())
    }

    fn in_dir(dir: TempDir) -> Rig {
        std::fs::create_dir(dir.path().join("repo")).unwrap();
        let storage = Arc::new(Local::open(dir.path().join("repo")).unwrap());
        let repository = Repository::create(storage, &password(), Kdf::Fast).unwrap();
        Rig { dir, repository }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub(crate) fn writer(&self) -> BlobWriter {
        writer(&self.repository)
    }

    pub(crate) fn restic(&self, arguments: &[&str]) -> String {
        restic(&self.path(), arguments)
    }

    pub(crate) fn lock(&self, kind: LockKind) -> repository::RepositoryLock {
        self.repository.lock(kind, Duration::ZERO, &CancelToken::new()).unwrap()
    }
}

/// Opens a storage as a repository with our password.
pub(crate) fn open(storage: Arc<dyn Storage>) -> Repository {
    Repository::open(storage, &password()).unwrap()
}

/// A writer with no options.
pub(crate) fn writer(repository: &Repository) -> BlobWriter {
    BlobWriter::new(repository, Compression::default(), CancelToken::new()).unwrap()
}

/// Checks every byte.
pub(crate) fn check(repository: &Repository) -> Report {
    check::check(repository, true, &Silent, &CancelToken::new()).unwrap()
}

/// Stores a snapshot of one file with this content.
pub(crate) fn back_up(repository: &Repository, content: &[u8]) -> SnapshotId {
    try_back_up(repository, content).unwrap()
}

/// As [`back_up`], where it may fail.
pub(crate) fn try_back_up(repository: &Repository, content: &[u8]) -> Result<SnapshotId, Error> {
    let lock = repository.lock(LockKind::Shared, Duration::ZERO, &CancelToken::new())?;
    let writer = BlobWriter::new(repository, Compression::default(), CancelToken::new())?;
    let tree = try_save_file(&writer, repository, content)?;
    repository.save_snapshot(&lock, &snapshot_of(tree))
}

/// The content of the file of [`save_file`], read back.
pub(crate) fn read_back(repository: &Repository, id: SnapshotId) -> Result<Vec<u8>, Error> {
    let root = repository.snapshot(id)?.tree_id().unwrap();
    let tree = Tree::decode(&repository.load_blob(BlobKind::Tree, &root.into())?)?;
    let mut content = Vec::new();
    for blob in &tree.get(b"file").unwrap().content {
        content.extend(repository.load_blob(BlobKind::Data, blob)?);
    }
    Ok(content)
}

/// All files below a directory, sorted, as paths relative to it.
pub(crate) fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Runs something that must not hang.
#[track_caller]
pub(crate) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    within(Duration::from_secs(120), work)
}

/// As [`in_time`], for work that takes a while on a busy machine.
#[track_caller]
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || tell.send(work()).unwrap());
    match told.recv_timeout(limit) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}

/// Waits for a state.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !state() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
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
        .envs(std::env::var_os("TZ").map(|zone| ("TZ", zone)))
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
    try_save_file(writer, repository, content).unwrap()
}

fn try_save_file(
    writer: &BlobWriter,
    repository: &Repository,
    content: &[u8],
) -> Result<TreeId, Error> {
    let mut tickets = Vec::new();
    for chunk in repository.chunker().chunks(content, writer.buffers(), None) {
        tickets.push(writer.save(BlobKind::Data, chunk.unwrap())?);
    }
    let quoted = |ticket: repository::Ticket| Ok(format!("\"{}\"", ticket.wait()?));
    let ids = tickets.into_iter().map(quoted).collect::<Result<Vec<String>, Error>>()?;
    let tree = format!(
        "{{\"nodes\":[{{\"name\":\"file\",\"type\":\"file\",\"mode\":420,\
         \"mtime\":\"2026-01-02T03:04:05Z\",\"atime\":\"2026-01-02T03:04:05Z\",\
         \"ctime\":\"2026-01-02T03:04:05Z\",\"uid\":0,\"gid\":0,\"size\":{},\"content\":[{}]}}]}}\n",
        content.len(),
        ids.join(",")
    );
    let id = writer.save(BlobKind::Tree, tree.into_bytes())?.wait()?;
    writer.flush()?;
    Ok(id.into())
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
