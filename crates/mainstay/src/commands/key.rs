use crate::app::App;
use crate::config::mistakes;
use crate::failure::{Exit, Failure, Outcome};
use crate::init::password;
use crate::ui::ask;
use crate::ui::table::{Column, table};
use crate::ui::words::{count, shown};
use crate::units;
use model::{Class, Secret, ServiceName};
use operations::keys::{self, Changed, Params};
use operations::secrets::{self, Source};
use operations::{ServiceSite, Site};
use repository::{Kdf, KeyId, LockKind, cat};
use serde_json::json;
use std::path::{Path, PathBuf};

/// List, add, remove and change the passwords of a service's repository.
///
/// Each key is a password's way to the same master key; the recovery key is one of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  mainstay key list docs
  mainstay key add docs --generate
  mainstay key passwd docs shop --generate")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the keys; `in use` is the one that the configured password opens.
    List(ListArgs),
    /// Add a key for another password.
    Add(AddArgs),
    /// Remove a key. Refused for the last one, and for the one in use.
    Remove(RemoveArgs),
    /// Change the password.
    Passwd(PasswdArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The service.
    service: ServiceName,
}

#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The service.
    service: ServiceName,

    #[command(flatten)]
    new: NewPassword,

    /// Whom the key file names, for those who list the keys [default: this user].
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The service.
    service: ServiceName,

    /// The key's id, or the beginning of it.
    id: String,
}

/// Change the password of services that share one.
///
/// The password file that the configuration names is changed with the keys: at every instant the
/// password in it opens the repositories. A run that was interrupted is brought to its end by the
/// same command. Where the password comes from a variable or a command, the old one stays valid
/// until `key remove`.
#[derive(Debug, clap::Args)]
struct PasswdArgs {
    /// The services: all that share the password.
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<ServiceName>,

    #[command(flatten)]
    new: NewPassword,

    /// Keep the keys of the old password, until `key remove`.
    #[arg(long)]
    keep_old: bool,

    /// Do not ask, even if other hosts still have the old password.
    #[arg(long)]
    yes: bool,
}

/// Where a new password comes from; without any, it is asked for twice at the terminal.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct NewPassword {
    /// Read the new password from this file, as its first line.
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,

    /// Read the new password from this environment variable.
    #[arg(long, value_name = "NAME")]
    new_password_env: Option<String>,

    /// Generate the new password.
    #[arg(long)]
    generate: bool,
}

impl NewPassword {
    /// The password, or none if it is to be generated.
    fn read(&self, app: &App) -> Result<Option<Secret>, Failure> {
        let source = match (&self.new_password_file, &self.new_password_env) {
            (Some(file), _) => Source::File(file.clone()),
            (None, Some(name)) => Source::Env(name.clone()),
            (None, None) if self.generate => return Ok(None),
            (None, None) => return ask_twice(app).map(Some),
        };
        Ok(Some(secrets::read(&source)?))
    }
}

fn ask_twice(app: &App) -> Result<Secret, Failure> {
    if !app.out.can_ask() {
        let what = "no new password was given, and there is no terminal to ask at";
        return Err(Failure::invalid(what)
            .hint("Add `--generate`, `--new-password-file` or `--new-password-env`."));
    }
    let first = ask::password("New password: ", app.cancel())?;
    if first.expose().is_empty() {
        return Err(Failure::invalid("the new password is empty"));
    }
    if ask::password("The same again: ", app.cancel())? != first {
        return Err(Failure::invalid("the two passwords differ; nothing was done"));
    }
    Ok(first)
}

pub(crate) fn run(app: &App, args: &KeyArgs) -> Outcome {
    match &args.what {
        What::List(args) => list(app, &app.service(&args.service)?),
        What::Add(args) => add(app, args),
        What::Remove(args) => remove(app, args),
        What::Passwd(args) => passwd(app, args),
    }
}

fn current_password(service: &ServiceSite) -> Result<Secret, Failure> {
    Ok(secrets::password(service.site().config(), Some(service.spec()))?)
}

fn list(app: &App, service: &ServiceSite) -> Outcome {
    let repository = service.repository()?;
    let in_use = repository.keys_opened_by(&current_password(service)?)?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    let mut exit = Exit::DONE;
    for (id, info) in repository.list_keys()? {
        let used = in_use.contains(&id);
        let short = id.to_hex()[..8].to_owned();
        match info {
            Ok(info) => {
                let mark = if used { app.out.paint.good("in use") } else { String::new() };
                let created = info.created.map(units::local).unwrap_or_default();
                rows.push(vec![short, shown(&info.username), shown(&info.hostname), created, mark]);
                values.push(json!({
                    "id": id,
                    "username": info.username,
                    "hostname": info.hostname,
                    "created": info.created,
                    "in-use": used,
                }));
            }
            Err(e) => {
                exit = Exit::NOT_WELL;
                let mark = app.out.paint.bad("DAMAGED");
                rows.push(vec![short, String::new(), String::new(), String::new(), mark]);
                values.push(json!({ "id": id, "damaged": e.to_string() }));
            }
        }
    }
    if app.out.json {
        app.out.document(&json!({ "service": service.name(), "keys": values }))?;
    } else {
        let titles = ["ID", "USER", "HOST", "CREATED", ""].map(|title| (title, Column::Left));
        app.out.text(&table(&titles, rows, &app.out.paint))?;
    }
    Ok(exit)
}

