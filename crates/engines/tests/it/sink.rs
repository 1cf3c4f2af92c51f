//! A capture sink that keeps what it is given in a directory, fails on demand, and looks at the
//! cancel token as the real one does.

use mainstay_engines::{CaptureSink, Error, FileMeta, TreeOptions};
use model::{CancelToken, Class};
use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// Keeps everything below `dir`, at the path it has in the snapshot.
pub(crate) struct DirSink {
    pub(crate) dir: PathBuf,
    cancel: CancelToken,
    /// What it was called with, in order: the places in the snapshot.
    pub(crate) calls: Vec<String>,
    pub(crate) options: Vec<TreeOptions>,
    fail_at: Option<usize>,
    cancel_at: Option<usize>,
}

/// What the failing sink says.
pub(crate) const FULL: &str = "the vault is full, says the test";

impl DirSink {
    pub(crate) fn new(dir: PathBuf, cancel: &CancelToken) -> Self {
        fs::create_dir_all(&dir).expect("the sink's directory");
        DirSink {
            dir,
            cancel: cancel.clone(),
            calls: Vec::new(),
            options: Vec::new(),
            fail_at: None,
            cancel_at: None,
        }
    }

    /// Fails in its call of this number, from 0, when half of it is done.
    pub(crate) fn failing_at(mut self, call: usize) -> Self {
        self.fail_at = Some(call);
        self
    }

    /// Cancels the operation in its call of this number.
    pub(crate) fn cancelling_at(mut self, call: usize) -> Self {
        self.cancel_at = Some(call);
        self
    }

    /// Where something of the snapshot is on disk.
    pub(crate) fn at(&self, at: &str) -> PathBuf {
        self.dir.join(at.trim_start_matches('/'))
    }

    fn call(&mut self, at: &str) -> Result<PathBuf, Error> {
        assert!(at.starts_with('/') && !at.contains("/../"), "{at:?} is no place in a snapshot");
        let call = self.calls.len();
        self.calls.push(at.to_owned());
        if self.cancel_at == Some(call) {
            self.cancel.cancel();
        }
        if self.cancel.is_cancelled() {
            return Err(Error::new(Class::Cancelled, "cancelled in the sink"));
        }
        if self.fail_at == Some(call) {
            return Err(Error::new(Class::NoSpace, FULL));
        }
        let to = self.at(at);
        fs::create_dir_all(to.parent().expect("a parent")).expect("directories above");
        Ok(to)
    }
}

impl CaptureSink for DirSink {
    fn tree(&mut self, at: &str, source: &Path, options: &TreeOptions) -> Result<(), Error> {
        let to = self.call(at)?;
        self.options.push(options.clone());
        copy_tree(source, &to, options).map_err(|e| Error::io("capture", source.display(), e))
    }

    fn file(&mut self, at: &str, meta: &FileMeta, content: &mut dyn Read) -> Result<(), Error> {
        let to = self.call(at)?;
        let mut file = fs::File::create(&to).map_err(|e| Error::io("create", to.display(), e))?;
        io::copy(content, &mut file).map_err(|e| Error::io("read", at, e))?;
        // As in a restore without root, the owner may not be ours to give.
        let _ = lchown(&to, Some(meta.uid), Some(meta.gid));
        fs::set_permissions(&to, Permissions::from_mode(meta.mode)).expect("mode");
        Ok(())
    }
}

/// Copies a tree with owners, modes and links. Of the options, those that an engine cannot do
/// without are honoured.
pub(crate) fn copy_tree(from: &Path, to: &Path, options: &TreeOptions) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if meta.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name();
            let emptied = options.emptied.iter().any(|empty| name == empty.as_str());
            let inner = TreeOptions { emptied: Vec::new(), ..options.clone() };
            if emptied {
                fs::create_dir(to.join(&name))?;
                dress(&entry.path(), &to.join(&name))?;
                continue;
            }
            if options.exclude.iter().any(|pattern| excludes(pattern, &entry.path())) {
                continue;
            }
            match copy_tree(&entry.path(), &to.join(&name), &inner) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && options.changes_expected => {}
                copied => copied?,
            }
        }
    } else if meta.is_file() {
        io::copy(&mut fs::File::open(from)?, &mut fs::File::create(to)?)?;
    } else {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            to,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )?;
    }
    dress(from, to)
}

fn dress(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    // As in a restore without root, the owner may not be ours to give.
    let _ = lchown(to, Some(meta.uid()), Some(meta.gid()));
    if !meta.is_symlink() {
        fs::set_permissions(to, meta.permissions())?;
    }
    Ok(())
}

/// The patterns that the tests use: a name, `*.suffix`, `prefix*`, or a path relative to the tree's
/// top.
fn excludes(pattern: &str, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(suffix), _) => name.ends_with(suffix),
        (None, Some(prefix)) => name.starts_with(prefix),
        (None, None) if pattern.contains('/') => path.ends_with(pattern.trim_matches('/')),
        (None, None) => name == pattern,
    }
}
