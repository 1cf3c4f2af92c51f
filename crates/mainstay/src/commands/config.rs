use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use model::Class;

/// Check, show or describe the configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Judge the configuration file; every error is told with its line.
    Check,
    /// Show the configuration as it is understood, without passwords.
    Show,
    /// Print the JSON schema of the configuration, for editors.
    Schema,
}

pub(crate) fn run(app: &App, args: &ConfigArgs) -> Outcome {
    match args.what {
        What::Check => check(app),
        What::Show => show(app),
        What::Schema => app.out.document(&model::config::schema()).map(|()| Exit::DONE),
    }
}

fn check(app: &App) -> Outcome {
    let loaded = app.load_config()?;
    if app.out.json {
        app.out.document(&serde_json::json!({
            "file": loaded.file,
            "valid": true,
            "warnings": loaded.warnings,
            "services": loaded.config.service.keys().collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::DONE);
    }
    for warning in &loaded.warnings {
        app.out.warn(warning);
    }
    let services: Vec<&str> = loaded.config.service.keys().map(|name| name.as_str()).collect();
    let services = match services.len() {
        0 => "no service yet".to_owned(),
        1 => format!("one service, {}", services.join("")),
        n => format!("{n} services: {}", services.join(", ")),
    };
    app.out.say(format_args!("{} is valid: {services}.", loaded.file.display()))?;
    Ok(Exit::DONE)
}

fn show(app: &App) -> Outcome {
    let mut config = app.load_config()?.config;
    for service in config.service.values_mut() {
        for url in [&mut service.url, &mut service.stream_from].into_iter().flatten() {
            *url = model::config::without_password(url);
        }
    }
    if let Some(webhook) = &mut config.alerts.webhook {
        *webhook = model::config::without_path(webhook);
    }
    let second = config.copy.values_mut().map(|copy| &mut copy.vault);
    for vault in second.chain([&mut config.vault]) {
        vault.url = model::config::without_password(&vault.url);
    }
    let value = crate::config::brief(&config);
    if app.out.json {
        app.out.document(&value)?;
    } else {
        app.out.text(&toml::to_string(&value).map_err(unprintable)?)?;
    }
    Ok(Exit::DONE)
}

fn unprintable(error: impl std::error::Error + 'static) -> Failure {
    Failure::new(Class::Failed, "cannot print the configuration").because(&error)
}
