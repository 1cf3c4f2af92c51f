//! Two hosts and a vault in one directory, with a service that can really be stopped. It can be
//! copied, so that each of many cases begins with the same past.

use crate::rig::{Said, mainstay, run, script};
use crate::vault_rig::VaultHost;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a state may take to come about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What stands for the place of the world in the lines of a service's section.
const HERE: &str = "@HERE@";
/// And for the host's own directory.
const HOST: &str = "@HOST@";

/// A service that is a process: `service start|stop|status DIR`.
const SERVICE: &str = r#"pid=$2/pid
runs() { [ -s "$pid" ] && grep -q '^State:.[RSD]' "/proc/$(cat "$pid")/status" 2>/dev/null; }
case $1 in
start)
    [ -e "$2/slow-start" ] && touch "$2/starting"
    while [ -e "$2/slow-start" ]; do sleep 0.01; done
    [ -e "$2/cannot-start" ] && exit 1
    runs && exit 0
    rm -f "$pid"
    setsid sh -c 'echo $$ >"$1.new"; mv "$1.new" "$1"; exec sleep 3600' - "$pid" \
        >/dev/null 2>&1 </dev/null &
    while ! runs; do sleep 0.01; done;;
stop)
    # Somebody else stops it, a while after he was asked; who asks waits for ever.
    if [ -e "$2/lazy-stop" ]; then
        rm "$2/lazy-stop"
        setsid sh -c 'sleep 2; kill "$(cat "$1")"' - "$pid" >/dev/null 2>&1 </dev/null &
        sleep 86400
    fi
    [ -e "$2/slow-stop" ] && sleep "$(cat "$2/slow-stop")"
    runs || exit 0
    kill "$(cat "$pid")"
    while runs; do sleep 0.01; done;;
status) runs || exit 3;;
esac
"#;

/// The lines that make a service startable and stoppable.
pub(crate) const CONTROLLED: &str = "start = \"@HERE@/service start @HOST@\"\n\
     stop = \"@HERE@/service stop @HOST@\"\nstatus = \"@HERE@/service status @HOST@\"\n";

