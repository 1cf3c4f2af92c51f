//! SIGKILL at every line of the journals of a takeover, of the `offline` before a planned one, and of the
//! rejoin after it: at that very moment no two servers accept writes, everybody who asks is told the same
//! of who is the primary, and the next command brings it to its end, whichever that is.
//!
//! The lines are not written down here: a round in which nobody dies has them. Then the two hosts change
//! places round by round, and each round is killed at the next line of each. The oracle are numbered rows,
//! and at the end the whole history, replayed from the first base on over every takeover.

use super::gaps::{beside, status};
use super::receiving::restored;
use super::*;
use crate::world::{lines_in, operations_in, unfinished_in};

const STREAMS: &str = "stream-from = 'postgres://postgres@/?host=OTHER'";
const UNPLANNED: &[&str] = &["takeover", "shop", "--yes"];
const PLANNED: &[&str] = &["takeover", "shop", "--planned", "--yes"];
const IMPATIENT: &[&str] = &["takeover", "shop", "--planned", "--yes", "--patience", "1s"];
const OFFLINE: &[&str] = &["offline", "shop"];
const REJOIN: &[&str] = &["rejoin", "shop"];

/// Where an operation is killed: at this line of all that it has.
#[derive(Clone, Copy)]
struct Death<'a> {
    lines: &'a [String],
    at: &'a str,
}

impl Death<'_> {
    /// Whether this line had been written by then.
    #[track_caller]
    fn past(self, line: &str) -> bool {
        let place = |wanted: &str| self.lines.iter().position(|line| line == wanted);
        assert!(place(line).is_some(), "no {line} in {:?}", self.lines);
        place(self.at) >= place(line)
    }
}

/// The lines of the operations of a round in which nobody died.
#[derive(Default)]
struct Lines {
    offline: Vec<String>,
    takeover: Vec<String>,
    rejoin: Vec<String>,
}

/// What a round is about.
#[derive(Clone, Copy)]
struct Round<'a> {
    /// What is done next after a death goes by this.
    number: usize,
    lines: Option<&'a Lines>,
}

impl<'a> Round<'a> {
    fn death(self, of: fn(&Lines) -> &Vec<String>) -> Option<Death<'a>> {
        let lines = of(self.lines?);
        Some(Death { lines, at: &lines[self.number % lines.len()] })
    }
}

/// Two hosts, one of which is the primary.
struct Pair<'a> {
    stage: &'a Stage,
    old: &'a Host,
    new: &'a Host,
    generation: u64,
}

fn operations(host: &Host) -> PathBuf {
    host.home().join("state/services/shop/operations")
}

fn name(host: &Host) -> &'static str {
    if host.home().ends_with("a") { "a" } else { "b" }
}

/// Carries it out; its lines, if nobody kills it.
#[track_caller]
fn killed(host: &Host, words: &[&str], death: Option<Death<'_>>) -> Vec<String> {
    let Some(Death { at, .. }) = death else {
        host.run(words).code(0);
        let dir = operations_in(&operations(host)).pop().unwrap();
        assert!(dir.to_string_lossy().contains(&format!("-{}-", words[0])), "{dir:?}");
        return lines_in(&dir);
    };
    let said = run(host.command(words).env("MAINSTAY_TEST_KILL_AT", at));
    said.code(137).complains("What it left is cleaned up by the next command on the service.");
    Vec::new()
}

/// Somebody gives a command on the host of an operation that died, and is told of that.
#[track_caller]
fn told(host: &Host, words: &[&str]) -> Said {
    let dead = unfinished_in(&operations(host));
    let said = host.run(words);
    for dir in dead {
        let id = dir.file_name().unwrap().to_string_lossy().into_owned();
        let all = format!("{}{}", said.out, said.err);
        assert!(all.contains(&format!("{id} had died")), "{words:?}: {said:#?}");
    }
    assert_eq!(unfinished_in(&operations(host)), [] as [PathBuf; 0], "{words:?}: {said:#?}");
    said
}

/// Whether a server would take a write at this moment.
fn accepts(host: &Host) -> bool {
    let asked = host.server.try_sql("postgres", "SELECT NOT pg_is_in_recovery()");
    asked.status.success() && asked.stdout.trim_ascii() == b"t"
}

fn follows(host: &Host, newest: u64) {
    host.server.eventually(&format!(
        "SELECT pg_is_in_recovery() AND (SELECT max(n) FROM orders) = {newest}"
    ));
    assert_eq!(host.newest(), newest);
}

