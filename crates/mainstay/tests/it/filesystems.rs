//! File systems of their own for tests: what a refresh costs, and how it is done, depends on them.
//! They are made in a file and mounted by root. Where that cannot be had, the tests say so past what
//! the test runner keeps to itself, and show nothing.

use crate::not_shown::not_shown;
use crate::rig::run;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Clones.
    Xfs,
    /// Clones, and knows the sums of its blocks.
    Btrfs,
    /// Neither.
    Ext4,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Xfs, Kind::Btrfs, Kind::Ext4];

    pub(crate) fn clones(self) -> bool {
        self != Kind::Ext4
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
            Kind::Ext4 => "ext4",
        }
    }
}

/// A mounted file system, unmounted and removed when it goes.
pub(crate) struct Mounted {
    dir: tempfile::TempDir,
    kind: Kind,
    at: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// One of this size; none where nothing can be mounted.
    pub(crate) fn new(kind: Kind, mebibytes: u64) -> Option<Mounted> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("mnt");
        fs::create_dir(&at).unwrap();
        let mut mounted = Mounted { dir, kind, at, mounted: false };
        File::create(mounted.image()).unwrap().set_len(mebibytes << 20).unwrap();
        let name = kind.name();
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        let made = Command::new(format!("mkfs.{name}"))
            .arg("-q")
            .arg(mounted.image())
            .env("PATH", path)
            .output();
        let made =
            made.unwrap_or_else(|e| panic!("mkfs.{name}: {e}; `cargo xtask provide` installs it"));
        assert!(made.status.success(), "{made:?}");
        match mounted.mount() {
            Ok(()) => Some(mounted),
            Err(why) => {
                not_shown(&format!("no {name} can be mounted here: {}", why.trim()));
                None
            }
        }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&mut self) -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("that needs root".to_owned());
        }
        let mut command = Command::new("mount");
        command.args(["-o", "loop", "-t", self.kind.name()]).arg(self.image()).arg(&self.at);
        match command.output() {
            Ok(done) if done.status.success() => {
                self.mounted = true;
                Ok(())
            }
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            run(Command::new("umount").arg(&self.at)).code(0);
        }
    }

    /// Changes one byte of these bytes where they lie on the disk, unseen by the file system.
    pub(crate) fn rot(&mut self, bytes: &[u8]) {
        self.unmount();
        let image = File::options().read(true).write(true).open(self.image()).unwrap();
        let mut place = None;
        let mut buffer = vec![0; 4 << 20];
        let mut at = 0;
        while at < image.metadata().unwrap().len() {
            let read = image.read_at(&mut buffer, at).unwrap();
            let found = buffer[..read].windows(bytes.len()).position(|window| window == bytes);
            place = place.or(found.map(|found| at + found as u64));
            // What lies across the end of this part begins before the end of the next.
            at += (4 << 20) - bytes.len() as u64;
        }
        let place = place.expect("the bytes are on the disk");
        image.write_all_at(&[bytes[0] ^ 0x20], place).unwrap();
        drop(image);
        self.mount().unwrap();
    }

    /// Bytes that are in use.
    pub(crate) fn used(&self) -> u64 {
        self.sync();
        let stat = rustix::fs::statvfs(&self.at).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }

    /// Bytes that were written to the disk since it was mounted.
    pub(crate) fn written(&self) -> u64 {
        self.sync();
        let device = fs::metadata(&self.at).unwrap().dev();
        let by_number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let mut stat = PathBuf::from("/sys/dev/block").join(by_number).join("stat");
        if !stat.exists() {
            // What btrfs shows is no device; its own is the one that holds the image.
            stat = self.loop_device().join("stat");
        }
        let numbers = fs::read_to_string(stat).unwrap();
        let sectors = numbers.split_whitespace().nth(6).unwrap();
        sectors.parse::<u64>().unwrap() * 512
    }

    fn loop_device(&self) -> PathBuf {
        let image = self.image();
        let devices = fs::read_dir("/sys/block").unwrap().map(|item| item.unwrap().path());
        devices
            .into_iter()
            .find(|device| {
                let file = fs::read_to_string(device.join("loop/backing_file"));
                file.is_ok_and(|file| Path::new(file.trim_end()) == image)
            })
            .expect("a loop device")
    }

    fn sync(&self) {
        rustix::fs::syncfs(File::open(&self.at).unwrap()).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            // A test that fails may leave something of it open for a moment.
            let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        }
    }
}

/// A small file system in memory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Small(PathBuf);

impl Small {
    /// One of this size at this place; none where nothing can be mounted.
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Small> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(at);
        let why = match mount.output() {
            Ok(done) if done.status.success() => return Some(Small(at.to_owned())),
            Ok(done) => String::from_utf8_lossy(&done.stderr).into_owned(),
            Err(e) => e.to_string(),
        };
        not_shown(&format!("no tmpfs can be mounted here: {}", why.trim()));
        None
    }
}

impl Small {
    /// Fills it up to so many bytes.
    pub(crate) fn fill(&self, left: u64) {
        fill(&self.0, left);
    }

    /// Removes what fills it.
    pub(crate) fn empty(&self) {
        empty(&self.0);
    }
}

/// Fills a disk up to so many bytes.
pub(crate) fn fill(disk: &Path, left: u64) {
    let mut file = File::create(disk.join("filler")).unwrap();
    let mut written = 0_u64;
    for size in [1 << 20, 1 << 12] {
        let block = vec![0; size];
        while file.write_all(&block).is_ok() {
            written += size as u64;
        }
        // What a write that failed has written all the same.
        written = written.max(file.metadata().unwrap().len());
    }
    file.set_len(written.saturating_sub(left)).unwrap();
}

/// Removes what fills it.
pub(crate) fn empty(disk: &Path) {
    fs::remove_file(disk.join("filler")).unwrap();
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
