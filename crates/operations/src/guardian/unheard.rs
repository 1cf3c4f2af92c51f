//! A service that was started again while the vault did not answer: somebody may have taken over meanwhile.
//! The vault is asked on until it answers. What must not serve, by what it says, is stopped again: two
//! primaries are worse than none.

use super::{FIRST_PAUSE, LONGEST_PAUSE, Ward};
use crate::asking::{Asking, Patience};
use crate::journal::{self, Steps};
use crate::lock::MemberLock;
use crate::may_start::{self, Heard};
use crate::operation::look;
use crate::quiesce::{self, STEP};
use crate::{Error, ServiceSite};
use coordination::Versioned;
use model::config::Quiesce;
use std::time::{Duration, Instant};

/// How long an answer is waited for at a time; one that comes later is heard at the next look.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long before something is done to the service: it has answered by then.
const SURE: Duration = Duration::from_secs(30);
/// How long it is until it is asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// What is left to ask.
pub(super) struct Unheard {
    /// Its first question is put when the service is back: whoever had taken over before that is heard of,
    /// however late the answer comes.
    asking: Asking<Versioned>,
    over: bool,
    next: Option<Instant>,
    /// It must not serve for now, and was stopped.
    stopped: bool,
}

impl Unheard {
    pub(super) fn new() -> Unheard {
        Unheard { asking: Asking::new(), over: false, next: None, stopped: false }
    }

    /// Asks on until it was heard, or nobody knows of the operation any more.
    pub(super) fn follow(&mut self, ward: &Ward<'_>) {
        while !self.look(ward, false) && !ward.is_gone() {
            std::thread::sleep(FIRST_PAUSE);
        }
    }

    /// Asks, if it is time. Says whether nothing is left to ask. As long as the worker lives it is the worker
    /// that keeps others away.
    pub(super) fn look(&mut self, ward: &Ward<'_>, worker_lives: bool) -> bool {
        self.over = self.over || !quiesce::is_unheard(ward.dir);
        if self.over || self.next.is_some_and(|next| Instant::now() < next) {
            return self.over;
        }
        let asked = was_started(ward).and_then(|was| Ok(!was || self.ask(ward, worker_lives)?));
        let pause = match asked {
            Ok(over) => {
                self.over = over;
                PAUSE
            }
            Err(error) => {
                ward.run.progress.warn(&error.chain());
                LONGEST_PAUSE
            }
        };
        self.next = Some(Instant::now() + pause);
        self.over
    }

    fn ask(&mut self, ward: &Ward<'_>, worker_lives: bool) -> Result<bool, Error> {
        let site = ward.site;
        match self.hear(site, PATIENCE) {
            None => return Ok(false),
            Some(Heard::Serves) if self.stopped => {}
            Some(Heard::Serves | Heard::Elsewhere) => return Ok(heard(ward)),
            Some(Heard::MustNot { for_good, .. }) if self.stopped => {
                return Ok(for_good && heard(ward));
            }
            Some(Heard::MustNot { .. }) => {}
        }
        let _lock = match worker_lives {
            true => None,
            // Whoever has it may just make something else of this member.
            false => match MemberLock::take(&site.dir(), "guardian", None, &ward.run.cancel) {
                Ok(lock) => Some(lock),
                Err(_) => return Ok(false),
            },
        };
        let engine = site.engine()?;
        match self.hear(site, SURE) {
            None => Ok(false),
            Some(Heard::MustNot { why, for_good }) => {
                let what = "it had been started while the vault did not answer, and ";
                look(site, ward.run, |cx| engine.stop(cx)).map_err(|error| {
                    let why = format!("{what}must not serve, and cannot be stopped: {why}");
                    ward.alarm.must_not(Some(format!("{why}: {}", error.chain())));
                    Error::refused(why).because(error)
                })?;
                self.stopped = true;
                let what = format!("{what}is stopped again: {why}");
                ward.run.progress.warn(&what);
                ward.alarm.must_not(Some(what));
                Ok(for_good && heard(ward))
            }
            Some(Heard::Serves) if self.stopped => {
                // Since it was stopped, somebody may have taken it offline, or died half way through a
                // restore.
                if !may_start::is_shut(site)? {
                    look(site, ward.run, |cx| engine.start(cx))?;
                }
                ward.alarm.must_not(None);
                Ok(heard(ward))
            }
            Some(Heard::Serves | Heard::Elsewhere) => Ok(heard(ward)),
        }
    }

    fn hear(&mut self, site: &ServiceSite, patience: Duration) -> Option<Heard> {
        let asked = site.clone();
        let ask = move || asked.load_state();
        may_start::heard(site, self.asking.ask("state", Patience::of(patience), ask))
    }
}

/// Nothing is left to ask.
fn heard(ward: &Ward<'_>) -> bool {
    quiesce::heard(ward.dir);
    true
}

/// Whether its operation, or who cleaned up after that, has started it.
fn was_started(ward: &Ward<'_>) -> Result<bool, Error> {
    let entries = journal::read(ward.dir)?;
    let resumed = entries.done("resume").is_some() || quiesce::is_known(ward.dir);
    let stops = ward.site.spec().quiesce == Quiesce::Stop;
    Ok(entries.done("start").is_some() || (stops && entries.begun(STEP).is_some() && resumed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemberRecord;
    use crate::guardian::Alarm;
    use crate::operation::Run;
    use crate::rig::Rig;
    use jiff::Timestamp;
    use model::OperationId;

    #[test]
    fn what_was_taken_offline_since_it_was_stopped_is_not_started() {
        let rig = Rig::new();
        let (id, run) = (OperationId::new("one").expect("an id"), Run::default());
        let (site, dir, alarm) = (&rig.site, rig.dir.path(), Alarm::of(&rig.site));
        let ward = Ward { site, id: &id, dir, run: &run, alarm: &alarm };
        let mut unheard = Unheard { stopped: true, ..Unheard::new() };
        unheard.ask(&ward, false).expect_err("there is nothing here that could be started");
        let offline = |record: &mut MemberRecord| record.offline = Some(Timestamp::now());
        MemberRecord::change(site, offline).expect("its record");
        assert!(unheard.ask(&ward, false).expect("nothing is started"));
    }
}
