//! Many takeovers among hosts that crash, lose the vault, and come back at the worst moment. The
//! steps of the plans are executed against one state, each cut into its effect and the record of
//! it, and anything may happen between the two.
//!
//! What must hold at every instant: at most one host serves. What must hold in the end: whatever
//! was begun is finished or given back, and the service runs.

use crate::support::{UNPLANNED, member, now};
use jiff::Timestamp;
use mainstay_takeover::{
    Assessment, CopyState, Fencing, Observation, Request, Running, Seen, Sighting, Standing, Step,
    assess,
};
use model::state::{Applied, FenceProof, Stopped, TakeoverKind};
use model::{Generation, MemberName, RecoveryPoint, Role, ServiceName, ServiceState, SnapshotId};
use std::collections::BTreeMap;

/// A small generator: the same numbers from the same seed for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

#[derive(Default)]
struct Host {
    up: bool,
    /// Somebody pulled its plug and holds it in their hand.
    unplugged: bool,
    /// It cannot reach the vault.
    cut_off: bool,
    /// Its service answers clients.
    serving: bool,
    /// It asked whether it may start, was told yes, and has not started yet.
    starting: bool,
    /// How many writes its data holds.
    data: u64,
    /// A refresh is under way to this point.
    importing: Option<SnapshotId>,
    fence_hook: bool,
    /// A backup that was captured and is not committed.
    captured: Option<RecoveryPoint>,
    /// A takeover that is executed here.
    run: Option<Run>,
}

struct Run {
    request: Request,
    /// The effect of this step was had and is not recorded.
    half_done: Option<Step>,
    patience: usize,
}

struct World {
    random: Random,
    now: Timestamp,
    state: ServiceState,
    hosts: BTreeMap<MemberName, Host>,
    /// How many writes each point holds.
    points: BTreeMap<SnapshotId, u64>,
    operations: u32,
    log: Vec<String>,
    counts: Counts,
}

