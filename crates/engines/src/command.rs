//! Runs the commands and programs that a configuration names.
//!
//! Every command gets a process group of its own, so that a cancel or a timeout ends all of it. Its
//! output goes into memory files instead of pipes: a daemon that a `start` command leaves behind
//! keeps them open, and a pipe would make us wait for it for ever, or kill it when we stop reading.
//! The files are bounded while the command runs, and sealed when it has ended: what stays behind
//! must log to a place of its own.

mod output;
mod priority;

pub use output::Output;

use crate::{Error, Isolation};
use model::{CancelToken, Class, Secret};
use output::Sink;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// How long a command that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// The longest that waiting goes without looking at the cancel token.
const TICK: Duration = Duration::from_millis(50);

/// How often a program that is just being written is tried again (`ETXTBSY`).
const BUSY_TRIES: u32 = 40;

/// A command, not yet run. Secrets go into its environment or its input, never into its arguments:
/// those are for everybody to see.
#[derive(Clone, Debug)]
pub struct Command {
    what: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    secrets: Vec<Secret>,
    dir: Option<PathBuf>,
    input: Option<Vec<u8>>,
    timeout: Option<Duration>,
    tied: bool,
    piped: bool,
    usual_priority: bool,
}

impl Command {
    /// A line for `/bin/sh -c`, as hooks and `start` are. `what` names it in errors: "the start
    /// command".
    pub fn shell(what: impl Into<String>, line: &str) -> Self {
        Self::program(what, "/bin/sh").arg("-c").arg(line)
    }

