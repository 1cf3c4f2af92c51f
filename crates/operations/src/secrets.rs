//! Passwords, from where the configuration says they are. Never from the configuration itself.

use crate::Error;
use model::config::{Alerts, Config, Service, Vault};
use model::{CancelToken, Classify, Secret};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where a password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file, as its first line.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
    /// In a file of this name that systemd has put where `CREDENTIALS_DIRECTORY` says.
    Credential(String),
    /// On the standard output of a command, as its first line.
    Command(String),
}

impl Source {
    /// The one of these that is set.
    pub(crate) fn pick(
        file: &Option<PathBuf>,
        env: &Option<String>,
        credential: &Option<String>,
        command: &Option<String>,
    ) -> Option<Source> {
        let env = env.clone().map(Source::Env);
        let credential = credential.clone().map(Source::Credential);
        let command = command.clone().map(Source::Command);
        file.clone().map(Source::File).or(env).or(credential).or(command)
    }
}

/// Where the password of a service's repository is: the service's own source, else the vault's.
pub fn source(config: &Config, service: Option<&Service>) -> Result<Source, Error> {
    let own = service.and_then(|s| {
        Source::pick(&s.password_file, &s.password_env, &s.password_credential, &s.password_command)
    });
    own.or_else(|| of_vault(&config.vault)).ok_or_else(|| {
        Error::invalid("the configuration names no password").hinting(
            "Set `password-file` in [vault]; `mainstay init` makes the file if it is missing.",
        )
    })
}

/// Where the password is that a vault names itself.
pub fn of_vault(vault: &Vault) -> Option<Source> {
    let Vault { password_file, password_env, password_credential, password_command, .. } = vault;
    Source::pick(password_file, password_env, password_credential, password_command)
}

/// Where the password is that a service's `url` leaves out.
pub fn of_url(service: &Service) -> Option<Source> {
    let Service {
        url_password_file: file,
        url_password_env: env,
        url_password_credential: credential,
        url_password_command: command,
        ..
    } = service;
    Source::pick(file, env, credential, command)
}

/// The password that a service's `url` leaves out, for whoever connects: it is read then.
pub(crate) fn url_password(service: &Service) -> Option<engines::Password> {
    let source = of_url(service)?;
    Some(engines::Password::new(move || {
        read_what(&source, "connection password").map_err(|error| {
            let told = engines::Error::new(error.class(), error.chain());
            match (error.hint(), &source) {
                (Some(hint), _) => told.hinting(hint),
                (None, Source::File(_)) => told.hinting(
                    "Write the password of the role in `url` into it, for this user to read, or \
                     correct `url-password-file`.",
                ),
                (None, _) => told.hinting("Correct `url-password-…` of this service."),
            }
        })
    }))
}

/// Whether alerts go to a webhook.
pub(crate) fn has_webhook(alerts: &Alerts) -> bool {
    webhook_source(alerts).is_some() || alerts.webhook.is_some()
}

fn webhook_source(alerts: &Alerts) -> Option<Source> {
    let Alerts { webhook_file, webhook_env, webhook_credential, webhook_command, .. } = alerts;
    Source::pick(webhook_file, webhook_env, webhook_credential, webhook_command)
}

/// The URL of the webhook that alerts go to. A command that prints it is ended after this time.
pub(crate) fn webhook(alerts: &Alerts, limit: Duration) -> Result<Option<Secret>, Error> {
    match webhook_source(alerts) {
        Some(source) => read_within(&source, "webhook", Some(limit)).map(Some),
        None => Ok(alerts.webhook.clone().map(Secret::new)),
    }
}

/// The password of a service's repository.
pub fn password(config: &Config, service: Option<&Service>) -> Result<Secret, Error> {
    read(&source(config, service)?)
}

