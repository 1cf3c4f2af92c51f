//! Brings a copy to another point by a new one, which is built beside it from what has not changed and
//! what the vault has.

use super::adopt::Adopted;
use super::untouched::{NAMED, untouched, written_to};
use super::{Done, LEFT_BEHIND, Params, applied_now, is_point, refused_as_known, way};
use crate::exchange::{Placement, aside, discard};
use crate::member::manifest;
use crate::operation::Operation;
use crate::placing::{self, Placing, Seed};
use crate::standing::Stuck;
use crate::wal::sqlite::{self, Course, Sound};
use crate::{Error, MemberRecord, ServiceSite, Which};
use engines::{Purpose, Refresh, Running};
use jiff::Timestamp;
use model::state::Applied;
use model::{Class, Classify, Progress, RecoveryPoint};
use repository::restore::{Times, differences_but_links};
use std::collections::HashMap;

/// Builds the new copy beside the old one and exchanges them. The repository is locked, and was before
/// the point was chosen. The old one may be `stuck` in front of a gap.
pub(super) fn replace(
    site: &ServiceSite,
    operation: &mut Operation,
    point: &RecoveryPoint,
    params: &Params,
    stuck: Option<&Stuck>,
    done: &mut Done,
) -> Result<(), Error> {
    let engine = site.engine()?;
    let runs = operation.with_context(site, |cx| engine.running(cx))? == Running::Yes;
    if runs && !params.reseed {
        let hint = match engine.refresh() {
            // Nobody knows this copy, or it would be left to its log.
            Refresh::Follow => {
                "Stop its server, and give this again: nobody may write to what is read. What becomes \
                 of it is started, and follows by itself."
            }
            _ => "Stop it: a standby of this engine is not running until it takes over.",
        };
        return Err(Error::refused(format!("{} runs on this standby", site.name())).hinting(hint));
    }
    let meta = placing::meta(site, point.snapshot)?;
    let targets = placing::own_targets(site, &meta)?;
    let mut destinations = way::destinations(site, &meta, targets, operation.id())?;
    let record = MemberRecord::load(site)?;
    let verify = params.verify || record.rotten;
    let reuse = done.from.filter(|_| !params.reseed);
    if !params.reseed
        && let Some(what) =
            operation.with_context(site, |cx| engine.occupied(cx, &meta, &Purpose::Standby))?
    {
        return Err(Error::refused(what)
            .hinting("`mainstay refresh --reseed` puts aside what is there and begins anew."));
    }
    // Then nothing but the manifest knows what it held.
    let known = match reuse {
        Some(held) => is_point(site, held)?,
        None => true,
    };
    let replayed_before = record.applied.as_ref().is_some_and(|held| held.replayed);
    let adopts = params.adopt && !params.reseed && reuse.is_none();
    let seed = match reuse {
        Some(snapshot) if known => {
            Some(Seed { snapshot, doubted: verify || replayed_before, adopted: false })
        }
        // No snapshot tells what it holds; the one that it is going to hold is as good as any.
        None if !adopts => None,
        _ => Some(Seed { snapshot: point.snapshot, doubted: true, adopted: adopts }),
    };
    let mut adopted = Adopted::default();
    let mut put_aside = Vec::new();
    let mut filled = Vec::new();
    let mut innocent = HashMap::new();
    for (number, destination) in destinations.iter().enumerate() {
        let occupied = placing::occupied(&destination.target)?;
        filled.push(occupied);
        match (occupied, reuse) {
            (false, _) => put_aside.push(None),
            (true, _) if params.reseed && destination.amends.is_some() => {
                return Err(Error::refused(format!(
                    "{} is a mount point, and what it holds cannot be put aside",
                    destination.target.display()
                ))
                .hinting("Copy elsewhere what you need of it, empty it, and give this again."));
            }
            (true, _) if params.reseed => {
                let what = if stuck.is_some() { LEFT_BEHIND } else { "diverged" };
                put_aside.push(Some(aside(&destination.target, what)?));
            }
            (true, None) if adopts => {
                adopted.take(site, operation, (point.snapshot, &meta), number, destination)?;
                put_aside.push(None);
            }
            (true, None) => {
                return Err(Error::refused(format!(
                    "{} holds data that no refresh put there",
                    destination.target.display()
                ))
                .hinting(
                    "If it is an old copy, adopt it with `mainstay refresh --adopt`; otherwise build \
                     the copy anew with `--reseed`, which puts it aside.",
                ));
            }
            (true, Some(held)) => {
                let written =
                    written_to(site, held, number, &destination.target, operation.cancel())?;
                untouched(&destination.target, written.found)
                    .map_err(|error| refused_as_known(site, params, Some(held), error))?;
                innocent.insert(number, written.innocent);
                put_aside.push(None);
            }
        }
    }
    // Where there was something, and nothing is, somebody has taken it away, or unmounted it.
    let is_there = point.size_bytes == 0 || filled.iter().all(|filled| *filled);
    let in_place =
        is_there && record.unloaded.is_none() && destinations.iter().all(|d| d.target.exists());
    // Where the engine has nobody who would replay its log, we do. A snapshot that was named is meant.
    let replays = sqlite::is_meant(site) && !matches!(params.which, Which::Named(_));
    let until = match params.which {
        Which::At(time) => Some(time),
        _ => None,
    };
    let here = in_place && reuse.is_some() && !verify;
    let course = match record.applied.as_ref().filter(|_| here && replays && until.is_none()) {
        Some(held) => Course::look(site, held, point.snapshot, &meta)?,
        None => Course::Anew,
    };
    if let Course::Stands(until) = course {
        return stands(site, point, until, done);
    }
    if done.unchanged && here && !replays && !replayed_before {
        site.state()?.update(|state| {
            let entry = state.members.get(site.member()).and_then(|m| m.applied.clone());
            match entry {
                Some(applied) if applied.snapshot == point.snapshot => Ok(()),
                _ => state.applied(site.member(), Some(applied_now(point, None))),
            }
        })?;
        return Ok(());
    }
    done.unchanged = false;
    (done.seeded, done.adopted) = (reuse.is_none(), adopted.is_any());
    way::choose(site, operation, point, &mut destinations, seed, &filled)?;
    match seed {
        Some(_) if matches!(course, Course::Ahead(_)) => {}
        Some(seed) => {
            let cancel = operation.cancel();
            placing::check_space_beside(site, point, &destinations, seed, cancel)?;
        }
        None => {
            for destination in &destinations {
                placing::check_space(&destination.target, point.size_bytes)?;
            }
        }
    }
    operation.step("announce", (), |_| {
        site.state()?.update(|state| state.importing(site.member()))?;
        Ok(())
    })?;
    let mut along = matches!(course, Course::Ahead(_));
    let built = match course {
        Course::Ahead(ahead) => ahead.stage(operation, &destinations),
        Course::Stands(_) | Course::Anew => {
            let stage = placing::stage(site, operation, point.snapshot, &destinations, seed);
            let replay = |op: &mut Operation| sqlite::replay(site, op, &meta, &destinations, until);
            stage.and_then(|staging| match replays {
                true => Ok((staging, Some(operation.step("replay", (), replay)?))),
                false => Ok((staging, None)),
            })
        }
    };
    let (staging, replayed) = match built {
        // One object of the log that is damaged keeps nobody from what is sound.
        Err(e) if replays && e.class() == Class::Corrupt => {
            operation.report().warn(&format!("{}: what is sound is looked for", e.chain()));
            for destination in &destinations {
                discard(&destination.staged)?;
            }
            let sound = Sound::look(site, operation, &meta, until)?;
            let held = record.applied.as_ref().map(|held| held.source_time).filter(|_| along);
            if let Some(held) = held.filter(|held| *held >= sound.reaches()) {
                return stands(site, point, held, done);
            }
            along = false;
            if let Some(seed) = seed {
                let cancel = operation.cancel();
                placing::check_space_beside(site, point, &destinations, seed, cancel)?;
            }
            let staging = placing::stage(site, operation, point.snapshot, &destinations, seed)?;
            let replay = |op: &mut Operation| sound.replay(op, &destinations);
            (staging, Some(operation.step("replay", (), replay)?))
        }
        built => built?,
    };
    done.source_time = replayed
        .as_ref()
        .and_then(|replayed| replayed.until)
        .map_or(point.source_time, |until| until.max(point.source_time));
    done.in_place =
        destinations.iter().any(|d| d.amends.is_some_and(|amends| amends.holds.is_some()));
    // Of a copy that stays where it is nothing is looked at that has not changed.
    if !done.in_place {
        done.bytes = staging.sum(|root| root.bytes);
    }
    done.fetched_bytes = staging.sum(|root| root.fetched_bytes);
    done.written_bytes = staging.sum(|root| root.written_bytes);
    done.linked_files = staging.sum(|root| root.linked_files);
    done.cloned_files = staging.sum(|root| root.cloned_files);
    done.patched_files = staging.sum(|root| root.patched_files);
    placing::prepare(site, operation, &meta, &destinations, &Purpose::Standby)?;
    if let Some(stuck) = stuck {
        stands_still(site, operation, point, stuck)?;
    }
    if runs {
        operation
            .step("stop", (), |operation| operation.with_context(site, |cx| engine.stop(cx)))?;
    }
    let placements = destinations
        .iter()
        .zip(&put_aside)
        .zip(&staging.roots)
        .map(|((d, aside), root)| {
            if let Some(amends) = d.amends {
                // Of another copy the manifest says nothing.
                let known = amends.holds.is_some_and(|holds| !holds.doubted);
                let touched = known.then(|| root.touched.clone());
                let placement = Placement::amending(d.staged.clone(), d.target.clone(), touched)?;
                return Ok(placement.with_redo(root.journal));
            }
            let placement = Placement::new(d.staged.clone(), d.target.clone(), aside.clone())?;
            Ok(placement.with_redo(root.journal))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let placing = Placing {
        placements,
        snapshot: point.snapshot,
        source_time: done.source_time,
        position: point.position.clone(),
        purpose: Purpose::Standby,
        own: true,
        log: match &replayed {
            Some(replayed) => replayed.held.clone(),
            None if sqlite::is_meant(site) => sqlite::held_by(&meta),
            None => Vec::new(),
        },
        replayed: along && replayed_before || replayed.as_ref().is_some_and(|log| log.frames > 0),
        starts: false,
    };
    done.log = replayed;
    // Looked at again just before the exchange: building took time in which somebody may have
    // written.
    if reuse.is_some() {
        let targets = destinations.iter().zip(&staging.roots).enumerate();
        for (number, (destination, root)) in targets {
            let staged = &destination.staged;
            if placing::occupied_but_for(&destination.target, Some(staged))? {
                // Files that the new copy shares with the old one have got a name more. Whoever wrote
                // to them since, or before that, has written to both.
                let innocent: Times = innocent.remove(&number).unwrap_or_default();
                let (target, manifest) = (&destination.target, manifest(site, number));
                let links = &root.links;
                let found =
                    differences_but_links(target, &manifest, &innocent, links, staged, NAMED + 1)?;
                untouched(target, found)
                    .map_err(|error| refused_as_known(site, params, reuse, error))?;
            }
        }
    }
    for (number, (destination, aside)) in destinations.iter().zip(&put_aside).enumerate() {
        if let Some(root) = staging.roots.get(number)
            && adopted.has(number)
        {
            let (target, staged) = (&destination.target, &destination.staged);
            adopted.require_unchanged(number, target, &root.links, staged)?;
        } else if reuse.is_none()
            && aside.is_none()
            && placing::occupied_but_for(&destination.target, Some(&destination.staged))?
        {
            return Err(Error::refused(format!(
                "somebody has put something at {} since this refresh began",
                destination.target.display()
            ))
            .hinting("Move it away, or put it aside with `mainstay refresh --reseed`."));
        }
    }
    placing::place(site, operation, &placing)?;
    done.put_aside = put_aside.into_iter().flatten().collect();
    Ok(())
}

/// Refuses to put a standby aside that has gone on, or was promoted, while its copy was built anew.
fn stands_still(
    site: &ServiceSite,
    operation: &Operation,
    point: &RecoveryPoint,
    stuck: &Stuck,
) -> Result<(), Error> {
    let engine = site.engine()?;
    let seen = operation.with_context(site, |cx| engine.inspect(cx))?;
    if seen.following && seen.position.as_ref() == Some(&stuck.at) {
        return Ok(());
    }
    let what = format!(
        "the standby of {} is not where it stood any more ({}), so it is not put aside for {}",
        site.name(),
        seen.summary,
        point.name()
    );
    Err(Error::refused(what).hinting("Look at it with `mainstay status`, and give this again."))
}

/// What is held is all there is; what is known of it may be older.
fn stands(
    site: &ServiceSite,
    point: &RecoveryPoint,
    until: Timestamp,
    done: &mut Done,
) -> Result<(), Error> {
    (done.unchanged, done.seeded, done.source_time) = (true, false, until);
    let before = MemberRecord::load(site)?;
    let after = MemberRecord::change(site, |record| {
        if let Some(held) = &mut record.applied {
            // The log has led to everything that is in this point.
            held.replayed |= held.snapshot != point.snapshot;
            (held.snapshot, held.source_time) = (point.snapshot, until);
        }
    })?;
    let now = Applied { source_time: until, ..applied_now(point, None) };
    site.state()?.update(|state| {
        let member = state.members.get(site.member());
        let known = member.and_then(|member| member.applied.as_ref()).is_some_and(|applied| {
            (applied.snapshot, applied.source_time) == (now.snapshot, now.source_time)
        });
        if known && before == after && member.is_some_and(|member| !member.importing) {
            return Ok(());
        }
        state.applied(site.member(), Some(now.clone()))
    })?;
    Ok(())
}
