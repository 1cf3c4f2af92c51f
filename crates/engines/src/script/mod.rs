//! The engine `script`: a service that brings its own exporter and importer.
//!
//! The exporter fills a backup directory, the importer loads it. What they are told and must answer
//! is written down in `docs/engines/script.md`. An exporter is a program that somebody wrote on a
//! Friday: nothing it says is taken on trust where it can be seen.

mod answer;
mod filled;

use crate::command::Command;
use crate::control::Control;
use crate::files::{all_there, holds_something, not_cancelled, plain_path, read_everything};
use crate::{
    Abilities, CaptureSink, Captured, Context, Engine, Error, Inspection, Promoted, Proof, Purpose,
    Refresh, Rehearsal, Rehearsed, Root, RootKind, SnapshotMeta, Staged, TreeOptions, Verdict,
};
pub(crate) use answer::plausible;

use answer::Answer;
use filled::Fingerprint;
use jiff::Timestamp;
use model::config::Service;
use model::{Class, Position, ServiceName};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the backup directory is inside snapshots.
const IN_SNAPSHOT: &str = "/script";

/// How long an export or an import may take. A script that hangs must fail one day.
const TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// The key in a snapshot's notes that tells whether the importer knows `scratch`.
const KNOWS_SCRATCH: &str = "importer-knows-scratch";

/// A service of engine `script`.
#[derive(Debug)]
pub struct Script {
    name: ServiceName,
    path: PathBuf,
    exporter: Option<PathBuf>,
    importer: Option<PathBuf>,
    password_env: Option<String>,
    control: Control,
}

impl Script {
    /// Reads and judges the definition.
    pub fn new(name: &ServiceName, definition: &Service) -> Result<Self, Error> {
        let Some(path) = &definition.path else {
            return Err(Error::invalid(format!("service {name} has no `path`"))
                .hinting("Set `path` to the directory that the exporter fills."));
        };
        if definition.exporter.is_none() && definition.importer.is_none() {
            return Err(Error::invalid(format!(
                "service {name} has neither an `exporter` nor an `importer`"
            ))
            .hinting("Name the executables that fill and load `path`."));
        }
        for program in [&definition.exporter, &definition.importer].into_iter().flatten() {
            if program.is_relative() && program.components().count() > 1 {
                return Err(Error::invalid(format!(
                    "service {name}: {} is a relative path",
                    program.display()
                ))
                .hinting("Write the whole path, or a bare name that is on PATH."));
            }
        }
        Ok(Script {
            name: name.clone(),
            path: plain_path(name, path)?,
            exporter: definition.exporter.clone(),
            importer: definition.importer.clone(),
            password_env: definition.password_env.clone(),
            control: Control::of(name, definition),
        })
    }

    /// What both scripts are told and how both are run: they end when we do, since nobody would
    /// pick up their result, and a second one must never meet them.
    fn command(&self, cx: &Context<'_>, what: &str, program: &Path) -> Command {
        self.command_at(cx, what, program, Place { path: &self.path, scratch: cx.scratch })
    }

    /// The same for a backup directory that is not the service's own.
    fn command_at(
        &self,
        cx: &Context<'_>,
        what: &str,
        program: &Path,
        place: Place<'_>,
    ) -> Command {
        let command = Command::program(what, program)
            .dir(place.path)
            .envs(cx.variables)
            .env("MAINSTAY_SERVICE", self.name.as_str())
            .env("MAINSTAY_BACKUP_DIR", place.path)
            .env("MAINSTAY_SCRATCH", place.scratch)
            .timeout(TIMEOUT)
            .tied();
        match &self.password_env {
            Some(name) => command.without_env(name),
            None => command,
        }
    }

    /// Tells the importer what it is to load, and what for.
    fn import(
        &self,
        cx: &Context<'_>,
        command: Command,
        meta: &SnapshotMeta,
        purpose: &str,
    ) -> Result<Command, Error> {
        let point = cx.scratch.join("point.json");
        let json = serde_json::to_vec_pretty(meta)
            .map_err(|e| Error::failed("cannot describe the point to the importer").because(e))?;
        fs::write(&point, json).map_err(|e| Error::io("write", point.display(), e))?;
        cx.progress.phase("the importer runs");
        Ok(command
            .env("MAINSTAY_PURPOSE", purpose)
            .env("MAINSTAY_POINT", &point)
            .env("MAINSTAY_SOURCE_TIME", meta.source_time.to_string()))
    }

