//! The transitions. Each either changes the state or says why it must not; each may be repeated
//! after a crash without harm.
//!
//! A takeover is a chain of them: [`claim`](ServiceState::claim), [`fenced`](ServiceState::fenced),
//! [`raise`](ServiceState::raise), [`finish`](ServiceState::finish). Until the raise it can be
//! [`abandon`](ServiceState::abandon)ed; from the raise on it can only go forward. At the raise, and
//! nowhere else, a service that has a primary gets another one.

use super::{
    Applied, FenceProof, Head, Intent, Member, PastTakeover, Refusal, Role, ServiceState, Stopped,
    TakeoverKind,
};
use crate::{ClusterId, Generation, MemberName, RecoveryPoint, SnapshotId, TagChange};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// How many past takeovers the state remembers.
const TAKEOVERS_KEPT: usize = 32;

/// Why a point must not be forgotten, where the retention has words of its own for that.
pub(crate) const PINNED: &str = "it is pinned";
pub(crate) const NEWEST: &str = "it is the newest whole point";

/// Who joins, who leaves.
impl ServiceState {
    /// A host joins in the role its config gives it. A member that is known keeps the role the
    /// state has: the role in the config is only the first one.
    pub fn join(
        &mut self,
        member: &MemberName,
        role: Role,
        now: Timestamp,
    ) -> Result<Role, Refusal> {
        if let Some(known) = self.members.get(member) {
            return Ok(known.role);
        }
        if role == Role::Primary {
            if let Some(primary) = &self.primary {
                return Err(Refusal::HasPrimary(primary.clone()));
            }
            // A standby is about to become what this one wants to be.
            if let Some(intent) = &self.intent {
                return Err(under_way(intent));
            }
            // A service whose generation was raised had a primary once; a newcomer must not
            // become one by a line in a config file.
            if self.generation > Generation::FIRST {
                return Err(Refusal::WrongRole { member: member.clone(), role });
            }
            self.primary = Some(member.clone());
        }
        self.members.insert(member.clone(), Member::new(role, now));
        Ok(role)
    }

    /// Someone has decided: a broken member becomes a standby with nothing on it.
    pub fn rejoin(&mut self, member: &MemberName, now: Timestamp) -> Result<(), Refusal> {
        self.not_the_candidate(member)?;
        match self.members.get_mut(member) {
            None => Err(Refusal::NoSuchMember(member.clone())),
            Some(entry) if entry.role == Role::Primary => {
                Err(Refusal::WrongRole { member: member.clone(), role: entry.role })
            }
            Some(entry) => {
                *entry = Member::new(Role::Standby, now);
                Ok(())
            }
        }
    }

    /// A member is gone for good. One that is not known is gone already.
    pub fn leave(&mut self, member: &MemberName) -> Result<(), Refusal> {
        self.not_the_candidate(member)?;
        match self.members.get(member) {
            Some(entry) if entry.role == Role::Primary => {
                Err(Refusal::WrongRole { member: member.clone(), role: entry.role })
            }
            _ => {
                self.members.remove(member);
                Ok(())
            }
        }
    }

    fn not_the_candidate(&self, member: &MemberName) -> Result<(), Refusal> {
        match &self.intent {
            Some(intent) if intent.to == *member => Err(under_way(intent)),
            _ => Ok(()),
        }
    }
}

/// The history.
/// Two lists of points as one. Each is in the order of its commits, and stays so; between the two only
/// the times at which they were received are known.
fn in_order(one: Vec<RecoveryPoint>, other: Vec<RecoveryPoint>) -> Vec<RecoveryPoint> {
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    let mut all = Vec::new();
    loop {
        let first = match (one.peek(), other.peek()) {
            (Some(here), Some(there)) if there.received < here.received => other.next(),
            (Some(_), _) => one.next(),
            (None, _) => other.next(),
        };
        let Some(point) = first else { return all };
        all.push(point);
    }
}

impl ServiceState {
    /// Refuses whoever is not the primary at the current generation.
    pub fn require_primary(&self, member: &MemberName, at: Generation) -> Result<(), Refusal> {
        let (member, theirs, current) = (member.clone(), at, self.generation);
        if at < self.generation {
            return Err(Refusal::OldGeneration { member, theirs, current });
        }
        if at > self.generation {
            return Err(Refusal::FutureGeneration { member, theirs, current });
        }
        if self.primary.as_ref() != Some(&member) {
            return Err(Refusal::NotPrimary { member, primary: self.primary.clone() });
        }
        Ok(())
    }

