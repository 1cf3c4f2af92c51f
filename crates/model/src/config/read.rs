//! From the text of a configuration file to a configuration that may be used. Everything wrong with
//! it is told at once, each with its line.

use super::source::{Source, place};
use super::{Config, keys, rules};
use crate::{Class, Classify};
use serde::Serialize;
use std::fmt;

/// A configuration that may be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Finding>,
}

/// Something about the configuration, at a place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Line, from 1, where it is known.
    pub line: Option<usize>,
    /// Column in characters, from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// `service.docs.keep`; empty if it is the text that cannot be read.
    pub key: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) => write!(f, "line {line}, column {column}: ")?,
            (Some(line), None) => write!(f, "line {line}: ")?,
            (None, _) => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// A configuration that must not be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} has {}{}", count(.findings), listing(.findings))]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// What is wrong; never empty.
    pub findings: Vec<Finding>,
}

fn count(findings: &[Finding]) -> String {
    match findings.len() {
        1 => "an error".to_owned(),
        n => format!("{n} errors"),
    }
}

fn listing(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("\n  {finding}")).collect()
}

impl Classify for ConfigError {
    fn class(&self) -> Class {
        Class::Invalid
    }

    fn hint(&self) -> Option<String> {
        Some("Correct it, then run `mainstay config check`.".to_owned())
    }
}

impl Config {
    /// Reads and judges the text of a configuration file; `file` is its name in messages.
    pub fn parse(text: &str, file: &str) -> Result<Config, ConfigError> {
        read(text, file).map(|checked| checked.config)
    }

    /// All contradictions, by key, without lines.
    pub fn validate(&self) -> Vec<Finding> {
        rules::judge(self, None).errors
    }
}

/// Reads and judges the text of a configuration file, and tells what is doubtful too.
pub fn read(text: &str, file: &str) -> Result<Checked, ConfigError> {
    let wrong = |findings| ConfigError { file: file.to_owned(), findings };
    let unreadable = |span: Option<std::ops::Range<usize>>, message: &str| {
        let place = span.map(|span| place(text, span.start));
        let what = message.trim_end().replace('\n', "; ");
        wrong(vec![Finding {
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            key: String::new(),
            what,
        }])
    };
    let source = Source::parse(text).map_err(|e| unreadable(e.span(), e.message()))?;
    // Unknown keys come first: the misspelt key is the reason why another one is missing.
    let unknown = keys::unknown(&source);
    if !unknown.is_empty() {
        return Err(wrong(unknown));
    }
    let config: Config = toml::from_str(text).map_err(|e| unreadable(e.span(), e.message()))?;
    let verdict = rules::judge(&config, Some(&source));
    if verdict.errors.is_empty() {
        Ok(Checked { config, warnings: verdict.warnings })
    } else {
        Err(wrong(verdict.errors))
    }
}

/// The JSON schema of the file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Config).to_value()
}
