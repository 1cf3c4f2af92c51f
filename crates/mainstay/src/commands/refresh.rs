use super::common::{self, Point, Services};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::units;
use jiff::Timestamp;
use model::Role;
use operations::ServiceSite;
use operations::refresh::{self, Done, Params};
use serde_json::{Value, json};
use std::time::Duration;

/// Bring this host's standby to the newest recovery point.
///
/// Only what changed is fetched. At every instant the standby is at the old point or at the new
/// one. A standby that was written to is refused; --reseed puts its copy aside and begins anew. One
/// that follows a log and stands in front of a gap in it is built anew by itself, as soon as there is
/// a point that was taken after the gap.
#[derive(Debug, clap::Args)]
pub(crate) struct RefreshArgs {
    #[command(flatten)]
    services: Services,

    #[command(flatten)]
    point: Point,

    /// Put aside what is there, and build the copy anew.
    #[arg(long)]
    reseed: bool,

    /// Take what stands in the service's place, and no refresh put there, for an old copy: all of it
    /// is read, and only what differs from the point is fetched. What the point does not have is gone
    /// afterwards. Refused where it can be told that it is no copy of this service.
    #[arg(long, conflicts_with = "reseed")]
    adopt: bool,

    /// Read all of the copy, and replace what has rotted in it, instead of trusting what nobody has
    /// written to.
    #[arg(long)]
    verify: bool,

    /// Say which point it would be brought to, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(app: &App, args: &RefreshArgs) -> Outcome {
    let names = args.services.of(app)?;
    app.each(&names, |service| {
        if args.services.all() && !is_standby(service)? {
            app.out
                .say(format_args!("{}: not a standby, so not refreshed here", service.name()))?;
            return Ok((Exit::DONE, json!({ "skipped": "not a standby" })));
        }
        let params = Params {
            which: args.point.which(),
            reseed: args.reseed,
            adopt: args.adopt,
            verify: args.verify,
            dry_run: args.dry_run,
        };
        one(app, service, &params)
    })
}

fn is_standby(service: &ServiceSite) -> Result<bool, Failure> {
    let state = service.load_state()?.state;
    Ok(state.members.get(service.member()).is_some_and(|member| member.role == Role::Standby))
}

/// Refreshes one standby to the newest point.
pub(crate) fn newest(app: &App, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    first(app, service, false)
}

/// Refreshes one standby to the newest point; what is there and nobody knows is refused, or adopted.
pub(crate) fn first(
    app: &App,
    service: &ServiceSite,
    adopt: bool,
) -> Result<(Exit, Value), Failure> {
    let params = Params { adopt, ..Params::default() };
    one(app, service, &params)
}

fn one(app: &App, service: &ServiceSite, params: &Params) -> Result<(Exit, Value), Failure> {
    let done = refresh::run(service, params, &app.run())?;
    if !app.out.json {
        app.out.say(format_args!("{}: {}", service.name(), told(&done, params.dry_run)))?;
        for aside in &done.put_aside {
            app.out.say(format_args!("  what stood there: {}", aside.display()))?;
        }
        if let Some(why) = &done.built_anew {
            app.out.say(format_args!("  the copy was built anew: {why}"))?;
        }
        for told in done.stuck.iter().chain(&done.advice) {
            app.out.line(format_args!("  {told}"))?;
        }
    }
    let exit = match &done.hook_failed {
        Some(hook) => common::hook_failed(app, service, hook, "the standby was refreshed"),
        None => Exit::DONE,
    };
    Ok((exit, serde_json::to_value(&done).unwrap_or_default()))
}

/// What came of a refresh, in one line.
pub(crate) fn told(done: &Done, dry_run: bool) -> String {
    let time = format!(
        "{} ({})",
        units::local(done.source_time),
        units::ago(done.source_time, Timestamp::now())
    );
    if done.unchanged {
        return format!("holds the newest point already, of {time}");
    }
    if dry_run {
        let what = match (done.adopted, done.seeded) {
            (true, _) => "adopt what is there, and bring it to",
            (_, true) => "be built from",
            _ => "be brought to",
        };
        return format!("would {what} the point of {time}");
    }
    let what = match (done.adopted, done.seeded) {
        (true, _) => "adopted what was there, and brought to",
        (_, true) => "built from",
        _ => "brought to",
    };
    format!(
        "{what} the point of {time}; {} fetched and {} written of {}, in {}",
        units::size(done.fetched_bytes),
        units::size(done.written_bytes),
        units::size(done.bytes),
        units::duration(Duration::from_secs_f64(done.seconds.max(0.0))),
    )
}
