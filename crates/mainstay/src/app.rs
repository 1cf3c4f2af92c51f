//! What every command is given: the global options, the way to the terminal, and the way to stop.

use crate::cli::Globals;
use crate::config::{self, Loaded, mistakes};
use crate::failure::{Exit, Failure, Outcome};
use crate::signals;
use crate::ui::out::Out;
use crate::ui::progress::{lines, progress};
use model::{CancelToken, Progress, ServiceName};
use operations::{Run, ServiceSite, Site};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// One run of the program.
pub(crate) struct App {
    pub(crate) globals: Globals,
    pub(crate) out: Out,
    cancel: CancelToken,
    watched: OnceLock<()>,
}

/// The services that a command is about.
pub(crate) struct Chosen {
    pub(crate) names: Vec<ServiceName>,
    /// Nobody named them: they are all that there are.
    all: bool,
}

impl Chosen {
    /// All of this host.
    pub(crate) fn all(site: &Site) -> Chosen {
        Chosen { names: site.services(), all: true }
    }

    /// These, each once or as often as it has a turn. Warns of mistakes in the sections of others.
    pub(crate) fn named(app: &App, site: &Site, names: Vec<ServiceName>) -> Chosen {
        mistakes::warn(app, site, &names);
        Chosen { names, all: false }
    }

    /// These turns of services that `run-due` has told of.
    pub(crate) fn turns(names: Vec<ServiceName>, all: bool) -> Chosen {
        Chosen { names, all }
    }
}

impl App {
    /// With these options, on this terminal.
    pub(crate) fn new(globals: Globals, out: Out) -> App {
        App { globals, out, cancel: CancelToken::new(), watched: OnceLock::new() }
    }

    /// What a signal sets from the first call on. Before it, and in commands that never ask, a
    /// signal ends the program at once: there is nothing to clean up, and what only reads must not
    /// hang on a vault that does.
    pub(crate) fn cancel(&self) -> &CancelToken {
        self.watched.get_or_init(|| {
            let quiet = self.out.quiet() || self.out.json;
            if let Err(failure) = signals::watch(self.cancel.clone(), quiet) {
                self.out.warn(failure.one_line());
            }
        });
        &self.cancel
    }

    /// The same, without a word when a signal comes: whoever attends this process has said one.
    pub(crate) fn watch_quietly(&self) -> Result<(), Failure> {
        let mut watched = Ok(());
        self.watched.get_or_init(|| watched = signals::watch(self.cancel.clone(), true));
        watched
    }

    /// The configuration file that this run uses, whether or not it is there.
    pub(crate) fn config_file(&self) -> Result<PathBuf, Failure> {
        config::place::choose(self.globals.config.as_deref())
    }

    /// Reads and judges the configuration. Any mistake is an error.
    pub(crate) fn load_config(&self) -> Result<Loaded, Failure> {
        config::load(&self.config_file()?)
    }

    /// The same, without the sections that have a mistake.
    pub(crate) fn load_sound(&self) -> Result<Loaded, Failure> {
        config::load_sound(&self.config_file()?)
    }

    /// This host, as far as its configuration is sound: a mistake in one section is no reason to leave the
    /// service of another unprotected, or down.
    pub(crate) fn site(&self) -> Result<Site, Failure> {
        self.at_work(self.load_sound()?)
    }

    /// This host, if there is no mistake in its configuration: for what makes things by it.
    pub(crate) fn whole_site(&self) -> Result<Site, Failure> {
        self.at_work(self.load_config()?)
    }

    fn at_work(&self, loaded: Loaded) -> Result<Site, Failure> {
        let program =
            std::env::current_exe().map_err(|e| Failure::io("find", "this program", &e))?;
        // Not `self.cancel()`: whether signals are caught is for the command to say.
        Ok(loaded.site().with_program(program).with_cancel(self.cancel.clone()))
    }

    /// One service on this host. Warns of mistakes in the sections of others.
    pub(crate) fn service(&self, name: &ServiceName) -> Result<ServiceSite, Failure> {
        let site = self.site()?;
        mistakes::warn(self, &site, std::slice::from_ref(name));
        Ok(site.service(name)?)
    }

    /// Where long work reports.
    pub(crate) fn progress(&self) -> Arc<dyn Progress> {
        progress(&self.out)
    }

    /// Where work without an end warns.
    pub(crate) fn warnings(&self) -> Arc<dyn Progress> {
        lines(&self.out)
    }

    /// What an operation is given.
    pub(crate) fn run(&self) -> Run {
        let (progress, cancel) = (self.progress(), self.cancel().clone());
        Run { progress, cancel, wait: self.globals.wait, booting: false }
    }

    /// Does the same for several services, one after the other. One that fails does not keep the
    /// others from their turn; the worst outcome is the outcome of all.
    pub(crate) fn each(
        &self,
        chosen: &Chosen,
        what: impl Fn(&ServiceSite) -> Result<(Exit, Value), Failure>,
    ) -> Outcome {
        let site = self.site()?;
        let mut worst = Exit::DONE;
        let mut results = Vec::new();
        for name in &chosen.names {
            let done = site.service(name).map_err(Failure::from).and_then(|service| what(&service));
            let exit = match done {
                Ok((exit, mut value)) => {
                    if let Value::Object(map) = &mut value {
                        map.shift_insert(0, "service".to_owned(), json!(name));
                    }
                    results.push(value);
                    exit
                }
                Err(failure) => {
                    results.push(json!({ "service": name, "error": failure.to_json() }));
                    if !self.out.json {
                        failure.about(name).report(&self.out)
                    } else {
                        failure.exit()
                    }
                }
            };
            worst = worst.max(exit);
            if self.cancel.is_cancelled() {
                break;
            }
        }
        if chosen.all {
            worst = worst.max(mistakes::elsewhere(self, &site));
        }
        if self.out.json {
            self.out.document(&json!({ "services": results }))?;
        }
        Ok(worst)
    }
}