fn add(app: &App, args: &AddArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let repository = service.repository()?;
    let given = args.new.read(app)?;
    let generated = match given {
        Some(_) => None,
        None => Some(password::for_people()?),
    };
    let (new, kdf) = match (&given, &generated) {
        (Some(given), _) => (given, password::kdf(given)),
        (None, Some(generated)) => (generated, Kdf::Fast),
        (None, None) => return Err(Failure::invalid("no new password was given")),
    };
    let wait = app.globals.wait.unwrap_or_default();
    let _lock = repository.lock(LockKind::Shared, wait, app.cancel())?;
    if !repository.keys_opened_by(new)?.is_empty() {
        return Err(Failure::refused("this password opens a key already"));
    }
    let id = repository.add_proven_key(new, kdf, args.user.as_deref())?;
    if app.out.json {
        app.out.document(&json!({
            "service": service.name(),
            "id": id,
            "password": generated.as_ref().map(Secret::expose),
        }))?;
        return Ok(Exit::DONE);
    }
    app.out.say(format_args!("{}: key {} was added", service.name(), &id.to_hex()[..8]))?;
    if let Some(generated) = generated {
        app.out.line(format_args!("Its password, shown only now: {}", generated.expose()))?;
    }
    Ok(Exit::DONE)
}

fn remove(app: &App, args: &RemoveArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let repository = service.repository()?;
    let id = KeyId(cat::find(repository, cat::Kind::Key, &args.id)?);
    let current = current_password(&service)?;
    if repository.list_keys()?.len() == 1 {
        return Err(Failure::refused(
            "it is the last key; without it nothing opens the repository",
        ));
    }
    if repository.keys_opened_by(&current)? == [id] {
        return Err(Failure::refused(
            "it is the key in use: the configured password opens no other",
        )
        .hint("Change the password with `mainstay key passwd`."));
    }
    let wait = app.globals.wait.unwrap_or_default();
    let lock = repository.lock(LockKind::Exclusive, wait, app.cancel())?;
    repository.remove_keys(&lock, &[id], &current)?;
    if app.out.json {
        app.out.document(&json!({ "service": service.name(), "removed": id }))?;
    } else {
        app.out.say(format_args!("{}: key {} was removed", service.name(), &id.to_hex()[..8]))?;
    }
    Ok(Exit::DONE)
}

fn passwd(app: &App, args: &PasswdArgs) -> Outcome {
    let site = app.site()?;
    mistakes::warn(app, &site, &args.services);
    let services: Vec<ServiceName> = args.services.clone();
    let others = keys::other_members(&site, &services)?;
    if !others.is_empty() && !args.keep_old && !args.yes {
        let names: Vec<String> = others.iter().map(ToString::to_string).collect();
        let told = format!("other hosts have the old password: {}", names.join(", "));
        if !app.out.can_ask() {
            return Err(Failure::refused(told).hint(
                "Add `--keep-old`, give them the new password, and then run `mainstay key \
                 remove`; or add `--yes` to lock them out until they have it.",
            ));
        }
        app.out.complain(format_args!("{told}. They are locked out until they have the new one."));
        if !ask::yes("Change it all the same?", app.cancel())? {
            return Err(Failure::new(Class::Cancelled, "nothing was changed"));
        }
    }
    refuse_the_file_itself(&site, args)?;
    let new = args.new.read(app)?;
    let params = Params {
        services,
        new,
        generate: || {
            password::for_file().map_err(|e| operations::Error::new(Class::Failed, e.one_line()))
        },
        kdf: password::kdf,
        keep_old: args.keep_old,
    };
    let changed = keys::change(&site, &params, &app.run())?;
    tell(app, &changed)
}

/// A new password that is already where the old one should be cannot be told from the old one.
fn refuse_the_file_itself(site: &Site, args: &PasswdArgs) -> Result<(), Failure> {
    let Some(new) = &args.new.new_password_file else { return Ok(()) };
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    for name in &args.services {
        let service = site.service(name)?;
        if let Source::File(file) = secrets::source(site.config(), Some(service.spec()))?
            && same(&file, new)
        {
            return Err(Failure::invalid(format!("{} is the password file itself", new.display()))
                .hint("Put the new password into another file; this one is changed for you."));
        }
    }
    Ok(())
}

fn tell(app: &App, changed: &Changed) -> Outcome {
    if app.out.json {
        let mut value = serde_json::to_value(changed)
            .map_err(|e| Failure::new(Class::Failed, format!("cannot print JSON: {e}")))?;
        if let Some(generated) = &changed.generated {
            value["password"] = generated.expose().into();
        }
        app.out.document(&value)?;
        return Ok(Exit::DONE);
    }
    let names: Vec<&str> = changed.services.iter().map(ServiceName::as_str).collect();
    let names = names.join(", ");
    if changed.resumed {
        app.out.say("An interrupted change was brought to its end.")?;
    }
    match &changed.file {
        Some(file) => app.out.say(format_args!(
            "{names}: the new password is in {}; {} removed",
            file.display(),
            count(changed.removed.len() as u64, "old key", "old keys"),
        ))?,
        None => app.out.say(format_args!(
            "{names}: the new password opens the repositories; put it where the configuration \
             looks for it"
        ))?,
    }
    if let Some(generated) = &changed.generated {
        app.out.line(format_args!("The new password, shown only now: {}", generated.expose()))?;
    }
    if !changed.old_keys.is_empty() {
        app.out.say("The old password still opens these keys; remove them with `key remove`:")?;
        for id in &changed.old_keys {
            app.out.say(format_args!("  {}", &id[..8.min(id.len())]))?;
        }
    }
    Ok(Exit::DONE)
}