    /// Runs the exporter and believes it only as far as it can be seen to have worked.
    fn export(&self, cx: &Context<'_>) -> Result<Answer, Error> {
        let Some(exporter) = &self.exporter else {
            return Err(Error::invalid(format!("service {} has no `exporter`", self.name))
                .hinting("Name the executable that fills `path`."));
        };
        self.backup_dir()?;
        let before = Fingerprint::of(&self.path)?;
        before.let_time_pass();
        let export_id = token()?;
        let began = Timestamp::now();
        cx.progress.phase("the exporter runs");
        let output = self
            .command(cx, "the exporter", exporter)
            .env("MAINSTAY_EXPORT_ID", &export_id)
            .run(cx.cancel)?;
        for line in output.messages() {
            cx.progress.note(&line);
        }
        let answer = Answer::read(&output, &export_id, began, Timestamp::now())?;
        let after = Fingerprint::of(&self.path)?;
        if after.files == 0 {
            return Err(Error::failed(format!(
                "the exporter succeeded, but left no file in {}",
                self.path.display()
            )));
        }
        if after == before {
            return Err(Error::failed(format!(
                "the exporter succeeded, but nothing in {} has changed since the last export: \
                 what is there is stale",
                self.path.display()
            ))
            .hinting("Let it write at least one file anew, even if the service has not changed."));
        }
        Ok(answer)
    }

    /// The directory that the exporter fills. Only its last part is made: where all of it is
    /// missing, a file system is not mounted.
    fn backup_dir(&self) -> Result<(), Error> {
        match fs::metadata(&self.path) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(Error::invalid(format!("{} is not a directory", self.path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::DirBuilder::new()
                .mode(0o700)
                .create(&self.path)
                .map_err(|e| Error::io("create", self.path.display(), e)),
            Err(e) => Err(Error::io("read", self.path.display(), e)),
        }
    }

    fn importer(&self) -> Result<&Path, Error> {
        self.importer.as_deref().ok_or_else(|| {
            Error::invalid(format!("service {} has no `importer` on this host", self.name))
                .hinting(format!("Name the executable that loads {}.", self.path.display()))
        })
    }
}

/// Where a script works.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    scratch: &'a Path,
}

/// An importer that does not look at its purpose would load a copy into the real service.
fn knows_scratch(meta: &SnapshotMeta) -> bool {
    meta.detail.get(KNOWS_SCRATCH) == Some(&true.into())
}

/// A word that nobody can have printed before.
pub(crate) fn token() -> Result<String, Error> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::io("read", "random bytes", e.into()))?;
    Ok(hex::encode(bytes))
}

