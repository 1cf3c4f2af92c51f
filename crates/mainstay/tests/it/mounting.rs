//! The history as the real kernel shows it. Where there is no FUSE these say so and show nothing:
//! the view itself is tested without a kernel, in the repository's own tests.

use crate::not_shown::not_shown;
use crate::rig::{Rig, Said, run};
use crate::world::{PATIENCE, wait_for};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whether anything can be mounted here.
fn fuse() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let helper = Command::new("fusermount3").arg("--version").output();
    if device.is_err() || (!is_root() && helper.is_err()) {
        not_shown(&format!("nothing can be mounted here ({device:?}, {helper:?})"));
        return false;
    }
    true
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(step).take(length).collect()
}

/// A host with service `docs`, and one point of this tree.
fn host(fill: impl FnOnce(&Path)) -> Rig {
    let rig = Rig::new();
    let docs = rig.path("docs");
    fs::create_dir_all(&docs).unwrap();
    fs::create_dir_all(rig.path("mnt")).unwrap();
    fill(&docs);
    rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{}\"\n", docs.display()));
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    rig
}

/// A mount, and the process that serves it.
struct Mounted {
    child: Child,
    place: PathBuf,
    /// What it said on standard error.
    said: PathBuf,
}

impl Mounted {
    fn new(rig: &Rig, words: &[&str]) -> Mounted {
        let (place, said) = (rig.path("mnt"), rig.path("mount.stderr"));
        let words = [&["mount", place.to_str().unwrap()], words].concat();
        let mut child = rig
            .command(&words)
            .stdout(Stdio::piped())
            .stderr(File::create(&said).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told = fs::read_to_string(&said).unwrap();
        assert!(line.starts_with("Mounted on"), "{line:?} {told}");
        Mounted { child, place, said }
    }

    /// The service's tree in a point.
    fn tree(&self, rig: &Rig, point: &str) -> PathBuf {
        let below = rig.path("docs");
        self.place.join("docs").join(point).join(below.strip_prefix("/").unwrap())
    }

    fn is_mounted(&self) -> bool {
        is_mounted(&self.place)
    }

    /// The process that guards it.
    fn guard(&self) -> i32 {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = fs::read_to_string(path).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: &str) {
        run(Command::new("kill").args([signal, &self.child.id().to_string()])).code(0);
    }

    /// Waits for its end.
    fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The guard does this, unless the test failed in it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.is_mounted() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.is_mounted() {
            let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        }
    }
}

fn is_mounted(place: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = place.to_str().unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(place))
}

/// What a source and its point must have in common.
#[derive(Debug, PartialEq)]
struct Looks {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    target: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    linked_to: Option<PathBuf>,
    content: Option<Vec<u8>>,
}

/// Everything below a directory, by path; and every entry's number is what `stat` says.
fn looks(root: &Path) -> BTreeMap<PathBuf, Looks> {
    use std::os::unix::fs::DirEntryExt;
    let (mut found, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let (kind, name) = (meta.file_type(), path.strip_prefix(root).unwrap().to_owned());
        let mut linked_to = None;
        if meta.nlink() > 1 && !kind.is_dir() {
            linked_to = Some(inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone());
        }
        let xattrs = xattr::list(&path).unwrap().map(|attribute| {
            let value = xattr::get(&path, &attribute).unwrap().unwrap();
            (attribute.as_bytes().to_vec(), value)
        });
        let special = kind.is_block_device() || kind.is_char_device();
        let looks = Looks {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            device: if special { meta.rdev() } else { 0 },
            target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
            xattrs: xattrs.collect(),
            linked_to,
            content: kind.is_file().then(|| fs::read(&path).unwrap()),
        };
        if kind.is_dir() {
            let mut below: Vec<_> = fs::read_dir(&path).unwrap().map(Result::unwrap).collect();
            below.sort_by_key(fs::DirEntry::file_name);
            for entry in below.into_iter().rev() {
                assert_eq!(entry.ino(), fs::symlink_metadata(entry.path()).unwrap().ino());
                open.push(entry.path());
            }
        }
        found.insert(name, looks);
    }
    found
}

