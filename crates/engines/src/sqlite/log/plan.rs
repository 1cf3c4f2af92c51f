//! Which objects bring a snapshot to a point in time: a function of names alone.

use super::batch::BatchName;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Logs of one service that end further apart than this do not end at one moment.
const APART: SignedDuration = SignedDuration::from_secs(30);

/// A place in a log, by its salts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reach {
    /// The salts, as 16 hex digits.
    #[serde(with = "salts")]
    pub salts: u64,
    /// After so many frames; none if that could not be told, and any is possible.
    pub frame: Option<u32>,
}

/// Between which places of its log a copy of a database is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Span {
    /// Not before this; none if there was no log.
    pub from: Option<Reach>,
    /// Not after this; none if there was no log.
    pub to: Option<Reach>,
    /// Where the chain was that was shipped at that time, if there was one.
    pub chain: Option<ChainPlace>,
}

/// How far a chain was when a copy began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainPlace {
    /// Which chain.
    pub chain: u64,
    /// The sequence number of the next log that was to begin.
    pub next: u32,
}

/// What is to be replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order, all of them. Empty if the snapshot itself is the newest that can be had.
    pub whole: Vec<BatchName>,
    /// After them, as far as their commits lie before the wanted time.
    pub partly: Vec<BatchName>,
    /// Up to here nothing but what is in them was committed.
    pub reaches: Option<Timestamp>,
    /// What is missing, in a sentence.
    pub gap: Option<String>,
    /// The copy is not before this place of the chain: with less, it is better as it is.
    pub least: Option<(u32, u32)>,
    /// In which chain the copy is; none if it is in none of them.
    pub chain: Option<u64>,
    /// Where it is when all of `whole` was replayed: which log of the chain, and after which frame.
    pub end: Option<(u32, u32)>,
    /// Replay ends here, because that of another database does.
    pub until: Option<Timestamp>,
}

/// Plans for several databases of one service, so that all of them get to the same moment. One whose
/// log has a gap, or has not been shipped for long, keeps nobody else back.
pub fn together(
    copies: &[(Span, Vec<BatchName>)],
    taken: Timestamp,
    until: Option<Timestamp>,
) -> Vec<Plan> {
    let each = |until: Option<Timestamp>| {
        copies.iter().map(move |(span, names)| plan(span, taken, names, until))
    };
    let mut plans: Vec<Plan> = each(until).collect();
    let reach = |plan: &Plan| {
        let whole = until.is_none() && plan.chain.is_some() && plan.gap.is_none();
        whole.then(|| plan.reaches.map_or(taken, |reaches| reaches.max(taken)))
    };
    let Some(last) = plans.iter().filter_map(reach).max() else { return plans };
    let near = |end: Timestamp| last.duration_since(end) <= APART;
    let first = plans.iter().filter_map(reach).filter(|end| near(*end)).min().unwrap_or(last);
    for (known, aligned) in plans.iter_mut().zip(each(Some(first))) {
        match reach(known) {
            Some(end) if !near(end) => {
                known.gap = Some(format!(
                    "its log ends at {end}, and that of another database goes on until {last}"
                ));
            }
            Some(end) if end > first => *known = Plan { until: Some(first), ..aligned },
            _ => {}
        }
    }
    plans
}

/// Plans how a copy of this span, which was taken at this time, gets to the end of the log, or to the
/// last commit before `until`.
pub fn plan(span: &Span, taken: Timestamp, names: &[BatchName], until: Option<Timestamp>) -> Plan {
    let mut chains: BTreeMap<u64, Vec<BatchName>> = BTreeMap::new();
    for name in names {
        chains.entry(name.chain).or_default().push(*name);
    }
    for chain in chains.values_mut() {
        chain.sort_by_key(|name| (name.sequence, name.from, name.to, name.time));
    }
    let mut best: Option<(u64, Plan)> = None;
    // Nothing of a chain that was begun later was seen before.
    let in_time = |id: u64| until.is_none_or(|until| begun(id) <= until);
    for (id, chain) in chains.iter().filter(|(id, _)| in_time(**id)) {
        let Some(plan) = of_chain(span, *id, chain, until) else { continue };
        // Two chains may hold the same frames; the one that gets further is taken.
        if best.as_ref().is_none_or(|(_, known)| known.reaches <= plan.reaches) {
            best = Some((*id, plan));
        }
    }
    let next = |id: u64| chains.keys().copied().find(|other| *other > id);
    let (next, mut plan) = match best {
        Some((id, plan)) => (next(id), plan),
        None => {
            let later = chains.keys().copied().find(|id| begun(*id) > taken && in_time(*id));
            let mut plan = Plan::default();
            let beyond = |name: &&BatchName| {
                let read = name.read_at();
                !name.is_mark() && read > taken && until.is_none_or(|until| read <= until)
            };
            if let (None, Some(name)) = (later, names.iter().find(beyond)) {
                let read = name.read_at();
                plan.gap =
                    Some(format!("the log that was read at {read} does not join this point"));
            }
            (later, plan)
        }
    };
    // A chain ends where something was lost, or nobody shipped.
    let short = until.is_none_or(|until| plan.reaches < Some(until));
    if let (None, true, Some(next)) = (&plan.gap, short, next) {
        let from = plan.reaches.unwrap_or(taken).max(taken);
        plan.gap = Some(format!(
            "the log has a gap from {from} to {}, which no point bridges",
            begun(next)
        ));
    }
    plan
}

