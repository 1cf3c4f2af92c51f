//! Writes the configuration that is proposed, with a comment at everything worth a decision.

use super::discover::{Found, Server, What};
use crate::units;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What the proposal is built from.
pub(crate) struct Proposal<'a> {
    pub(crate) host: &'a str,
    pub(crate) state_dir: &'a Path,
    pub(crate) vault: &'a str,
    pub(crate) password_file: PathBuf,
    pub(crate) found: &'a [Found],
}

impl Proposal<'_> {
    /// The text of the configuration file.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "# Mainstay's configuration of this host, proposed by `mainstay init`.\n\
             # Every key: docs/configuration.md. After a change: `mainstay config check`.\n\
             \n\
             [host]\n\
             name = {}\n\
             state-dir = {}\n\
             \n\
             [vault]\n\
             # A directory, or a bucket: \"s3://BUCKET/PREFIX\" (docs/guide/s3.md). Best on another\n\
             # machine: a vault on the service's own disk is lost together with it.\n\
             url = {}\n\
             password-file = {}\n\
             \n\
             # Who is told when something fails; the alert is JSON on standard input.\n\
             # [alerts]\n\
             # command = \"mail -s 'mainstay' root\"\n",
            quoted(self.host),
            path(self.state_dir),
            quoted(self.vault),
            path(&self.password_file),
        );
        for found in self.found {
            text.push_str(&service(found));
        }
        if self.found.is_empty() {
            text.push_str(
                "\n# Nothing was found to protect. A tree of files, for example:\n\
                 # [service.docs]\n# engine = \"files\"\n# path = \"/srv/docs\"\n\
                 # schedule = \"0 * * * *\"\n",
            );
        }
        text
    }
}

fn service(found: &Found) -> String {
    let mut text = String::from("\n");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    match &found.what {
        What::Postgres(server) => {
            let version = server.version.as_deref().unwrap_or("of unknown version");
            line(format!("# PostgreSQL {version} on port {}.", server.port));
            line(format!("[service.{}]", found.name));
            line("engine = \"postgres\"".to_owned());
            postgres(server, &mut line);
        }
        What::Sqlite { path: file, size_bytes } => {
            line(format!("# A SQLite database of {}.", units::size(*size_bytes)));
            line(format!("[service.{}]", found.name));
            line("engine = \"sqlite\"".to_owned());
            line(format!("path = {}", path(file)));
            line("# The unit of the program that uses it, for restore and takeover:".to_owned());
            line("# unit = \"NAME.service\"".to_owned());
        }
        What::Files { path: tree } => {
            line(format!("[service.{}]", found.name));
            line("engine = \"files\"".to_owned());
            line(format!("path = {}", path(tree)));
            line("exclude-caches = true".to_owned());
        }
    }
    line("schedule = \"0 * * * *\"".to_owned());
    line("rpo = \"2h\"".to_owned());
    match &found.what {
        What::Postgres(Server { data_dir: None, .. }) => commented_out(&text),
        _ => text,
    }
}

/// A section that somebody must complete first.
fn commented_out(section: &str) -> String {
    let mut text = String::from(
        "\n# Its data directory could not be found. Name it, and take the marks away:\n",
    );
    for line in section.lines().filter(|line| !line.is_empty()) {
        let mark = if line.starts_with('#') { "" } else { "# " };
        text.push_str(&format!("{mark}{line}\n"));
    }
    text
}

fn postgres(server: &Server, line: &mut dyn FnMut(String)) {
    let mut url = String::from("postgres://postgres@/postgres");
    if let Some(dir) = &server.socket_dir {
        let _ = write!(url, "?host={}&port={}", dir.display(), server.port);
    } else {
        let _ = write!(url, "?host=localhost&port={}", server.port);
    }
    line("# Set archive_command as docs/guide/postgres.md says, to reach any instant.".to_owned());
    line(format!("url = {}", quoted(&url)));
    match &server.data_dir {
        Some(dir) => line(format!("data-dir = {}", path(dir))),
        None => line("data-dir = \"/var/lib/postgresql/15/main\"".to_owned()),
    }
    if let Some(version) = &server.version {
        let dir = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
        if dir.is_dir() {
            line(format!("bin-dir = {}", path(&dir)));
        }
    }
    match &server.unit {
        Some(unit) => line(format!("unit = {}", quoted(unit))),
        None => {
            line("# What starts and stops it, for restore and takeover:".to_owned());
            line("# unit = \"postgresql.service\"".to_owned());
        }
    }
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_proposed_is_valid() {
        let server = Server {
            data_dir: Some("/var/lib/postgresql/15/main".into()),
            socket_dir: Some("/run/postgresql".into()),
            port: 5432,
            version: Some("15".into()),
            unit: Some("postgresql@15-main.service".into()),
        };
        let found = [
            Found { name: "shop".into(), what: What::Postgres(server) },
            Found { name: "bare".into(), what: What::Postgres(Server::default()) },
            Found {
                name: "app".into(),
                what: What::Sqlite { path: "/srv/a \"b\"/app.db".into(), size_bytes: 4096 },
            },
            Found { name: "docs".into(), what: What::Files { path: "/srv/docs".into() } },
        ];
        for (found, sections) in [(&found[..], 3), (&[], 0)] {
            let proposal = Proposal {
                host: "db1",
                state_dir: Path::new("/var/lib/mainstay"),
                vault: "/var/backups/mainstay",
                password_file: "/etc/mainstay/vault.password".into(),
                found,
            };
            let text = proposal.text();
            let checked = crate::config::parse(&text, Path::new("proposed")).unwrap();
            assert_eq!(checked.config.service.len(), sections, "{text}");
        }
    }
}