#[derive(Default, Debug)]
struct Counts {
    planned: usize,
    unplanned: usize,
    abandoned: usize,
    crashes_of_candidates: usize,
    overrides: usize,
    nothing_lost: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            random: Random(seed),
            now: now(),
            state: ServiceState::new("repository".to_owned(), ServiceName::new("shop").unwrap()),
            hosts: BTreeMap::new(),
            points: BTreeMap::new(),
            operations: 0,
            log: Vec::new(),
            counts: Counts::default(),
        };
        for name in ["a", "b", "c", "d"] {
            let fence_hook = world.random.one_in(2);
            let host = Host { up: true, fence_hook, ..Host::default() };
            world.hosts.insert(member(name), host);
            let role = if name == "a" { Role::Primary } else { Role::Standby };
            world.state.join(&member(name), role, world.now).unwrap();
        }
        world
    }

    fn host(&mut self, name: &MemberName) -> &mut Host {
        self.hosts.get_mut(name).unwrap()
    }

    fn say(&mut self, what: impl std::fmt::Display) {
        self.log.push(what.to_string());
    }

    fn tick(&mut self) {
        self.now += jiff::SignedDuration::from_secs(7);
    }

    /// Anybody, but mostly those who have something to do.
    fn any_host(&mut self) -> MemberName {
        let busy = self.hosts.iter().find(|(_, host)| host.run.is_some());
        let busy = busy.map(|(name, _)| name.clone());
        let asked = self.state.intent.as_ref().and_then(|intent| intent.from.clone());
        match self.random.below(4) {
            0 if busy.is_some() => return busy.unwrap(),
            1 if asked.is_some() => return asked.unwrap(),
            _ => {}
        }
        let at = self.random.below(self.hosts.len());
        self.hosts.keys().nth(at).unwrap().clone()
    }

    fn check(&self) {
        let serving: Vec<&MemberName> =
            self.hosts.iter().filter(|(_, host)| host.serving).map(|(name, _)| name).collect();
        assert!(serving.len() <= 1, "{serving:?} serve at once");
        let primaries =
            self.state.members.values().filter(|member| member.role == Role::Primary).count();
        assert!(primaries <= 1);
    }

    // What hosts do by themselves.

    fn write(&mut self, name: &MemberName) {
        if self.host(name).serving {
            self.host(name).data += 1;
        }
    }

    /// Captures at one moment, commits at another.
    fn back_up(&mut self, name: &MemberName) {
        if self.hosts[name].cut_off {
            return;
        }
        match self.host(name).captured.take() {
            Some(point) => {
                let generation = self.state.generation;
                let committed = self.state.commit(point.clone());
                self.say(format!("{name} commits: {committed:?}"));
                if committed.is_ok() {
                    assert_eq!((point.generation, &point.member), (generation, name));
                }
            }
            None if self.hosts[name].serving => {
                let point = self.capture(name);
                self.host(name).captured = Some(point);
            }
            None => {}
        }
    }

    fn capture(&mut self, name: &MemberName) -> RecoveryPoint {
        let number = u64::try_from(self.points.len()).unwrap() + 1;
        let snapshot = crate::support::id(number << 32);
        self.points.insert(snapshot, self.hosts[name].data);
        RecoveryPoint {
            snapshot,
            member: name.clone(),
            generation: self.state.generation,
            source_time: self.now,
            received: self.now,
            ..crate::support::point(number, 0)
        }
    }

    /// One half of a refresh: the mark before, or the exchange and the record after.
    fn refresh(&mut self, name: &MemberName, to: Option<SnapshotId>) {
        if self.hosts[name].cut_off {
            return;
        }
        match self.hosts[name].importing {
            Some(point) => {
                let data = self.points[&point];
                self.host(name).data = data;
                let at = self.now;
                let source_time = self.state.point(point).map_or(at, |point| point.source_time);
                let applied = Applied { snapshot: point, source_time, position: None, at };
                if self.state.applied(name, Some(applied)).is_ok() {
                    self.host(name).importing = None;
                }
            }
            None => {
                let to = to.or(self.state.head.map(|head| head.snapshot));
                if let Some(point) = to.filter(|_| self.state.importing(name).is_ok()) {
                    self.host(name).importing = Some(point);
                }
            }
        }
    }

    /// The start gate, and the start behind it.
    fn start(&mut self, name: &MemberName) {
        let host = &self.hosts[name];
        if host.starting {
            let host = self.host(name);
            (host.starting, host.serving) = (false, true);
            self.say(format!("{name} serves"));
        } else if !host.serving && !host.cut_off && self.state.may_serve(name).is_ok() {
            self.host(name).starting = true;
        }
    }

    /// The primary stops: at an operator's wish or for a planned takeover. Three moments.
    fn stop(&mut self, name: &MemberName, hand_over: bool) {
        if self.hosts[name].cut_off
            || self.state.require_primary(name, self.state.generation).is_err()
        {
            return;
        }
        let host = self.host(name);
        if host.serving || host.starting {
            (host.serving, host.starting) = (false, false);
            // Whatever was captured before the stop is not the last word.
            host.captured = None;
            return;
        }
        let mut last_point = None;
        if hand_over {
            let point = self.capture(name);
            if self.state.commit(point.clone()).is_err() {
                return;
            }
            last_point = Some(point.snapshot);
        }
        let generation = self.state.generation;
        let stopped =
            Stopped { generation, at: self.now, last_point, last_position: None, unguarded: false };
        let done = self.state.stopped(name, Some(stopped)).is_ok();
        self.say(format!("{name} records its stop ({hand_over}): {done}"));
    }

    fn online(&mut self, name: &MemberName) {
        if !self.hosts[name].cut_off && self.state.primary_stopped().is_some() {
            let done = self.state.stopped(name, None).is_ok();
            self.say(format!("{name} takes its stop back: {done}"));
        }
    }

    /// Everything in memory is gone; what is on disk stays.
    fn crash(&mut self, name: &MemberName) {
        let host = self.host(name);
        let was_running = host.run.take().is_some();
        (host.up, host.serving, host.starting, host.captured) = (false, false, false, None);
        self.counts.crashes_of_candidates += usize::from(was_running);
        self.say(format!("{name} crashes"));
    }

    // What people do.

    /// They ask for a takeover; where they override, they have gone there and pulled the plug.
    fn ask_for_takeover(&mut self, name: &MemberName) {
        if self.hosts[name].run.is_some() || !self.hosts[name].up || self.hosts[name].cut_off {
            return;
        }
        let kind = if self.random.one_in(2) { TakeoverKind::Planned } else { UNPLANNED };
        let as_is = self.random.one_in(4);
        let seen = Seen::of(&self.state);
        let mut request =
            Request { kind, to: name.clone(), overrides: BTreeMap::new(), seen, as_is };
        for gate in ["primary-not-fenced", "takeover-under-way", "behind-another-standby"] {
            if kind == UNPLANNED && self.random.one_in(5) {
                request.overrides.insert(gate.to_owned(), "I have seen to it".to_owned());
            }
        }
        let mut unplug = Vec::new();
        if request.overrides.contains_key("primary-not-fenced") {
            unplug.extend(self.state.primary.clone());
        }
        if request.overrides.contains_key("takeover-under-way") {
            unplug.extend(self.state.intent.as_ref().map(|intent| intent.to.clone()));
        }
        for other in unplug.into_iter().filter(|other| other != name) {
            self.crash(&other);
            self.host(&other).unplugged = true;
        }
        self.counts.overrides += usize::from(!request.overrides.is_empty());
        self.say(format!("{name} is asked to take over: {request:?}"));
        self.host(name).run = Some(Run { request, half_done: None, patience: 40 });
    }

    /// They plug hosts in again once nothing counts on it that they are dark.
    fn tidy_up(&mut self) {
        let counted_on = self
            .hosts
            .values()
            .any(|host| host.run.as_ref().is_some_and(|run| !run.request.overrides.is_empty()));
        if self.state.intent.is_none() && !counted_on {
            self.hosts.values_mut().for_each(|host| host.unplugged = false);
        }
    }

    // The executor.

    fn observe(&self, name: &MemberName) -> Observation {
        let host = &self.hosts[name];
        Observation {
            member: name.clone(),
            has_data: true,
            running: if host.serving { Running::Yes } else { Running::No },
            following: false,
            position: None,
            replayed: None,
            log_until: None,
            importing: host.importing.is_some(),
            gives_way: None,
            copy: CopyState::Untouched,
            fence_hook: host.fence_hook.then(|| "power-off".to_owned()),
            primary: Sighting::Unknown,
        }
    }

    fn assess(&self, name: &MemberName, request: &Request) -> Assessment {
        assess(&self.state, &self.observe(name), request, self.now)
    }

    /// One effect or one record of the takeover that is executed here.
    fn execute(&mut self, name: &MemberName) {
        if self.hosts[name].cut_off || !self.hosts[name].up {
            return;
        }
        let Some(mut run) = self.host(name).run.take() else { return };
        let assessment = self.assess(name, &run.request);
        let standing = match &assessment.standing {
            Standing::Ours { id } | Standing::OnlyForward { id } => Some(id.clone()),
            Standing::Nothing | Standing::Theirs { .. } => None,
        };
        if !assessment.allowed {
            self.say(format!("{name}: {}", assessment.sentence));
            if let Some(id) = standing.filter(|_| assessment.may_abandon() && self.random.one_in(2))
            {
                self.state.abandon(&id).unwrap();
                self.counts.abandoned += 1;
            }
            return;
        }
        let step = match run.half_done.take() {
            Some(step) => step,
            None => {
                let Some(step) = assessment.steps.first().cloned() else { return };
                // Between the assessment and the deed, anything may happen.
                if self.random.one_in(3) {
                    run.half_done = Some(step);
                    self.host(name).run = Some(run);
                    return;
                }
                step
            }
        };
        self.say(format!("{name}: {step}"));
        let id = standing.clone().unwrap_or_default();
        // A record may be refused: the world has changed since the assessment. Then all is assessed
        // anew.
        match step {
            Step::Abandon { id } => drop(self.state.abandon(&id)),
            Step::FinishStanding { id } => drop(self.state.finish(&id, self.now)),
            Step::Claim => {
                let id = standing.unwrap_or_else(|| {
                    self.operations += 1;
                    format!("op{}", self.operations)
                });
                if self.state.claim(assessment.intent(&id, self.now)).is_ok() {
                    run.request.overrides.clear();
                }
            }
            Step::AwaitStop { .. } => {
                run.patience -= 1;
                if run.patience == 0 {
                    drop(self.state.abandon(&id));
                    self.counts.abandoned += 1;
                    return;
                }
            }
            Step::Fence { how: Fencing::Record(proof) } => {
                drop(self.state.fenced(&id, proof));
            }
            Step::Fence { how: Fencing::RunHook { command } } => {
                let target = self.state.intent.as_ref().and_then(|intent| intent.from.clone());
                let step = Step::Fence { how: Fencing::RunHook { command: command.clone() } };
                if let Some(target) = target.filter(|_| self.random.one_in(2)) {
                    self.crash(&target);
                    run.half_done =
                        Some(Step::Fence { how: Fencing::Record(FenceProof::Hook { command }) });
                } else if self.random.one_in(4) {
                    // The hook failed; it is tried again.
                    self.say(format!("{name}: {step} fails"));
                }
            }
            Step::Refresh { to } => self.refresh(name, to.point),
            Step::Raise => self.raise(name, &id, &assessment),
            Step::Promote => {
                if !self.hosts[name].serving {
                    self.start(name);
                }
                // Only what serves is promoted; the rest of the way comes after.
                if self.hosts[name].serving {
                    run.half_done = Some(Step::RouteHook);
                }
            }
            Step::PromotedHook | Step::RouteHook => run.half_done = Some(Step::Finish),
            Step::Finish => {
                drop(self.state.finish(&id, self.now));
                return;
            }
        }
        self.host(name).run = Some(run);
    }

    fn raise(&mut self, name: &MemberName, id: &str, assessment: &Assessment) {
        let old = self.state.primary.clone();
        let before = self.state.generation;
        if self.state.raise(id, self.now).is_err() {
            return;
        }
        assert_eq!(self.state.generation, Generation(before.0 + 1));
        // What was said about the loss is the truth.
        let lost = old.is_some_and(|old| self.hosts[&old].data > self.hosts[name].data);
        if assessment.loss.nothing {
            assert!(!lost, "{}", assessment.loss.sentence);
            self.counts.nothing_lost += 1;
        }
        match assessment.kind {
            TakeoverKind::Planned => {
                assert!(assessment.loss.nothing);
                self.counts.planned += 1;
            }
            TakeoverKind::Unplanned => self.counts.unplanned += 1,
        }
    }

    // Time goes by.

    fn step(&mut self) {
        self.tick();
        let name = self.any_host();
        let host = &self.hosts[&name];
        if !host.up {
            if !host.unplugged && self.random.one_in(2) {
                self.host(&name).up = true;
                self.say(format!("{name} boots"));
            }
            return self.tidy_up();
        }
        let role = self.state.members.get(&name).map(|member| member.role);
        // Mostly those are asked who can.
        let ready = role == Some(Role::Standby)
            && self.random.one_in(3)
            && self.state.members[&name].applied.is_some();
        let planned_from_here = self.state.intent.as_ref().is_some_and(|intent| {
            intent.kind == TakeoverKind::Planned && intent.from.as_ref() == Some(&name)
        });
        match self.random.below(16) {
            0..4 if host.run.is_some() => self.execute(&name),
            0 | 1 => self.write(&name),
            2 | 3 => self.start(&name),
            4 | 5 if planned_from_here => self.stop(&name, true),
            4 | 5 if role == Some(Role::Primary) => self.back_up(&name),
            5..8 if role == Some(Role::Standby) => self.refresh(&name, None),
            6 if self.random.one_in(4) => {
                let hand_over = self.random.one_in(2);
                self.stop(&name, hand_over);
            }
            7 if !planned_from_here || self.random.one_in(4) => self.online(&name),
            8 if self.random.one_in(12) => self.crash(&name),
            9 if self.random.one_in(if host.cut_off { 2 } else { 12 }) => {
                let host = self.host(&name);
                host.cut_off = !host.cut_off;
            }
            10 if role == Some(Role::Broken) && !self.hosts[&name].cut_off => {
                if !self.hosts[&name].serving {
                    drop(self.state.rejoin(&name, self.now));
                    self.host(&name).importing = None;
                }
            }
            11 if self.random.one_in(12) || ready => self.ask_for_takeover(&name),
            _ => self.execute(&name),
        }
        self.tidy_up();
    }

    /// The storm is over: everybody is there, and what stands is brought to its end.
    fn calm(&mut self) {
        for host in self.hosts.values_mut() {
            (host.up, host.unplugged, host.cut_off, host.run) = (true, false, false, None);
        }
        for _ in 0..200 {
            self.tick();
            let Some(intent) = self.state.intent.clone() else { break };
            let to = intent.to.clone();
            // A host that comes back first ends the refresh that was cut short.
            if self.hosts[&to].importing.is_some() {
                self.refresh(&to, None);
                self.check();
                continue;
            }
            let request = Request {
                kind: intent.kind,
                to: to.clone(),
                overrides: BTreeMap::new(),
                seen: Seen::of(&self.state),
                as_is: false,
            };
            if self.hosts[&to].run.is_none() {
                let assessment = self.assess(&to, &request);
                if !assessment.allowed {
                    assert!(assessment.may_abandon(), "stuck: {assessment:#?}");
                    self.state.abandon(&intent.id).unwrap();
                    continue;
                }
                self.host(&to).run = Some(Run { request, half_done: None, patience: 50 });
            }
            let waiting = intent.kind == TakeoverKind::Planned && !intent.raised;
            if let Some(from) = intent.from.filter(|_| waiting)
                && self.state.primary_stopped().is_none()
            {
                self.stop(&from, true);
                self.check();
            }
            self.execute(&to);
            self.check();
        }
        assert_eq!(self.state.intent, None, "neither finished nor given back");
        let primary = self.state.primary.clone().unwrap();
        self.online(&primary);
        for _ in 0..2 {
            self.start(&primary);
            self.check();
        }
        assert!(self.hosts[&primary].serving, "the service does not run");
    }
}

