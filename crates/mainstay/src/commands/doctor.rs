use crate::app::App;
use crate::doctor::{Chain, Link, Verdict, host, service};
use crate::failure::{Exit, Outcome};
use model::ServiceName;
use operations::Site;
use serde_json::json;
use std::collections::BTreeSet;

/// Walk the whole chain, from the configuration to the newest point, and say which link is broken.
///
/// Each link is `ok`, `warn` or `FAIL`, with what to do. Leftovers of operations that died are
/// cleaned up on the way. Exit code 1 if a link is broken.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// The services [default: all of this host].
    #[arg(value_name = "SERVICE")]
    services: Vec<ServiceName>,
}

pub(crate) fn run(app: &App, args: &DoctorArgs) -> Outcome {
    let loaded = app.load_sound()?;
    let site = Site::new(loaded.config.clone(), loaded.file.clone());
    let site = site.with_mistakes(loaded.mistakes.clone());
    for name in args.services.iter().filter(|name| !site.services().contains(name)) {
        site.service(name)?;
    }
    // Named twice, it is looked at once.
    let mut seen = BTreeSet::new();
    let mut asked = if args.services.is_empty() { site.services() } else { args.services.clone() };
    asked.retain(|name| seen.insert(name.clone()));
    let mut told = |link: &Link| match app.out.json {
        true => Ok(()),
        false if app.out.quiet() && link.verdict != Verdict::Fail => Ok(()),
        false => app.out.text(&show(app, link)),
    };
    let mut chain = Chain::new(&mut told);
    host::examine(&mut chain, &loaded, &site, &args.services)?;
    // What is wrong with the sections of others was told with the configuration.
    for name in asked.iter().filter(|name| loaded.config.service.contains_key(*name)) {
        service::examine(&mut chain, app, &site.service(name)?)?;
    }
    let broken = chain.broken();
    let links = chain.links;
    let number = |wanted| links.iter().filter(|link| link.verdict == wanted).count();
    let (warned, failed) = (number(Verdict::Warn), number(Verdict::Fail));
    if app.out.json {
        app.out.document(&json!({ "healthy": !broken, "links": links }))?;
    } else if failed == 0 && warned == 0 {
        app.out.say("\nEverything holds.")?;
    } else {
        app.out.say(format_args!("\n{failed} broken, {warned} to look at."))?;
    }
    Ok(if broken { Exit::NOT_WELL } else { Exit::DONE })
}

fn show(app: &App, link: &Link) -> String {
    let paint = &app.out.paint;
    let verdict = match link.verdict {
        Verdict::Ok => paint.good("ok  "),
        Verdict::Warn => paint.warning("warn"),
        Verdict::Fail => paint.bad("FAIL"),
    };
    let place = match &link.service {
        Some(service) => format!("{service} {}", link.link),
        None => link.link.to_owned(),
    };
    let mut text = format!("{verdict}  {place}: {}\n", link.found);
    if let Some(advice) = &link.advice {
        text.push_str(&format!("      {}\n", paint.dim(advice)));
    }
    text
}
