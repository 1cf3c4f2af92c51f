//! A host of its own: systemd as process 1 of namespaces.
//!
//! Nothing of this machine is changed: what it has of `/usr` it can only read, the settings of the kernel and
//! `/sys` too, and all that it mounts is gone with its processes. These end with its process 1, which ends
//! with the test, however that ends. Its cgroup is removed after it.

use crate::not_shown::not_shown;
use crate::rig::{Said, run, script};
use crate::world::{PATIENCE, wait_for};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Where the program is that is process 1 of the host.
const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
/// Where units come with it.
const UNITS: &str = "/usr/lib/systemd/system";

/// New namespaces of everything that it changes.
const NAMESPACES: [&str; 8] =
    ["--pid", "--fork", "--kill-child=KILL", "--mount", "--uts", "--ipc", "--net", "--cgroup"];

/// Enters the cgroup, and then the namespaces: `DIR` CGROUP words….
const ENTER: &str = r#"echo $$ > "$1/cgroup.procs"; shift; exec unshare "$@""#;

/// Makes the host of `disk` in a directory and becomes its systemd. `container=` keeps that from what a real
/// machine needs, `setpriv` from what could reach this one: its clock, its modules, its power.
const START: &str = r#"
set -e
[ $$ = 1 ] || exit 1
disk=$1 root=$2 program=$3 boot_id=$4 systemd=$5
mount --bind "$disk" "$root"
mkdir -p "$root/usr" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/old"
mount --bind /usr "$root/usr"
mount -o remount,bind,ro "$root/usr"
for dir in bin sbin lib lib32 lib64; do
    [ ! -L "/$dir" ] || [ -e "$root/$dir" ] || cp -a "/$dir" "$root/$dir"
done
mount -t tmpfs -o mode=755 none "$root/usr/local"
mkdir "$root/usr/local/bin"
touch "$root/usr/local/bin/mainstay"
mount --bind "$program" "$root/usr/local/bin/mainstay"
mount -t tmpfs -o mode=755 none "$root/run"
mount -t tmpfs none "$root/tmp"
mount -t tmpfs -o mode=755 none "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs none "$root/dev/shm"
mount -t proc none "$root/proc"
mount --bind "$boot_id" "$root/proc/sys/kernel/random/boot_id"
mount --rbind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
[ ! -e "$root/proc/sysrq-trigger" ] || mount --bind /dev/null "$root/proc/sysrq-trigger"
mount -t sysfs -o ro none "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
cd "$root"
pivot_root . old
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 setpriv \
    --bounding-set=-sys_boot,-sys_time,-sys_module,-sys_rawio,-syslog,-mknod,-audit_control \
    "$systemd" --system --show-status=no
"#;

/// The host, switched off.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
    systemd: &'static str,
    cgroup: PathBuf,
    on: Option<On>,
}

/// What runs while it is on.
struct On {
    /// Waits for process 1.
    namespaces: Child,
    /// Process 1, by the number that it has here.
    first: u32,
}

impl Machine {
    /// One with an empty disk; none where none can be started.
    pub(crate) fn new() -> Option<Machine> {
        let systemd = SYSTEMD.into_iter().find(|program| Path::new(program).exists());
        let systemd =
            systemd.unwrap_or_else(|| panic!("no systemd; `cargo xtask provide` installs it"));
        let dir = tempfile::tempdir().unwrap();
        let cgroup = match cgroup(&dir) {
            Ok(cgroup) => cgroup,
            Err(why) => {
                not_shown(&format!("no systemd can be started here: {why}"));
                return None;
            }
        };
        let machine = Machine { dir, systemd, cgroup, on: None };
        for place in ["disk/etc/systemd/system", "disk/var", "root"] {
            fs::create_dir_all(machine.path(place)).unwrap();
        }
        let settings = [
            ("passwd", "root:x:0:0::/root:/bin/sh\nkeeper:x:4711:4711::/:/bin/sh\n"),
            ("group", "root:x:0:\nkeeper:x:4711:\n"),
            ("hostname", "a\n"),
            ("machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("os-release", "ID=test\n"),
            ("systemd/journald.conf", "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\n"),
        ];
        for (name, text) in settings {
            machine.write(&format!("etc/{name}"), text);
        }
        let _ = fs::copy("/etc/ld.so.cache", machine.disk("etc/ld.so.cache"));
        for unit in unwanted() {
            machine.link("/dev/null", &format!("etc/systemd/system/{unit}"));
        }
        let target = format!("{UNITS}/multi-user.target");
        machine.link(&target, "etc/systemd/system/default.target");
        Some(machine)
    }

    /// A place beside its disk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A place on its disk.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.path("disk").join(name)
    }

