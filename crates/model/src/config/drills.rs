//! What a configuration says about drills.

use super::rules::{Judge, left_out, roots};
use super::{Config, Service, vault_dir};

/// Engines whose copies are asked in SQL.
const SQL: [&str; 2] = ["postgres", "sqlite"];

pub(super) fn judge(judge: &mut Judge<'_>, config: &Config, service: &Service) {
    if let Some(dir) = &service.drill_dir {
        judge.path("drill-dir", dir);
        if let Some(vault) = vault_dir(&config.vault.url)
            && dir.starts_with(vault)
        {
            judge.wrong("drill-dir", format!("lies in the vault {}", vault.display()));
        }
        // A backup would find a copy of itself, and a refresh would replace a drill.
        for (name, other) in &config.service {
            for (_, root) in roots(other) {
                if dir.starts_with(root) && !left_out(other, dir) {
                    let what = format!("lies in {} of service {name}", root.display());
                    judge.wrong("drill-dir", what);
                }
            }
        }
    }
    judge.at_most_one(&[
        ("drill-query", service.drill_query.is_some()),
        ("drill-command", service.drill_command.is_some()),
    ]);
    judge.duration("drill-timeout", service.drill_timeout.as_deref());
    judge.not_empty("drill-query", service.drill_query.as_ref());
    judge.not_empty("drill-command", service.drill_command.as_ref());
    for library in &service.drill_preload {
        // They become a list in the server's configuration.
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.$/".contains(c);
        if library.is_empty() || !library.chars().all(plain) {
            let what = format!("{library:?} is no name of a library like \"pg_stat_statements\"");
            judge.wrong("drill-preload", what);
        }
    }
    let engine = service.engine.as_str();
    if service.drill_query.is_some() && !SQL.contains(&engine) {
        judge.wrong(
            "drill-query",
            format!("means nothing to engine {engine}; write a `drill-command` that looks"),
        );
    }
    if service.drill_expect.is_some()
        && service.drill_query.is_none()
        && service.drill_command.is_none()
    {
        judge.wrong("drill-expect", "answers nothing without `drill-query` or `drill-command`");
    }
    if service.rto.is_some() && service.drill_schedule.is_none() {
        judge.doubtful(
            "rto",
            "is measured by drills, and none is scheduled here; write a `drill-schedule`",
        );
    }
}