impl Engine for Script {
    fn name(&self) -> &str {
        "script"
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            live_capture: true,
            start_stop: self.control.can_start_stop(),
            promote: false,
            log: false,
            check: true,
        }
    }

    fn refresh(&self) -> Refresh {
        Refresh::Import
    }

    fn roots(&self) -> Vec<Root> {
        vec![Root {
            in_snapshot: IN_SNAPSHOT.to_owned(),
            on_host: self.path.clone(),
            kind: RootKind::Tree,
        }]
    }

    fn inspect(&self, cx: &Context<'_>) -> Result<Inspection, Error> {
        let has_data = holds_something(&self.path)?;
        let what = if has_data { "holds an export" } else { "is missing or empty" };
        Ok(Inspection {
            running: self.control.running(cx)?,
            has_data,
            version: None,
            size_bytes: None,
            position: None,
            replayed: None,
            following: false,
            unarchived: None,
            doubts: Vec::new(),
            summary: format!("{} {what}", self.path.display()),
        })
    }

    fn capture(&self, cx: &Context<'_>, sink: &mut dyn CaptureSink) -> Result<Captured, Error> {
        not_cancelled(cx)?;
        let answer = self.export(cx)?;
        cx.progress.phase("storing the export");
        sink.tree(IN_SNAPSHOT, &self.path, &TreeOptions::default())?;
        let mut detail = serde_json::Map::new();
        detail.insert(KNOWS_SCRATCH.to_owned(), answer.importer_knows_scratch.into());
        detail.insert("exporter".to_owned(), answer.detail);
        Ok(Captured {
            source_time: answer.source_time,
            position: answer.position.map(|text| Position::Other { text }),
            engine_version: answer.version,
            detail: detail.into(),
        })
    }

    fn prepare(
        &self,
        _cx: &Context<'_>,
        _meta: &SnapshotMeta,
        staged: &[Staged],
        purpose: &Purpose,
    ) -> Result<(), Error> {
        // Said now, before anything is replaced.
        if !matches!(purpose, Purpose::Scratch { .. }) {
            self.importer()?;
        }
        all_there(staged)?;
        for root in staged {
            if !holds_something(&root.staged)? {
                let message = format!("the restored export {} is empty", root.staged.display());
                return Err(Error::new(Class::Corrupt, message));
            }
        }
        Ok(())
    }

    fn keeps_staged(&self) -> bool {
        true
    }

    fn ready_to_replace(
        &self,
        _cx: &Context<'_>,
        _root: &Root,
        target: &Path,
    ) -> Result<(), Error> {
        crate::files::no_link(target)
    }

    fn activate(
        &self,
        cx: &Context<'_>,
        meta: &SnapshotMeta,
        purpose: &Purpose,
    ) -> Result<(), Error> {
        not_cancelled(cx)?;
        let word = match purpose {
            Purpose::Primary { .. } => "primary",
            Purpose::Standby => "standby",
            Purpose::Scratch { .. } => "scratch",
        };
        if word == "scratch" && !(knows_scratch(meta) && self.importer.is_some()) {
            cx.progress
                .note("the importer was not run: the exporter did not say that it knows `scratch`");
            return Ok(());
        }
        let command = self.command(cx, "the importer", self.importer()?);
        let output = self.import(cx, command, meta, word)?.run(cx.cancel)?;
        for line in output.messages() {
            cx.progress.note(&line);
        }
        Ok(())
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn promote(&self, _cx: &Context<'_>) -> Result<Promoted, Error> {
        // What was imported serves as it is.
        Ok(Promoted { position: None })
    }

    fn check(&self, cx: &Context<'_>, copy: &[Staged]) -> Result<Verdict, Error> {
        let mut verdict = read_everything(cx, copy)?;
        for root in copy {
            if !holds_something(&root.staged)? {
                verdict.sound = false;
                verdict.findings.insert(0, format!("{} is empty", root.staged.display()));
            }
        }
        Ok(verdict)
    }

    fn proof(&self) -> Proof {
        Proof::Bytes
    }

    fn rehearse(&self, cx: &Context<'_>, rehearsal: &Rehearsal<'_>) -> Result<Rehearsed, Error> {
        let mut verdict = Verdict { sound: true, findings: Vec::new() };
        let mut answered_after = None;
        match (&self.importer, rehearsal.copy.first()) {
            (Some(importer), Some(copy)) if knows_scratch(rehearsal.meta) => {
                let begun = Instant::now();
                let place = Place { path: &copy.staged, scratch: rehearsal.home };
                let command = self
                    .command_at(cx, "the importer", importer, place)
                    .timeout(rehearsal.limit.unwrap_or(TIMEOUT));
                let command = self.import(cx, command, rehearsal.meta, "scratch")?;
                match rehearsal.try_out(cx, command, false, &mut verdict)? {
                    Ok(output) => {
                        answered_after = Some(begun.elapsed());
                        output.messages().iter().for_each(|line| cx.progress.note(line));
                        verdict.findings.push("the importer took the copy".to_owned());
                    }
                    Err(why) => verdict.bad(why.to_string()),
                }
            }
            _ => verdict.findings.push(
                "the importer was not run: the exporter did not say that it knows `scratch`"
                    .to_owned(),
            ),
        }
        let rehearsed = rehearsal.of_files(cx, verdict)?;
        Ok(Rehearsed { answered_after, ..rehearsed })
    }
}