    /// Writes a file on its disk.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.disk(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Writes a shell script there.
    pub(crate) fn script(&self, name: &str, text: &str) {
        script(&self.disk(name), text);
    }

    /// Makes a symbolic link there.
    pub(crate) fn link(&self, to: &str, name: &str) {
        let path = self.disk(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    /// Writes the configuration, with a vault in a directory.
    pub(crate) fn configure(&self, sections: &str) {
        self.configure_at("/srv/vault", sections);
    }

    /// The same with a vault elsewhere.
    pub(crate) fn configure_at(&self, vault: &str, sections: &str) {
        let text = format!(
            "[host]\nname = \"a\"\nstate-dir = \"/var/lib/mainstay\"\n\n[vault]\nurl = \"{vault}\"\n\
             password-file = \"/etc/mainstay/vault.password\"\n\n{sections}"
        );
        self.write("etc/mainstay/mainstay.toml", &text);
    }

    /// The operations of one of its services.
    pub(crate) fn operations(&self, service: &str) -> PathBuf {
        self.disk(&format!("var/lib/mainstay/services/{service}/operations"))
    }

    /// Lets it have been off for so long: the timer has missed its time.
    pub(crate) fn was_off_for(&self, time: Duration) {
        let stamp = self.disk("var/lib/systemd/timers/stamp-mainstay.timer");
        fs::create_dir_all(stamp.parent().unwrap()).unwrap();
        let stamp = fs::File::create(stamp).unwrap();
        stamp.set_modified(SystemTime::now() - time).unwrap();
    }

    /// Switches it on. Returns when its systemd can be asked.
    pub(crate) fn boot(&mut self) {
        assert!(self.on.is_none(), "it is on");
        fs::copy("/proc/sys/kernel/random/uuid", self.path("boot-id")).unwrap();
        let log = fs::File::create(self.path("console")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig=KILL", "sh", "-c", ENTER, "enter"]).arg(&self.cgroup);
        command.args(NAMESPACES).args(["sh", "-c", START, "start"]);
        command.args(["disk", "root"].map(|name| self.path(name)));
        command.arg(env!("CARGO_BIN_EXE_mainstay")).arg(self.path("boot-id")).arg(self.systemd);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let namespaces = command.spawn().unwrap();
        let on = self.on.insert(On { namespaces, first: 0 });
        let waits = on.namespaces.id();
        let children = format!("/proc/{waits}/task/{waits}/children");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let child = fs::read_to_string(&children).unwrap_or_default();
            on.first = child.trim().parse().unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{}/comm", on.first));
            if name.is_ok_and(|name| name == "systemd\n") {
                break;
            }
            let ended = on.namespaces.try_wait().unwrap();
            let said = || fs::read_to_string(self.dir.path().join("console")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        let asked = ["systemctl", "show", "--property=Version"];
        wait_for("its systemd answers", || run(&mut self.inside(&asked)).code == 0);
    }

    /// Shuts it down, as its systemd does that.
    pub(crate) fn shut_down(&mut self) {
        let now = ["--no-block", "--job-mode=replace-irreversibly", "start", "poweroff.target"];
        self.run(&[&["systemctl"][..], &now].concat());
        wait_for("it is down", || {
            self.on.as_mut().is_none_or(|on| on.namespaces.try_wait().unwrap().is_some())
        });
        self.on = None;
    }

    /// Takes its power away. Whatever ran there is dead when this returns.
    pub(crate) fn lose_power(&mut self) {
        let Some(mut on) = self.on.take() else { return };
        if on.first != 0 {
            let number = on.first.to_string();
            let _ = Command::new("kill").args(["-KILL", &number]).stderr(Stdio::null()).status();
        } else {
            // That ends process 1 with it.
            let _ = on.namespaces.kill();
        }
        let _ = on.namespaces.wait();
    }

    /// A program on it, with nothing of the tester's surroundings.
    pub(crate) fn inside(&self, words: &[&str]) -> Command {
        let first = self.on.as_ref().expect("it is on").first;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={first}"))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "env", "-i"])
            .args(["PATH=/usr/local/bin:/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// Runs it, and well.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        run(&mut self.inside(words)).code(0)
    }

    /// A property of a unit.
    #[track_caller]
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        let property = format!("--property={property}");
        self.run(&["systemctl", "show", "--value", &property, unit]).out.trim().to_owned()
    }

    /// A time of a unit, in microseconds; 0 if it has not come.
    #[track_caller]
    pub(crate) fn micros(&self, unit: &str, property: &str) -> u64 {
        self.show(unit, property).parse().unwrap()
    }

    /// Whether a service's unit is up.
    #[track_caller]
    pub(crate) fn is_active(&self, service: &str) -> bool {
        self.show(&format!("{service}.service"), "ActiveState") == "active"
    }

    /// What `systemctl status` tells people of it.
    pub(crate) fn status(&self, service: &str) -> String {
        let unit = format!("{service}.service");
        run(&mut self.inside(&["systemctl", "status", "--no-pager", "--full", &unit])).out
    }

    /// Waits until that tells this: what is said goes to the journal first.
    #[track_caller]
    pub(crate) fn tells(&self, service: &str, what: &str) {
        wait_for(what, || self.status(service).contains(what));
    }

    /// All that its units have said since it was switched on.
    pub(crate) fn journal(&self) -> String {
        run(&mut self.inside(&["journalctl", "--no-pager", "--output=short-monotonic"])).out
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.lose_power();
        // Who has ended leaves its cgroup a moment later.
        let deadline = Instant::now() + PATIENCE;
        while !remove(&self.cgroup) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A cgroup for a host, or why there is none.
fn cgroup(dir: &tempfile::TempDir) -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("that needs root".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut places = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next() == Some("cgroup2")).then(|| PathBuf::from(place))
    });
    let Some(place) = places.next() else { return Err("no cgroup2 is mounted".to_owned()) };
    let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
    let cgroup = place.join(format!("mainstay-test-{name}"));
    fs::create_dir(&cgroup).map_err(|e| format!("{}: {e}", cgroup.display()))?;
    let mut command = Command::new("unshare");
    let tried = command.args(NAMESPACES).args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    match tried {
        Ok(tried) if tried.status.success() => Ok(cgroup),
        tried => {
            remove(&cgroup);
            Err(tried.map_or_else(
                |e| e.to_string(),
                |tried| String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
            ))
        }
    }
}

/// Removes a cgroup with those below it; says whether it is gone.
fn remove(cgroup: &Path) -> bool {
    for item in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if item.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&item.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
    !cgroup.exists()
}

/// What a host starts by itself and this one does not need: all but its journal.
fn unwanted() -> Vec<String> {
    let mut units = vec![
        "console-getty.service".to_owned(),
        "getty.target".to_owned(),
        "systemd-journald-audit.socket".to_owned(),
    ];
    for target in ["sysinit", "multi-user", "sockets", "local-fs", "timers", "graphical"] {
        let wants = format!("{UNITS}/{target}.target.wants");
        for item in fs::read_dir(wants).into_iter().flatten().flatten() {
            let unit = item.file_name().to_string_lossy().into_owned();
            let kept = unit.starts_with("systemd-journald") || unit.ends_with(".target");
            if !kept && !units.contains(&unit) {
                units.push(unit);
            }
        }
    }
    units
}
