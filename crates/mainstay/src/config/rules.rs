//! What the shape of the file cannot say: keys that contradict each other, that miss their partner,
//! or whose text makes no sense.

use super::Finding;
use super::source::Source;
use crate::units;
use model::config::{Config, Quiesce, Service};
use std::path::{Component, Path};

/// Engines that are built in. Any other name means `mainstay-engine-NAME`.
pub(crate) const BUILT_IN: [&str; 4] = ["files", "postgres", "script", "sqlite"];

/// What was found.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) errors: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
}

/// Judges a configuration whose shape is right.
pub(crate) fn judge(config: &Config, source: &Source) -> Verdict {
    let mut judge = Judge { source, place: Vec::new(), verdict: Verdict::default() };
    judge.host_and_vault(config);
    for (name, service) in &config.service {
        judge.place = vec!["service".to_owned(), name.as_str().to_owned()];
        judge.service(config, service);
        judge.place.clear();
    }
    judge.verdict
}

struct Judge<'a> {
    source: &'a Source,
    /// The table that is being judged.
    place: Vec<String>,
    verdict: Verdict,
}

impl Judge<'_> {
    fn finding(&self, key: &str, what: String) -> Finding {
        let mut path: Vec<&str> = self.place.iter().map(String::as_str).collect();
        path.extend(key.split('.').filter(|part| !part.is_empty()));
        Finding { line: self.source.line(&path), key: path.join("."), what }
    }

    fn wrong(&mut self, key: &str, what: impl Into<String>) {
        let finding = self.finding(key, what.into());
        self.verdict.errors.push(finding);
    }

    fn doubtful(&mut self, key: &str, what: impl Into<String>) {
        let finding = self.finding(key, what.into());
        self.verdict.warnings.push(finding);
    }

    fn host_and_vault(&mut self, config: &Config) {
        self.directory("host.state-dir", &config.host.state_dir);
        let vault = &config.vault;
        let sources = [
            ("vault.password-file", vault.password_file.is_some()),
            ("vault.password-env", vault.password_env.is_some()),
            ("vault.password-command", vault.password_command.is_some()),
        ];
        self.at_most_one(&sources);
        if let Some(file) = &vault.password_file {
            self.directory("vault.password-file", file);
        }
        match vault_dir(&vault.url) {
            None => self.wrong(
                "vault.url",
                "this kind of vault is not supported; write a directory, like \"/srv/vault\"",
            ),
            Some(dir) => {
                self.directory("vault.url", dir);
                if config.host.state_dir.starts_with(dir) {
                    self.wrong(
                        "host.state-dir",
                        "lies inside the vault; locks and journals of this host do not belong there",
                    );
                }
            }
        }
        if let Some(webhook) = &config.alerts.webhook
            && !(webhook.starts_with("https://") || webhook.starts_with("http://"))
        {
            self.wrong("alerts.webhook", "must begin with https:// or http://");
        }
        if config.service.is_empty() {
            self.doubtful("service", "no service is configured, so nothing is protected");
        }
    }

    fn service(&mut self, config: &Config, service: &Service) {
        self.engine(service);
        self.paths(config, service);
        self.commands(service);
        self.schedule(service);
        self.passwords(config, service);
    }

    fn engine(&mut self, service: &Service) {
        let engine = service.engine.as_str();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if engine.is_empty() || !engine.bytes().all(plain) {
            return self.wrong("engine", "use small letters, digits and '-'");
        }
        if !BUILT_IN.contains(&engine) {
            if let Some(meant) = super::keys::nearest(engine, BUILT_IN.into_iter()) {
                return self.wrong("engine", format!("unknown engine; did you mean \"{meant}\"?"));
            }
            return;
        }
        let path = service.path.is_some();
        match engine {
            "files" if !path && service.paths.is_empty() => {
                self.wrong("", "engine files needs `path` or `paths`");
            }
            "sqlite" if !path => self.wrong("", "engine sqlite needs `path`, the database file"),
            "postgres" if service.url.is_none() && service.data_dir.is_none() => {
                self.wrong("", "engine postgres needs `url` or `data-dir`");
            }
            "script" if !path => self.wrong("", "engine script needs `path`, its directory"),
            "script" if service.exporter.is_none() && service.importer.is_none() => {
                self.wrong("", "engine script needs `exporter` or `importer`");
            }
            _ => {}
        }
        let files = service.exclude_caches
            || service.one_file_system
            || !service.exclude.is_empty()
            || service.exclude_larger_than.is_some();
        let owned: [(&str, bool, &[&str]); 8] = [
            ("path", path, &["files", "sqlite", "script"]),
            ("paths", !service.paths.is_empty(), &["files"]),
            ("exclude", files, &["files"]),
            ("url", service.url.is_some(), &["postgres"]),
            ("data-dir", service.data_dir.is_some(), &["postgres"]),
            ("bin-dir", service.bin_dir.is_some(), &["postgres"]),
            ("exporter", service.exporter.is_some(), &["script"]),
            ("importer", service.importer.is_some(), &["script"]),
        ];
        for (key, set, engines) in owned {
            if set && !engines.contains(&engine) {
                let theirs = engines.join(", ");
                self.wrong(key, format!("means nothing to engine {engine} (it is for {theirs})"));
            }
        }
    }

    fn paths(&mut self, config: &Config, service: &Service) {
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
                self.directory(key, path);
            }
        }
        for path in &service.paths {
            self.directory("paths", path);
        }
        let twice = service.paths.iter().enumerate().find(|(at, path)| {
            service
                .paths
                .iter()
                .take(*at)
                .any(|other| path.starts_with(other) || other.starts_with(path))
        });
        if let Some((_, path)) = twice {
            self.wrong("paths", format!("{} lies in another of these paths", path.display()));
        }
        if service.engine == "files"
            && let Some(vault) = vault_dir(&config.vault.url)
        {
            let left_out = |path: &Path| service.exclude.iter().any(|out| Path::new(out) == path);
            let key = if service.path.is_some() { "path" } else { "paths" };
            let roots = service.path.iter().chain(&service.paths);
            for root in roots.filter(|root| vault.starts_with(root) && !left_out(vault)) {
                self.wrong(
                    key,
                    format!(
                        "{} holds the vault {}: every backup would back up the backups; move the \
                         vault or add it to `exclude`",
                        root.display(),
                        vault.display()
                    ),
                );
            }
        }
        if let Some(size) = &service.exclude_larger_than
            && let Err(what) = units::parse_size(size)
        {
            self.wrong("exclude-larger-than", what);
        }
    }

    fn commands(&mut self, service: &Service) {
        for (key, command) in [("start", &service.start), ("stop", &service.stop)] {
            if service.unit.is_some() && command.is_some() {
                self.wrong(
                    key,
                    "contradicts `unit`, which gives start and stop; write one of them",
                );
            }
        }
        match (service.start.is_some(), service.stop.is_some()) {
            (true, false) => self.doubtful("start", "has no `stop` beside it"),
            (false, true) => self.doubtful("stop", "has no `start` beside it"),
            _ => {}
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
        let commands = [
            ("unit", &service.unit),
            ("start", &service.start),
            ("stop", &service.stop),
            ("status", &service.status),
        ];
        for (key, command) in commands {
            if command.as_ref().is_some_and(|text| text.trim().is_empty()) {
                self.wrong(key, "is empty");
            }
        }
    }

    fn schedule(&mut self, service: &Service) {
        if let Some(zone) = &service.time_zone {
            if jiff::tz::TimeZone::get(zone).is_err() {
                self.wrong("time-zone", format!("{zone:?} is not a time zone like Europe/Berlin"));
            }
            if service.schedule.is_none() {
                self.doubtful("time-zone", "means nothing without `schedule`");
            }
        }
        if let Some(schedule) = &service.schedule
            && let Err(what) = cron(schedule)
        {
            self.wrong("schedule", format!("{schedule:?} is not cron syntax: {what}"));
        }
        if let Some(rpo) = &service.rpo
            && let Err(what) = units::parse_duration(rpo)
        {
            self.wrong("rpo", what);
        }
        if let Some(keep) = &service.keep {
            let counts =
                [keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly];
            if counts.iter().all(|count| *count == 0) && keep.within.is_none() {
                self.wrong("keep", "keeps nothing; leave it out to keep everything");
            }
            if let Some(Err(what)) = keep.within.as_deref().map(units::parse_duration) {
                self.wrong("keep.within", what);
            }
        }
    }

    fn passwords(&mut self, config: &Config, service: &Service) {
        let own = [
            ("password-file", service.password_file.is_some()),
            ("password-env", service.password_env.is_some()),
            ("password-command", service.password_command.is_some()),
        ];
        self.at_most_one(&own);
        let vault = &config.vault;
        let vaults = vault.password_file.is_some()
            || vault.password_env.is_some()
            || vault.password_command.is_some();
        if !vaults && own.iter().all(|(_, set)| !set) {
            self.wrong("", "has no password: write `password-file` here or in [vault]");
        }
        if let Some(url) = &service.url
            && super::without_password(url) != *url
        {
            self.doubtful("url", "holds a password, which everybody who reads this file can see");
        }
    }

    fn at_most_one(&mut self, keys: &[(&str, bool)]) {
        let mut set = keys.iter().filter(|(_, set)| *set).map(|(key, _)| *key);
        if let (Some(first), Some(second)) = (set.next(), set.next()) {
            let first = first.rsplit('.').next().unwrap_or(first);
            self.wrong(second, format!("contradicts `{first}`; write one of them"));
        }
    }

    /// A path that means the same from wherever the program is started.
    fn directory(&mut self, key: &str, path: &Path) {
        let text = path.as_os_str().as_encoded_bytes();
        if text.is_empty() {
            self.wrong(key, "is empty");
        } else if text.iter().any(|byte| byte.is_ascii_control()) {
            self.wrong(key, format!("{path:?} has a control character in it"));
        } else if !path.is_absolute() {
            self.wrong(key, format!("{path:?} is relative; write the whole path, from /"));
        } else if path.components().any(|part| part == Component::ParentDir) {
            self.wrong(key, format!("{path:?} has `..` in it; write the path it means"));
        }
    }
}

/// The directory that a vault URL names.
pub(crate) fn vault_dir(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    (!path.contains("://")).then(|| Path::new(path))
}

fn cron(schedule: &str) -> Result<(), String> {
    use croner::parser::CronParser;
    CronParser::new().parse(schedule).map(|_| ()).map_err(|e| e.to_string())
}
