//! One mount, from its beginning to its end.

use super::filesystem::Shown;
use super::guard::Guard;
use super::mounts::{self, Taken};
use crate::failure::Failure;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use model::{CancelToken, Class};
use repository::view::View;
use rustix::process::{getegid, geteuid};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What file systems like this one are served through.
const DEVICE: &str = "/dev/fuse";
/// How often it is looked whether somebody wants an end.
const LOOK: Duration = Duration::from_millis(100);
/// How long requests that run may take to end, once it is unmounted.
const GRACE: Duration = Duration::from_secs(1);

/// How it is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Others than this user may look, as far as owners and modes let them.
    pub(crate) allow_other: bool,
}

/// A view that is mounted.
pub(crate) struct Session {
    place: PathBuf,
    source: String,
    served: BackgroundSession,
    guard: Guard,
}

impl Session {
    /// Mounts. It can be looked at when this returns.
    pub(crate) fn start(view: View, place: &Path, options: Options) -> Result<Session, Failure> {
        let place = free(place)?;
        let source = mounts::new_source()?;
        let mut mount_options = vec![
            MountOption::RO,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoAtime,
            MountOption::FSName(source.clone()),
        ];
        let mut config = Config::default();
        if options.allow_other {
            mount_options.push(MountOption::DefaultPermissions);
            config.acl = SessionACL::All;
        }
        config.mount_options = mount_options;
        config.n_threads = Some(threads());
        let owner = (geteuid().as_raw(), getegid().as_raw());
        // Before the mount: at no instant is there one that nobody would take away.
        let guard = Guard::start(&source)?;
        let session = fuser::Session::new(Shown { view, owner }, &place, &config)
            .and_then(fuser::Session::spawn);
        match session {
            Ok(served) => Ok(Session { place, source, served, guard }),
            Err(e) => {
                guard.end();
                Err(explained(&place, &e, options))
            }
        }
    }

    /// Where it is mounted.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// Serves until somebody unmounts it, or `stop` is set; then it is unmounted. Answers whether
    /// it was still in use.
    pub(crate) fn serve(self, stop: &CancelToken) -> Result<bool, Failure> {
        while !stop.is_cancelled() && !self.served.guard.is_finished() {
            std::thread::sleep(LOOK);
        }
        let mut in_use = false;
        let mut failure = None;
        for place in mounts::places_of(&self.source) {
            match mounts::take_away(&place) {
                Ok(taken) => in_use |= taken == Taken::Detached,
                Err(e) => failure = Some(e),
            }
        }
        let deadline = Instant::now() + GRACE;
        while !self.served.guard.is_finished() && !in_use && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Dropping it would unmount whatever is at this place by now. What still runs of it ends
        // with this process.
        std::mem::forget(self.served);
        self.guard.end();
        failure.map_or(Ok(in_use), Err)
    }
}

/// A directory that can be mounted on. One that a process left that was killed together with its
/// guard is cleared first.
fn free(place: &Path) -> Result<PathBuf, Failure> {
    let place = std::path::absolute(place).map_err(|e| Failure::io("find", place.display(), &e))?;
    if mounts::is_ours(&place)
        && let Err(e) = std::fs::metadata(&place)
        && e.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error())
    {
        mounts::take_away(&place)?;
    }
    // As the kernel will name it.
    let place = place.canonicalize().map_err(|e| {
        let failure = Failure::io("mount on", place.display(), &e);
        match e.kind() {
            ErrorKind::NotFound => failure.hint("Make the directory first."),
            _ => failure,
        }
    })?;
    if mounts::is_ours(&place) {
        return Err(Failure::refused(format!("{} is mounted already", place.display())));
    }
    let mut entries =
        std::fs::read_dir(&place).map_err(|e| Failure::io("mount on", place.display(), &e))?;
    if entries.next().is_some() {
        let what = format!("{} is not empty, and what is in it could not be seen", place.display());
        return Err(Failure::refused(what).hint("Mount on an empty directory."));
    }
    Ok(place)
}

fn explained(place: &Path, error: &std::io::Error, options: Options) -> Failure {
    // What `fusermount3` says ends with a line of its own.
    let error = error.to_string();
    let what = format!("cannot mount on {}: {}", place.display(), error.trim_end());
    let failure = Failure::new(Class::Failed, what);
    match std::fs::File::options().read(true).write(true).open(DEVICE) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return failure
                .hint("There is no /dev/fuse: load the kernel module with `modprobe fuse`.");
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return failure.hint(
                "This user cannot open /dev/fuse, which is usually open to everybody: run \
                 `chmod 666 /dev/fuse` as root, or mount as root with `--allow-other`.",
            );
        }
        _ => {}
    }
    if options.allow_other && !geteuid().is_root() {
        return failure.hint("Others can look only if /etc/fuse.conf has `user_allow_other`.");
    }
    if !geteuid().is_root() {
        return failure.hint(
            "Who is not root needs `fusermount3` (package fuse3), and a directory of his own.",
        );
    }
    failure
}

fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores * 2).clamp(4, 16)
}
