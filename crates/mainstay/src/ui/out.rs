//! Standard output and standard error. A reader who went away ends the command without a word.

use crate::cli::Globals;
use crate::failure::Failure;
use crate::ui::color::Paint;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// The way to the terminal. Clones share it.
#[derive(Clone)]
pub(crate) struct Out {
    /// Results are JSON.
    pub(crate) json: bool,
    quiet: bool,
    verbose: u8,
    /// Colours of standard output.
    pub(crate) paint: Paint,
    /// Colours of standard error.
    pub(crate) err_paint: Paint,
    /// Beside JSON, warnings are part of the document.
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Out {
    pub(crate) fn new(globals: &Globals) -> Out {
        Out {
            json: globals.json,
            quiet: globals.quiet,
            verbose: globals.verbose,
            paint: Paint::for_stdout(globals.color),
            err_paint: Paint::for_stderr(globals.color),
            warnings: Arc::default(),
        }
    }

    /// For results as JSON, before anything else is known.
    pub(crate) fn json() -> Out {
        Out {
            json: true,
            quiet: false,
            verbose: 0,
            paint: Paint::plain(),
            err_paint: Paint::plain(),
            warnings: Arc::default(),
        }
    }

    /// Standard output, for bytes.
    pub(crate) fn bytes(&self) -> io::StdoutLock<'static> {
        io::stdout().lock()
    }

    /// The result of a command as one JSON document.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        let unprintable = |e| Failure::new(model::Class::Failed, format!("cannot print JSON: {e}"));
        let mut value = serde_json::to_value(value).map_err(unprintable)?;
        let warnings = self.warnings();
        if let (Value::Object(map), false) = (&mut value, warnings.is_empty()) {
            map.entry("warnings").or_insert_with(|| warnings.into());
        }
        let mut text = serde_json::to_string_pretty(&value).map_err(unprintable)?;
        text.push('\n');
        self.text(&text)
    }

    /// The result of a command as text, as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Failure::output(&e))
    }

    /// One line of the result.
    pub(crate) fn line(&self, line: impl Display) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// One line about what was done; not with `--quiet`, nor beside JSON.
    pub(crate) fn say(&self, line: impl Display) -> Result<(), Failure> {
        if self.quiet || self.json { Ok(()) } else { self.line(line) }
    }

    /// One line on standard error about what is going on, with `--verbose`.
    pub(crate) fn detail(&self, line: impl Display) {
        if self.verbose > 0 {
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// A warning, on standard error or in the document.
    pub(crate) fn warn(&self, line: impl Display) {
        if self.json {
            let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            warnings.push(line.to_string());
        } else {
            let _ = writeln!(io::stderr().lock(), "{}", self.warning(line));
        }
    }

    /// One more line of a warning.
    pub(crate) fn complain(&self, line: impl Display) {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// A warning as it is shown.
    pub(crate) fn warning(&self, line: impl Display) -> String {
        format!("{} {line}", self.err_paint.warning("Warning:"))
    }

    /// The warnings so far that were not shown.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether details are wanted.
    pub(crate) fn verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Whether only what is wrong is wanted.
    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }

    /// Whether a progress bar has a place.
    pub(crate) fn wants_bar(&self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    /// Whether there is a person to ask.
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Everything was written.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        io::stdout().lock().flush().map_err(|e| Failure::output(&e))
    }
}
