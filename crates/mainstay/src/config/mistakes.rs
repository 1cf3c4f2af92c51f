//! What is said of a mistake in one section of the configuration, beside what is done by the others.

use super::place::{self, Defaults};
use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::teller::Teller;
use model::config::{Config, Finding, Host, Section, Vault, tellable};
use model::{MemberName, ServiceName};
use operations::Site;
use std::collections::BTreeMap;

/// What it is told by, by `run-due`.
const EVENT: &str = "configuration-broken";

/// Warns of mistakes in sections that these services are none of.
pub(crate) fn warn(app: &App, site: &Site, named: &[ServiceName]) {
    let own = |finding: &Finding| {
        named.iter().any(|name| finding.is_of(&Section::Service(name.to_string())))
    };
    for finding in site.mistakes().iter().filter(|finding| !own(finding)) {
        app.out.warn(sentence(site, finding));
    }
}

/// Tells of mistakes that belong to no service, as errors: to somebody who asked for all there is, and
/// hears of the services one by one.
pub(crate) fn elsewhere(app: &App, site: &Site) -> Exit {
    let is_services = |finding: &Finding| finding.sections.iter().any(|s| s.service().is_some());
    let mut worst = Exit::DONE;
    for finding in site.mistakes().iter().filter(|finding| !is_services(finding)) {
        let failure = Failure::invalid(sentence(site, finding))
            .hint("Correct it, then run `mainstay config check`.");
        worst = worst.max(failure.exit());
        match app.out.json {
            true => app.out.warn(failure.one_line()),
            false => drop(failure.report(&app.out)),
        }
    }
    worst
}

/// Tells a person, once for each section, and when it is over.
pub(crate) fn tell(app: &App, site: &Site) -> Exit {
    let mut told: Vec<(String, String)> = Vec::new();
    for finding in site.mistakes() {
        let name = finding.sections.first().map(ToString::to_string).unwrap_or_default();
        let message = sentence(site, finding);
        match told.iter_mut().find(|(other, _)| *other == name) {
            Some((_, all)) => *all = format!("{all}. {message}"),
            None => told.push((name, message)),
        }
    }
    let mut teller = Teller::of_host(app, site);
    teller.tell_each(EVENT, &told);
    // It can be read.
    teller.tell(EVENT, None);
    if teller.finish() { Exit::NOT_WELL } else { Exit::DONE }
}

/// Tells a person that nothing can be done by this file, if it says soundly who that is.
pub(crate) fn tell_unusable(app: &App, why: &Failure) {
    let Ok(file) = app.config_file() else { return };
    let Some(tellable) = std::fs::read_to_string(&file).ok().and_then(|text| tellable(&text))
    else {
        return;
    };
    let name = tellable.name.or_else(|| MemberName::new(&place::host_name()).ok());
    let Some(name) = name else { return };
    let state_dir = tellable.state_dir.unwrap_or_else(|| Defaults::of_this_user().state_dir);
    let config = Config {
        host: Host { name, state_dir },
        vault: Vault::default(),
        copy: BTreeMap::new(),
        alerts: tellable.alerts,
        service: BTreeMap::new(),
        left_out: Vec::new(),
    };
    let site = Site::new(config, file);
    let mut teller = Teller::of_host(app, &site);
    let said = format!("{}: nothing is done on this host until that is corrected", why.one_line());
    teller.tell(EVENT, Some(said));
    teller.finish();
}

/// What is wrong, and what comes of it.
fn sentence(site: &Site, finding: &Finding) -> String {
    let file = site.config_file().display();
    let sections: Vec<String> = finding.sections.iter().map(ToString::to_string).collect();
    let without = match finding.sections.as_slice() {
        [Section::Alerts] => "[alerts] is used without it".to_owned(),
        [_] => format!("{} is left out", sections.join(" and ")),
        _ => format!("{} are left out", sections.join(" and ")),
    };
    format!("{file}, {finding}: {without}")
}
