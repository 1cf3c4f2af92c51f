use crate::app::App;
use crate::commands::prune::{self, Limits};
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::ask;
use crate::ui::words::count;
use crate::units;
use model::ServiceName;
use model::config::Keep;
use operations::ServiceSite;
use operations::forget::{self, Judged, Params, Plan};
use repository::prune::Figures;
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  mainstay forget shop --dry-run             what `keep` of the configuration says, and what it frees
  mainstay forget shop --prune               do it, and free the space
  mainstay forget shop --keep-daily 7 --keep-weekly 5
  mainstay forget shop 20261121T010442Z-sqlite-1a2b3c4d";

/// Remove recovery points from the history: by the service's `keep`, or by name.
///
/// By name it asks first. The newest whole point, the newest that was proven restorable, pinned
/// points, and what a standby holds or a member stopped at always stay. The space is freed by
/// `prune`, or at once with --prune.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ForgetArgs {
    /// The service.
    service: ServiceName,

    /// Points by name, or by the beginning of a snapshot's id [default: by the policy].
    #[arg(value_name = "POINT")]
    points: Vec<String>,

    /// Say what would go and why the rest stays, and what a prune would free; do nothing.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask before points go that were named.
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    policy: Policy,

    /// Also remove what nothing needs then.
    #[arg(long)]
    prune: bool,

    #[command(flatten)]
    limits: Limits,
}

/// A policy, instead of the configuration's.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Policy, instead of `keep` in the configuration")]
struct Policy {
    /// Keep the newest so many.
    #[arg(long, value_name = "N", conflicts_with = "points")]
    keep_last: Option<u32>,
    /// Keep the newest of each of the last so many hours that have one.
    #[arg(long, value_name = "N", conflicts_with = "points")]
    keep_hourly: Option<u32>,
    /// Likewise days.
    #[arg(long, value_name = "N", conflicts_with = "points")]
    keep_daily: Option<u32>,
    /// Likewise weeks.
    #[arg(long, value_name = "N", conflicts_with = "points")]
    keep_weekly: Option<u32>,
    /// Likewise months.
    #[arg(long, value_name = "N", conflicts_with = "points")]
    keep_monthly: Option<u32>,
    /// Likewise years.
    #[arg(long, value_name = "N", conflicts_with = "points")]
    keep_yearly: Option<u32>,
    /// Keep everything younger than this, e.g. `14d`.
    #[arg(long, value_name = "DURATION", conflicts_with = "points")]
    keep_within: Option<String>,
}

impl Policy {
    fn keep(&self) -> Option<Keep> {
        let keep = Keep {
            last: self.keep_last.unwrap_or(0),
            hourly: self.keep_hourly.unwrap_or(0),
            daily: self.keep_daily.unwrap_or(0),
            weekly: self.keep_weekly.unwrap_or(0),
            monthly: self.keep_monthly.unwrap_or(0),
            yearly: self.keep_yearly.unwrap_or(0),
            within: self.keep_within.clone(),
        };
        (keep != Keep::default()).then_some(keep)
    }
}

pub(crate) fn run(app: &App, args: &ForgetArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let mut params = Params {
        points: args.points.clone(),
        keep: args.policy.keep(),
        dry_run: args.dry_run,
        prune: args.prune.then(|| args.limits.options()),
        agreed: None,
    };
    let plan = forget::plan(&service, &params)?;
    let asks = !args.points.is_empty() && !args.yes && !args.dry_run;
    let figures = if (args.dry_run || asks) && !plan.remove.is_empty() {
        Some(forget::would_free(&service, &plan, &app.run())?)
    } else {
        None
    };
    if args.dry_run {
        if app.out.json {
            let freed = figures.map(|figures| figures.freed_bytes);
            app.out.document(
                &json!({ "service": args.service, "plan": plan, "would-free-bytes": freed }),
            )?;
            return Ok(Exit::DONE);
        }
        show(app, &service, &plan, figures.as_ref(), true)?;
        return Ok(Exit::DONE);
    }
    if asks {
        confirm(app, &service, &plan, figures.as_ref())?;
    }
    params.agreed = Some(plan.snapshots());
    let done = forget::run(&service, &params, &app.run())?;
    let damaged = done.pruned.as_ref().is_some_and(|pruned| !pruned.damaged.is_empty());
    if app.out.json {
        app.out.document(&json!({ "service": args.service, "done": done }))?;
    } else {
        show(app, &service, &done.plan, None, false)?;
        match &done.pruned {
            Some(pruned) => prune::tell(app, &service, pruned, false)?,
            None if done.plan.remove.is_empty() => {}
            None => app.out.say("  `mainstay prune` frees what only they needed.")?,
        }
    }
    Ok(if damaged { Exit::NOT_WELL } else { Exit::DONE })
}

/// A person says yes, having seen what goes; a script says `--yes`.
fn confirm(
    app: &App,
    service: &ServiceSite,
    plan: &Plan,
    figures: Option<&Figures>,
) -> Result<(), Failure> {
    if !app.out.can_ask() {
        return Err(Failure::refused(
            "to forget points has to be confirmed, and there is no terminal",
        )
        .hint("Look at it with `--dry-run`, then add `--yes`."));
    }
    show(app, service, plan, figures, true)?;
    if ask::yes("Forget them? They cannot be brought back.", app.cancel())? {
        return Ok(());
    }
    Err(Failure::new(model::Class::Cancelled, "nothing was done"))
}

fn show(
    app: &App,
    service: &ServiceSite,
    plan: &Plan,
    figures: Option<&Figures>,
    planned: bool,
) -> Result<(), Failure> {
    let out = &app.out;
    let points = |list: &[Judged]| count(list.len() as u64, "point", "points");
    let (goes, stays) = if planned { ("would go", "would stay") } else { ("forgotten", "kept") };
    out.say(format_args!(
        "{}: {} {goes}, {} {stays}",
        service.name(),
        points(&plan.remove),
        points(&plan.keep)
    ))?;
    for point in &plan.remove {
        out.say(format_args!("  {} {}", out.paint.bad("-"), point.name))?;
    }
    for point in plan.keep.iter().filter(|_| planned) {
        out.say(format_args!("    {}  {}", point.name, point.reasons.join(", ")))?;
    }
    if let Some(figures) = figures {
        out.say(format_args!(
            "  A prune would free {} of {}.",
            units::size(figures.freed_bytes),
            units::size(figures.stored_bytes)
        ))?;
    }
    Ok(())
}