/// The two hosts.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// Both hosts with service `docs` of this engine at `data` of their directory, not joined yet.
    pub(crate) fn new(engine: &str, lines: &str) -> World {
        World::new_in(&std::env::temp_dir(), engine, lines)
    }

    /// The same, on the file system of a directory.
    pub(crate) fn new_in(parent: &Path, engine: &str, lines: &str) -> World {
        let world = World { dir: tempfile::tempdir_in(parent).expect("a temporary directory") };
        script(&world.path("service"), SERVICE);
        for (host, role) in [("a", "primary"), ("b", "standby")] {
            world.define(host, role, engine, lines);
        }
        world
    }

    /// Writes the configuration of a host, as far as it is not there.
    pub(crate) fn define(&self, host: &str, role: &str, engine: &str, lines: &str) {
        let dir = self.path(host);
        fs::create_dir_all(&dir).expect("a directory");
        let here = self.dir.path().display().to_string();
        let text = format!(
            "[host]\nname = \"{host}\"\nstate-dir = \"{HOST}/state\"\n\n[vault]\n\
             url = \"{HERE}/vault\"\npassword-file = \"{HERE}/password\"\n\n[service.docs]\n\
             engine = \"{engine}\"\npath = \"{HOST}/data\"\nrole = \"{role}\"\n{lines}"
        );
        let text = text.replace(HOST, &format!("{HERE}/{host}")).replace(HERE, &here);
        fs::write(dir.join("mainstay.toml"), text).expect("a configuration");
    }

    /// The same world, with the same past, at another place of its file system. Its services are
    /// stopped.
    pub(crate) fn copy(&self) -> World {
        let parent = self.dir.path().parent().expect("a directory above");
        let copy = World { dir: tempfile::tempdir_in(parent).expect("a temporary directory") };
        let (from, to) = (self.dir.path().join("."), copy.dir.path());
        run(Command::new("cp").arg("-a").arg(from).arg(to)).code(0);
        let (old, new) = (self.dir.path().display().to_string(), to.display().to_string());
        for host in ["a", "b", "c"] {
            let file = copy.path(host).join("mainstay.toml");
            if let Ok(text) = fs::read_to_string(&file) {
                fs::write(&file, text.replace(&old, &new)).expect("a configuration");
            }
            let _ = fs::remove_file(copy.path(host).join("pid"));
        }
        copy
    }

    /// Writes a script that ends at the first command that fails.
    #[track_caller]
    pub(crate) fn script(&self, name: &str, text: &str) {
        script(&self.path(name), &format!("set -e\n{text}"));
    }

    /// A place in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary on a host.
    pub(crate) fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = mainstay();
        command.env("MAINSTAY_CONFIG", self.path(host).join("mainstay.toml"));
        command.env("HOME", self.path("home")).args(words);
        command
    }

    /// Runs the binary on a host.
    #[track_caller]
    pub(crate) fn run(&self, host: &str, words: &[&str]) -> Said {
        run(&mut self.command(host, words))
    }

    /// Whether the service of a host runs.
    pub(crate) fn serves(&self, host: &str) -> bool {
        self.service(host, "status") == 0
    }

    /// Starts, stops or looks at the service of a host.
    pub(crate) fn service(&self, host: &str, verb: &str) -> i32 {
        let mut command = Command::new(self.path("service"));
        run(command.arg(verb).arg(self.path(host))).code
    }

    /// The directories of all operations of a host, oldest first.
    pub(crate) fn operations(&self, host: &str) -> Vec<PathBuf> {
        operations_in(&self.path(host).join("state/services/docs/operations"))
    }

    /// The process of the operation that runs on a host.
    #[track_caller]
    pub(crate) fn worker(&self, host: &str) -> u32 {
        let operations = self.path(host).join("state/services/docs/operations");
        let pid = || worker_in(&operations);
        wait_for("an operation runs", || pid().is_some());
        pid().expect("it still runs")
    }

    /// The process that waits for the end of the operation that runs on a host.
    #[track_caller]
    pub(crate) fn guardian(&self, host: &str) -> u32 {
        let dir = self.unfinished(host).pop().expect("an operation runs");
        let operation = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let words =
            |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let pids = fs::read_dir("/proc").expect("processes").flatten();
        let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_it =
            |pid: &u32| words(*pid).contains("guardian") && words(*pid).contains(&operation);
        pids.find(is_it).expect("a guardian")
    }

    /// Begins a command whose worker stops itself, by SIGSTOP, at a line of its journal. Returns when it
    /// has: the command, and the worker.
    #[track_caller]
    pub(crate) fn halted(&self, mut command: Command, host: &str, at: &str) -> (Child, u32) {
        command.env("MAINSTAY_TEST_STOP_AT", at);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("it begins");
        let worker = self.worker(host);
        wait_for("it stands still", || state(worker) == Some('T'));
        (child, worker)
    }

    /// Lets a host reach the vault by this server, which serves its directory, and not by itself.
    pub(crate) fn reach_vault_by(&self, host: &str, server: &VaultHost) {
        let file = self.path(host).join("mainstay.toml");
        let text = fs::read_to_string(&file).expect("a configuration");
        let url = format!("url = \"{}\"", self.path("vault").display());
        assert!(text.contains(&url), "{text}");
        fs::write(&file, text.replace(&url, &format!("url = \"{}\"", server.url)))
            .expect("a configuration");
    }

    /// Operations that have begun and not ended.
    pub(crate) fn unfinished(&self, host: &str) -> Vec<PathBuf> {
        unfinished_in(&self.path(host).join("state/services/docs/operations"))
    }

    /// The vault's points, and what is in it beside them.
    #[track_caller]
    pub(crate) fn points(&self, host: &str) -> Vec<Value> {
        let said = self.run(host, &["--json", "snapshots", "docs"]).code(0).json();
        said["services"][0]["snapshots"].as_array().expect("snapshots").clone()
    }

    /// The snapshot that the head names.
    #[track_caller]
    pub(crate) fn head(&self, host: &str) -> Option<String> {
        let points = self.points(host);
        let head = points.iter().find(|point| point["head"] == true)?;
        head["snapshot"].as_str().map(str::to_owned)
    }

    /// The status of the service on a host.
    #[track_caller]
    pub(crate) fn status(&self, host: &str) -> Value {
        let said = run(&mut self.command(host, &["--json", "status", "docs"]));
        said.json()["services"][0].clone()
    }

    /// The real restic finds no fault with any byte of the repository.
    #[track_caller]
    pub(crate) fn restic_check(&self) {
        let mut command = Command::new("restic");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("RESTIC_REPOSITORY", self.path("vault/docs"))
            .env("RESTIC_PASSWORD_FILE", self.path("password"));
        run(command.args(["check", "--read-data", "--no-cache", "--quiet"])).code(0);
    }

    /// Names of staging places that are left anywhere.
    pub(crate) fn staging(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for host in ["a", "a/data", "b", "b/data", "."] {
            let Ok(items) = fs::read_dir(self.path(host)) else { continue };
            found.extend(items.map(|item| item.expect("an entry").path()).filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().contains(".mainstay-"))
            }));
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.path("b/mounted").exists() {
            // What was mounted for it; a copy of a world has only the mark.
            let _ = Command::new("umount").arg("--lazy").arg(self.path("b/data")).output();
        }
        for host in ["a", "b", "c"] {
            let _ = fs::remove_file(self.path(host).join("slow-stop"));
            self.service(host, "stop");
        }
    }
}

