use super::common::{Looking, ServicePoint};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::shown;
use crate::units;
use jiff::Timestamp;
use operations::{ServiceSite, Which, which};
use repository::{Node, NodeKind, SnapshotReader};
use serde::Serialize;
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// List what is in a recovery point.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// The service, and after a colon the point [default: the head].
    #[arg(value_name = "SERVICE[:POINT]")]
    service: ServicePoint,

    /// A directory or file in it, as `/srv/docs`.
    #[arg(default_value = "/")]
    path: OsString,

    /// List also what is in the directories below.
    #[arg(short, long)]
    recursive: bool,

    #[command(flatten)]
    looking: Looking,
}

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Line {
    pub(crate) path: String,
    /// The path in hex, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    user: String,
    group: String,
    size_bytes: u64,
    modified: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_target: Option<String>,
}

pub(crate) fn run(app: &App, args: &LsArgs) -> Outcome {
    let service = app.service(&args.service.service)?;
    let which = args.service.point.as_deref().map_or(Which::Latest, Which::of);
    let lock = args.looking.lock(app, &service)?;
    let reader = open(&service, &which)?;
    let path = absolute(args.path.as_bytes());
    let Some(node) = reader.node(&path)? else {
        return Err(missing(&path, &service));
    };
    let mut lines = Vec::new();
    if node.kind != NodeKind::Dir {
        lines.push(line(&path, &node));
    } else if args.recursive {
        reader.walk(&path, &mut |path, node| {
            if app.cancel().is_cancelled() {
                return Err(repository::Error::Cancelled);
            }
            lines.push(line(path, node));
            Ok(())
        })?;
    } else {
        for node in reader.list(&path)? {
            lines.push(line(&join(&path, &node.name), &node));
        }
    }
    // Whoever reads it slowly bars nobody.
    drop(lock);
    if app.out.json {
        app.out.document(&json!({ "service": service.name(), "entries": lines }))?;
    } else {
        app.out.text(&show(&lines))?;
    }
    Ok(Exit::DONE)
}

/// The snapshot that is meant, open.
pub(crate) fn open(service: &ServiceSite, which: &Which) -> Result<SnapshotReader, Failure> {
    let state = service.load_state()?.state;
    let id = which::resolve(service, &state, which)?;
    Ok(SnapshotReader::open(service.repository()?, id)?)
}

/// The path from the root of the snapshot.
pub(crate) fn absolute(path: &[u8]) -> Vec<u8> {
    let mut whole = vec![b'/'];
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if whole.len() > 1 {
            whole.push(b'/');
        }
        whole.extend_from_slice(part);
    }
    whole
}

/// There is no such thing in the snapshot.
pub(crate) fn missing(path: &[u8], service: &ServiceSite) -> Failure {
    let path = shown(&String::from_utf8_lossy(path));
    Failure::invalid(format!("there is no {path} in this point of {}", service.name()))
        .hint(format!("List what is there with `mainstay ls {}`.", service.name()))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The line of an entry.
pub(crate) fn line(path: &[u8], node: &Node) -> Line {
    let is_link = node.kind == NodeKind::Symlink;
    let nanos = i32::try_from(node.mtime.nanos).unwrap_or_default();
    let owner =
        |name: &str, id: u32| if name.is_empty() { id.to_string() } else { name.to_owned() };
    Line {
        path: String::from_utf8_lossy(path).into_owned(),
        path_hex: std::str::from_utf8(path).err().map(|_| hex::encode(path)),
        kind: node.kind.name(),
        mode: mode(node),
        user: owner(&node.user, node.uid),
        group: owner(&node.group, node.gid),
        size_bytes: node.size,
        modified: Timestamp::new(node.mtime.seconds, nanos).ok(),
        link_target: is_link.then(|| String::from_utf8_lossy(&node.link_target).into_owned()),
    }
}

/// `drwxr-xr-x`, as `ls -l` writes it.
fn mode(node: &Node) -> String {
    let bits = node.permissions();
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Dir => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Dev => 'b',
        NodeKind::CharDev => 'c',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::Irregular => '?',
    };
    let mut text = String::from(kind);
    // (shift of the three bits, the special bit, its letter)
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bit = |at: u32| bits >> shift & at != 0;
        text.push(if bit(4) { 'r' } else { '-' });
        text.push(if bit(2) { 'w' } else { '-' });
        text.push(match (bits & special != 0, bit(1)) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The lines as `ls -l` would write them.
pub(crate) fn show<'a>(lines: impl IntoIterator<Item = &'a Line>) -> String {
    let lines: Vec<&Line> = lines.into_iter().collect();
    let wide = |of: fn(&Line) -> usize| lines.iter().map(|line| of(line)).max().unwrap_or(0);
    let user = wide(|line| line.user.chars().count());
    let group = wide(|line| line.group.chars().count());
    let size = wide(|line| units::size(line.size_bytes).len());
    let mut text = String::new();
    for line in lines {
        let time = line.modified.map(units::local).unwrap_or_default();
        let bytes = if line.kind == "file" { units::size(line.size_bytes) } else { String::new() };
        text.push_str(&format!(
            "{}  {:user$} {:group$}  {bytes:>size$}  {time:19}  {}",
            line.mode,
            shown(&line.user),
            shown(&line.group),
            shown(&line.path),
        ));
        if let Some(target) = &line.link_target {
            text.push_str(&format!(" -> {}", shown(target)));
        }
        text.push('\n');
    }
    text
}
