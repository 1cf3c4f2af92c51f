use super::common::Point;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::teller::Teller;
use crate::ui::words::{count, shown};
use crate::units;
use model::{Class, ServiceName};
use operations::drill::{self, Done, Params};
use operations::{ServiceSite, Which};
use serde_json::Value;
use std::time::Duration;

/// The event of the alert for a drill that failed.
pub(crate) const FAILED: &str = "drill-failed";

const EXAMPLES: &str = "\
Examples:
  mainstay drill shop                   the newest point
  mainstay drill shop --at '2h ago'     the log replayed up to then
  mainstay drill shop --keep            and leave the copy, to look at it

What the copy is asked besides is `drill-query` or `drill-command`, and `drill-expect`, in the
configuration; `drill-schedule` runs it by `mainstay run-due`.";

/// Prove that a service can be restored: restore it to a scratch place, start it there cut off from
/// everything, and let its own checker judge it.
///
/// The service is not touched, wherever it runs. What came of it, and how long the recovery took, is
/// recorded beside the point; `snapshots` and `status` show it. Exit code 1, and an alert, if the
/// copy is not sound.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DrillArgs {
    /// The service.
    service: ServiceName,

    #[command(flatten)]
    point: Point,

    /// Leave the copy where it is, and say where that is.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(app: &App, args: &DrillArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let params = Params { which: args.point.which(), keep: args.keep };
    let mut teller = Teller::load(app, &service);
    let drilled = drill::run(&service, &params, &app.run()).map_err(Failure::from);
    match &drilled {
        Ok(done) => teller.tell(FAILED, why(done)),
        // The point cannot be restored. Anything else says nothing about it, and is told here only.
        Err(failure) if failure.class() == Class::Corrupt => {
            teller.tell(FAILED, Some(failure.one_line()));
        }
        Err(_) => {}
    }
    let unsent = teller.finish();
    let done = drilled?;
    if app.out.json {
        app.out.document(&done)?;
    } else {
        tell(app, &service, &done)?;
    }
    Ok(if done.sound && !unsent { Exit::DONE } else { Exit::NOT_WELL })
}

/// The newest point, as a schedule wants it.
pub(crate) fn newest(app: &App, service: &ServiceSite) -> Result<(Option<String>, Value), Failure> {
    let done = drill::run(service, &Params { which: Which::Latest, keep: false }, &app.run())?;
    if !app.out.json {
        tell(app, service, &done)?;
    }
    Ok((why(&done), serde_json::to_value(&done).unwrap_or_default()))
}

/// Why the copy is not sound.
fn why(done: &Done) -> Option<String> {
    let found = || done.findings.last().map(|finding| shown(finding)).unwrap_or_default();
    (!done.sound).then(|| format!("the drill of {} found: {}", done.name, found()))
}

fn tell(app: &App, service: &ServiceSite, done: &Done) -> Result<(), Failure> {
    let out = &app.out;
    let seconds = |seconds: f64| units::duration(Duration::from_secs_f64(seconds.max(0.0)));
    let recovery = match done.recovery_seconds {
        Some(all) => format!("back after {}", seconds(all)),
        None => format!("not back after {}", seconds(done.seconds)),
    };
    let until = done.log.as_ref().and_then(|log| log.until).or(done.until);
    let log = until.map(|until| format!(", with the log up to {}", units::local(until)));
    let what = format!(
        "{}, {}{}; {recovery}",
        count(done.files, "file", "files"),
        units::size(done.bytes),
        log.unwrap_or_default()
    );
    if done.sound {
        let verdict = out.paint.good("restorable");
        out.say(format_args!("{}: {} is {verdict} ({what})", service.name(), done.name))?;
        for finding in &done.findings {
            out.say(format_args!("  {}", shown(finding)))?;
        }
        out.say(format_args!("  {}", shown(&done.isolation)))?;
    } else {
        let verdict = out.paint.bad("not sound");
        out.line(format_args!("{}: {} is {verdict} ({what})", service.name(), done.name))?;
        for finding in &done.findings {
            out.line(format_args!("  {}", shown(finding)))?;
        }
    }
    if let Some(kept) = &done.kept {
        out.say(format_args!("  The copy is kept at {}.", kept.display()))?;
    }
    Ok(())
}