/// The lines of an operation's journal.
pub(crate) fn journal(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("journal")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Every line of it, as `MAINSTAY_TEST_KILL_AT` has it.
pub(crate) fn lines_in(dir: &Path) -> Vec<String> {
    let line = |line: &Value| match (line["event"].as_str(), line["step"].as_str()) {
        (Some(event), Some(step)) => format!("{step}:{event}"),
        (Some(event), None) => event.to_owned(),
        _ => panic!("{line}"),
    };
    journal(dir).iter().map(line).collect()
}

/// The directories of a service's operations, oldest first. Their names tell the second alone.
pub(crate) fn operations_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(items) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<_> = items.flatten().map(|item| item.path()).collect();
    found.retain(|dir| dir.join("journal").exists());
    found.sort_by_key(|dir| {
        let first = journal(dir).first().map(|line| line["at"].as_str().map(str::to_owned));
        first.flatten()
    });
    found
}

/// Those that have begun and not ended.
pub(crate) fn unfinished_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = operations_in(dir);
    found.retain(|dir| journal(dir).last().is_none_or(|line| line["event"] != "end"));
    found
}

/// The process of the newest one that has not ended.
pub(crate) fn worker_in(dir: &Path) -> Option<u32> {
    let lines = journal(&unfinished_in(dir).pop()?);
    let start = lines.iter().find(|line| line["event"] == "start")?;
    u32::try_from(start["pid"].as_u64()?).ok()
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Modes and bytes by path.
pub(crate) type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Everything below a place. None if nothing is there. Read until two readings agree: while it is
/// read it may be exchanged by a guardian, in one step.
pub(crate) fn content(place: &Path) -> Option<Tree> {
    let mut last = read(place);
    loop {
        let now = read(place);
        match (&last, &now) {
            (Ok(last), Ok(now)) if last == now => return now.clone(),
            _ => last = now,
        }
    }
}

fn read(place: &Path) -> std::io::Result<Option<Tree>> {
    let mut found = BTreeMap::new();
    let mut left = vec![place.to_owned()];
    if !place.exists() {
        return Ok(None);
    }
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let bytes = if meta.is_dir() {
            for item in fs::read_dir(&path)? {
                left.push(item?.path());
            }
            Vec::new()
        } else {
            fs::read(&path)?
        };
        let name = path.strip_prefix(place).unwrap_or(&path).to_owned();
        found.insert(name, (meta.permissions().mode(), bytes));
    }
    Ok(Some(found))
}

/// The two versions of a tree, each made and read once.
pub(crate) struct Versions {
    grow: fn(&Path, u8),
    read: [OnceLock<Option<Tree>>; 2],
}

impl Versions {
    /// Of the tree that this makes in a directory, or changes there.
    pub(crate) const fn of(grow: fn(&Path, u8)) -> Versions {
        Versions { grow, read: [OnceLock::new(), OnceLock::new()] }
    }

    /// Version 1 or 2.
    pub(crate) fn get(&self, number: u8) -> Option<Tree> {
        let read = || {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let place = dir.path().join("data");
            fs::create_dir(&place).expect("a directory");
            for version in 1..=number {
                (self.grow)(&place, version);
            }
            content(&place)
        };
        self.read[usize::from(number) - 1].get_or_init(read).clone()
    }
}

/// Writes the files of one of the two versions of a tree.
pub(crate) fn fill(dir: &Path, version: u8) {
    fs::create_dir_all(dir.join("sub")).expect("a directory");
    let big: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7 * 31).to_le_bytes()).collect();
    let mut all = vec![("same", b"the same".to_vec()), ("sub/big", big)];
    all.push(("changed", format!("version {version}").into_bytes()));
    all.push((if version == 1 { "old" } else { "sub/new" }, vec![version; 5000]));
    let _ = fs::remove_file(dir.join("old"));
    for (name, bytes) in all {
        let path = dir.join(name);
        if fs::read(&path).ok().as_ref() != Some(&bytes) {
            fs::write(&path, bytes).expect("a file");
        }
    }
    fs::set_permissions(dir.join("same"), fs::Permissions::from_mode(0o640)).expect("a mode");
}

/// What a process does, as `/proc/PID/stat` has it: `T` is stopped.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Ends a process that a test's command has started.
pub(crate) fn kill(pid: u32) {
    signal(pid, "-KILL");
}

/// Sends such a process a signal, by its name with a dash.
pub(crate) fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").arg(name).arg(pid.to_string()).status().unwrap().success());
}
