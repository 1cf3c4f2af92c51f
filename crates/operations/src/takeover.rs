//! Takeover: this host's standby becomes the primary. What is decided elsewhere is carried out
//! here, in steps of which each is safe to repeat.
//!
//! | step | after it | undone by |
//! |---|---|---|
//! | `claim` | nobody else can claim a takeover of this service | giving the claim back |
//! | `fence` | there is proof that the old primary does not serve | |
//! | final refresh | the standby has all that the vault has; its copy was looked at again | |
//! | `raise` | **point of no return**: new generation, new primary, old one broken | (only forward) |
//! | `promote` | the copy accepts writes | |
//! | `start` | the service runs | |
//! | `hooks` | the service and its clients know; the vault has what only this standby had received, or it is known what it lacks | |
//! | `finish` | the takeover is history | |

use crate::journal::{Entry, Kind, Outcome, Steps};
use crate::operation::{Operation, Run};
use crate::recover::Left;
use crate::wal::HandedOver;
use crate::{Error, MemberRecord, ServiceSite, hooks, preempt, refresh};
use engines::{Purpose, Refresh, Running};
use jiff::Timestamp;
use model::state::{FenceProof, Intent, Stopped, TakeoverKind};
use model::{
    Class, Classify, Generation, MemberName, OperationId, Position, Progress, Role, ServiceState,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The name under which a person overrides that the old primary is not fenced.
pub const UNFENCED: &str = "primary-not-fenced";

/// The name under which a person overrides that somebody wrote to the copy.
pub const MODIFIED: &str = "copy-modified";

/// The name under which a person overrides that another standby holds more.
pub const BEHIND: &str = "behind-another-standby";

/// The name under which a person overrides that the standby does not replay what the vault has.
pub const STANDS_STILL: &str = "replay-stands-still";

/// What is asked for, after the gates were passed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Params {
    /// Planned or unplanned.
    pub kind: TakeoverKind,
    /// The generation that the gates were judged at. Another takeover since then makes the
    /// judgement, and whatever a person overrode, void.
    pub generation: Generation,
    /// Gates that a person overrode, with the reasons they typed.
    pub overrides: BTreeMap<String, String>,
    /// How long a planned takeover waits for the old primary to stop.
    pub patience_seconds: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Done {
    /// The operation.
    pub operation: OperationId,
    /// The new generation.
    pub generation: Generation,
    /// The old primary.
    pub from: Option<MemberName>,
    /// Why it is believed not to serve.
    pub fenced: FenceProof,
    /// The name that its copy goes by now.
    pub old_label: Option<String>,
    /// What the new primary started from, at source time.
    pub source_time: Option<Timestamp>,
    /// What was done and could not be done after the promotion, for people to go through.
    pub checklist: Vec<Item>,
    /// The service runs here.
    pub started: bool,
    /// Seconds from the raised generation to the end of the promotion.
    pub promotion_seconds: f64,
    /// Seconds from the begin of the run until the service ran here, without those that were spent waiting
    /// for somebody to stop the old primary. None if it did not start.
    pub serving_seconds: Option<f64>,
    /// How long the run took.
    pub seconds: f64,
}

/// One line of the checklist.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    /// What.
    pub what: String,
    /// Whether it was done.
    pub done: bool,
    /// How it went.
    pub detail: String,
}

/// Takes over.
pub fn run(site: &ServiceSite, params: &Params, run: &Run) -> Result<Done, Error> {
    let mut operation = begin(site, params, run)?;
    let result = perform(site, &mut operation, params);
    operation.end(site, Kind::Takeover, result, |done| {
        (
            Outcome::Done,
            format!("{} is the primary at generation {}", site.member(), done.generation),
        )
    })
}

/// How often something that gives way may have begun just before the lock was taken.
const TRIES: u32 = 3;

