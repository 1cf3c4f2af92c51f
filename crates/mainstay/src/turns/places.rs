//! What keeps turns apart: one of a kind for one service at a time, and not too many services at once.
//!
//! All are flocks, which end with whoever holds them. Nothing here waits for one that may be held for
//! ever: a turn that is taken is left to whoever has it, and a place among those that work at once is
//! given up after a while by who works on, and done without by who has waited long enough.

use super::Turn;
use crate::failure::Failure;
use jiff::Timestamp;
use model::CancelToken;
use operations::{ServiceSite, Site};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A turn of a service that is this process's, as long as it lives.
#[derive(Debug)]
pub(super) struct Mine {
    _file: File,
}

/// Whose a turn is.
#[derive(Debug)]
pub(super) enum Whose {
    Mine(Mine),
    /// An earlier process's, that has not come to its end yet: since when, if that can be told.
    Anothers(Option<Timestamp>),
}

/// Takes a turn of a service, or says that another process has it.
pub(super) fn take(service: &ServiceSite, turn: Turn) -> Result<Whose, Failure> {
    let path = private(service.dir().join("due"))?.join(turn.name());
    let file = open(&path)?;
    if !lock(&file, &path)? {
        let since = file.metadata().and_then(|meta| meta.modified()).ok();
        return Ok(Whose::Anothers(since.and_then(|since| Timestamp::try_from(since).ok())));
    }
    // From now on. Should it not be written, the turn looks older than it is, if anybody asks.
    let _ = file.set_modified(SystemTime::now());
    Ok(Whose::Mine(Mine { _file: file }))
}

/// How many do something at once on a host, and how long one of them counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) name: &'static str,
    pub(super) places: usize,
    pub(super) longest: Duration,
}

/// Waits for a place. It is held until this process ends, or for the room's longest time.
pub(super) fn enter(site: &Site, room: Room, cancel: &CancelToken) -> Result<Place, Failure> {
    let dir = private(site.config().host.state_dir.join("due"))?;
    // Whoever does not give its place up (it is stopped, perhaps) is not waited for longer than this.
    let deadline = Instant::now() + room.longest * 2;
    loop {
        for number in 0..room.places {
            let path = dir.join(format!("{}-{number}", room.name));
            let file = open(&path)?;
            if lock(&file, &path)? {
                return Ok(Place::until(room.longest, file));
            }
        }
        if Instant::now() >= deadline || cancel.is_cancelled() {
            return Ok(Place { over: None });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A place, held until this is dropped or its time is over.
#[derive(Debug)]
pub(super) struct Place {
    over: Option<std::sync::mpsc::Sender<()>>,
}

impl Place {
    fn until(longest: Duration, file: File) -> Place {
        let (over, ended) = std::sync::mpsc::channel();
        let hold = move || {
            let _ = ended.recv_timeout(longest);
            drop(file);
        };
        // Without a thread to hold it nobody does, and one more works than was meant.
        let held = std::thread::Builder::new().name("place".to_owned()).spawn(hold);
        Place { over: held.ok().map(|_| over) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The thread that holds it sees this end.
        self.over.take();
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    let options = File::options().create(true).truncate(false).write(true).to_owned();
    options.open(path).map_err(|e| Failure::io("open the lock", path.display(), &e))
}

fn lock(file: &File, path: &Path) -> Result<bool, Failure> {
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Failure::io("lock", path.display(), &e.into())),
        }
    }
}

/// A directory that only its owner enters.
fn private(dir: PathBuf) -> Result<PathBuf, Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.map_err(|e| {
        Failure::io("make the state directory", dir.display(), &e)
            .hint("Correct `state-dir` in [host], or run as the user it belongs to.")
    })?;
    Ok(dir)
}
