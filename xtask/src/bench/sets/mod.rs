//! What is measured: one file for each kind of data.

mod chunks;
mod database;
mod image;
mod noise;
mod postgres;
mod prune;
mod refresh;
mod shared;
mod tiny;
mod usr;

use super::tools::{Job, Tool};
use super::{Bench, data, remove};
use crate::Failure;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Set {
    /// A copy of /usr
    Usr,
    /// A disk image of 4 GB with an ext4 in it, of which 1 % changes
    Image,
    /// The data directory of a PostgreSQL with pgbench's tables
    Database,
    /// A PostgreSQL that runs, beside pgBackRest; what its log costs, and a takeover
    Postgres,
    /// Bytes that no compressor can shorten
    Noise,
    /// A million tiny files
    Tiny,
    /// A hundred snapshots, of which half go
    Prune,
    /// A repository that restic made and every tool works on
    Shared,
    /// A repository of ten million chunks
    Chunks,
    /// A standby of 4 GB on XFS, of which 1 % changes (needs root)
    Refresh,
}

impl Set {
    pub(super) const ALL: [Set; 10] = [
        Set::Usr,
        Set::Image,
        Set::Database,
        Set::Postgres,
        Set::Noise,
        Set::Tiny,
        Set::Prune,
        Set::Shared,
        Set::Chunks,
        Set::Refresh,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Set::Usr => "usr",
            Set::Image => "image",
            Set::Database => "database",
            Set::Postgres => "postgres",
            Set::Noise => "noise",
            Set::Tiny => "tiny",
            Set::Prune => "prune",
            Set::Shared => "shared",
            Set::Chunks => "chunks",
            Set::Refresh => "refresh",
        }
    }

    pub(super) fn run(self, bench: &mut Bench) -> Result<(), Failure> {
        let done = match self {
            Set::Usr => usr::run(bench),
            Set::Image => image::run(bench),
            Set::Database => database::run(bench),
            Set::Postgres => postgres::run(bench),
            Set::Noise => noise::run(bench),
            Set::Tiny => tiny::run(bench),
            Set::Prune => prune::run(bench),
            Set::Shared => shared::run(bench),
            Set::Chunks => chunks::run(bench),
            Set::Refresh => refresh::run(bench),
        };
        bench.remove("homes")?;
        bench.remove("source")?;
        done
    }
}

/// Restores, and compares what came out with the source if that is wanted.
fn restore(
    bench: &mut Bench,
    set: Set,
    tool: Tool,
    job: Job<'_>,
    look: bool,
) -> Result<(), Failure> {
    bench.step(set, "restore", tool, &mut tool.restore(job, "first"))?;
    if look {
        data::same(job.source, &tool.restored(job))
            .map_err(|what| Failure::new(format!("{} restored {what}", tool.name())))?;
    }
    remove(&job.home.join("out"))
}

/// Backs up, again, restores and checks, with every tool in turn.
fn all_steps(bench: &mut Bench, set: Set, source: &Path, tools: &[Tool]) -> Result<(), Failure> {
    for round in 0..bench.rounds {
        let tools = bench.tools(tools);
        for tool in &tools {
            let home = bench.home(*tool);
            let job = Job::plain(source, &home);
            tool.init(job)?;
            if *tool != Tool::Copy {
                bench.step(set, "first backup", *tool, &mut tool.backup(job, "first"))?;
            }
        }
        for tool in tools.iter().filter(|tool| Tool::BACKUP.contains(tool)) {
            let home = bench.home(*tool);
            let job = Job::plain(source, &home);
            bench.step(set, "again, unchanged", *tool, &mut tool.backup(job, "second"))?;
        }
        for tool in &tools {
            let home = bench.home(*tool);
            let job = Job::plain(source, &home);
            restore(bench, set, *tool, job, round == 0)?;
        }
        for tool in tools.iter().filter(|tool| Tool::BACKUP.contains(tool)) {
            let home = bench.home(*tool);
            let job = Job::plain(source, &home);
            bench.step(set, "check every byte", *tool, &mut tool.check(job))?;
        }
        for tool in tools.iter().filter(|tool| **tool != Tool::Copy) {
            bench.repository(set, *tool, &bench.home(*tool))?;
        }
        bench.remove("homes")?;
    }
    Ok(())
}
