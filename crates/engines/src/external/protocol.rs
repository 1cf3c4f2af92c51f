//! The questions and answers of the protocol, as `docs/engines/external.md` describes them.

use super::is_kind;
use crate::script::plausible;
use crate::{Error, Purpose, Refresh, Root, RootKind, Running, SnapshotMeta, Staged};
use jiff::Timestamp;
use model::ServiceName;
use model::config::Service;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The protocol's number.
pub(super) const VERSION: u32 = 1;

/// The number of what is said of rehearsals. A program that says nothing of them has none.
pub(super) const REHEARSAL: u32 = 1;

/// What every question holds.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Request<'a, Q> {
    pub(super) protocol: u32,
    pub(super) service: &'a ServiceName,
    pub(super) definition: &'a Service,
    pub(super) scratch: &'a Path,
    #[serde(flatten)]
    pub(super) question: Q,
}

/// No more to ask, or nothing to answer: `{}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// A program may answer only what it is offered: an older Mainstay would refuse the key.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct DescribeRequest {
    pub(super) offers: Offers,
}

/// What we know beyond the protocol's beginnings.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Offers {
    pub(super) rehearse: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RehearseRequest<'a> {
    pub(super) meta: &'a SnapshotMeta,
    pub(super) copy: Vec<Place<'a>>,
    pub(super) home: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,
    pub(super) isolated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CaptureRequest<'a> {
    pub(super) capture_id: &'a str,
    pub(super) directory: &'a Path,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ReleaseRequest<'a> {
    pub(super) capture_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PrepareRequest<'a> {
    pub(super) meta: &'a SnapshotMeta,
    pub(super) purpose: &'static str,
    pub(super) staged: Vec<Place<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ReadyRequest<'a> {
    pub(super) in_snapshot: &'a str,
    pub(super) target: &'a Path,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CheckRequest<'a> {
    pub(super) copy: Vec<Place<'a>>,
}

/// Where the content of one root is.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Place<'a> {
    in_snapshot: &'a str,
    kind: RootKind,
    staged: &'a Path,
    target: &'a Path,
}

impl<'a> From<&'a Staged> for Place<'a> {
    fn from(staged: &'a Staged) -> Self {
        Place {
            in_snapshot: &staged.root.in_snapshot,
            kind: staged.root.kind,
            staged: &staged.staged,
            target: &staged.target,
        }
    }
}

pub(super) fn purpose_word(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Primary { .. } => "primary",
        Purpose::Standby => "standby",
        Purpose::Scratch { .. } => "scratch",
    }
}

/// How standbys are refreshed; a program does not follow a log.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RefreshWord {
    #[default]
    Exchange,
    Import,
}

impl From<RefreshWord> for Refresh {
    fn from(word: RefreshWord) -> Self {
        match word {
            RefreshWord::Exchange => Refresh::Exchange,
            RefreshWord::Import => Refresh::Import,
        }
    }
}

/// Whether the service runs.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RunningWord {
    Yes,
    No,
    Unknown,
}

impl From<RunningWord> for Running {
    fn from(word: RunningWord) -> Self {
        match word {
            RunningWord::Yes => Running::Yes,
            RunningWord::No => Running::No,
            RunningWord::Unknown => Running::Unknown,
        }
    }
}

/// The answer to `describe`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Description {
    protocol: u32,
    #[serde(default)]
    pub(super) live_capture: bool,
    #[serde(default)]
    pub(super) start_stop: bool,
    #[serde(default)]
    pub(super) promote: bool,
    #[serde(default)]
    pub(super) check: bool,
    /// The number of the rehearsal that the program has; 0 for none.
    #[serde(default)]
    pub(super) rehearse: u32,
    /// A rehearsal wants a port.
    #[serde(default)]
    pub(super) rehearse_port: bool,
    #[serde(default)]
    pub(super) refresh: RefreshWord,
    pub(super) roots: Vec<Root>,
}

