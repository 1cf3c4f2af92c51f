//! What the demo's end says: what was lost, and whether everything that was promised held.
//!
//! A function of what was seen, so that it can be shown to notice a lie.

use super::ledger::Entries;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::collections::BTreeSet;

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// What the customers know.
    pub(crate) ledger: Entries,
    /// Orders from before the story began, numbered from 1.
    pub(crate) seeds: u64,
    /// What the shop on B holds at the end.
    pub(crate) books: Books,
    /// What says whether B's copy is sound, and what it says: an error is what it found wrong.
    pub(crate) checker: &'static str,
    pub(crate) sound: Result<String, String>,
    /// The point that the takeover said B holds, before it changed anything: its source time.
    pub(crate) announced: Timestamp,
    /// When A was killed, and whether an order was in the middle of being written.
    pub(crate) killed: Timestamp,
    pub(crate) mid_write: bool,
    /// Whether A's start, when it came back, was let through.
    pub(crate) a_started: bool,
    /// Whether A's backup, when it came back, was let through.
    pub(crate) a_backed_up: bool,
    /// Whether A's copy is byte for byte what it was after the kill.
    pub(crate) a_unchanged: bool,
    /// The roles at the end, as `status` shows them on A and on B.
    pub(crate) roles: [String; 2],
}

/// What a copy of the shop holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    /// Numbers of all orders.
    pub(crate) numbers: BTreeSet<u64>,
    /// Orders that are not whole, and sums that do not add up.
    pub(crate) torn: Vec<String>,
}

/// One thing that must hold.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Check {
    /// What.
    pub(crate) what: &'static str,
    /// Whether it does.
    pub(crate) held: bool,
    /// What was counted.
    pub(crate) seen: String,
}

/// What the takeover cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Loss {
    /// Orders that A acknowledged.
    pub(crate) acknowledged: usize,
    /// Those of them that B does not have.
    pub(crate) lost: usize,
    /// From the first order that was lost to the last one, in milliseconds.
    pub(crate) lost_ms: i128,
    /// From the announced point to the kill, in milliseconds: what could have been lost.
    pub(crate) announced_ms: i128,
}

/// Compares the ledger with B's books.
pub(crate) fn loss(evidence: &Evidence) -> Loss {
    let held = &evidence.books.numbers;
    let lost: Vec<_> = evidence.ledger.of("a").filter(|ack| !held.contains(&ack.number)).collect();
    let span = match (lost.first(), lost.last()) {
        (Some(first), Some(last)) => last.at.duration_since(first.at),
        _ => SignedDuration::ZERO,
    };
    Loss {
        acknowledged: evidence.ledger.of("a").count(),
        lost: lost.len(),
        lost_ms: span.as_millis().max(0),
        announced_ms: evidence.killed.duration_since(evidence.announced).as_millis(),
    }
}

/// Every check, each with what was counted.
pub(crate) fn checks(evidence: &Evidence) -> Vec<Check> {
    let Evidence { ledger, books, announced, .. } = evidence;
    let held = |number: u64| books.numbers.contains(&number);
    let missing_seeds = (1..=evidence.seeds).filter(|number| !held(*number)).count();
    let covered: Vec<_> = ledger.of("a").filter(|ack| ack.at <= *announced).collect();
    let broken_promises = covered.iter().filter(|ack| !held(ack.number)).count();
    let loss = loss(evidence);
    let gap = hole(evidence);
    let of_b = ledger.of("b").count();
    let missing_of_b = ledger.of("b").filter(|ack| !held(ack.number)).count();
    let strangers =
        books.numbers.iter().filter(|n| **n > evidence.seeds && !ledger.begun.contains(n)).count();
    let check = |what, held, seen| Check { what, held, seen };
    vec![
        check(
            "A was lost in the middle of a write",
            evidence.mid_write,
            format!("order {} was begun and never acknowledged", last_of_a(evidence)),
        ),
        check(
            "nothing is lost that takeover had not announced",
            missing_seeds == 0 && broken_promises == 0,
            format!(
                "B has {} old orders and {} of the {} acknowledged before the point it announced",
                evidence.seeds - missing_seeds as u64,
                covered.len() - broken_promises,
                covered.len()
            ),
        ),
        check(
            "what was lost is the end, without a hole before it",
            gap.is_none(),
            match gap {
                None => format!("the last {} of {}", loss.lost, loss.acknowledged),
                Some((lost, kept)) => format!("order {lost} is lost, but the later {kept} is not"),
            },
        ),
        check(
            "no order is torn, and the till adds up",
            books.torn.is_empty(),
            match books.torn.first() {
                None => format!("{} orders looked through", books.numbers.len()),
                Some(first) => format!("{} are wrong: {first}", books.torn.len()),
            },
        ),
        check(
            evidence.checker,
            evidence.sound.is_ok(),
            match &evidence.sound {
                Ok(said) | Err(said) => said.clone(),
            },
        ),
        check(
            "B went on taking orders and holds them all",
            of_b > 0 && missing_of_b == 0,
            format!("{} of {of_b}", of_b - missing_of_b),
        ),
        check(
            "B holds nothing that nobody ordered",
            strangers == 0,
            format!("{strangers} unknown orders"),
        ),
        check(
            "A's start was stopped by the gate",
            !evidence.a_started,
            if evidence.a_started { "it started" } else { "it did not start" }.to_owned(),
        ),
        check(
            "A's backup was refused",
            !evidence.a_backed_up,
            if evidence.a_backed_up { "it was taken" } else { "it was refused" }.to_owned(),
        ),
        check(
            "A's copy was not written to after the takeover",
            evidence.a_unchanged,
            if evidence.a_unchanged { "not a byte changed" } else { "bytes changed" }.to_owned(),
        ),
        check(
            "status says it on both hosts",
            evidence.roles == ["broken".to_owned(), "primary".to_owned()],
            format!("A is {}, B is {}", evidence.roles[0], evidence.roles[1]),
        ),
    ]
}

