//! What every command is given: the global options, the way to the terminal, and the way to stop.

use crate::cli::Globals;
use crate::config::{self, Loaded};
use crate::failure::Failure;
use crate::signals;
use crate::ui::out::Out;
use model::CancelToken;
use std::path::PathBuf;

/// One run of the program.
pub(crate) struct App {
    pub(crate) globals: Globals,
    pub(crate) out: Out,
    pub(crate) cancel: CancelToken,
}

impl App {
    /// Sets up the terminal and the signals.
    pub(crate) fn new(globals: Globals) -> Result<App, Failure> {
        let cancel = CancelToken::new();
        signals::watch(cancel.clone(), globals.quiet)?;
        let out = Out::new(&globals);
        Ok(App { globals, out, cancel })
    }

    /// The configuration file that this run uses, whether or not it is there.
    pub(crate) fn config_file(&self) -> Result<PathBuf, Failure> {
        config::place::choose(self.globals.config.as_deref())
    }

    /// Reads and judges the configuration.
    pub(crate) fn load_config(&self) -> Result<Loaded, Failure> {
        config::load(&self.config_file()?)
    }
}
