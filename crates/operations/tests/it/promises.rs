//! What changes between a look and the act that follows it: between the confirmation of a takeover
//! and its point of no return, between the plan of a restore and its end.

use jiff::Timestamp;
use mainstay_operations::takeover::{self, MODIFIED, UNFENCED};
use mainstay_operations::{
    Run, ServiceSite, Site, Which, backup, may_start, offline, refresh, restore,
};
use model::state::{FenceProof, Intent, Stopped, TakeoverKind};
use model::{Class, Classify, MemberName, Progress, Role, Secret, ServiceName, SnapshotId};
use repository::{Kdf, Repository};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Two hosts with a tree each: `a` the primary, `b` a standby that holds its first point.
struct Bench {
    dir: TempDir,
    a: ServiceSite,
    b: ServiceSite,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("password"), "correct horse battery staple\n").expect("password");
        let (a, b) = (host(dir.path(), "a", ""), host(dir.path(), "b", ""));
        let password = Secret::new("correct horse battery staple".to_owned());
        Repository::create(a.storage().expect("storage"), &password, Kdf::Fast).expect("create");
        for (site, role) in [(&a, Role::Primary), (&b, Role::Standby)] {
            let join = |s: &mut model::ServiceState| s.join(site.member(), role, Timestamp::now());
            a.state().expect("state").update(join).expect("join");
        }
        let bench = Bench { dir, a, b };
        fs::create_dir(bench.tree("a")).expect("a tree");
        fs::write(bench.tree("a").join("letter"), "dear").expect("a file");
        bench.back_up();
        let newest = refresh::Params::default();
        refresh::run(&bench.b, &newest, &Run::default()).expect("refresh");
        bench
    }

    fn tree(&self, host: &str) -> PathBuf {
        self.dir.path().join(format!("tree-{host}"))
    }

    fn back_up(&self) -> SnapshotId {
        match backup::run(&self.a, &backup::Params::default(), &Run::default()).expect("backup") {
            backup::Done::BackedUp(done) => done.point.snapshot,
            backup::Done::Planned(_) => panic!("no dry run was asked for"),
        }
    }

    fn take_over(
        &self,
        kind: TakeoverKind,
        overrides: &[&str],
    ) -> Result<takeover::Done, mainstay_operations::Error> {
        let reason = |gate: &&str| ((*gate).to_owned(), "the test says so".to_owned());
        let params = takeover::Params {
            kind,
            generation: self.state().generation,
            overrides: overrides.iter().map(reason).collect(),
            patience_seconds: 0,
        };
        takeover::run(&self.b, &params, &Run::default())
    }

    fn state(&self) -> model::ServiceState {
        self.a.load_state().expect("state").state
    }

    fn is_as_before(&self) {
        let state = self.state();
        assert_eq!(state.primary.as_ref(), Some(self.a.member()));
        assert_eq!(state.intent, None, "the claim was given back");
    }
}

fn host(dir: &Path, name: &str, more: &str) -> ServiceSite {
    let shown = dir.display();
    let config = format!(
        "[host]\nname = '{name}'\nstate-dir = '{shown}/state-{name}'\n\
         [vault]\nurl = '{shown}/vault'\npassword-file = '{shown}/password'\n\
         [service.shop]\nengine = 'files'\npath = '{shown}/tree-{name}'\n{more}"
    );
    let config = toml::from_str(&config).expect("a configuration");
    let site = Site::new(config, dir.join(format!("{name}.toml")));
    site.service(&ServiceName::new("shop").expect("a name")).expect("the service")
}

#[test]
fn a_copy_that_was_written_to_after_the_confirmation_does_not_take_over() {
    let bench = Bench::new();
    fs::write(bench.tree("b").join("letter"), "not what was sent").expect("write");
    let error = bench.take_over(TakeoverKind::Unplanned, &[UNFENCED]).expect_err("it is modified");
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert!(error.to_string().contains("letter"), "{error}");
    bench.is_as_before();
    let done = bench.take_over(TakeoverKind::Unplanned, &[UNFENCED, MODIFIED]).expect("overridden");
    assert_eq!(done.from.as_ref(), Some(bench.a.member()));
}

#[test]
fn the_start_gate_stays_shut_until_the_copy_is_promoted() {
    let bench = Bench::new();
    let (store, generation) = (bench.b.state().expect("state"), bench.state().generation);
    let intent = Intent {
        id: "dead".to_owned(),
        kind: TakeoverKind::Unplanned,
        from: Some(bench.a.member().clone()),
        to: bench.b.member().clone(),
        generation,
        claimed: Timestamp::now(),
        fenced: None,
        overrides: BTreeMap::new(),
        raised: false,
    };
    let proof = FenceProof::Override { reason: "the test says so".to_owned() };
    store.update(|state| state.claim(intent.clone())).expect("claim");
    store.update(|state| state.fenced("dead", proof.clone())).expect("fenced");
    store.update(|state| state.raise("dead", Timestamp::now())).expect("raise");
    let answer = may_start::ask(&bench.b).expect("an answer");
    assert!(!answer.allowed && answer.why.contains("not promoted yet"), "{answer:?}");
}

#[test]
fn a_copy_that_is_wanted_as_it_is_is_not_refreshed() {
    let bench = Bench::new();
    fs::write(bench.tree("b").join("letter"), "not what was sent").expect("write");
    fs::write(bench.tree("a").join("letter"), "what b would be refreshed to").expect("write");
    bench.back_up();
    bench.take_over(TakeoverKind::Unplanned, &[UNFENCED, MODIFIED]).expect("overridden");
    let kept = fs::read_to_string(bench.tree("b").join("letter")).expect("read");
    assert_eq!(kept, "not what was sent");
}

