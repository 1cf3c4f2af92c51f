//! What `init` made, as it is shown.

use crate::app::App;
use crate::failure::Failure;
use crate::init::make::{Did, Made};
use model::ServiceName;
use serde_json::json;
use std::path::{Path, PathBuf};

/// What was made and what was there, and the recovery key.
pub(crate) fn tell(
    app: &App,
    made: &Made,
    config: Option<&Path>,
    units: &[PathBuf],
) -> Result<(), Failure> {
    let out = &app.out;
    if out.json {
        let failed: Vec<_> = made.failures.iter().map(|(name, _)| name).collect();
        return out.document(&json!({
            "configuration-written": config,
            "steps": made.steps,
            "units-written": units,
            "recovery-key": made.recovery_key.as_ref().map(|key| key.expose()),
            "recovery-key-opens": made.recoverable,
            "failed": failed,
        }));
    }
    if let Some(config) = config {
        out.say(format_args!("{}  {}", out.paint.good("wrote  "), config.display()))?;
    }
    for step in &made.steps {
        let did = match step.did {
            Did::Made => out.paint.good("made   "),
            Did::Left => out.paint.dim("there  "),
            Did::Missing => out.paint.warning("missing"),
        };
        out.say(format_args!("{did}  {}", step.what))?;
    }
    for unit in units {
        out.say(format_args!("{}  {}", out.paint.good("wrote  "), unit.display()))?;
    }
    if let Some(key) = &made.recovery_key {
        let names: Vec<_> = made.recoverable.iter().map(|name| name.as_str()).collect();
        // Shown even with --quiet: it is never shown again.
        out.line(format_args!(
            "\nRecovery key for {}. Write it down now; it is stored nowhere:\n\n    {}\n\n\
             It opens the repository when this host and its password file are lost: give it to\n\
             `mainstay rescue`, or to `restic` as the password.",
            names.join(", "),
            out.paint.bold(key.expose()),
        ))?;
    }
    Ok(())
}

/// What is to be done next: a primary is backed up, a standby refreshed.
pub(crate) fn next(made: &Made) -> String {
    let refresh: Vec<_> = made.standby.iter().map(ServiceName::as_str).collect();
    let backup: Vec<_> = made.primary.iter().map(ServiceName::as_str).collect();
    let steps = match (backup.is_empty(), refresh.is_empty()) {
        (false, true) => "mainstay backup --all, and ".to_owned(),
        (true, false) => format!("mainstay refresh {}, and ", refresh.join(" ")),
        (false, false) => format!(
            "mainstay backup {}, mainstay refresh {}, and ",
            backup.join(" "),
            refresh.join(" ")
        ),
        (true, true) => String::new(),
    };
    format!("\nNext: {steps}mainstay doctor.")
}