#[test]
fn never_two_primaries_and_always_an_end() {
    // More of them: SIMULATION_SEEDS=100000.
    let seeds = std::env::var("SIMULATION_SEEDS").map_or(1500, |count| count.parse().unwrap());
    let mut all = Counts::default();
    for seed in 0..seeds {
        let mut world = World::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            for _ in 0..1500 {
                world.step();
                world.check();
            }
            world.calm();
        });
        if std::panic::catch_unwind(run).is_err() {
            let tail: Vec<&str> =
                world.log.iter().rev().take(40).rev().map(|l| l.as_str()).collect();
            panic!("seed {seed} fails after:\n{}", tail.join("\n"));
        }
        all.planned += world.counts.planned;
        all.unplanned += world.counts.unplanned;
        all.abandoned += world.counts.abandoned;
        all.crashes_of_candidates += world.counts.crashes_of_candidates;
        all.overrides += world.counts.overrides;
        all.nothing_lost += world.counts.nothing_lost;
    }
    println!("{all:?}");
    for (what, count) in [
        ("planned", all.planned),
        ("unplanned", all.unplanned),
        ("abandoned", all.abandoned),
        ("crashes of candidates", all.crashes_of_candidates),
        ("overrides", all.overrides),
        ("nothing lost", all.nothing_lost),
    ] {
        assert!(count as u64 > seeds / 4, "{what}: only {count}");
    }
}