fn last_of_a(evidence: &Evidence) -> u64 {
    let first_of_b = evidence.ledger.of("b").map(|ack| ack.number).min().unwrap_or(u64::MAX);
    evidence.ledger.begun.range(..first_of_b).next_back().copied().unwrap_or(0)
}

/// A lost order of A that is followed by one that was kept.
fn hole(evidence: &Evidence) -> Option<(u64, u64)> {
    let held = |number: u64| evidence.books.numbers.contains(&number);
    let first_lost = evidence.ledger.of("a").map(|ack| ack.number).find(|n| !held(*n))?;
    let later = evidence.ledger.of("a").map(|ack| ack.number);
    let kept = later.into_iter().find(|number| *number > first_lost && held(*number))?;
    Some((first_lost, kept))
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ack;
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + ms).unwrap()
    }

    /// Two old orders; A acknowledged 3 to 12, one every 10 ms, and was killed in 13; B holds
    /// those up to 9 and took 14 and 15.
    fn evidence() -> Evidence {
        let ack = |host: &str, number: u64, ms| Ack { host: host.to_owned(), number, at: at(ms) };
        let mut acked: Vec<Ack> =
            (3_u64..=12).map(|n| ack("a", n, i64::try_from(n).unwrap() * 10)).collect();
        acked.extend([ack("b", 14, 500), ack("b", 15, 510)]);
        Evidence {
            ledger: Entries { acked, begun: (3..=15).collect(), open: false },
            seeds: 2,
            books: Books { numbers: (1..=9).chain([14, 15]).collect(), torn: Vec::new() },
            checker: "the checker finds B's copy sound",
            sound: Ok("ok".to_owned()),
            announced: at(95),
            killed: at(125),
            mid_write: true,
            a_started: false,
            a_backed_up: false,
            a_unchanged: true,
            roles: ["broken".to_owned(), "primary".to_owned()],
        }
    }

    fn failed(evidence: &Evidence) -> Vec<&'static str> {
        checks(evidence).into_iter().filter(|check| !check.held).map(|check| check.what).collect()
    }

    #[test]
    fn an_honest_run_passes_and_its_loss_is_counted() {
        let evidence = evidence();
        assert_eq!(failed(&evidence), [""; 0]);
        let expected = Loss { acknowledged: 10, lost: 3, lost_ms: 20, announced_ms: 30 };
        assert_eq!(loss(&evidence), expected);
    }

    #[test]
    fn every_lie_is_noticed() {
        type Lie = fn(&mut Evidence);
        let lies: Vec<(&str, Lie)> = vec![
            ("had not announced", |e| e.announced = at(105)),
            ("had not announced", |e| assert!(e.books.numbers.remove(&2))),
            ("without a hole", |e| {
                assert!(e.books.numbers.remove(&6));
                e.announced = at(55);
            }),
            ("torn", |e| e.books.torn.push("order 3 has 2 items".to_owned())),
            ("checker", |e| e.sound = Err("row missing from index".to_owned())),
            ("went on", |e| assert!(e.books.numbers.remove(&15))),
            ("went on", |e| e.ledger.acked.retain(|ack| ack.host == "a")),
            ("nobody ordered", |e| assert!(e.books.numbers.insert(99))),
            ("middle", |e| e.mid_write = false),
            ("gate", |e| e.a_started = true),
            ("backup was refused", |e| e.a_backed_up = true),
            ("not written", |e| e.a_unchanged = false),
            ("status", |e| e.roles = ["primary".to_owned(), "primary".to_owned()]),
        ];
        for (expected, lie) in lies {
            let mut evidence = evidence();
            lie(&mut evidence);
            let failed = failed(&evidence);
            assert!(failed.iter().any(|what| what.contains(expected)), "{expected}: {failed:?}");
        }
    }
}