impl Pair<'_> {
    /// Who accepts writes now, and whom both hosts take for the primary.
    #[track_caller]
    fn is(&self, writes: Option<&Host>, primary: &Host, generation: u64, claimed: bool, why: &str) {
        for host in [self.old, self.new] {
            let wanted = writes.is_some_and(|writes| name(writes) == name(host));
            assert_eq!(accepts(host), wanted, "{why}: whether {} accepts writes", name(host));
            let seen = status(host).1;
            assert_eq!(seen["primary"], name(primary), "{why}: {seen}");
            assert_eq!(seen["generation"], generation, "{why}: {seen}");
            assert_eq!(seen["takeover"].is_object(), claimed, "{why}: {seen}");
        }
    }

    #[track_caller]
    fn gate(&self, host: &Host, open: bool, why: &str) {
        let said = host.run(&["may-start", "shop"]);
        assert_eq!(said.code, i32::from(!open), "{why}: the gate of {}: {said:#?}", name(host));
    }

    /// The takeover has died here. Looks at both hosts, and does what somebody does next; afterwards it
    /// has come to its end, or to nothing.
    #[track_caller]
    fn after_death(&self, words: &[&str], death: Death<'_>, round: usize, serves: bool) {
        let (at, raised) = (death.at, death.past("raise:done"));
        let (primary, generation) = match raised {
            true => (self.new, self.generation + 1),
            false => (self.old, self.generation),
        };
        let claimed = death.past("claim:done") && !death.past("finish:done");
        let writes = match (death.past("promote:done"), serves) {
            (true, _) => Some(self.new),
            (false, true) => Some(self.old),
            (false, false) => None,
        };
        self.is(writes, primary, generation, claimed, at);
        // Its host may be gone with it.
        if round / 2 % 2 == 1 {
            self.new.server.stop("immediate");
        }
        let again = round.is_multiple_of(3);
        let said = match round % 3 {
            0 => told(self.new, words),
            1 => told(self.new, &["recover", "shop"]).code(0),
            _ => told(self.new, &["run-due"]).code(0),
        };
        if death.past("finish:done") {
            let me = name(self.new);
            match (again, at) {
                (false, _) => {}
                // It has told its end, and who asks once more asks for another one.
                (true, "end") => {
                    drop(said.code(1).complains(&format!("{me} is the primary already")))
                }
                (true, _) => drop(said.code(0).says(&format!("{me} is the primary at generation"))),
            }
            if !self.new.server.runs() {
                self.new.server.start();
            }
            return;
        }
        if raised {
            let told = format!("{}{}", said.out, said.err);
            assert!(told.contains("the takeover was brought to its end"), "{at}: {told}");
            if again {
                said.code(0).says(&format!("{} is the primary at generation", name(self.new)));
            }
            return;
        }
        if death.past("claim:done") {
            let told = format!("{}{}", said.out, said.err);
            assert!(told.contains("the claim was given back"), "{at}: {told}");
        }
        if again && !serves {
            said.code(0);
            return;
        }
        self.is(serves.then_some(self.old), self.old, self.generation, false, at);
    }

    /// The new primary has everything up to here, and the old one is out. Both go on, and the history too.
    #[track_caller]
    fn taken_over(&mut self, newest: u64, why: &str) {
        self.generation += 1;
        self.is(Some(self.new), self.new, self.generation, false, why);
        assert_eq!(self.new.newest(), newest, "{why}");
        if self.generation.is_multiple_of(3) {
            self.new.is_sound();
        }
        self.gate(self.new, true, why);
        self.gate(self.old, false, why);
        assert!(!self.old.server.runs(), "{why}");
        self.old.run(&["backup", "shop"]).code(1);
        self.old.run(&["online", "shop"]).code(1).complains("rejoin");
        self.new.run(&["backup", "shop"]).code(0);
    }

    /// What was the primary becomes a standby, and is killed at that. The two have changed places then.
    #[track_caller]
    fn rejoins(&mut self, round: Round<'_>, streams: bool) -> Vec<String> {
        let (old, new) = (self.old, self.new);
        let death = round.death(|lines| &lines.rejoin);
        let lines = killed(old, REJOIN, death);
        let why = death.map_or("", |death| death.at);
        self.is(Some(new), new, self.generation, false, why);
        let wanted = new.write();
        if let Some(death) = death {
            // Whatever starts services when the host comes back asks the gate. What is let by is a standby.
            let gate = old.run(&["may-start", "shop"]);
            if gate.code == 0 {
                if !old.server.runs() {
                    old.server.start();
                }
                assert_eq!(old.server.sql("SELECT pg_is_in_recovery()"), "t", "{why}");
            } else {
                assert!(!old.server.runs(), "{why}: {gate:#?}");
            }
            let next = round.number % 4;
            let done = match next {
                0 => told(old, REJOIN).code(0),
                1 => told(old, &["recover", "shop"]).code(0),
                2 => told(old, &["run-due"]),
                _ => told(old, &["refresh", "shop"]),
            };
            if !streams && death.past("place:begin") && why != "end" {
                let all = format!("{}{}", done.out, done.err);
                assert!(all.contains("its old copy is at"), "{why}: {done:#?}");
            }
            // A refresh is enough once its copy is in place.
            if matches!(next, 1 | 2) || done.code != 0 {
                old.run(REJOIN).code(0);
            }
        }
        self.is(Some(new), new, self.generation, false, why);
        if streams {
            follows(old, wanted);
        }
        // The old copy is kept once, where it was not rewound; and nothing that is none.
        let kept = beside(old);
        let rewound = streams && !why.starts_with("rewind");
        assert_eq!(kept.len(), usize::from(!rewound), "{why}: {kept:?}");
        for kept in kept {
            let dir = old.home().join(&kept);
            assert!(kept.starts_with("data.diverged-"), "{why}: {kept}");
            assert!(
                !dir.join("standby.signal").exists() || streams,
                "{why}: {kept} is no old copy"
            );
        }
        old.drop_diverged();
        for host in [old, new] {
            assert_eq!(unfinished_in(&operations(host)), [] as [PathBuf; 0], "{why}");
            assert_eq!(beside(host), [] as [String; 0], "{why}");
        }
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name <> 'mainstay_shop'";
        assert_eq!(old.server.sql(slots), "0", "{why}");
        assert_eq!(new.server.sql(slots), "0", "{why}");
        (self.old, self.new) = (new, old);
        lines
    }

    /// The primary is lost, with a part of its log that the standby has and the vault has not.
    #[track_caller]
    fn lost(&mut self, round: Round<'_>) -> Lines {
        let (old, new) = (self.old, self.new);
        old.run(&["wal", "receive", "shop", "--once"]).code(0);
        old.server.sql("SELECT pg_switch_wal()");
        run(&mut old.pgbench(&["-n", "-c", "2", "-t", "10"])).code(0);
        let mut newest = old.write();
        follows(new, newest);
        old.server.stop("immediate");
        self.stage.dead(true);
        let death = round.death(|lines| &lines.takeover);
        let takeover = killed(new, UNPLANNED, death);
        let why = death.map_or("", |death| death.at);
        if let Some(death) = death {
            // From the claim on nobody starts the old one, whose host may be back any moment.
            self.gate(old, !death.past("claim:done"), why);
            self.after_death(UNPLANNED, death, round.number, false);
            if status(new).1["primary"] == name(old) {
                self.gate(old, true, why);
                if round.number % 3 == 1 {
                    // It is back, and goes on; then it is lost again.
                    if !new.server.runs() {
                        new.server.start();
                    }
                    old.server.start();
                    newest = old.write();
                    follows(new, newest);
                    old.server.stop("immediate");
                }
                new.run(UNPLANNED).code(0);
            }
        }
        self.stage.dead(false);
        self.taken_over(newest, why);
        let rejoin = self.rejoins(round, true);
        Lines { takeover, rejoin, ..Lines::default() }
    }

    /// The primary is stopped for it, and everything is killed that takes part.
    #[track_caller]
    fn planned(&mut self, round: Round<'_>) -> Lines {
        let (old, new) = (self.old, self.new);
        old.write();
        run(&mut old.pgbench(&["-n", "-c", "2", "-t", "10"])).code(0);
        let death = round.death(|lines| &lines.takeover);
        let why = death.map_or("", |death| death.at);
        let early = death.filter(|death| !death.past("fence:done"));
        if let Some(death) = early {
            // The old one serves on, and nobody is in its way.
            killed(new, PLANNED, Some(death));
            self.gate(old, true, why);
            old.write();
            self.after_death(IMPATIENT, death, round.number, true);
            self.gate(old, true, why);
        }
        let newest = old.write();
        let offline = self.stops(round);
        let mut takeover = Vec::new();
        match death.filter(|_| early.is_none()) {
            None => takeover = killed(new, PLANNED, None),
            Some(death) => {
                killed(new, PLANNED, Some(death));
                // It is counted on not to serve.
                self.gate(old, false, why);
                old.run(&["online", "shop"]).code(1);
                assert!(!old.server.runs(), "{why}");
                self.after_death(PLANNED, death, round.number, false);
                if status(new).1["primary"] == name(old) {
                    new.run(PLANNED).code(0);
                }
            }
        }
        self.taken_over(newest, why);
        let rejoin = self.rejoins(round, false);
        Lines { offline, takeover, rejoin }
    }

    /// The primary is taken offline, and that is killed.
    #[track_caller]
    fn stops(&self, round: Round<'_>) -> Vec<String> {
        let (old, new) = (self.old, self.new);
        let death = round.death(|lines| &lines.offline);
        let lines = killed(old, OFFLINE, death);
        let Some(death) = death else { return lines };
        let why = &format!("offline {}", death.at);
        let runs = !death.past("stop:done");
        self.is(runs.then_some(old), old, self.generation, false, why);
        self.gate(old, !death.past("close:done"), why);
        match round.number % 3 {
            // It has not given its word.
            0 if !death.past("say:done") => {
                new.run(IMPATIENT).code(1).complains("did not stop within 1 s");
                self.is(runs.then_some(old), old, self.generation, false, why);
            }
            1 => {
                told(old, &["online", "shop"]).code(0);
                self.is(Some(old), old, self.generation, false, why);
                self.gate(old, true, why);
            }
            _ => {
                told(old, &["run-due"]).code(0);
            }
        }
        told(old, OFFLINE).code(0);
        self.is(None, old, self.generation, false, why);
        lines
    }
}