/// A tree with one of each.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("a/deep/er")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    let write = |name: &[u8], bytes: &[u8]| {
        let path = root.join(OsStr::from_bytes(name));
        fs::write(&path, bytes).unwrap();
        path
    };
    let large = write(b"a/large", &noise(1, 9_000_000));
    let small = write(b"a/small", b"small");
    write(b"nothing", b"");
    let names = [
        &b"new\nline"[..],
        b"bad\xff\xfe\x01",
        b"quote\"back\\slash",
        b" around ",
        b"-rf",
        b"...",
        "\u{2028}\u{e9}\u{1f600}".as_bytes(),
        &[b'n'; 255],
    ];
    for name in names {
        write(name, name);
    }
    for n in 0..500 {
        write(format!("empty/{n}").as_bytes(), format!("number {n}").as_bytes());
    }
    symlink("a/small", root.join("link")).unwrap();
    symlink(OsStr::from_bytes(b"/nowhere/\xff"), root.join("dangling")).unwrap();
    fs::hard_link(&large, root.join("a/deep/hard")).unwrap();
    fs::hard_link(&small, root.join("empty/hard")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 30 << 20).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    xattr::set(&small, "user.comment", b"with \0 inside").unwrap();
    xattr::set(&small, "user.empty", b"").unwrap();
    xattr::set(root.join("a"), "user.long", &noise(3, 2000)).unwrap();
    let acl = write(b"acl", b"for 1234");
    run(Command::new("setfacl").args(["-m", "u:1234:r"]).arg(&acl)).code(0);
    run(Command::new("setfacl").args(["-d", "-m", "u:1234:rx"]).arg(root.join("a/deep"))).code(0);
    run(Command::new("mkfifo").arg(root.join("fifo"))).code(0);
    if is_root() {
        run(Command::new("mknod").arg(root.join("block")).args(["b", "7", "300"])).code(0);
        run(Command::new("mknod").arg(root.join("char")).args(["c", "300", "70000"])).code(0);
        std::os::unix::fs::lchown(root.join("dangling"), Some(1234), Some(5678)).unwrap();
        std::os::unix::fs::chown(root.join("acl"), Some(1234), Some(4_000_000_000)).unwrap();
        write(b"no-rights", b"none");
        mode("no-rights", 0);
    }
    mode("nothing", 0o6755);
    mode("empty", 0o1777);
    mode("a/deep/er", 0o2750);
    for (name, time) in [
        ("a/small", "2009-02-13T23:31:30.123456789Z"),
        ("nothing", "1969-12-30T00:00:00.000000005Z"),
        ("sparse", "2100-01-01T00:00:00Z"),
        ("a", "2001-02-03T04:05:06.7Z"),
    ] {
        let mut touch = Command::new("touch");
        run(touch.args(["-h", "-d", time]).arg(root.join(name)).env("TZ", "UTC")).code(0);
    }
}

#[test]
fn the_kernel_shows_what_was_backed_up() {
    if !fuse() {
        return;
    }
    let rig = host(fill);
    let mounted = Mounted::new(&rig, &["docs"]);
    let tree = mounted.tree(&rig, "latest");
    let (was, is) = (looks(&rig.path("docs")), looks(&tree));
    for (path, was) in &was {
        let is = is.get(path).unwrap_or_else(|| panic!("{} is missing", path.display()));
        if was != is {
            let brief = |looks: &Looks| {
                let content = looks.content.as_ref().map(Vec::len);
                format!(
                    "{:?} {content:?}",
                    Looks {
                        content: None,
                        xattrs: looks.xattrs.clone(),
                        linked_to: looks.linked_to.clone(),
                        target: looks.target.clone(),
                        ..*looks
                    }
                )
            };
            panic!("{}\n was {}\n is  {}", path.display(), brief(was), brief(is));
        }
    }
    assert_eq!(was.len(), is.len());
    // As other programs see it: attributes through the system's own tools, archives, holes.
    let facl = |path: &Path| run(Command::new("getfacl").args(["-cn"]).arg(path)).code(0).out;
    assert_eq!(facl(&rig.path("docs/acl")), facl(&tree.join("acl")));
    assert_eq!(facl(&rig.path("docs/a/deep")), facl(&tree.join("a/deep")));
    let copy = rig.path("copied");
    run(Command::new("cp").arg("-a").arg(tree.join("sparse")).arg(&copy)).code(0);
    let blocks = fs::metadata(&copy).unwrap().blocks() * 512;
    assert!(blocks < 20 << 20, "{blocks}: its holes were filled");
    assert!(fs::read(&copy).unwrap() == fs::read(rig.path("docs/sparse")).unwrap());
    let tar = rig.path("archive.tar");
    let mut pack = Command::new("tar");
    run(pack.arg("-cf").arg(&tar).arg("-C").arg(&tree).args(["a/large", "a/deep/hard"])).code(0);
    assert!(fs::metadata(&tar).unwrap().len() < 10_000_000, "the two names are one file");
    // Nothing can be written, whoever asks.
    let refused = fs::write(tree.join("new"), b"").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    assert!(fs::remove_file(tree.join("nothing")).is_err());
    assert!(File::options().append(true).open(tree.join("nothing")).is_err());
    assert_eq!(fs::read_to_string(&mounted.said).unwrap(), "");
}

