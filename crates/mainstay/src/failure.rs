//! How a command ends: its exit code, or a failure that is told once, with its causes and a hint.

use crate::ui::color::Paint;
use crate::ui::out::Out;
use model::{Class, Classify};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{self, Write};

/// Exit code of a bug in the program.
pub(crate) const BUG: u8 = 2;

/// Exit code of a reader who went away (`| head`): what a shell shows for SIGPIPE.
const PIPE_CLOSED: u8 = 141;

/// The exit code of a command that did not fail.
///
/// Of two, the greater is the worse: 130 (somebody wants it to end) above the particular ones (10,
/// 11, 12), above 3, above a mere 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// Done.
    pub(crate) const DONE: Exit = Exit(0);
    /// The command ran; what it looked at is not well.
    pub(crate) const NOT_WELL: Exit = Exit(1);
    /// Done, but some of the source could not be read.
    pub(crate) const UNREADABLE: Exit = Exit(3);
}

/// What every command returns.
pub(crate) type Outcome = Result<Exit, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    class: Class,
    message: String,
    causes: Vec<String>,
    /// The causes are several findings, not a chain.
    list: bool,
    hint: Option<String>,
    code: Option<u8>,
}

impl Failure {
    /// A failure of this class.
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        let message = message.into();
        let hint = usual_hint(class);
        Failure { class, message, causes: Vec::new(), list: false, hint, code: None }
    }

    /// The request or the configuration is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Failure::new(Class::Invalid, message)
    }

    /// A rule that protects data forbids it.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Failure::new(Class::Refused, message)
    }

    /// The operating system refused to do `what` with `object`.
    pub(crate) fn io(what: &str, object: impl std::fmt::Display, source: &io::Error) -> Self {
        let class = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
            _ => Class::Failed,
        };
        Failure::new(class, format!("cannot {what} {object}")).because(source)
    }

    /// Standard output could not be written. A reader who went away is no failure worth a word.
    pub(crate) fn output(source: &io::Error) -> Self {
        let mut failure = Failure::io("write to", "standard output", source);
        if source.kind() == io::ErrorKind::BrokenPipe {
            failure.code = Some(PIPE_CLOSED);
        }
        failure
    }

    /// Adds what caused it, with everything below.
    pub(crate) fn because(mut self, source: &(dyn Error + 'static)) -> Self {
        let mut next = Some(source);
        while let Some(cause) = next {
            let text = cause.to_string();
            // A transparent wrapper says what its source says.
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    /// Adds several findings.
    pub(crate) fn listing(mut self, findings: Vec<String>) -> Self {
        self.list = true;
        self.causes = findings;
        self
    }

    /// Adds what the user can do: a sentence that begins with a verb.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Ends the program with this code instead of its class's.
    pub(crate) fn exiting(mut self, code: u8) -> Self {
        self.code = Some(code);
        self
    }

    /// What the caller does next.
    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// The failure and its causes on one line.
    pub(crate) fn one_line(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        line.replace('\n', " ")
    }

    /// What the user can do about it, if there is something.
    pub(crate) fn the_hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Says which of several services it happened to.
    pub(crate) fn about(mut self, service: impl std::fmt::Display) -> Self {
        self.message = format!("{service}: {}", self.message);
        self
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        Exit(self.code.unwrap_or_else(|| self.class.exit_code()))
    }

    /// Tells it on standard error, once, and gives the exit code.
    pub(crate) fn report(&self, out: &Out) -> Exit {
        let exit = self.exit();
        if exit.0 == PIPE_CLOSED {
            return exit;
        }
        let text = if out.json {
            let mut value = self.to_json();
            let warnings = out.warnings();
            if let (Value::Object(map), false) = (&mut value, warnings.is_empty()) {
                map.insert("warnings".to_owned(), warnings.into());
            }
            format!("{value}\n")
        } else {
            self.as_text(&out.err_paint)
        };
        // There is nobody left to tell if standard error is closed.
        let _ = io::stderr().lock().write_all(text.as_bytes());
        exit
    }

    /// As `--json` tells it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "class": class_name(self.class),
            "message": self.message,
            "causes": self.causes,
            "hint": self.hint,
            "exit-code": self.exit().0,
        })
    }

    fn as_text(&self, paint: &Paint) -> String {
        let title = if self.class == Class::Cancelled { "Cancelled:" } else { "Error:" };
        let mut text = format!("{} {}\n", paint.bad(title), self.message);
        for cause in &self.causes {
            let cause = cause.trim_end().replace('\n', "\n    ");
            let lead = if self.list { "" } else { "because: " };
            text.push_str(&format!("  {lead}{cause}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{} {hint}\n", paint.note("Hint:")));
        }
        text
    }
}

/// What can be done about every failure of a kind, where none says more.
fn usual_hint(class: Class) -> Option<String> {
    let full = "Free some space on the disk that it lies on, and give the command again.";
    (class == Class::NoSpace).then(|| full.to_owned())
}

/// Every error of the crates below says its class and hint by itself.
impl<E: Classify + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut failure = Failure::new(error.class(), error.to_string());
        failure.hint = error.hint().or(failure.hint);
        match error.source() {
            Some(source) if source.to_string() != failure.message => failure.because(source),
            Some(source) => match source.source() {
                Some(deeper) => failure.because(deeper),
                None => failure,
            },
            None => failure,
        }
    }
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Invalid => "invalid",
        Class::Refused => "refused",
        Class::Unavailable => "unavailable",
        Class::NoSpace => "no-space",
        Class::Corrupt => "corrupt",
        Class::NoRepository => "no-repository",
        Class::Locked => "locked",
        Class::WrongPassword => "wrong-password",
        Class::Cancelled => "cancelled",
        Class::Failed => "failed",
    }
}

/// A panic is a bug, and says so. The unwinding that follows still runs every undo.
pub(crate) fn panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line()));
        let payload = panic.payload();
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        let _ = writeln!(
            io::stderr().lock(),
            "Error: this is a bug in mainstay {}{}: {what}\n\
             Hint: Report it with this text and what you did.",
            env!("CARGO_PKG_VERSION"),
            place.unwrap_or_default(),
        );
    }));
}
