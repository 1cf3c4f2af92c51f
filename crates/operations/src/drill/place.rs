//! Where drills of a service go.

use crate::{Error, ServiceSite};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Where drills go whose servers cannot enter the state directory.
const OPEN_TO_ALL: &str = "/var/tmp";

/// As many symbolic links as the kernel follows on one path.
const MOST_LINKS: usize = 40;

/// Where its configuration says, else below the state directory if the user whom the service's data
/// belongs to can enter there, else where everybody can.
pub(super) fn of(site: &ServiceSite) -> Result<PathBuf, Error> {
    let root = rustix::process::geteuid().is_root();
    if let Some(dir) = &site.spec().drill_dir {
        if root {
            only_by(0, dir)?;
        }
        return Ok(dir.clone());
    }
    let own = site.site().config().host.state_dir.join("drills");
    if !root {
        return Ok(own);
    }
    let engine = site.engine()?;
    let roots = engine.roots();
    let data = roots.first().and_then(|root| std::fs::metadata(&root.on_host).ok());
    let owner = || data.map(|data| (data.uid(), data.gid()));
    let user = engine.rehearses_as().or_else(owner);
    let enters = user.is_none_or(|(uid, gid)| can_enter(&own, uid, gid));
    Ok(if enters { own } else { PathBuf::from(OPEN_TO_ALL) })
}

/// Whether a user can go to a directory, as far as it and those above it are there.
fn can_enter(dir: &Path, uid: u32, gid: u32) -> bool {
    uid == 0
        || dir.ancestors().filter_map(|dir| std::fs::metadata(dir).ok()).all(|meta| {
            let bit = match meta {
                _ if meta.uid() == uid => 0o100,
                _ if meta.gid() == gid => 0o010,
                _ => 0o001,
            };
            meta.mode() & bit != 0
        })
}

/// Refuses a directory if anybody but this user and root could put another one in its place, or in that of
/// one on the way to it: a drill works there by path, with all that its user may. What is not there yet is
/// made by us.
fn only_by(user: u32, dir: &Path) -> Result<(), Error> {
    let refused = |what: String| {
        Err(Error::refused(format!("drill-dir {} is not safe for root: {what}", dir.display()))
            .hinting(
                "Let every directory of its path belong to root and be writable by nobody else, or be \
                 sticky, as /var/tmp is; or leave `drill-dir` out.",
            ))
    };
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = VecDeque::from([OsString::from(".")]);
    ahead.extend(names(dir));
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = if name == "." { at.clone() } else { at.join(&name) };
        let meta = match std::fs::symlink_metadata(&next) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io("look at", &next, e)),
        };
        if meta.uid() != 0 && meta.uid() != user {
            return refused(format!("{} belongs to the user {}", next.display(), meta.uid()));
        }
        if meta.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return refused("it has too many symbolic links".to_owned());
            }
            let to = std::fs::read_link(&next).map_err(|e| Error::io("read", &next, e))?;
            if to.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&to).into_iter().rev() {
                ahead.push_front(name);
            }
            continue;
        }
        if !meta.is_dir() {
            return refused(format!("{} is no directory", next.display()));
        }
        // In a sticky one, others can exchange only what is theirs.
        if meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0 {
            return refused(format!("others may write to {}", next.display()));
        }
        at = next;
    }
    Ok(())
}

/// The names on a path, `..` among them.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Whoever runs this stands for root.
    #[test]
    fn a_place_is_safe_where_nobody_else_can_exchange_a_name_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().canonicalize().unwrap();
        let me = rustix::process::geteuid().as_raw();
        let chmod =
            |dir: &Path, mode| fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
        let (open, inner) = (here.join("open"), here.join("open/inner"));
        fs::create_dir_all(&inner).unwrap();
        for (mode, safe) in [(0o755, true), (0o775, false), (0o777, false), (0o1777, true)] {
            chmod(&open, mode);
            for place in [inner.clone(), inner.join("not/there"), open.clone()] {
                assert_eq!(only_by(me, &place).is_ok(), safe, "{mode:o} {}", place.display());
            }
        }
        // A link leads where it leads, and whoever may exchange it leads elsewhere.
        chmod(&open, 0o777);
        chmod(&inner, 0o755);
        symlink("open/inner", here.join("link")).unwrap();
        symlink(&here, open.join("back")).unwrap();
        fs::create_dir(here.join("shut")).unwrap();
        for place in ["link", "link/..", "open/back/shut", "shut/../open"] {
            assert!(only_by(me, &here.join(place)).is_err(), "{place}");
        }
        chmod(&open, 0o755);
        for place in ["link", "link/..", "open/back/shut", "shut/../open"] {
            only_by(me, &here.join(place)).unwrap();
        }
        symlink("round", here.join("round")).unwrap();
        fs::write(here.join("file"), "").unwrap();
        for place in ["round", "file", "file/below"] {
            only_by(me, &here.join(place)).unwrap_err();
        }
        // What is another's is another's to exchange, and to open.
        if me == 0 {
            std::os::unix::fs::chown(&inner, Some(65534), None).unwrap();
            let refused = only_by(me, &inner.join("x")).unwrap_err();
            assert!(refused.to_string().contains("belongs to the user 65534"), "{refused}");
        }
    }
}
