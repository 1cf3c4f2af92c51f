//! Which part of a configuration file a mistake spoils. A mistake in the section of one service is no
//! reason for the others to go without what protects them.

use super::{Alerts, Config};
use crate::{ServiceName, VaultName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer, Error, ValueDeserializer};

/// A part of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The host, the vault, the text itself: with a mistake there nothing can be used.
    Shared,
    /// `[service.NAME]`, whether or not that is a name.
    Service(String),
    /// `[copy.NAME]`.
    Copy(String),
    /// `[alerts]`.
    Alerts,
    /// One that does not exist: `[sevice.docs]`.
    Unknown(String),
}

impl Section {
    /// Where the key is that this path leads to.
    pub(super) fn of(path: &[&str]) -> Section {
        match path {
            ["service", name, ..] => Section::Service((*name).to_owned()),
            ["copy", name, ..] => Section::Copy((*name).to_owned()),
            ["alerts", ..] => Section::Alerts,
            [] | ["host" | "vault" | "service" | "copy", ..] => Section::Shared,
            [other, ..] => Section::Unknown((*other).to_owned()),
        }
    }

    /// The service whose section it is.
    pub fn service(&self) -> Option<ServiceName> {
        match self {
            Section::Service(name) => ServiceName::new(name).ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Section::Shared => f.write_str("what all sections share"),
            Section::Service(name) => write!(f, "[service.{name}]"),
            Section::Copy(name) => write!(f, "[copy.{name}]"),
            Section::Alerts => f.write_str("[alerts]"),
            Section::Unknown(name) => write!(f, "[{name}]"),
        }
    }
}

/// Something in a section that is not of the shape that it should be.
#[derive(Clone, Debug)]
pub(super) struct Misshapen {
    pub(super) section: Section,
    pub(super) what: String,
    pub(super) span: Option<Range<usize>>,
}

impl Misshapen {
    fn of(section: Section, error: &Error) -> Misshapen {
        Misshapen { section, what: error.message().to_owned(), span: error.span() }
    }
}

/// Reads each section by itself, without these keys, and tells which are not of the right shape. Those
/// are left out; without what all share there is nothing.
pub(super) fn read(
    text: &str,
    without: &[Vec<String>],
    wrong: &mut Vec<Misshapen>,
) -> Result<Config, Misshapen> {
    let shared = |error: Error| Misshapen::of(Section::Shared, &error);
    let mut root = DeTable::parse(text).map_err(shared)?;
    for path in without {
        remove(root.get_mut(), path);
    }
    let services = named(root.get_mut(), "service", Section::Service, wrong);
    let copies: BTreeMap<VaultName, _> = named(root.get_mut(), "copy", Section::Copy, wrong);
    let alerts = alerts(root.get_mut(), wrong);
    let config = Config::deserialize(Deserializer::from(root)).map_err(shared)?;
    Ok(Config { service: services, copy: copies, alerts, ..config })
}

fn remove(table: &mut DeTable<'_>, path: &[String]) {
    match path {
        [] => {}
        [last] => drop(table.remove(last.as_str())),
        [first, rest @ ..] => {
            if let Some(DeValue::Table(inner)) = table.get_mut(first.as_str()).map(Spanned::get_mut)
            {
                remove(inner, rest);
            }
        }
    }
}

/// Takes the sections of one kind out of the file. What is there in place of sections stays.
fn named<N, T>(
    root: &mut DeTable<'_>,
    kind: &str,
    section: fn(String) -> Section,
    wrong: &mut Vec<Misshapen>,
) -> BTreeMap<N, T>
where
    N: std::str::FromStr<Err = crate::names::NameError> + Ord,
    T: DeserializeOwned,
{
    let mut found = BTreeMap::new();
    let Some(DeValue::Table(sections)) = root.get_mut(kind).map(Spanned::get_mut) else {
        return found;
    };
    for (key, value) in mem::take(sections) {
        let name: &DeString<'_> = key.get_ref();
        let section = section(name.to_string());
        match name.parse::<N>() {
            Ok(name) => match T::deserialize(ValueDeserializer::from(value)) {
                Ok(one) => drop(found.insert(name, one)),
                Err(error) => wrong.push(Misshapen::of(section, &error)),
            },
            Err(error) => {
                wrong.push(Misshapen { section, what: error.to_string(), span: Some(key.span()) });
            }
        }
    }
    found
}

/// Takes `[alerts]` out of the file, as far as it is sound: somebody has to be told of the rest.
fn alerts(root: &mut DeTable<'_>, wrong: &mut Vec<Misshapen>) -> Alerts {
    let Some(DeValue::Table(table)) = root.get_mut("alerts").map(Spanned::get_mut) else {
        return Alerts::default();
    };
    let mut table = mem::take(table);
    loop {
        let whole = Spanned::new(0..0, DeValue::Table(table.clone()));
        let error = match Alerts::deserialize(ValueDeserializer::from(whole)) {
            Ok(alerts) => return alerts,
            Err(error) => error,
        };
        let at = error.span().map_or(usize::MAX, |span| span.start);
        let before = table.len();
        let sound = |(_, value): &(_, Spanned<DeValue<'_>>)| !value.span().contains(&at);
        table = table.into_iter().filter(sound).collect();
        wrong.push(Misshapen::of(Section::Alerts, &error));
        if table.len() == before {
            return Alerts::default();
        }
    }
}

/// The same without some of its keys.
pub(super) fn alerts_without<'k>(alerts: &Alerts, keys: impl Iterator<Item = &'k str>) -> Alerts {
    let mut value = serde_json::to_value(alerts).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        for key in keys {
            map.remove(key);
        }
    }
    serde_json::from_value(value).unwrap_or_default()
}
