use super::common::{Looking, NamedSnapshot, snapshots};
use super::ls::{self, Line};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::words::{count, shown};
use crate::units;
use jiff::Timestamp;
use model::ServiceName;
use operations::ServiceSite;
use repository::find::{self, Criteria, IdPrefix};
use repository::glob::{Case, Glob};
use repository::{BlobId, TreeId, cat};
use serde::Serialize;
use serde_json::json;

/// Find files in the recovery points of a service.
///
/// A pattern without a slash is that of a name (`*.txt`); one with a slash is that of the end of a
/// path, or, if it begins with a slash, of the whole path. `*` and `?` stay within a name, `**`
/// stands for any directories. Looks in all points unless --snapshot names some. Exit code 1 if
/// nothing was found.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mainstay find docs '*.odt'
  mainstay find docs --ignore-case --oldest '7d ago' 'letters/**/draft*'
  mainstay find docs --blob 3fc4b2a1 --snapshot latest")]
pub(crate) struct FindArgs {
    /// The service.
    service: ServiceName,

    /// Patterns; what fits any of them is found.
    #[arg(value_name = "PATTERN", required_unless_present_any = ["blob", "tree", "pack"])]
    patterns: Vec<String>,

    /// Do not tell capitals from small letters.
    #[arg(short, long)]
    ignore_case: bool,

    /// Look only in this point: its name, its snapshot's id or the beginning of it, or `latest`.
    #[arg(short, long, value_name = "POINT")]
    snapshot: Vec<String>,

    /// Only what was modified at this time or later: `2026-11-21 01:04` or `2h ago`.
    #[arg(short = 'O', long, value_name = "TIME", value_parser = units::parse_time)]
    oldest: Option<Timestamp>,

    /// Only what was modified at this time or earlier.
    #[arg(short = 'N', long, value_name = "TIME", value_parser = units::parse_time)]
    newest: Option<Timestamp>,

    /// Show mode, owner, size and time.
    #[arg(short, long)]
    long: bool,

    /// Find the files with the content blob of this id, or beginning of one.
    #[arg(long, value_name = "ID")]
    blob: Vec<String>,

    /// Find the directories with this tree id, or beginning of one.
    #[arg(long, value_name = "ID")]
    tree: Vec<String>,

    /// Find what needs this pack, named by its id or the beginning of it.
    #[arg(long, value_name = "ID")]
    pack: Vec<String>,

    #[command(flatten)]
    looking: Looking,
}

/// One thing that was found.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Match {
    #[serde(flatten)]
    line: Line,
    /// Which ids that were asked for it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ids: Vec<BlobId>,
}

pub(crate) fn run(app: &App, args: &FindArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let _lock = args.looking.lock(app, &service)?;
    let criteria = criteria(&service, args)?;
    let points = snapshots(&service, &args.snapshot)?;
    let mut roots = Vec::new();
    for point in &points {
        let damaged = |e| repository::Error::damaged(format!("snapshot {}", point.id), e);
        roots.push(point.file.tree_id().map_err(damaged)?);
    }
    let (found, damaged) = search(app, &service, &points, &roots, &criteria, args.long)?;
    for damage in &damaged {
        app.out.warn(format_args!("not searched: {damage}"));
    }
    let hits: usize = found.iter().map(Vec::len).sum();
    if app.out.json {
        let snapshots: Vec<_> = points
            .iter()
            .zip(&found)
            .filter(|(_, matches)| !matches.is_empty())
            .map(|(point, matches)| {
                json!({ "snapshot": point.id, "name": point.name, "matches": matches })
            })
            .collect();
        app.out.document(&json!({
            "service": service.name(),
            "hits": hits,
            "snapshots": snapshots,
            "damaged": damaged,
        }))?;
    } else if hits == 0 {
        let points = count(points.len() as u64, "point", "points");
        app.out.say(format_args!("nothing found in {points}"))?;
    }
    Ok(if hits > 0 && damaged.is_empty() { Exit::DONE } else { Exit::NOT_WELL })
}

fn criteria(service: &ServiceSite, args: &FindArgs) -> Result<Criteria, Failure> {
    let case = if args.ignore_case { Case::Ignored } else { Case::Exact };
    let mut criteria = Criteria { oldest: args.oldest, newest: args.newest, ..Criteria::default() };
    for pattern in &args.patterns {
        criteria.patterns.push(Glob::parse(pattern, case)?);
    }
    for id in &args.blob {
        criteria.blobs.push(IdPrefix::new(id)?);
    }
    for id in &args.tree {
        criteria.trees.push(IdPrefix::new(id)?);
    }
    for id in &args.pack {
        let repository = service.repository()?;
        let pack = repository::PackId(cat::find(repository, cat::Kind::Pack, id)?);
        let header = cat::pack_header(repository, pack)?;
        criteria.exactly.extend(header.blobs.iter().map(|blob| blob.id));
    }
    Ok(criteria)
}

/// What each snapshot has. As text it is shown at once, and only counted.
fn search(
    app: &App,
    service: &ServiceSite,
    points: &[NamedSnapshot],
    roots: &[TreeId],
    criteria: &Criteria,
    long: bool,
) -> Result<(Vec<Vec<Match>>, Vec<String>), Failure> {
    let mut found: Vec<Vec<Match>> = points.iter().map(|_| Vec::new()).collect();
    let repository = service.repository()?;
    let damaged = find::find(repository, roots, criteria, app.cancel(), &mut |hit| {
        let line = ls::line(hit.path, hit.node);
        found[hit.snapshot].push(Match { line, ids: hit.ids });
        Ok(())
    })?;
    if !app.out.json {
        for (point, matches) in points.iter().zip(&found).filter(|(_, found)| !found.is_empty()) {
            app.out.text(&show(app, point, matches, long))?;
        }
    }
    Ok((found, damaged))
}

fn show(app: &App, point: &NamedSnapshot, matches: &[Match], long: bool) -> String {
    let mut text = String::new();
    if !app.out.quiet() {
        text.push_str(&format!("{}\n", app.out.paint.bold(&point.name)));
    }
    let lines = matches.iter().map(|found| &found.line);
    if long {
        text.push_str(&ls::show(lines));
    } else {
        for line in lines {
            text.push_str(&format!("{}\n", shown(&line.path)));
        }
    }
    if !app.out.quiet() {
        text.push('\n');
    }
    text
}
