//! The result as a part of a page of the documentation.

use super::{Bench, Sample, Set, Tool};
use crate::Failure;
use std::fmt::Write as _;

/// Between these lines of the page stands what was measured last.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// The page with another result in it.
pub(super) fn recorded(page: &str, result: &str) -> Result<String, Failure> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let Some((before, after)) = parts else {
        return Err(Failure::new(format!("docs/performance.md has no lines {BEGIN} and {END}")));
    };
    Ok(format!("{before}{BEGIN}\n{result}{END}{after}"))
}

/// All that was measured.
pub(super) fn markdown(bench: &Bench) -> String {
    let mut page = String::new();
    let cache = if bench.cold {
        "The page cache was dropped before each step."
    } else {
        "The page cache was warm."
    };
    let versions: Vec<_> = bench
        .tools
        .iter()
        .filter(|(tool, _)| !matches!(tool, Tool::Better | Tool::RsyncWhole))
        .map(|(_, version)| version.as_str())
        .collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let rounds = match bench.rounds {
        1 => "Each step was done once.".to_owned(),
        n => format!("Medians of {n} rounds."),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "{}, {} ({processors} processors): {}. {cache} {rounds}",
        jiff::Zoned::now().date(),
        processor(),
        versions.join(", "),
    );
    for (set, about) in &bench.about {
        let _ = write!(page, "\n### {}\n\n{}\n\n", set.name(), capital(about));
        table(bench, *set, &mut page);
        sizes(bench, *set, &mut page);
    }
    page
}

fn table(bench: &Bench, set: Set, page: &mut String) {
    page.push_str("| step | tool | seconds | to mainstay | processor seconds | peak memory |\n");
    page.push_str("|---|---|---:|---:|---:|---:|\n");
    let mut steps: Vec<&str> = Vec::new();
    for sample in bench.samples.iter().filter(|sample| sample.set == set) {
        if !steps.contains(&sample.step) {
            steps.push(sample.step);
        }
    }
    for step in steps {
        let of = |tool: Tool| -> Vec<&Sample> {
            let wanted = |s: &&Sample| (s.set, s.step, s.tool) == (set, step, tool);
            bench.samples.iter().filter(wanted).collect()
        };
        let ours = median(&of(Tool::Mainstay), |s| s.figures.seconds);
        for tool in Tool::ALL {
            let samples = of(tool);
            if samples.is_empty() {
                continue;
            }
            let seconds = median(&samples, |s| s.figures.seconds);
            let cpu = median(&samples, |s| s.figures.cpu_seconds);
            let peak = samples.iter().map(|s| s.figures.peak_bytes).max().unwrap_or(0);
            let _ = writeln!(
                page,
                "| {step} | {} | {seconds:.2} | {:.2} | {cpu:.2} | {} |",
                tool.name(),
                seconds / ours,
                bytes(peak),
            );
        }
    }
}

fn sizes(bench: &Bench, set: Set, page: &mut String) {
    let sizes: Vec<String> = bench
        .repositories
        .iter()
        .filter(|(of, _, _)| *of == set)
        .map(|(_, tool, size)| format!("{} {}", tool.name(), bytes(*size)))
        .collect();
    if !sizes.is_empty() {
        let _ = writeln!(page, "\nRepositories: {}.", sizes.join("; "));
    }
}

fn median(samples: &[&Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(|sample| of(sample)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mebibytes = count as f64 / 1_048_576.0;
    format!("{mebibytes:.0} MiB")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string());
    format!("{}{}.", first.unwrap_or_default(), letters.as_str())
}

fn processor() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "an unnamed processor".to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_replaces_the_last_one_and_nothing_else() {
        let page = format!("# Performance\n{BEGIN}\nold\n{END}\nwhat it means\n");
        let once = recorded(&page, "new\n").unwrap();
        assert_eq!(once, format!("# Performance\n{BEGIN}\nnew\n{END}\nwhat it means\n"));
        assert_eq!(recorded(&once, "new\n").unwrap(), once);
        assert!(recorded("# Performance\n", "new\n").is_err());
    }
}
