use super::common;
use crate::app::App;
use crate::candidate;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::{self, ask};
use crate::units;
use jiff::Timestamp;
use model::state::{PastTakeover, TakeoverKind};
use model::{Class, Classify, Generation, MemberName, ServiceName, ServiceState, SnapshotId};
use operations::preempt::InTheWay;
use operations::takeover::{self as executor, Params};
use operations::{ServiceSite, preempt, recover};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use takeover::{Assessment, Request, Seen, Standing, Step, assess};

/// Make this host's standby the primary.
///
/// Shows the newest point, what would be lost, and the gates, and asks for the service's name
/// before anything is changed. If it is interrupted, give it again: it goes on where it was. A drill,
/// scrub or refresh that runs on this host is stopped then, and waited for: with --wait for so long,
/// else for a minute, or for ten if it is past its commit marker.
///
/// Gates refuse a takeover that would do harm. Some can be opened with a reason, which is kept for
/// good: --override primary-not-fenced='I pulled the plug'.
#[derive(Debug, clap::Args)]
pub(crate) struct TakeoverArgs {
    /// The service.
    service: ServiceName,

    /// Nothing may be lost: wait until the old primary has stopped (`mainstay offline` there).
    #[arg(long)]
    planned: bool,

    /// The member that is to become the primary; it must be this host's.
    #[arg(long, value_name = "MEMBER")]
    to: Option<MemberName>,

    /// Open a gate, for this reason.
    #[arg(long = "override", value_name = "GATE=REASON", value_parser = common::parse_override)]
    overrides: Vec<(String, String)>,

    /// How long a planned takeover waits for the old primary to stop.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = units::parse_duration)]
    patience: Duration,

    /// Do not ask; needed where there is nobody to ask.
    #[arg(short, long)]
    yes: bool,

    /// Show everything, and do nothing. Exit code 1 if it would be refused.
    #[arg(long)]
    dry_run: bool,

    /// Give back the claim of a takeover that was begun and has not raised the generation. Without
    /// its id it is shown, and given back after asking.
    #[arg(
        long,
        value_name = "ID",
        num_args = 0..=1,
        require_equals = true,
        conflicts_with_all = ["planned", "to", "overrides", "dry_run"]
    )]
    abandon: Option<Option<String>>,
}

pub(crate) fn run(app: &App, args: &TakeoverArgs) -> Outcome {
    let service = app.service(&args.service)?;
    if let Some(id) = &args.abandon {
        return abandon(app, args, &service, id.as_deref());
    }
    let in_the_way = preempt::in_the_way(&service)?;
    // A takeover of ours that died is given back or brought to its end first.
    let swept = match args.dry_run || in_the_way.is_some() {
        true => Vec::new(),
        false => sweep(app, &service)?,
    };
    let state = service.load_state()?.state;
    let meant = args.to.as_ref().is_none_or(|to| to == service.member());
    if let Some(past) = brought_to_its_end(&service, &state, &swept).filter(|_| meant) {
        return gone_on(app, &service, past);
    }
    let overrides: BTreeMap<_, _> = args.overrides.iter().cloned().collect();
    let request = Request {
        kind: if args.planned { TakeoverKind::Planned } else { TakeoverKind::Unplanned },
        to: args.to.clone().unwrap_or_else(|| service.member().clone()),
        // A copy that was written to is not refreshed: that would put aside what is to be kept.
        as_is: !args.planned && overrides.contains_key(executor::MODIFIED),
        overrides,
        seen: Seen::of(&state),
    };
    let assessment = judged(app, &service, &state, in_the_way.as_ref(), &request, args.dry_run)?;
    if args.dry_run {
        if app.out.json {
            app.out.document(&json!({ "service": args.service, "assessment": assessment }))?;
        }
        return Ok(Exit::DONE);
    }
    confirm(app, args, &service)?;
    if in_the_way.is_none() && preempt::in_the_way(&service)?.is_none() {
        return execute(app, args, &service, &assessment, state.generation);
    }
    preempt::make_way(&service, &app.run())?;
    sweep(app, &service)?;
    // It may have brought the copy to another point, or ended what was in its way itself.
    let state = service.load_state()?.state;
    let assessment = judged(app, &service, &state, None, &request, false)?;
    execute(app, args, &service, &assessment, state.generation)
}

/// Cleans up after what died here, and says what that was.
fn sweep(app: &App, service: &ServiceSite) -> Result<Vec<String>, Failure> {
    match recover::sweep(service, &app.run()) {
        Ok(lines) => {
            lines.iter().try_for_each(|line| app.out.say(line))?;
            Ok(lines)
        }
        // It has begun since; it is stopped before the takeover begins, and that sweeps, too.
        Err(e) if e.class() == Class::Locked && preempt::in_the_way(service)?.is_some() => {
            Ok(Vec::new())
        }
        Err(e) => Err(e.into()),
    }
}

/// The takeover by which this host is the primary, if it had died and cleaning up has ended it: what was
/// asked for once more is done by that.
fn brought_to_its_end<'s>(
    service: &ServiceSite,
    state: &'s ServiceState,
    swept: &[String],
) -> Option<&'s PastTakeover> {
    let last = state.takeovers.last().filter(|_| state.intent.is_none())?;
    let (me, id) = (service.member(), &last.intent.id);
    let ours = last.intent.to == *me && state.primary.as_ref() == Some(me);
    (ours && swept.iter().any(|line| line.starts_with(id))).then_some(last)
}