#[test]
fn a_planned_takeover_needs_the_last_point_itself() {
    let bench = Bench::new();
    let head = bench.state().head.expect("a head").snapshot;
    // The old primary stopped after a point that lacks something, so that it is not the head.
    let lacking = SnapshotId([7; 32]);
    let stop = |last_point| {
        let update = bench.a.state().expect("state").update(|state| {
            let mut point = state.points[0].clone();
            (point.snapshot, point.incomplete) = (lacking, true);
            state.commit(point)?;
            let stopped = Stopped {
                generation: state.generation,
                at: Timestamp::now(),
                last_point: Some(last_point),
                last_position: None,
                unguarded: false,
            };
            state.stopped(bench.a.member(), Some(stopped))
        });
        update.expect("stopped");
    };
    stop(lacking);
    let error = bench.take_over(TakeoverKind::Planned, &[]).expect_err("it would lose data");
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert!(error.to_string().contains("incomplete"), "{error}");
    bench.is_as_before();
    stop(head);
    bench.take_over(TakeoverKind::Planned, &[]).expect("it holds the last point");
}

#[test]
fn a_stopped_primary_may_be_backed_up_once_more() {
    let bench = Bench::new();
    offline::run(&bench.a, &Run::default()).expect("offline");
    bench.back_up();
    bench.take_over(TakeoverKind::Planned, &[]).expect("nothing is lost");
}

#[test]
fn a_claim_is_given_back_by_its_id() {
    let bench = Bench::new();
    let claim = |id: &str| Intent {
        id: id.to_owned(),
        kind: TakeoverKind::Planned,
        from: Some(bench.a.member().clone()),
        to: MemberName::new("b").expect("a name"),
        generation: bench.state().generation,
        claimed: Timestamp::now(),
        fenced: None,
        overrides: BTreeMap::new(),
        raised: false,
    };
    let state = bench.a.state().expect("state");
    state.update(|state| state.claim(claim("the-living"))).expect("claim");
    let error = takeover::abandon(&bench.a, "the-dead").expect_err("it is another one");
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert_eq!(bench.state().intent.map(|intent| intent.id).as_deref(), Some("the-living"));
    takeover::abandon(&bench.a, "the-living").expect("abandon");
    assert_eq!(bench.state().intent, None);
}

/// Does something when an operation gets to a phase.
struct At<F>(&'static str, F);

impl<F: Fn() + Send + Sync> Progress for At<F> {
    fn phase(&self, what: &str) {
        if what == self.0 {
            self.1();
        }
    }
}

#[test]
fn what_somebody_puts_in_the_place_of_a_restore_meanwhile_survives() {
    let bench = Bench::new();
    let target = bench.dir.path().join("target");
    fs::create_dir(&target).expect("an empty directory");
    let params = restore::Params {
        which: Which::Latest,
        target: Some(target.clone()),
        as_name: None,
        delta: false,
        replace: false,
        no_start: false,
        dry_run: false,
        end: Default::default(),
        partial: false,
        no_lock: false,
    };
    let file = target.join("new");
    let mine = file.clone();
    let intruder = At("restoring", move || fs::write(&mine, "mine").expect("intrude"));
    let run = Run { progress: Arc::new(intruder), ..Run::default() };
    let error = restore::run(&bench.a, &params, &run).expect_err("it is not empty any more");
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
    fs::remove_file(&file).expect("remove");
    restore::run(&bench.a, &params, &Run::default()).expect("restore");
    assert_eq!(fs::read_to_string(target.join("letter")).expect("restored"), "dear");
}

#[test]
fn nobody_else_sees_what_a_host_keeps() {
    let bench = Bench::new();
    for site in [&bench.a, &bench.b] {
        let operations = site.dir().join("operations");
        for dir in operations.ancestors().take(4) {
            let mode = fs::metadata(dir).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", dir.display());
        }
    }
}

#[test]
fn a_primary_that_was_taken_over_while_it_was_stopped_for_a_backup_stays_stopped() {
    let bench = Bench::new();
    let shown = bench.dir.path().display();
    let runs = bench.dir.path().join("runs");
    let file = runs.display();
    let stoppable = host(
        bench.dir.path(),
        "a",
        &format!(
            "quiesce = 'stop'\nstart = 'touch {file}'\nstop = 'rm -f {file}'\n\
             status = 'test -e {file}'\n"
        ),
    );
    // A guardian that does nothing but say that it is there.
    let guardian = bench.dir.path().join("guardian");
    let said = format!("{shown}/state-a/services/shop/operations/$5/guardian.ready");
    fs::write(&guardian, format!("#!/bin/sh\n: > {said}\n")).expect("write");
    fs::set_permissions(&guardian, fs::Permissions::from_mode(0o700)).expect("mode");
    let site = stoppable.site().clone().with_program(guardian);
    let a = site.service(stoppable.name()).expect("the service");
    fs::write(&runs, "").expect("it runs");
    let back_up = |run: &Run| backup::run(&a, &backup::Params::default(), run);
    back_up(&Run::default()).expect("a backup");
    assert!(runs.exists(), "it was started again");

    let b = bench.b.clone();
    let taken = At("reading the service", move || {
        let reason = "the host was thought to be lost".to_owned();
        let params = takeover::Params {
            kind: TakeoverKind::Unplanned,
            generation: b.load_state().expect("state").state.generation,
            overrides: BTreeMap::from([(UNFENCED.to_owned(), reason)]),
            patience_seconds: 0,
        };
        takeover::run(&b, &params, &Run::default()).expect("takeover");
    });
    let run = Run { progress: Arc::new(taken), ..Run::default() };
    back_up(&run).expect_err("it is of an old generation");
    assert!(!runs.exists(), "two primaries would serve");
}
