//! One repository that restic made and that every tool for its format works on in turn: what each
//! wrote, the others read, restore and check.

use super::Set;
use crate::Failure;
use crate::bench::tools::{Job, Tool};
use crate::bench::{Bench, data, must, remove};
use std::process::Command;

/// Those that know the format.
const TOOLS: [Tool; 3] = [Tool::Mainstay, Tool::Restic, Tool::Rustic];

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let source = bench.place.join("source");
    must(Command::new("cp").args(["-a", "--one-file-system", "/usr/lib"]).arg(&source))?;
    let made = data::count(&source)?;
    let about = format!("a repository that restic made, for all three; a copy of /usr/lib: {made}");
    bench.about.push((Set::Shared, about));
    let tools = bench.tools(&TOOLS);
    if !tools.contains(&Tool::Restic) {
        println!("  no restic here");
        return Ok(());
    }
    for round in 0..bench.rounds {
        let home = bench.home(Tool::Mainstay);
        let job = Job::plain(&source, &home);
        Tool::Restic.found(job)?;
        let first = [Tool::Restic, Tool::Mainstay, Tool::Rustic];
        for tool in first.into_iter().filter(|tool| tools.contains(tool)) {
            if tool == Tool::Mainstay {
                // It finds the repository where its own would be, and adopts it.
                tool.init(job)?;
            }
            let step = if tool == Tool::Restic { "first backup" } else { "the same by another" };
            bench.step(Set::Shared, step, tool, &mut tool.backup_into_ours(job))?;
        }
        for tool in &tools {
            let mut again = tool.backup_into_ours(job);
            bench.step(Set::Shared, "again, unchanged", *tool, &mut again)?;
        }
        for tool in &tools {
            bench.step(Set::Shared, "restore", *tool, &mut tool.restore_of_ours(job))?;
            if round == 0 {
                data::same(&source, &tool.restored(job))
                    .map_err(|what| Failure::new(format!("{} restored {what}", tool.name())))?;
            }
            remove(&home.join("out"))?;
        }
        for tool in &tools {
            bench.step(Set::Shared, "check every byte", *tool, &mut tool.check_ours(job))?;
        }
        bench.repository(Set::Shared, Tool::Mainstay, &home)?;
        bench.remove("homes")?;
    }
    Ok(())
}
