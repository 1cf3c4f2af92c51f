//! How the demo is told: acts, command lines as a user would type them, what they said, remarks.

use super::judge::{Check, Loss};
use super::shop::Kind;
use crate::app::App;
use crate::failure::Failure;
use serde::Serialize;
use std::time::Duration;

/// Wide enough for a command, narrow enough for a terminal.
const TIME_COLUMN: usize = 78;

/// One command that was run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Step {
    /// On which host.
    pub(crate) host: String,
    /// As a user would type it.
    pub(crate) command: String,
    /// How it ended; none if a signal ended it.
    pub(crate) exit_code: Option<i32>,
    /// How long it took.
    pub(crate) took_ms: u128,
}

/// Tells the story to a terminal, and remembers it for `--json`.
pub(crate) struct Narrator<'a> {
    app: &'a App,
    /// Cut off from paths: the demo's directory.
    prefix: String,
    acts: usize,
    steps: Vec<Step>,
}

impl<'a> Narrator<'a> {
    pub(crate) fn new(app: &'a App, directory: &std::path::Path) -> Narrator<'a> {
        Narrator { app, prefix: format!("{}/", directory.display()), acts: 0, steps: Vec::new() }
    }

    /// What this is.
    pub(crate) fn title(&self, kind: Kind) -> Result<(), Failure> {
        let out = &self.app.out;
        out.say(out.paint.bold(&format!("A shop on {}, two hosts, one vault.", kind.title())))?;
        out.say(format!("Everything is below {} and nothing outside is touched.", self.prefix))
    }

    /// A new act begins.
    pub(crate) fn act(&mut self, title: &str) -> Result<(), Failure> {
        self.acts += 1;
        let title = format!("{}. {title}", self.acts);
        self.app.out.say(format!("\n{}", self.app.out.paint.bold(&title)))
    }

    /// Something that happens, or that one should notice.
    pub(crate) fn remark(&self, text: &str) -> Result<(), Failure> {
        self.app.out.say(format!("   {text}"))
    }

    /// A command that was run, and what it said.
    pub(crate) fn step(&mut self, step: Step, said: &str) -> Result<(), Failure> {
        let out = &self.app.out;
        let line = format!("   {}$ {}", step.host, step.command);
        let took = format!(
            "{:.2} s",
            Duration::from_millis(u64::try_from(step.took_ms).unwrap_or(u64::MAX),).as_secs_f64()
        );
        let gap = TIME_COLUMN.saturating_sub(line.chars().count() + took.len()).max(1);
        out.say(format!("{}{}{}", out.paint.note(&line), " ".repeat(gap), out.paint.dim(&took)))?;
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            out.say(out.paint.dim(&format!("      {}", line.replace(&self.prefix, ""))))?;
        }
        self.steps.push(step);
        Ok(())
    }

    /// Everything that was run.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The end: what was lost, how long it took, what was checked.
    pub(crate) fn verdict(
        &self,
        loss: &Loss,
        outage: Duration,
        checks: &[Check],
    ) -> Result<(), Failure> {
        let out = &self.app.out;
        out.say(format!("\n{}", out.paint.bold("What was lost")))?;
        out.say(format!("   A had acknowledged   {:>6} orders", loss.acknowledged))?;
        out.say(format!("   B has of them        {:>6}", loss.acknowledged - loss.lost))?;
        out.say(format!(
            "   lost                 {:>6}, {:.2} s of orders",
            loss.lost,
            seconds(loss.lost_ms)
        ))?;
        out.say(format!(
            "   announced            everything from the last {:.2} s before the loss",
            seconds(loss.announced_ms)
        ))?;
        out.say(format!("\n{}", out.paint.bold("How long it took")))?;
        for step in &self.steps {
            out.say(format!(
                "   {:>7.2} s  {}$ {}",
                seconds(i128::try_from(step.took_ms).unwrap_or(i128::MAX)),
                step.host,
                step.command
            ))?;
        }
        out.say(format!(
            "   {:>7.2} s  from the loss of A to the first order that B acknowledged",
            outage.as_secs_f64()
        ))?;
        out.say(format!("\n{}", out.paint.bold("What was checked")))?;
        for check in checks {
            let mark = if check.held { out.paint.good("ok    ") } else { out.paint.bad("FAILED") };
            out.say(format!("   {mark} {} ({})", check.what, check.seen))?;
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss)] // Milliseconds of a demo are far below 2^52.
fn seconds(ms: i128) -> f64 {
    ms as f64 / 1000.0
}
