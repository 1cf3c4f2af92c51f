//! Who and where we are, for key files, locks and snapshots.

use std::path::Path;

/// This machine's name, as restic finds it.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The user's name, or the number of a user that has none. Found without the C library, so that no
/// name service can hold anybody up: of users that are in no `/etc/passwd`, the environment tells.
pub fn user_name() -> String {
    let uid = user_id();
    name_in(Path::new("/etc/passwd"), uid)
        .or_else(|| std::env::var("USER").ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| uid.to_string())
}

fn name_in(passwd: &Path, uid: u32) -> Option<String> {
    let text = std::fs::read(passwd).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The user's id.
pub fn user_id() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The group's id.
pub fn group_id() -> u32 {
    rustix::process::getgid().as_raw()
}

/// Whether a process of this machine is alive. In doubt it is.
pub(crate) fn is_alive(pid: i64) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH) && !is_zombie(pid)
}

/// Time on a clock that nobody sets and that goes on while the machine sleeps: a lock lapses
/// during a suspend, too.
pub(crate) fn boot_time() -> std::time::Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    std::time::Duration::new(seconds, nanos)
}

/// Whether a process has ended, and only its number is left until its parent has heard of it: the
/// state behind the name in `/proc/PID/stat` (proc(5)). One whose first thread alone has ended
/// looks the same, but for its other threads.
fn is_zombie(pid: rustix::process::Pid) -> bool {
    let dir = format!("/proc/{}", pid.as_raw_pid());
    let stat = std::fs::read_to_string(format!("{dir}/stat"));
    let state = stat.ok().and_then(|stat| stat.rsplit_once(") ")?.1.chars().next());
    let threads = std::fs::read_dir(format!("{dir}/task")).map_or(0, Iterator::count);
    matches!(state, Some('Z' | 'X')) && threads <= 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn a_process_that_nobody_has_waited_for_is_dead() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i64::from(child.id());
        assert!(is_alive(pid));
        // Nothing more to read, and so it ends.
        drop(child.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_alive(pid) {
            assert!(Instant::now() < deadline, "it is still taken for alive");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.wait().unwrap().success());
        assert!(!is_alive(pid));
    }
}
