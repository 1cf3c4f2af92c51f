//! Progress on a terminal: one line with what is done, how fast, and what is left.

use crate::ui::out::Out;
use crate::units;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use model::Progress;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What an operation reports to: a bar where there is a terminal for it, else only what is worth a
/// line.
pub(crate) fn progress(out: &Out) -> Arc<dyn Progress> {
    if out.wants_bar() { Arc::new(Bar::new(out.clone())) } else { Arc::new(Lines(out.clone())) }
}

/// Warnings alone, for what has no end to be told.
pub(crate) fn lines(out: &Out) -> Arc<dyn Progress> {
    Arc::new(Lines(out.clone()))
}

/// Without a terminal: warnings, and with `--verbose` also notes and phases.
struct Lines(Out);

impl Progress for Lines {
    fn phase(&self, what: &str) {
        self.0.detail(what);
    }

    fn note(&self, line: &str) {
        self.0.detail(line);
    }

    fn warn(&self, line: &str) {
        self.0.warn(line);
    }

    /// Shown wherever the warning was: it must not be the last word.
    fn over(&self, line: &str) {
        if !self.0.json {
            self.0.complain(line);
        }
    }
}

/// One line that is drawn again and again.
struct Bar {
    bar: ProgressBar,
    out: Out,
    expected: AtomicU64,
}

impl Bar {
    fn new(out: Out) -> Bar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        bar.set_style(style(false));
        bar.enable_steady_tick(Duration::from_millis(250));
        Bar { bar, out, expected: AtomicU64::new(0) }
    }
}

impl Progress for Bar {
    fn expect(&self, _files: u64, bytes: u64) {
        let before = self.expected.fetch_add(bytes, Ordering::SeqCst);
        if before == 0 && bytes > 0 {
            self.bar.set_style(style(true));
        }
        if before + bytes > 0 {
            self.bar.set_length(before + bytes);
        }
    }

    fn advance(&self, _files: u64, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn phase(&self, what: &str) {
        self.expected.store(0, Ordering::SeqCst);
        self.bar.set_style(style(false));
        self.bar.unset_length();
        self.bar.set_position(0);
        self.bar.reset_eta();
        self.bar.reset_elapsed();
        self.bar.set_message(what.to_owned());
    }

    fn note(&self, line: &str) {
        if self.out.verbose() {
            self.bar.suspend(|| self.out.detail(line));
        }
    }

    fn warn(&self, line: &str) {
        self.bar.suspend(|| self.out.warn(line));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// With a known end: a bar, rate and time left; without: what was done, and how fast.
fn style(end_is_known: bool) -> ProgressStyle {
    let template = if end_is_known {
        "{spinner} {msg}  [{bar:28}] {done} of {all}  {rate}  {left}"
    } else {
        "{spinner} {msg}  {moved}"
    };
    let size = |value: fn(&ProgressState) -> u64| {
        move |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&units::size(value(state)));
        }
    };
    let Ok(style) = ProgressStyle::with_template(template) else {
        return ProgressStyle::default_spinner();
    };
    style
        .with_key("done", size(ProgressState::pos))
        .with_key("all", size(|state| state.len().unwrap_or(0)))
        .with_key("rate", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = write!(w, "{}/s", units::size(per_second(state)));
        })
        .with_key("left", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            if state.pos() > 0 {
                let _ = write!(w, "{} left", units::duration(state.eta()));
            }
        })
        .with_key("moved", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            if state.pos() > 0 {
                let rate = units::size(per_second(state));
                let _ = write!(w, "{}  {rate}/s", units::size(state.pos()));
            }
        })
        .progress_chars("=> ")
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn per_second(state: &ProgressState) -> u64 {
    // A rate is a display, and never negative.
    state.per_sec() as u64
}