    /// A program, run without a shell.
    pub fn program(what: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        Command {
            what: what.into(),
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            secrets: Vec::new(),
            dir: None,
            input: None,
            timeout: None,
            tied: false,
            piped: false,
            usual_priority: false,
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds several arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Sets several variables.
    pub fn envs(mut self, variables: &[(String, String)]) -> Self {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// Removes a variable that it would inherit.
    pub fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Sets a variable to a secret, which is also kept out of what is shown of the output.
    pub fn secret_env(mut self, name: impl AsRef<OsStr>, value: &Secret) -> Self {
        self.secrets.push(value.clone());
        self.env(name, value.expose())
    }

    /// Runs it in this directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// What it reads from its standard input; nothing without this.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Ends it after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Ends it, too, when this process dies, even by SIGKILL: for work whose result nobody would
    /// pick up. It then reads nothing from its standard input, unless [`Command::input`] is given,
    /// and then it is not tied.
    pub fn tied(mut self) -> Self {
        self.tied = true;
        self
    }

    /// Runs it cut off from the network, as far as that can be done here.
    pub fn within(self, isolation: &Isolation) -> Self {
        self.behind(isolation.words())
    }

    /// Runs it by a program that runs others: these words, and then its own.
    pub(crate) fn behind(mut self, words: &[&str]) -> Self {
        let mut words = words.iter().map(OsString::from);
        if let Some(program) = words.next() {
            let inner = std::mem::replace(&mut self.program, program);
            self.args = words.chain([inner]).chain(self.args).collect();
        }
        self
    }

    /// Leaves its standard output to the caller, who reads it by [`Process::take_stdout`].
    pub fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    /// Runs it as anything else on the machine, however nice this process was told to be: for what starts
    /// something that stays.
    pub fn with_usual_priority(mut self) -> Self {
        self.usual_priority = true;
        self
    }

    /// Runs it to its end. Anything but exit code 0 is an error with its last words.
    pub fn run(&self, cancel: &CancelToken) -> Result<Output, Error> {
        let output = self.ask(cancel)?;
        if output.success() { Ok(output) } else { Err(output.failure()) }
    }

    /// Runs it to its end, whatever its exit code. Not at all, if it was cancelled before: whoever stood
    /// still meanwhile must not do what others count on not to be done any more.
    pub fn ask(&self, cancel: &CancelToken) -> Result<Output, Error> {
        if cancel.is_cancelled() {
            return Err(cancelled(&self.what));
        }
        self.spawn()?.wait(cancel)
    }

    /// Runs it to its end as the trial of something: how it ends is what is asked. Within: what it
    /// printed if it ended with exit code 0, and else, also if it had to be ended, why not. Nothing
    /// of its group is left alive.
    pub(crate) fn try_out(&self, cancel: &CancelToken) -> Result<Result<Output, Error>, Error> {
        let ended = self.spawn()?.see_out(cancel, true)?;
        Ok(match ended.out_of_time {
            Some(limit) => Err(ended.output.out_of_time(limit)),
            None if !ended.output.success() => Err(ended.output.failure()),
            None => Ok(ended.output),
        })
    }

    /// Starts it.
    pub fn spawn(&self) -> Result<Process, Error> {
        let stdout = Sink::new().map_err(|e| self.unready(e))?;
        let stderr = Sink::new().map_err(|e| self.unready(e))?;
        let tied = self.tied && self.input.is_none();
        let mut command = if tied { self.supervised() } else { self.plain() };
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(match &self.input {
            Some(bytes) => input_file(bytes).map_err(|e| self.unready(e))?.into(),
            None if tied => Stdio::piped(),
            None => Stdio::null(),
        });
        command.stdout(match self.piped {
            true => Stdio::piped(),
            false => stdout.share().map_err(|e| self.unready(e))?.into(),
        });
        command.stderr(stderr.share().map_err(|e| self.unready(e))?);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = self.spawn_when_ready(&mut command)?;
        Ok(Process {
            what: self.what.clone(),
            secrets: self.secrets.clone(),
            deadline: self.timeout.and_then(|t| Instant::now().checked_add(t)),
            timeout: self.timeout,
            child,
            ended: false,
            stdout,
            stderr,
        })
    }

    fn plain(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.args);
        command
    }

    /// A shell that runs the command and, beside it, reads from a pipe whose other end only we
    /// hold: the pipe ends when we do, and then the whole group is killed.
    fn supervised(&self) -> process::Command {
        const SUPERVISOR: &str = r#"
            exec 3<&0 </dev/null
            "$@" 3<&- & command=$!
            { read -r nothing; kill -KILL "-$$"; } <&3 >/dev/null 2>&1 & watch=$!
            exec 3<&-
            trap 'kill -TERM "$command" 2>/dev/null' TERM
            wait "$command"; code=$?
            while kill -0 "$command" 2>/dev/null; do wait "$command"; code=$?; done
            trap - TERM
            kill -KILL "$watch" 2>/dev/null
            exit "$code""#;
        let mut command = process::Command::new("/bin/sh");
        command.arg("-c").arg(SUPERVISOR).arg("mainstay-command").arg(&self.program);
        command.args(&self.args);
        command
    }

    /// A program that somebody is just writing cannot be run yet; that passes.
    fn spawn_when_ready(&self, command: &mut process::Command) -> Result<Child, Error> {
        let mut tries = 0;
        let _usual = self.usual_priority.then(priority::usual);
        loop {
            match command.spawn() {
                Err(error)
                    if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES =>
                {
                    tries += 1;
                    std::thread::sleep(TICK);
                }
                spawned => return spawned.map_err(|e| self.unstarted(e)),
            }
        }
    }

    fn unready(&self, error: io::Error) -> Error {
        Error::io("prepare to run", &self.what, error)
    }

    fn unstarted(&self, error: io::Error) -> Error {
        let program = Path::new(&self.program).display();
        let (class, hint) = match error.kind() {
            io::ErrorKind::NotFound => (
                Class::Invalid,
                format!("Install `{program}`, or correct its path in the configuration."),
            ),
            io::ErrorKind::PermissionDenied => {
                (Class::Invalid, format!("Make `{program}` executable for this user."))
            }
            // ENOEXEC: what a script without its first line gives.
            _ if error.raw_os_error() == Some(8) => (
                Class::Invalid,
                format!("Begin the script `{program}` with a line such as `#!/bin/sh`."),
            ),
            _ => (Class::Failed, String::new()),
        };
        let failed =
            Error::new(class, format!("cannot run {} (`{program}`)", self.what)).because(error);
        if hint.is_empty() { failed } else { failed.hinting(hint) }
    }
}

/// A file in memory to read from.
fn input_file(bytes: &[u8]) -> io::Result<File> {
    let mut file =
        File::from(rustix::fs::memfd_create("mainstay-input", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

fn cancelled(what: &str) -> Error {
    Error::new(Class::Cancelled, format!("{what} was cancelled"))
}

/// How a command came to its end.
struct Ended {
    output: Output,
    /// It had to be ended, after this time.
    out_of_time: Option<Duration>,
}

/// A command that runs. Dropping it kills it with its whole group.
#[derive(Debug)]
pub struct Process {
    what: String,
    secrets: Vec<Secret>,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    child: Child,
    ended: bool,
    stdout: Sink,
    stderr: Sink,
}

impl Process {
    /// Its process id, which is also its group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard output of a [`Command::piped`] one; `None` when it was taken already.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Our end of what ties a [`Command::tied`] one to us. Dropping it ends the command, as our
    /// death would.
    pub fn take_tie(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Whether it has ended. Its exit is kept for [`Process::wait`].
    pub fn has_ended(&mut self) -> Result<bool, Error> {
        if self.ended {
            return Ok(true);
        }
        self.bound()?;
        // NOWAIT leaves the dead process in the table. As long as it is there its group's number
        // cannot be given to anybody else, so that a kill of the group hits ours or nobody.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(Pid::from_child(&self.child)), options) {
            Ok(status) => Ok(status.is_some()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(Error::io("wait for", &self.what, error.into())),
        }
    }

    /// Waits until it has ended, whatever its exit code. A cancel or its timeout ends it with its
    /// whole group.
    pub fn wait(self, cancel: &CancelToken) -> Result<Output, Error> {
        let ended = self.see_out(cancel, false)?;
        match ended.out_of_time {
            Some(limit) => Err(ended.output.out_of_time(limit)),
            None => Ok(ended.output),
        }
    }

    /// The same, telling apart how it came to its end. `alone`: what it leaves of its group is
    /// killed.
    fn see_out(mut self, cancel: &CancelToken, alone: bool) -> Result<Ended, Error> {
        let mut pause = Duration::from_millis(1);
        while !self.has_ended()? {
            if cancel.is_cancelled() {
                self.end()?;
                return Err(cancelled(&self.what));
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let out_of_time = Some(self.timeout.unwrap_or_default());
                return Ok(Ended { output: self.end()?, out_of_time });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(TICK);
        }
        if alone {
            // It is dead, but still in the table: the group's number is nobody else's yet.
            self.signal(Signal::KILL);
        }
        Ok(Ended { output: self.reap()?, out_of_time: None })
    }

    /// Ends it: asks first, kills after a grace time, and leaves nothing of its group alive.
    pub fn end(&mut self) -> Result<Output, Error> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while !self.has_ended()? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.signal(Signal::KILL);
        self.reap()
    }

    /// Sends a signal to the whole group. Nothing happens if all of it is gone.
    pub fn signal(&self, signal: Signal) {
        if !self.ended {
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }

    fn bound(&mut self) -> Result<(), Error> {
        let bounded = self.stdout.bound().and_then(|()| self.stderr.bound());
        bounded.map_err(|e| Error::io("read the output of", &self.what, e))
    }

    fn reap(&mut self) -> Result<Output, Error> {
        let status = self.child.wait().map_err(|e| Error::io("wait for", &self.what, e))?;
        self.ended = true;
        let read = |e| Error::io("read the output of", &self.what, e);
        let (stdout, stdout_cut) = self.stdout.finish().map_err(read)?;
        let (stderr, _) = self.stderr.finish().map_err(read)?;
        Ok(Output::new(
            self.what.clone(),
            status,
            (stdout, stdout_cut),
            stderr,
            self.secrets.clone(),
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}
