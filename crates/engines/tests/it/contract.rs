//! One suite for every engine: what `operations` counts on, whatever the service is.
//!
//! An engine joins with a [`Fixture`] and one line of `contract_suite!`.

use crate::sink::{DirSink, FULL, copy_tree};
use crate::support::{Bench, eventually};
use jiff::Timestamp;
use mainstay_engines::{
    Captured, Engine, Purpose, Root, RootKind, Running, SnapshotMeta, Staged, TreeOptions,
};
use model::config::Service;
use model::{CancelToken, Class, Classify, Generation, MemberName, ServiceName};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A real service of one engine, with data, running if it is of the kind that runs. Its data is
/// numbered: write after write, from 1.
pub(crate) trait Fixture: Sync {
    fn bench(&self) -> &Bench;

    /// The service's definition.
    fn definition(&self) -> Service;

    /// A definition of the same kind where nothing is.
    fn absent(&self) -> Service;

    /// Commits the next write and returns its number.
    fn write(&self) -> u64;

    /// The number of the newest write that the service holds; panics if one before it is missing.
    fn newest(&self) -> u64;

    /// The same for a copy that was prepared for [`Purpose::Scratch`].
    fn newest_in(&self, copy: &[Staged]) -> u64;

    /// What a capture must leave as it was: files that are there, modes the server is in.
    fn footprint(&self) -> String;

    fn name(&self) -> ServiceName {
        ServiceName::new("subject").expect("a name")
    }

    fn open(&self, definition: &Service) -> Box<dyn Engine> {
        mainstay_engines::open(&self.name(), definition).expect("the engine")
    }

    fn engine(&self) -> Box<dyn Engine> {
        self.open(&self.definition())
    }
}

/// Makes the suite's tests for one engine: `contract_suite!(files, Fixture::new())`.
macro_rules! contract_suite {
    ($engine:ident, $fixture:expr) => {
        mod $engine {
            $crate::contract::contract_suite!(@case $fixture, captures_while_it_is_written_to);
            $crate::contract::contract_suite!(@case $fixture, captures_the_same_twice);
            $crate::contract::contract_suite!(@case $fixture, a_failing_sink_fails_the_capture_and_harms_nothing);
            $crate::contract::contract_suite!(@case $fixture, a_cancel_ends_the_capture_and_harms_nothing);
            $crate::contract::contract_suite!(@case $fixture, where_nothing_is_it_says_so);
            $crate::contract::contract_suite!(@case $fixture, starts_and_stops_again_and_again);
            $crate::contract::contract_suite!(@case $fixture, goes_back_to_a_captured_point);
            $crate::contract::contract_suite!(@case $fixture, refuses_what_was_not_restored);
        }
    };
    (@case $fixture:expr, $case:ident) => {
        #[test]
        fn $case() {
            $crate::contract::$case(&$fixture);
        }
    };
}
pub(crate) use contract_suite;

/// What a snapshot of it would say.
pub(crate) fn meta(
    fixture: &dyn Fixture,
    engine: &dyn Engine,
    captured: &Captured,
) -> SnapshotMeta {
    SnapshotMeta {
        format: 1,
        service: fixture.name(),
        definition: fixture.definition(),
        generation: Generation::FIRST,
        member: MemberName::new("host1").expect("a name"),
        source_time: captured.source_time,
        position: captured.position.clone(),
        engine_version: captured.engine_version.clone(),
        roots: engine.roots(),
        detail: captured.detail.clone(),
    }
}

/// "Restores" what the sink holds into a new directory.
pub(crate) fn stage(sink: &DirSink, roots: &[Root], into: &Path) -> Vec<Staged> {
    fs::create_dir_all(into).expect("staging");
    let one = |(at, root): (usize, &Root)| {
        let staged = into.join(format!("root-{at}"));
        copy_tree(&sink.at(&root.in_snapshot), &staged, &TreeOptions::default()).expect("restore");
        Staged { root: root.clone(), staged, target: root.on_host.clone() }
    };
    roots.iter().enumerate().map(one).collect()
}

/// A place of this name that is not taken.
fn fresh(bench: &Bench, name: &str) -> PathBuf {
    (0..).map(|n| bench.path(&format!("{name}-{n}"))).find(|p| !p.exists()).expect("a free name")
}

