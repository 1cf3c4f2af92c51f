//! The configuration file: found and read. What is judged about it is in `model::config`.

pub(crate) mod mistakes;
pub(crate) mod place;

use crate::failure::Failure;
use model::config::{Checked, Config, ConfigError, Finding};
use operations::Site;
use std::path::{Path, PathBuf};

/// A configuration that may be used.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
    /// What is allowed but probably not meant.
    pub(crate) warnings: Vec<Finding>,
    /// What is wrong with sections that are left out.
    pub(crate) mistakes: Vec<Finding>,
}

/// Reads and judges a configuration file. Any mistake is an error.
pub(crate) fn load(file: &Path) -> Result<Loaded, Failure> {
    let checked = parse(&text(file)?, file)?;
    Ok(loaded(checked, file))
}

/// Reads and judges a configuration file. Sections with a mistake are left out.
pub(crate) fn load_sound(file: &Path) -> Result<Loaded, Failure> {
    let checked = model::config::read_sound(&text(file)?, &file.display().to_string());
    Ok(loaded(checked.map_err(wrong)?, file))
}

fn text(file: &Path) -> Result<String, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(place::missing(file)),
        Err(e) => Err(Failure::io("read", file.display(), &e)),
    }
}

fn loaded(checked: Checked, file: &Path) -> Loaded {
    let Checked { config, warnings, mistakes } = checked;
    Loaded { config, file: file.to_owned(), warnings, mistakes }
}

impl Loaded {
    /// The host that it describes.
    pub(crate) fn site(self) -> Site {
        Site::new(self.config, self.file).with_mistakes(self.mistakes)
    }
}

/// Judges the text of a configuration file.
pub(crate) fn parse(text: &str, file: &Path) -> Result<Checked, Failure> {
    model::config::read(text, &file.display().to_string()).map_err(wrong)
}

/// The findings one by one, so that `--json` has them as a list.
fn wrong(mut error: ConfigError) -> Failure {
    error.findings.sort_by_key(|finding| finding.line);
    let count = match error.findings.len() {
        1 => "an error".to_owned(),
        n => format!("{n} errors"),
    };
    Failure::invalid(format!("{} has {count}", error.file))
        .listing(error.findings.iter().map(Finding::to_string).collect())
        .hint("Correct it, then run `mainstay config check`; docs/configuration.md has every key.")
}

/// A definition without what was not set, to be shown.
pub(crate) fn brief(definition: &impl serde::Serialize) -> serde_json::Value {
    let mut value = serde_json::to_value(definition).unwrap_or_default();
    drop_unset(&mut value);
    value
}

/// Keys that were not set say nothing; they only hide those that were.
fn drop_unset(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(map) = value {
        map.values_mut().for_each(drop_unset);
        map.retain(|_, value| match value {
            serde_json::Value::Null => false,
            serde_json::Value::Array(list) => !list.is_empty(),
            serde_json::Value::Object(map) => !map.is_empty(),
            _ => true,
        });
    }
}
