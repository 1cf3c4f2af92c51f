//! Second vaults: `[copy.NAME]`.

use super::rules::{Judge, left_out, roots};
use super::{Config, Vault, vault_dir};
use crate::ServiceName;
use crate::schedule::Schedule;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

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

/// What is protected must hold no second vault, nor lie in one: a backup would back up the copies, a restore
/// put them aside, and the repository of a service be made where its data is.
fn apart(judge: &mut Judge<'_>, config: &Config, vault: &Path) {
    for (name, service) in &config.service {
        for (_, root) in roots(service) {
            let shown = root.display();
            if vault.starts_with(root) && !left_out(service, vault) {
                judge.wrong(
                    "vault.url",
                    format!(
                        "lies in {shown} of service {name}: every backup would back up the copies; move \
                         it, or add it to `exclude` there"
                    ),
                );
            } else if root.starts_with(vault) {
                judge.wrong("vault.url", format!("holds {shown} of service {name}; move it"));
            }
        }
    }
}

pub(super) fn judge(judge: &mut Judge<'_>, config: &Config) {
    for (name, copy) in &config.copy {
        judge.begin(&["copy", name.as_str()]);
        judge.vault(&copy.vault, config);
        if copy.vault.url == config.vault.url {
            judge.wrong("vault.url", "is the vault itself; a copy belongs elsewhere");
        }
        if let Some(vault) = vault_dir(&copy.vault.url) {
            apart(judge, config, vault);
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
