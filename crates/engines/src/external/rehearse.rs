//! A rehearsal by a program: it brings the copy to life, where it can harm nobody, and says what it
//! then is.
//!
//! Whatever the program does, crashes, hangs or says nonsense, is a verdict on the copy: nothing was
//! proven. Only a cancel, and what has nothing to do with the copy, is an error.

use super::protocol::{RehearseAnswer, RehearseRequest};
use super::{External, WORK};
use crate::command::Output;
use crate::{Context, Error, Rehearsal, Rehearsed, Verdict};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

/// No answer is longer.
const LONGEST_ANSWER: usize = 1 << 20;

pub(super) fn rehearse(
    engine: &External,
    cx: &Context<'_>,
    rehearsal: &Rehearsal<'_>,
) -> Result<Rehearsed, Error> {
    cx.progress.phase("the engine rehearses");
    let mut verdict = match engine.description.check {
        true => engine.try_check(cx, rehearsal)?,
        false => Verdict { sound: true, findings: Vec::new() },
    };
    let port = engine.description.rehearse_port.then(free_port).transpose()?;
    let question = RehearseRequest {
        meta: rehearsal.meta,
        copy: rehearsal.copy.iter().map(Into::into).collect(),
        home: rehearsal.home,
        port,
        isolated: rehearsal.isolation.is_complete(),
    };
    let command = engine.tied(cx, "rehearse", question)?.dir(rehearsal.home);
    let command = command.timeout(rehearsal.limit.unwrap_or(WORK));
    let begun = Instant::now();
    let tried = rehearsal.try_out(cx, command, port.is_some(), &mut verdict)?;
    let took = begun.elapsed();
    let answered_after = tried.and_then(|output| {
        output.messages().iter().for_each(|line| cx.progress.note(line));
        RehearseAnswer::read(&output)?.judge(took, &mut verdict)
    });
    let answered_after = answered_after.unwrap_or_else(|why| {
        verdict.bad(why.to_string());
        None
    });
    let rehearsed = rehearsal.of_files(cx, verdict)?;
    Ok(Rehearsed { answered_after, ..rehearsed })
}

/// A port that nobody listens on. Where the program is cut off, all are free.
fn free_port() -> Result<u16, Error> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    free.map(|address| address.port()).map_err(|e| Error::io("find", "a free port", e))
}

impl RehearseAnswer {
    fn read(output: &Output) -> Result<RehearseAnswer, Error> {
        let answer = output.stdout().ok().filter(|bytes| bytes.len() <= LONGEST_ANSWER);
        let answer = answer.ok_or_else(|| output.failure_as("said far too much"))?;
        // What is wrong is told with what was said, however long that is.
        serde_json::from_slice(answer).map_err(|e| {
            let why = presentable(&e.to_string());
            output.failure_as(&format!("did not answer as it should ({why})"))
        })
    }

    /// Adds what was said to the verdict; how long it took until the copy answered.
    fn judge(self, took: Duration, verdict: &mut Verdict) -> Result<Option<Duration>, Error> {
        let said = self.answered_after_seconds.map(Duration::try_from_secs_f64).transpose();
        let said = said.map_err(|e| {
            Error::failed("the engine says that the copy answered at an impossible time").because(e)
        })?;
        let more = self.findings.len().saturating_sub(FINDINGS);
        verdict.findings.extend(self.findings.iter().take(FINDINGS).map(|one| presentable(one)));
        if more > 0 {
            verdict.findings.push(format!("and {more} more findings of the engine"));
        }
        match self.sound {
            true => verdict.findings.push("the engine's rehearsal went well".to_owned()),
            false => verdict.bad("the engine's rehearsal found the copy not sound".to_owned()),
        }
        Ok(self.sound.then(|| said.map_or(took, |said| said.min(took))))
    }
}

/// How many findings are kept, and how much of each.
const FINDINGS: usize = 100;
const FINDING_CHARS: usize = 400;

/// Fit to be shown on one line.
fn presentable(finding: &str) -> String {
    let clean = finding.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    clean.filter(|c| !c.is_control()).take(FINDING_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_kept_within_bounds() {
        let mut verdict = Verdict { sound: true, findings: Vec::new() };
        let answer = RehearseAnswer {
            sound: true,
            findings: vec!["\u{1b}[31mred\nand\tmore ".repeat(1000); 1000],
            answered_after_seconds: Some(1e9),
        };
        let took = Duration::from_secs(3);
        assert_eq!(answer.judge(took, &mut verdict).expect("possible"), Some(took));
        assert_eq!(verdict.findings.len(), FINDINGS + 2);
        let first = &verdict.findings[0];
        assert!(first.chars().count() == FINDING_CHARS && !first.contains(['\u{1b}', '\n']));
        for impossible in [-1.0, 1e300, f64::INFINITY, f64::NAN] {
            let answer = RehearseAnswer {
                sound: true,
                findings: Vec::new(),
                answered_after_seconds: Some(impossible),
            };
            answer.judge(took, &mut verdict).expect_err("impossible");
        }
    }
}
