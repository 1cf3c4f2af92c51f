//! What the shape of the file cannot say: keys that contradict each other, that miss their partner,
//! or whose text makes no sense.

use super::read::Finding;
use super::section::Section;
use super::source::Source;
use super::{
    Alerts, Config, Quiesce, Service, Vault, VaultUrl, bucket, copies, drills, keys, vault_dir,
    without_password,
};
use crate::schedule::Schedule;
use crate::{ServiceName, duration, size};
use jiff::tz::TimeZone;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};

/// Engines that are built in. Any other name means `mainstay-engine-NAME`.
pub const ENGINES: [&str; 4] = ["files", "postgres", "script", "sqlite"];

/// Sizes that fixed chunks may have. More would not fit what the repository is made for: its own cuts
/// are no longer.
pub const CHUNK_BYTES: RangeInclusive<u64> = 4 << 10..=8 << 20;
/// The same for people.
pub const CHUNK_WORDS: &str = "between 4 KiB and 8 MiB";

/// The least that `log-queue` may be: a few segments of the log.
const LOG_QUEUE_LEAST: u64 = 64 << 20;

/// What people call them that is too far from their name for a guess.
const ALIASES: [(&str, &str); 4] =
    [("postgresql", "postgres"), ("pg", "postgres"), ("pgsql", "postgres"), ("sqlite3", "sqlite")];

/// What was found.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) errors: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
}

/// Judges a configuration whose shape is right.
pub(super) fn judge(config: &Config, source: Option<&Source>) -> Verdict {
    let mut judge = Judge { source, place: Vec::new(), verdict: Verdict::default() };
    judge.host_and_vault(config);
    copies::judge(&mut judge, config);
    for (name, service) in &config.service {
        judge.place = vec!["service".to_owned(), name.as_str().to_owned()];
        judge.service(config, service);
    }
    for (at, (name, service)) in config.service.iter().enumerate() {
        judge.place = vec!["service".to_owned(), name.as_str().to_owned()];
        for (other_name, other) in config.service.iter().take(at) {
            judge.overlap((name, service), (other_name, other));
        }
    }
    judge.verdict
}

/// What is wrong with `[alerts]` alone.
pub(super) fn judge_alerts(alerts: &Alerts) -> Vec<Finding> {
    let mut judge = Judge { source: None, place: Vec::new(), verdict: Verdict::default() };
    judge.alerts(alerts);
    judge.verdict.errors
}

pub(super) struct Judge<'a> {
    source: Option<&'a Source>,
    /// The table that is being judged.
    place: Vec<String>,
    verdict: Verdict,
}

