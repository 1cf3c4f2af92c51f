//! The links of one service: repository, state, engine, the service itself, and how fresh the
//! history and the standbys are.

use super::{Chain, Told, boot};
use crate::app::App;
use crate::commands::wal;
use crate::failure::Failure;
use crate::ui::words::{count, role};
use crate::units;
use engines::{Engine, Running};
use jiff::Timestamp;
use model::config::vault_dir;
use model::{Class, Role, ServiceState};
use operations::{JudgedBy, ServiceSite, history, recover};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use storage::Whereabouts;

/// Looks at the links of one service.
pub(crate) fn examine(chain: &mut Chain<'_>, app: &App, service: &ServiceSite) -> Told {
    chain.of(service.name());
    let Some(repository) = chain.need("repository", service.repository())? else { return Ok(()) };
    chain.ok("repository", format!("opens, id {}", short(repository.id())))?;
    leftovers(chain, app, service)?;
    let Some(state) = chain.need("state", service.load_state())? else { return Ok(()) };
    let state = state.state;
    let me = state.members.get(service.member());
    let Some(me) = me else {
        let found = format!("{} is not a member of it", service.member());
        return chain.fail("state", found, "Run `mainstay init` on this host.");
    };
    chain.ok("state", format!("{} at generation {}", role(me.role), state.generation))?;
    if let Some(intent) = &state.intent {
        chain.warn(
            "state",
            format!(
                "a takeover to {} is under way since {}",
                intent.to,
                units::local(intent.claimed)
            ),
            format!(
                "Finish it on {} with `mainstay takeover {}`, or give it up with `--abandon={}`.",
                intent.to,
                service.name(),
                intent.id
            ),
        )?;
    }
    let my_role = me.role;
    if my_role == Role::Broken {
        chain.fail(
            "state",
            "this member was taken over and must not serve",
            format!("Look at its data, then run `mainstay rejoin {}`.", service.name()),
        )?;
    }
    if let Some(engine) = chain.need("engine", service.engine())? {
        the_engine(chain, app, service, engine, &state, my_role)?;
        if my_role == Role::Primary {
            same_disk(chain, service, engine)?;
        }
    }
    boot::examine(chain, app, service)?;
    history_of(chain, service, my_role)?;
    if my_role == Role::Standby {
        following(chain, app, service, &state)?;
        scrubs(chain, service, &state)?;
    }
    freshness(chain, service, &state)?;
    standbys(chain, service, &state)
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Cleans up after operations that died; a living one is left alone.
fn leftovers(chain: &mut Chain<'_>, app: &App, service: &ServiceSite) -> Told {
    match recover::sweep(service, &app.run()) {
        Ok(said) if said.is_empty() => chain.ok("leftovers", "none of operations that died"),
        Ok(said) => {
            for line in said {
                chain.warn("leftovers", line, "Nothing: it was cleaned up now.")?;
            }
            Ok(())
        }
        Err(error) => {
            let failure = Failure::from(error);
            match failure.class() {
                Class::Locked => chain.ok("leftovers", failure.one_line()),
                _ => chain.broke("leftovers", failure),
            }
        }
    }
}

fn the_engine(
    chain: &mut Chain<'_>,
    app: &App,
    service: &ServiceSite,
    engine: &dyn Engine,
    state: &ServiceState,
    my_role: Role,
) -> Told {
    let seen = operations::look(service, &app.run(), |cx| engine.inspect(cx));
    let Some(seen) = chain.need("engine", seen)? else { return Ok(()) };
    let reached = operations::look(service, &app.run(), |cx| engine.reach(cx));
    let is_reached = reached.is_ok();
    match reached {
        Ok(()) => {
            let version = seen.version.filter(|version| !seen.summary.contains(version.as_str()));
            let version = version.map(|version| format!(" {version}")).unwrap_or_default();
            chain.ok("engine", format!("{}{version}: {}", engine.name(), seen.summary))?;
        }
        Err(error) => chain.broke("engine", error)?,
    }
    // Nobody wants to learn that by a takeover.
    if let Err(error) = engine.equipped() {
        chain.broke("engine", error)?;
    }
    for doubt in seen.doubts {
        chain.warn("engine", doubt.found, doubt.advice)?;
    }
    if engine.abilities().log && my_role == Role::Primary {
        the_log(chain, service, state, seen.unarchived.as_deref())?;
    }
    // Of a server that could not be asked nobody knows what it has.
    let is_empty = is_reached && !seen.has_data;
    if my_role == Role::Primary && is_empty && service.spec().exporter.is_none() {
        chain.fail(
            "service",
            "its data is missing, and this member is the primary",
            format!(
                "Mount what it is on, correct the path, or bring it back with `mainstay restore {}`.",
                service.name()
            ),
        )?;
    }
    match (my_role, seen.running) {
        (Role::Primary, Running::No) => chain.fail(
            "service",
            "it does not run, and this member is the primary",
            format!("Start it with `mainstay online {}`, or look at its own log.", service.name()),
        ),
        (Role::Broken, Running::Yes) => chain.fail(
            "service",
            "it runs, although it was taken over: what clients write to it is lost",
            "Stop it at once.",
        ),
        (Role::Primary, Running::Unknown) if engine.abilities().start_stop => {
            chain.ok("service", "there is no way to tell whether it runs")
        }
        (Role::Primary, Running::Unknown) => chain.ok("service", "has nothing that runs"),
        (Role::Primary, Running::Yes) => chain.ok("service", "it runs"),
        (Role::Standby | Role::Broken, _) if is_empty => {
            chain.warn("service", "there is no copy here yet", refresh_hint(service))
        }
        _ => Ok(()),
    }
}

/// Whether the server hands over its log. `unarchived`: what it could not.
fn the_log(
    chain: &mut Chain<'_>,
    service: &ServiceSite,
    state: &ServiceState,
    unarchived: Option<&str>,
) -> Told {
    if let Some(segment) = unarchived {
        chain.fail(
            "log",
            format!("the server fails to archive it: {segment} does not leave its disk"),
            "Look into the server's own log for why. What `archive_command` runs is run by the \
             server's user, who must be able to read the configuration and the password file, and to \
             write to the state directory and the vault.",
        )?;
    }
    match wal::last_push(service) {
        Some(stored) => {
            let how = match operations::wal::is_running(service) {
                true => ", and is received as it is written",
                false => "",
            };
            let when = units::ago(stored, Timestamp::now());
            chain.ok("log", format!("last stored {when}{how}"))?;
        }
        None if unarchived.is_some() => {}
        None => {
            let (found, advice) = nothing_stored(service);
            chain.warn("log", found, advice)?;
        }
    }
    let gap = chain.need("log", operations::wal::open_gap(service, state))?.flatten();
    let went_back = chain.need("log", operations::wal::went_back(service, state))?.flatten();
    match (gap, went_back) {
        (gap, Some(went_back)) if went_back.is_another || gap.is_none() => {
            chain.fail("log", went_back.why.clone(), went_back.advice(service))?;
        }
        (Some(gap), _) => {
            let advice =
                format!("Run `mainstay backup {}`: no recovery gets over it.", service.name());
            chain.fail("log", gap.told(), advice)?;
        }
        (None, _) => {}
    }
    let of_nobody = chain.need("log", operations::prune::log_of_nobody(service))?;
    if let Some(files @ 1..) = of_nobody {
        let files = count(files, "file", "files");
        chain.warn(
            "log",
            format!("{files} of it are of a database cluster of which there is no point"),
            format!("Nobody needs them: `mainstay prune {}` removes them.", service.name()),
        )?;
    }
    the_slot(chain, service)
}

/// Why nothing of the log was stored yet, and what to do: not what was done already.
fn nothing_stored(service: &ServiceSite) -> (&'static str, String) {
    let name = service.name();
    if operations::wal::is_running(service) {
        let found = "it is received as it is written, and nothing of it was stored yet";
        let advice = format!("Look at what `mainstay wal receive {name}` says, if this stays so.");
        return (found, advice);
    }
    let archives = service.log_server().ok().flatten();
    let archives = archives.is_some_and(|engine| engine.source().archives().unwrap_or(false));
    if archives {
        let found = "the server archives it, and no segment has been full yet";
        let advice = format!(
            "`SELECT pg_switch_wal()` stores what there is; `archive_timeout` bounds how long it may take, \
             and `mainstay wal receive {name}` as a unit stores it about every second."
        );
        return (found, advice);
    }
    (
        "nothing of it was ever stored, so only the points themselves can be reached",
        format!(
            "Run `mainstay wal receive {name}` as a unit, or set `archive_mode = on` and \
             `archive_command = 'mainstay wal push {name} %p'`."
        ),
    )
}

/// What the server keeps for whoever receives its log must not fill its disk.
fn the_slot(chain: &mut Chain<'_>, service: &ServiceSite) -> Told {
    let Ok(Some(engine)) = service.log_server() else { return Ok(()) };
    let mut source = engine.source();
    // That the server does not answer is told elsewhere.
    let Ok(log) = source.look() else { return Ok(()) };
    let Some(slot) = log.slot else { return Ok(()) };
    let name = source.slot();
    if slot.lost {
        return chain.fail(
            "slot",
            format!("the server gave up what slot {name} should have kept"),
            format!("Run `mainstay wal receive {0}`, and `mainstay backup {0}`.", service.name()),
        );
    }
    let kept = slot.from.map_or(0, |from| log.flushed.0.saturating_sub(from.0));
    let found = format!("{name} keeps {} of the log", units::size(kept));
    if !operations::wal::is_running(service) {
        return chain.warn(
            "slot",
            format!("{found}, and nobody receives it"),
            format!(
                "Start `mainstay wal receive {}`, or drop the slot: what it keeps grows.",
                service.name()
            ),
        );
    }
    if log.slot_limit.is_none() {
        return chain.warn(
            "slot",
            format!("{found}; no `max_slot_wal_keep_size` bounds that while nobody receives it"),
            format!(
                "Set `max_slot_wal_keep_size` to more than `log-queue` ({}), and less than the disk \
                 has.",
                units::size(operations::wal::cap(service))
            ),
        );
    }
    chain.ok("slot", found)
}

/// Whether this host's standby can follow the log any further.
fn following(
    chain: &mut Chain<'_>,
    app: &App,
    service: &ServiceSite,
    state: &ServiceState,
) -> Told {
    let trouble = operations::standing::trouble(service, state, &app.run());
    match chain.need("log", trouble)?.flatten() {
        Some(trouble) => chain.fail("log", trouble.told(), trouble.advice(service)),
        None => Ok(()),
    }
}

fn refresh_hint(service: &ServiceSite) -> String {
    format!("Run `mainstay refresh {}`.", service.name())
}

/// A vault on the service's own disk, or host, is lost together with it.
fn same_disk(chain: &mut Chain<'_>, service: &ServiceSite, engine: &dyn Engine) -> Told {
    let url = &service.site().config().vault.url;
    let advice = "Put the vault on another machine: a vault host, or an NFS mount.";
    let Some(vault) = vault_dir(url) else {
        let host = url
            .rsplit_once('@')
            .map_or_else(|| url.split_once("//").map_or("", |(_, rest)| rest), |(_, rest)| rest);
        if ["localhost", "127.", "[::1]"].iter().any(|here| host.starts_with(here)) {
            let found = "the vault is served by this host, and is lost together with it";
            return chain.warn("vault", found, advice);
        }
        return chain.ok("vault", "it is on another machine");
    };
    let Ok(there) = std::fs::metadata(vault) else { return Ok(()) };
    let on_it = |path: &Path| std::fs::metadata(path).is_ok_and(|here| here.dev() == there.dev());
    if engine.roots().iter().any(|root| on_it(&root.on_host)) {
        let found = "the vault is on the service's own disk, and is lost together with it";
        return chain.warn("vault", found, advice);
    }
    if Whereabouts::of(vault) == Whereabouts::Elsewhere {
        return chain.ok("vault", "it is on another machine");
    }
    chain.warn("vault", "the vault is on a disk of this host, and is lost together with it", advice)
}

/// What the last operations came to.
fn history_of(chain: &mut Chain<'_>, service: &ServiceSite, my_role: Role) -> Told {
    let Some(operations) = chain.need("last run", history::list(service))? else { return Ok(()) };
    let wanted = if my_role == Role::Primary { "backup" } else { "refresh" };
    let last = operations.iter().rfind(|one| one.kind.as_str() == wanted);
    let scheduled = service.spec().schedule.as_deref();
    match (last, scheduled) {
        (Some(last), _) => {
            let when = units::ago(last.started, Timestamp::now());
            let how = crate::ui::words::outcome(last);
            let found = format!("the last {wanted} began {when}: {how}");
            if crate::ui::words::went_well(last) {
                chain.ok("last run", found)
            } else {
                let advice = format!("Read `mainstay logs {} {}`.", service.name(), last.id);
                chain.fail("last run", found, advice)
            }
        }
        (None, Some(schedule)) => chain.warn(
            "last run",
            format!("no {wanted} was ever run here, though the schedule is {schedule:?}"),
            "Install the timer with `mainstay init --install-timer`, or call `mainstay run-due` \
             from cron.",
        ),
        (None, None) => chain.warn(
            "last run",
            format!("no {wanted} was ever run here, and there is no schedule"),
            format!("Set `schedule` in [service.{}].", service.name()),
        ),
    }
}

/// Whether this host's standby was read, and what had rotted.
fn scrubs(chain: &mut Chain<'_>, service: &ServiceSite, state: &ServiceState) -> Told {
    let operations = chain.need("scrub", history::list(service))?.unwrap_or_default();
    let Some(scrubs) = chain.need("scrub", crate::status::scrubs(service, state, &operations))?
    else {
        return Ok(());
    };
    let (name, now) = (service.name(), Timestamp::now());
    if let Some(rot) = scrubs.rot() {
        let advice = format!("Run `mainstay refresh {name}`, and look at the disk.");
        return chain.fail("scrub", rot, advice);
    }
    if let Some(overdue) = scrubs.overdue(now) {
        let advice = format!("See the last scrub in `mainstay logs {name} --list`, and the timer.");
        return chain.fail("scrub", overdue, advice);
    }
    match (&scrubs.last, &scrubs.schedule) {
        (Some(last), _) => {
            let what = match last.judged_by {
                JudgedBy::Snapshot => "the copy was read",
                JudgedBy::Engine => "its engine checked the copy",
            };
            chain.ok("scrub", format!("{what} {}", units::ago(last.at, now)))
        }
        (None, Some(_)) => chain.ok("scrub", "none is due yet"),
        (None, None) => Ok(()),
    }
}

/// The age of the newest whole point against what is declared.
fn freshness(chain: &mut Chain<'_>, service: &ServiceSite, state: &ServiceState) -> Told {
    let now = Timestamp::now();
    let Some(head) = state.head_point() else {
        let advice = format!("Run `mainstay backup {}` on its primary.", service.name());
        return chain.fail("newest point", "there is none: nothing can be restored", advice);
    };
    // A log reaches beyond the point.
    let reaches = chain.need("newest point", operations::wal::reaches(service, state))?.flatten();
    let sound = state.newest_sound().map_or(head.source_time, |sound| sound.source_time);
    let newest = reaches.map_or(sound, |reaches| reaches.max(sound));
    let Some(age) = units::age(newest, now) else {
        return chain.warn(
            "newest point",
            "it lies in the future",
            "Compare the clocks of the hosts.",
        );
    };
    let found = format!("{} old", units::old(newest, now).unwrap_or_default());
    let declared = service.spec().rpo.as_deref().and_then(|rpo| units::parse_duration(rpo).ok());
    match declared {
        Some(rpo) if age > rpo => chain.fail(
            "newest point",
            format!("{found}; the RPO is {}", units::duration(rpo)),
            "See why no backup was made: the last run above, and the timer.",
        ),
        Some(rpo) => {
            chain.ok("newest point", format!("{found}; the RPO is {}", units::duration(rpo)))
        }
        None => chain.ok("newest point", format!("{found}; no RPO is declared")),
    }
}

/// How far each standby is behind the newest point.
fn standbys(chain: &mut Chain<'_>, service: &ServiceSite, state: &ServiceState) -> Told {
    let head = state.head_point().map(|head| head.source_time);
    let rpo = service.spec().rpo.as_deref().and_then(|rpo| units::parse_duration(rpo).ok());
    for (name, member) in state.members.iter().filter(|(_, member)| member.role == Role::Standby) {
        let behind = match (&member.applied, head) {
            (None, _) => {
                let advice = format!("Run `mainstay refresh {}` on {name}.", service.name());
                chain.warn("standby", format!("{name} holds nothing yet"), advice)?;
                continue;
            }
            (Some(applied), Some(head)) => {
                units::age(applied.source_time, head).unwrap_or(Duration::ZERO)
            }
            (Some(_), None) => Duration::ZERO,
        };
        if behind.is_zero() {
            chain.ok("standby", format!("{name} holds the newest point"))?;
            continue;
        }
        let found = format!("{name} is {} behind the newest point", units::duration(behind));
        let advice = format!("Run `mainstay refresh {}` on {name}.", service.name());
        match rpo {
            Some(rpo) if behind > rpo => chain.fail("standby", found, advice)?,
            _ => chain.warn("standby", found, advice)?,
        }
    }
    Ok(())
}
