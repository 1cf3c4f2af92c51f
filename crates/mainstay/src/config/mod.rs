//! The configuration file: found, read, and judged.
//!
//! Everything wrong with it is told at once, each with its line.

mod keys;
pub(crate) mod place;
mod rules;
mod source;

use crate::failure::Failure;
use model::config::Config;
use source::Source;
use std::fmt;
use std::path::{Path, PathBuf};

/// A configuration that may be used.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) file: PathBuf,
    /// What is allowed but probably not meant.
    pub(crate) warnings: Vec<Finding>,
}

/// Something about the configuration, at a place in the file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Finding {
    /// Line, from 1, where it is known.
    pub(crate) line: Option<usize>,
    /// `service.docs.keep`.
    pub(crate) key: String,
    /// What is wrong.
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// Reads and judges a configuration file.
pub(crate) fn load(file: &Path) -> Result<Loaded, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(place::missing(file)),
        Err(e) => return Err(Failure::io("read", file.display(), &e)),
    };
    let (config, warnings) = parse(&text, file)?;
    Ok(Loaded { config, file: file.to_owned(), warnings })
}

/// Judges the text of a configuration file.
pub(crate) fn parse(text: &str, file: &Path) -> Result<(Config, Vec<Finding>), Failure> {
    let source = Source::parse(text).map_err(|e| unreadable(file, &e))?;
    // Unknown keys come first: the misspelt key is the reason why another one is missing.
    let unknown = keys::unknown(&source);
    if !unknown.is_empty() {
        return Err(wrong(file, unknown));
    }
    let config: Config = toml::from_str(text).map_err(|e| unreadable(file, &e.to_string()))?;
    let verdict = rules::judge(&config, &source);
    if verdict.errors.is_empty() {
        Ok((config, verdict.warnings))
    } else {
        Err(wrong(file, verdict.errors))
    }
}

fn unreadable(file: &Path, what: &str) -> Failure {
    Failure::invalid(format!("{} is not a valid configuration", file.display()))
        .listing(what.trim_end().lines().map(str::to_owned).collect())
        .hint("Correct it; docs/configuration.md lists every key.")
}

fn wrong(file: &Path, findings: Vec<Finding>) -> Failure {
    let count = match findings.len() {
        1 => "an error".to_owned(),
        n => format!("{n} errors"),
    };
    Failure::invalid(format!("{} has {count}", file.display()))
        .listing(findings.iter().map(Finding::to_string).collect())
        .hint("Correct it, then run `mainstay config check`.")
}

/// A connection URL without its password: `postgres://backup:secret@db/` becomes
/// `postgres://backup:…@db/`, and likewise `?password=`.
pub(crate) fn without_password(url: &str) -> String {
    let (start, rest) = match url.find("://") {
        Some(at) => url.split_at(at + 3),
        None => return url.to_owned(),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:…@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    let tail = match tail.split_once('?') {
        Some((path, query)) => {
            let hide = |pair: &str| match pair.split_once('=') {
                Some((key @ ("password" | "sslpassword"), _)) => format!("{key}=…"),
                _ => pair.to_owned(),
            };
            let query: Vec<String> = query.split('&').map(hide).collect();
            format!("{path}?{}", query.join("&"))
        }
        None => tail.to_owned(),
    };
    format!("{start}{authority}{tail}")
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn passwords_in_urls_are_not_shown() {
        for (url, shown) in [
            ("postgres://u:p@h/db", "postgres://u:…@h/db"),
            ("postgres://u:p@ss@h/db?x=1", "postgres://u:…@h/db?x=1"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres:///db?user=u&password=p", "postgres:///db?user=u&password=…"),
            ("/srv/vault", "/srv/vault"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
