//! PostgreSQL servers: from Debian's list of clusters, from sockets, and from data directories.
//!
//! A running server writes its socket directory and port into `postmaster.pid` of its data
//! directory (PostgreSQL's `miscadmin.h`: lines 4 and 5).

use super::walk::{Budget, walk};
use super::{Found, Server, What};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Servers that this host runs or has configured.
pub(crate) fn of_this_host() -> Vec<Found> {
    let mut servers = clusters();
    for dir in ["/run/postgresql", "/var/run/postgresql", "/tmp"].map(Path::new) {
        for port in sockets(dir) {
            if !servers.iter().any(|known| known.port == port) {
                let data_dir = ask(dir, port, "SHOW data_directory").map(PathBuf::from);
                let version = ask(dir, port, "SHOW server_version");
                let version = version.map(|v| v.split('.').next().unwrap_or_default().to_owned());
                let socket_dir = Some(dir.to_owned());
                servers.push(Server { data_dir, socket_dir, port, version, unit: None });
            }
        }
    }
    servers.into_iter().map(found).collect()
}

/// Data directories below a directory.
pub(crate) fn below(dir: &Path) -> Vec<Found> {
    let mut servers = Vec::new();
    walk(dir, Budget::default(), &mut |path, metadata| {
        if !metadata.is_dir() {
            return false;
        }
        let Ok(version) = std::fs::read_to_string(path.join("PG_VERSION")) else { return true };
        // The directories of single databases have a PG_VERSION too, but no control file.
        if path.join("global/pg_control").exists() {
            let (socket_dir, port) = running_at(path).unwrap_or((None, 5432));
            let version = Some(version.trim().to_owned());
            let data_dir = Some(path.to_owned());
            servers.push(Server { data_dir, socket_dir, port, version, unit: None });
        }
        false
    });
    servers.into_iter().map(found).collect()
}

fn found(server: Server) -> Found {
    let name = match (&server.unit, &server.version) {
        (Some(unit), _) => {
            let cluster = unit.trim_start_matches("postgresql@").trim_end_matches(".service");
            format!("postgres-{cluster}")
        }
        (None, Some(version)) => format!("postgres-{version}"),
        (None, None) => "postgres".to_owned(),
    };
    Found { name, what: What::Postgres(server) }
}

/// Debian's clusters: `15 main 5432 online postgres /var/lib/postgresql/15/main /var/log/…`.
fn clusters() -> Vec<Server> {
    let Some(list) = output(Command::new("pg_lsclusters").arg("--no-header")) else {
        return Vec::new();
    };
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let (version, name) = (words.next()?, words.next()?);
        let port: u16 = words.next()?.parse().ok()?;
        let data_dir = PathBuf::from(words.nth(2)?);
        let socket_dir = running_at(&data_dir).and_then(|(dir, _)| dir);
        Some(Server {
            socket_dir: socket_dir.or_else(|| Some(PathBuf::from("/run/postgresql"))),
            data_dir: Some(data_dir),
            port,
            version: Some(version.to_owned()),
            unit: Some(format!("postgresql@{version}-{name}.service")),
        })
    };
    list.lines().filter_map(server).collect()
}

/// Where the server of this data directory listens, if it runs.
fn running_at(data_dir: &Path) -> Option<(Option<PathBuf>, u16)> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let mut lines = text.lines().skip(3);
    let port = lines.next()?.trim().parse().ok()?;
    let socket_dir = lines.next().map(str::trim).filter(|dir| dir.starts_with('/'));
    Some((socket_dir.map(PathBuf::from), port))
}

/// The ports of the sockets in a directory: `.s.PGSQL.5432`.
fn sockets(dir: &Path) -> Vec<u16> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut ports: Vec<u16> = entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(".s.PGSQL.")?.parse().ok())
        .collect();
    ports.sort_unstable();
    ports
}

/// What the server answers, if we are let in without being asked for a password.
fn ask(socket_dir: &Path, port: u16, question: &str) -> Option<String> {
    let answer = output(
        Command::new("psql")
            .args(["--no-psqlrc", "--no-password", "-At", "-U", "postgres", "-d", "postgres"])
            .arg("-h")
            .arg(socket_dir)
            .args(["-p", &port.to_string(), "-c", question])
            .env("PGCONNECT_TIMEOUT", "5"),
    )?;
    let answer = answer.trim();
    (!answer.is_empty()).then(|| answer.to_owned())
}

/// What a program prints, if it is there and succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
