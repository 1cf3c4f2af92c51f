use super::refresh;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::init::make::{self, Options, Recovery};
use crate::provision::{self, Marker, Step};
use crate::units;
use jiff::Timestamp;
use operations::kill_at;
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  echo 'services = [\"shop\"]' > /etc/mainstay/provision.toml
  mainstay provision --dry-run
  mainstay provision          at the start of the host, by mainstay-provision.service: once";

/// Make this new host a standby of what its marker names, once.
///
/// The host needs nothing but its name and the vault in its configuration, the vault's password, and a
/// marker with a line `services = ["NAME"]`. What is missing of a service's definition is taken from
/// its newest point. The host joins as a standby, restores that point (with `adopt = true` in the
/// marker what lies in its place is taken for an old copy, so that only differences travel) and goes
/// online.
///
/// What was interrupted goes on where it was, whenever this is given again. When all is done the marker
/// is renamed, so that another start does nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProvisionArgs {
    /// The marker [default: `provision.toml` beside the configuration].
    #[arg(long, value_name = "FILE")]
    marker: Option<PathBuf>,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(app: &App, args: &ProvisionArgs) -> Outcome {
    let file = app.config_file()?;
    let place = args.marker.clone().unwrap_or_else(|| provision::default_marker(&file));
    let Some(marker) = Marker::open(&place)? else {
        app.out.say(format_args!("nothing to provision: there is no {}", place.display()))?;
        return document(app, json!({ "marker": null, "services": [] }));
    };
    let plan = provision::plan(app, &file, &marker)?;
    if args.dry_run {
        for step in &plan {
            app.out.say(format_args!("{}: {}", step.name, would(app, step, &marker)?))?;
        }
        return document(app, json!({ "dry-run": true, "marker": place, "services": plan }));
    }
    // What cannot be renamed in the end would be done again at every start.
    marker.require_renamable()?;
    let defined = provision::define(&file, &plan)?;
    for name in defined {
        app.out.say(format_args!("{name}: defined as its newest point says"))?;
    }
    kill_at("provision:defined");
    let site = provision::site(app, &plan)?;
    let made = make::make(app, &site, Options { dry_run: false, recovery: Recovery::None })?;
    if let Some((name, failure)) = made.failures.into_iter().next() {
        return Err(failure.about(name));
    }
    kill_at("provision:joined");
    let mut done: Vec<Value> = Vec::new();
    for step in &plan {
        let service = site.service(&step.name)?;
        let (_, mut value) =
            refresh::first(app, &service, marker.adopt).map_err(|e| e.about(&step.name))?;
        if let Value::Object(map) = &mut value {
            map.shift_insert(0, "service".to_owned(), json!(step.name));
            map.shift_insert(1, "defined".to_owned(), json!(step.define.is_some()));
        }
        done.push(value);
        kill_at("provision:seeded");
    }
    let over = marker.done()?;
    kill_at("provision:renamed");
    app.out.say(format_args!("done: the marker is {} now", over.display()))?;
    document(app, json!({ "marker": over, "services": done }))
}

fn document(app: &App, value: Value) -> Outcome {
    if app.out.json {
        app.out.document(&value)?;
    }
    Ok(Exit::DONE)
}

/// What is going to be done about a service, in one line.
fn would(app: &App, step: &Step, marker: &Marker) -> Result<String, Failure> {
    let mut parts = Vec::new();
    if step.define.is_some() {
        parts.push("would be defined as its newest point says".to_owned());
    }
    if step.join {
        let host = app.load_config()?.config.host.name;
        parts.push(format!("{host} would become a standby"));
    }
    let time = step.source_time;
    let point = format!(
        "the point of {} ({}), {}",
        units::local(time),
        units::ago(time, Timestamp::now()),
        units::size(step.bytes)
    );
    parts.push(match (step.seeded, marker.adopt) {
        (true, _) => format!("its copy would be brought to {point}"),
        (_, true) => format!("what is in its place would be adopted, and brought to {point}"),
        _ => format!("its copy would be built from {point}"),
    });
    Ok(parts.join("; "))
}