/// One capture, each with a scratch directory of its own, as each operation has.
pub(crate) fn capture(
    fixture: &dyn Fixture,
    engine: &dyn Engine,
    cancel: &CancelToken,
    arm: impl FnOnce(DirSink) -> DirSink,
) -> (Result<Captured, mainstay_engines::Error>, DirSink) {
    let bench = fixture.bench();
    let scratch = fresh(bench, "scratch");
    fs::create_dir(&scratch).expect("scratch");
    let mut cx = bench.cx();
    cx.scratch = &scratch;
    cx.cancel = cancel;
    let mut sink = arm(DirSink::new(fresh(bench, "snapshot"), cancel));
    let captured = engine.capture(&cx, &mut sink);
    (captured, sink)
}

pub(crate) fn captures_while_it_is_written_to(fixture: &dyn Fixture) {
    let engine = fixture.engine();
    let bench = fixture.bench();
    let (stop, newest) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                newest.store(fixture.write(), Ordering::SeqCst);
            }
        });
        // Whatever fails below, the writer must end.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("some writes", || newest.load(Ordering::SeqCst) > 3);
            for round in 0..3 {
                let (from, before) = (Timestamp::now(), newest.load(Ordering::SeqCst));
                let (captured, sink) =
                    capture(fixture, engine.as_ref(), &CancelToken::new(), |sink| sink);
                let captured = captured.expect("a capture");
                // A script may tell the time in whole seconds.
                let second = jiff::SignedDuration::from_secs(1);
                assert!(captured.source_time > from - second, "older than the capture");
                assert!(captured.source_time <= Timestamp::now(), "in the future");

                let copy = stage(&sink, &engine.roots(), &fresh(bench, "staging"));
                let meta = meta(fixture, engine.as_ref(), &captured);
                let scratch = Purpose::Scratch { until: None };
                engine.prepare(&bench.cx(), &meta, &copy, &scratch).expect("prepare");
                let verdict = engine.check(&bench.cx(), &copy).expect("check");
                assert!(verdict.sound, "{:?}", verdict.findings);
                assert!(!verdict.findings.is_empty(), "a verdict says what was checked");
                let found = fixture.newest_in(&copy);
                assert!(found >= before, "round {round}: {found} where {before} was committed");
            }
        }));
        stop.store(true, Ordering::SeqCst);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    fixture.write();
}

pub(crate) fn captures_the_same_twice(fixture: &dyn Fixture) {
    let engine = fixture.engine();
    let mut found = Vec::new();
    for _ in 0..2 {
        let before = fixture.footprint();
        let (captured, sink) = capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s);
        let captured = captured.expect("a capture");
        assert_eq!(fixture.footprint(), before, "a capture leaves the service as it was");
        // Every root that the engine names is in the snapshot, as what it says.
        for root in engine.roots() {
            let kind = fs::metadata(sink.at(&root.in_snapshot)).expect("the root was captured");
            assert_eq!(kind.is_file(), root.kind == RootKind::File, "{root:?}");
        }
        let copy = stage(&sink, &engine.roots(), &fresh(fixture.bench(), "staging"));
        let meta = meta(fixture, engine.as_ref(), &captured);
        let purpose = Purpose::Scratch { until: None };
        engine.prepare(&fixture.bench().cx(), &meta, &copy, &purpose).expect("prepare");
        found.push(fixture.newest_in(&copy));
    }
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], fixture.newest());
}

pub(crate) fn a_failing_sink_fails_the_capture_and_harms_nothing(fixture: &dyn Fixture) {
    let engine = fixture.engine();
    let (captured, sink) = capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s);
    captured.expect("a capture");
    assert!(!sink.calls.is_empty());
    for call in 0..sink.calls.len() {
        let before = fixture.footprint();
        let (captured, _) =
            capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s.failing_at(call));
        let error = captured.expect_err("the sink failed");
        assert!(error.to_string().contains(FULL), "call {call}: {error}");
        assert_eq!(error.class(), Class::NoSpace, "call {call}");
        assert_eq!(fixture.footprint(), before, "call {call}");
        fixture.write();
    }
    let (captured, _) = capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s);
    captured.expect("a capture after the failures");
}

