//! Runs the commands that a service's `[hooks]` name.

use crate::operation::Operation;
use crate::{Error, ServiceSite};
use engines::command::Command;
use model::{CancelToken, Class, Classify, OperationId, Progress, duration};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long a hook may run, if its service does not say.
const LIMIT: Duration = Duration::from_secs(3600);
/// The same for those that the service is held still by, or waits for.
const STILL_LIMIT: Duration = Duration::from_secs(120);

/// What a hook is told, as `MAINSTAY_*` variables.
pub(crate) type Variables = Vec<(String, String)>;

/// The variables that every hook gets.
pub(crate) fn variables(site: &ServiceSite, operation: Option<&OperationId>) -> Variables {
    let pair = |name: &str, value: String| (format!("MAINSTAY_{name}"), value);
    let mut variables = vec![
        pair("SERVICE", site.name().to_string()),
        pair("MEMBER", site.member().to_string()),
        pair("CONFIG", site.site().config_file().display().to_string()),
    ];
    if let Some(id) = operation {
        variables.push(pair("OPERATION", id.to_string()));
    }
    if let Ok(Some(seen)) = site.witness().remembered() {
        variables.push(pair("GENERATION", seen.generation.to_string()));
    }
    variables
}

/// That a hook failed which comes after what it belongs to is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HookFailed {
    /// Which, and why.
    pub message: String,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Hooks that come after what they belong to is done. Journals have them as steps.
pub(crate) const AFTERWARDS: [&str; 2] = [AFTER_BACKUP, AFTER_REFRESH];
pub(crate) const AFTER_BACKUP: &str = "after-backup";
pub(crate) const AFTER_REFRESH: &str = "after-refresh";

/// Runs a hook after what it belongs to is done, and cannot be undone: a cancel comes too late, and what
/// fails now is told, but fails nothing else.
pub(crate) fn afterwards(
    site: &ServiceSite,
    operation: &mut Operation,
    name: &str,
    command: &str,
    variables: &Variables,
) -> Option<HookFailed> {
    let ran = run(site, name, command, variables, &CancelToken::new());
    if let Err(error) = operation.note(name, ran.is_ok()) {
        operation.report().warn(&error.chain());
    }
    let error = ran.err()?;
    operation.report().log(&error.chain());
    Some(HookFailed { message: error.chain(), hint: error.hint() })
}

/// Runs one hook and waits for it, as long as it may take.
pub(crate) fn run(
    site: &ServiceSite,
    name: &str,
    command: &str,
    variables: &Variables,
    cancel: &CancelToken,
) -> Result<String, Error> {
    finish(site, name, hook(command, variables), cancel)
}

/// The same for a hook that must end when this process does, even by SIGKILL.
pub(crate) fn run_tied(
    site: &ServiceSite,
    name: &str,
    command: &str,
    variables: &Variables,
    cancel: &CancelToken,
) -> Result<String, Error> {
    finish(site, name, hook(command, variables).tied(), cancel)
}

/// What fails of it is told with its name.
fn hook(command: &str, variables: &Variables) -> Command {
    Command::shell("it", command).envs(variables)
}

fn finish(
    site: &ServiceSite,
    name: &str,
    command: Command,
    cancel: &CancelToken,
) -> Result<String, Error> {
    let (limit, began) = (limit(site, name), Instant::now());
    let output = command.timeout(limit).run(cancel).map_err(|e| {
        if e.class() == Class::Cancelled {
            return Error::cancelled();
        }
        if began.elapsed() < limit {
            return Error::new(Class::Failed, format!("the hook `{name}` failed")).because(e);
        }
        let limit = duration::human(limit);
        Error::new(Class::Failed, format!("the hook `{name}` was ended after {limit}"))
            .because(e)
            .hinting(format!(
                "Find out what it waits for; `hook-timeout` in [service.{}] says how long it may.",
                site.name()
            ))
    })?;
    output.stdout_text().map_err(Error::from)
}

fn limit(site: &ServiceSite, name: &str) -> Duration {
    let said = site.spec().hook_timeout.as_deref().and_then(|text| duration::parse(text).ok());
    said.unwrap_or(if matches!(name, "freeze" | "thaw") { STILL_LIMIT } else { LIMIT })
}
