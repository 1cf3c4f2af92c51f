//! Engines in any language: a program `mainstay-engine-NAME` on PATH, asked one question at a time.
//!
//! The question goes in as JSON on standard input, the answer comes as JSON on standard output, and
//! files change hands through directories. The protocol is written down in
//! `docs/engines/external.md`. What the program says about files is checked before it is used.

mod protocol;
mod rehearse;

use crate::command::{Command, Output};
use crate::control::Control;
use crate::files::{all_there, no_link, not_cancelled};
use crate::script::token;
use crate::{
    Abilities, CaptureSink, Captured, Context, Engine, Error, Inspection, Promoted, Proof, Purpose,
    Refresh, Rehearsal, Rehearsed, Root, RootKind, Running, SnapshotMeta, Staged, TreeOptions,
    Verdict,
};
use jiff::Timestamp;
use model::config::Service;
use model::progress::Silent;
use model::{CancelToken, Position, ServiceName};
use protocol::{
    Capture, CheckAnswer, CheckRequest, DescribeRequest, Description, InspectAnswer, Nothing,
    Offers, PrepareRequest, PromoteAnswer, ReadyRequest, Request, RunningAnswer, purpose_word,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long questions that only look may take.
const LOOK: Duration = Duration::from_secs(60);
/// How long work may take.
const WORK: Duration = Duration::from_secs(24 * 60 * 60);

/// A program that reads this file.
const ASK: &str = r#"exec "$@" <"$0""#;

/// A service whose engine is a program of its own.
#[derive(Debug)]
pub struct External {
    program: PathBuf,
    engine: String,
    service: ServiceName,
    definition: Service,
    description: Description,
    control: Control,
}

impl External {
    /// Finds `mainstay-engine-NAME` on PATH; `None` if it is not there.
    pub fn find(service: &ServiceName, definition: &Service) -> Result<Option<Self>, Error> {
        let path = env::var_os("PATH").unwrap_or_default();
        match search(&definition.engine, &path) {
            Some(program) => Self::at(&program, service, definition).map(Some),
            None => Ok(None),
        }
    }

    /// Takes this program as the engine, and asks it what it can do.
    pub fn at(program: &Path, service: &ServiceName, definition: &Service) -> Result<Self, Error> {
        let mut external = External {
            program: program.to_owned(),
            engine: definition.engine.clone(),
            service: service.clone(),
            definition: definition.clone(),
            description: Description::default(),
            control: Control::of(service, definition),
        };
        let cancel = CancelToken::new();
        // Nothing is written by a description.
        let cx = Context {
            cancel: &cancel,
            progress: &Silent,
            scratch: Path::new("/nonexistent"),
            callback: &[],
            variables: &[],
            enclosed: None,
        };
        let question = DescribeRequest { offers: Offers { rehearse: protocol::REHEARSAL } };
        external.description = external.ask(&cx, "describe", question, LOOK)?;
        external.description.judge(program)?;
        Ok(external)
    }

    /// Asks one question.
    fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        cx: &Context<'_>,
        verb: &str,
        question: Q,
        timeout: Duration,
    ) -> Result<A, Error> {
        not_cancelled(cx)?;
        let output = match cx.enclosed {
            Some(enclosed) => {
                let command = self.tied(cx, verb, question)?.timeout(timeout);
                let (tried, doubt) = enclosed.try_out(cx, command, false)?;
                doubt.iter().for_each(|doubt| cx.progress.warn(doubt));
                tried?
            }
            None => {
                let command = Command::program(self.asking(verb), &self.program)
                    .arg(verb)
                    .input(self.question(cx, verb, question)?)
                    .timeout(timeout);
                let command = if verb == "start" { command.with_usual_priority() } else { command };
                self.told(cx, command).run(cx.cancel)?
            }
        };
        answered(cx, &output)
    }

    /// One question that ends when we do. The tie takes our end of the standard input, so that it is read
    /// from a file.
    fn tied<Q: Serialize>(
        &self,
        cx: &Context<'_>,
        verb: &str,
        question: Q,
    ) -> Result<Command, Error> {
        let asked = self.question(cx, verb, question)?;
        let file = cx.scratch.join(format!("{verb}.json"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&file).and_then(|mut file| file.write_all(&asked));
        written.map_err(|e| Error::io("write", file.display(), e))?;
        let command = Command::program(self.asking(verb), "/bin/sh")
            .args(["-c", ASK])
            .arg(&file)
            .arg(&self.program)
            .arg(verb)
            .tied();
        Ok(self.told(cx, command))
    }

    /// What the engine's own check says of a copy in a drill: one that crashes or hangs on it has not
    /// found it sound.
    fn try_check(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Verdict, Error> {
        let mut verdict = Verdict { sound: true, findings: Vec::new() };
        let question = CheckRequest { copy: rehearsal.copy.iter().map(Into::into).collect() };
        let limit = rehearsal.limit.unwrap_or(WORK);
        let command = self.tied(cx, "check", question)?.timeout(limit);
        let tried = rehearsal.try_out(cx, command, false, &mut verdict)?;
        match tried.and_then(|output| answered::<CheckAnswer>(cx, &output)) {
            Ok(answer) => {
                verdict.sound = answer.sound;
                verdict.findings.splice(..0, answer.findings);
            }
            Err(why) => verdict.bad(why.to_string()),
        }
        Ok(verdict)
    }

    /// What a question is called.
    fn asking(&self, verb: &str) -> String {
        format!("`{} {verb}`", self.program.display())
    }

    /// What the program reads.
    fn question<Q: Serialize>(
        &self,
        cx: &Context<'_>,
        verb: &str,
        question: Q,
    ) -> Result<Vec<u8>, Error> {
        let request = Request {
            protocol: protocol::VERSION,
            service: &self.service,
            definition: &self.definition,
            scratch: cx.scratch,
            question,
        };
        serde_json::to_vec(&request)
            .map_err(|e| Error::failed(format!("cannot ask {}", self.asking(verb))).because(e))
    }

    /// What the program finds in its environment.
    fn told(&self, cx: &Context<'_>, command: Command) -> Command {
        let command = command.envs(cx.variables).env("MAINSTAY_SERVICE", self.service.as_str());
        match &self.definition.password_env {
            Some(name) => command.without_env(name),
            None => command,
        }
    }

    /// Runs the capture and hands what it names to the sink.
    fn captured(
        &self,
        cx: &Context<'_>,
        sink: &mut dyn CaptureSink,
        capture_id: &str,
    ) -> Result<Captured, Error> {
        let directory = cx.scratch.join("capture");
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|e| Error::io("create", directory.display(), e))?;
        let began = Timestamp::now();
        cx.progress.phase("the engine captures");
        let question = protocol::CaptureRequest { capture_id, directory: &directory };
        let answer: Capture = self.ask(cx, "capture", question, WORK)?;
        let point = answer.judge(capture_id, began, Timestamp::now())?;
        let sources = answer.sources(&self.description.roots)?;
        cx.progress.phase("storing what was captured");
        for (root, source, changes_expected) in sources {
            not_cancelled(cx)?;
            let options =
                TreeOptions { changes_expected, distrust_times: true, ..TreeOptions::default() };
            sink.tree(&root.in_snapshot, source, &options)?;
        }
        let _ = fs::remove_dir_all(&directory);
        Ok(Captured {
            source_time: point,
            position: answer.position.map(|text| Position::Other { text }),
            engine_version: answer.version,
            detail: answer.detail,
        })
    }
}

/// What the program said, and what it answered.
fn answered<A: DeserializeOwned>(cx: &Context<'_>, output: &Output) -> Result<A, Error> {
    for line in output.messages() {
        cx.progress.note(&line);
    }
    serde_json::from_slice(output.stdout()?).map_err(|e| {
        output
            .failure_as("did not answer as it should")
            .because(e)
            .hinting("See docs/engines/external.md for what it must print.")
    })
}

/// The program of an engine on a search path. The name may come from a snapshot: only plain ones
/// are looked for.
fn search(engine: &str, path: &OsStr) -> Option<PathBuf> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if engine.is_empty() || engine.len() > 63 || !engine.bytes().all(plain) {
        return None;
    }
    let name = format!("mainstay-engine-{engine}");
    // A relative entry of PATH would mean another program in every directory.
    env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(&name)).find(
        |program| {
            fs::metadata(program)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        },
    )
}

