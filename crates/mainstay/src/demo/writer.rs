//! The hidden command `demo-writer`: the shop as a program of its own, and what a host's scripts do
//! with it.

use super::ledger::{self, Ledger};
use super::processes;
use super::shop::Kind;
use super::stage::{self, Place, quiet};
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use jiff::Timestamp;
use model::Class;
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an order stays half written: long enough that a loss can strike in the middle.
const PAUSE: Duration = Duration::from_millis(5);
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);
/// What `status` says of a shop that does not run, as the configuration asks for.
const NOT_RUNNING: Exit = Exit(3);

/// The shop of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct WriterArgs {
    /// What to do.
    #[arg(value_enum)]
    action: Action,
    /// What keeps the shop's data.
    #[arg(long, value_enum, default_value_t)]
    shop: Kind,
    /// Whose shop.
    #[arg(long, default_value = "a")]
    host: String,
    /// The demo's directory.
    #[arg(long)]
    stage: PathBuf,
    /// Leave the directory there (`guard`).
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Takes orders until it is told to stop.
    Run,
    /// Starts `run` in the background and returns when an order was taken.
    Start,
    /// Ends it between two orders.
    Stop,
    /// Says whether it runs.
    Status,
    /// Has it hold still between two orders.
    Freeze,
    /// Lets it go on.
    Thaw,
    /// Kills everything on a host.
    CutPower,
    /// Waits until the demo is gone, and clears up if it could not.
    Guard,
}

/// Where the customers' knowledge is.
pub(crate) fn ledger_of(stage: &Path) -> PathBuf {
    stage.join("ledger")
}

/// Runs one action.
pub(crate) fn run(app: &App, args: &WriterArgs) -> Outcome {
    let place = Place::at(args.stage.join(&args.host));
    match args.action {
        Action::Run => take_orders(app, args, &place)?,
        Action::Start => start(args, &place)?,
        Action::Stop => stop(&place)?,
        Action::Status if !runs(&place) => return Ok(NOT_RUNNING),
        Action::Status => {}
        Action::Freeze => freeze(&place)?,
        Action::Thaw => thaw(&place)?,
        Action::CutPower => {
            processes::kill(place.directory())?;
        }
        Action::Guard => {
            stage::wait_for_end(&args.stage)?;
            stage::clear(&args.stage, args.keep)?;
        }
    }
    Ok(Exit::DONE)
}

/// The guard of a stage, as a process that a SIGKILL of the demo does not reach.
pub(crate) fn guard(program: &Path, stage: &Path, keep: bool) -> Result<Child, Failure> {
    let mut command = Command::new(program);
    quiet(&mut command)
        .args(["demo-writer", "guard", "--stage"])
        .arg(stage)
        .args(keep.then_some("--keep"))
        .current_dir("/")
        .stderr(Stdio::null());
    // A Ctrl-C is for the demo, which then still needs a guard.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(|e| Failure::io("start", "the demo's guard", &e))
}

fn take_orders(app: &App, args: &WriterArgs, place: &Place) -> Result<(), Failure> {
    // Nothing that happens to whoever started it may end it.
    rustix::process::setsid().map_err(|e| Failure::io("begin", "a session", &e.into()))?;
    let path = ledger_of(&args.stage);
    let mut number = ledger::read(&path)?.last_number().max(args.shop.seeds());
    let mut ledger = Ledger::append(&path)?;
    let mut shop = args.shop.open(place)?;
    while !app.cancel().is_cancelled() {
        hold_still(place)?;
        number += 1;
        ledger.begin(&args.host, number)?;
        shop.take(number, &args.host, PAUSE)?;
        ledger.ack(&args.host, number, Timestamp::now())?;
    }
    Ok(())
}

fn start(args: &WriterArgs, place: &Place) -> Result<(), Failure> {
    if runs(place) {
        return Ok(());
    }
    let log = place.run().join("shop.log");
    let file = fs::File::create(&log).map_err(|e| Failure::io("make", log.display(), &e))?;
    let program = std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
    let path = ledger_of(&args.stage);
    let before = ledger::read(&path)?.of(&args.host).count();
    let mut command = Command::new(program);
    let mut child = quiet(&mut command)
        .args(["demo-writer", "run", "--shop", args.shop.as_str(), "--host", &args.host, "--stage"])
        .arg(&args.stage)
        .current_dir(place.run())
        .stderr(file)
        .spawn()
        .map_err(|e| Failure::io("start", "the shop", &e))?;
    let deadline = Instant::now() + PATIENCE;
    while ledger::read(&path)?.of(&args.host).count() == before {
        let ended = child.try_wait().map_err(|e| Failure::io("look at", "the shop", &e))?;
        if ended.is_some() || Instant::now() > deadline {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(Failure::new(Class::Failed, "the shop does not take orders")
                .listing(said.lines().map(str::to_owned).collect()));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn runs(place: &Place) -> bool {
    !processes::below(&place.run()).is_empty()
}

fn stop(place: &Place) -> Result<(), Failure> {
    processes::signal(&place.run(), Signal::TERM);
    wait_until("the shop to stop", || !runs(place))
}

/// Asks by a file with a word of its own, so that the answer to an earlier question is not taken
/// for one to this.
fn freeze(place: &Place) -> Result<(), Failure> {
    if !runs(place) {
        return Ok(());
    }
    let (question, answer) = (place.run().join("freeze"), place.run().join("frozen"));
    let word = Timestamp::now().to_string();
    put(&question, &word)?;
    let answered = || fs::read_to_string(&answer).is_ok_and(|said| said == word) || !runs(place);
    let frozen = wait_until("the shop to hold still", answered);
    if frozen.is_err() {
        thaw(place)?;
    }
    frozen
}

fn thaw(place: &Place) -> Result<(), Failure> {
    match fs::remove_file(place.run().join("freeze")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io("thaw", "the shop", &e))
        }
        _ => Ok(()),
    }
}

/// The shop's side: between two orders it looks whether it is asked to hold still.
fn hold_still(place: &Place) -> Result<(), Failure> {
    let question = place.run().join("freeze");
    while let Ok(word) = fs::read_to_string(&question) {
        put(&place.run().join("frozen"), &word)?;
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// A reader sees all of the text or nothing.
fn put(path: &Path, text: &str) -> Result<(), Failure> {
    let aside = path.with_extension("new");
    fs::write(&aside, text)
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|e| Failure::io("write", path.display(), &e))
}

fn wait_until(what: &str, reached: impl Fn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        if Instant::now() > deadline {
            return Err(Failure::new(Class::Failed, format!("waited in vain for {what}")));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}
