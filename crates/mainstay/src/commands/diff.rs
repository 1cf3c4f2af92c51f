use super::common::Looking;
use super::ls::{absolute, open};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::{count, shown};
use crate::units;
use model::ServiceName;
use operations::{ServiceSite, Which, which};
use repository::diff::{self, Change, Side, Summary};
use repository::{Node, NodeKind, SnapshotReader};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;

/// Show what changed between two recovery points.
///
/// Each line begins with what happened: `+` added, `-` removed, `M` other content, `T` a thing of
/// another kind, `U` other metadata (with --metadata). Directories that are the same are not read.
///
/// With --json each change is a JSON document on a line of its own, and the last line is the
/// summary, both with the names that restic gives them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mainstay diff docs 20261120T01 latest
  mainstay diff docs 5f3a09c1 latest --path /srv/docs/letters --metadata")]
pub(crate) struct DiffArgs {
    /// The service.
    service: ServiceName,

    /// The earlier point: its name, its snapshot's id or the beginning of it.
    before: String,

    /// The later point, or `latest`.
    after: String,

    /// Compare only this directory, which both points have.
    #[arg(long, value_name = "PATH", default_value = "/", hide_default_value = true)]
    path: OsString,

    /// Show also where only owner, mode, times or attributes changed.
    #[arg(long)]
    metadata: bool,

    /// Count as added or removed only content that the other point has nowhere, not even in what
    /// did not change. That reads every tree of both.
    #[arg(long)]
    exact: bool,

    #[command(flatten)]
    looking: Looking,
}

pub(crate) fn run(app: &App, args: &DiffArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let _lock = args.looking.lock(app, &service)?;
    let before = reader(&service, &args.before)?;
    let after = reader(&service, &args.after)?;
    let options = diff::Options { metadata: args.metadata, exact: args.exact };
    let path = absolute(args.path.as_bytes());
    let mut out = BufWriter::new(app.out.bytes());
    let mut failed = None;
    let result = diff::diff(
        &before.1,
        &after.1,
        &path,
        options,
        app.cancel(),
        &mut |path, change, was, is| {
            let line = if app.out.json {
                format!("{}\n", change_json(path, change, is.or(was)))
            } else {
                let path = path_of(path, is.or(was));
                format!("{}    {}\n", modifier(change), shown(&path))
            };
            out.write_all(line.as_bytes()).map_err(|e| {
                failed = Some(Failure::output(&e));
                repository::Error::Cancelled
            })
        },
    );
    if let Some(failure) = failed {
        return Err(failure);
    }
    let summary = result?;
    let text = if app.out.json {
        format!("{}\n", summary_json(&summary, &before.0, &after.0))
    } else if app.out.quiet() {
        String::new()
    } else {
        tell(&summary)
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::DONE)
}

/// A snapshot's id, and the snapshot open.
fn reader(service: &ServiceSite, point: &str) -> Result<(String, SnapshotReader), Failure> {
    let id = which::resolve(service, &service.load_state()?.state, &Which::of(point))?;
    Ok((id.to_string(), open(service, &Which::Named(id.to_string()))?))
}

fn modifier(change: Change) -> &'static str {
    match change {
        Change::Added => "+",
        Change::Removed => "-",
        Change::Modified => "M",
        Change::Type => "T",
        Change::Metadata => "U",
    }
}

/// Directories end in a slash.
fn path_of(path: &[u8], node: Option<&Node>) -> String {
    let mut text = String::from_utf8_lossy(path).into_owned();
    if node.is_some_and(|node| node.kind == NodeKind::Dir) {
        text.push('/');
    }
    text
}

fn change_json(path: &[u8], change: Change, node: Option<&Node>) -> Value {
    let mut value = json!({
        "message_type": "change",
        "path": path_of(path, node),
        "modifier": modifier(change),
    });
    if std::str::from_utf8(path).is_err() {
        value["path_hex"] = hex::encode(path).into();
    }
    value
}

fn summary_json(summary: &Summary, before: &str, after: &str) -> Value {
    let side = |side: &Side| {
        json!({
            "files": side.files,
            "dirs": side.dirs,
            "others": side.others,
            "data_blobs": side.data_blobs,
            "tree_blobs": side.tree_blobs,
            "bytes": side.bytes,
        })
    };
    json!({
        "message_type": "statistics",
        "source_snapshot": before,
        "target_snapshot": after,
        "changed_files": summary.modified,
        "changed_types": summary.retyped,
        "changed_metadata": summary.metadata,
        "added": side(&summary.added),
        "removed": side(&summary.removed),
    })
}

fn tell(summary: &Summary) -> String {
    let side = |side: &Side| {
        format!(
            "{}, {}, {} other; {} in {} of content and {} of directories",
            count(side.files, "file", "files"),
            count(side.dirs, "directory", "directories"),
            side.others,
            units::size(side.bytes),
            count(side.data_blobs, "blob", "blobs"),
            side.tree_blobs,
        )
    };
    format!(
        "\nchanged: {}{}{}\nadded:   {}\nremoved: {}\n",
        count(summary.modified, "file", "files"),
        match summary.retyped {
            0 => String::new(),
            n => format!(", {n} of another kind"),
        },
        match summary.metadata {
            0 => String::new(),
            n => format!(", {n} in metadata alone"),
        },
        side(&summary.added),
        side(&summary.removed),
    )
}
