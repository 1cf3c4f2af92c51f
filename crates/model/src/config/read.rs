//! From the text of a configuration file to a configuration that may be used. Everything wrong with
//! it is told at once, each with its line.

use super::section::{self, Section};
use super::source::{Source, place};
use super::{Alerts, Config, keys, rules};
use crate::{Class, Classify, MemberName};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// A configuration that may be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The configuration, of the sections that are sound.
    pub config: Config,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Finding>,
    /// What is wrong with the sections that are left out.
    pub mistakes: Vec<Finding>,
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
    /// Which sections cannot be used because of it; never empty.
    #[serde(skip)]
    pub sections: Vec<Section>,
}

impl Finding {
    /// Whether it spoils this section.
    pub fn is_of(&self, section: &Section) -> bool {
        self.sections.contains(section)
    }
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

/// Reads and judges the text of a configuration file, and tells what is doubtful too. Any mistake is an
/// error.
pub fn read(text: &str, file: &str) -> Result<Checked, ConfigError> {
    let checked = read_sound(text, file)?;
    if checked.mistakes.is_empty() {
        return Ok(checked);
    }
    Err(ConfigError { file: file.to_owned(), findings: checked.mistakes })
}

/// The same, but a section with a mistake is left out, and keeps nobody from using the others. Of
/// `[alerts]` only the keys are left out that are wrong. A mistake in what all share is an error.
pub fn read_sound(text: &str, file: &str) -> Result<Checked, ConfigError> {
    let wrong = |findings| ConfigError { file: file.to_owned(), findings };
    let unreadable = |section, span: Option<std::ops::Range<usize>>, message: &str| {
        let place = span.map(|span| place(text, span.start));
        Finding {
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            key: String::new(),
            what: message.trim_end().replace('\n', "; "),
            sections: vec![section],
        }
    };
    let source = Source::parse(text)
        .map_err(|e| wrong(vec![unreadable(Section::Shared, e.span(), e.message())]))?;
    let unknown = keys::unknown(&source);
    let mut mistakes: Vec<Finding> = unknown.iter().map(|key| key.finding.clone()).collect();
    if mistakes.iter().any(|finding| finding.is_of(&Section::Shared)) {
        return Err(wrong(mistakes));
    }
    // The misspelt key is the reason why another one is missing: of such a section nothing else is told.
    // Nothing is ever missing of `[alerts]`, of which what is sound is used.
    let spoilt = |findings: &[Finding]| -> BTreeSet<Section> {
        let sections = findings.iter().flat_map(|finding| finding.sections.clone());
        sections.filter(|section| *section != Section::Alerts).collect()
    };
    let is_news = |finding: &Finding, spoilt: &BTreeSet<Section>| {
        finding.sections.iter().any(|one| !spoilt.contains(one))
    };
    let misspelt = spoilt(&mistakes);
    let mut misshapen = Vec::new();
    let whole = section::read(text, &unknown, &mut misshapen);
    let misshapen = misshapen.into_iter().chain(whole.as_ref().err().cloned());
    let misshapen = misshapen.map(|one| unreadable(one.section, one.span, &one.what));
    mistakes.extend(misshapen.filter(|finding| is_news(finding, &misspelt)));
    let Ok(mut config) = whole else { return Err(wrong(mistakes)) };
    let verdict = rules::judge(&config, Some(&source));
    // Nor is more told of one of which something was not of the right shape, and is missing now.
    let broken = spoilt(&mistakes);
    mistakes.extend(verdict.errors.into_iter().filter(|finding| is_news(finding, &broken)));
    if mistakes.iter().any(|finding| finding.is_of(&Section::Shared)) {
        return Err(wrong(mistakes));
    }
    let is_sound = |section: &Section| !mistakes.iter().any(|finding| finding.is_of(section));
    config.service.retain(|name, _| is_sound(&Section::Service(name.to_string())));
    let (sound, spoilt) = std::mem::take(&mut config.copy)
        .into_iter()
        .partition(|(name, _)| is_sound(&Section::Copy(name.to_string())));
    config.copy = sound;
    config.left_out = spoilt.into_values().map(|copy| copy.vault.url).collect();
    let mut warnings = verdict.warnings;
    let is_used = |section: &Section| *section == Section::Alerts || is_sound(section);
    warnings.retain(|warning| warning.sections.iter().all(is_used));
    let alerts = mistakes.iter().filter_map(|finding| finding.key.strip_prefix("alerts."));
    config.alerts = section::alerts_without(&config.alerts, alerts);
    Ok(Checked { config, warnings, mistakes })
}

/// Whom to tell of a configuration that cannot be used, as far as its text says that soundly.
#[derive(Clone, Debug, PartialEq)]
pub struct Tellable {
    /// The host's name.
    pub name: Option<MemberName>,
    /// Where it keeps what was told.
    pub state_dir: Option<PathBuf>,
    /// Who is told.
    pub alerts: Alerts,
}

/// Reads nothing else: of a text that [`read_sound`] refuses. None if it cannot be read at all.
pub fn tellable(text: &str) -> Option<Tellable> {
    let source = Source::parse(text).ok()?;
    let (name, state_dir, alerts) = section::tellable(text, &keys::unknown(&source))?;
    let state_dir = state_dir.filter(|dir: &PathBuf| dir.is_absolute());
    let wrong = rules::judge_alerts(&alerts);
    let wrong = wrong.iter().filter_map(|finding| finding.key.strip_prefix("alerts."));
    Some(Tellable { name, state_dir, alerts: section::alerts_without(&alerts, wrong) })
}

/// The JSON schema of the file, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Config).to_value()
}
