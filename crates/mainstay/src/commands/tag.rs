use crate::app::App;
use crate::failure::{Exit, Outcome};
use model::{ServiceName, TagChange};
use operations::{Which, points};
use serde_json::json;
use std::collections::BTreeSet;

/// Give recovery points tags, or take them away.
///
/// The tags of a recovery point are in the service's state, beside its pin, so that the point keeps
/// its id. A snapshot that plain restic made is rewritten, as by `restic tag`, and gets another id.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mainstay tag docs latest --add before-upgrade
  mainstay tag docs 5f3a09c1 --set audit,2026")]
pub(crate) struct TagArgs {
    /// The service.
    service: ServiceName,

    /// The points: their names, their snapshots' ids or the beginnings of them, or `latest`.
    #[arg(value_name = "POINT", required = true)]
    points: Vec<String>,

    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Add these tags.
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    add: Vec<String>,

    /// Remove these tags.
    #[arg(long, value_name = "TAG", value_delimiter = ',')]
    remove: Vec<String>,

    /// These tags and no others.
    #[arg(long, value_name = "TAG", value_delimiter = ',', conflicts_with_all = ["add", "remove"])]
    set: Vec<String>,
}

pub(crate) fn run(app: &App, args: &TagArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let set = |tags: &[String]| tags.iter().cloned().collect::<BTreeSet<String>>();
    let change = TagChange {
        set: Some(set(&args.change.set)).filter(|tags| !tags.is_empty()),
        add: set(&args.change.add),
        remove: set(&args.change.remove),
    };
    let mut results = Vec::new();
    for point in &args.points {
        let tagged = points::tag(&service, &Which::of(point), &change, &app.run())?;
        if !app.out.json {
            let tags: Vec<&str> = tagged.tags.iter().map(String::as_str).collect();
            let tags = if tags.is_empty() { "no tags".to_owned() } else { tags.join(", ") };
            let was = tagged.before.map(|id| format!(" (was {})", id.short())).unwrap_or_default();
            app.out.say(format_args!(
                "{}: {}{was} has {tags}",
                service.name(),
                tagged.snapshot.short()
            ))?;
        }
        results.push(tagged);
    }
    if app.out.json {
        app.out.document(&json!({ "service": service.name(), "snapshots": results }))?;
    }
    Ok(Exit::DONE)
}
