//! What a program that worked on a copy has left running, on a host that has no namespaces of
//! processes: it is found by a mark in its environment, which whatever it starts inherits. Except for
//! the processes of a PostgreSQL server: they write their titles over it, and are found by where they work.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The variable that is the mark. Its value is the directory of the rehearsal, which no other has.
pub(crate) const MARK: &str = "MAINSTAY_DRILL_HOME";

/// How long processes may take to die of SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// What they have all loaded.
const SERVER: &str = "postgres";

/// Kills what bears the mark of the rehearsal in `home`, and the servers that work in `dir` or below it;
/// says how many processes that were. What is started meanwhile is found, too.
pub fn end(home: &Path, dir: &Path) -> usize {
    let sought = Sought {
        mark: [MARK.as_bytes(), b"=", home.as_os_str().as_bytes()].concat(),
        dir: dir.canonicalize().unwrap_or_else(|_| dir.to_owned()),
    };
    let deadline = Instant::now() + PATIENCE;
    let mut ended = Vec::new();
    loop {
        let found = sought.find();
        if found.is_empty() || Instant::now() >= deadline {
            return ended.len();
        }
        for pid in found {
            // Looked at again once its number cannot become another process's.
            let killed = pidfd_open(pid, PidfdFlags::empty()).is_ok_and(|process| {
                sought.is(pid) && pidfd_send_signal(&process, Signal::KILL).is_ok()
            });
            if killed && !ended.contains(&pid) {
                ended.push(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Sought {
    mark: Vec<u8>,
    dir: PathBuf,
}

impl Sought {
    fn find(&self) -> Vec<Pid> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
        pids.filter_map(Pid::from_raw)
            .filter(|pid| pid.as_raw_nonzero().get().cast_unsigned() != std::process::id())
            .filter(|pid| self.is(*pid))
            .collect()
    }

    /// Those that are dead already have no environment, and work nowhere.
    fn is(&self, pid: Pid) -> bool {
        let place = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
        let bears = fs::read(place("environ"))
            .is_ok_and(|all| all.split(|byte| *byte == 0).any(|variable| variable == self.mark));
        bears
            || (fs::read_link(place("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.dir))
                && fs::read_link(place("exe"))
                    .is_ok_and(|program| program.file_name() == Some(OsStr::new(SERVER))))
    }
}