#[test]
fn points_stand_beside_each_other_and_new_ones_appear() {
    if !fuse() {
        return;
    }
    let rig = host(|docs| fs::write(docs.join("letter"), "dear reader").unwrap());
    let mounted = Mounted::new(&rig, &[]);
    let docs = mounted.place.join("docs");
    let first = fs::read_link(docs.join("latest")).unwrap();
    let read = |point: &str| fs::read_to_string(mounted.tree(&rig, point).join("letter")).unwrap();
    assert_eq!(read("latest"), "dear reader");

    rig.write("docs/letter", "dear writer");
    // Points are named by the second.
    wait_for("another second", || {
        let now = run(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).code(0).out;
        now.trim() > first.to_str().unwrap()
    });
    rig.run(&["backup", "docs"]).code(0);
    wait_for("the new point", || fs::read_link(docs.join("latest")).unwrap() != first);
    assert_eq!(read("latest"), "dear writer");
    assert_eq!(read(first.to_str().unwrap()), "dear reader");
    let ids: Vec<_> = fs::read_dir(docs.join("ids")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(ids.len(), 2);
    let list = rig.run(&["--json", "snapshots", "docs"]).code(0).json();
    for point in list["services"][0]["snapshots"].as_array().unwrap() {
        let id = &point["snapshot"].as_str().unwrap()[..8];
        let target = fs::read_link(docs.join("ids").join(id)).unwrap();
        let time = target.file_name().unwrap().to_str().unwrap();
        assert_eq!(time[..19], point["source-time"].as_str().unwrap()[..19]);
        assert!(docs.join("ids").join(id).join(".mainstay/snapshot.json").exists());
    }
    // restic's snapshots stand beside ours.
    let mut restic = crate::rig::restic(&rig, "docs");
    let words = ["backup", "--no-cache", "--time", "2020-01-02 03:04:05"];
    run(restic.args(words).arg(rig.path("docs")).env("TZ", "UTC")).code(0);
    wait_for("restic's", || docs.join("2020-01-02T03:04:05Z").exists());
    assert_eq!(read("2020-01-02T03:04:05Z"), "dear writer");
    assert_eq!(read("latest"), "dear writer");
}

#[test]
fn a_signal_unmounts_and_nothing_stays() {
    if !fuse() {
        return;
    }
    let rig = host(|docs| fs::write(docs.join("letter"), "dear reader").unwrap());
    let locks = || fs::read_dir(rig.path("vault/docs/locks")).unwrap().count();
    // A hang-up that `nohup` has these tests ignore is ignored by what they start, too.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let signals: &[&str] = match u64::from_str_radix(ignored, 16).unwrap() & 1 {
        1 => &["-INT", "-TERM"],
        _ => &["-INT", "-TERM", "-HUP"],
    };
    for signal in signals {
        let mut mounted = Mounted::new(&rig, &["docs"]);
        let guard = mounted.guard();
        assert_eq!(locks(), 1);
        mounted.signal(signal);
        assert_eq!(mounted.end(), Some(0), "{signal}");
        assert!(!mounted.is_mounted());
        assert_eq!(locks(), 0);
        assert!(!Path::new(&format!("/proc/{guard}/exe")).exists(), "the guard stays");
    }
    // Still in use: it ends all the same, and soon.
    let mut mounted = Mounted::new(&rig, &["docs"]);
    let mut open = File::open(mounted.tree(&rig, "latest").join("letter")).unwrap();
    let before = Instant::now();
    mounted.signal("-TERM");
    assert_eq!(mounted.end(), Some(0));
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert!(!mounted.is_mounted());
    assert!(fs::read_to_string(&mounted.said).unwrap().contains("still uses"));
    let mut rest = String::new();
    let _ = open.read_to_string(&mut rest);
    drop(open);
    // Unmounted by somebody else, it is over too.
    let mut mounted = Mounted::new(&rig, &["docs"]);
    let program = if is_root() { &["umount"][..] } else { &["fusermount3", "-u"] };
    run(Command::new(program[0]).args(&program[1..]).arg(&mounted.place)).code(0);
    assert_eq!(mounted.end(), Some(0));
    assert_eq!(locks(), 0);
}

