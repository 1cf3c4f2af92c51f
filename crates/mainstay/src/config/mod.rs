//! The configuration file: found and read. What is judged about it is in `model::config`.

pub(crate) mod place;

use crate::failure::Failure;
use model::config::{Checked, Config, ConfigError, Finding};
use std::path::{Path, PathBuf};

/// A configuration that may be used.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
    /// What is allowed but probably not meant.
    pub(crate) warnings: Vec<Finding>,
}

/// Reads and judges a configuration file.
pub(crate) fn load(file: &Path) -> Result<Loaded, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(place::missing(file)),
        Err(e) => return Err(Failure::io("read", file.display(), &e)),
    };
    let Checked { config, warnings } = parse(&text, file)?;
    Ok(Loaded { config, file: file.to_owned(), warnings })
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
