//! `cargo xtask bench`: Mainstay beside restic, borg and rustic, same machine, same data, same minute.
//!
//! Figures of different runs do not compare: machines are shared and caches differ. So every tool
//! does every step in every round, in turn, and a run prints ratios beside seconds.

mod data;
pub(crate) mod measure;
mod report;
mod sets;
mod spread;
mod tools;

use crate::{Failure, cargo, root};
use measure::Figures;
use sets::Set;
use std::path::{Path, PathBuf};
use std::process::Command;
use tools::Tool;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is measured [default: all]
    #[arg(value_enum)]
    sets: Vec<Set>,
    /// How often everything is done; the medians are shown
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Make the data this many per cent of its full size
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    percent: u64,
    /// Drop the page cache before each step (needs root)
    #[arg(long)]
    cold: bool,
    /// Beside rustic, too, which cargo builds first (a quarter of an hour)
    #[arg(long)]
    rustic: bool,
    /// Keep the result in docs/performance.md
    #[arg(long)]
    record: bool,
    /// Where data and repositories are made, and removed again
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
}

/// One measurement.
struct Sample {
    set: Set,
    step: &'static str,
    tool: Tool,
    figures: Figures,
}

/// A run: what it works with, and what it found.
struct Bench {
    place: PathBuf,
    rounds: usize,
    percent: u64,
    cold: bool,
    tools: Vec<(Tool, String)>,
    samples: Vec<Sample>,
    /// What the data of a set is.
    about: Vec<(Set, String)>,
    /// Bytes of repositories when a set was through.
    repositories: Vec<(Set, Tool, u64)>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    println!("building the release binary");
    let built = cargo()
        .args(["build", "--locked", "--release", "--package", "mainstay", "--quiet"])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return Err(Failure::new("the release build failed"));
    }
    if args.rustic {
        tools::build_rustic()?;
    }
    let directory = root().join(&args.directory);
    std::fs::create_dir_all(&directory).map_err(|e| failed("make", &directory, &e))?;
    // Removed when it goes out of scope, whichever way.
    let place = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&directory)
        .map_err(|e| failed("make a directory in", &directory, &e))?;
    let mut bench = Bench {
        place: place.path().to_owned(),
        rounds: args.rounds.max(1),
        percent: args.percent,
        cold: args.cold,
        tools: tools::present()?,
        samples: Vec::new(),
        about: Vec::new(),
        repositories: Vec::new(),
    };
    let sets = if args.sets.is_empty() { Set::ALL.to_vec() } else { args.sets.clone() };
    for set in sets {
        println!("{}", set.name());
        set.run(&mut bench)?;
    }
    place.close().map_err(|e| failed("clean up", &directory, &e))?;
    let sections = report::sections(&bench);
    for section in &sections {
        println!("\n{}", section.text);
    }
    if args.record {
        let file = root().join("docs/performance.md");
        let mut page = std::fs::read_to_string(&file).map_err(|e| failed("read", &file, &e))?;
        for section in &sections {
            page = report::recorded(&page, section)?;
        }
        std::fs::write(&file, page).map_err(|e| failed("write", &file, &e))?;
    }
    Ok(())
}

impl Bench {
    /// The tools among these that are here.
    fn tools(&self, wanted: &[Tool]) -> Vec<Tool> {
        self.tools.iter().map(|(tool, _)| *tool).filter(|tool| wanted.contains(tool)).collect()
    }

    /// Runs and measures one step of one tool.
    fn step(
        &mut self,
        set: Set,
        step: &'static str,
        tool: Tool,
        command: &mut Command,
    ) -> Result<Figures, Failure> {
        if self.cold {
            drop_caches()?;
        }
        let figures = measure::run(command, &self.place)?;
        println!("  {:17} {step:27} {:7.2} s", tool.name(), figures.seconds);
        self.samples.push(Sample { set, step, tool, figures });
        Ok(figures)
    }

    /// Notes how large a repository has become.
    fn repository(&mut self, set: Set, tool: Tool, home: &Path) -> Result<(), Failure> {
        let bytes = data::bytes_below(&tool.repository(home))?;
        self.repositories.retain(|(s, t, _)| (*s, *t) != (set, tool));
        self.repositories.push((set, tool, bytes));
        Ok(())
    }

    /// A part of the full size.
    fn part(&self, full: u64) -> u64 {
        (full / 100).max(1) * self.percent
    }

    /// Where a tool keeps all that it has.
    fn home(&self, tool: Tool) -> PathBuf {
        self.place.join("homes").join(tool.name().replace([' ', ',', '='], "-"))
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        remove(&self.place.join(name))
    }
}

/// Removes a tree, if it is there.
fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path, &e)),
        _ => Ok(()),
    }
}

fn drop_caches() -> Result<(), Failure> {
    let file = Path::new("/proc/sys/vm/drop_caches");
    // What is dirty is not dropped, so it is written out first.
    must(&mut Command::new("sync"))?;
    std::fs::write(file, "3").map_err(|e| failed("write", file, &e))
}

/// Runs a command that only prepares something.
fn must(command: &mut Command) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|e| Failure::new(format!("cannot start {program}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::new(format!("{program} failed: {said}")))
}

fn failed(what: &str, path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {e}", path.display()))
}
