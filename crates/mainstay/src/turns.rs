//! The turns of one service in one run of `run-due`, one after the other, in a process of its own.
//!
//! A turn that an earlier process is still at (a long backup, a hook or a vault that hangs) is left to
//! it, and the others take place: looking comes first and waits for none of them, so that what is wrong
//! is told whatever hangs. At most one process for each kind of turn is left hanging by a service.

mod places;

use crate::app::{App, Chosen};
use crate::commands::{run_due, scrub};
use crate::copies;
use crate::failure::{Exit, Failure, Outcome};
use crate::upkeep;
use crate::watch::{self, Hung, Looked};
use model::ServiceName;
use operations::{ServiceSite, Site};
use places::{Place, Room, Whose};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// What a service's turn is about, in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    /// Cleaning up after the dead. Comes with `Run`, and before it, as the next one does.
    CleanUp,
    /// Looking, and telling what is wrong.
    Look,
    /// A backup or a refresh.
    Run,
    /// Copies to second vaults.
    Copy,
    /// Retention, and the locks of a bucket.
    Upkeep,
    /// A drill.
    Drill,
    /// A scrub.
    Scrub,
}

impl Turn {
    fn name(self) -> &'static str {
        match self {
            Turn::CleanUp => "clean-up",
            Turn::Look => "look",
            Turn::Run => "run",
            Turn::Copy => "copy",
            Turn::Upkeep => "upkeep",
            Turn::Drill => "drill",
            Turn::Scrub => "scrub",
        }
    }
}

/// Opening a vault takes memory and time.
const LOOKING: Room = Room { name: "looking", places: 4, longest: Duration::from_secs(15) };
/// What runs longer than this is no reason for others to be late.
const WORKING: Room = Room { name: "working", places: 4, longest: Duration::from_secs(5 * 60) };

/// How long looking at a service, or cleaning up, may take before somebody is told.
const HANGS: Duration = Duration::from_secs(5 * 60);

/// The turns that a service has by its configuration. What is in the vault by then is copied before any
/// of it may be forgotten; what takes long, and what nothing waits for, comes last.
pub(crate) fn of(site: &Site, name: &ServiceName) -> Vec<Turn> {
    let Some(service) = site.config().service.get(name) else { return Vec::new() };
    let copied = site.service(name).is_ok_and(|service| copies::are_wanted(&service));
    let drilled = service.drill_schedule.is_some() || service.rto.is_some();
    let wanted = [
        (Turn::Run, true),
        (Turn::Copy, copied),
        (Turn::Upkeep, upkeep::is_wanted(service, &site.config().vault)),
        (Turn::Drill, drilled),
        (Turn::Scrub, scrub::is_scheduled(service)),
    ];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(turn, _)| turn).collect()
}

/// Does the turns of one service.
pub(crate) fn run(app: &App, name: &ServiceName) -> Outcome {
    let site = app.site()?;
    let turns = of(&site, name);
    let names = vec![name.clone(); turns.len().max(1)];
    let names = Chosen::turns(names, false);
    let (number, place) = (Cell::new(0), RefCell::new(None));
    app.each(&names, |service| {
        let turn = turns.get(number.replace(number.get() + 1)).copied().unwrap_or(Turn::Run);
        let looked = match turn {
            Turn::Run => look(app, service)?,
            _ => Looked::default(),
        };
        let _mine = match places::take(service, turn)? {
            Whose::Mine(mine) => mine,
            Whose::Anothers(since) => {
                let (name, what) = (service.name(), turn.name());
                app.out.detail(format!("{name}: an earlier {what} has not come to its end yet"));
                return Ok(
                    looked.with(Exit::DONE, json!({ "ran": "nothing", "running-since": since }))
                );
            }
        };
        let held: &mut Option<Place> = &mut place.borrow_mut();
        if held.is_none() {
            *held = Some(places::enter(service.site(), WORKING, app.cancel())?);
        }
        match turn {
            Turn::CleanUp | Turn::Look | Turn::Run => run_due::one(app, service, looked),
            Turn::Copy => copies::all(app, service),
            Turn::Upkeep => upkeep::one(app, service),
            Turn::Drill => run_due::one_drill(app, service),
            Turn::Scrub => scrub::one_due(app, service),
        }
    })
}

/// Cleans up, looks and tells, each unless another process is at it. One that is at it for too long hangs,
/// and somebody is told that. Nothing that fails here keeps what is wrong from being told: without the lock
/// that keeps others from looking too, something may be told twice, and that is better than never.
fn look(app: &App, service: &ServiceSite) -> Result<Looked, Failure> {
    let cleaned = match places::take(service, Turn::CleanUp) {
        Ok(Whose::Mine(_mine)) => watch::clean_up(app, service)?,
        Ok(Whose::Anothers(since)) => watch::hangs(app, service, Hung::CleanUp, since, HANGS),
        Err(failure) => watch::not_cleaned_up(app, service, &failure),
    };
    let (_mine, barred) = match places::take(service, Turn::Look) {
        Ok(Whose::Mine(mine)) => (Some(mine), None),
        Ok(Whose::Anothers(since)) => {
            return Ok(cleaned.and(watch::hangs(app, service, Hung::Look, since, HANGS)));
        }
        Err(failure) => (None, Some(failure)),
    };
    let (_place, crowded) = match places::enter(service.site(), LOOKING, app.cancel()) {
        Ok(place) => (Some(place), None),
        Err(failure) => (None, Some(failure)),
    };
    Ok(cleaned.and(watch::look(app, service, barred.or(crowded))?))
}