    /// A backup becomes history: the point is recorded, and is the head if it is whole.
    pub fn commit(&mut self, point: RecoveryPoint) -> Result<(), Refusal> {
        self.require_primary(&point.member, point.generation)?;
        if self.point(point.snapshot).is_some() {
            return Ok(());
        }
        // What a primary writes after it was fenced is what the takeover does not know of: it would
        // stand in the history as kept, and be lost.
        self.not_fenced(&point.member)?;
        if !point.incomplete {
            self.head = Some(Head { snapshot: point.snapshot, generation: point.generation });
        }
        self.clusters.extend(point.cluster);
        self.written = point.cluster.or(self.written);
        self.points.push(point);
        Ok(())
    }

    /// The primary stores log of this database cluster.
    pub fn writes(
        &mut self,
        member: &MemberName,
        generation: Generation,
        cluster: ClusterId,
    ) -> Result<(), Refusal> {
        self.require_primary(member, generation)?;
        self.not_fenced(member)?;
        self.written = Some(cluster);
        Ok(())
    }

    /// Refuses a primary that a takeover has fenced.
    fn not_fenced(&self, member: &MemberName) -> Result<(), Refusal> {
        match self.intent.as_ref().filter(|intent| intent.fenced.is_some()) {
            Some(intent) if intent.from.as_ref() == Some(member) => {
                Err(Refusal::Fenced { member: member.clone(), id: intent.id.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Points leave the history: all of them or, if one is needed, none. One that is not there is
    /// gone already.
    pub fn forget(&mut self, points: &[SnapshotId]) -> Result<(), Refusal> {
        if let Some(intent) = &self.intent {
            return Err(under_way(intent));
        }
        for &point in points {
            if let Some(why) = self.must_stay(point) {
                return Err(Refusal::Needed { point, why });
            }
        }
        self.points.retain(|point| !points.contains(&point.snapshot));
        Ok(())
    }

    /// Points leave the history because they cannot be restored any more, whoever needs them: what is
    /// promised must be there. If the head is among them, the newest whole point that is left takes
    /// its place.
    pub fn lose(&mut self, points: &[SnapshotId]) -> Result<(), Refusal> {
        if let Some(intent) = &self.intent {
            return Err(under_way(intent));
        }
        let lost: BTreeSet<ClusterId> = self
            .points
            .iter()
            .filter(|point| points.contains(&point.snapshot))
            .filter_map(|point| point.cluster)
            .collect();
        self.leave_out(|snapshot| points.contains(snapshot));
        // The log may be all that is left of a cluster, and of use to a point that lies elsewhere: it is not
        // over as one is that was forgotten.
        let has_points = |cluster| self.points.iter().any(|point| point.cluster == Some(cluster));
        let lost = lost.into_iter().filter(|cluster| !has_points(*cluster));
        for cluster in lost.filter(|cluster| self.clusters.remove(cluster)) {
            self.lost.insert(cluster);
        }
        Ok(())
    }

    /// Takes points out. If the head is among them, the newest whole point that is left takes its place.
    pub fn leave_out(&mut self, gone: impl Fn(&SnapshotId) -> bool) {
        self.points.retain(|point| !gone(&point.snapshot));
        if self.head.is_some_and(|head| gone(&head.snapshot)) {
            // In the order of their commits.
            let newest = self.points.iter().rev().find(|point| !point.incomplete);
            self.head =
                newest.map(|point| Head { snapshot: point.snapshot, generation: point.generation });
        }
    }

    /// Who needs a point, as a sentence; none if nobody does. What a standby holds is needed so that
    /// its next refresh is a small one; [`forget`](ServiceState::forget) does not insist on that.
    pub fn needed(&self, point: SnapshotId) -> Option<String> {
        let holds = |(name, member): (&MemberName, &Member)| {
            let held = member.role == Role::Standby
                && member.applied.as_ref().is_some_and(|applied| applied.snapshot == point);
            held.then(|| format!("the standby {name} holds it"))
        };
        self.must_stay(point).or_else(|| self.members.iter().find_map(holds))
    }

    /// Why a point must not be forgotten.
    pub(crate) fn must_stay(&self, point: SnapshotId) -> Option<String> {
        if self.point(point)?.pinned {
            return Some(PINNED.to_owned());
        }
        if self.head.is_some_and(|head| head.snapshot == point) {
            return Some(NEWEST.to_owned());
        }
        let last = |(name, member): (&MemberName, &Member)| {
            let last = member.stopped.as_ref().is_some_and(|s| s.last_point == Some(point));
            last.then(|| format!("{name} stopped after it"))
        };
        self.members.iter().find_map(last)
    }

    /// Pins a point, or unpins it.
    pub fn pin(&mut self, point: SnapshotId, pinned: bool) -> Result<(), Refusal> {
        self.point_mut(point)?.pinned = pinned;
        Ok(())
    }

    /// Takes over the history of another vault's state, for a vault that holds copies of its
    /// snapshots: `ids` says which snapshot there is which here. Points that are here and not there
    /// any more stay. Refused once this vault has members of its own: it is not a copy then, but
    /// what they go by.
    pub fn mirror(
        &mut self,
        source: &ServiceState,
        ids: &BTreeMap<SnapshotId, SnapshotId>,
    ) -> Result<(), Refusal> {
        if let Some(member) = self.members.keys().next() {
            return Err(Refusal::HasMembers(member.clone()));
        }
        self.generation = self.generation.max(source.generation);
        let mut here = std::mem::take(&mut self.points);
        let mut copies = Vec::new();
        for point in &source.points {
            let Some(&snapshot) = ids.get(&point.snapshot) else { continue };
            let known = here.iter().position(|known| known.snapshot == snapshot);
            copies.push(match known.map(|at| here.remove(at)) {
                Some(known) => known.as_copy_of(point),
                None => point.unproven(snapshot),
            });
        }
        self.points = in_order(copies, here);
        self.clusters.extend(&source.clusters);
        self.lost.extend(&source.lost);
        self.written = source.written;
        let copied_head = source.head.and_then(|head| ids.get(&head.snapshot).copied());
        let newest = self.points.iter().rfind(|point| !point.incomplete);
        let head = copied_head.and_then(|id| self.point(id)).or(newest);
        self.head =
            head.map(|point| Head { snapshot: point.snapshot, generation: point.generation });
        Ok(())
    }

    /// Changes the tags of a point.
    pub fn tag(&mut self, point: SnapshotId, change: &TagChange) -> Result<(), Refusal> {
        let entry = self.point_mut(point)?;
        entry.tags = change.apply(&entry.tags);
        Ok(())
    }

    pub(super) fn point_mut(&mut self, id: SnapshotId) -> Result<&mut RecoveryPoint, Refusal> {
        let found = self.points.iter_mut().find(|point| point.snapshot == id);
        found.ok_or(Refusal::NoSuchPoint(id))
    }
}

/// What members say of themselves.
impl ServiceState {
    /// A standby says what it holds now; the refresh is over.
    pub fn applied(
        &mut self,
        member: &MemberName,
        applied: Option<Applied>,
    ) -> Result<(), Refusal> {
        let entry = self.standby_mut(member)?;
        entry.applied = applied;
        entry.importing = false;
        Ok(())
    }

    /// A standby says that its copy is being changed.
    pub fn importing(&mut self, member: &MemberName) -> Result<(), Refusal> {
        self.standby_mut(member)?.importing = true;
        Ok(())
    }

    /// The primary says that it is stopped (or, with `None`, that it is about to serve again; it
    /// may start its service only after this is stored).
    pub fn stopped(
        &mut self,
        member: &MemberName,
        stopped: Option<Stopped>,
    ) -> Result<(), Refusal> {
        let generation = stopped.as_ref().map_or(self.generation, |s| s.generation);
        self.require_primary(member, generation)?;
        // Once a takeover counts on it, serving again would make a second primary.
        if stopped.is_none() {
            self.not_barred(member)?;
        } else if let Some(intent) = self.intent.as_ref().filter(|intent| intent.to == *member) {
            // A new primary that is not promoted yet has nothing to stop; the takeover would wait
            // for ever for what was stopped here to serve.
            return Err(under_way(intent));
        }
        if let Some(entry) = self.members.get_mut(member) {
            entry.stopped = stopped;
        }
        Ok(())
    }
}

/// Takeover.
impl ServiceState {
    /// Claims the takeover. Two candidates: one wins. The same operation may claim again, and adds
    /// what was overridden since.
    pub fn claim(&mut self, intent: Intent) -> Result<(), Refusal> {
        if let Some(standing) = &mut self.intent {
            if standing.id != intent.id || standing.to != intent.to {
                return Err(under_way(standing));
            }
            for (gate, reason) in intent.overrides {
                standing.overrides.entry(gate).or_insert(reason);
            }
            return Ok(());
        }
        let (member, theirs, current) = (intent.to.clone(), intent.generation, self.generation);
        if theirs < current {
            return Err(Refusal::OldGeneration { member, theirs, current });
        }
        if theirs > current {
            return Err(Refusal::FutureGeneration { member, theirs, current });
        }
        if intent.from != self.primary {
            return Err(Refusal::OtherPrimary(intent.id));
        }
        if self.standby_mut(&intent.to)?.applied.is_none() {
            return Err(Refusal::NothingApplied(intent.to));
        }
        // How far it has got is for the other transitions to say.
        self.intent = Some(Intent { fenced: None, raised: false, ..intent });
        Ok(())
    }

    /// Records why the old primary is believed not to serve. The first proof stays.
    pub fn fenced(&mut self, id: &str, proof: FenceProof) -> Result<(), Refusal> {
        let intent = self.intent_ref(id)?;
        if intent.fenced.is_some() {
            return Ok(());
        }
        match (&proof, &intent.from) {
            (FenceProof::NoPrimary, None) => {}
            (FenceProof::NoPrimary, Some(_)) => return Err(Refusal::NotFenced),
            (FenceProof::Stopped, Some(primary)) if self.primary_stopped().is_none() => {
                return Err(Refusal::NotStopped(primary.clone()));
            }
            (FenceProof::Stopped, Some(_)) => {}
            (FenceProof::Stopped, None) => return Err(Refusal::NotFenced),
            (FenceProof::Hook { .. } | FenceProof::Override { .. }, _) => {
                if intent.kind == TakeoverKind::Planned {
                    return Err(Refusal::PlannedNeedsStop);
                }
            }
        }
        self.intent_mut(id)?.fenced = Some(proof);
        Ok(())
    }

    /// Gives the claim back. Impossible once the generation was raised.
    pub fn abandon(&mut self, id: &str) -> Result<(), Refusal> {
        if self.intent_ref(id)?.raised {
            return Err(Refusal::PointOfNoReturn(id.to_owned()));
        }
        self.intent = None;
        Ok(())
    }

    /// The point of no return: a new generation, a new primary, and the old one broken.
    pub fn raise(&mut self, id: &str, now: Timestamp) -> Result<Generation, Refusal> {
        let intent = self.intent_ref(id)?;
        if intent.raised {
            return Ok(self.generation);
        }
        if intent.fenced.is_none() {
            return Err(Refusal::NotFenced);
        }
        if intent.from != self.primary {
            return Err(Refusal::OtherPrimary(id.to_owned()));
        }
        let (to, from) = (intent.to.clone(), intent.from.clone());
        let candidate = self.standby_mut(&to)?;
        if candidate.importing {
            return Err(Refusal::Importing(to));
        }
        if candidate.applied.is_none() {
            return Err(Refusal::NothingApplied(to));
        }
        // What it held when it took over stays recorded: it is the proof of what was lost.
        let applied = candidate.applied.take();
        *candidate = Member { applied, ..Member::new(Role::Primary, now) };
        if let Some(old) = from.as_ref().and_then(|from| self.members.get_mut(from)) {
            *old = Member {
                label: Some(format!("broken-{}", now.strftime("%Y%m%dT%H%M%SZ"))),
                stopped: old.stopped.take(),
                ..Member::new(Role::Broken, now)
            };
        }
        self.intent_mut(id)?.raised = true;
        self.primary = Some(to);
        self.generation = self.generation.next();
        Ok(self.generation)
    }

    /// The takeover is done: promoted, hooks run.
    pub fn finish(&mut self, id: &str, now: Timestamp) -> Result<(), Refusal> {
        if !self.intent_ref(id)?.raised {
            return Err(Refusal::NotRaised(id.to_owned()));
        }
        let Some(intent) = self.intent.take() else { return Ok(()) };
        let primary = self.members.get(&intent.to);
        self.takeovers.push(PastTakeover {
            generation: self.generation,
            at: primary.map_or(now, |member| member.since),
            head: primary.and_then(|member| Some(member.applied.as_ref()?.snapshot)),
            intent,
            serving_millis: None,
        });
        let surplus = self.takeovers.len().saturating_sub(TAKEOVERS_KEPT);
        self.takeovers.drain(..surplus);
        Ok(())
    }

    /// How long this takeover, which is finished, took until the new primary served.
    pub fn served_after(&mut self, id: &str, millis: u64) {
        if let Some(past) = self.takeovers.iter_mut().rfind(|past| past.intent.id == id) {
            past.serving_millis = Some(millis);
        }
    }

    fn standby_mut(&mut self, member: &MemberName) -> Result<&mut Member, Refusal> {
        match self.members.get_mut(member) {
            None => Err(Refusal::NoSuchMember(member.clone())),
            Some(entry) if entry.role != Role::Standby => {
                Err(Refusal::WrongRole { member: member.clone(), role: entry.role })
            }
            Some(entry) => Ok(entry),
        }
    }

    fn intent_ref(&self, id: &str) -> Result<&Intent, Refusal> {
        match &self.intent {
            Some(intent) if intent.id == id => Ok(intent),
            _ => Err(Refusal::NoSuchIntent(id.to_owned())),
        }
    }

    fn intent_mut(&mut self, id: &str) -> Result<&mut Intent, Refusal> {
        match &mut self.intent {
            Some(intent) if intent.id == id => Ok(intent),
            _ => Err(Refusal::NoSuchIntent(id.to_owned())),
        }
    }
}

fn under_way(intent: &Intent) -> Refusal {
    Refusal::TakeoverUnderWay {
        id: intent.id.clone(),
        to: intent.to.clone(),
        claimed: intent.claimed,
    }
}