impl Engine for External {
    fn name(&self) -> &str {
        &self.engine
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            live_capture: self.description.live_capture,
            start_stop: self.description.start_stop || self.control.can_start_stop(),
            promote: self.description.promote,
            log: false,
            check: self.description.check,
        }
    }

    fn refresh(&self) -> Refresh {
        self.description.refresh.into()
    }

    fn roots(&self) -> Vec<Root> {
        self.description.roots.clone()
    }

    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error> {
        let answer: InspectAnswer = self.ask(cx, "inspect", Nothing {}, LOOK)?;
        let running = match answer.running.into() {
            Running::Unknown => self.control.running(cx)?,
            running => running,
        };
        Ok(Inspection {
            running,
            has_data: answer.has_data,
            version: answer.version,
            size_bytes: answer.size_bytes,
            position: answer.position.map(|text| Position::Other { text }),
            replayed: None,
            following: false,
            unarchived: None,
            doubts: Vec::new(),
            summary: answer.summary,
        })
    }

    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error> {
        not_cancelled(cx)?;
        let capture_id = token()?;
        let captured = self.captured(cx, sink, &capture_id);
        // Whatever happened, what the program holds for us (a snapshot of a volume, a lock) goes.
        let free = CancelToken::new();
        let after = Context { cancel: &free, ..*cx };
        let release = protocol::ReleaseRequest { capture_id: &capture_id };
        let released: Result<Nothing, Error> = self.ask(&after, "release", release, LOOK);
        if let Err(error) = &released {
            cx.progress.warn(&error.to_string());
        }
        // What was captured is good, but what was left behind will not stay harmless.
        let captured = captured?;
        released?;
        Ok(captured)
    }

    fn prepare(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        staged: &[Staged],
        purpose: &Purpose,
    ) -> Result<(), Error> {
        all_there(staged)?;
        let question = PrepareRequest {
            meta,
            purpose: purpose_word(purpose),
            staged: staged.iter().map(Into::into).collect(),
        };
        self.ask(cx, "prepare", question, WORK).map(|Nothing {}| ())
    }

    fn ready_to_replace(&self, cx: &Context<'_>, root: &Root, target: &Path) -> Result<(), Error> {
        no_link(target)?;
        let question = ReadyRequest { in_snapshot: &root.in_snapshot, target };
        self.ask(cx, "ready", question, LOOK).map(|Nothing {}| ())
    }

    fn activate(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        purpose: &Purpose,
    ) -> Result<(), Error> {
        let question = PrepareRequest { meta, purpose: purpose_word(purpose), staged: Vec::new() };
        self.ask(cx, "activate", question, WORK).map(|Nothing {}| ())
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn running(&self, cx: &Context<'_>) -> Result<Running, Error> {
        if !self.description.start_stop {
            return self.control.running(cx);
        }
        self.ask(cx, "running", Nothing {}, LOOK).map(|RunningAnswer { running }| running.into())
    }

    fn start(&self, cx: &Context<'_>) -> Result<(), Error> {
        if !self.description.start_stop {
            return self.control.start(cx);
        }
        self.ask(cx, "start", Nothing {}, WORK).map(|Nothing {}| ())
    }

    fn stop(&self, cx: &Context<'_>) -> Result<(), Error> {
        if !self.description.start_stop {
            return self.control.stop(cx);
        }
        not_cancelled(cx)?;
        // Whoever cleans up after our death starts the service again; a stop that goes on beside that
        // would win in the end.
        let output = self.tied(cx, "stop", Nothing {})?.timeout(WORK).run(cx.cancel)?;
        answered(cx, &output).map(|Nothing {}| ())
    }

    fn promote(&self, cx: &Context<'_>) -> Result<Promoted, Error> {
        if !self.description.promote {
            return Ok(Promoted { position: None });
        }
        let answer: PromoteAnswer = self.ask(cx, "promote", Nothing {}, WORK)?;
        Ok(Promoted { position: answer.position.map(|text| Position::Other { text }) })
    }

    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
        if !self.description.check {
            return crate::files::read_everything(cx, copy);
        }
        let question = CheckRequest { copy: copy.iter().map(Into::into).collect() };
        let answer: CheckAnswer = self.ask(cx, "check", question, WORK)?;
        Ok(Verdict { sound: answer.sound, findings: answer.findings })
    }

    fn proof(&self) -> Proof {
        Proof::Bytes
    }

    fn rehearse(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Rehearsed, Error> {
        if self.description.rehearse > 0 {
            return rehearse::rehearse(self, cx, rehearsal);
        }
        let verdict = match self.description.check {
            true => self.try_check(cx, rehearsal)?,
            false => Verdict {
                sound: true,
                findings: vec![format!(
                    "engine {} has neither a rehearsal nor a check of its own",
                    self.engine
                )],
            },
        };
        rehearsal.of_files(cx, verdict)
    }
}

/// What a root must be when it is captured.
fn is_kind(path: &Path, kind: RootKind) -> bool {
    match fs::symlink_metadata(path) {
        Ok(meta) if kind == RootKind::File => meta.is_file(),
        Ok(meta) => meta.is_dir(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_of_programs_on_absolute_paths_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, "#!/bin/sh\n").expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            path
        };
        let good = make("mainstay-engine-wiki-2", 0o755);
        make("mainstay-engine-plain", 0o644);
        make("evil", 0o755);
        fs::create_dir(dir.path().join("mainstay-engine-")).expect("a trap");
        let path = env::join_paths([Path::new("relative"), Path::new("/nowhere"), dir.path()])
            .expect("a search path");
        assert_eq!(search("wiki-2", &path), Some(good));
        for name in ["plain", "absent", "", "/../evil", "../evil", "WIKI-2", "wiki 2"] {
            assert_eq!(search(name, &path), None, "{name:?}");
        }
    }
}
