//! `cargo xtask bench`: Mainstay beside restic and borg, same machine, same tree, same minute.
//!
//! Figures of different runs do not compare: machines are shared and caches differ. So every tool
//! does every step in every round, in turn, and a run prints ratios beside seconds.

pub(crate) mod measure;
mod report;
mod tools;
mod tree;

use crate::{Failure, cargo, packages, root};
use measure::Figures;
use std::path::Path;
use tools::{Step, Tool};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Size of the tree, in MiB
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
    /// How often everything is done; the medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Drop the page cache before each step (needs root)
    #[arg(long)]
    cold: bool,
    /// Write the result to docs/performance.md
    #[arg(long)]
    record: bool,
    /// Where the tree and the repositories are made, and removed again
    #[arg(long, default_value = "target/bench")]
    directory: std::path::PathBuf,
}

/// One measurement: which tool, which step, which round's figures.
pub(crate) struct Sample {
    tool: &'static str,
    step: Step,
    figures: Figures,
}

/// What one run found.
pub(crate) struct Results {
    tree: tree::Made,
    rounds: usize,
    cold: bool,
    tools: Vec<(&'static str, String)>,
    samples: Vec<Sample>,
    /// Bytes of the repository after the two backups.
    repositories: Vec<(&'static str, u64)>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    println!("building the release binary");
    let built = cargo()
        .args(["build", "--locked", "--release", "--package", "mainstay", "--quiet"])
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return Err(Failure::new("the release build failed"));
    }
    let directory = root().join(&args.directory);
    std::fs::create_dir_all(&directory).map_err(|e| failed("make", &directory, &e))?;
    // Removed when it goes out of scope, whichever way.
    let place = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(&directory)
        .map_err(|e| failed("make a directory in", &directory, &e))?;
    let source = place.path().join("tree");
    println!("making a tree of {} MiB", args.mebibytes);
    let made = tree::make(&source, args.mebibytes << 20)?;
    let tools = present();
    let mut results = Results {
        tree: made,
        rounds: args.rounds.max(1),
        cold: args.cold,
        tools: Vec::new(),
        samples: Vec::new(),
        repositories: Vec::new(),
    };
    for tool in &tools {
        results.tools.push((tool.name(), tool.version()?));
    }
    for round in 0..results.rounds {
        println!("round {} of {}", round + 1, results.rounds);
        one_round(&tools, &source, place.path(), &mut results)?;
    }
    place.close().map_err(|e| failed("clean up", &directory, &e))?;
    let text = report::markdown(&results);
    println!("\n{text}");
    if args.record {
        let file = root().join("docs/performance.md");
        std::fs::write(&file, &text).map_err(|e| failed("write", &file, &e))?;
    }
    Ok(())
}

/// Mainstay always, the others if they are installed.
fn present() -> Vec<Tool> {
    Tool::ALL
        .into_iter()
        .filter(|tool| *tool == Tool::Mainstay || packages::find(tool.name(), &[]).is_some())
        .collect()
}

fn one_round(
    tools: &[Tool],
    source: &Path,
    place: &Path,
    results: &mut Results,
) -> Result<(), Failure> {
    let homes = place.join("round");
    for tool in tools {
        tool.init(source, &homes.join(tool.name()))?;
    }
    for step in Step::ALL {
        for tool in tools {
            let home = homes.join(tool.name());
            if results.cold {
                drop_caches()?;
            }
            let figures = measure::run(&mut tool.command(step, source, &home), &home)?;
            println!("  {:9} {:17} {:6.2} s", tool.name(), step.name(), figures.seconds);
            results.samples.push(Sample { tool: tool.name(), step, figures });
            if step == Step::Restore {
                let restored = tool.restored(source, &home);
                tree::same(source, &restored)
                    .map_err(|what| Failure::new(format!("{} restored {what}", tool.name())))?;
                let out = home.join("out");
                std::fs::remove_dir_all(&out).map_err(|e| failed("remove", &out, &e))?;
            }
        }
    }
    for tool in tools {
        let bytes = tree::bytes_below(&tool.repository(&homes.join(tool.name())))?;
        results.repositories.retain(|(name, _)| *name != tool.name());
        results.repositories.push((tool.name(), bytes));
    }
    std::fs::remove_dir_all(&homes).map_err(|e| failed("remove", &homes, &e))
}

fn drop_caches() -> Result<(), Failure> {
    let file = Path::new("/proc/sys/vm/drop_caches");
    // What is dirty is not dropped, so it is written out first.
    let synced = std::process::Command::new("sync").status();
    if !synced.is_ok_and(|status| status.success()) {
        return Err(Failure::new("sync failed"));
    }
    std::fs::write(file, "3").map_err(|e| failed("write", file, &e))
}

fn failed(what: &str, path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {e}", path.display()))
}
