//! What the archiver reads, leaves out, reuses and complains about.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the unexpected")]

use crate::rig::{Rig, noise, snapshot_of};
use crate::trees::{archive, archiver, as_nobody, rich_tree, save, set_mtime};
use mainstay_repository as repository;
use model::{CancelToken, Progress, SnapshotId};
use repository::{
    Archiver, BlobId, BlobKind, Compression, Error, Finished, LockKind, Node, NodeKind,
    SnapshotReader, Tree, TreeOptions,
};
use rustix::fs::{CWD, FileType, Mode};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Case {
    rig: Rig,
    source: PathBuf,
}

impl Case {
    fn new(fill: impl FnOnce(&Path)) -> Case {
        let rig = Rig::new();
        let source = rig.dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        Case { rig, source }
    }

    fn archive(&self, options: &TreeOptions) -> (Finished, SnapshotId) {
        archive(&self.rig, &self.source, None, options)
    }

    fn again(&self, parent: SnapshotId) -> (Finished, SnapshotId) {
        archive(&self.rig, &self.source, Some(parent), &TreeOptions::default())
    }

    /// Paths below the source that a snapshot has.
    fn paths(&self, snapshot: SnapshotId) -> Vec<String> {
        let reader = SnapshotReader::open(&self.rig.repository, snapshot).unwrap();
        let source = self.source.to_str().unwrap();
        let mut paths = Vec::new();
        reader
            .walk(source.as_bytes(), &mut |path, _| {
                let path = String::from_utf8_lossy(path);
                paths.push(path.strip_prefix(source).unwrap().trim_start_matches('/').to_owned());
                Ok(())
            })
            .unwrap();
        paths
    }

    fn with(&self, options: TreeOptions) -> Vec<String> {
        let (finished, snapshot) = self.archive(&options);
        assert_eq!(finished.problems, []);
        self.paths(snapshot)
    }

    fn restore(&self, snapshot: SnapshotId, target: &Path) {
        repository::restore::restore(
            &self.rig.repository,
            snapshot,
            self.source.to_str().unwrap().as_bytes(),
            target,
            repository::restore::Options { durable: true, ..Default::default() },
            &model::progress::Silent,
            &CancelToken::new(),
        )
        .unwrap();
    }

    fn content(&self, snapshot: SnapshotId, path: &str) -> Vec<u8> {
        let reader = SnapshotReader::open(&self.rig.repository, snapshot).unwrap();
        let mut content = Vec::new();
        reader.dump(self.source.join(path).to_str().unwrap().as_bytes(), &mut content).unwrap();
        content
    }
}

/// What is wrong, by path below the source.
fn problems(case: &Case, finished: &Finished) -> Vec<(String, String)> {
    let source = case.source.to_str().unwrap();
    let below = |path: &str| path.strip_prefix(source).unwrap().trim_start_matches('/').to_owned();
    finished.problems.iter().map(|p| (below(&p.path), p.what.clone())).collect()
}

/// Calls a function each time the archiver tells of something it has done.
struct Watcher<F>(F);

impl<F: Fn(u64, u64) + Send + Sync> Progress for Watcher<F> {
    fn advance(&self, files: u64, bytes: u64) {
        (self.0)(files, bytes);
    }
}

fn watched(
    case: &Case,
    options: &TreeOptions,
    watch: impl Fn(u64, u64) + Send + Sync + 'static,
) -> (Finished, SnapshotId) {
    let progress = Arc::new(Watcher(watch));
    let mut archiver = Archiver::new(
        &case.rig.repository,
        None,
        Compression::default(),
        progress,
        CancelToken::new(),
    )
    .unwrap();
    archiver.tree(case.source.to_str().unwrap(), &case.source, options).unwrap();
    let finished = archiver.finish().unwrap();
    let snapshot = save(&case.rig, &finished, &case.source);
    (finished, snapshot)
}

