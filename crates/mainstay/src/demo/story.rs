//! The story, act by act.

use super::host::{Host, cancelled};
use super::judge::{self, Check, Evidence, Loss};
use super::ledger;
use super::narrator::{Narrator, Step};
use super::processes;
use super::shop::Kind;
use super::stage::Stage;
use crate::app::App;
use crate::failure::{Exit, Failure, Outcome};
use jiff::Timestamp;
use model::Class;
use rustix::process::Signal;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many orders are taken between two commands: enough to have something to lose.
const ORDERS: usize = 40;
/// How long the demo waits for the shop to do something.
const PATIENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(10);

/// What `--json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    engine: Kind,
    held: bool,
    loss: Loss,
    outage_ms: u128,
    checks: &'a [Check],
    steps: &'a [Step],
    directory: Option<String>,
}

/// Tells it, clears up, and says whether everything held.
pub(super) fn tell(app: &App, kind: Kind, keep: bool) -> Outcome {
    let stage = Stage::set(kind, keep)?;
    let told = Teller::new(app, kind, &stage).and_then(|mut teller| teller.story());
    // Cleared before the verdict is spoken: a demo that leaves something behind has failed.
    let directory = keep.then(|| stage.directory().display().to_string());
    let cleared = stage.clear();
    let end = told?;
    cleared?;
    let held = end.checks.iter().all(|check| check.held);
    if app.out.json {
        app.out.document(&Document {
            engine: kind,
            held,
            loss: end.loss,
            outage_ms: end.outage.as_millis(),
            checks: &end.checks,
            steps: &end.steps,
            directory: directory.clone(),
        })?;
    }
    if let Some(directory) = directory {
        app.out.say(format!(
            "\nEverything is still in {directory}; remove it when you have seen it."
        ))?;
    }
    let failed = end.checks.iter().filter(|check| !check.held).count();
    if failed == 0 {
        app.out.say(app.out.paint.good(&format!("\nAll {} checks held.", end.checks.len())))?;
        return Ok(Exit::DONE);
    }
    Err(Failure::new(
        Class::Failed,
        format!("{failed} of {} checks did not hold", end.checks.len()),
    ))
}

/// How it ended.
struct End {
    loss: Loss,
    outage: Duration,
    checks: Vec<Check>,
    steps: Vec<Step>,
}

struct Teller<'a> {
    app: &'a App,
    kind: Kind,
    stage: &'a Stage,
    narrator: Narrator<'a>,
    a: Host<'a>,
    b: Host<'a>,
}

/// What is known when A is gone.
struct Lost {
    at: Timestamp,
    mid_write: bool,
    copy: BTreeMap<PathBuf, u64>,
}

/// What is known when A came back.
struct Back {
    started: bool,
    backed_up: bool,
    unchanged: bool,
}

