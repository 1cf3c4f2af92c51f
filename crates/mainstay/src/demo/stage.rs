//! Where the demo plays: a directory with two hosts in it, and nothing outside that it touches.
//!
//! ```text
//! mainstay-demo-XXXXXX/
//!   lock            held as long as the demo lives
//!   ledger          what the customers know
//!   vault/          shared by both hosts
//!   a/, b/          a host each: mainstay.toml, start-shop, state/, shop/ (the data), run/
//! ```

use super::shop::{Kind, postgres};
use super::{processes, writer};
use crate::failure::Failure;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The users a server may run as if the demo is run by root, which PostgreSQL refuses.
const SERVER_USERS: [&str; 2] = ["postgres", "nobody"];

/// The stage, set. Cleared when it is dropped, and by a guard if this process is killed.
pub(crate) struct Stage {
    directory: PathBuf,
    program: PathBuf,
    identity: Identity,
    keep: bool,
    guard: Option<Child>,
    _lock: File,
}

/// A host's directory.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// The host that has this directory.
    pub(crate) fn at(directory: PathBuf) -> Place {
        Place(directory)
    }

    /// All of it.
    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    /// The shop's data.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("shop")
    }

    /// What only lives while the shop runs: sockets, logs.
    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The host's configuration.
    pub(crate) fn config_file(&self) -> PathBuf {
        self.0.join("mainstay.toml")
    }
}

/// Who the hosts' processes run as: whoever owns the demo's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(Option<(u32, u32)>);

impl Identity {
    /// The owner of a directory, if that is somebody else than this process.
    pub(crate) fn of(directory: &Path) -> Result<Identity, Failure> {
        let meta =
            fs::metadata(directory).map_err(|e| Failure::io("look at", directory.display(), &e))?;
        let other = meta.uid() != rustix::process::geteuid().as_raw();
        Ok(Identity(other.then_some((meta.uid(), meta.gid()))))
    }

    /// Who it takes for this kind of shop.
    pub(crate) fn needed(kind: Kind) -> Result<Identity, Failure> {
        if kind != Kind::Postgres || !rustix::process::geteuid().is_root() {
            return Ok(Identity(None));
        }
        let users = fs::read_to_string("/etc/passwd")
            .map_err(|e| Failure::io("read", "/etc/passwd", &e))?;
        let find = |name: &&str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        SERVER_USERS.iter().find_map(find).map(|user| Identity(Some(user))).ok_or_else(|| {
            Failure::invalid("PostgreSQL does not run as root, and there is no user to run it as")
                .hint("Run the demo as an ordinary user.")
        })
    }

    /// Makes a command run as this user.
    pub(crate) fn wear(self, command: &mut Command) {
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid).env("HOME", "/nonexistent");
        }
    }

    /// Fails if this user cannot get to a directory that it owns.
    fn must_reach(self, directory: &Path) -> Result<(), Failure> {
        let mut looks = Command::new("/bin/sh");
        looks.args(["-c", "exit 0"]).current_dir(directory);
        self.wear(&mut looks);
        let reached = looks.status();
        if reached.is_ok_and(|status| status.success()) {
            return Ok(());
        }
        let shown = directory.display();
        Err(Failure::invalid(format!("the user that runs PostgreSQL cannot get to {shown}"))
            .hint("Set TMPDIR to a directory that every user can enter, such as /tmp."))
    }

    /// Gives a file or directory to this user.
    pub(crate) fn own(self, path: &Path) -> Result<(), Failure> {
        let Some((uid, gid)) = self.0 else { return Ok(()) };
        chown(path, Some(uid), Some(gid)).map_err(|e| Failure::io("give away", path.display(), &e))
    }
}

impl Stage {
    /// Makes the directories and writes both hosts' configurations.
    pub(crate) fn set(kind: Kind, keep: bool) -> Result<Stage, Failure> {
        let identity = Identity::needed(kind)?;
        if kind == Kind::Postgres {
            postgres::programs()?;
        }
        let directory = tempfile::Builder::new()
            .prefix("mainstay-demo-")
            .tempdir()
            .map_err(|e| Failure::io("make", "a directory for the demo", &e))?
            .keep();
        let program =
            std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
        let mut stage = Stage {
            _lock: hold_lock(&directory)?,
            // Without links in it, as the kernel shows it in /proc.
            directory: directory
                .canonicalize()
                .map_err(|e| Failure::io("look at", directory.display(), &e))?,
            program,
            identity,
            keep,
            guard: None,
        };
        stage.guard = Some(writer::guard(&stage.program, &stage.directory, keep)?);
        stage.furnish(kind)?;
        Ok(stage)
    }