#[test]
fn what_has_not_changed_is_not_read_again_and_adds_nothing() {
    let case = Case::new(rich_tree);
    // Not as its own path: the directories above are not ours, and others write to them.
    let run = |parent, options: &TreeOptions| {
        let mut archiver = archiver(&case.rig, parent);
        archiver.tree("/docs", &case.source, options).unwrap();
        let finished = archiver.finish().unwrap();
        let snapshot = save(&case.rig, &finished, Path::new("/docs"));
        (finished, snapshot)
    };
    let (first, parent) = run(None, &TreeOptions::default());
    assert_eq!(first.summary.files_read, first.summary.files);
    let (second, _) = run(Some(parent), &TreeOptions::default());
    assert_eq!(second.tree, first.tree);
    assert_eq!(second.summary.files_read, 0);
    assert_eq!(second.summary.files, first.summary.files);
    assert_eq!(second.summary.bytes, first.summary.bytes);
    assert_eq!(second.summary.added_bytes, 0);

    let options = TreeOptions { distrust_times: true, ..TreeOptions::default() };
    let (third, _) = run(Some(parent), &options);
    assert_eq!((third.tree, third.summary.files_read), (first.tree, first.summary.files));
}

/// What is taken over from the parent snapshot without another look is what is still there.
#[test]
fn changes_of_metadata_alone_are_seen() {
    let case = Case::new(|source| {
        for dir in ["a", "b", "b/c"] {
            fs::create_dir(source.join(dir)).unwrap();
            for file in ["mode", "attribute", "link", "still"] {
                fs::write(source.join(dir).join(file), file).unwrap();
            }
        }
        symlink("still", source.join("a/symlink")).unwrap();
    });
    let (_, mut parent) = case.archive(&TreeOptions::default());
    let of = |path: &str| case.source.join(path);
    let changes: [&dyn Fn(); 7] = [
        &|| fs::set_permissions(of("a/mode"), fs::Permissions::from_mode(0o6751)).unwrap(),
        &|| xattr::set(of("b/c/attribute"), "user.color", b"red").unwrap(),
        &|| fs::hard_link(of("a/link"), of("b/linked")).unwrap(),
        &|| xattr::set(of("b"), "user.color", b"blue").unwrap(),
        &|| fs::set_permissions(of("b/c"), fs::Permissions::from_mode(0o700)).unwrap(),
        &|| {
            fs::remove_file(of("a/symlink")).unwrap();
            symlink("mode", of("a/symlink")).unwrap();
        },
        &|| fs::rename(of("b/c/still"), of("b/c/moved")).unwrap(),
    ];
    for change in changes {
        change();
        let (second, snapshot) = case.again(parent);
        assert_eq!(second.problems, []);
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        case.restore(snapshot, &target);
        crate::trees::assert_same(&case.source, &target);
        parent = snapshot;
    }
}

#[test]
fn a_write_that_hides_behind_its_old_mtime_is_read() {
    let case = Case::new(|source| fs::write(source.join("file"), "before").unwrap());
    let file = case.source.join("file");
    let (_, parent) = case.archive(&TreeOptions::default());
    let meta = fs::metadata(&file).unwrap();
    fs::write(&file, "after!").unwrap();
    set_mtime(&file, meta.mtime(), meta.mtime_nsec());
    let (second, snapshot) = case.again(parent);
    assert_eq!(second.summary.files_read, 1);
    assert_eq!(case.content(snapshot, "file"), b"after!");
}

#[test]
fn a_write_right_after_the_file_was_read_is_seen_by_the_next_run() {
    // The same size, and as soon as the archiver has read the file: only a new time stamp tells.
    let case = Case::new(|source| {
        fs::write(source.join("a"), "0").unwrap();
        fs::write(source.join("b"), "0").unwrap();
    });
    for round in 1..=9u8 {
        let file = case.source.join("a");
        fs::write(&file, [b'0' + round]).unwrap();
        let written = AtomicBool::new(false);
        let target = file.clone();
        let (_, parent) = watched(&case, &TreeOptions::default(), move |files, _| {
            if files > 0 && !written.swap(true, Ordering::Relaxed) {
                fs::write(&target, b"x").unwrap();
            }
        });
        let (_, snapshot) = case.again(parent);
        assert_eq!(case.content(snapshot, "a"), b"x", "round {round}");
    }
}

