//! A repository of ten million chunks: what its index costs whoever opens it. Mainstay and restic
//! work on the same one, which Mainstay made, with an index of chunks that nobody has stored.

use super::Set;
use crate::bench::tools::{Job, Tool};
use crate::bench::{Bench, data, must};
use crate::{Failure, cargo};
use std::path::Path;

const CHUNKS: u64 = 10_000_000;

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let tools = bench.tools(&[Tool::Mainstay, Tool::Restic]);
    let source = bench.place.join("source");
    let made = data::make(&source, 32 << 20)?;
    let home = bench.home(Tool::Mainstay);
    let job = Job::plain(&source, &home);
    Tool::Mainstay.init(job)?;
    must(&mut Tool::Mainstay.backup(job, "first"))?;
    let chunks = bench.part(CHUNKS);
    fill(&Tool::Mainstay.repository(&home), &home.join("password"), chunks)?;
    for _ in 0..bench.rounds {
        for tool in &tools {
            bench.step(Set::Chunks, "open", *tool, &mut tool.open(job))?;
        }
        for tool in &tools {
            // What is new is new for both.
            let new = format!("the new file of {} at {}", tool.name(), jiff::Timestamp::now());
            data::write(&source.join("new"), new.as_bytes())?;
            let mut backup = tool.backup_into_ours(job);
            bench.step(Set::Chunks, "backup of a small tree", *tool, &mut backup)?;
        }
    }
    bench.about.push((
        Set::Chunks,
        format!(
            "a repository whose index has {chunks} chunks more than are there; a tree of {made}"
        ),
    ));
    Ok(())
}

/// By an example of the crate that knows the format, of which this program knows nothing.
fn fill(repository: &Path, password: &Path, chunks: u64) -> Result<(), Failure> {
    must(
        cargo()
            .args(["run", "--locked", "--release", "--quiet", "--package", "mainstay-repository"])
            .args(["--example", "many_chunks", "--"])
            .args([repository, password])
            .arg(chunks.to_string()),
    )
}
