//! What one operation on a service does to another that runs on another host, in one place.
//!
//! On one host a member has one operation at a time, by its lock; what can be done again gives that up
//! for a takeover (see [`crate::preempt`]). Between hosts three things keep
//! operations apart: the locks of the repository ([`repository::Work`]), what the vault's state
//! refuses, and this module's rule that some work gives way to a takeover.

use crate::asking::{Asking, Patience};
use crate::journal::Kind;
use crate::{Error, ServiceSite};
use model::state::TakeoverKind;
use model::{CancelToken, Class, Classify, Intent, ServiceState};
use repository::Work;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How often the vault is asked whether there is something to give way to.
const LOOK: Duration = Duration::from_secs(5);
/// How long it is waited for. An answer that comes later is heard at the next look.
const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of an operation when another one runs on another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Neither notices the other.
    SideBySide,
    /// One has the repository, or a part of the way, alone: the later one waits as long as it was
    /// told to, and is refused then.
    Waits,
    /// The vault's state lets one of the two win, and refuses the other.
    OneWins,
    /// It stops, cleans up, and says to what it gave way.
    GivesWay,
    /// The other one stops.
    Preempts,
}

/// What stops when a takeover begins on its own host. Neither may wait for hours: what they prove or
/// bring is proved or brought later, and a refresh ends every takeover anyway. A restore, which
/// somebody has asked for, is not stopped for them.
pub const GIVE_WAY_HERE: [Kind; 3] = [Kind::Drill, Kind::Scrub, Kind::Refresh];

/// What an operation needs of the repository; nothing, if it only writes the vault's state.
fn work(kind: Kind) -> Option<Work> {
    match kind {
        Kind::Backup | Kind::Offline => Some(Work::Backup),
        Kind::Restore | Kind::Drill | Kind::Scrub => Some(Work::Restore),
        // A planned takeover ends with a refresh.
        Kind::Refresh | Kind::Takeover => Some(Work::Refresh),
        Kind::Forget => Some(Work::Forget),
        Kind::Prune => Some(Work::Prune),
        Kind::Repair => Some(Work::Repair),
        Kind::Migrate => Some(Work::Migrate),
        Kind::Online | Kind::Rejoin => None,
    }
}

/// What becomes of `mine` when `theirs` runs on another host.
pub fn rule(mine: Kind, theirs: Kind) -> Rule {
    match (mine, theirs) {
        // What a primary stores after it was given up is in nobody's history.
        (Kind::Backup, Kind::Takeover) => Rule::GivesWay,
        (Kind::Takeover, Kind::Backup) => Rule::Preempts,
        // Two candidates; a primary that stops for a planned one, or starts again in its face; and
        // history that must not go while a candidate counts on it.
        (
            Kind::Takeover,
            Kind::Takeover | Kind::Online | Kind::Offline | Kind::Forget | Kind::Repair,
        )
        | (Kind::Online | Kind::Offline | Kind::Forget | Kind::Repair, Kind::Takeover) => {
            Rule::OneWins
        }
        _ => match (work(mine), work(theirs)) {
            (Some(mine), Some(theirs)) if !mine.may_run_beside(theirs) => Rule::Waits,
            _ => Rule::SideBySide,
        },
    }
}

/// Does the work, and stops it when a takeover begins that it gives way to.
pub(crate) fn giving_way<T>(
    site: &ServiceSite,
    kind: Kind,
    cancel: &CancelToken,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    if rule(kind, Kind::Takeover) != Rule::GivesWay {
        return work();
    }
    let reason = Mutex::new(None);
    let over = CancelToken::new();
    let result = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut asking = Asking::new();
            while !over.is_cancelled() {
                thread::park_timeout(LOOK);
                if over.is_cancelled() {
                    return;
                }
                // Nothing waits for a vault that hangs when the work has ended.
                let enough = || over.is_cancelled();
                let patience = Patience::until(PATIENCE, &enough);
                let asked = site.clone();
                let state = asking.ask("state", patience, move || asked.load_state());
                // A vault that cannot be asked is no takeover; the work itself will notice it.
                let Ok(versioned) = state else { continue };
                if let Some(why) = overtaken(site, &versioned.state) {
                    *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                    cancel.cancel();
                    return;
                }
            }
        });
        let ended = End { over: &over, watch: watch.thread() };
        let result = work();
        drop(ended);
        result
    });
    let reason = reason.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (result, reason) {
        (Err(error), Some(why)) if error.class() == Class::Cancelled => {
            Err(Error::refused(format!("the {} gave way to a takeover: {why}", kind.as_str()))
                .hinting("See `mainstay status`; whoever is the primary after it backs up."))
        }
        (result, _) => result,
    }
}

