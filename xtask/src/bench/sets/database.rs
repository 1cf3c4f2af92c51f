//! The data directory of a PostgreSQL server, stopped, before and after some transactions.

use super::Set;
use crate::bench::tools::{Job, Tool};
use crate::bench::{Bench, data, failed, must};
use crate::{Failure, packages};
use std::path::Path;
use std::process::Command;

/// pgbench's scale: each makes 15 MB.
const SCALE: u64 = 60;
const TRANSACTIONS: u64 = 3000;

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let source = bench.place.join("source");
    std::fs::create_dir_all(&source).map_err(|e| failed("make", &source, &e))?;
    let server = Server { data: &source };
    if server.is_root() {
        must(Command::new("chown").arg("postgres").arg(&source))?;
        // The server's user has to get there.
        for directory in source.ancestors().skip(1).take_while(|d| d.starts_with(crate::root())) {
            must(Command::new("chmod").arg("a+x").arg(directory))?;
        }
    }
    let data = server.data.display().to_string();
    must(&mut server.program("initdb", &["--no-sync", "--auth=trust", "--pgdata", &data])?)?;
    let scale = (bench.part(SCALE * 100) / 100).max(1).to_string();
    server.while_it_runs(&[&["--initialize", "--quiet", "--scale", &scale]])?;
    let made = data::count(&source)?;
    bench.about.push((
        Set::Database,
        format!(
            "the data directory of a PostgreSQL with pgbench's tables, stopped: {made}; between two \
             backups {TRANSACTIONS} transactions are made"
        ),
    ));
    let tools = bench.tools(&Tool::BACKUP);
    for tool in &tools {
        let home = bench.home(*tool);
        tool.init(Job::plain(&source, &home))?;
        bench.step(
            Set::Database,
            "first backup",
            *tool,
            &mut tool.backup(Job::plain(&source, &home), "first"),
        )?;
    }
    let transactions = (TRANSACTIONS / 2).to_string();
    server.while_it_runs(&[&["--client=2", "--transactions", &transactions]])?;
    for tool in &tools {
        let home = bench.home(*tool);
        let mut command = tool.backup(Job::plain(&source, &home), "second");
        bench.step(Set::Database, "after transactions", *tool, &mut command)?;
    }
    for tool in &tools {
        let home = bench.home(*tool);
        let mut command = tool.restore(Job::plain(&source, &home), "second");
        bench.step(Set::Database, "restore", *tool, &mut command)?;
        bench.repository(Set::Database, *tool, &home)?;
    }
    Ok(())
}

struct Server<'a> {
    data: &'a Path,
}

impl Server<'_> {
    fn is_root(&self) -> bool {
        nix::unistd::Uid::effective().is_root()
    }

    /// One of PostgreSQL's programs, as its own user if this is root.
    fn program(&self, name: &str, words: &[&str]) -> Result<Command, Failure> {
        let program = packages::postgres(name)
            .ok_or_else(|| Failure::new(format!("there is no {name} (Debian: postgresql)")))?;
        let mut command = if self.is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(words).current_dir("/");
        Ok(command)
    }

    /// Starts it, lets pgbench do these, and stops it.
    fn while_it_runs(&self, jobs: &[&[&str]]) -> Result<(), Failure> {
        let data = self.data.display().to_string();
        let log = self.data.join("server.log").display().to_string();
        // A socket's path must be short; there is no other way in.
        let sockets = tempfile::tempdir()
            .map_err(|e| Failure::new(format!("cannot make a directory: {e}")))?;
        if self.is_root() {
            must(Command::new("chown").arg("postgres").arg(sockets.path()))?;
        }
        let at = sockets.path().display().to_string();
        let options = format!("-c listen_addresses= -c fsync=off -k {at}");
        let start =
            ["start", "--wait", "--silent", "--pgdata", &data, "--log", &log, "-o", &options];
        must(&mut self.program("pg_ctl", &start)?)?;
        let mut done = Ok(());
        for job in jobs {
            let words = [&["--host", at.as_str()], *job, &["postgres"]].concat();
            done = done.and_then(|()| must(&mut self.program("pgbench", &words)?));
        }
        let stop = ["stop", "--wait", "--silent", "--mode=fast", "--pgdata", &data];
        must(&mut self.program("pg_ctl", &stop)?)?;
        done
    }
}
