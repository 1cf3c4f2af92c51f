//! A hundred snapshots of a tree that changes, of which the older half goes.

use super::Set;
use crate::Failure;
use crate::bench::tools::{Job, Tool};
use crate::bench::{Bench, data, must};

const SNAPSHOTS: u64 = 100;

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let source = bench.place.join("source");
    let mut random = data::Random::new();
    data::make(&source, bench.part(512 << 20))?;
    let tools = bench.tools(&[Tool::Mainstay, Tool::Restic, Tool::Rustic]);
    for tool in &tools {
        let home = bench.home(*tool);
        tool.init(Job::plain(&source, &home))?;
    }
    let mut buffer = Vec::new();
    for number in 0..SNAPSHOTS {
        // Some files are new, some are written anew, as in a week of a server.
        for file in 0..20 {
            buffer.clear();
            let bytes = bench.part(random.below(256 << 10));
            random.noise(&mut buffer, bytes);
            data::write(&source.join(format!("new/{}", (number * 7 + file) % 400)), &buffer)?;
        }
        for tool in &tools {
            let home = bench.home(*tool);
            let job = Job::plain(&source, &home);
            must(&mut tool.backup(job, &format!("s{number}")))?;
        }
    }
    for tool in tools {
        let home = bench.home(tool);
        let job = Job::plain(&source, &home);
        bench.step(
            Set::Prune,
            "forget half, and prune",
            tool,
            &mut tool.thin(job, SNAPSHOTS / 2),
        )?;
        bench.repository(Set::Prune, tool, &home)?;
        bench.step(Set::Prune, "check every byte", tool, &mut tool.check(job))?;
    }
    let made = data::count(&source)?;
    bench.about.push((
        Set::Prune,
        format!("{SNAPSHOTS} snapshots of a tree that changes a little: {made} at the end"),
    ));
    Ok(())
}