    fn furnish(&mut self, kind: Kind) -> Result<(), Failure> {
        self.identity.own(&self.directory)?;
        self.identity.must_reach(&self.directory)?;
        if self.identity.0.is_some() {
            // The other user may not reach the place where the program is.
            let copy = self.directory.join("bin/mainstay");
            self.make(&self.directory.join("bin"))?;
            fs::copy(&self.program, &copy)
                .map_err(|e| Failure::io("copy the program to", copy.display(), &e))?;
            self.program = copy;
        }
        for directory in
            [self.directory.join("vault"), self.directory.join("a"), self.directory.join("b")]
        {
            self.make(&directory)?;
        }
        for (host, role) in [("a", "primary"), ("b", "standby")] {
            let place = self.place(host);
            self.make(&place.run())?;
            if host == "a" {
                self.make(&place.data())?;
            }
            self.write(&place.config_file(), &self.configuration(kind, host, role), 0o600)?;
            for (name, text) in self.scripts(kind, host)? {
                self.write(&place.directory().join(name), &text, 0o700)?;
            }
        }
        Ok(())
    }

    /// The directory of everything.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The program that the hosts run.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Who they run it as.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// A host's directory.
    pub(crate) fn place(&self, host: &str) -> Place {
        Place(self.directory.join(host))
    }

    /// What the customers know.
    pub(crate) fn ledger(&self) -> PathBuf {
        writer::ledger_of(&self.directory)
    }

    /// Gives a file that was made here to whoever runs the hosts.
    pub(crate) fn give(&self, file: &Path) -> Result<(), Failure> {
        self.identity.own(file)
    }

    fn make(&self, directory: &Path) -> Result<(), Failure> {
        fs::create_dir_all(directory).map_err(|e| Failure::io("make", directory.display(), &e))?;
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(directory, private)
            .map_err(|e| Failure::io("protect", directory.display(), &e))?;
        self.identity.own(directory)
    }

