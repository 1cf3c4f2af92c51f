use crate::app::App;
use crate::config;
use crate::failure::{Exit, Failure, Outcome};
use crate::init::password;
use crate::ui::words::count;
use crate::units;
use model::{Class, Secret, ServiceName};
use operations::copy::{self, Params};
use operations::secrets::{self, Source};
use operations::{ServiceSite, Site, Which};
use std::path::PathBuf;
use std::sync::Arc;
use storage::Storage;

const EXAMPLES: &str = "\
Examples:
  mainstay copy docs --to /mnt/second-vault --dry-run     what is missing there
  mainstay copy docs --to /mnt/second-vault
  mainstay copy docs latest --to ssh://backup@elsewhere/srv/vault
  mainstay copy docs --to-config /etc/mainstay/second.toml";

/// Copy the history of a service to a second vault.
///
/// Everything is decrypted here, verified by its SHA-256, and encrypted with the key of the
/// repository there; only what is missing there travels, and a copy that was interrupted goes on
/// when it is repeated. The log and what is known of the points go along, so that `mainstay rescue`
/// restores from the copy. Nothing is removed there, and no host goes by the second vault unless it
/// is configured as its vault.
///
/// A repository that is not there yet is made, and cuts content where this one does. A point that is
/// damaged here is named and left out; the others are copied, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CopyArgs {
    /// The service.
    service: ServiceName,

    /// The points: names, snapshot ids or the beginnings of them, or `latest` [default: all].
    #[arg(value_name = "POINT")]
    points: Vec<String>,

    /// The second vault, as `url` in `[vault]`.
    #[arg(long, value_name = "VAULT", required_unless_present = "to_config")]
    to: Option<String>,

    /// A configuration whose `[vault]` is the second vault, with its tokens and its password, instead
    /// of `--to`.
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    to_config: Option<PathBuf>,

    /// File with the password of the repository there [default: with `--to`, the service's own
    /// password].
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,

    /// Environment variable with that password.
    #[arg(long, value_name = "NAME", conflicts_with = "to_password_file")]
    to_password_env: Option<String>,

    /// Say what is missing there, and copy nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(app: &App, args: &CopyArgs) -> Outcome {
    let service = app.service(&args.service)?;
    let there = match &args.to_config {
        Some(file) => {
            let loaded = config::load(file)?;
            Some(Site::new(loaded.config, loaded.file).with_cancel(app.cancel().clone()))
        }
        None => None,
    };
    let to = open_there(app, args, there.as_ref())?;
    let password = password_there(&service, args, there.as_ref())?;
    let points: Vec<Which> = args.points.iter().map(|point| Which::of(point)).collect();
    let kdf = password::kdf(&password);
    let params = Params { to, password, kdf, points, dry_run: args.dry_run };
    let done = copy::run(&service, &params, &app.run())?;
    let whole = done.is_whole();
    let exit = if whole { Exit::DONE } else { Exit::NOT_WELL };
    if app.out.json {
        let mut value = serde_json::to_value(&done)
            .map_err(|e| Failure::new(Class::Failed, format!("cannot print JSON: {e}")))?;
        value["service"] = service.name().as_str().into();
        app.out.document(&value)?;
        return Ok(exit);
    }
    tell(app, &service, &done)?;
    Ok(exit)
}

fn open_there(
    app: &App,
    args: &CopyArgs,
    there: Option<&Site>,
) -> Result<Arc<dyn Storage>, Failure> {
    if let Some(there) = there {
        return Ok(there.vault()?);
    }
    let options = storage::Options { cancel: app.cancel().clone(), ..storage::Options::default() };
    let url = args.to.as_deref().unwrap_or_default();
    storage::open(url, &options).map_err(|e| operations::Error::from(e).into())
}

fn password_there(
    service: &ServiceSite,
    args: &CopyArgs,
    there: Option<&Site>,
) -> Result<Secret, Failure> {
    let source = match (&args.to_password_file, &args.to_password_env, there) {
        (Some(file), ..) => Source::File(file.clone()),
        (None, Some(name), _) => Source::Env(name.clone()),
        (None, None, Some(there)) => {
            let config = there.config();
            secrets::source(config, config.service.get(service.name()))?
        }
        (None, None, None) => secrets::source(service.site().config(), Some(service.spec()))?,
    };
    Ok(secrets::read(&source)?)
}

fn tell(app: &App, service: &ServiceSite, done: &copy::Outcome) -> Result<(), Failure> {
    let out = &app.out;
    let name = service.name();
    let snapshots = count(done.copied.len() as u64, "snapshot", "snapshots");
    let (present, location) = (done.present.len(), &done.location);
    if done.dry_run {
        if done.created {
            out.say(format_args!("{name}: a repository would be made at {location}"))?;
        }
        out.say(format_args!(
            "{name}: {snapshots} would be copied, {present} already there; about {} in {} would \
             travel to {location}",
            units::size(done.missing_bytes),
            count(done.missing_blobs, "blob", "blobs"),
        ))?;
    } else {
        if done.created {
            out.say(format_args!("{name}: made a repository at {location}"))?;
        }
        out.say(format_args!(
            "{name}: {snapshots} copied, {present} already there; {} stored at {location}",
            units::size(done.stored_bytes),
        ))?;
    }
    if done.log_copied + done.log_present > 0 {
        out.say(format_args!(
            "{name}: {} of the log {}, {} already there",
            count(done.log_copied, "object", "objects"),
            if done.dry_run { "would be copied" } else { "copied" },
            done.log_present,
        ))?;
    }
    for failed in &done.failed {
        out.warn(format_args!("{name}: {} was not copied:", failed.snapshot.short()));
        for reason in &failed.reasons {
            out.complain(format_args!("  {reason}"));
        }
    }
    for failed in &done.log_failed {
        out.warn(format_args!("{name}: not copied of the log: {failed}"));
    }
    if done.other_chunks {
        out.warn(format_args!(
            "the repository at {} cuts content at other places than this one: copies share content \
             with each other, but not with what is backed up there directly",
            done.location
        ));
    }
    if let Some(why) = &done.not_recorded {
        out.warn(format_args!("the points were not recorded there: {why}"));
    }
    Ok(())
}
