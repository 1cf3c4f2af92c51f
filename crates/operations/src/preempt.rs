//! A takeover goes first, on its own host, too. What holds the member's lock there and can be done
//! again later is asked to stop, as by `mainstay cancel`, and waited for: it cleans up by itself, or,
//! past its commit marker, goes on to its end.
//!
//! What that is says [`beside::GIVE_WAY_HERE`]. Whatever else holds the lock is left to who began it.

use crate::cancel::{self, GONE_FIRST};
use crate::journal::{self, Kind, Steps};
use crate::operation::{Run, operations_dir};
use crate::{Error, ServiceSite, beside, lock};
use model::{Class, OperationId};
use std::time::{Duration, Instant};

/// How long one may take to stop and to clean up, if nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one that is past its commit marker may take to its end: to end it sooner would leave the
/// rest to whoever ends it.
const FORWARD: Duration = Duration::from_secs(600);

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(50);

/// What stops for a takeover that begins now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTheWay {
    kind: Kind,
    /// None for the moment in which it begins.
    operation: Option<OperationId>,
}

impl InTheWay {
    /// What people know it by.
    pub fn name(&self) -> String {
        match &self.operation {
            Some(id) => id.to_string(),
            None => format!("a {}", self.kind.as_str()),
        }
    }
}

/// What would be stopped.
pub fn in_the_way(site: &ServiceSite) -> Result<Option<InTheWay>, Error> {
    let Some(holder) = lock::holder(&site.dir())? else { return Ok(None) };
    let kind = beside::GIVE_WAY_HERE.into_iter().find(|kind| kind.as_str() == holder.kind);
    Ok(kind.map(|kind| InTheWay { kind, operation: holder.operation }))
}

/// Stops it, and returns when it is over. Says what is done.
pub fn make_way(site: &ServiceSite, run: &Run) -> Result<(), Error> {
    let began = Instant::now();
    let mut asked: Option<OperationId> = None;
    let mut told = false;
    while let Some(there) = in_the_way(site)? {
        if run.cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let mut forward = false;
        let dir = |id: &OperationId| operations_dir(site).join(id.as_str());
        // For a moment the lock still has the name of who held it before.
        if let Some(id) = there.operation.as_ref().filter(|id| dir(id).exists()) {
            if asked.as_ref() != Some(id) {
                cancel::ask(&dir(id), GONE_FIRST)?;
                run.progress.warn(&format!("{id} runs here, and was asked to stop: {GONE_FIRST}"));
                (asked, told) = (Some(id.clone()), false);
            }
            forward = journal::read(&dir(id))?.begun("place").is_some();
            if forward && !told {
                let what = "is past its commit marker, and is waited for until it is done";
                run.progress.warn(&format!("{id} {what}"));
                told = true;
            }
        }
        let patience = run.wait.unwrap_or(if forward { FORWARD } else { PATIENCE });
        if began.elapsed() >= patience {
            let what = format!("{} was asked to stop for the takeover, and has not", there.name());
            return Err(Error::new(Class::Locked, what).hinting(format!(
                "Wait longer with `--wait 1h`, or end it with `mainstay cancel {} --kill`, and give \
                 this again.",
                site.name()
            )));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}