/// How a vault that another machine serves is reached, with the token of its user.
pub fn served(vault: &Vault) -> Result<storage::rest::Options, Error> {
    let Vault { token_file, token_env, token_credential, token_command, .. } = vault;
    let token = Source::pick(token_file, token_env, token_credential, token_command);
    let password = match &token {
        None => None,
        // The hints of a missing password are of no use here.
        Some(Source::File(file)) if !file.exists() => {
            let what = format!("there is no token file {}", file.display());
            return Err(Error::invalid(what).of_fetching().hinting(
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
        Source::File(file) if is_denied(file) => error.hinting(
            "Let the user that runs this read it, or run this as one who may. What a PostgreSQL \
             server calls (`archive_command`) is run by the server's user.",
        ),
        Source::File(_) => error.hinting(
            "Copy it from a host that has it, or correct `password-file`. For a new vault, \
             `mainstay init` makes it.",
        ),
        _ => error,
    })
}

/// Whether a file is there, and not for us.
fn is_denied(file: &Path) -> bool {
    std::fs::File::open(file).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Reads another secret from its source; `what` is its name in messages.
pub(crate) fn read_what(source: &Source, what: &str) -> Result<Secret, Error> {
    read_within(source, what, None)
}

fn read_within(source: &Source, what: &str, limit: Option<Duration>) -> Result<Secret, Error> {
    let text = match source {
        Source::File(file) => std::fs::read_to_string(file)
            .map_err(|e| Error::io(&format!("read the {what} file"), file, e).of_fetching())?,
        Source::Env(name) => std::env::var(name).map_err(|_| {
            Error::invalid(format!("the environment variable {name} holds no {what}"))
        })?,
        Source::Credential(name) => {
            let dir = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                Error::invalid(format!(
                    "there are no systemd credentials here, and the {what} is in {name}"
                ))
                .hinting(format!(
                    "Start this by a unit with `LoadCredential={name}:FILE`, or by `systemd-run -p \
                     LoadCredential={name}:FILE`."
                ))
            })?;
            let file = PathBuf::from(dir).join(name);
            std::fs::read_to_string(&file)
                .map_err(|e| Error::io(&format!("read the {what} credential"), &file, e))?
        }
        // The command may hold what it should only fetch, so it is not shown, nor what it said.
        Source::Command(command) if limit.is_some() => {
            let text = bounded(command, limit.unwrap_or_default());
            text.map_err(|why| Error::invalid(format!("the {what} command {why}")))?
        }
        Source::Command(command) => {
            let output = Command::new("/bin/sh")
                .args(["-c", command])
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .map_err(|e| Error::io("run", "/bin/sh", e).of_fetching())?;
            if !output.status.success() {
                let how = format!("the {what} command failed ({})", output.status);
                return Err(Error::invalid(how).of_fetching());
            }
            String::from_utf8(output.stdout)
                .map_err(|_| Error::invalid(format!("the {what} command printed no text")))?
        }
    };
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        let error = Error::invalid(match source {
            Source::File(file) => format!("the {what} file {} is empty", file.display()),
            Source::Env(name) => format!("the environment variable {name} is empty"),
            Source::Credential(name) => format!("the {what} credential {name} is empty"),
            Source::Command(_) => format!("the {what} command printed nothing"),
        });
        return Err(match source {
            // The last of a pipe ends well whatever became of the first.
            Source::Command(_) => error.of_fetching(),
            _ => error,
        });
    }
    Ok(Secret::new(line.to_owned()))
}

/// What a command prints that is ended, with all that it started, after this time; or what is wrong.
fn bounded(command: &str, limit: Duration) -> Result<String, String> {
    let asked = engines::command::Command::shell("the command", command).timeout(limit);
    let output = asked.ask(&CancelToken::new());
    let output = output.map_err(|_| format!("was not done within {limit:?}"))?;
    match output.code() {
        Some(0) => output.stdout_text().map_err(|_| "printed no text".to_owned()),
        Some(code) => Err(format!("failed (exit code {code})")),
        None => Err("was killed".to_owned()),
    }
}