#[test]
fn killed_it_leaves_no_mount_behind() {
    if !fuse() {
        return;
    }
    let rig = host(|docs| fs::write(docs.join("letter"), "dear reader").unwrap());
    let mut mounted = Mounted::new(&rig, &["docs"]);
    let _open = File::open(mounted.tree(&rig, "latest").join("letter")).unwrap();
    mounted.signal("-KILL");
    assert_eq!(mounted.end(), None);
    wait_for("the guard unmounts", || !mounted.is_mounted());
    assert_eq!(fs::read_dir(&mounted.place).unwrap().count(), 0);
    drop(mounted);

    // Killed together with its guard: the next mount clears the place.
    let mut mounted = Mounted::new(&rig, &["docs"]);
    run(Command::new("kill").args(["-KILL", &mounted.guard().to_string()])).code(0);
    mounted.signal("-KILL");
    assert_eq!(mounted.end(), None);
    let dead = fs::metadata(&mounted.place).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
    let again = Mounted::new(&rig, &["docs"]);
    let letter = again.tree(&rig, "latest").join("letter");
    assert_eq!(fs::read_to_string(letter).unwrap(), "dear reader");
}

#[test]
fn what_is_shown_is_not_removed() {
    if !fuse() {
        return;
    }
    let rig = host(|docs| fs::write(docs.join("letter"), "dear reader").unwrap());
    rig.write("docs/letter", "dear writer");
    rig.run(&["backup", "docs"]).code(0);
    let mounted = Mounted::new(&rig, &["docs"]);
    rig.run(&["forget", "docs", "--keep-last", "1", "--wait", "0s"]).code(11);
    rig.run(&["prune", "docs", "--wait", "0s"]).code(11);
    let points = rig.run(&["--json", "snapshots", "docs"]).code(0).json();
    let first = points["services"][0]["snapshots"][0]["name"].as_str().unwrap().to_owned();
    rig.run(&["forget", "docs", &first, "--yes", "--wait", "0s"]).code(11);
    // Reading and adding go on beside it.
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["check", "docs"]).code(0);
    drop(mounted);
    let unlocked = Mounted::new(&rig, &["docs", "--no-lock"]);
    rig.run(&["forget", "docs", "--keep-last", "1", "--prune"]).code(0);
    let docs = unlocked.place.join("docs");
    wait_for("the forgotten points go", || fs::read_dir(docs.join("ids")).unwrap().count() == 1);
    let letter = unlocked.tree(&rig, "latest").join("letter");
    assert_eq!(fs::read_to_string(letter).unwrap(), "dear writer");
}

#[test]
fn damage_is_an_error_of_the_file_that_has_it() {
    if !fuse() {
        return;
    }
    let rig = host(|docs| {
        fs::write(docs.join("good"), noise(1, 20 << 20)).unwrap();
        fs::write(docs.join("bad"), noise(2, 20 << 20)).unwrap();
    });
    // One byte of each pack that holds something of `bad` alone.
    let find = rig.run(&["--json", "ls", "docs", "-r"]).code(0);
    assert!(find.out.contains("bad"));
    let mut packs: Vec<PathBuf> = fs::read_dir(rig.path("vault/docs/data"))
        .unwrap()
        .flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    packs.retain(|pack| fs::metadata(pack).unwrap().len() > 1 << 20);
    let pack = &packs[0];
    let whole = fs::read(pack).unwrap();
    let mut bytes = whole.clone();
    bytes[300_000] ^= 1;
    fs::write(pack, &bytes).unwrap();
    let mounted = Mounted::new(&rig, &["docs"]);
    let tree = mounted.tree(&rig, "latest");
    let read = |name: &str| fs::read(tree.join(name));
    let both = [("good", noise(1, 20 << 20)), ("bad", noise(2, 20 << 20))];
    let mut failed = 0;
    for (name, wanted) in &both {
        match read(name) {
            Ok(bytes) => assert!(bytes == *wanted),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 1, "the blob with that byte is of one file");
    let told = fs::read_to_string(&mounted.said).unwrap();
    assert!(told.contains("Warning: data blob"), "{told}");
    assert_eq!(told.lines().count(), 1, "told once: {told}");
    fs::write(pack, &whole).unwrap();
    for (name, wanted) in &both {
        assert!(read(name).unwrap() == *wanted, "healed, it is read");
    }
}

#[test]
fn many_readers_of_a_large_file_in_little_memory() {
    if !fuse() {
        return;
    }
    let whole = noise(9, 120 << 20);
    let rig = host(|docs| fs::write(docs.join("large"), &whole).unwrap());
    let mounted = Mounted::new(&rig, &["docs", "--cache-size", "16MiB"]);
    let path = mounted.tree(&rig, "latest").join("large");
    std::thread::scope(|scope| {
        for seed in 0..4_u64 {
            let (path, whole) = (&path, &whole);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                for part in noise(seed + 1, 8 * 25).chunks(8) {
                    let random = u64::from_le_bytes(part.try_into().unwrap());
                    let length = usize::try_from(random >> 44).unwrap();
                    let most = (whole.len() - length) as u64;
                    let from = random % most;
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, from).unwrap();
                    let start = usize::try_from(from).unwrap();
                    assert!(bytes == whole[start..start + length]);
                }
            });
        }
    });
    assert!(fs::read(&path).unwrap() == whole);
    let status = fs::read_to_string(format!("/proc/{}/status", mounted.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 160_000, "{peak} kB");
}

