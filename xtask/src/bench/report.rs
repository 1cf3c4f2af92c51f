//! The result as a page of the documentation.

use super::{Results, Sample, Step};
use std::fmt::Write as _;

/// The whole page.
pub(super) fn markdown(results: &Results) -> String {
    let mut page = String::new();
    let cache = if results.cold {
        "The page cache was dropped before each step."
    } else {
        "The page cache was warm."
    };
    let versions: Vec<_> = results.tools.iter().map(|(_, version)| version.as_str()).collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "# Performance\n\n\
         Measured by `cargo xtask bench`, {}, on {} ({processors} processors): {} in one run, in \
         turn, over the same tree of {} files and {} with local repositories. {cache} Medians of \
         {} rounds. Figures of different runs or machines do not compare; ratios of one run do.\n\n",
        jiff::Zoned::now().date(),
        processor(),
        versions.join(", "),
        results.tree.files,
        bytes(results.tree.bytes),
        results.rounds,
    );
    page.push_str("| step | tool | seconds | to mainstay | processor seconds | peak memory |\n");
    page.push_str("|---|---|---:|---:|---:|---:|\n");
    for step in Step::ALL {
        let ours = median(results, "mainstay", step, |s| s.figures.seconds);
        for (tool, _) in &results.tools {
            let seconds = median(results, tool, step, |s| s.figures.seconds);
            let cpu = median(results, tool, step, |s| s.figures.cpu_seconds);
            let peak = results
                .samples
                .iter()
                .filter(|s| s.tool == *tool && s.step == step)
                .map(|s| s.figures.peak_bytes)
                .max()
                .unwrap_or(0);
            let _ = writeln!(
                page,
                "| {} | {tool} | {seconds:.2} | {:.2} | {cpu:.2} | {} |",
                step.name(),
                seconds / ours,
                bytes(peak),
            );
        }
    }
    page.push_str("\n| repository | size |\n|---|---:|\n");
    for (tool, size) in &results.repositories {
        let _ = writeln!(page, "| {tool} | {} |", bytes(*size));
    }
    page.push_str(
        "\nEvery restore was compared with the tree, byte by byte. The tree is generated, the same \
         on every machine: half of it small files, a quarter of them incompressible; half of it \
         large files, two of which share content that is shifted by a byte; one sparse file. borg \
         is told to use zstd at level 3, restic and mainstay use their defaults.\n",
    );
    page
}

fn median(results: &Results, tool: &str, step: Step, of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> =
        results.samples.iter().filter(|s| s.tool == tool && s.step == step).map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mebibytes = count as f64 / 1_048_576.0;
    format!("{mebibytes:.0} MiB")
}

fn processor() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "an unnamed processor".to_owned(), |(_, name)| name.trim().to_owned())
}
