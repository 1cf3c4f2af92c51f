//! A mount by somebody who is not root, through `fusermount3`. In a mount namespace of its own, with
//! a device that everybody may open, whatever this machine's is like. Where that cannot be had these
//! say so and show nothing.

use crate::not_shown::not_shown;
use crate::rig::{Rig, Said, copy_program, run};
use crate::world::wait_for;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, ChildStdin, Command, Stdio};

const NOBODY: u32 = 65534;

/// A host that belongs to nobody in particular, and a process that keeps its namespace.
struct Theirs {
    rig: Rig,
    keeper: Child,
    _until_dropped: ChildStdin,
}

impl Theirs {
    /// With a device of these permissions.
    fn new(device: &str) -> Option<Theirs> {
        let rig = Rig::new();
        let node = rig.path("fuse");
        // Ready when it answers; ends with its input.
        let script = "mknod -m \"$2\" \"$1\" c 10 229 && mount --bind \"$1\" /dev/fuse && \
                      fusermount3 --version >/dev/null && : <>\"$1\" && echo ready && read -r _";
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "keeper"])
            .arg(node)
            .arg(device)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let (input, output) = (keeper.stdin.take()?, keeper.stdout.take()?);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        if line != "ready\n" {
            keeper.wait().unwrap();
            not_shown("nothing can be mounted as another user here");
            return None;
        }
        let theirs = Theirs { rig, keeper, _until_dropped: input };
        theirs.prepare();
        Some(theirs)
    }

    /// The program where they can run it, and a service with one point, all of it theirs.
    fn prepare(&self) {
        let rig = &self.rig;
        let docs = rig.path("docs");
        rig.write("docs/letter", "dear reader");
        fs::create_dir(rig.path("mnt")).unwrap();
        copy_program(&rig.path("program"));
        let docs = docs.display();
        rig.configure(&format!("[service.docs]\nengine = \"files\"\npath = \"{docs}\"\n"));
        let home = rig.path("");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        let owned = ["", "docs", "docs/letter", "mnt", "mainstay.toml"];
        for name in owned {
            chown(rig.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        self.mainstay(&["init"]).code(0);
        self.mainstay(&["backup", "docs"]).code(0);
    }

    /// A command in the namespace, by them.
    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .env("MAINSTAY_CONFIG", self.rig.path("mainstay.toml"))
            .env("HOME", self.rig.path(""))
            .args(["--mount", "--target", &self.keeper.id().to_string()])
            .args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program)
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn mainstay(&self, words: &[&str]) -> Said {
        run(&mut self.command(&self.program(), words))
    }

    fn program(&self) -> String {
        self.rig.path("program").display().to_string()
    }

    fn place(&self) -> String {
        self.rig.path("mnt").display().to_string()
    }

    /// A mount that is served, until the process ends.
    fn mount(&self) -> Child {
        let mut command = self.command(&self.program(), &["mount", &self.place(), "docs"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("Mounted on"), "{line:?}");
        assert!(self.is_mounted());
        child
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.keeper.id())).unwrap();
        let place = self.place();
        mounts.lines().any(|line| line.split(' ').nth(4) == Some(&place))
    }

    /// Reads the letter through the mount.
    fn letter(&self) -> Said {
        let below = self.rig.path("docs/letter");
        let path = format!("{}/docs/latest{}", self.place(), below.display());
        run(&mut self.command("cat", &[&path]))
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn signal(child: &Child, signal: &str) {
    run(Command::new("kill").args([signal, &child.id().to_string()])).code(0);
}

#[test]
fn who_is_not_root_mounts_looks_and_ends_it() {
    let Some(theirs) = Theirs::new("666") else { return };
    let mut child = theirs.mount();
    assert_eq!(theirs.letter().code(0).out, "dear reader");
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!theirs.is_mounted());

    let mut child = theirs.mount();
    run(&mut theirs.command("fusermount3", &["-u", &theirs.place()])).code(0);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    // The guard is not root either.
    let mut child = theirs.mount();
    signal(&child, "-KILL");
    child.wait().unwrap();
    wait_for("the guard unmounts", || !theirs.is_mounted());
    let mut child = theirs.mount();
    assert_eq!(theirs.letter().code(0).out, "dear reader");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_keeps_others_from_mounting_is_told() {
    if let Some(theirs) = Theirs::new("666") {
        let allowed = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
        if !allowed.lines().any(|line| line.trim() == "user_allow_other") {
            let said = theirs.mainstay(&["mount", &theirs.place(), "--allow-other"]).code(1);
            said.complains("user_allow_other").complains("/etc/fuse.conf");
        }
        let root = theirs.rig.path("not-theirs");
        fs::create_dir(&root).unwrap();
        let said = theirs.mainstay(&["mount", root.to_str().unwrap()]).code(1);
        said.complains("a directory of his own");
    }
    let Some(theirs) = Theirs::new("600") else { return };
    let said = theirs.mainstay(&["mount", &theirs.place()]).code(1);
    said.complains("cannot open /dev/fuse").complains("--allow-other");
    assert!(!theirs.is_mounted());
}