#[test]
fn a_file_that_is_never_at_rest_is_trusted_by_no_later_run() {
    let case = Case::new(|source| fs::write(source.join("hot"), "0").unwrap());
    let file = case.source.join("hot");
    let expected = TreeOptions { changes_expected: true, ..TreeOptions::default() };
    let node = |snapshot| {
        let reader = SnapshotReader::open(&case.rig.repository, snapshot).unwrap();
        reader.node(file.to_str().unwrap().as_bytes()).unwrap().unwrap()
    };
    let ended = AtomicBool::new(false);
    let parent = std::thread::scope(|scope| {
        scope.spawn(|| {
            let opened = fs::OpenOptions::new().write(true).open(&file).unwrap();
            while !ended.load(Ordering::SeqCst) {
                opened.write_all_at(b"1", 0).unwrap();
            }
        });
        // On a busy machine the writer may be at rest when the archiver looks.
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut parent = case.archive(&expected).1;
        while node(parent).ctime.seconds != 0 && Instant::now() < deadline {
            parent = case.archive(&expected).1;
        }
        ended.store(true, Ordering::SeqCst);
        parent
    });
    // Whatever was written after the look at it, and with which time: no file has this one.
    assert_eq!(node(parent).ctime.seconds, 0);
    let (second, snapshot) = case.again(parent);
    assert_eq!(second.summary.files_read, 1);
    assert_ne!(node(snapshot).ctime.seconds, 0);
    let (third, _) = case.again(snapshot);
    assert_eq!(third.summary.files_read, 0);
}

#[test]
fn an_unchanged_file_whose_content_is_lost_is_read_again() {
    let case = Case::new(|source| fs::write(source.join("file"), "content").unwrap());
    let (finished, _) = case.archive(&TreeOptions::default());
    // A parent that says of the file what is true, but has its content in a blob that is not there.
    let snapshot = save(&case.rig, &finished, &case.source);
    let reader = SnapshotReader::open(&case.rig.repository, snapshot).unwrap();
    let mut nodes = reader.list(case.source.to_str().unwrap().as_bytes()).unwrap();
    nodes[0].content = vec![BlobId::of(b"lost")];
    let writer = case.rig.writer();
    let store = |nodes| {
        let bytes = Tree { nodes }.encode().unwrap();
        writer.save(BlobKind::Tree, bytes).unwrap().wait().unwrap()
    };
    let mut tree = store(nodes);
    for name in case.source.to_str().unwrap().trim_start_matches('/').rsplit('/') {
        let mut dir = Node::new(name, 0o040_755);
        dir.subtree = Some(tree.into());
        tree = store(vec![dir]);
    }
    writer.flush().unwrap();
    let lock = case.rig.lock(LockKind::Shared);
    let parent = case.rig.repository.save_snapshot(&lock, &snapshot_of(tree.into())).unwrap();

    let (again, snapshot) = case.again(parent);
    assert_eq!(again.summary.files_read, 1);
    assert_eq!(case.content(snapshot, "file"), b"content");
}

#[test]
fn a_parent_that_is_gone_only_costs_time() {
    let case = Case::new(rich_tree);
    let (finished, _) = case.again(SnapshotId([3; 32]));
    assert_eq!(finished.summary.files_read, finished.summary.files);
}

fn leave_out(patterns: &[&str]) -> TreeOptions {
    let exclude = patterns.iter().map(|p| (*p).to_owned()).collect();
    TreeOptions { exclude, ..TreeOptions::default() }
}

#[test]
fn what_is_excluded_is_left_out() {
    let case = Case::new(|source| {
        for dir in ["a/cache", "b/cache", "keep"] {
            fs::create_dir_all(source.join(dir)).unwrap();
        }
        for file in ["a/cache/x", "b/cache/x", "b/x.tmp", "keep/x.tmp", "keep/big", "x"] {
            fs::write(source.join(file), "1234").unwrap();
        }
        fs::write(source.join("keep/big"), "123456789").unwrap();
    });
    let all = [
        "a",
        "a/cache",
        "a/cache/x",
        "b",
        "b/cache",
        "b/cache/x",
        "b/x.tmp",
        "keep",
        "keep/big",
        "keep/x.tmp",
        "x",
    ];
    assert_eq!(case.with(TreeOptions::default()), all);
    assert_eq!(
        case.with(leave_out(&["cache/"])),
        ["a", "b", "b/x.tmp", "keep", "keep/big", "keep/x.tmp", "x"]
    );
    assert_eq!(
        case.with(leave_out(&["a/cache", "*.tmp", "!keep/x.tmp"])),
        ["a", "b", "b/cache", "b/cache/x", "keep", "keep/big", "keep/x.tmp", "x"]
    );
    let on_host = case.source.join("b");
    assert_eq!(
        case.with(leave_out(&[on_host.to_str().unwrap()])),
        ["a", "a/cache", "a/cache/x", "keep", "keep/big", "keep/x.tmp", "x"]
    );
    let limit = TreeOptions { exclude_larger_than: Some(4), ..leave_out(&["cache"]) };
    assert_eq!(case.with(limit), ["a", "b", "b/x.tmp", "keep", "keep/x.tmp", "x"]);

    let mut archiver = archiver(&case.rig, None);
    let error = archiver.tree("/s", &case.source, &leave_out(&["[x"])).unwrap_err();
    assert!(error.to_string().contains("[x"), "{error}");
}

