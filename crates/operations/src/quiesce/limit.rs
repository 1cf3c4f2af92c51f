//! How long a service may be held still for a backup.
//!
//! A capture can hang: in a vault that takes data and never answers, in a file system that is gone.
//! So the guardian, which is a process of its own, counts, and brings the service back when the time
//! is over.

use crate::{Error, ServiceSite};
use model::config::Quiesce;
use model::{Class, duration};
use std::time::Duration;

/// How long a service may be frozen if its definition does not say. What is stopped is stopped on
/// purpose, for as long as its capture takes.
const FROZEN: Duration = Duration::from_secs(300);

/// How long this service may be held still; none if for as long as it takes.
pub(crate) fn limit(site: &ServiceSite) -> Option<Duration> {
    let said = site.spec().quiesce_limit.as_deref().and_then(|text| duration::parse(text).ok());
    match site.spec().quiesce {
        Quiesce::None => None,
        Quiesce::Stop => said,
        Quiesce::Freeze => Some(said.unwrap_or(FROZEN)),
    }
}

/// What a backup says that took too long.
pub(super) fn exceeded(site: &ServiceSite) -> Error {
    let limit = duration::human(limit(site).unwrap_or_default());
    let (was, back) = match site.spec().quiesce {
        Quiesce::Freeze => ("frozen", "thawed"),
        _ => ("stopped", "started"),
    };
    Error::new(
        Class::Failed,
        format!(
            "{} was {was} for longer than {limit}, and was {back} before all of it was read: there \
             is no point of it",
            site.name()
        ),
    )
    .hinting(format!(
        "Look whether the vault answers fast enough, or raise `quiesce-limit` in [service.{}].",
        site.name()
    ))
}
