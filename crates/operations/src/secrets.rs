//! Passwords, from where the configuration says they are. Never from the configuration itself.

use crate::Error;
use model::Secret;
use model::config::{Config, Service, Vault};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file, as its first line.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
    /// On the standard output of a command, as its first line.
    Command(String),
}

/// Where the password of a service's repository is: the service's own source, else the vault's.
pub fn source(config: &Config, service: Option<&Service>) -> Result<Source, Error> {
    let pick = |file: &Option<PathBuf>, env: &Option<String>, command: &Option<String>| {
        let file = file.clone().map(Source::File);
        let env = env.clone().map(Source::Env);
        let command = command.clone().map(Source::Command);
        file.or(env).or(command)
    };
    let own = service.and_then(|s| pick(&s.password_file, &s.password_env, &s.password_command));
    let vault = &config.vault;
    own.or_else(|| pick(&vault.password_file, &vault.password_env, &vault.password_command))
        .ok_or_else(|| {
            Error::invalid("the configuration names no password").hinting(
                "Set `password-file` in [vault]; `mainstay init` makes the file if it is missing.",
            )
        })
}

/// The password of a service's repository.
pub fn password(config: &Config, service: Option<&Service>) -> Result<Secret, Error> {
    read(&source(config, service)?)
}

/// How a vault that another machine serves is reached, with the token of its user.
pub fn served(vault: &Vault) -> Result<storage::rest::Options, Error> {
    let token = match (&vault.token_file, &vault.token_env) {
        (Some(file), _) => Some(Source::File(file.clone())),
        (None, Some(name)) => Some(Source::Env(name.clone())),
        (None, None) => None,
    };
    let password = match &token {
        None => None,
        // The hints of a missing password are of no use here.
        Some(Source::File(file)) if !file.exists() => {
            let what = format!("there is no token file {}", file.display());
            return Err(Error::invalid(what).hinting(
                "Write the token into it that `mainstay vault user add` printed on the vault host.",
            ));
        }
        Some(source) => Some(read(source)?),
    };
    Ok(storage::rest::Options {
        user: vault.user.clone(),
        password,
        ca_file: vault.ca_file.clone(),
        pinned_sha256: vault.pinned_sha256.clone(),
        ssh_command: vault.ssh_command.clone(),
        remote_program: vault.remote_program.clone(),
        ..storage::rest::Options::default()
    })
}

/// Reads a password from its source.
pub fn read(source: &Source) -> Result<Secret, Error> {
    read_what(source, "password").map_err(|error| match source {
        Source::File(_) => error.hinting(
            "Copy it from a host that has it, or correct `password-file`. For a new vault, \
             `mainstay init` makes it.",
        ),
        _ => error,
    })
}

/// Reads another secret from its source; `what` is its name in messages.
pub(crate) fn read_what(source: &Source, what: &str) -> Result<Secret, Error> {
    let text = match source {
        Source::File(file) => std::fs::read_to_string(file)
            .map_err(|e| Error::io(&format!("read the {what} file"), file, e))?,
        Source::Env(name) => std::env::var(name).map_err(|_| {
            Error::invalid(format!("the environment variable {name} holds no {what}"))
        })?,
        Source::Command(command) => {
            let output = Command::new("/bin/sh")
                .args(["-c", command])
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .map_err(|e| Error::io("run", "/bin/sh", e))?;
            if !output.status.success() {
                return Err(Error::invalid(format!(
                    "the {what} command failed ({}): {command}",
                    output.status
                )));
            }
            String::from_utf8(output.stdout)
                .map_err(|_| Error::invalid(format!("the {what} command printed no text")))?
        }
    };
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Error::invalid(match source {
            Source::File(file) => format!("the {what} file {} is empty", file.display()),
            Source::Env(name) => format!("the environment variable {name} is empty"),
            Source::Command(_) => format!("the {what} command printed nothing"),
        }));
    }
    Ok(Secret::new(line.to_owned()))
}