/// Ends the watch, also when the work panics: a scope waits for its threads.
struct End<'a> {
    over: &'a CancelToken,
    watch: &'a thread::Thread,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.over.cancel();
        self.watch.unpark();
    }
}

/// What there is to give way to. A planned takeover that is only claimed is nothing yet: it waits for
/// this member to stop, and may be given back.
fn overtaken(site: &ServiceSite, state: &ServiceState) -> Option<String> {
    let member = site.member();
    let counts = |intent: &&Intent| {
        intent.to != *member && (intent.fenced.is_some() || intent.kind == TakeoverKind::Unplanned)
    };
    if let Some(intent) = state.intent.as_ref().filter(counts) {
        return Some(format!("{} claimed it at {} ({})", intent.to, intent.claimed, intent.id));
    }
    match &state.primary {
        Some(primary) if primary != member => {
            Some(format!("{primary} is the primary, at generation {}", state.generation))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Rig;
    use std::sync::mpsc::channel;
    use storage::doubles::{Fault, How, Verb};

    #[test]
    fn work_that_has_ended_waits_for_no_vault() {
        let rig = Rig::new();
        rig.vault.plan(Fault::every(Verb::Read, How::Hang).on("shop/mainstay/state/"));
        let (site, vault, (tell, ended)) = (rig.site.clone(), rig.vault.clone(), channel());
        thread::spawn(move || {
            let work = || {
                assert!(vault.wait_for_hang(Duration::from_secs(60)));
                Ok(())
            };
            let done = giving_way(&site, Kind::Backup, &CancelToken::new(), work);
            tell.send(done.is_ok()).expect("it is waited for");
        });
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(true));
        rig.vault.release();
    }

    const KINDS: [Kind; 13] = [
        Kind::Backup,
        Kind::Restore,
        Kind::Refresh,
        Kind::Takeover,
        Kind::Offline,
        Kind::Online,
        Kind::Rejoin,
        Kind::Forget,
        Kind::Prune,
        Kind::Repair,
        Kind::Migrate,
        Kind::Drill,
        Kind::Scrub,
    ];

    #[test]
    fn both_sides_see_the_same() {
        for mine in KINDS {
            for theirs in KINDS {
                let other_way = match rule(mine, theirs) {
                    Rule::GivesWay => Rule::Preempts,
                    Rule::Preempts => Rule::GivesWay,
                    same => same,
                };
                assert_eq!(rule(theirs, mine), other_way, "{mine:?} {theirs:?}");
            }
        }
    }

    #[test]
    fn standbys_refresh_side_by_side_and_a_takeover_goes_first() {
        assert_eq!(rule(Kind::Refresh, Kind::Refresh), Rule::SideBySide);
        assert_eq!(rule(Kind::Backup, Kind::Refresh), Rule::SideBySide);
        assert_eq!(rule(Kind::Drill, Kind::Backup), Rule::SideBySide);
        assert_eq!(rule(Kind::Backup, Kind::Takeover), Rule::GivesWay);
        assert_eq!(rule(Kind::Takeover, Kind::Takeover), Rule::OneWins);
        for removing in [Kind::Forget, Kind::Prune, Kind::Repair, Kind::Migrate] {
            assert_eq!(rule(removing, Kind::Backup), Rule::Waits);
            assert_eq!(rule(Kind::Refresh, removing), Rule::Waits);
        }
    }
}