/// The whole history leads from the first base to here.
#[track_caller]
fn leads_from(first: &str, stage: &Stage, host: &Host) {
    let newest = host.newest();
    let seen = status(host).1;
    assert!(seen["log-gap"].is_null(), "{seen}");
    let copy = restored(stage, host, "copy", &["--snapshot", first]);
    assert_eq!(copy.newest(), newest);
    copy.is_sound();
    host.run(&["check", "shop", "--read-data"]).code(0);
}

/// Plays every other round, so that two tests share them.
fn play(
    settings: &str,
    definition: &str,
    part: usize,
    play: fn(&mut Pair<'_>, Round<'_>) -> Lines,
) {
    let stage = Stage::with(settings, definition);
    run(&mut stage.a.pgbench(&["-i", "-s", "1", "-q"])).code(0);
    stage.a.write();
    let made = stage.a.run(&["backup", "shop", "--json"]).code(0).json();
    let first = made["services"][0]["point"]["snapshot"].as_str().unwrap().to_owned();
    stage.b.run(&["refresh", "shop"]).code(0);
    let mut pair = Pair { stage: &stage, old: &stage.a, new: &stage.b, generation: 1 };
    let lines = play(&mut pair, Round { number: 0, lines: None });
    let most = lines.takeover.len().max(lines.rejoin.len());
    assert!(most >= 16, "{:?} {:?}", lines.takeover, lines.rejoin);
    for number in (part..most).step_by(2) {
        play(&mut pair, Round { number, lines: Some(&lines) });
    }
    let last = pair.old;
    last.write();
    match settings.contains("archive_mode = on") {
        true => last.archived(),
        false => drop(last.run(&["wal", "receive", "shop", "--once"]).code(0)),
    }
    leads_from(&first, &stage, last);
}

/// Nothing of the log comes into the vault by itself, and recovering the old one keeps what is rewound.
const RECEIVED: &str = "archive_mode = off\nmax_slot_wal_keep_size = 1GB\nwal_keep_size = 1GB";

#[test]
fn a_primary_is_lost_and_whoever_takes_over_dies() {
    play(RECEIVED, STREAMS, 0, |pair, round| pair.lost(round));
}

#[test]
fn a_primary_is_lost_and_whoever_takes_over_dies_at_the_other_lines() {
    play(RECEIVED, STREAMS, 1, |pair, round| pair.lost(round));
}

#[test]
fn a_primary_is_stopped_and_whoever_takes_over_dies() {
    play("archive_mode = on", "", 0, |pair, round| pair.planned(round));
}

#[test]
fn a_primary_is_stopped_and_whoever_takes_over_dies_at_the_other_lines() {
    play("archive_mode = on", "", 1, |pair, round| pair.planned(round));
}