fn gone_on(app: &App, service: &ServiceSite, past: &PastTakeover) -> Outcome {
    let (name, me, generation) = (service.name(), service.member(), past.generation);
    if app.out.json {
        let ended = json!({ "operation": past.intent.id, "generation": generation });
        app.out.document(&json!({ "service": name, "brought-to-its-end": ended }))?;
    }
    app.out.say(format_args!("{name}: {me} is the primary at generation {generation}"))?;
    Ok(Exit::DONE)
}

/// Judges the request and shows what came of that; an error if it is refused.
fn judged(
    app: &App,
    service: &ServiceSite,
    state: &ServiceState,
    in_the_way: Option<&InTheWay>,
    request: &Request,
    is_dry: bool,
) -> Result<Assessment, Failure> {
    let observed = candidate::observe(app, service, in_the_way)?;
    let assessment = assess(state, &observed, request, Timestamp::now());
    if !app.out.json {
        ui::takeover::plan(app, service, state, in_the_way, &assessment)?;
    }
    if let Some(doubt) =
        taken(state, request, &assessment).and_then(|point| operations::which::doubt(state, point))
    {
        app.out.warn(doubt);
    }
    match assessment.allowed {
        true => Ok(assessment),
        false => {
            // Whoever looks at the plan has read there which gates are shut.
            let is_shown = is_dry && !app.out.json && !app.out.quiet();
            Err(ui::takeover::refused(service, &assessment, is_shown))
        }
    }
}

/// The point that the new primary begins with: where it is refreshed to, else what it holds.
fn taken(state: &ServiceState, request: &Request, assessment: &Assessment) -> Option<SnapshotId> {
    let refreshed = assessment.steps.iter().find_map(|step| match step {
        Step::Refresh { to } => to.point,
        _ => None,
    });
    let held = || state.members.get(&request.to)?.applied.as_ref().map(|held| held.snapshot);
    refreshed.or_else(held)
}

/// A person types the service's name; a script says `--yes`.
fn confirm(app: &App, args: &TakeoverArgs, service: &ServiceSite) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    let name = service.name();
    if !app.out.can_ask() {
        return Err(Failure::refused("a takeover has to be confirmed, and there is no terminal")
            .hint("Look at it with `--dry-run`, then add `--yes`."));
    }
    let typed = ask::line(&format!("\nType the service's name ({name}) to go on: "), app.cancel())?;
    if typed.trim() == name.as_str() {
        return Ok(());
    }
    Err(Failure::new(Class::Cancelled, "that is not the service's name; nothing was done"))
}

fn execute(
    app: &App,
    args: &TakeoverArgs,
    service: &ServiceSite,
    assessment: &Assessment,
    generation: Generation,
) -> Outcome {
    if let Standing::OnlyForward { id } = &assessment.standing {
        return Err(Failure::new(
            Class::Failed,
            format!("the takeover {id} could not be finished"),
        )
        .hint(format!("Read `mainstay logs {} {id}`.", service.name())));
    }
    // Somebody else's takeover, which a person overrode.
    for step in &assessment.steps {
        match step {
            // By its id: what was overridden is this claim and no later one.
            Step::Abandon { id } => {
                service.state()?.update(|state| state.abandon(id))?;
            }
            Step::FinishStanding { id } => {
                let now = Timestamp::now();
                service.state()?.update(|state| state.finish(id, now))?;
            }
            _ => break,
        }
    }
    let params = Params {
        kind: assessment.kind,
        generation,
        overrides: assessment.overrides.clone(),
        patience_seconds: args.patience.as_secs(),
    };
    let done = executor::run(service, &params, &app.run())?;
    if app.out.json {
        app.out.document(
            &json!({ "service": args.service, "assessment": assessment, "done": done }),
        )?;
    } else {
        ui::takeover::done(app, service, &done)?;
    }
    Ok(Exit::DONE)
}

/// Gives back one claim: the one that was named, or the one that was shown and confirmed. If another
/// one stands by then, it stays.
fn abandon(app: &App, args: &TakeoverArgs, service: &ServiceSite, id: Option<&str>) -> Outcome {
    let Some(intent) = service.load_state()?.state.intent else {
        if app.out.json {
            app.out.document(&json!({ "service": service.name(), "given-back": null }))?;
        } else {
            app.out.say(format_args!("no takeover of {} is under way", service.name()))?;
        }
        return Ok(Exit::DONE);
    };
    let claim = format!(
        "the takeover {} to {}, claimed {}",
        intent.id,
        intent.to,
        units::ago(intent.claimed, Timestamp::now())
    );
    if id.is_none() && !args.yes {
        let by_id = format!("Make sure that it is dead, then add `--abandon={}`.", intent.id);
        if !app.out.can_ask() {
            return Err(Failure::refused(format!("{claim}, stands")).hint(by_id));
        }
        if !ask::yes(&format!("Give back {claim}?"), app.cancel())? {
            return Err(Failure::new(Class::Cancelled, "nothing was done"));
        }
    }
    executor::abandon(service, id.unwrap_or(&intent.id))?;
    if app.out.json {
        app.out.document(&json!({ "service": service.name(), "given-back": intent }))?;
    } else {
        app.out.say(format_args!("{claim}, was given back"))?;
    }
    Ok(Exit::DONE)
}