impl<'a> Teller<'a> {
    fn new(app: &'a App, kind: Kind, stage: &'a Stage) -> Result<Teller<'a>, Failure> {
        let narrator = Narrator::new(app, stage.directory());
        narrator.title(kind)?;
        Ok(Teller {
            app,
            kind,
            stage,
            narrator,
            a: Host::new("a", stage, app.cancel()),
            b: Host::new("b", stage, app.cancel()),
        })
    }

    fn story(&mut self) -> Result<End, Failure> {
        self.open()?;
        self.protect()?;
        let lost = self.lose()?;
        let announced = self.take_over()?;
        let back = self.come_back(&lost)?;
        self.count(&lost, announced, &back)
    }

    /// A sells, B stands by.
    fn open(&mut self) -> Result<(), Failure> {
        self.narrator.act("Host A runs a shop, and host B is to stand by for it.")?;
        self.kind.seed(self.a.place())?;
        self.a.mainstay(&mut self.narrator, &["init"])?.must()?;
        let password = self.a.place().directory().join("vault.password");
        let copy = self.b.place().directory().join("vault.password");
        std::fs::copy(&password, &copy)
            .map_err(|e| Failure::io("copy the password to", copy.display(), &e))?;
        self.stage.give(&copy)?;
        self.narrator.remark("The password goes to B by hand, as any secret should.")?;
        self.b.mainstay(&mut self.narrator, &["init"])?.must()?;
        self.a.script(&mut self.narrator, "start-shop")?.must()?;
        if self.kind == Kind::Postgres {
            self.a.customers(self.kind)?;
        }
        self.narrator.remark(
            "start-shop asks the start gate first (mainstay may-start shop): A is the primary.",
        )?;
        let taken = self.sell("a")?;
        self.narrator.remark(&format!(
            "Customers order without a pause from now on: {taken} orders so far, beside {} old ones.",
            self.kind.seeds()
        ))
    }

    /// A backup and a refresh, twice, while the shop sells.
    fn protect(&mut self) -> Result<(), Failure> {
        self.narrator
            .act("The shop is backed up while it sells, and B is brought to that point.")?;
        self.a.mainstay(&mut self.narrator, &["backup", "shop"])?.must()?;
        self.b.mainstay(&mut self.narrator, &["refresh", "shop"])?.must()?;
        self.narrator.act("Again: only what changed travels.")?;
        self.sell("a")?;
        self.a.mainstay(&mut self.narrator, &["backup", "shop"])?.must()?;
        self.b.mainstay(&mut self.narrator, &["refresh", "shop"])?.must()?;
        let taken = self.sell("a")?;
        self.narrator.remark(&format!("The shop has sold on meanwhile: {taken} orders."))
    }

    /// A is lost in the middle of an order.
    fn lose(&mut self) -> Result<Lost, Failure> {
        self.narrator
            .act("Host A is lost: every process on it is killed, in the middle of an order.")?;
        let here = self.a.place().directory().to_owned();
        let deadline = Instant::now() + PATIENCE;
        // Held still for an instant, to see whether an order is half written.
        let mid_write = loop {
            processes::signal(&here, Signal::STOP);
            if ledger::read(&self.stage.ledger())?.open {
                break true;
            }
            if Instant::now() > deadline {
                break false;
            }
            processes::signal(&here, Signal::CONT);
            self.pause()?;
        };
        let at = Timestamp::now();
        let killed = processes::kill(&here)?;
        let taken = ledger::read(&self.stage.ledger())?.of("a").count();
        let last = ledger::read(&self.stage.ledger())?.last_number();
        self.narrator.remark(&format!(
            "{} killed by SIGKILL. {taken} orders were acknowledged; order {last} was half written.",
            if killed == 1 { "1 process was".to_owned() } else { format!("{killed} processes were") }
        ))?;
        Ok(Lost { at, mid_write, copy: fingerprint(&self.a.place().data())? })
    }

    /// B becomes the primary, and says before what it will be.
    fn take_over(&mut self) -> Result<Timestamp, Failure> {
        self.narrator.act("Host B takes over.")?;
        let announced = self.announced()?;
        self.b.mainstay(&mut self.narrator, &["takeover", "shop", "--yes"])?.must()?;
        self.wait("the shop on B to sell", |entries| entries.of("b").count() > 0)?;
        let taken = self.sell("b")?;
        self.narrator.remark(&format!("Customers order at B: {taken} orders so far."))?;
        Ok(announced)
    }

    /// A comes back and wants to go on where it was.
    fn come_back(&mut self, lost: &Lost) -> Result<Back, Failure> {
        self.narrator.act("Host A comes back, and starts its shop as it always did.")?;
        let started = self.a.script(&mut self.narrator, "start-shop")?.well()
            || !processes::below(self.a.place().directory()).is_empty();
        self.narrator.remark(
            "The gate is shut, so nothing was started: this is no message that A could ignore.",
        )?;
        let backed_up = self.a.mainstay(&mut self.narrator, &["backup", "shop"])?.well();
        self.narrator
            .remark("Nor does the vault take anything from it: its generation is over.")?;
        let unchanged = fingerprint(&self.a.place().data())? == lost.copy;
        Ok(Back { started, backed_up, unchanged })
    }

    /// The shop closes, and everything is counted.
    fn count(&mut self, lost: &Lost, announced: Timestamp, back: &Back) -> Result<End, Failure> {
        self.narrator.act("Closing time: everything is counted.")?;
        self.a.mainstay(&mut self.narrator, &["status", "shop"])?;
        self.b.mainstay(&mut self.narrator, &["status", "shop"])?;
        let roles = [self.role("a")?, self.role("b")?];
        self.close()?;
        let ledger = ledger::read(&self.stage.ledger())?;
        let books = self.kind.books(self.b.place())?;
        let (checker, sound) = self.sound()?;
        let evidence = Evidence {
            checker,
            sound,
            seeds: self.kind.seeds(),
            killed: lost.at,
            mid_write: lost.mid_write,
            a_started: back.started,
            a_backed_up: back.backed_up,
            a_unchanged: back.unchanged,
            ledger,
            books,
            announced,
            roles,
        };
        let loss = judge::loss(&evidence);
        let checks = judge::checks(&evidence);
        let first_of_b = evidence.ledger.of("b").map(|ack| ack.at).min().unwrap_or(lost.at);
        let outage = Duration::try_from(first_of_b.duration_since(lost.at)).unwrap_or_default();
        self.narrator.verdict(&loss, outage, &checks)?;
        Ok(End { loss, outage, checks, steps: self.narrator.steps().to_vec() })
    }

    /// What takeover would do, before it does it: the source time of the point that B holds.
    fn announced(&self) -> Result<Timestamp, Failure> {
        let plan = self.b.ask(&["takeover", "shop", "--dry-run"])?;
        let time = find(&plan, "kept-until").and_then(Value::as_str);
        time.and_then(|time| time.parse().ok()).ok_or_else(|| {
            Failure::new(Class::Failed, "takeover did not say which point B holds")
                .listing(vec![plan.to_string()])
        })
    }

    /// Whether B's copy is sound, and who says so.
    fn sound(&mut self) -> Result<(&'static str, Result<String, String>), Failure> {
        let who = match self.kind {
            Kind::Sqlite => "PRAGMA integrity_check finds B's database sound",
            Kind::Postgres => "pg_amcheck finds B's database sound",
            Kind::Files => "B's tree is the vault's, byte for byte",
        };
        let found = match self.kind {
            Kind::Files => return Ok((who, self.compare_with_vault()?)),
            kind => kind.unsound(self.b.place())?,
        };
        Ok((who, found.map_or(Ok("it found nothing wrong".to_owned()), Err)))
    }

    /// Restores the head, which is the point that B took over with, and compares every file. What B's shop wrote since
    /// (the till, orders of its own) is judged by its books.
    fn compare_with_vault(&mut self) -> Result<Result<String, String>, Failure> {
        let target = self.b.place().directory().join("check");
        let words = ["restore", "shop", "--target", "check"];
        self.b.mainstay(&mut self.narrator, &words)?.must()?;
        let (vault, here) = (fingerprint(&target)?, fingerprint(&self.b.place().data())?);
        let differs = vault.iter().find(|(name, print)| {
            name.as_path() != Path::new("till") && here.get(*name) != Some(*print)
        });
        Ok(match differs {
            Some((name, _)) => Err(format!("{} differs", name.display())),
            None if vault.is_empty() => Err("the point holds nothing".to_owned()),
            None => Ok(format!("{} files compared", vault.len())),
        })
    }

    /// A host's role, as `status` has it.
    fn role(&self, host: &'static str) -> Result<String, Failure> {
        let asked = if host == "a" { &self.a } else { &self.b };
        let status = asked.ask(&["status", "shop"])?;
        Ok(find(&status, "role").and_then(Value::as_str).unwrap_or("unknown").to_owned())
    }

    /// Customers stop ordering. The server of a database stays, so that it can be asked.
    fn close(&self) -> Result<(), Failure> {
        let run = self.b.place().run();
        processes::signal(&run, Signal::TERM);
        self.until("the shop on B to close", || Ok(processes::below(&run).is_empty()))
    }

    /// Waits until the shop of a host has taken some more orders, and says how many it has by then.
    fn sell(&self, host: &'static str) -> Result<usize, Failure> {
        let before = ledger::read(&self.stage.ledger())?.of(host).count();
        let mut taken = before;
        self.wait("the shop to sell", |entries| {
            taken = entries.of(host).count();
            taken >= before + ORDERS
        })?;
        Ok(taken)
    }

    fn wait(
        &self,
        what: &str,
        mut reached: impl FnMut(&ledger::Entries) -> bool,
    ) -> Result<(), Failure> {
        self.until(what, || Ok(reached(&ledger::read(&self.stage.ledger())?)))
    }

    fn until(
        &self,
        what: &str,
        mut reached: impl FnMut() -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !reached()? {
            if Instant::now() > deadline {
                return Err(Failure::new(Class::Failed, format!("waited in vain for {what}")));
            }
            self.pause()?;
        }
        Ok(())
    }

    fn pause(&self) -> Result<(), Failure> {
        if self.app.cancel().is_cancelled() {
            return Err(cancelled());
        }
        std::thread::sleep(TICK);
        Ok(())
    }
}

/// What a tree holds, as one number for each file: enough to tell whether anything was written.
fn fingerprint(top: &Path) -> Result<BTreeMap<PathBuf, u64>, Failure> {
    let mut prints = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        let list = |e| Failure::io("list", directory.display(), &e);
        for entry in std::fs::read_dir(&directory).map_err(list)? {
            let entry = entry.map_err(list)?;
            let path = entry.path();
            if entry.file_type().map_err(list)?.is_dir() {
                open.push(path);
            } else {
                let bytes =
                    std::fs::read(&path).map_err(|e| Failure::io("read", path.display(), &e))?;
                let mut hasher = DefaultHasher::new();
                bytes.hash(&mut hasher);
                let name = path.strip_prefix(top).unwrap_or(&path).to_owned();
                prints.insert(name, hasher.finish());
            }
        }
    }
    Ok(prints)
}

/// The first value of this name, wherever it is in the document.
fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => {
            map.get(name).or_else(|| map.values().find_map(|inner| find(inner, name)))
        }
        Value::Array(list) => list.iter().find_map(|inner| find(inner, name)),
        _ => None,
    }
}