#[test]
fn others_look_only_if_they_may() {
    if !fuse() {
        return;
    }
    if !is_root() {
        not_shown("only root can look as others");
        return;
    }
    let rig = host(|docs| {
        for (name, mode) in [("open", 0o644), ("closed", 0o600)] {
            fs::write(docs.join(name), name).unwrap();
            fs::set_permissions(docs.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    });
    // A temporary directory belongs to who made it.
    let place = rig.path("");
    for dir in [place.as_path(), &rig.path("docs"), &rig.path("mnt")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    rig.run(&["backup", "docs"]).code(0);
    let cat = |path: PathBuf| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(path);
        run(&mut command)
    };
    let mounted = Mounted::new(&rig, &["docs"]);
    cat(mounted.tree(&rig, "latest").join("open")).code(1);
    drop(mounted);
    let mounted = Mounted::new(&rig, &["docs", "--allow-other"]);
    let tree = mounted.tree(&rig, "latest");
    assert_eq!(cat(tree.join("open")).code(0).out, "open");
    cat(tree.join("closed")).code(1).complains("Permission denied");
}

/// Of all services those are shown that can be.
#[test]
fn a_service_that_cannot_be_opened_takes_nothing_from_the_others() {
    if !fuse() {
        return;
    }
    let rig = host(|docs| fs::write(docs.join("letter"), "dear reader").unwrap());
    let config = fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let other = rig.write("other-password", "another\n");
    let path = rig.path("docs");
    let more = format!(
        "[service.away]\nengine = \"files\"\npath = \"{}2\"\npassword-file = \"{}\"\n",
        path.display(),
        other.display()
    );
    rig.write("mainstay.toml", config + &more);
    let mounted = Mounted::new(&rig, &[]);
    let told = fs::read_to_string(&mounted.said).unwrap();
    assert!(told.contains("away") && told.contains("repository"), "{told}");
    let letter = mounted.tree(&rig, "latest").join("letter");
    assert_eq!(fs::read_to_string(letter).unwrap(), "dear reader");
    let away = fs::read_dir(mounted.place.join("away")).unwrap_err();
    assert_eq!(away.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    drop(mounted);
    let place = rig.path("mnt").display().to_string();
    rig.run(&["mount", &place, "docs", "away"]).code(10);
}

#[test]
fn what_cannot_be_mounted_is_refused() {
    let rig = host(|docs| fs::write(docs.join("letter"), "dear reader").unwrap());
    let mount = |place: &str, words: &[&str]| -> Said {
        let place = rig.path(place).display().to_string();
        rig.run(&[&["mount", &place], words].concat())
    };
    mount("nowhere", &["docs"]).code(1).complains("Make the directory first");
    mount("docs", &["docs"]).code(1).complains("not empty");
    mount("mnt", &["nothing"]).code(1).complains("no service nothing");
    let password = fs::read(rig.path("password")).unwrap();
    rig.write("password", "another");
    mount("mnt", &["docs"]).code(12);
    mount("mnt", &[]).code(12).complains("docs");
    fs::remove_dir_all(rig.path("vault")).unwrap();
    rig.write("password", password);
    mount("mnt", &["docs", "--json"]).code(10);
    assert!(!is_mounted(&rig.path("mnt")));
}
