//! A former primary becomes a standby of the one that took over: `pg_rewind` takes back what it has
//! beyond the place where the two parted, and fetches what differs, and nothing else.

use super::detail::Detail;
use super::files::Files;
use super::pg_control::{PgControl, State};
use super::programs::{Owner, data_version};
use super::{DATA, Postgres, conf, prepare, server};
use crate::{Context, Error, Purpose, Root, RootKind, SnapshotMeta, Staged};
use model::Class;
use std::path::Path;

/// Says whether it did; a copy that could not be rewound may be of no use any more.
pub(super) fn rewind(
    engine: &Postgres,
    cx: &Context<'_>,
    meta: &SnapshotMeta,
) -> Result<bool, Error> {
    let Some(upstream) = &engine.upstream else { return Ok(false) };
    let data_dir = &engine.data_dir;
    if data_version(data_dir).is_err() {
        return Ok(false);
    }
    if let Some(postmaster) = server::postmaster(data_dir)? {
        return Err(Error::new(
            Class::Refused,
            format!("a server (process {}) works on {}", postmaster.pid, data_dir.display()),
        )
        .hinting("Stop it first."));
    }
    let follows = data_dir.join("standby.signal").exists();
    if PgControl::read(data_dir)?.state == State::InArchiveRecovery && !follows {
        // One that was rewound is to replay, from its place of parting on, what it was not told yet where
        // to get. A second pg_rewind would let it go on by itself from there, and find nothing to rewind.
        cx.progress.note("the copy is built anew: what it was to replay was cut off");
        return Ok(false);
    }
    let programs = engine.programs(data_dir)?;
    if !programs.has("pg_rewind") {
        cx.progress.note("there is no pg_rewind: the copy is built anew");
        return Ok(false);
    }
    let mut source = match upstream.connect() {
        Ok(source) => source,
        Err(error) => {
            cx.progress.note(&format!("the copy is built anew: {error}"));
            return Ok(false);
        }
    };
    if server::in_recovery(&mut source)? {
        cx.progress.note("the copy is built anew: `stream-from` names a standby");
        return Ok(false);
    }
    // What it is told of its timeline lies in the control file only after one.
    if let Err(error) = source.set("CHECKPOINT") {
        cx.progress.note(&format!("the copy is built anew: {error}"));
        return Ok(false);
    }
    cx.progress.phase("rewinding");
    // Of a primary that wrote on alone for a while, what was written before the two parted may be in the
    // vault only.
    let asks = has_settings(data_dir) && !cx.callback.is_empty();
    if asks {
        let files = Files::open(data_dir, Owner::of(data_dir)?)?;
        let auto = files.read("postgresql.auto.conf")?.unwrap_or_default();
        let setting = [("restore_command", prepare::fetching(cx, &meta.service))];
        files.write(
            "postgresql.auto.conf",
            &conf::with_block(&auto, "for what it does not have any more", &setting),
        )?;
        files.sync()?;
    }
    let mut command = programs
        .command("pg_rewind")
        .args(asks.then_some("--restore-target-wal"))
        .arg(format!("--target-pgdata={}", data_dir.display()))
        .arg(format!("--source-server={}", upstream.conninfo(false)));
    if let Some(password) = upstream.password()? {
        command = command.secret_env("PGPASSWORD", &password);
    }
    let output = command.tied().ask(cx.cancel)?;
    if !output.success() {
        cx.progress.note(&format!("the copy is built anew: {}", output.failure()));
        return Ok(false);
    }
    let theirs =
        source.row("tell its timeline", "SELECT pg_walfile_name(pg_current_wal_lsn())", &[])?;
    let theirs = server::timeline_in(theirs.get(0))?;
    let ours = PgControl::read(data_dir)?;
    if ours.state != State::InArchiveRecovery && ours.timeline >= theirs && !follows {
        // It wrote to a timeline that it had begun itself: to pg_rewind an equal number is the same
        // timeline, and there is nothing to do.
        cx.progress.note(&format!(
            "the copy is built anew: it began a timeline {} of its own",
            ours.timeline
        ));
        return Ok(false);
    }
    // Its slots were for others, and would keep the log for ever.
    let owner = Owner::of(data_dir)?;
    Files::open(data_dir, owner)?.empty(c"pg_replslot")?;
    // Its settings are the new primary's now.
    let data = Staged {
        root: Root {
            in_snapshot: DATA.to_owned(),
            on_host: data_dir.clone(),
            kind: RootKind::Tree,
        },
        staged: data_dir.clone(),
        target: data_dir.clone(),
    };
    let detail = Detail::of(meta)?;
    prepare::configure(engine, cx, meta, &detail, &data, owner, &Purpose::Standby)?;
    Ok(true)
}

/// The server's settings are where `pg_rewind`, which asks it for them, looks for them.
fn has_settings(data_dir: &Path) -> bool {
    data_dir.join("postgresql.conf").exists()
}
