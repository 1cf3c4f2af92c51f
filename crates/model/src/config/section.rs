//! Which part of a configuration file a mistake spoils. A mistake in the section of one service is no
//! reason for the others to go without what protects them.

use super::keys::Unknown;
use super::{Alerts, Config};
use crate::{MemberName, ServiceName, VaultName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::ops::Range;
use std::path::PathBuf;
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

/// Reads each section by itself, without the keys that nobody knows, and tells which are not of the right
/// shape; without what all share there is nothing. Of a service or a second vault that has a mistake there
/// is what it says otherwise, and probably means: nothing is done by it, but what it claims is its own.
pub(super) fn read(
    text: &str,
    unknown: &[Unknown],
    wrong: &mut Vec<Misshapen>,
) -> Result<Config, Misshapen> {
    let shared = |error: Error| Misshapen::of(Section::Shared, &error);
    let mut root = DeTable::parse(text).map_err(shared)?;
    for key in unknown {
        let meant = match key.path.as_slice() {
            [kind, _, _] if kind == "service" => key.meant.as_deref(),
            _ => None,
        };
        correct(root.get_mut(), &key.path, meant);
    }
    let services = named(root.get_mut(), "service", Section::Service, wrong);
    let copies: BTreeMap<VaultName, _> = named(root.get_mut(), "copy", Section::Copy, wrong);
    let alerts = alerts(root.get_mut(), wrong);
    let config = Config::deserialize(Deserializer::from(root)).map_err(shared)?;
    Ok(Config { service: services, copy: copies, alerts, ..config })
}

/// The host's name and its state directory, as far as they are sound, and what is sound of `[alerts]`. None
/// if the text cannot be read.
pub(super) fn tellable(
    text: &str,
    unknown: &[Unknown],
) -> Option<(Option<MemberName>, Option<PathBuf>, Alerts)> {
    let mut root = DeTable::parse(text).ok()?;
    for key in unknown {
        correct(root.get_mut(), &key.path, None);
    }
    let alerts = alerts(root.get_mut(), &mut Vec::new());
    let host = match root.get_mut().remove("host").map(Spanned::into_inner) {
        Some(DeValue::Table(host)) => host,
        _ => DeTable::new(),
    };
    Some((of(&host, "name"), of(&host, "state-dir"), alerts))
}

/// What a table says of a key, if that is of the right shape.
fn of<T: DeserializeOwned>(table: &DeTable<'_>, key: &str) -> Option<T> {
    T::deserialize(ValueDeserializer::from(table.get(key)?.clone())).ok()
}

/// Takes a key out, or gives it the name that was meant, if nothing has that.
fn correct(table: &mut DeTable<'_>, path: &[String], meant: Option<&str>) {
    match path {
        [] => {}
        [last] => {
            let Some((key, value)) = table.remove_entry(last.as_str()) else { return };
            if let Some(meant) = meant.filter(|meant| !table.contains_key(*meant)) {
                let key = Spanned::new(key.span(), DeString::from(meant.to_owned()));
                table.insert(key, value);
            }
        }
        [first, rest @ ..] => {
            if let Some(DeValue::Table(inner)) = table.get_mut(first.as_str()).map(Spanned::get_mut)
            {
                correct(inner, rest, meant);
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
            Ok(name) => match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(one) => drop(found.insert(name, one)),
                Err(error) => {
                    wrong.push(Misshapen::of(section, &error));
                    if let DeValue::Table(table) = value.into_inner()
                        && let Some(one) = sound(table, |_| {})
                    {
                        found.insert(name, one);
                    }
                }
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
    let told = |error: &Error| wrong.push(Misshapen::of(Section::Alerts, error));
    sound(mem::take(table), told).unwrap_or_default()
}

/// What a table says without the values that are not of the right shape. None if that is not enough.
fn sound<T: DeserializeOwned>(mut table: DeTable<'_>, mut told: impl FnMut(&Error)) -> Option<T> {
    loop {
        let whole = Spanned::new(0..0, DeValue::Table(table.clone()));
        let error = match T::deserialize(ValueDeserializer::from(whole)) {
            Ok(sound) => return Some(sound),
            Err(error) => error,
        };
        told(&error);
        let at = error.span().map_or(usize::MAX, |span| span.start);
        let before = table.len();
        let is_sound = |(_, value): &(_, Spanned<DeValue<'_>>)| !is_at(value, at);
        table = table.into_iter().filter(is_sound).collect();
        if table.len() == before {
            return None;
        }
    }
}

/// Whether a value is at this place, or something in it: the span of a table may be that of its name.
fn is_at(value: &Spanned<DeValue<'_>>, at: usize) -> bool {
    let within = match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(_, value)| is_at(value, at)),
        _ => false,
    };
    within || value.span().contains(&at)
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
