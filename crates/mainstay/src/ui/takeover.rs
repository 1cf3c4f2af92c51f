//! A takeover as it is shown: the plan before, the checklist after.

use crate::app::App;
use crate::failure::Failure;
use crate::ui::words::shown;
use crate::units;
use jiff::Timestamp;
use model::ServiceState;
use operations::ServiceSite;
use operations::preempt::InTheWay;
use operations::takeover::Done;
use std::time::Duration;
use takeover::{Assessment, GateReport, Step, Verdict};

/// What would happen, as far as it is known.
pub(crate) fn plan(
    app: &App,
    service: &ServiceSite,
    state: &ServiceState,
    in_the_way: Option<&InTheWay>,
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
    let shut = |report: &&GateReport| !matches!(report.verdict, Verdict::Open);
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
    if let Some(running) = in_the_way.filter(|_| assessment.allowed) {
        out.say(format_args!("  first        stop {}, which runs here", running.name()))?;
    }
    let hooks = &service.spec().hooks;
    let steps = assessment.steps.iter().filter(|step| match step {
        Step::PromotedHook => hooks.promoted.is_some(),
        Step::RouteHook => hooks.route.is_some(),
        _ => true,
    });
    for (number, step) in steps.enumerate() {
        out.say(format_args!("  step {:<7} {step}", number + 1))?;
    }
    Ok(())
}

/// Why it is refused, and which gates a person could open. `is_shown`: the plan was, with its gates.
pub(crate) fn refused(service: &ServiceSite, assessment: &Assessment, is_shown: bool) -> Failure {
    let mut findings = assessment.mistakes.clone();
    let shut = assessment.shut().filter(|_| !is_shown);
    findings.extend(shut.map(|gate| format!("{}: {}", gate.gate, gate.why)));
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

/// What was done, and what is left to do.
pub(crate) fn done(app: &App, service: &ServiceSite, done: &Done) -> Result<(), Failure> {
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
