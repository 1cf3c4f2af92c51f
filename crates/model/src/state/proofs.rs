//! What is known of points beyond that they were stored: whether their bytes were read again, and
//! whether they were restored. It is of one vault; what was proven of another's bytes proves nothing
//! here.

use super::{LastDrill, Refusal, ServiceState};
use crate::{Drill, RecoveryPoint, SnapshotId, Verified};

impl ServiceState {
    /// A point was drilled. The drill that is told last is the last one, whatever its time: the clock of
    /// an earlier one may have been ahead, and would hide what was found since. A failure never takes
    /// back that the point was once proven restorable: what it takes back is that it is.
    pub fn drilled(&mut self, snapshot: SnapshotId, drill: &Drill) -> Result<(), Refusal> {
        let entry = self.point_mut(snapshot)?;
        if drill.sound {
            entry.drilled = Some(drill.at);
        }
        entry.drill = Some(drill.clone());
        let source_time = entry.source_time;
        self.last_drill = Some(LastDrill { snapshot, source_time, drill: drill.clone() });
        Ok(())
    }

    /// The bytes of these points, or a part of them, were read and are whole. A point that is gone
    /// meanwhile is none of it. That a part was read says less than that all was, and never replaces
    /// it.
    pub fn verified(&mut self, points: &[SnapshotId], verified: &Verified) {
        for point in self.points.iter_mut().filter(|point| points.contains(&point.snapshot)) {
            let replaces = match &point.verified {
                None => true,
                Some(known) if known.part.is_none() => {
                    verified.part.is_none() && known.at <= verified.at
                }
                Some(known) => verified.part.is_none() || known.at <= verified.at,
            };
            if replaces {
                point.verified = Some(verified.clone());
            }
        }
    }
}

impl ServiceState {
    /// The newest whole point that no drill found wanting, the last one of each: what counts as the
    /// history's newest. Up to the head, which is what a restore takes by default.
    pub fn newest_sound(&self) -> Option<&RecoveryPoint> {
        let head = self.head?.snapshot;
        let upto = self.points.iter().position(|point| point.snapshot == head)?;
        let older = self.points.get(..=upto)?.iter().rev();
        older.into_iter().find(|point| !point.incomplete && !point.is_unsound())
    }
}

impl RecoveryPoint {
    /// The last drill of it found that it cannot be restored, or that its copy is not sound. What an
    /// earlier one proved is past.
    pub fn is_unsound(&self) -> bool {
        self.drill.as_ref().is_some_and(|drill| !drill.sound)
    }

    /// A drill proved it restorable, and none took that back since.
    pub fn is_proven(&self) -> bool {
        self.drilled.is_some() && !self.is_unsound()
    }

    /// The same point in another vault, of whose bytes nothing is proven yet.
    pub(super) fn unproven(&self, snapshot: SnapshotId) -> RecoveryPoint {
        RecoveryPoint { snapshot, verified: None, drilled: None, drill: None, ..self.clone() }
    }

    /// The same point, as another vault knows it now, with what is proven of it in this one.
    pub(super) fn as_copy_of(&self, other: &RecoveryPoint) -> RecoveryPoint {
        RecoveryPoint {
            verified: self.verified.clone(),
            drilled: self.drilled,
            drill: self.drill.clone(),
            ..other.unproven(self.snapshot)
        }
    }
}
