//! What a running server says of itself, and what a capture demands of it.

use super::connect::Session;
use super::lsn::{Lsn, Segments};
use crate::Error;
use jiff::Timestamp;
use model::Class;
use std::collections::BTreeMap;

/// The versions whose functions and files are known here.
pub(super) const OLDEST: u32 = 13;
/// The newest of them.
pub(super) const NEWEST: u32 = 18;

/// The settings that a capture needs to know. Some are hidden from plain roles.
const SETTINGS: [&str; 11] = [
    "archive_command",
    "archive_mode",
    "config_file",
    "data_directory",
    "full_page_writes",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "shared_preload_libraries",
    "wal_level",
    "wal_segment_size",
];

/// A server that can be captured.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Major version.
    pub(super) major: u32,
    /// As the server writes it: `15.8 (Debian 15.8-0+deb12u1)`.
    pub(super) version: String,
    /// `system_identifier`.
    pub(super) system: u64,
    /// It replays somebody else's log.
    pub(super) in_recovery: bool,
    pub(super) segments: Segments,
    /// The bootstrap superuser, whatever it was renamed to.
    pub(super) superuser: String,
    /// It has the setting `allow_in_place_tablespaces`.
    pub(super) in_place_tablespaces: bool,
    settings: BTreeMap<String, String>,
}

impl Facts {
    /// Asks the server.
    pub(super) fn ask(session: &mut Session) -> Result<Facts, Error> {
        let what = "tell its version and settings";
        let row = session.row(
            what,
            "SELECT current_setting('server_version_num')::int4, \
                    current_setting('server_version'), \
                    (SELECT system_identifier FROM pg_control_system()), \
                    pg_is_in_recovery(), \
                    (SELECT rolname::text FROM pg_roles WHERE oid = 10)",
            &[],
        )?;
        let major = major_of(row.get::<_, i32>(0))?;
        let names: Vec<&str> = SETTINGS.into_iter().chain(["allow_in_place_tablespaces"]).collect();
        let rows = session.rows(
            what,
            "SELECT name, reset_val FROM pg_settings WHERE name = ANY($1)",
            &[&names],
        )?;
        let settings: BTreeMap<String, String> = rows
            .iter()
            .map(|row| (row.get(0), row.get::<_, Option<String>>(1).unwrap_or_default()))
            .collect();
        if let Some(hidden) = SETTINGS.into_iter().find(|name| !settings.contains_key(*name)) {
            return Err(Error::invalid(format!("the server does not show the setting {hidden}"))
                .hinting("Run `GRANT pg_read_all_settings TO` the role in `url`."));
        }
        let segment_size = settings.get("wal_segment_size").and_then(|size| size.parse().ok());
        Ok(Facts {
            major,
            version: row.get(1),
            system: row.get::<_, i64>(2).cast_unsigned(),
            in_recovery: row.get(3),
            segments: segment_size.and_then(Segments::of).ok_or_else(|| {
                Error::failed(format!("the server's segments have a size of {segment_size:?}"))
            })?,
            superuser: row.get::<_, Option<String>>(4).unwrap_or_else(|| "postgres".to_owned()),
            in_place_tablespaces: settings.contains_key("allow_in_place_tablespaces"),
            settings,
        })
    }

    /// One of the settings.
    pub(super) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// Refuses a server of which no whole base can be taken.
    pub(super) fn require_primary_with_wal(&self) -> Result<(), Error> {
        if self.in_recovery {
            return Err(Error::new(
                Class::Refused,
                "the server is a standby: it replays another server's log",
            )
            .hinting("Back up the primary, or promote this one."));
        }
        if self.setting("wal_level") == "minimal" {
            return Err(Error::invalid(
                "the server has wal_level = minimal: its log does not hold \
                                       what a base backup needs",
            )
            .hinting("Set wal_level = replica and restart the server."));
        }
        Ok(())
    }
}

/// The major version, if it is one that we know.
pub(super) fn major_of(version_num: i32) -> Result<u32, Error> {
    let major = u32::try_from(version_num / 10_000).unwrap_or(0);
    if (OLDEST..=NEWEST).contains(&major) {
        return Ok(major);
    }
    Err(Error::invalid(format!(
        "the server has version {}; supported are {OLDEST} to {NEWEST}",
        // Before version 10 the second number was part of the major version.
        if major < 10 { format!("{major}.{}", version_num / 100 % 100) } else { major.to_string() }
    ))
    .hinting("Upgrade the server, or use a version of mainstay that knows it."))
}

/// The server's clock.
pub(super) fn now(session: &mut Session) -> Result<Timestamp, Error> {
    let row = session.row(
        "tell the time",
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8",
        &[],
    )?;
    Timestamp::from_microsecond(row.get(0))
        .map_err(|e| Error::failed("the server's clock is out of range").because(e))
}

/// A position that the server gave as text.
pub(super) fn lsn(text: &str) -> Result<Lsn, Error> {
    text.parse().map_err(|e: String| Error::failed(format!("from the server: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Classify;

    #[test]
    fn versions_that_are_not_known_are_refused_by_name() {
        for (number, major) in [(130_000, 13), (150_008, 15), (180_001, 18)] {
            assert_eq!(major_of(number).expect("known"), major);
        }
        for (number, shown) in [(90_624, "9.6"), (120_020, "12"), (190_000, "19"), (-1, "0.0")] {
            let error = major_of(number).expect_err("unknown");
            assert_eq!(error.class(), Class::Invalid);
            assert!(error.to_string().contains(&format!("version {shown};")), "{error}");
        }
    }
}
