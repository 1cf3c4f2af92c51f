//! Makes restored files into a standby, a primary, or a copy to look at.
//!
//! Settings go into `postgresql.auto.conf`, which wins over `postgresql.conf` wherever that is, so
//! it holds for a copy that is started with a distribution's own configuration, too.

use super::detail::Detail;
use super::files::{self, Files};
use super::lsn::{Lsn, Segments};
use super::pg_control::{PgControl, State};
use super::programs::{Owner, data_version};
use super::{Postgres, conf, go_on, over, place, preload, server};
use crate::{Context, Error, LogEnd, LogPlace, Purpose, SnapshotMeta, Staged};
use jiff::Timestamp;
use model::{Class, ServiceName};
use std::fs;
use std::path::Path;

/// Settings that say where things were on the source.
const PLACES: [&str; 4] = ["data_directory", "external_pid_file", "hba_file", "ident_file"];

/// What a copy has that had no configuration of its own.
const PLAIN_HBA: &str = "# The source's pg_hba.conf was not in the snapshot.\n\
                         local all all peer\n";

type Settings = Vec<(&'static str, String)>;

pub(super) fn prepare(
    engine: &Postgres,
    cx: &Context<'_>,
    meta: &SnapshotMeta,
    data: &Staged,
    purpose: &Purpose,
) -> Result<(), Error> {
    go_on(cx)?;
    let dir = &data.staged;
    let detail = Detail::of(meta)?;
    whole(dir, &detail)?;
    let until = match purpose {
        Purpose::Standby => None,
        Purpose::Primary { until } | Purpose::Scratch { until } => *until,
    };
    if let Some(until) = until.filter(|until| *until < detail.consistent_at) {
        return Err(Error::new(
            Class::Refused,
            format!(
                "this base is consistent from {} on; {until} cannot be reached from it",
                detail.consistent_at
            ),
        )
        .hinting(format!(
            "Name a time from {} on, or one before {}, for which an earlier base serves.",
            detail.consistent_at, meta.source_time
        )));
    }
    let owner = adopt(dir, &data.target)?;
    configure(engine, cx, meta, &detail, data, owner, purpose)
}

/// Writes the settings of a copy that lies there whole, and says what it is for.
pub(super) fn configure(
    engine: &Postgres,
    cx: &Context<'_>,
    meta: &SnapshotMeta,
    detail: &Detail,
    data: &Staged,
    owner: Owner,
    purpose: &Purpose,
) -> Result<(), Error> {
    let dir = &data.staged;
    let major = data_version(dir)?;
    let until = match purpose {
        Purpose::Standby => None,
        Purpose::Primary { until } | Purpose::Scratch { until } => *until,
    };
    let files = Files::open(dir, owner)?;

    match files.read("postgresql.conf")? {
        Some(text) => {
            let own = conf::without(&text, &PLACES);
            if own != text {
                files.write("postgresql.conf", &own)?;
            }
            if conf::includes(&own) {
                cx.progress.note("postgresql.conf includes other files: they must be here, too");
            }
        }
        None => {
            cx.progress.warn("the snapshot has no postgresql.conf: the copy has the defaults");
            files.write("postgresql.conf", "# The source's was not in the snapshot.\n")?;
        }
    }
    if !dir.join("pg_hba.conf").exists() {
        files.write("pg_hba.conf", PLAIN_HBA)?;
    }

    let auto = files.read("postgresql.auto.conf")?.unwrap_or_default();
    let mut settings = following(cx, meta, until);
    settings.extend(everywhere(detail, major));
    let (comment, signal) = match purpose {
        Purpose::Standby => {
            settings.extend(place::own(&engine.address, detail.listen_addresses.as_deref()));
            settings.extend(archiving(engine, cx, detail, major));
            // How often it asks for what is not there yet.
            settings.push(("wal_retrieve_retry_interval", "2s".to_owned()));
            // It streams while it can, and takes from the vault what the primary has no more.
            if let Some(upstream) = &engine.upstream {
                settings.retain(|(name, _)| *name != "primary_conninfo");
                settings.push(("primary_conninfo", upstream.conninfo(true)));
            }
            ("a standby", "standby.signal")
        }
        Purpose::Primary { .. } => {
            settings.extend(place::own(&engine.address, detail.listen_addresses.as_deref()));
            settings.extend(archiving(engine, cx, detail, major));
            ("restored, to be a primary", "recovery.signal")
        }
        Purpose::Scratch { .. } => {
            settings.extend(place::isolated(&engine.address, &data.target));
            settings.extend(neutral(major));
            settings.extend(preload::settings(engine));
            tell_of_libraries(cx, engine, detail);
            ("restored to be looked at, cut off from everything", "recovery.signal")
        }
    };
    files.write("postgresql.auto.conf", &conf::with_block(&auto, comment, &settings))?;
    // A promotion that was cut off in what is kept here is over.
    for name in ["standby.signal", "recovery.signal", server::PROMOTING] {
        if name != signal {
            files.remove(name)?;
        }
    }
    files.write(signal, "")?;
    files.close_to_others()?;
    files.sync()
}

/// Lets the replay of a prepared copy end so.
pub(super) fn aim(dir: &Path, end: &LogEnd) -> Result<(), Error> {
    // It would be promoted there, beside the primary.
    if dir.join("standby.signal").exists() {
        let what = format!("{} is a standby, which stops nowhere in the log", dir.display());
        return Err(Error::new(Class::Refused, what));
    }
    let files = Files::open(dir, Owner::of(dir)?)?;
    let auto = files.read("postgresql.auto.conf")?.unwrap_or_default();
    let mut settings = Settings::new();
    if let Some(timeline) = end.timeline {
        settings.push(("recovery_target_timeline", timeline.to_string()));
    }
    if let Some(target) = &end.target {
        let (name, value) = match &target.place {
            LogPlace::Name(name) => ("recovery_target_name", name.clone()),
            LogPlace::Lsn(lsn) => ("recovery_target_lsn", Lsn(*lsn).to_string()),
            LogPlace::Xid(xid) => ("recovery_target_xid", xid.to_string()),
        };
        let inclusive = if target.exclusive { "off" } else { "on" };
        settings.extend([
            ("recovery_target_time", String::new()),
            ("recovery_target_inclusive", inclusive.to_owned()),
            (name, value),
        ]);
    }
    files
        .write("postgresql.auto.conf", &conf::with_block(&auto, "where replay ends", &settings))?;
    files.sync()
}

/// Refuses a copy that is not what was captured, before a server stumbles over it.
fn whole(dir: &Path, detail: &Detail) -> Result<(), Error> {
    let bad = |what: String| Error::new(Class::Corrupt, format!("{}: {what}", dir.display()));
    // In a copy that is restored over it has not got its name yet.
    let meanwhile = dir.join(over::MEANWHILE);
    let control = match over::is_marked(dir) && meanwhile.exists() {
        true => PgControl::read_file(&meanwhile)?,
        false => PgControl::read(dir)?,
    };
    if control.system.to_string() != detail.system_identifier {
        return Err(bad(format!("it is of the server {}", control.system)));
    }
    let lsn = |text: &str| text.parse::<Lsn>().map_err(&bad);
    // What was read while the server worked. One that was stopped is whole by itself.
    if control.state != State::ShutDown {
        let label = Files::open(dir, Owner::of(dir)?)?.read("backup_label")?;
        let Some(label) = label else {
            return Err(
                bad("backup_label is not there, which says where replay begins".to_owned()),
            );
        };
        let begins = label.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "));
        let begins = begins.and_then(|line| line.split_whitespace().next()).unwrap_or_default();
        if begins != detail.start {
            return Err(bad(format!(
                "backup_label lets replay begin at {begins:?}, and not at {}",
                detail.start
            )));
        }
    }
    let segments = Segments::of(detail.segment_size)
        .ok_or_else(|| bad(format!("segments of {} bytes", detail.segment_size)))?;
    let (start, stop) = (lsn(&detail.start)?, lsn(&detail.stop)?);
    let first = segments.number(start);
    let last = segments.number(Lsn(stop.0.saturating_sub(1))).max(first);
    for number in first..=last {
        let name = segments.name(detail.timeline, number);
        let size = fs::metadata(dir.join("pg_wal").join(&name)).map_or(0, |meta| meta.len());
        if size != segments.size() {
            return Err(bad(format!("the segment {name} is not there, or not whole")));
        }
    }
    Ok(())
}

/// The command by which a server asks for a file of its log.
pub(super) fn fetching(cx: &Context<'_>, service: &ServiceName) -> String {
    format!("{} wal fetch {service} %f \"%p\"", conf::command_words(cx.callback))
}

/// Replays the log of the service that was captured.
fn following(cx: &Context<'_>, meta: &SnapshotMeta, until: Option<Timestamp>) -> Settings {
    let command = if cx.callback.is_empty() {
        // Nobody to ask: the log ends with what the base holds.
        "false".to_owned()
    } else {
        fetching(cx, &meta.service)
    };
    let until = until.map(|t| t.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string());
    vec![
        ("restore_command", command),
        ("recovery_target", String::new()),
        ("recovery_target_lsn", String::new()),
        ("recovery_target_name", String::new()),
        ("recovery_target_xid", String::new()),
        ("recovery_target_time", until.unwrap_or_default()),
        ("recovery_target_timeline", "latest".to_owned()),
        // What was committed at that very time is in.
        ("recovery_target_inclusive", "on".to_owned()),
        ("recovery_target_action", "promote".to_owned()),
        ("recovery_min_apply_delay", "0".to_owned()),
        ("recovery_end_command", String::new()),
        ("archive_cleanup_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("hot_standby", "on".to_owned()),
    ]
}

/// What holds for every copy.
fn everywhere(detail: &Detail, major: u32) -> Settings {
    // Waiting for the source's standbys, a new primary would hang at its first commit.
    let mut settings = vec![("synchronous_standby_names", String::new())];
    if major >= 17 {
        settings.push(("synchronized_standby_slots", String::new()));
    }
    if !detail.tablespaces.is_empty() && detail.in_place_tablespaces {
        settings.push(("allow_in_place_tablespaces", "on".to_owned()));
    }
    settings
}

/// The copy archives once it is a primary, into its own service's log, at its own generation. With
/// `archive_mode = on` a server in recovery archives nothing.
fn archiving(engine: &Postgres, cx: &Context<'_>, detail: &Detail, major: u32) -> Settings {
    let mut settings = Vec::new();
    if detail.archive_mode.as_deref() == Some("off") {
        return settings;
    }
    if cx.callback.is_empty() {
        settings.push(("archive_mode", "off".to_owned()));
        return settings;
    }
    if detail.archive_mode.is_some() {
        settings.push(("archive_mode", "on".to_owned()));
    }
    let words = conf::command_words(cx.callback);
    settings.push(("archive_command", format!("{words} wal push {} \"%p\"", engine.name)));
    if major >= 15 {
        settings.push(("archive_library", String::new()));
    }
    settings
}

/// Nothing of the copy reaches production, and nothing in it begins by itself.
fn neutral(major: u32) -> Settings {
    let mut settings = vec![
        ("archive_mode", "off".to_owned()),
        ("archive_command", String::new()),
        // Subscriptions: nobody is there to apply them.
        ("max_logical_replication_workers", "0".to_owned()),
        ("ssl", "off".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
    ];
    if major >= 15 {
        settings.push(("archive_library", String::new()));
    }
    // Triggers on log-in and on DDL are what the owner of the data wants to happen there, not here.
    if major >= 17 {
        settings.push(("event_triggers", "off".to_owned()));
    }
    settings
}

fn tell_of_libraries(cx: &Context<'_>, engine: &Postgres, detail: &Detail) {
    let left_out = preload::left_out(engine, detail);
    if left_out.as_ref().is_none_or(Vec::is_empty) {
        return;
    }
    let hint = preload::hint(engine, left_out.as_deref());
    cx.progress.note(&format!("libraries are not preloaded in a copy to look at. {hint}"));
}

/// Gives the copy to whom it belongs on this host: the owner of what it replaces, or, if this host
/// does not know the source's user by its number, the user `postgres`. Only root can.
fn adopt(dir: &Path, target: &Path) -> Result<Owner, Error> {
    let has = Owner::of(dir)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(has);
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known =
        |uid: u32| accounts.lines().any(|line| line.split(':').nth(2) == Some(&uid.to_string()));
    let postgres = accounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            ["postgres", _, uid, gid, ..] => {
                Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
            }
            _ => None,
        }
    });
    let there = over::owner_before(target)?.or(Owner::of(target).ok());
    let there = there.filter(|owner| owner.uid != 0);
    let wanted = match there {
        Some(owner) => owner,
        None if has.uid == 0 || !known(has.uid) => postgres.unwrap_or(has),
        None => has,
    };
    if wanted != has {
        files::give(dir, wanted)?;
    }
    Ok(wanted)
}