pub(crate) fn a_cancel_ends_the_capture_and_harms_nothing(fixture: &dyn Fixture) {
    let engine = fixture.engine();
    let before = fixture.footprint();
    let cancelled = CancelToken::new();
    cancelled.cancel();
    let (captured, sink) = capture(fixture, engine.as_ref(), &cancelled, |s| s);
    assert_eq!(captured.expect_err("cancelled before").class(), Class::Cancelled);
    assert!(sink.calls.is_empty(), "nothing is captured after a cancel: {:?}", sink.calls);
    let (captured, _) =
        capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s.cancelling_at(0));
    assert_eq!(captured.expect_err("cancelled in the midst").class(), Class::Cancelled);
    assert_eq!(fixture.footprint(), before);
    fixture.write();
    let (captured, _) = capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s);
    captured.expect("a capture after the cancels");
}

pub(crate) fn where_nothing_is_it_says_so(fixture: &dyn Fixture) {
    let absent = fixture.open(&fixture.absent());
    let inspection = absent.inspect(&fixture.bench().cx()).expect("nothing is no error");
    assert!(!inspection.has_data, "{inspection:?}");
    assert_ne!(inspection.running, Running::Yes);
    assert!(!inspection.summary.is_empty());
    let (captured, _) = capture(fixture, absent.as_ref(), &CancelToken::new(), |s| s);
    let error = captured.expect_err("an absent service must not become an empty point");
    assert!(!error.to_string().is_empty());
    for root in absent.roots() {
        absent.ready_to_replace(&fixture.bench().cx(), &root, &root.on_host).expect("free");
        assert!(!root.on_host.exists(), "{} was made", root.on_host.display());
    }

    let there = fixture.engine().inspect(&fixture.bench().cx()).expect("inspect");
    assert!(there.has_data, "{there:?}");
}

pub(crate) fn starts_and_stops_again_and_again(fixture: &dyn Fixture) {
    let engine = fixture.engine();
    let cx = fixture.bench().cx();
    if !engine.abilities().start_stop {
        let error = engine.stop(&cx).expect_err("it cannot be stopped");
        assert_eq!(error.class(), Class::Invalid, "{error}");
        return;
    }
    engine.start(&cx).expect("start a running one");
    for _ in 0..2 {
        engine.stop(&cx).expect("stop");
        engine.stop(&cx).expect("stop a stopped one");
        assert_eq!(engine.running(&cx).expect("status"), Running::No);
        engine.start(&cx).expect("start");
        engine.start(&cx).expect("start a running one");
        assert_eq!(engine.running(&cx).expect("status"), Running::Yes);
    }
    let newest = fixture.newest();
    assert_eq!(fixture.write(), newest + 1);
}

pub(crate) fn goes_back_to_a_captured_point(fixture: &dyn Fixture) {
    let engine = fixture.engine();
    let bench = fixture.bench();
    let wanted = fixture.write();
    let (captured, sink) = capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s);
    let captured = captured.expect("a capture");
    assert!(fixture.write() > wanted);

    let copy = stage(&sink, &engine.roots(), &fresh(bench, "staging"));
    let meta = meta(fixture, engine.as_ref(), &captured);
    let purpose = Purpose::Primary { until: None };
    engine.prepare(&bench.cx(), &meta, &copy, &purpose).expect("prepare");
    let can_stop = engine.abilities().start_stop;
    if can_stop {
        engine.stop(&bench.cx()).expect("stop");
    }
    for root in &copy {
        for _ in 0..2 {
            engine.ready_to_replace(&bench.cx(), &root.root, &root.target).expect("ready");
        }
        fs::rename(&root.target, fresh(bench, "old")).expect("move the old copy away");
        fs::rename(&root.staged, &root.target).expect("move the restored copy in");
    }
    engine.activate(&bench.cx(), &meta, &purpose).expect("activate");
    if can_stop {
        engine.start(&bench.cx()).expect("start");
    }
    assert_eq!(fixture.newest(), wanted);
    assert_eq!(fixture.write(), wanted + 1);
}

pub(crate) fn refuses_what_was_not_restored(fixture: &dyn Fixture) {
    let engine = fixture.engine();
    let bench = fixture.bench();
    let (captured, sink) = capture(fixture, engine.as_ref(), &CancelToken::new(), |s| s);
    let captured = captured.expect("a capture");
    let copy = stage(&sink, &engine.roots(), &fresh(bench, "staging"));
    for root in &copy {
        fs::rename(&root.staged, fresh(bench, "lost")).expect("lose it");
    }
    let meta = meta(fixture, engine.as_ref(), &captured);
    engine
        .prepare(&bench.cx(), &meta, &copy, &Purpose::Primary { until: None })
        .expect_err("nothing was restored");
}
