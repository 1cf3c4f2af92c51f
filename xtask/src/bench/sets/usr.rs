//! A copy of `/usr`: many files of all kinds and sizes, as on every server.

use super::{Set, all_steps};
use crate::Failure;
use crate::bench::tools::Tool;
use crate::bench::{Bench, data, must};
use std::process::Command;

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let source = bench.place.join("source");
    must(Command::new("cp").args(["-a", "--one-file-system", "/usr"]).arg(&source))?;
    let made = data::count(&source)?;
    bench.about.push((Set::Usr, format!("a copy of /usr: {made}")));
    all_steps(bench, Set::Usr, &source, &Tool::TREE)
}
