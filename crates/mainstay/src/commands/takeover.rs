use crate::app::App;
use crate::candidate;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::ask;
use crate::ui::words::shown;
use crate::units;
use jiff::Timestamp;
use model::state::TakeoverKind;
use model::{Class, Generation, MemberName, ServiceName, ServiceState};
use operations::takeover::{self as executor, Done, Params};
use operations::{ServiceSite, recover};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use takeover::{Assessment, Request, Seen, Standing, Step, Verdict, assess};

/// Make this host's standby the primary.
///
/// Shows the newest point, what would be lost, and the gates, and asks for the service's name
/// before anything is changed. If it is interrupted, give it again: it goes on where it was.
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
    #[arg(long = "override", value_name = "GATE=REASON", value_parser = parse_override)]
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

fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((gate, reason)) if !reason.trim().is_empty() => {
            Ok((gate.trim().to_owned(), reason.trim().to_owned()))
        }
        _ => Err("write GATE=REASON".to_owned()),
    }
}

pub(crate) fn run(app: &App, args: &TakeoverArgs) -> Outcome {
    let service = app.service(&args.service)?;
    if let Some(id) = &args.abandon {
        return abandon(app, args, &service, id.as_deref());
    }
    // A takeover of ours that died is given back or brought to its end first.
    if !args.dry_run {
        for line in recover::sweep(&service, &app.run())? {
            app.out.say(line)?;
        }
    }
    let state = service.load_state()?.state;
    let request = Request {
        kind: if args.planned { TakeoverKind::Planned } else { TakeoverKind::Unplanned },
        to: args.to.clone().unwrap_or_else(|| service.member().clone()),
        overrides: args.overrides.iter().cloned().collect::<BTreeMap<_, _>>(),
        seen: Seen::of(&state),
        as_is: false,
    };
    let observed = candidate::observe(app, &service)?;
    let assessment = assess(&state, &observed, &request, Timestamp::now());
    if !app.out.json {
        show(app, &service, &state, &assessment)?;
    }
    if !assessment.allowed {
        return Err(refused(&service, &assessment));
    }
    if args.dry_run {
        if app.out.json {
            app.out.document(&json!({ "service": args.service, "assessment": assessment }))?;
        }
        return Ok(Exit::DONE);
    }
    confirm(app, args, &service)?;
    execute(app, args, &service, &assessment, state.generation)
}

/// What would happen, as far as it is known.
fn show(
    app: &App,
    service: &ServiceSite,
    state: &ServiceState,
    assessment: &Assessment,
) -> Result<(), Failure> {
    let out = &app.out;
    let (paint, now) = (&out.paint, Timestamp::now());
    let primary = match &state.primary {
        Some(primary) => {
            let stopped = state.members.get(primary).and_then(|member| member.stopped.as_ref());
            let how = match stopped {
                Some(stopped) => format!("stopped {}", units::ago(stopped.at, now)),
                None => "has not said that it is stopped".to_owned(),
            };
            format!("{primary}, {how}")
        }
        None => "none".to_owned(),
    };
    out.say(paint.bold(&format!("Takeover of {} by {}", service.name(), service.member())))?;
    out.say(format_args!(
        "  generation   {} becomes {}",
        state.generation,
        state.generation.next()
    ))?;
    out.say(format_args!("  old primary  {primary}"))?;
    let newest = match state.head_point() {
        Some(point) => {
            format!("{} ({})", point.name(), units::ago(point.source_time, now))
        }
        None => "none".to_owned(),
    };
    out.say(format_args!("  newest point {newest}"))?;
    let loss = match assessment.loss.nothing {
        true => paint.good(&assessment.loss.sentence),
        false => paint.warning(&assessment.loss.sentence),
    };
    out.say(format_args!("  lost         {loss}"))?;
    // Gates that stand open are counted; who wants to read them all asks with --verbose.
    let shut = |report: &&takeover::GateReport| !matches!(report.verdict, Verdict::Open);
    let told: Vec<_> = assessment.gates.iter().filter(|r| out.verbose() || shut(r)).collect();
    let open = assessment.gates.len() - assessment.gates.iter().filter(shut).count();
    out.say(format_args!("  gates        {open} of {} stand open", assessment.gates.len()))?;
    for report in told {
        let verdict = match &report.verdict {
            Verdict::Open => paint.good("open  "),
            Verdict::Shut { .. } => paint.bad("SHUT  "),
            Verdict::Overridden { .. } => paint.warning("forced"),
        };
        out.say(format_args!("  {verdict}       {}: {}", report.gate, report.why))?;
        if let Verdict::Overridden { reason } = &report.verdict {
            out.say(format_args!("               the reason given: {}", shown(reason)))?;
        }
    }
    for (number, step) in assessment.steps.iter().enumerate() {
        out.say(format_args!("  step {:<7} {step}", number + 1))?;
    }
    Ok(())
}

fn refused(service: &ServiceSite, assessment: &Assessment) -> Failure {
    let mut findings = assessment.mistakes.clone();
    findings.extend(assessment.shut().map(|gate| format!("{}: {}", gate.gate, gate.why)));
    let failure = Failure::refused(&assessment.sentence).listing(findings);
    let forced = assessment
        .shut()
        .map(|report| {
            matches!(report.verdict, Verdict::Shut { overridable: true }).then_some(report.gate)
        })
        .collect::<Option<Vec<_>>>()
        .filter(|gates| !gates.is_empty() && assessment.mistakes.is_empty());
    match forced {
        Some(gates) => {
            let words: Vec<String> =
                gates.iter().map(|gate| format!("--override {gate}='REASON'")).collect();
            failure.hint(format!(
                "If you know better, say why: mainstay takeover {} {}",
                service.name(),
                words.join(" ")
            ))
        }
        None => failure,
    }
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
    let typed = ask::line(&format!("\nType the service's name ({name}) to go on: "), &app.cancel)?;
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
        tell(app, service, &done)?;
    }
    Ok(Exit::DONE)
}

fn tell(app: &App, service: &ServiceSite, done: &Done) -> Result<(), Failure> {
    let out = &app.out;
    out.say(format_args!(
        "\n{}: {} is the primary at generation {}, in {}",
        service.name(),
        out.paint.bold(service.member().as_str()),
        done.generation,
        units::duration(Duration::from_secs_f64(done.seconds.max(0.0))),
    ))?;
    if let Some(time) = done.source_time {
        out.say(format_args!("  It goes on from {}.", units::local(time)))?;
    }
    for item in &done.checklist {
        let mark = if item.done { out.paint.good("done") } else { out.paint.bad("TO DO") };
        let detail = if item.detail.is_empty() {
            String::new()
        } else {
            format!(": {}", shown(&item.detail))
        };
        out.say(format_args!("  {mark}  {}{detail}", item.what))?;
    }
    if let (Some(from), Some(label)) = (&done.from, &done.old_label) {
        out.say(format_args!(
            "  The old copy on {from} is kept as {label}; `mainstay rejoin {}` there makes it a standby.",
            service.name()
        ))?;
    }
    Ok(())
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
        if !ask::yes(&format!("Give back {claim}?"), &app.cancel)? {
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