/// Begins, once what gives way to it is over.
fn begin(site: &ServiceSite, params: &Params, run: &Run) -> Result<Operation, Error> {
    let mut tries = 1;
    loop {
        preempt::make_way(site, run)?;
        match Operation::begin(site, Kind::Takeover, params, run) {
            Err(error)
                if error.class() == Class::Locked
                    && tries < TRIES
                    && preempt::in_the_way(site)?.is_some() =>
            {
                tries += 1;
            }
            begun => return begun,
        }
    }
}

fn perform(site: &ServiceSite, operation: &mut Operation, params: &Params) -> Result<Done, Error> {
    let began = Instant::now();
    let id = operation.id().clone();
    let store = site.state()?;
    let before = site.load_state()?.state;
    if before.generation != params.generation {
        return Err(Error::refused(format!(
            "{} was taken over in the meantime: it is at generation {}, and {} was looked at",
            site.name(),
            before.generation,
            params.generation
        ))
        .hinting("Look at it anew with `mainstay status`."));
    }
    let engine = site.engine()?;
    // Before the old primary is fenced for a copy that could not be started. One that runs is promoted by
    // itself.
    if operation.with_context(site, |cx| engine.running(cx))? == Running::No {
        engine.equipped()?;
    }
    // Claims of our own that died before the generation was raised were given back by the sweep;
    // one that is raised was brought to its end by it.
    let from = before.primary.clone();
    operation.step("claim", params, |_| {
        let intent = Intent {
            id: id.to_string(),
            kind: params.kind,
            from: from.clone(),
            to: site.member().clone(),
            generation: before.generation,
            claimed: Timestamp::now(),
            fenced: None,
            overrides: params.overrides.clone(),
            raised: false,
        };
        store.update(|state| state.claim(intent.clone()))?;
        Ok(())
    })?;
    let fencing = Instant::now();
    let fenced = operation.step("fence", (), |operation| {
        operation.report().phase("fencing the old primary");
        let proof = fence(site, operation, params, &from)?;
        store.update(|state| state.fenced(id.as_str(), proof.clone()))?;
        Ok(proof)
    })?;
    // A person stops what is to be planned, when they get to it.
    let waited = match params.kind {
        TakeoverKind::Planned => fencing.elapsed(),
        TakeoverKind::Unplanned => Duration::ZERO,
    };
    let source_time = catch_up(site, operation, params)?;
    look_again(site, operation, params, &from)?;

    // From here on nothing stops it: a cancel is looked at one last time.
    operation.check_cancel()?;
    let raised_at = Instant::now();
    operation.forward("raise", (), |_| raise(site, &id))?;
    let (serving, checklist, promotion_seconds) = {
        let calm = operation.calm(site);
        let cx = calm.context();
        let report = operation.report();
        crate::wal::while_kept(site, &*report, || -> Result<_, Error> {
            let branch = operation.forward("promote", (), |operation| {
                operation.report().phase("promoting");
                promote(site, &cx)
            })?;
            let promotion_seconds = raised_at.elapsed().as_secs_f64();
            let started = operation.forward("start", (), |_| Ok(start(site, &cx)))?;
            let serving = started.done.then(|| began.elapsed().saturating_sub(waited));
            let variables = takeover_variables(site, operation.id(), &from);
            let mut checklist = vec![started.clone()];
            let more = operation
                .forward("hooks", (), |_| Ok(settle(site, &cx, &variables, branch.as_ref())))?;
            checklist.extend(more);
            Ok((serving, checklist, promotion_seconds))
        })?
    };
    let state = operation.forward("finish", (), |_| finish(site, &id, serving))?;
    for item in checklist.iter().filter(|item| !item.done) {
        operation.report().warn(&format!("{}: {}", item.what, item.detail));
    }
    let old_label =
        from.as_ref().and_then(|from| state.members.get(from)).and_then(|m| m.label.clone());
    Ok(Done {
        operation: id,
        generation: state.generation,
        from,
        fenced,
        old_label,
        source_time,
        checklist,
        started: serving.is_some(),
        promotion_seconds,
        serving_seconds: serving.map(|serving| serving.as_secs_f64()),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Finds proof that the old primary does not serve, or fails.
fn fence(
    site: &ServiceSite,
    operation: &Operation,
    params: &Params,
    from: &Option<MemberName>,
) -> Result<FenceProof, Error> {
    let Some(from) = from else { return Ok(FenceProof::NoPrimary) };
    if stopped(&site.load_state()?.state, from).is_some() {
        return Ok(FenceProof::Stopped);
    }
    // What cuts it off must not: it is to hand over first, and then gives its own word.
    if params.kind == TakeoverKind::Planned {
        return wait_for_stop(site, operation, params, from);
    }
    let mut hook_error = None;
    if let Some(command) = &site.spec().hooks.fence {
        let variables = takeover_variables(site, operation.id(), &Some(from.clone()));
        match hooks::run(site, "fence", command, &variables, operation.cancel()) {
            Ok(_) => return Ok(FenceProof::Hook { command: command.clone() }),
            Err(error) => hook_error = Some(error),
        }
    }
    match params.overrides.get(UNFENCED) {
        Some(reason) => Ok(FenceProof::Override { reason: reason.clone() }),
        None => Err(hook_error.unwrap_or_else(|| {
            Error::refused(format!("the old primary {from} is not fenced: it may still serve")).hinting(format!(
                "Configure the hook `fence`, or make sure yourself that it is off and say so with `--override {UNFENCED}=REASON`."
            ))
        })),
    }
}

fn stopped<'a>(state: &'a ServiceState, member: &MemberName) -> Option<&'a Stopped> {
    let stopped = state.members.get(member)?.stopped.as_ref()?;
    (stopped.generation == state.generation).then_some(stopped)
}

fn wait_for_stop(
    site: &ServiceSite,
    operation: &Operation,
    params: &Params,
    from: &MemberName,
) -> Result<FenceProof, Error> {
    let report = operation.report();
    report.phase("waiting for the old primary to stop");
    // Whoever has not done that yet would look at nothing until the patience ends.
    report.warn(&format!(
        "waiting up to {} s for {from} to stop: run `mainstay offline {}` there",
        params.patience_seconds,
        site.name()
    ));
    let deadline = Instant::now() + Duration::from_secs(params.patience_seconds);
    loop {
        operation.check_cancel()?;
        if stopped(&site.load_state()?.state, from).is_some() {
            return Ok(FenceProof::Stopped);
        }
        if Instant::now() >= deadline {
            return Err(Error::new(
                Class::Unavailable,
                format!("{from} did not stop within {} s; the takeover was given up and {from} is still the primary", params.patience_seconds),
            )
            .hinting(format!("Run `mainstay offline {}` on {from}, then this again.", site.name())));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Brings the standby to all that the vault has, and replaces what a scrub found rotten in it. Says the
/// source time it then holds. A copy that was written to, and that a person wants to serve
/// nevertheless, is taken as it is: a refresh would put aside what they want to keep.
fn catch_up(
    site: &ServiceSite,
    operation: &mut Operation,
    params: &Params,
) -> Result<Option<Timestamp>, Error> {
    let state = site.load_state()?.state;
    let record = MemberRecord::load(site)?;
    let engine = site.engine()?;
    let behind = match (state.head, &record.applied) {
        (Some(head), Some(applied)) => head.snapshot != applied.snapshot,
        (Some(_), None) => true,
        (None, _) => false,
    } || record.unloaded.is_some();
    if engine.refresh() == Refresh::Follow {
        operation.report().phase("replaying what the vault has");
        crate::wal::catch_up(site, operation, params.overrides.contains_key(STANDS_STILL))?;
        let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
        let held = record.applied.map(|applied| applied.source_time);
        return Ok(seen.replayed.max(held));
    }
    let as_is = params.kind == TakeoverKind::Unplanned && params.overrides.contains_key(MODIFIED);
    // What was shipped of the log since the newest point is fetched, too.
    let shipped = crate::wal::sqlite::is_meant(site) && record.offline.is_none();
    if (behind || shipped || record.rotten) && !as_is {
        let newest = refresh::Params::default();
        let done = refresh::perform(site, operation, &newest).map_err(|error| {
            if !record.rotten {
                return error;
            }
            let what = "the copy on this host has rotted, and what has cannot be replaced";
            Error::new(error.class(), what).because(error).hinting(format!(
                "Repair what the error names, or build the copy anew with `mainstay refresh {} --reseed`.",
                site.name()
            ))
        })?;
        if let Some(hook) = &done.hook_failed {
            operation.report().warn(&hook.message);
        }
        return Ok(Some(done.source_time));
    }
    if record.rotten {
        operation
            .report()
            .warn("a scrub found that the copy on this host has rotted; it is taken as it is");
    }
    Ok(record.applied.map(|applied| applied.source_time))
}

/// The gates were judged before somebody confirmed, and the old primary may have been waited for
/// since. What can have changed meanwhile is looked at right before the point of no return.
fn look_again(
    site: &ServiceSite,
    operation: &Operation,
    params: &Params,
    from: &Option<MemberName>,
) -> Result<(), Error> {
    operation.report().phase("looking at the copy once more");
    let state = site.load_state()?.state;
    let engine = site.engine()?;
    let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
    let told = |gate: &str| params.overrides.contains_key(gate);
    if !told(MODIFIED) {
        if seen.running == Running::Yes && !seen.following {
            return Err(Error::refused(format!(
                "{} runs on this standby and follows nobody, so its copy may have been written to",
                site.name()
            ))
            .hinting(
                "Look at what is in it; `mainstay refresh --reseed` puts it aside and begins anew.",
            ));
        }
        if engine.refresh() != Refresh::Follow {
            let found = refresh::modified(site)?;
            if !found.is_empty() {
                return Err(Error::refused(format!(
                    "the copy on this host was written to since its last refresh: {}",
                    found.join(", ")
                ))
                .hinting(format!(
                    "`mainstay refresh --reseed` puts it aside and begins anew; or say with `--override {MODIFIED}=REASON` why it may serve."
                )));
            }
        }
    }
    if params.kind == TakeoverKind::Planned {
        return match from.as_ref().and_then(|from| stopped(&state, from)) {
            Some(stopped) => handed_over(site, &state, stopped, seen.position.as_ref()),
            None => Ok(()),
        };
    }
    let me = site.member();
    let ahead = state.members.iter().find(|(name, member)| {
        let goal = member.applied.as_ref().and_then(|applied| applied.position.as_ref());
        let less = || seen.position.as_ref()?.reached(goal?);
        *name != me && member.role == Role::Standby && less() == Some(false)
    });
    match ahead {
        Some((name, _)) if !told(BEHIND) => Err(Error::refused(format!(
            "{name} has replayed more of the log than {me}: taking over there loses less"
        ))
        .hinting(format!(
            "Take over on {name}, or say with `--override {BEHIND}=REASON` why not."
        ))),
        _ => Ok(()),
    }
}

/// Whether this host holds what the old primary stopped after: a planned takeover loses nothing. A
/// last point that is incomplete never becomes the head, so that no refresh brings it here.
fn handed_over(
    site: &ServiceSite,
    state: &ServiceState,
    stopped: &Stopped,
    position: Option<&Position>,
) -> Result<(), Error> {
    // The log's end is what was waited for.
    if stopped.last_position.is_some() {
        return Ok(());
    }
    let last = stopped.last_point.and_then(|last| state.point(last));
    let held = MemberRecord::load(site)?.applied.map(|applied| applied.snapshot);
    let committed = |id| state.points.iter().position(|point| point.snapshot == id);
    let is_here = last.is_some_and(|last| {
        let by_log = site.engine().is_ok_and(|engine| engine.refresh() == Refresh::Follow)
            && last.position.is_some()
            && !last.incomplete
            && refresh::reached(position, last.position.as_ref());
        // A stopped primary may have been backed up once more.
        by_log || held.and_then(committed) >= committed(last.snapshot)
    });
    if is_here {
        return Ok(());
    }
    let last = match last {
        Some(point) if point.incomplete => format!("its last point {} is incomplete", point.name()),
        Some(point) => format!("its last point {} is not what this host holds", point.name()),
        None => "it handed over no last point".to_owned(),
    };
    Err(Error::refused(format!("a planned takeover would lose data of the old primary: {last}"))
        .hinting("Bring it back with `mainstay online` there, correct what cannot be read, and stop it again; or ask for an unplanned takeover."))
}

fn raise(site: &ServiceSite, id: &OperationId) -> Result<Generation, Error> {
    let (versioned, generation) =
        site.state()?.update(|state| state.raise(id.as_str(), Timestamp::now()))?;
    site.remember(&versioned)?;
    Ok(generation)
}

/// The copy becomes the primary's. Can be repeated. Says where its own history begins, if its engine has
/// such a place.
fn promote(site: &ServiceSite, cx: &engines::Context<'_>) -> Result<Option<Position>, Error> {
    let engine = site.engine()?;
    let mut began = None;
    match engine.refresh() {
        Refresh::Follow => began = engine.promote(cx)?.position,
        Refresh::Exchange => {}
        Refresh::Import => {
            if let Some(applied) = MemberRecord::load(site)?.applied {
                let meta = crate::placing::meta(site, applied.snapshot)?;
                engine.activate(cx, &meta, &Purpose::Primary { until: None })?;
            }
        }
    }
    // From now on it is written to; the manifest of the standby would only mislead.
    MemberRecord::change(site, |record| {
        record.applied = None;
        record.unloaded = None;
        record.offline = None;
        record.rewinding = false;
        record.rejoined = None;
    })?;
    Ok(began)
}

/// Starts the service. After the point of no return a failure is told, not undone.
fn start(site: &ServiceSite, cx: &engines::Context<'_>) -> Item {
    let what = "the service runs here".to_owned();
    let started = || -> Result<String, Error> {
        let engine = site.engine()?;
        if !engine.abilities().start_stop {
            return Ok("nobody said how to start it: start it by hand".to_owned());
        }
        engine.start(cx)?;
        Ok(String::new())
    };
    match started() {
        Ok(detail) if detail.is_empty() => Item { what, done: true, detail: "started".to_owned() },
        Ok(detail) => Item { what, done: false, detail },
        Err(error) => Item { what, done: false, detail: error.chain() },
    }
}

fn follow_up(
    site: &ServiceSite,
    cx: &engines::Context<'_>,
    variables: &hooks::Variables,
) -> Vec<Item> {
    let hooks = &site.spec().hooks;
    let known = [
        ("promoted", "the service was told that it is the primary", &hooks.promoted),
        ("route", "clients were moved here", &hooks.route),
    ];
    let mut items = Vec::new();
    for (name, what, command) in known {
        let Some(command) = command else { continue };
        let result = hooks::run(site, name, command, variables, cx.cancel);
        let (done, detail) = match result {
            Ok(said) => (true, said.trim().to_owned()),
            Err(error) => (false, error.chain()),
        };
        items.push(Item { what: what.to_owned(), done, detail });
    }
    items
}

/// Neither waits for the other: not clients for a vault, nor the log that nobody else has for a hook,
/// which may take an hour.
fn settle(
    site: &ServiceSite,
    cx: &engines::Context<'_>,
    variables: &hooks::Variables,
    began: Option<&Position>,
) -> Vec<Item> {
    std::thread::scope(|scope| {
        let log = began.map(|began| scope.spawn(move || hand_over(site, began)));
        let mut items = follow_up(site, cx, variables);
        items.extend(log.and_then(|log| log.join().unwrap_or_else(|_| Some(cut_off()))));
        items
    })
}

const LOG: &str = "the vault has the log up to the promotion";

fn cut_off() -> Item {
    let detail = "that was cut off; run `mainstay backup` for a new base".to_owned();
    Item { what: LOG.to_owned(), done: false, detail }
}

/// What the old primary had not shipped, this standby may have received.
fn hand_over(site: &ServiceSite, began: &Position) -> Option<Item> {
    let what = LOG.to_owned();
    let (done, detail) = match crate::wal::hand_over(site, Some(began)) {
        Ok(None) => return None,
        Ok(Some(HandedOver { segments, gap: None })) => {
            (true, format!("{segments} segments that this standby had received were stored"))
        }
        Ok(Some(HandedOver { gap: Some(gap), .. })) => {
            (false, format!("{gap}; run `mainstay backup {}`: a new base is due", site.name()))
        }
        Err(error) => (
            false,
            format!("{}; run `mainstay backup {}` for a new base", error.chain(), site.name()),
        ),
    };
    Some(Item { what, done, detail })
}

fn finish(
    site: &ServiceSite,
    id: &OperationId,
    serving: Option<Duration>,
) -> Result<ServiceState, Error> {
    let millis = serving.map(|serving| u64::try_from(serving.as_millis()).unwrap_or(u64::MAX));
    let (versioned, ()) = site.state()?.update(|state| {
        if state.intent.as_ref().is_none_or(|intent| intent.id != id.as_str()) {
            // A repeat after a crash: it is finished already.
            return Ok(());
        }
        state.finish(id.as_str(), Timestamp::now())?;
        if let Some(millis) = millis {
            state.served_after(id.as_str(), millis);
        }
        Ok(())
    })?;
    Ok(versioned.state)
}

fn takeover_variables(
    site: &ServiceSite,
    id: &OperationId,
    from: &Option<MemberName>,
) -> hooks::Variables {
    let pair = |name: &str, value: String| (format!("MAINSTAY_{name}"), value);
    vec![
        pair("SERVICE", site.name().to_string()),
        pair("MEMBER", site.member().to_string()),
        pair("OPERATION", id.to_string()),
        pair("CONFIG", site.site().config_file().display().to_string()),
        pair("OLD_PRIMARY", from.as_ref().map(ToString::to_string).unwrap_or_default()),
        pair("NEW_PRIMARY", site.member().to_string()),
    ]
}

/// A takeover that died: given back before the generation was raised, brought to its end after.
pub(crate) fn undo(left: &mut Left<'_>) -> Result<(), Error> {
    // The final refresh inside it leaves what any refresh leaves.
    refresh::undo(left)?;
    if left.begun("claim").is_none() || left.done("finish").is_some() {
        return Ok(());
    }
    let (site, id) = (left.site, left.id.clone());
    let state = left.state_after("claim")?;
    let ours = state.intent.as_ref().filter(|intent| intent.id == id.as_str());
    match ours {
        // Never claimed, or finished just before it died.
        None => Ok(()),
        Some(intent) if !intent.raised => {
            site.state()?.update(|state| state.abandon(id.as_str()))?;
            left.undone("claim", "the claim was given back")
        }
        Some(intent) => {
            let from = intent.from.clone();
            let variables = takeover_variables(site, &id, &from);
            // As before it died, nothing stops what can only go forward.
            left.with_calm_context(|cx| {
                let all = || -> Result<Vec<Item>, Error> {
                    let began = promote(site, cx)?;
                    let mut items = vec![start(site, cx)];
                    items.extend(settle(site, cx, &variables, began.as_ref()));
                    Ok(items)
                };
                let items = crate::wal::while_kept(site, cx.progress, all).map_err(|e| {
                    let class = model::Classify::class(&e);
                    engines::Error::new(class, "the takeover could not be brought to its end")
                        .because(e)
                })?;
                for item in items.iter().filter(|item| !item.done) {
                    cx.progress.warn(&format!("{}: {}", item.what, item.detail));
                }
                Ok(())
            })?;
            finish(site, &id, None)?;
            left.finished("finish", "the takeover was brought to its end")
        }
    }
}

/// Whether it may have passed its point of no return, and has not come to its end.
pub(crate) fn is_raised(entries: &[Entry]) -> bool {
    entries.begun("raise").is_some() && entries.done("finish").is_none()
}

/// Gives back this claim, whose host is gone. By its id: a claim that somebody else made since it
/// was looked at is not the one that was judged to be dead.
pub fn abandon(site: &ServiceSite, id: &str) -> Result<(), Error> {
    site.state()?.update(|state| state.abandon(id))?;
    Ok(())
}
