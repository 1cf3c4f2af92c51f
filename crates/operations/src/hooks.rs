//! Runs the commands that a service's `[hooks]` name.

use crate::{Error, ServiceSite};
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
    let output = engines::command::Command::shell(format!("hook `{name}`"), command)
        .envs(variables)
        .run(cancel)
        .map_err(|e| {
            use model::Classify;
            match e.class() {
                Class::Cancelled => Error::cancelled(),
                _ => Error::new(Class::Failed, format!("the hook `{name}` failed")).because(e),
            }
        })?;
    output.stdout_text().map_err(Error::from)
}
