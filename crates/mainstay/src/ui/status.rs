//! The state of services as it is shown.

use crate::app::App;
use crate::copies::CopyStatus;
use crate::failure::Failure;
use crate::status::{self, MemberStatus, Status};
use crate::ui::words;
use crate::units;
use jiff::Timestamp;
use model::Role;
use operations::history::Operation;
use operations::{JudgedBy, ServiceSite};
use std::time::Duration;

fn seconds(seconds: u64) -> String {
    units::duration(Duration::from_secs(seconds))
}

/// One line of the table.
pub(crate) fn row(
    app: &App,
    service: &ServiceSite,
    status: &Status,
    now: Timestamp,
) -> Vec<String> {
    let standbys = status.members.iter().filter(|member| member.role == Role::Standby);
    let standbys: Vec<String> = standbys.map(|member| standby(app, member)).collect();
    vec![
        service.name().to_string(),
        status.engine.clone(),
        role(app, status.role),
        status.generation.to_string(),
        status.points.to_string(),
        age(app, status),
        status.rpo_seconds.map(seconds).unwrap_or_default(),
        proven(app, status, now),
        standbys.join("; "),
        activity(app, status),
    ]
}

fn role(app: &App, role: Option<Role>) -> String {
    match role {
        Some(Role::Broken) => app.out.paint.bad("broken"),
        Some(role) => words::role(role).to_owned(),
        None => app.out.paint.warning("not joined"),
    }
}

fn age(app: &App, status: &Status) -> String {
    if status.head.is_none() {
        return app.out.paint.bad("no point");
    }
    let age = status.age_seconds.map_or_else(|| "in the future".to_owned(), seconds);
    if status.rpo_kept == Some(false) { app.out.paint.bad(&age) } else { age }
}

fn proven(app: &App, status: &Status, now: Timestamp) -> String {
    let failed = status.last_drill.as_ref().is_some_and(|last| !last.sound);
    if failed {
        return app.out.paint.bad("drill failed");
    }
    let ago = status.proven.map(|proven| units::ago(proven, now)).unwrap_or_default();
    let broken = status.drill_overdue.is_some() || status.rto_kept == Some(false);
    match (broken, ago.is_empty()) {
        (true, true) => app.out.paint.bad("never"),
        (true, false) => app.out.paint.bad(&ago),
        (false, _) => ago,
    }
}

fn standby(app: &App, member: &MemberStatus) -> String {
    let what = match member.behind_seconds {
        _ if member.importing => "refreshing".to_owned(),
        _ if member.left_behind => app.out.paint.bad("on what the primary left behind"),
        _ if member.other_cluster => app.out.paint.bad("of another database cluster"),
        _ if member.stuck.is_some() => app.out.paint.bad("in front of a gap in the log"),
        None if member.holds.is_none() => app.out.paint.warning("empty"),
        None | Some(0) => "up to date".to_owned(),
        Some(behind) => format!("{} behind", seconds(behind)),
    };
    let what = if member.rpo_kept == Some(false) { app.out.paint.bad(&what) } else { what };
    format!("{}: {what}", member.name)
}

fn activity(app: &App, status: &Status) -> String {
    if let Some(running) = &status.running {
        return progress(running);
    }
    if let Some(intent) = &status.takeover {
        return app.out.paint.warning(&format!("takeover to {}", intent.to));
    }
    match &status.last_failure {
        Some(failed) => {
            app.out.paint.bad(&format!("{} {}", failed.kind.as_str(), words::outcome(failed)))
        }
        None => String::new(),
    }
}

