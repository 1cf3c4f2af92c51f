//! What is mounted, and how to take it away.

use crate::failure::Failure;
use model::Class;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the sources of our mounts begin with; the process and its boot follow.
const SOURCE: &str = "mainstay-";

/// The name of a mount that no other has.
pub(super) fn new_source() -> Result<String, Failure> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|e| Failure::new(Class::Failed, format!("cannot get random bytes: {e}")))?;
    Ok(format!("{SOURCE}{}", hex::encode(random)))
}

/// Where something of this source is mounted.
pub(super) fn places_of(source: &str) -> Vec<PathBuf> {
    mounts().into_iter().filter(|(_, known)| known == source).map(|(place, _)| place).collect()
}

/// Whether a mount of ours is at this place.
pub(super) fn is_ours(place: &Path) -> bool {
    // The last one at a place is the one that is seen.
    let found = mounts().into_iter().rfind(|(known, _)| known == place);
    found.is_some_and(|(_, source)| source.starts_with(SOURCE))
}

/// Mount points and the sources of FUSE file systems, as proc(5) has them in `mountinfo`.
fn mounts() -> Vec<(PathBuf, String)> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

fn parse(line: &[u8]) -> Option<(PathBuf, String)> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Six fields come first, then any number of others up to the dash.
    let dash = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let (kind, source) = (fields.get(dash + 1)?, fields.get(dash + 2)?);
    if *kind != b"fuse" && !kind.starts_with(b"fuse.") {
        return None;
    }
    let place = std::ffi::OsString::from_vec(unescaped(fields.get(4)?));
    Some((place.into(), String::from_utf8(unescaped(source)).ok()?))
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

/// What became of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is gone.
    Gone,
    /// It was in use: it is seen nowhere any more, and goes with its last user.
    Detached,
}

/// Takes away what is mounted at a place.
pub(super) fn take_away(place: &Path) -> Result<Taken, Failure> {
    let failed = |e: std::io::Error| Failure::io("unmount", place.display(), &e);
    match unmount(place, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Taken::Gone),
        Err(Errno::BUSY) => {
            let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
            unmount(place, flags).map_err(|e| failed(e.into()))?;
            Ok(Taken::Detached)
        }
        // Whoever is not root asks the program that mounted for him.
        Err(Errno::PERM) => {
            if fusermount(&["-u", "-q"], place).map_err(failed)? {
                return Ok(Taken::Gone);
            }
            match fusermount(&["-u", "-z"], place).map_err(failed)? {
                true => Ok(Taken::Detached),
                false => Err(failed(std::io::ErrorKind::ResourceBusy.into())),
            }
        }
        Err(e) => Err(failed(e.into())),
    }
}

fn fusermount(words: &[&str], place: &Path) -> std::io::Result<bool> {
    let run = |program: &str| {
        let mut command = Command::new(program);
        command.args(words).arg("--").arg(OsStr::from_bytes(place.as_os_str().as_bytes()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    match run("fusermount3") {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(run("fusermount")?.success()),
        other => Ok(other?.success()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_understood() {
        let line =
            br"36 35 0:52 / /mnt/with\040space\134 ro,nosuid - fuse mainstay-00ff ro,user_id=0";
        let (place, source) = parse(line).unwrap();
        assert_eq!(place, Path::new("/mnt/with space\\"));
        assert_eq!(source, "mainstay-00ff");
        let optional = b"36 35 0:52 / /mnt rw shared:1 master:2 - fuse.sshfs host: rw";
        assert_eq!(parse(optional).unwrap().1, "host:");
        assert_eq!(parse(b"22 1 8:1 / / rw - ext4 /dev/sda1 rw"), None);
        for broken in [&b""[..], b"- fuse", b"1 2 3 - fuse x", b"\xff \xff"] {
            assert_eq!(parse(broken), None);
        }
        assert!(!is_ours(Path::new("/")));
    }
}
