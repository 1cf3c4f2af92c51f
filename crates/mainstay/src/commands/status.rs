use super::common::named_or_all;
use crate::app::App;
use crate::failure::{Exit, Outcome};
use crate::status;
use crate::ui::status as ui;
use crate::ui::table::{Column, table};
use jiff::Timestamp;
use model::ServiceName;

/// Show what is known of services: role, newest point and its age, standbys, what runs.
///
/// AGE is how old the newest point is at its source time: what would be lost if the primary were
/// lost now. It is marked where it exceeds the declared `rpo`. PROVEN is when a drill last proved a
/// point restorable. Exit code 1 if something that was promised does not hold: an `rpo`, here or of a
/// standby, an `rto`, or a drill that failed or did not take place.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The services; named ones are shown in detail [default: all of this host].
    #[arg(value_name = "SERVICE")]
    services: Vec<ServiceName>,
}

pub(crate) fn run(app: &App, args: &StatusArgs) -> Outcome {
    let site = app.site()?;
    let names = named_or_all(app, &site, &args.services)?;
    let now = Timestamp::now();
    let rows = std::cell::RefCell::new(Vec::new());
    let outcome = app.each(&names, |service| {
        let status = status::of(service, now)?;
        if !app.out.json {
            if args.services.is_empty() {
                rows.borrow_mut().push(ui::row(app, service, &status, now));
            } else {
                ui::detail(app, service, &status, now)?;
            }
        }
        let value = serde_json::to_value(&status).unwrap_or_default();
        Ok((if status.promises_kept { Exit::DONE } else { Exit::NOT_WELL }, value))
    })?;
    let rows = rows.into_inner();
    if !rows.is_empty() {
        let titles = [
            "SERVICE", "ENGINE", "ROLE", "GEN", "POINTS", "AGE", "RPO", "PROVEN", "STANDBYS", "NOW",
        ];
        let titles = titles.map(|title| (title, Column::Left));
        app.out.text(&table(&titles, rows, &app.out.paint))?;
    } else if names.names.is_empty() {
        app.out.say("no service is configured on this host")?;
    }
    Ok(outcome)
}