/// `backup: reading, 1.2 GiB of 3.4 GiB, 120 MiB/s, 12 s left`.
fn progress(running: &Operation) -> String {
    let mut text = running.kind.as_str().to_owned();
    if let Some(seconds) = running.silent_seconds {
        let silent = units::duration(Duration::from_secs(seconds));
        return format!("{text}, no sign of life for {silent}; `mainstay cancel --kill` ends it");
    }
    let Some(numbers) = &running.progress else { return text };
    text.push_str(&format!(": {}", numbers.phase));
    if numbers.bytes > 0 {
        text.push_str(&format!(", {}", units::size(numbers.bytes)));
        if numbers.bytes_expected > 0 {
            text.push_str(&format!(" of {}", units::size(numbers.bytes_expected)));
        }
        text.push_str(&format!(", {}/s", units::size(numbers.bytes_per_second)));
    }
    if let Some(left) = numbers.seconds_left {
        text.push_str(&format!(", {} left", seconds(left)));
    }
    text
}

/// Everything about one service.
pub(crate) fn detail(
    app: &App,
    service: &ServiceSite,
    status: &Status,
    now: Timestamp,
) -> Result<(), Failure> {
    let out = &app.out;
    let line = |title: &str, text: String| out.line(format_args!("  {title:13} {text}"));
    out.line(format_args!("{} ({})", out.paint.bold(service.name().as_str()), status.engine))?;
    let since = status.since.map(|since| format!(" since {}", units::local(since)));
    let me =
        format!("{}, on {}{}", role(app, status.role), status.member, since.unwrap_or_default());
    line("role", me)?;
    line("generation", status.generation.to_string())?;
    match &status.head {
        None => line("newest point", out.paint.bad("none"))?,
        Some(head) => {
            line("newest point", format!("{} ({})", head.name, units::size(head.size_bytes)))?;
            let promise = match (status.rpo_seconds, status.rpo_kept) {
                (Some(rpo), Some(true)) => format!("; the RPO of {} is kept", seconds(rpo)),
                (Some(rpo), _) => {
                    out.paint.bad(&format!("; the RPO of {} is not kept", seconds(rpo)))
                }
                _ => String::new(),
            };
            if let Some(stored) = status.log_stored {
                let how = if status.log_received { ", as it is written" } else { "" };
                line("log", format!("last stored {}{how}", units::ago(stored, now)))?;
            }
            let what = if status.log_stored.is_some() { "age" } else { "its age" };
            line(what, format!("{}{promise}", age(app, status)))?;
        }
    }
    if let Some(gap) = &status.log_gap {
        let advice = "; a new base is due";
        line("log", out.paint.bad(&format!("{}{advice}", gap.told())))?;
    }
    if let Some(why) = &status.went_back {
        line("log", out.paint.bad(&format!("{why}; a new base is due")))?;
    }
    line("points", status.points.to_string())?;
    if let Some(verified) = status.head.as_ref().and_then(|head| head.verified.as_ref()) {
        let part = verified.part.as_ref().map(|part| format!(" ({part} of the vault)"));
        let ago = units::ago(verified.at, now);
        line("its bytes", format!("read {ago}{}", part.unwrap_or_default()))?;
    }
    drills(app, status, now)?;
    scrubs(app, status, now)?;
    for member in &status.members {
        line("member", of_member(app, member))?;
    }
    for copy in &status.copies {
        line("copy", of_copy(app, copy, now))?;
    }
    if let Some(intent) = &status.takeover {
        let text = format!(
            "to {}, claimed {} as {}",
            intent.to,
            units::ago(intent.claimed, now),
            intent.id
        );
        line("takeover", out.paint.warning(&text))?;
    }
    if let Some(running) = &status.running {
        line("running", format!("{}, {}", progress(running), running.id))?;
    }
    if let Some(last) = &status.last {
        let text = format!(
            "{} {}: {}",
            last.kind.as_str(),
            units::ago(last.started, now),
            words::outcome(last)
        );
        line("last run", text)?;
    }
    if let Some(failed) = &status.last_failure {
        let why = failed.message.clone().unwrap_or_default();
        line("last failure", out.paint.bad(&words::on_one_line(&why)))?;
        line("", out.paint.dim(&status::logs_of(service, &failed.id)))?;
    }
    Ok(())
}