fn begun(chain: u64) -> Timestamp {
    let millis = i64::try_from(chain).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

/// None if the copy is nowhere in this chain.
fn of_chain(span: &Span, id: u64, chain: &[BatchName], until: Option<Timestamp>) -> Option<Plan> {
    let (start, least) = within(span, id, chain)?;
    let mut plan = Plan { least: Some(least), chain: Some(id), ..Plan::default() };
    let mut at = start;
    let mut walked: Vec<BatchName> = Vec::new();
    // Up to when nothing was committed after the last of them.
    let mut quiet: Option<Timestamp> = None;
    for name in chain {
        let (sequence, frame) = at;
        if name.is_mark() {
            if (name.sequence, name.to) == at {
                quiet = quiet.max(Some(name.read_at()));
            }
            continue;
        }
        if (name.sequence, name.to) <= (sequence, frame) {
            continue;
        }
        let follows = (name.sequence == sequence && name.from <= frame)
            || (name.sequence.checked_sub(1) == Some(sequence)
                && name.from == 0
                && (name.before == frame || walked.is_empty() && name.before <= frame));
        if !follows {
            plan.gap = Some(format!(
                "the log that was read at {} is not in the vault, and what follows it cannot be used",
                name.read_at()
            ));
            break;
        }
        at = (name.sequence, name.to);
        walked.push(*name);
    }
    // The rest of a commit of which only a part is there may be as old as the part.
    plan.reaches = walked.iter().rfind(|name| name.whole).map(BatchName::read_at).max(quiet);
    let full = walked
        .iter()
        .rposition(|name| name.whole && until.is_none_or(|until| name.read_at() <= until));
    let full = full.map_or(0, |last| last + 1);
    let rest = walked.split_off(full);
    plan.end = Some(walked.last().map_or(start, |name| (name.sequence, name.to)));
    plan.whole = walked;
    if let Some(until) = until {
        for name in rest {
            let late = name.read_at() > until;
            plan.partly.push(name);
            if late {
                plan.reaches = Some(until);
                break;
            }
        }
        // Nothing that was asked for comes after it.
        plan.reaches = plan.reaches.map(|reaches| reaches.min(until));
        // What was asked for lies before what is missing.
        if plan.reaches >= Some(until) {
            plan.gap = None;
        }
    }
    Some(plan)
}

/// From where in a chain a copy is to be replayed, and what is the least that makes it whole again.
fn within(span: &Span, id: u64, chain: &[BatchName]) -> Option<((u32, u32), (u32, u32))> {
    // What was shipped of its log before the copy may have been pruned since.
    let linked = span.chain.filter(|place| place.chain == id).and_then(|place| {
        let sequence = place.next.checked_sub(1)?;
        chain.iter().all(|name| name.sequence != sequence).then_some(sequence)
    });
    let find = |reach: &Reach| -> Option<u32> {
        let named = chain.iter().find(|name| name.salts == reach.salts);
        let same = span.from.is_some_and(|from| from.salts == reach.salts);
        named.map(|name| name.sequence).or(linked.filter(|_| same))
    };
    match (&span.from, &span.to) {
        (Some(from), Some(to)) => {
            let (first, last) = (find(from), find(to));
            let frame = from.frame.unwrap_or(0);
            let start = match (first, last) {
                (Some(sequence), _) => {
                    let covered =
                        chain.iter().any(|name| name.sequence == sequence && name.from <= frame);
                    (covered || linked == Some(sequence)).then_some((sequence, frame))?
                }
                // It was begun anew while the copy began.
                (None, Some(last)) if from.salts != to.salts => (last, 0),
                _ => return None,
            };
            let least = match (last, to.frame) {
                (Some(sequence), Some(frame)) => (sequence, frame),
                // Anything of this log is possible: only the next is surely later.
                (Some(sequence), None) => (sequence.saturating_add(1), 0),
                (None, _) => return None,
            };
            Some((start, least))
        }
        // There was no log when the copy began, and then there was.
        (None, Some(to)) => {
            let sequence = find(to)?;
            Some(((sequence, 0), (sequence, to.frame.unwrap_or(u32::MAX))))
        }
        // There was none: the copy is what the next log began with.
        (_, None) => {
            let place = span.chain.filter(|place| place.chain == id)?;
            Some(((place.next, 0), (place.next, 0)))
        }
    }
}

mod salts {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(salts: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{salts:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(serde::de::Error::custom)
    }
}
