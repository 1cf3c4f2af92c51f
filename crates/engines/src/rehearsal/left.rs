//! What a program that worked on a copy has left running, on a host that has no namespaces of
//! processes: it is found by a mark in its environment, which whatever it starts inherits.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The variable that is the mark. Its value is the directory of the rehearsal, which no other has.
pub(crate) const MARK: &str = "MAINSTAY_DRILL_HOME";

/// How long processes may take to die of SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills what bears the mark of the rehearsal in this directory, and says how many processes that
/// were. What is started meanwhile is found, too.
pub fn end(home: &Path) -> usize {
    let mark = [MARK.as_bytes(), b"=", home.as_os_str().as_bytes()].concat();
    let deadline = Instant::now() + PATIENCE;
    let mut ended = Vec::new();
    loop {
        let marked = marked(&mark);
        if marked.is_empty() || Instant::now() >= deadline {
            return ended.len();
        }
        for pid in marked {
            // Looked at again once its number cannot become another process's.
            let killed = pidfd_open(pid, PidfdFlags::empty()).is_ok_and(|process| {
                bears(pid, &mark) && pidfd_send_signal(&process, Signal::KILL).is_ok()
            });
            if killed && !ended.contains(&pid) {
                ended.push(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn marked(mark: &[u8]) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw)
        .filter(|pid| pid.as_raw_nonzero().get().cast_unsigned() != std::process::id())
        .filter(|pid| bears(*pid, mark))
        .collect()
}

/// Those that are dead already have no environment.
fn bears(pid: Pid, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()));
    environment.is_ok_and(|all| all.split(|byte| *byte == 0).any(|variable| variable == mark))
}
