//! What one member remembers of a service's state: the highest generation and number it has seen.
//!
//! A vault cannot tell that it is an old copy of itself; a member that has seen the newer one can.
//! So each member keeps what it was shown on a disk of its own, and refuses to be shown less.
//!
//! The number of the state object is remembered beside the generation. Within one generation a
//! lower number is refused too: a vault that was restored from last week's copy shows the same
//! generation, but it has forgotten a week of points, and perhaps a takeover that was claimed.
//! Nothing in normal use lowers the number, so a refusal always means that a person has to look.

use crate::{Error, Versioned};
use model::{Generation, MemberName};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

/// The memory, in a file of the member's state directory.
#[derive(Debug)]
pub struct Witness {
    file: PathBuf,
}

/// What was remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Remembered {
    /// Highest generation seen.
    pub generation: Generation,
    /// The primary at that generation.
    pub primary: Option<MemberName>,
    /// Highest number of a state seen.
    pub number: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Stored {
    format: u32,
    #[serde(flatten)]
    remembered: Remembered,
}

impl Witness {
    /// The memory at this file, which need not exist yet.
    pub fn at(file: &Path) -> Witness {
        Witness { file: file.to_owned() }
    }

    /// What was last seen; none if nothing ever was. A file that cannot be understood is an error:
    /// to start over without memory is just what it is there to prevent.
    pub fn remembered(&self) -> Result<Option<Remembered>, Error> {
        let bytes = match fs::read(&self.file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &self.file, e)),
        };
        let damaged = |what: String| Error::damaged(&self.file.display().to_string(), what);
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if stored.format != FORMAT {
            return Err(damaged(format!("format {} is not known", stored.format)));
        }
        Ok(Some(stored.remembered))
    }

    /// Remembers what this state shows, durable on return; refuses a state that has gone back.
    pub fn see(&self, shown: &Versioned) -> Result<(), Error> {
        self.see_since(self.remembered()?.as_ref(), shown)
    }

    /// The same of a state that was asked for after `before` was remembered. Another process of this host
    /// may have been shown a newer one meanwhile: that stays remembered, and this one has not gone back.
    pub fn see_since(&self, before: Option<&Remembered>, shown: &Versioned) -> Result<(), Error> {
        let new = Remembered::of(shown);
        // Mostly there is nothing new, and then nothing is locked or written.
        if before == Some(&new) {
            return Ok(());
        }
        if let Some(before) = before {
            before.check(&new)?;
        }
        let _lock = self.lock()?;
        match self.remembered()? {
            Some(seen) if seen == new => Ok(()),
            Some(seen) if seen.number > new.number => new
                .check(&seen)
                .map_err(|_| Error::Forked { shown: new.describe(), seen: seen.describe() }),
            Some(seen) => {
                seen.check(&new)?;
                self.write(&new)
            }
            None => self.write(&new),
        }
    }

    /// Remembers this state although it has gone back: a person decided that this vault holds.
    pub fn accept(&self, shown: &Versioned) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.write(&Remembered::of(shown))
    }

    /// Two processes of this host may be shown two states at once; the higher one must stay.
    fn lock(&self) -> Result<File, Error> {
        let dir = self.dir();
        make_dir(dir)?;
        let path = self.beside("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|e| io_error("open", &path, e))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| io_error("lock", &path, e.into()))?;
        Ok(lock)
    }

    /// Called under the lock, which is what makes one name for the temporary file enough.
    fn write(&self, remembered: &Remembered) -> Result<(), Error> {
        let stored = Stored { format: FORMAT, remembered: remembered.clone() };
        let mut text = serde_json::to_vec(&stored)
            .map_err(|e| io_error("write", &self.file, io::Error::other(e)))?;
        text.push(b'\n');
        let temporary = self.beside("tmp");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.file)?;
            File::open(self.dir())?.sync_all()
        };
        write().map_err(|e| io_error("write", &self.file, e))
    }

    fn dir(&self) -> &Path {
        match self.file.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        }
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.file.as_os_str().to_owned();
        name.push(".");
        name.push(what);
        PathBuf::from(name)
    }
}

impl Remembered {
    fn of(shown: &Versioned) -> Remembered {
        Remembered {
            generation: shown.state.generation,
            primary: shown.state.primary.clone(),
            number: shown.number,
        }
    }

    /// Whether `new` may follow what was seen.
    fn check(&self, new: &Remembered) -> Result<(), Error> {
        if new.generation < self.generation {
            return Err(Error::WentBack { shown: new.generation, seen: self.generation });
        }
        if new.number < self.number {
            return Err(Error::StateWentBack { shown: new.number, seen: self.number });
        }
        // One number has one content. And the primary of a generation never changes: only a takeover
        // makes another one, and that raises the generation.
        let other_content = new.number == self.number && new != self;
        let other_primary = new.generation == self.generation
            && self.primary.is_some()
            && new.primary != self.primary;
        if other_content || other_primary {
            return Err(Error::Forked { shown: new.describe(), seen: self.describe() });
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let primary = self.primary.as_ref().map_or("no primary".to_owned(), ToString::to_string);
        format!("{primary} at generation {} in state number {}", self.generation, self.number)
    }
}

/// Makes the directory and each missing one above it, and syncs every new name.
fn make_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    make_dir(parent)?;
    // For this user alone: whoever can open the lock can hold it, and what else lies there is not
    // for everybody either.
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io_error("make", dir, e)),
    }
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| io_error("sync", parent, e))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { what, path: path.display().to_string(), source }
}
