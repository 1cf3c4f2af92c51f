use super::common::Looking;
use super::ls::{absolute, open};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use model::ServiceName;
use operations::{ServiceSite, Which, which};
use repository::cat::{self, Kind};
use repository::{BlobId, BlobKind, NodeKind, PackId, Repository, TreeId};
use serde_json::Value;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

/// Print one object of the vault, decrypted, as it is: for debugging.
///
/// JSON is indented. An ID may be the beginning of one, except a blob's. Passwords and the master
/// key are never printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mainstay cat docs config
  mainstay cat docs snapshot latest
  mainstay cat docs tree latest:/srv/docs
  mainstay cat docs state")]
pub(crate) struct CatArgs {
    /// The service.
    service: ServiceName,

    #[command(flatten)]
    looking: Looking,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The repository's configuration.
    Config,
    /// An index file; all ids without one.
    Index { id: Option<String> },
    /// A snapshot file, by its id or its point's name.
    Snapshot { point: String },
    /// A key file; all ids without one.
    Key { id: Option<String> },
    /// A lock; all ids without one.
    Lock { id: Option<String> },
    /// What a pack's header says; all ids without one.
    Pack {
        id: Option<String>,
        /// Print the bytes of the file instead, as they are stored.
        #[arg(long)]
        raw: bool,
    },
    /// The bytes of a blob, of content or of a directory.
    Blob { id: String },
    /// A directory: its tree's id, or POINT, or POINT:PATH.
    Tree { what: String },
    /// The service's state, the newest, or the one with this number.
    State { number: Option<u64> },
}

impl What {
    /// Whether a forget or a prune removes such a thing. Locks are looked at where there is something
    /// wrong with them.
    fn may_be_removed(&self) -> bool {
        match self {
            What::Config | What::Key { .. } | What::Lock { .. } | What::State { .. } => false,
            What::Snapshot { .. }
            | What::Index { .. }
            | What::Pack { .. }
            | What::Blob { .. }
            | What::Tree { .. } => true,
        }
    }
}

pub(crate) fn run(app: &App, args: &CatArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let repository = service.repository()?;
    let lock = match args.what.may_be_removed() {
        true => args.looking.lock(app, &service)?,
        false => None,
    };
    let bytes = match &args.what {
        What::Config => pretty(&cat::config(repository)?)?,
        What::Snapshot { point } => {
            let id = point_of(&service, point)?;
            pretty(&cat::file(repository, Kind::Snapshot, id.0)?)?
        }
        What::Index { id } => json_file(repository, Kind::Index, id.as_deref())?,
        What::Key { id } => json_file(repository, Kind::Key, id.as_deref())?,
        What::Lock { id } => json_file(repository, Kind::Lock, id.as_deref())?,
        What::Pack { id: None, .. } => ids(repository, Kind::Pack)?,
        What::Pack { id: Some(id), raw } => {
            let id = cat::find(repository, Kind::Pack, id)?;
            if *raw {
                cat::file(repository, Kind::Pack, id)?
            } else {
                indented(&cat::pack_header(repository, PackId(id))?)?
            }
        }
        What::Blob { id } => blob(repository, id)?,
        What::Tree { what } => tree(&service, what)?,
        What::State { number } => state(&service, *number)?,
    };
    drop(lock);
    let mut out = app.out.bytes();
    out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))?;
    Ok(Exit::DONE)
}

fn json_file(repository: &Repository, kind: Kind, id: Option<&str>) -> Result<Vec<u8>, Failure> {
    let Some(id) = id else { return ids(repository, kind) };
    let id = cat::find(repository, kind, id)?;
    pretty(&cat::file(repository, kind, id)?)
}

fn ids(repository: &Repository, kind: Kind) -> Result<Vec<u8>, Failure> {
    let ids = cat::list(repository, kind)?;
    Ok(ids.iter().map(|id| format!("{}\n", hex::encode(id))).collect::<String>().into_bytes())
}

fn blob(repository: &Repository, id: &str) -> Result<Vec<u8>, Failure> {
    let id: BlobId = id.parse().map_err(|e: repository::format::FormatError| {
        Failure::invalid(e.to_string()).hint("Give all 64 digits of the blob's id.")
    })?;
    let kind = match repository.contains(BlobKind::Data, &id)? {
        true => BlobKind::Data,
        false if repository.contains(BlobKind::Tree, &id)? => BlobKind::Tree,
        false => return Err(Failure::invalid(format!("there is no blob {id} in any index"))),
    };
    Ok(repository.load_blob(kind, &id)?)
}

fn tree(service: &ServiceSite, what: &str) -> Result<Vec<u8>, Failure> {
    let repository = service.repository()?;
    if let Ok(id) = what.parse::<TreeId>()
        && repository.contains(BlobKind::Tree, &id.into())?
    {
        return pretty(&repository.load_blob(BlobKind::Tree, &id.into())?);
    }
    let (point, path) = what.split_once(':').unwrap_or((what, "/"));
    let id = point_of(service, point)?;
    let reader = open(service, &Which::Named(id.to_string()))?;
    let path = absolute(std::ffi::OsStr::new(path).as_bytes());
    match reader.node(&path)? {
        None => Err(super::ls::missing(&path, service)),
        Some(node) => match node.subtree {
            Some(id) if node.kind == NodeKind::Dir => {
                pretty(&repository.load_blob(BlobKind::Tree, &id.into())?)
            }
            _ => Err(Failure::invalid(format!("{} is not a directory", node.kind.name()))),
        },
    }
}

fn point_of(service: &ServiceSite, point: &str) -> Result<model::SnapshotId, Failure> {
    Ok(which::resolve(service, &service.load_state()?.state, &Which::of(point))?)
}

/// The sealed text of a state object, opened. It is not judged: a state that is refused elsewhere
/// can be looked at here.
fn state(service: &ServiceSite, number: Option<u64>) -> Result<Vec<u8>, Failure> {
    let storage = service.storage()?;
    let number = match number {
        Some(number) => number,
        None => {
            let newest = storage.list("mainstay/state")?.into_iter().next_back();
            let number = newest.and_then(|entry| entry.key.name().parse().ok());
            number.ok_or_else(|| Failure::invalid("the vault has no state of this service"))?
        }
    };
    let key = storage::Key::new(format!("mainstay/state/{number:020}"))
        .map_err(|e| Failure::invalid(e.to_string()))?;
    let sealed = storage.read(&key)?;
    let plain = service.repository()?.seal().open(&sealed).map_err(|e| {
        Failure::new(model::Class::Corrupt, format!("the state object {number} is damaged"))
            .because(&e)
    })?;
    pretty(&plain)
}

fn pretty(json: &[u8]) -> Result<Vec<u8>, Failure> {
    let value: Value = serde_json::from_slice(json).map_err(|e| {
        Failure::new(model::Class::Corrupt, "what is stored is no JSON").because(&e)
    })?;
    indented(&value)
}

fn indented(value: &impl serde::Serialize) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Failure::new(model::Class::Failed, format!("cannot print JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}