/// What is known of drills, and what is promised of them.
fn drills(app: &App, status: &Status, now: Timestamp) -> Result<(), Failure> {
    let out = &app.out;
    let line = |title: &str, text: String| out.line(format_args!("  {title:13} {text}"));
    if let Some(last) = &status.last_drill {
        let verdict = match last.sound {
            true => "restorable".to_owned(),
            false => out.paint.bad("not sound"),
        };
        let took = last.recovery_seconds.map(|took| {
            format!(", back after {}", units::duration(Duration::from_secs_f64(took.max(0.0))))
        });
        let connected = if last.isolated { "" } else { ", not cut off from the network" };
        let text = format!(
            "{} on {}: the point of {} is {verdict}{}{connected}",
            units::ago(last.at, now),
            last.member,
            units::local(last.source_time),
            took.unwrap_or_default(),
        );
        line("last drill", text)?;
        if let (false, Some(proven)) = (last.sound, status.proven) {
            line("last proven", units::ago(proven, now))?;
        }
    }
    if let Some(last) = &status.last_takeover {
        let took = units::duration(Duration::from_secs_f64(last.serving_seconds.max(0.0)));
        let text =
            format!("{} to {}, which served after {took}", units::ago(last.at, now), last.to);
        line("last takeover", text)?;
    }
    if let Some(rto) = status.rto_seconds {
        let text = match status.rto_kept {
            Some(true) => format!("{}, kept", seconds(rto)),
            Some(false) => out.paint.bad(&format!("{}, not kept", seconds(rto))),
            None => format!("{}, not measured yet", seconds(rto)),
        };
        line("RTO", text)?;
    }
    match &status.drill_overdue {
        Some(overdue) => line("drills", out.paint.bad(overdue)),
        None => Ok(()),
    }
}

/// What is known of scrubs.
fn scrubs(app: &App, status: &Status, now: Timestamp) -> Result<(), Failure> {
    let out = &app.out;
    let line = |title: &str, text: String| out.line(format_args!("  {title:13} {text}"));
    if let Some(last) = &status.scrub {
        let found = words::count(last.rotten as u64, "file", "files");
        let found = match (last.rotten, last.unhealed) {
            (0, _) if last.judged_by == JudgedBy::Engine => {
                "its engine found the copy sound; its bytes were not compared".to_owned()
            }
            (0, _) => "every byte of the copy is right".to_owned(),
            (_, false) => format!("{found} had rotted, and were replaced"),
            (_, true) => out.paint.bad(&format!("{found} rotted, to be replaced by a refresh")),
        };
        line("last scrub", format!("{}: {found}", units::ago(last.at, now)))?;
    }
    match &status.scrub_overdue {
        Some(overdue) => line("scrubs", out.paint.bad(overdue)),
        None => Ok(()),
    }
}

fn of_copy(app: &App, copy: &CopyStatus, now: Timestamp) -> String {
    let mut text = match copy.holds {
        Some(holds) => format!("{}: holds the point of {}", copy.vault, units::ago(holds, now)),
        None => format!("{}: nothing was copied yet", copy.vault),
    };
    for wrong in copy.behind.iter().chain(&copy.error) {
        text.push_str(&app.out.paint.bad(&format!("; {wrong}")));
    }
    text
}

fn of_member(app: &App, member: &MemberStatus) -> String {
    let mut text = format!("{}: {}", member.name, role(app, Some(member.role)));
    if member.role == Role::Standby {
        text = format!(
            "{text}, {}",
            standby(app, member).trim_start_matches(&format!("{}: ", member.name))
        );
        if let Some(holds) = member.holds {
            text.push_str(&format!(" (holds {})", units::local(holds)));
        }
        if member.rpo_kept == Some(false) {
            text.push_str(&app.out.paint.bad(", older than the RPO"));
        }
        if let Some(stuck) = &member.stuck {
            text.push_str(&format!("; {stuck}"));
        }
    }
    if member.stopped {
        text.push_str(", stopped");
    }
    if let Some(label) = &member.label {
        text.push_str(&format!(", kept as {label}"));
    }
    text
}