#[test]
fn caches_keep_their_tag_and_emptied_directories_their_place() {
    let case = Case::new(|source| {
        for dir in ["cache", "not-a-cache", "pg_wal/archive_status", "base/pg_wal", "outside"] {
            fs::create_dir_all(source.join(dir)).unwrap();
        }
        let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# more";
        fs::write(source.join("cache/CACHEDIR.TAG"), tag).unwrap();
        fs::write(source.join("CACHEDIR.TAG"), tag).unwrap();
        fs::write(source.join("not-a-cache/CACHEDIR.TAG"), "Signature: something else").unwrap();
        for file in ["cache/x", "not-a-cache/x", "pg_wal/0001", "base/pg_wal/x", "outside/x"] {
            fs::write(source.join(file), "").unwrap();
        }
        symlink("outside", source.join("pg_stat_tmp")).unwrap();
        fs::set_permissions(source.join("pg_wal"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    let emptied = ["pg_wal", "pg_stat_tmp", "missing"].map(str::to_owned).to_vec();
    let options = TreeOptions { exclude_caches: true, emptied, ..TreeOptions::default() };
    let (finished, snapshot) = case.archive(&options);
    assert_eq!(finished.problems, []);
    assert_eq!(
        case.paths(snapshot),
        [
            "CACHEDIR.TAG",
            "base",
            "base/pg_wal",
            "base/pg_wal/x",
            "cache",
            "cache/CACHEDIR.TAG",
            "not-a-cache",
            "not-a-cache/CACHEDIR.TAG",
            "not-a-cache/x",
            "outside",
            "outside/x",
            "pg_stat_tmp",
            "pg_wal",
        ]
    );
    let reader = SnapshotReader::open(&case.rig.repository, snapshot).unwrap();
    let node = |name: &str| {
        reader.node(case.source.join(name).to_str().unwrap().as_bytes()).unwrap().unwrap()
    };
    assert_eq!((node("pg_wal").kind, node("pg_wal").permissions()), (NodeKind::Dir, 0o700));
    assert_eq!(node("pg_stat_tmp").kind, NodeKind::Dir);
    case.rig.restic(&["check"]);
}

#[test]
fn other_file_systems_are_entered_only_if_wanted() {
    // The one that every Linux system has mounted below another.
    let (dev, shm) = (Path::new("/dev"), Path::new("/dev/shm"));
    assert_ne!(fs::metadata(dev).unwrap().dev(), fs::metadata(shm).unwrap().dev());
    let mut file = tempfile::Builder::new().prefix("mainstay").tempfile_in(shm).unwrap();
    file.write_all(b"shared").unwrap();
    let name = file.path().file_name().unwrap().to_str().unwrap().to_owned();
    let rig = Rig::new();
    for one_file_system in [false, true] {
        let exclude = ["/dev/*", "!/dev/shm", "/dev/shm/*", &format!("!{name}")];
        let options = TreeOptions { one_file_system, ..leave_out(&exclude) };
        let (finished, snapshot) = archive(&rig, dev, None, &options);
        assert_eq!(finished.summary.files, u64::from(!one_file_system));
        let reader = SnapshotReader::open(&rig.repository, snapshot).unwrap();
        assert_eq!(reader.list(b"/dev").unwrap().len(), 1);
        assert_eq!(reader.list(b"/dev/shm").unwrap().len(), usize::from(!one_file_system));
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_archived() {
    as_nobody(|| {
        let case = Case::new(|source| {
            fs::create_dir_all(source.join("closed/below")).unwrap();
            for file in ["closed/x", "closed/below/x", "open", "secret"] {
                fs::write(source.join(file), file).unwrap();
            }
            fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
            fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        });
        let (finished, snapshot) = case.archive(&TreeOptions::default());
        let denied = |path: &str| (path.to_owned(), "permission denied".to_owned());
        assert_eq!(problems(&case, &finished), [denied("closed"), denied("secret")]);
        assert_eq!(case.paths(snapshot), ["open"]);

        let mut archiver = archiver(&case.rig, None);
        for root in ["closed", "secret", "none"] {
            let root = case.source.join(root);
            let error = archiver.tree("/x", &root, &TreeOptions::default()).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
        }
        // Nothing comes of a run in which something was missing.
        assert!(archiver.finish().is_err());
        fs::set_permissions(case.source.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    });
}

#[test]
fn without_root_a_tree_restores_as_far_as_our_rights_go() {
    as_nobody(|| {
        let case = Case::new(rich_tree);
        let (finished, snapshot) = case.archive(&TreeOptions::default());
        assert_eq!(finished.problems, []);
        let target = case.rig.dir.path().join("target");
        case.restore(snapshot, &target);
        crate::trees::assert_same(&case.source, &target);
    });
}

#[test]
fn files_that_vanish_are_named_unless_that_is_expected() {
    for changes_expected in [false, true] {
        let case = Case::new(|source| {
            fs::create_dir(source.join("c")).unwrap();
            for file in ["a", "b", "c/x"] {
                fs::write(source.join(file), file).unwrap();
            }
        });
        let source = case.source.clone();
        let options = TreeOptions { changes_expected, ..TreeOptions::default() };
        let (finished, snapshot) = watched(&case, &options, move |files, _| {
            if files > 0 {
                // After the names were read, and before their turn comes.
                let _ = fs::remove_file(source.join("b"));
                let _ = fs::remove_dir_all(source.join("c"));
            }
        });
        assert_eq!(case.paths(snapshot), ["a"]);
        let found = problems(&case, &finished);
        if changes_expected {
            assert_eq!(found, []);
        } else {
            let vanished = "it vanished while it was read";
            let renamed = "files were added, removed or renamed while it was read";
            let expected = [("", renamed), ("b", vanished), ("c", vanished)];
            assert_eq!(found, expected.map(|(p, w)| (p.to_owned(), w.to_owned())));
        }
    }
}

#[test]
fn a_file_that_is_written_to_while_it_is_read_is_named_unless_that_is_expected() {
    for (changes_expected, times) in [(false, 1), (false, usize::MAX), (true, usize::MAX)] {
        let case = Case::new(|source| fs::write(source.join("log"), noise(1, 6 << 20)).unwrap());
        let file = File::options().append(true).open(case.source.join("log")).unwrap();
        let left = Mutex::new(times);
        let options = TreeOptions { changes_expected, ..TreeOptions::default() };
        let (finished, snapshot) = watched(&case, &options, move |_, bytes| {
            let mut left = left.lock().unwrap();
            if bytes > 0 && *left > 0 {
                *left -= 1;
                (&file).write_all(b"more").unwrap();
            }
        });
        let expected = if changes_expected || times == 1 {
            Vec::new()
        } else {
            vec![("log".to_owned(), "it was changed while it was read".to_owned())]
        };
        assert_eq!(problems(&case, &finished), expected);
        // What was read restores, whatever became of the file.
        let content = case.content(snapshot, "log");
        assert!(fs::read(case.source.join("log")).unwrap().starts_with(&content));
        assert!(content.len() >= 6 << 20);
        // And the next run reads it again.
        let (again, snapshot) = case.again(snapshot);
        assert_eq!(again.summary.files_read, u64::from(times > 1));
        assert_eq!(case.content(snapshot, "log"), fs::read(case.source.join("log")).unwrap());
        case.rig.restic(&["check", "--read-data"]);
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_keeps_a_whole_node() {
    let case = Case::new(|source| fs::write(source.join("log"), noise(1, 20 << 20)).unwrap());
    let file = File::options().write(true).open(case.source.join("log")).unwrap();
    let options = TreeOptions { changes_expected: true, ..TreeOptions::default() };
    let (finished, snapshot) = watched(&case, &options, move |_, bytes| {
        if bytes > 0 {
            file.set_len(17 << 20).unwrap();
        }
    });
    assert_eq!(finished.problems, []);
    assert!(case.content(snapshot, "log").len() <= 20 << 20);
    case.rig.restic(&["check", "--read-data"]);
}

#[test]
fn pipes_and_sockets_are_not_opened_and_files_that_turn_into_them_hold_nobody_up() {
    let case = Case::new(|source| {
        rustix::fs::mknodat(
            CWD,
            source.join("pipe"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        fs::write(source.join("turncoat"), "file").unwrap();
    });
    let _socket = UnixListener::bind(case.source.join("socket")).unwrap();
    let secret = case.rig.dir.path().join("secret");
    fs::write(&secret, "not for this backup").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, source, secret) = (stop.clone(), case.source.clone(), secret.clone());
        std::thread::spawn(move || {
            let (name, next) = (source.join("turncoat"), source.join("next"));
            while !stop.load(Ordering::Relaxed) {
                let fifo = FileType::Fifo;
                rustix::fs::mknodat(CWD, &next, fifo, Mode::from_raw_mode(0o600), 0).unwrap();
                fs::rename(&next, &name).unwrap();
                symlink(&secret, &next).unwrap();
                fs::rename(&next, &name).unwrap();
                fs::write(&next, "file").unwrap();
                fs::rename(&next, &name).unwrap();
            }
        })
    };
    let started = Instant::now();
    for _ in 0..50 {
        let options = TreeOptions { changes_expected: true, ..TreeOptions::default() };
        let (finished, snapshot) = case.archive(&options);
        assert_eq!(finished.problems, []);
        let paths = case.paths(snapshot);
        assert!(paths.contains(&"pipe".to_owned()) && !paths.contains(&"socket".to_owned()));
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(120));
    let leaked = BlobId::of(b"not for this backup");
    assert!(!case.rig.repository.contains(BlobKind::Data, &leaked).unwrap());
}

struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::other("the dump died"));
        }
        let length = buffer.len().min(self.0);
        buffer[..length].fill(b'x');
        self.0 -= length;
        Ok(length)
    }
}

#[test]
fn a_stream_that_fails_midway_leaves_no_tree() {
    let rig = Rig::new();
    let node = || Node::streamed(0o600, jiff::Timestamp::UNIX_EPOCH, 0, 0);
    let mut archiver = archiver(&rig, None);
    archiver.file("/good", node(), &mut &b"good"[..]).unwrap();
    let error = archiver.file("/dump", node(), &mut Failing(3 << 20)).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.to_string() == "the dump died"));
    archiver.file("/after", node(), &mut &b"after"[..]).unwrap();
    let error = archiver.finish().unwrap_err();
    assert!(error.to_string().contains("could not be captured"), "{error}");
    assert!(rig.repository.snapshots().unwrap().is_empty());
}

#[test]
fn a_stream_of_any_length_is_archived_and_restic_reads_it() {
    let rig = Rig::new();
    let mut archiver = archiver(&rig, None);
    let content = noise(5, (5 << 20) + 3);
    let node = || Node::streamed(0o640, jiff::Timestamp::UNIX_EPOCH, 12, 34);
    archiver.file("/dir/dump.sql", node(), &mut &content[..]).unwrap();
    archiver.file("/dir/empty", node(), &mut io::empty()).unwrap();
    for bad in ["relative", "/", "", "/a/../b", "/./x"] {
        let mut archiver = crate::trees::archiver(&rig, None);
        assert!(archiver.file(bad, node(), &mut io::empty()).is_err(), "{bad:?}");
    }
    let finished = archiver.finish().unwrap();
    assert_eq!(finished.summary.bytes, content.len() as u64);
    save(&rig, &finished, Path::new("/dir"));
    rig.restic(&["check", "--read-data"]);
    let output = crate::rig::restic_output(&rig.path(), &["dump", "latest", "/dir/dump.sql"]);
    assert!(output.stdout == content);
}

#[test]
fn a_cancelled_run_ends_promptly_and_leaves_no_tree() {
    let case = Case::new(|source| {
        for i in 0..40 {
            fs::write(source.join(format!("{i}")), noise(i, 1 << 20)).unwrap();
        }
    });
    let cancel = CancelToken::new();
    let token = cancel.clone();
    let progress = Arc::new(Watcher(move |_, _| token.cancel()));
    let mut archiver =
        Archiver::new(&case.rig.repository, None, Compression::default(), progress, cancel)
            .unwrap();
    let started = Instant::now();
    let error = archiver.tree("/x", &case.source, &TreeOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert!(archiver.finish().is_err());
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn wide_and_deep_directories_come_out_whole() {
    let case = Case::new(|source| {
        fs::create_dir(source.join("wide")).unwrap();
        for i in 0..3000 {
            fs::write(source.join(format!("wide/{i}")), format!("{i}")).unwrap();
        }
        for i in 0..300 {
            fs::create_dir_all(source.join(format!("dirs/{i}/below"))).unwrap();
            fs::write(source.join(format!("dirs/{i}/below/file")), format!("{i}")).unwrap();
        }
        let mut deep = source.to_owned();
        for _ in 0..150 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("bottom"), "deep").unwrap();
    });
    let (finished, snapshot) = case.archive(&TreeOptions::default());
    assert_eq!(finished.problems, []);
    assert_eq!((finished.summary.files, finished.summary.files_read), (3301, 3301));
    assert_eq!(case.paths(snapshot).len(), 1 + 3000 + 1 + 900 + 151);
    assert_eq!(case.content(snapshot, "wide/2999"), b"2999");
    assert_eq!(case.content(snapshot, "dirs/7/below/file"), b"7");
    assert_eq!(case.again(snapshot).0.summary.files_read, 0);
}

#[test]
fn a_root_that_is_a_link_stands_for_what_it_leads_to() {
    let case = Case::new(|source| fs::write(source.join("file"), "content").unwrap());
    let link = case.rig.dir.path().join("link");
    symlink(&case.source, &link).unwrap();
    let (_, snapshot) = archive(&case.rig, &link, None, &TreeOptions::default());
    let reader = SnapshotReader::open(&case.rig.repository, snapshot).unwrap();
    let path = link.to_str().unwrap().as_bytes();
    assert_eq!(reader.node(path).unwrap().unwrap().kind, NodeKind::Dir);
    assert_eq!(reader.list(path).unwrap().len(), 1);

    let file = case.rig.dir.path().join("file-link");
    symlink(case.source.join("file"), &file).unwrap();
    let (finished, snapshot) = archive(&case.rig, &file, None, &TreeOptions::default());
    assert_eq!(finished.summary.files, 1);
    let reader = SnapshotReader::open(&case.rig.repository, snapshot).unwrap();
    let mut content = Vec::new();
    reader.dump(file.to_str().unwrap().as_bytes(), &mut content).unwrap();
    assert_eq!(content, b"content");
    let (again, _) = archive(&case.rig, &file, Some(snapshot), &TreeOptions::default());
    assert_eq!(again.summary.files_read, 0);
}

#[test]
fn directories_above_the_tree_are_those_of_the_host_where_it_is_their_own_path() {
    let case = Case::new(|source| fs::write(source.join("file"), "x").unwrap());
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(case.rig.dir.path(), mode(0o710)).unwrap();
    let above = case.rig.dir.path().to_str().unwrap().as_bytes();
    let (_, own) = case.archive(&TreeOptions::default());
    let reader = SnapshotReader::open(&case.rig.repository, own).unwrap();
    assert_eq!(reader.node(above).unwrap().unwrap().permissions(), 0o710);

    let mut archiver = archiver(&case.rig, None);
    archiver.tree("/elsewhere/docs", &case.source, &TreeOptions::default()).unwrap();
    let other = save(&case.rig, &archiver.finish().unwrap(), Path::new("/elsewhere/docs"));
    let reader = SnapshotReader::open(&case.rig.repository, other).unwrap();
    let plain = reader.node(b"/elsewhere").unwrap().unwrap();
    assert_eq!((plain.permissions(), plain.mtime.seconds), (0o755, 0));
    assert!(reader.node(b"/elsewhere/docs/file").unwrap().is_some());
}

#[test]
fn holes_are_read_as_zeros() {
    let case = Case::new(|source| {
        let file = File::create(source.join("sparse")).unwrap();
        file.set_len(5 << 20).unwrap();
        file.write_all_at(b"x", 3 << 20).unwrap();
    });
    let (_, snapshot) = case.archive(&TreeOptions::default());
    let mut expected = vec![0; 5 << 20];
    expected[3 << 20] = b'x';
    assert!(case.content(snapshot, "sparse") == expected);
}
