//! A host of the demo: runs the real program, as a child process, with the host's configuration.

use super::narrator::{Narrator, Step};
use super::shop::Kind;
use super::stage::{Place, Stage};
use crate::failure::Failure;
use model::{CancelToken, Class};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a command may take before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a command that was told to stop may clean up.
const GRACE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(5);

/// A host.
pub(crate) struct Host<'a> {
    name: &'static str,
    place: Place,
    stage: &'a Stage,
    cancel: CancelToken,
}

/// How a command ended.
pub(crate) struct Said {
    status: ExitStatus,
    /// What it printed on both streams, in order.
    pub(crate) text: String,
    command: String,
}

impl<'a> Host<'a> {
    pub(crate) fn new(name: &'static str, stage: &'a Stage, cancel: &CancelToken) -> Host<'a> {
        Host { name, place: stage.place(name), stage, cancel: cancel.clone() }
    }

    /// Its directory.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Runs `mainstay WORDS` for everybody to see.
    pub(crate) fn mainstay(
        &self,
        narrator: &mut Narrator<'_>,
        words: &[&str],
    ) -> Result<Said, Failure> {
        let mut shown = vec!["mainstay".to_owned()];
        shown.extend(words.iter().map(|word| quoted(word)));
        self.run(narrator, self.program(words), shown.join(" "))
    }

    /// Runs one of the host's scripts for everybody to see.
    pub(crate) fn script(&self, narrator: &mut Narrator<'_>, name: &str) -> Result<Said, Failure> {
        let command = Command::new(self.place.directory().join(name));
        self.run(narrator, command, format!("./{name}"))
    }

    /// Runs `mainstay --json WORDS` behind the scenes and gives the document that it prints.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<serde_json::Value, Failure> {
        let mut all = vec!["--json"];
        all.extend(words);
        let command = format!("mainstay {}", all.join(" "));
        let mut out = tempfile::tempfile().map_err(|e| Failure::io("make", "a file", &e))?;
        let err = tempfile::tempfile().map_err(|e| Failure::io("make", "a file", &e))?;
        let status = self.wait(self.program(&all), &command, &out, &err)?;
        serde_json::from_str(&content(&mut out)?).map_err(|e| {
            let what = format!("{command} printed no JSON ({status})");
            Failure::new(Class::Failed, what).because(&e)
        })
    }

    /// Sends customers to the shop of this host, where the service is a server and not the shop.
    pub(crate) fn customers(&self, kind: Kind) -> Result<(), Failure> {
        let mut command = Command::new(self.stage.program());
        command
            .args(["demo-writer", "start", "--shop", kind.as_str(), "--host", self.name, "--stage"])
            .arg(self.stage.directory());
        let mut out = tempfile::tempfile().map_err(|e| Failure::io("make", "a file", &e))?;
        let status = self.wait(command, "the customers", &out, &out)?;
        if status.success() {
            return Ok(());
        }
        let said = content(&mut out)?;
        Err(Failure::new(Class::Failed, "customers cannot order")
            .listing(said.lines().map(str::to_owned).collect()))
    }

    fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.stage.program());
        command.arg("--config").arg(self.place.config_file()).args(words);
        command
    }

    fn run(
        &self,
        narrator: &mut Narrator<'_>,
        command: Command,
        shown: String,
    ) -> Result<Said, Failure> {
        let mut out = tempfile::tempfile().map_err(|e| Failure::io("make", "a file", &e))?;
        // Both streams share one position, so that they are read in the order they were written.
        let err = out.try_clone().map_err(|e| Failure::io("share", "a file", &e))?;
        let begun = Instant::now();
        let status = self.wait(command, &shown, &out, &err)?;
        let took_ms = begun.elapsed().as_millis();
        let text = content(&mut out)?;
        let step = Step {
            host: self.name.to_owned(),
            command: shown.clone(),
            exit_code: status.code(),
            took_ms,
        };
        narrator.step(step, &text)?;
        Ok(Said { status, text, command: shown })
    }

    fn wait(
        &self,
        mut command: Command,
        shown: &str,
        out: &File,
        err: &File,
    ) -> Result<ExitStatus, Failure> {
        let share = |file: &File| file.try_clone().map_err(|e| Failure::io("share", "a file", &e));
        command
            .current_dir(self.place.directory())
            .env_remove("MAINSTAY_CONFIG")
            .stdin(Stdio::null())
            .stdout(share(out)?)
            .stderr(share(err)?);
        self.stage.identity().wear(&mut command);
        let mut child = command.spawn().map_err(|e| Failure::io("start", shown, &e))?;
        let mut deadline = Instant::now() + PATIENCE;
        let mut told = false;
        loop {
            if let Some(status) =
                child.try_wait().map_err(|e| Failure::io("wait for", shown, &e))?
            {
                return if told { Err(cancelled()) } else { Ok(status) };
            }
            if self.cancel.is_cancelled() && !told {
                tell_to_stop(&child);
                told = true;
                deadline = Instant::now() + GRACE;
            }
            if Instant::now() > deadline {
                let ended = child.kill().and_then(|()| child.wait());
                ended.map_err(|e| Failure::io("end", shown, &e))?;
                return Err(match told {
                    true => cancelled(),
                    false => Failure::new(
                        Class::Failed,
                        format!("{shown} did not end within {} s", PATIENCE.as_secs()),
                    ),
                });
            }
            std::thread::sleep(TICK);
        }
    }
}

impl Said {
    /// Whether it ended with exit code 0.
    pub(crate) fn well(&self) -> bool {
        self.status.success()
    }

    /// An error unless it ended well. What it said was shown already.
    pub(crate) fn must(self) -> Result<Said, Failure> {
        if self.well() {
            return Ok(self);
        }
        Err(Failure::new(Class::Failed, format!("{} failed: {}", self.command, self.status))
            .listing(self.text.lines().map(str::to_owned).collect()))
    }
}

/// The error of a demo that was told to stop.
pub(crate) fn cancelled() -> Failure {
    Failure::new(Class::Cancelled, "the demo was stopped")
}

/// A second signal, if the terminal sent one already, does nothing.
fn tell_to_stop(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // A child that has ended in this instant is seen by the next look.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn content(file: &mut File) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|e| Failure::io("read", "what a command said", &e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,@+".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}