impl Judge<'_> {
    fn finding(&self, key: &str, what: String) -> Finding {
        let mut path: Vec<&str> = self.place.iter().map(String::as_str).collect();
        path.extend(key.split('.').filter(|part| !part.is_empty()));
        let line = self.source.and_then(|source| source.line(&path));
        let sections = vec![Section::of(&path)];
        Finding { line, column: None, key: path.join("."), what, sections }
    }

    /// Whether the host has this service, also if there is a mistake in its section.
    pub(super) fn is_service(&self, config: &Config, name: &ServiceName) -> bool {
        config.service.contains_key(name)
            || self.source.is_some_and(|source| source.has(&["service", name.as_str()]))
    }

    pub(super) fn wrong(&mut self, key: &str, what: impl Into<String>) {
        let finding = self.finding(key, what.into());
        self.verdict.errors.push(finding);
    }

    pub(super) fn doubtful(&mut self, key: &str, what: impl Into<String>) {
        let finding = self.finding(key, what.into());
        self.verdict.warnings.push(finding);
    }

    /// What follows is about this table.
    pub(super) fn begin(&mut self, place: &[&str]) {
        self.place = place.iter().map(|part| (*part).to_owned()).collect();
    }

    /// A vault: the one, or a second one.
    pub(super) fn vault(&mut self, vault: &Vault, config: &Config) {
        self.at_most_one(&[
            ("vault.password-file", vault.password_file.is_some()),
            ("vault.password-env", vault.password_env.is_some()),
            ("vault.password-credential", vault.password_credential.is_some()),
            ("vault.password-command", vault.password_command.is_some()),
        ]);
        if let Some(file) = &vault.password_file {
            self.path("vault.password-file", file);
        }
        self.not_empty("vault.password-env", vault.password_env.as_ref());
        self.not_empty("vault.password-command", vault.password_command.as_ref());
        self.credential("vault.password-credential", vault.password_credential.as_ref());
        self.credential("vault.token-credential", vault.token_credential.as_ref());
        bucket::judge(self, vault);
        match VaultUrl::new(&vault.url) {
            VaultUrl::Other(_) => self.wrong(
                "vault.url",
                "this kind of vault is not supported; write a directory, like \"/srv/vault\", or \
                 \"s3://BUCKET/PREFIX\", \"rest:https://host/\" or \"ssh://host/srv/vault\"",
            ),
            VaultUrl::S3(_) | VaultUrl::Served(_) => {}
            VaultUrl::Directory(dir) => {
                self.path("vault.url", dir);
                if config.host.state_dir.starts_with(dir) {
                    let (key, what) = match self.place.is_empty() {
                        true => ("host.state-dir", "lies inside the vault"),
                        false => ("vault.url", "holds host.state-dir"),
                    };
                    let why = "locks and journals of this host do not belong there";
                    self.wrong(key, format!("{what}; {why}"));
                }
            }
        }
        self.served(vault);
    }

    fn host_and_vault(&mut self, config: &Config) {
        self.path("host.state-dir", &config.host.state_dir);
        self.vault(&config.vault, config);
        self.alerts(&config.alerts);
        if config.service.is_empty() {
            self.doubtful("service", "no service is configured, so nothing is protected");
        }
    }

    /// Who is told.
    fn alerts(&mut self, alerts: &Alerts) {
        if let Some(webhook) = &alerts.webhook
            && !(webhook.starts_with("https://") || webhook.starts_with("http://"))
        {
            self.wrong("alerts.webhook", "must begin with https:// or http://");
        }
        self.not_empty("alerts.command", alerts.command.as_ref());
        self.duration("alerts.command-timeout", alerts.command_timeout.as_deref());
        self.at_most_one(&[
            ("alerts.webhook", alerts.webhook.is_some()),
            ("alerts.webhook-file", alerts.webhook_file.is_some()),
            ("alerts.webhook-env", alerts.webhook_env.is_some()),
            ("alerts.webhook-credential", alerts.webhook_credential.is_some()),
            ("alerts.webhook-command", alerts.webhook_command.is_some()),
        ]);
        if let Some(file) = &alerts.webhook_file {
            self.path("alerts.webhook-file", file);
        }
        self.not_empty("alerts.webhook-env", alerts.webhook_env.as_ref());
        self.not_empty("alerts.webhook-command", alerts.webhook_command.as_ref());
        self.credential("alerts.webhook-credential", alerts.webhook_credential.as_ref());
    }

    /// How a vault on another machine is reached.
    fn served(&mut self, vault: &Vault) {
        let rest = vault.url.starts_with("rest:");
        let tls = vault.url.starts_with("rest:https:");
        let ssh = vault.url.starts_with("ssh:");
        let keys = [
            ("vault.user", vault.user.is_some(), rest, "rest:"),
            ("vault.token-file", vault.token_file.is_some(), rest, "rest:"),
            ("vault.token-env", vault.token_env.is_some(), rest, "rest:"),
            ("vault.token-credential", vault.token_credential.is_some(), rest, "rest:"),
            ("vault.token-command", vault.token_command.is_some(), rest, "rest:"),
            ("vault.ca-file", vault.ca_file.is_some(), tls, "rest:https:"),
            ("vault.pinned-sha256", vault.pinned_sha256.is_some(), tls, "rest:https:"),
            ("vault.ssh-command", !vault.ssh_command.is_empty(), ssh, "ssh:"),
            ("vault.remote-program", vault.remote_program.is_some(), ssh, "ssh:"),
        ];
        for (key, set, fits, kind) in keys {
            if set && !fits {
                self.wrong(key, format!("is for vaults whose URL begins with {kind}"));
            }
        }
        self.at_most_one(&[
            ("vault.token-file", vault.token_file.is_some()),
            ("vault.token-env", vault.token_env.is_some()),
            ("vault.token-credential", vault.token_credential.is_some()),
            ("vault.token-command", vault.token_command.is_some()),
        ]);
        self.at_most_one(&[
            ("vault.ca-file", vault.ca_file.is_some()),
            ("vault.pinned-sha256", vault.pinned_sha256.is_some()),
        ]);
        for (key, file) in
            [("vault.token-file", &vault.token_file), ("vault.ca-file", &vault.ca_file)]
        {
            if let Some(file) = file {
                self.path(key, file);
            }
        }
        self.not_empty("vault.user", vault.user.as_ref());
        self.not_empty("vault.token-env", vault.token_env.as_ref());
        self.not_empty("vault.token-command", vault.token_command.as_ref());
        self.not_empty("vault.remote-program", vault.remote_program.as_ref());
        if rest && without_password(&vault.url) != vault.url {
            self.doubtful(
                "vault.url",
                "holds a password, which everybody who reads this file can see; write `user` and \
                 `token-file`",
            );
        }
    }

    fn service(&mut self, config: &Config, service: &Service) {
        self.engine(service);
        self.paths(service);
        self.neighbours(config, service);
        self.commands(service);
        self.schedule(service);
        drills::judge(self, config, service);
        self.passwords(config, service);
    }

    fn engine(&mut self, service: &Service) {
        let engine = service.engine.as_str();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !ENGINES.contains(&engine) {
            let alias = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(engine));
            let lower = engine.to_ascii_lowercase();
            let meant = alias
                .map(|(_, meant)| *meant)
                .or_else(|| keys::nearest(&lower, ENGINES.into_iter()));
            match meant {
                Some(meant) => {
                    self.wrong("engine", format!("unknown engine; did you mean \"{meant}\"?"));
                }
                // It becomes part of the name of a program.
                None if engine.is_empty() || engine.len() > 63 || !engine.bytes().all(plain) => {
                    self.wrong("engine", "use small letters, digits and '-'");
                }
                None => {}
            }
            return;
        }
        self.needs(service);
        let files = service.exclude_caches
            || service.one_file_system
            || !service.exclude.is_empty()
            || service.exclude_larger_than.is_some();
        let with_path: &[&str] = match service.is_logical() {
            true => &["files", "sqlite", "script", "postgres"],
            false => &["files", "sqlite", "script"],
        };
        let owned: [(&str, bool, &[&str]); 13] = [
            ("path", service.path.is_some(), with_path),
            ("paths", !service.paths.is_empty(), &["files", "sqlite"]),
            ("exclude", files, &["files"]),
            ("chunk-size", service.chunk_size.is_some(), &["files", "postgres", "sqlite"]),
            ("url", service.url.is_some(), &["postgres"]),
            ("method", service.method.is_some(), &["postgres"]),
            ("data-dir", service.data_dir.is_some(), &["postgres"]),
            ("bin-dir", service.bin_dir.is_some(), &["postgres"]),
            ("log-queue", service.log_queue.is_some(), &["postgres", "sqlite"]),
            ("stream-from", service.stream_from.is_some(), &["postgres"]),
            ("drill-preload", !service.drill_preload.is_empty(), &["postgres"]),
            ("exporter", service.exporter.is_some(), &["script"]),
            ("importer", service.importer.is_some(), &["script"]),
        ];
        for (key, set, engines) in owned {
            if set && !engines.contains(&engine) {
                let theirs = engines.join(", ");
                self.wrong(key, format!("means nothing to engine {engine} (it is for {theirs})"));
            }
        }
        if engine == "postgres" && service.is_logical() {
            let physical = [
                ("data-dir", service.data_dir.is_some()),
                ("log-queue", service.log_queue.is_some()),
                ("stream-from", service.stream_from.is_some()),
                ("drill-preload", !service.drill_preload.is_empty()),
            ];
            for (key, _) in physical.iter().filter(|(_, set)| *set) {
                self.wrong(
                    key,
                    "means nothing with `method = \"logical\"`, which reads no files of the server \
                     and keeps no log",
                );
            }
        }
    }

    /// What the engine cannot work without. Both halves of a pair even on a host that needs only
    /// one today: after a takeover it needs the other.
    fn needs(&mut self, service: &Service) {
        let path = service.path.is_some();
        let needs: &[(&str, bool)] = match service.engine.as_str() {
            "files" => &[("`path` or `paths`", path || !service.paths.is_empty())],
            "sqlite" => {
                &[("`path`, the database file, or `paths`", path || !service.paths.is_empty())]
            }
            "postgres" if service.is_logical() => &[
                ("`url`, how to connect", service.url.is_some()),
                ("`path`, a directory for dumps that are fetched from the vault", path),
            ],
            "postgres" => &[
                ("`url`, how to connect", service.url.is_some()),
                ("`data-dir`, the server's data directory", service.data_dir.is_some()),
            ],
            "script" => &[
                ("`path`, its directory", path),
                ("`exporter`, which fills it", service.exporter.is_some()),
                ("`importer`, which loads it", service.importer.is_some()),
            ],
            _ => &[],
        };
        for (what, there) in needs {
            if !there {
                self.wrong("", format!("engine {} needs {what}", service.engine));
            }
        }
    }

    fn paths(&mut self, service: &Service) {
        if service.path.is_some() && !service.paths.is_empty() {
            self.wrong("paths", "contradicts `path`; write one of them");
        }
        let single = [
            ("path", &service.path),
            ("data-dir", &service.data_dir),
            ("bin-dir", &service.bin_dir),
            ("exporter", &service.exporter),
            ("importer", &service.importer),
            ("password-file", &service.password_file),
        ];
        for (key, path) in single {
            if let Some(path) = path {
                self.path(key, path);
            }
        }
        for path in &service.paths {
            self.path("paths", path);
        }
        let twice =
            service.paths.iter().enumerate().find(|(at, path)| {
                service.paths.iter().take(*at).any(|other| overlap(path, other))
            });
        if let Some((_, path)) = twice {
            self.wrong("paths", format!("{} lies in another of these paths", path.display()));
        }
        if let Some(size) = &service.exclude_larger_than
            && let Err(e) = size::parse(size)
        {
            self.wrong("exclude-larger-than", e.to_string());
        }
        if let Some(size) = &service.log_queue {
            match size::parse(size) {
                Ok(bytes) if bytes >= LOG_QUEUE_LEAST => {}
                Ok(_) => self.wrong("log-queue", "has to be at least 64 MiB"),
                Err(e) => self.wrong("log-queue", e.to_string()),
            }
        }
        if let Some(size) = &service.chunk_size {
            match size::parse(size) {
                Ok(bytes) if CHUNK_BYTES.contains(&bytes) => {}
                Ok(_) => self.wrong("chunk-size", format!("has to be {CHUNK_WORDS}")),
                Err(e) => self.wrong("chunk-size", e.to_string()),
            }
        }
        for pattern in service.exclude.iter().filter(|pattern| pattern.trim().is_empty()) {
            self.wrong("exclude", format!("{pattern:?} is no pattern"));
        }
    }

    /// The vault and our own state must not be part of what is protected, nor the other way round:
    /// a backup would back up the backups, and a refresh would replace them.
    fn neighbours(&mut self, config: &Config, service: &Service) {
        // A second vault that is in the way is its own mistake: what is protected was there before it.
        let vault = vault_dir(&config.vault.url);
        for (key, root) in roots(service) {
            let shown = root.display();
            if let Some(vault) = vault {
                if vault.starts_with(root) && !left_out(service, vault) {
                    self.wrong(
                        key,
                        format!(
                            "{shown} holds the vault {}: every backup would back up the backups; \
                             move the vault or add it to `exclude`",
                            vault.display()
                        ),
                    );
                } else if root.starts_with(vault) {
                    let vault = vault.display();
                    self.wrong(key, format!("{shown} lies in the vault {vault}"));
                }
            }
            let state = &config.host.state_dir;
            if state.starts_with(root) && !left_out(service, state) {
                let state = state.display();
                self.wrong(
                    key,
                    format!("{shown} holds host.state-dir {state}; move it or add it to `exclude`"),
                );
            } else if root.starts_with(state) {
                let state = state.display();
                self.wrong(key, format!("{shown} lies in host.state-dir {state}"));
            }
        }
    }

    /// Two services with the same data: the restore of one would overwrite the other. Which of the two
    /// sections is the wrong one nobody knows, so it is a mistake of both.
    fn overlap(
        &mut self,
        (_, service): (&ServiceName, &Service),
        (other_name, other): (&ServiceName, &Service),
    ) {
        for (key, root) in roots(service) {
            for (_, theirs) in roots(other) {
                let inside = root.starts_with(theirs) && !left_out(other, root);
                let around = theirs.starts_with(root) && !left_out(service, theirs);
                let how = match (inside, around) {
                    (true, true) => "is also",
                    (true, false) => "lies in",
                    (false, true) => "holds",
                    (false, false) => continue,
                };
                let (root, theirs) = (root.display(), theirs.display());
                let what = format!(
                    "{root} {how} {theirs} of service {other_name}: a restore of one would \
                     overwrite the other; leave it out of one by `exclude`"
                );
                let mut finding = self.finding(key, what);
                finding.sections.push(Section::Service(other_name.to_string()));
                self.verdict.errors.push(finding);
            }
        }
    }

    fn commands(&mut self, service: &Service) {
        let commands =
            [("start", &service.start), ("stop", &service.stop), ("status", &service.status)];
        if service.unit.is_some() {
            for (key, command) in commands {
                if command.is_some() {
                    self.wrong(key, "contradicts `unit`, which gives it; write one of them");
                }
            }
        } else {
            match (&service.start, &service.stop) {
                (Some(_), None) => self.doubtful("start", "has no `stop` beside it"),
                (None, Some(_)) => self.doubtful("stop", "has no `start` beside it"),
                _ => {}
            }
        }
        let hooks = &service.hooks;
        let can_stop =
            service.unit.is_some() || (service.start.is_some() && service.stop.is_some());
        match service.quiesce {
            Quiesce::Stop if !can_stop => {
                self.wrong("quiesce", "\"stop\" needs `unit`, or `start` and `stop`");
            }
            Quiesce::Freeze if hooks.freeze.is_none() || hooks.thaw.is_none() => {
                self.wrong("quiesce", "\"freeze\" needs `hooks.freeze` and `hooks.thaw`");
            }
            Quiesce::None | Quiesce::Stop if hooks.freeze.is_some() => {
                self.wrong("hooks.freeze", "never runs without `quiesce = \"freeze\"`");
            }
            _ => {}
        }
        self.duration("quiesce-limit", service.quiesce_limit.as_deref());
        self.duration("hook-timeout", service.hook_timeout.as_deref());
        if service.quiesce_limit.is_some() && service.quiesce == Quiesce::None {
            self.doubtful("quiesce-limit", "means nothing without `quiesce`");
        }
        self.not_empty("unit", service.unit.as_ref());
        for (key, command) in commands {
            self.not_empty(key, command.as_ref());
        }
        let hooks = [
            ("hooks.before-backup", &hooks.before_backup),
            ("hooks.after-backup", &hooks.after_backup),
            ("hooks.freeze", &hooks.freeze),
            ("hooks.thaw", &hooks.thaw),
            // An empty fence would exit 0, which is taken as proof.
            ("hooks.fence", &hooks.fence),
            ("hooks.promoted", &hooks.promoted),
            ("hooks.route", &hooks.route),
            ("hooks.after-refresh", &hooks.after_refresh),
        ];
        for (key, command) in hooks {
            self.not_empty(key, command.as_ref());
        }
    }

    fn schedule(&mut self, service: &Service) {
        let mut zone = TimeZone::UTC;
        if let Some(name) = &service.time_zone {
            match TimeZone::get(name) {
                Ok(known) => zone = known,
                Err(_) => {
                    self.wrong(
                        "time-zone",
                        format!("{name:?} is not a time zone like Europe/Berlin"),
                    );
                }
            }
            let schedules = [
                &service.schedule,
                &service.drill_schedule,
                &service.scrub_schedule,
                &service.prune_schedule,
            ];
            if schedules.iter().all(|schedule| schedule.is_none()) {
                self.doubtful("time-zone", "means nothing without `schedule`");
            }
        }
        let schedules = [
            ("schedule", &service.schedule),
            ("drill-schedule", &service.drill_schedule),
            ("scrub-schedule", &service.scrub_schedule),
            ("prune-schedule", &service.prune_schedule),
        ];
        for (key, schedule) in schedules {
            if let Some(schedule) = schedule
                && let Err(e) = Schedule::parse(schedule, zone.clone())
            {
                self.wrong(key, e.to_string());
            }
        }
        self.duration("rpo", service.rpo.as_deref());
        self.duration("rto", service.rto.as_deref());
        self.duration("keep-for-standbys", service.keep_for_standbys.as_deref());
        if service.prune_schedule.is_some() && service.keep.is_none() {
            self.doubtful("prune-schedule", "frees only what was forgotten by hand without `keep`");
        }
        if let Some(keep) = &service.keep {
            let counts =
                [keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly];
            if counts.iter().all(|count| *count == 0) && keep.within.is_none() {
                self.wrong("keep", "keeps nothing; leave it out to keep everything");
            }
            self.duration("keep.within", keep.within.as_deref());
        }
    }

    pub(super) fn duration(&mut self, key: &str, text: Option<&str>) {
        match text.map(duration::parse) {
            Some(Err(e)) => self.wrong(key, e.to_string()),
            Some(Ok(duration)) if duration.is_zero() => self.wrong(key, "is no time at all"),
            _ => {}
        }
    }

    fn passwords(&mut self, config: &Config, service: &Service) {
        let own = [
            ("password-file", service.password_file.is_some()),
            ("password-env", service.password_env.is_some()),
            ("password-credential", service.password_credential.is_some()),
            ("password-command", service.password_command.is_some()),
        ];
        self.at_most_one(&own);
        self.credential("password-credential", service.password_credential.as_ref());
        self.url_password(service);
        self.not_empty("password-env", service.password_env.as_ref());
        self.not_empty("password-command", service.password_command.as_ref());
        let vault = &config.vault;
        let vaults = vault.password_file.is_some()
            || vault.password_env.is_some()
            || vault.password_credential.is_some()
            || vault.password_command.is_some();
        if !vaults && own.iter().all(|(_, set)| !set) {
            self.wrong("", "has no password: write `password-file` here or in [vault]");
        }
        for (key, url) in [("url", &service.url), ("stream-from", &service.stream_from)] {
            if let Some(url) = url
                && without_password(url) != *url
            {
                self.doubtful(key, "holds a password, which everybody who reads this file can see");
            }
        }
        let schemes = ["postgres://", "postgresql://"];
        if let Some(url) = &service.stream_from
            && !schemes.iter().any(|scheme| url.starts_with(scheme))
        {
            self.wrong("stream-from", "is no URL like \"postgres://replication@db1/\"");
        }
    }

    /// The password that a connection URL leaves out.
    fn url_password(&mut self, service: &Service) {
        let keys = [
            ("url-password-file", service.url_password_file.is_some()),
            ("url-password-env", service.url_password_env.is_some()),
            ("url-password-credential", service.url_password_credential.is_some()),
            ("url-password-command", service.url_password_command.is_some()),
        ];
        self.at_most_one(&keys);
        let holds = service.url.as_ref().is_some_and(|url| without_password(url) != *url);
        for (key, _) in keys.iter().filter(|(_, set)| *set) {
            if service.url.is_none() {
                self.wrong(key, "means nothing without `url`");
            } else if holds {
                self.wrong(key, "contradicts `url`, which holds a password; write one of them");
            }
        }
        if let Some(file) = &service.url_password_file {
            self.path("url-password-file", file);
        }
        self.not_empty("url-password-env", service.url_password_env.as_ref());
        self.not_empty("url-password-command", service.url_password_command.as_ref());
        self.credential("url-password-credential", service.url_password_credential.as_ref());
    }

    /// A credential's name is that of a file in a directory of systemd's.
    pub(super) fn credential(&mut self, key: &str, name: Option<&String>) {
        let plain = |name: &String| {
            !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
        };
        if name.is_some_and(|name| !plain(name)) {
            self.wrong(key, "is no name of a credential");
        }
    }

    pub(super) fn at_most_one(&mut self, keys: &[(&str, bool)]) {
        let mut set = keys.iter().filter(|(_, set)| *set).map(|(key, _)| *key);
        let Some(first) = set.next() else { return };
        let first = first.rsplit('.').next().unwrap_or(first);
        for other in set {
            self.wrong(other, format!("contradicts `{first}`; write one of them"));
        }
    }

    pub(super) fn not_empty(&mut self, key: &str, text: Option<&String>) {
        if text.is_some_and(|text| text.trim().is_empty()) {
            self.wrong(key, "is empty");
        }
    }

    /// A path that means the same from wherever the program is started.
    pub(super) fn path(&mut self, key: &str, path: &Path) {
        let text = path.as_os_str().as_encoded_bytes();
        if text.is_empty() {
            self.wrong(key, "is empty");
        } else if text.iter().any(u8::is_ascii_control) {
            self.wrong(key, format!("{path:?} has a control character in it"));
        } else if !path.is_absolute() {
            self.wrong(key, format!("{path:?} is relative; write the whole path, from /"));
        } else if path.components().any(|part| part == Component::ParentDir) {
            self.wrong(key, format!("{path:?} has `..` in it; write the path it means"));
        }
    }
}

/// Everything of the host that a service's data is in, with the key that names it.
pub(super) fn roots(service: &Service) -> impl Iterator<Item = (&'static str, &PathBuf)> {
    let path = service.path.iter().map(|path| ("path", path));
    let paths = service.paths.iter().map(|path| ("paths", path));
    path.chain(paths).chain(service.data_dir.iter().map(|path| ("data-dir", path)))
}

/// Whether a service leaves this out: itself or a directory above it is an exclude.
pub(super) fn left_out(service: &Service, path: &Path) -> bool {
    service.exclude.iter().any(|out| Path::new(out).is_absolute() && path.starts_with(out))
}

fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}
