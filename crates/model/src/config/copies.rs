//! Second vaults: `[copy.NAME]`.

use super::rules::Judge;
use super::{Config, Vault};
use crate::ServiceName;
use crate::schedule::Schedule;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A second vault, to which the history is copied. No host goes by it: it has no members, and nothing
/// is removed there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SecondVault {
    /// Where it is, and how it is reached. Without a password, each service's own is that of its copy.
    pub vault: Vault,
    /// Of which services; of all without it.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// When a copy is due, in cron syntax; without it, as soon as there is a new point.
    #[serde(default)]
    pub schedule: Option<String>,
    /// The oldest that the newest point there may get before it alarms, e.g. `"2h"`.
    #[serde(default)]
    pub rpo: Option<String>,
}

impl SecondVault {
    /// Whether this service is copied there.
    pub fn is_for(&self, service: &ServiceName) -> bool {
        self.services.is_empty() || self.services.contains(service)
    }
}

pub(super) fn judge(judge: &mut Judge<'_>, config: &Config) {
    for (name, copy) in &config.copy {
        judge.begin(&["copy", name.as_str()]);
        judge.vault(&copy.vault, config);
        if copy.vault.url == config.vault.url {
            judge.wrong("vault.url", "is the vault itself; a copy belongs elsewhere");
        }
        if let Some(schedule) = &copy.schedule
            && let Err(e) = Schedule::parse(schedule, TimeZone::UTC)
        {
            judge.wrong("schedule", e.to_string());
        }
        judge.duration("rpo", copy.rpo.as_deref());
        for service in &copy.services {
            if judge.is_service(config, service) {
                continue;
            }
            judge.wrong("services", format!("names {service}, which is no service of this host"));
        }
    }
}
