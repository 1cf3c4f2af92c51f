//! The systemd units: a timer that runs what is due, what cleans up when the host starts, what makes a
//! new host a standby, and what ships the log of a database as it is written.

use crate::app::App;
use crate::failure::Failure;
use crate::files::{self, Existing};
use crate::provision;
use crate::ui::ask;
use model::{Class, ServiceName};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where systemd looks for units of the system.
pub(crate) const SYSTEM_UNITS: &str = "/etc/systemd/system";

const SERVICE: &str = "mainstay.service";
const TIMER: &str = "mainstay.timer";
/// Cleans up when the host starts.
pub(crate) const RECOVER: &str = "mainstay-recover.service";
const PROVISION: &str = "mainstay-provision.service";
/// One for each service whose log is shipped: `mainstay-log@shop.service`.
const LOG: &str = "mainstay-log@.service";

/// The unit of a service of this host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of<'a> {
    pub(crate) unit: &'a str,
    /// The service's copy is only put in place on a standby: nobody needs the unit for that, or
    /// starts it.
    pub(crate) lies: bool,
}

/// The units, with their names. `services` are the units of the services of this host.
pub(crate) fn units(
    program: &Path,
    config: &Path,
    services: &[Of<'_>],
) -> Result<[(&'static str, String); 5], Failure> {
    let service = format!(
        "[Unit]\n\
         Description=Mainstay: backups and refreshes that are due\n\
         Documentation=man:mainstay-run-due(1)\n\
         # What died with the host is left to that unit first: it alone knows that a service's own unit\n\
         # has not had its turn yet.\n\
         After=network-online.target remote-fs.target {RECOVER}\n\
         Wants=network-online.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={} --config {} --quiet run-due --attend 45s\n\
         # Exit code 3: done, but something could not be read; the alert was sent. 130: somebody wanted\n\
         # it to end, and it has cleaned up.\n\
         SuccessExitStatus=3 130\n\
         # What takes longer than it is attended goes on by itself, so that the next minute has its\n\
         # turn; so does the guardian of an operation, which brings a stopped service back. systemd\n\
         # calls them left-over processes.\n\
         TimeoutStopSec=5min\n\
         KillMode=process\n\
         Nice=10\n",
        word(program)?,
        word(config)?,
    );
    let timer = "[Unit]\n\
         Description=Mainstay looks every minute whether something is due\n\
         \n\
         [Timer]\n\
         OnCalendar=*:0/1\n\
         AccuracySec=5s\n\
         Persistent=true\n\
         \n\
         [Install]\n\
         WantedBy=timers.target\n";
    let before = |units: Vec<&str>| match units.as_slice() {
        [] => String::new(),
        units => {
            let names: Vec<_> = units.iter().map(|unit| full_name(unit)).collect();
            format!("Before={}\n", names.join(" "))
        }
    };
    let all = before(services.iter().map(|of| of.unit).collect());
    // A unit that is started meanwhile, and ordered after this one, would never be.
    let lying = before(services.iter().filter(|of| of.lies).map(|of| of.unit).collect());
    let recover = format!(
        "[Unit]\n\
         Description=Mainstay cleans up after what died with the host\n\
         Documentation=man:mainstay-recover(1)\n\
         # The vault says whether a service that is started by this may be.\n\
         After=local-fs.target network-online.target remote-fs.target\n\
         Wants=network-online.target\n\
         # Only the order: should this fail, the start gate decides whether a service may start.\n\
         {all}\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={} --config {} --quiet recover --all --booting\n\
         TimeoutStartSec=5min\n\
         # What it starts by a command of the configuration must outlive it.\n\
         KillMode=process\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        word(program)?,
        word(config)?,
    );
    let marker = provision::default_marker(config);
    let provision = format!(
        "[Unit]\n\
         Description=Mainstay makes this new host a standby, once\n\
         Documentation=man:mainstay-provision(1)\n\
         ConditionPathExists={}\n\
         After=local-fs.target network-online.target remote-fs.target {RECOVER}\n\
         Wants=network-online.target\n\
         {lying}\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={} --config {} --quiet --wait 1h provision\n\
         # What was interrupted goes on: the vault may not be there yet.\n\
         Restart=on-failure\n\
         RestartSec=1min\n\
         TimeoutStartSec=infinity\n\
         # An operation that must stop cleans up first.\n\
         TimeoutStopSec=5min\n\
         KillMode=process\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        path(&marker)?.replace('%', "%%"),
        word(program)?,
        word(config)?,
    );
    let log = format!(
        "[Unit]\n\
         Description=Mainstay ships the log of %i as it is written\n\
         Documentation=man:mainstay-wal(1)\n\
         After=local-fs.target network-online.target remote-fs.target {RECOVER}\n\
         Wants=network-online.target\n\
         \n\
         [Service]\n\
         # On a host that is not the primary it waits until it is.\n\
         ExecStart={} --config {} --quiet wal receive %i\n\
         Restart=always\n\
         RestartSec=2\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        word(program)?,
        word(config)?,
    );
    Ok([
        (SERVICE, service),
        (TIMER, timer.to_owned()),
        (RECOVER, recover),
        (PROVISION, provision),
        (LOG, log),
    ])
}

/// Writes the units where they are missing or different; returns those that were written.
pub(crate) fn write(
    dir: &Path,
    program: &Path,
    config: &Path,
    services: &[Of<'_>],
    dry_run: bool,
) -> Result<Vec<PathBuf>, Failure> {
    let mut written = Vec::new();
    for (name, text) in units(program, config, services)? {
        let file = dir.join(name);
        if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
            continue;
        }
        if !dry_run {
            files::write(&file, text.as_bytes(), 0o644, Existing::Replace)?;
        }
        written.push(file);
    }
    Ok(written)
}

/// Offers the timer to whoever can install it.
pub(crate) fn is_wanted(app: &App) -> Result<bool, Failure> {
    let systemd = Path::new("/run/systemd/system").is_dir();
    if !systemd || !rustix::process::geteuid().is_root() || !app.out.can_ask() {
        return Ok(false);
    }
    ask::yes("\nInstall a systemd timer that runs what is due, every minute?", app.cancel())
}

/// The unit that ships the log of a service.
pub(crate) fn log_unit(service: &ServiceName) -> String {
    LOG.replace('@', &format!("@{service}"))
}

/// Offers to ship the log of a service to whoever can let systemd do it.
pub(crate) fn log_is_wanted(app: &App, service: &ServiceName) -> Result<bool, Failure> {
    if !app.out.can_ask() {
        return Ok(false);
    }
    let question = format!(
        "Ship the log of {service} as it is written, so that a lost host takes about a second with \
         it?"
    );
    ask::yes(&question, app.cancel())
}

/// Starts a unit, now and whenever the host starts.
pub(crate) fn start(unit: &str) -> Result<(), Failure> {
    systemctl(&[&["enable", "--now", unit]])
}

/// Tells systemd about the units, and starts the timer.
pub(crate) fn enable() -> Result<(), Failure> {
    let enabled: &[&str] = &["enable", RECOVER, PROVISION];
    systemctl(&[&["daemon-reload"], enabled, &["enable", "--now", TIMER]])
}

fn systemctl(commands: &[&[&str]]) -> Result<(), Failure> {
    for words in commands {
        let output = Command::new("systemctl")
            .args(*words)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Failure::io("run", "systemctl", &e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let what = format!("systemctl {} failed", words.join(" "));
            return Err(Failure::new(Class::Failed, what)
                .listing(said.lines().map(str::to_owned).collect())
                .hint(format!("Run `systemctl {}` when systemd is there.", words.join(" "))));
        }
    }
    Ok(())
}

/// What the configuration calls `shop`, as `systemctl` does, is `shop.service` in a unit file: another name
/// is passed over there.
fn full_name(unit: &str) -> String {
    const KINDS: [&str; 11] = [
        "service",
        "socket",
        "target",
        "device",
        "mount",
        "automount",
        "swap",
        "timer",
        "path",
        "slice",
        "scope",
    ];
    match unit.rsplit_once('.') {
        Some((_, kind)) if KINDS.contains(&kind) => unit.to_owned(),
        _ => format!("{unit}.service"),
    }
}

/// A path as one word of `ExecStart=`: systemd reads backslashes, quotes, `%` and `$` as its own.
fn word(path: &Path) -> Result<String, Failure> {
    let text = self::path(path)?;
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!("\"{}\"", escaped.replace('%', "%%").replace('$', "$$")))
}

/// A path as the text of one line.
fn path(path: &Path) -> Result<&str, Failure> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.ok_or_else(|| {
        Failure::invalid(format!("the path {path:?} cannot be written into a systemd unit"))
    })
}
