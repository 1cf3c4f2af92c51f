use super::common::Services;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use crate::ui::ask;
use model::{Class, Classify};
use operations::ServiceSite;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  mainstay vault accept shop         shows what this host has seen and what the vault shows, and asks
  mainstay vault accept --all --yes";

/// Go by this vault although this host has seen a newer state of the service.
///
/// A vault that was restored from a copy, and a second vault that takes the place of the first, do
/// not know what happened since, perhaps a takeover; so each host refuses them until somebody decides.
/// Make sure that the newer vault is gone for good and that only one member serves. Run it on every
/// host that refuses the vault; then `mainstay init`, if the vault has no members yet.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AcceptArgs {
    #[command(flatten)]
    services: Services,

    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(app: &App, args: &AcceptArgs) -> Outcome {
    let names = args.services.of(app)?;
    app.each(&names, |service| one(app, args, service))
}

fn one(app: &App, args: &AcceptArgs, service: &ServiceSite) -> Result<(Exit, Value), Failure> {
    let name = service.name();
    let before = service.witness().remembered();
    let shown = service.state()?.load().map_err(operations::Error::from)?;
    if shown.number == 0 {
        let what = format!("the vault has no state of {name}, so there is nothing to accept");
        return Err(Failure::refused(what).hint("Run `mainstay init`."));
    }
    let seen = before.and_then(|before| service.witness().see_since(before.as_ref(), &shown));
    let why = match seen {
        Ok(()) => {
            app.out.say(format_args!("{name}: this host refuses nothing of this vault"))?;
            return Ok((Exit::DONE, json!({ "accepted": false, "number": shown.number })));
        }
        Err(e) if matches!(e.class(), Class::Refused | Class::Corrupt) => e.to_string(),
        Err(e) => return Err(operations::Error::from(e).into()),
    };
    if !args.yes {
        confirm(app, service, &why)?;
    }
    service.witness().accept(&shown).map_err(operations::Error::from)?;
    app.out.say(format_args!(
        "{name}: this host goes by state number {} of this vault from now on",
        shown.number
    ))?;
    Ok((Exit::DONE, json!({ "accepted": true, "number": shown.number, "refused": why })))
}

fn confirm(app: &App, service: &ServiceSite, why: &str) -> Result<(), Failure> {
    let name = service.name();
    if !app.out.can_ask() {
        let what = format!("{name}: {why}; to go by it all the same has to be confirmed");
        let hint = "Make sure that the newer vault is gone for good, then add `--yes`.";
        return Err(Failure::refused(what).hint(hint));
    }
    app.out.complain(format_args!("{name}: {why}"));
    if ask::yes("Go by this vault from now on?", app.cancel())? {
        return Ok(());
    }
    Err(Failure::new(Class::Cancelled, "nothing was done"))
}
