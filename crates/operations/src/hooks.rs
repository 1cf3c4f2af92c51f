//! Runs the commands that a service's `[hooks]` name.

use crate::{Error, ServiceSite};
use engines::command::Command;
use model::{CancelToken, Class, OperationId};

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

/// Runs one hook and waits for it.
pub(crate) fn run(
    name: &str,
    command: &str,
    variables: &Variables,
    cancel: &CancelToken,
) -> Result<String, Error> {
    finish(name, hook(name, command, variables), cancel)
}

/// The same for a hook that must end when this process does, even by SIGKILL.
pub(crate) fn run_tied(
    name: &str,
    command: &str,
    variables: &Variables,
    cancel: &CancelToken,
) -> Result<String, Error> {
    finish(name, hook(name, command, variables).tied(), cancel)
}

fn hook(name: &str, command: &str, variables: &Variables) -> Command {
    Command::shell(format!("hook `{name}`"), command).envs(variables)
}

fn finish(name: &str, command: Command, cancel: &CancelToken) -> Result<String, Error> {
    let output = command.run(cancel).map_err(|e| {
        use model::Classify;
        match e.class() {
            Class::Cancelled => Error::cancelled(),
            _ => Error::new(Class::Failed, format!("the hook `{name}` failed")).because(e),
        }
    })?;
    output.stdout_text().map_err(Error::from)
}