    fn write(&self, file: &Path, text: &str, mode: u32) -> Result<(), Failure> {
        fs::write(file, text)
            .and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(mode)))
            .map_err(|e| Failure::io("write", file.display(), &e))?;
        self.identity.own(file)
    }

    /// What a person would write into `/etc/mainstay/mainstay.toml` of this host.
    fn configuration(&self, kind: Kind, host: &str, role: &str) -> String {
        let place = self.place(host);
        let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let script = |name: &str| quoted(&place.directory().join(name));
        let data = match kind {
            Kind::Sqlite => format!("path = {}", quoted(&place.data().join("shop.db"))),
            Kind::Files => format!("path = {}\nquiesce = \"freeze\"", quoted(&place.data())),
            Kind::Postgres => format!(
                "url = \"postgres://postgres@/postgres?host={}\"\ndata-dir = {}",
                place.run().display(),
                quoted(&place.data())
            ),
        };
        let bin = match (kind, postgres::programs()) {
            (Kind::Postgres, Ok(bin)) => format!("bin-dir = {}\n", quoted(&bin)),
            _ => String::new(),
        };
        let mut hooks = String::new();
        if kind == Kind::Files {
            hooks +=
                &format!("freeze = {}\nthaw = {}\n", script("freeze-shop"), script("thaw-shop"));
        }
        if host == "b" {
            hooks += &format!("fence = {}\n", script("cut-power-of-a"));
            if kind == Kind::Postgres {
                hooks += &format!("route = {}\n", script("move-customers-here"));
            }
        }
        format!(
            "[host]\nname = \"{host}\"\nstate-dir = {state}\n\n\
             [vault]\nurl = {vault}\npassword-file = {password}\n\n\
             [service.shop]\nengine = \"{engine}\"\nrole = \"{role}\"\n{data}\n{bin}\
             start = {start}\nstop = {stop}\nstatus = {status}\n\n\
             [service.shop.hooks]\n{hooks}",
            state = quoted(&place.directory().join("state")),
            vault = quoted(&self.directory.join("vault")),
            password = quoted(&place.directory().join("vault.password")),
            engine = kind.as_str(),
            start = script("start-shop"),
            stop = script("stop-shop"),
            status = script("shop-status"),
        )
    }

    /// The host's own scripts: what a systemd unit does elsewhere.
    fn scripts(&self, kind: Kind, host: &str) -> Result<Vec<(&'static str, String)>, Failure> {
        let place = self.place(host);
        let mut path = self.program.parent().unwrap_or(Path::new("/")).display().to_string();
        if kind == Kind::Postgres {
            path = format!("{path}:{}", postgres::programs()?.display());
        }
        // The server's own commands (archiving) find the program and its configuration by these.
        let head = format!(
            "#!/bin/sh\nPATH='{path}':\"$PATH\"\nMAINSTAY_CONFIG='{}'\nexport PATH MAINSTAY_CONFIG\n",
            place.config_file().display()
        );
        let program = self.program.display();
        let actor = |action: &str, host: &str| {
            format!(
                "'{program}' demo-writer {action} --shop {} --host {host} --stage '{}'",
                kind.as_str(),
                self.directory.display()
            )
        };
        let gate = format!(
            "# Nothing starts unless the gate opens: ExecCondition= in a systemd unit.\n\
             '{program}' may-start shop || exit 1\n"
        );
        let data = place.data().display().to_string();
        let (start, stop, status) = match kind {
            Kind::Postgres => (
                postgres::start_words(&place.data(), &place.run()),
                format!("pg_ctl stop --silent -w -m fast -D '{data}'"),
                // pg_ctl's own exit code for a directory without data is 4.
                format!("pg_ctl status -D '{data}' >/dev/null 2>&1 || exit 3"),
            ),
            _ => (actor("start", host), actor("stop", host), actor("status", host)),
        };
        let mut scripts = vec![
            ("start-shop", format!("{head}{gate}{start}\n")),
            ("stop-shop", format!("{head}{stop}\n")),
            ("shop-status", format!("{head}{status}\n")),
        ];
        if kind == Kind::Files {
            scripts.push(("freeze-shop", format!("{head}exec {}\n", actor("freeze", host))));
            scripts.push(("thaw-shop", format!("{head}exec {}\n", actor("thaw", host))));
        }
        if host == "b" {
            let cut = format!(
                "# Here a power socket or the hypervisor would be asked. 0 is proof that A is off.\n\
                 exec {}\n",
                actor("cut-power", "a")
            );
            scripts.push(("cut-power-of-a", format!("{head}{cut}")));
            if kind == Kind::Postgres {
                let moved = format!(
                    "# DNS, a proxy, an address: wherever customers look.\nexec {}\n",
                    actor("start", host)
                );
                scripts.push(("move-customers-here", format!("{head}{moved}")));
            }
        }
        Ok(scripts)
    }

    /// Ends every process of the demo and removes its directory, unless it is to be kept.
    pub(crate) fn clear(mut self) -> Result<(), Failure> {
        self.clear_up()
    }

    fn clear_up(&mut self) -> Result<(), Failure> {
        let Some(mut guard) = self.guard.take() else { return Ok(()) };
        let cleared = clear(&self.directory, self.keep);
        // It waits for our death; nothing is left for it to do.
        let ended = guard.kill().and_then(|()| guard.wait());
        cleared?;
        ended.map(|_| ()).map_err(|e| Failure::io("end", "the demo's guard", &e))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A failure was told already; what this cannot remove stays below the temporary directory.
        let _ = self.clear_up();
    }
}

/// Ends every process that works below the directory, and removes it.
pub(crate) fn clear(directory: &Path, keep: bool) -> Result<(), Failure> {
    processes::kill(directory)?;
    if keep {
        return Ok(());
    }
    fs::remove_dir_all(directory).map_err(|e| Failure::io("remove", directory.display(), &e))
}

fn hold_lock(directory: &Path) -> Result<File, Failure> {
    let path = directory.join("lock");
    let lock = File::create(&path).map_err(|e| Failure::io("make", path.display(), &e))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|e| Failure::io("lock", path.display(), &e.into()))?;
    Ok(lock)
}

/// Returns when the demo that holds the directory's lock is gone.
pub(crate) fn wait_for_end(directory: &Path) -> Result<(), Failure> {
    let path = directory.join("lock");
    let lock = File::open(&path).map_err(|e| Failure::io("open", path.display(), &e))?;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::LockShared) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Failure::io("wait for", path.display(), &e.into())),
        }
    }
}

/// A process that does not end with this one's terminal, and says nothing to it.
pub(crate) fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null())
}