impl Description {
    /// Refuses what would later write outside of where it should.
    pub(super) fn judge(&self, program: &Path) -> Result<(), Error> {
        let bad = |what: String| Err(Error::invalid(format!("{} {what}", program.display())));
        if self.protocol != VERSION {
            return bad(format!("speaks protocol {}, not {VERSION}", self.protocol));
        }
        if self.rehearse > REHEARSAL {
            return bad(format!("has rehearsals number {}, not {REHEARSAL}", self.rehearse));
        }
        if self.roots.is_empty() {
            return bad("names no roots".to_owned());
        }
        let mut seen = BTreeSet::new();
        for root in &self.roots {
            let at = &root.in_snapshot;
            let mut parts = at.split('/');
            let plain = parts.next() == Some("")
                && parts.all(|part| !part.is_empty() && part != "." && part != "..")
                && at.len() > 1
                && !at.contains('\0');
            if !plain || at.starts_with("/.mainstay") || !seen.insert(at) {
                return bad(format!("names a root {at:?} that cannot be in a snapshot"));
            }
            if !root.on_host.is_absolute() {
                return bad(format!("names the relative path {}", root.on_host.display()));
            }
        }
        Ok(())
    }
}

/// The answer to `inspect`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct InspectAnswer {
    pub(super) running: RunningWord,
    pub(super) has_data: bool,
    #[serde(default)]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) size_bytes: Option<u64>,
    #[serde(default)]
    pub(super) position: Option<String>,
    pub(super) summary: String,
}

/// The answer to `running`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RunningAnswer {
    pub(super) running: RunningWord,
}

/// The answer to `promote`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct PromoteAnswer {
    #[serde(default)]
    pub(super) position: Option<String>,
}

/// The answer to `check`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct CheckAnswer {
    pub(super) sound: bool,
    pub(super) findings: Vec<String>,
}

/// The answer to `rehearse`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RehearseAnswer {
    pub(super) sound: bool,
    #[serde(default)]
    pub(super) findings: Vec<String>,
    #[serde(default)]
    pub(super) answered_after_seconds: Option<f64>,
}

/// The answer to `capture`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Capture {
    capture_id: String,
    source_time: Timestamp,
    #[serde(default)]
    pub(super) position: Option<String>,
    #[serde(default)]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) detail: serde_json::Value,
    trees: Vec<Tree>,
}

/// Where the content of one root is now.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Tree {
    in_snapshot: String,
    source: PathBuf,
    #[serde(default)]
    changes_expected: bool,
}

impl Capture {
    /// The captured point, if the answer is one to this capture.
    pub(super) fn judge(
        &self,
        capture_id: &str,
        began: Timestamp,
        ended: Timestamp,
    ) -> Result<Timestamp, Error> {
        if self.capture_id != capture_id {
            return Err(Error::failed("the engine answered for another capture than this one"));
        }
        plausible("the engine", self.source_time, began, ended)
    }

    /// The root, the place and whether it may change, of every root once.
    pub(super) fn sources<'a>(
        &'a self,
        roots: &'a [Root],
    ) -> Result<Vec<(&'a Root, &'a Path, bool)>, Error> {
        let wrong = |what: String| Err(Error::failed(format!("the engine captured {what}")));
        if let Some(tree) =
            self.trees.iter().find(|t| !roots.iter().any(|r| r.in_snapshot == t.in_snapshot))
        {
            return wrong(format!("{:?}, which is none of its roots", tree.in_snapshot));
        }
        let mut sources = Vec::new();
        for root in roots {
            let mut trees = self.trees.iter().filter(|t| t.in_snapshot == root.in_snapshot);
            let (Some(tree), None) = (trees.next(), trees.next()) else {
                return wrong(format!("its root {:?} not exactly once", root.in_snapshot));
            };
            if !tree.source.is_absolute() || !is_kind(&tree.source, root.kind) {
                let what = if root.kind == RootKind::File { "file" } else { "directory" };
                return wrong(format!("{}, which is no {what}", tree.source.display()));
            }
            sources.push((root, tree.source.as_path(), tree.changes_expected));
        }
        Ok(sources)
    }
}
