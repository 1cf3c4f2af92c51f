//! The result as a part of a page of the documentation.

use super::{Bench, Sample, Set, Tool};
use crate::Failure;
use std::fmt::Write as _;

/// Before this line of the page what was never measured before is put.
const END: &str = "<!-- measured: end -->";

/// What was measured of one set, which takes the place of what was measured of it before.
pub(super) struct Section {
    name: String,
    pub(super) text: String,
}

impl Section {
    /// The lines between which it stands.
    fn borders(&self) -> (String, String) {
        let border = |which: &str| format!("<!-- {}: {which} -->\n", self.name);
        (border("begin"), border("end"))
    }
}

/// The page with another result in it.
pub(super) fn recorded(page: &str, section: &Section) -> Result<String, Failure> {
    let (begin, end) = section.borders();
    let text = &section.text;
    let there = page.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    if let Some((before, after)) = there {
        return Ok(format!("{before}{begin}{text}{end}{after}"));
    }
    let Some((before, after)) = page.split_once(END) else {
        return Err(Failure::new(format!("docs/performance.md has no line {END}")));
    };
    Ok(format!("{before}{begin}{text}{end}\n{END}{after}"))
}

/// All that was measured, set by set.
pub(super) fn sections(bench: &Bench) -> Vec<Section> {
    let sets = bench.about.iter();
    sets.map(|(set, about)| section(bench, *set, about)).collect()
}

fn section(bench: &Bench, set: Set, about: &str) -> Section {
    let mut page = String::new();
    let cold = if bench.cold { ", cold" } else { "" };
    let name = format!("{}{cold}", set.name());
    let _ = write!(page, "### {name}\n\n{}\n\n", capital(about));
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
        1 if set == Set::Refresh => String::new(),
        1 => " Each step was done once.".to_owned(),
        n => format!(" Medians of {n} rounds."),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "{}, {} ({processors} processors): {}. {cache}{rounds}\n",
        jiff::Zoned::now().date(),
        processor(),
        versions.join(", "),
    );
    table(bench, set, &mut page);
    sizes(bench, set, &mut page);
    Section { name, text: page }
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
        let ours = of(Tool::Mainstay);
        let ours = (!ours.is_empty()).then(|| median(&ours, |s| s.figures.seconds));
        for tool in Tool::ROWS {
            let samples = of(tool);
            if samples.is_empty() {
                continue;
            }
            let seconds = median(&samples, |s| s.figures.seconds);
            let cpu = median(&samples, |s| s.figures.cpu_seconds);
            let ratio = ours.map_or_else(String::new, |ours| format!("{:.2}", seconds / ours));
            let peak = samples.iter().map(|s| s.figures.peak_bytes).max().unwrap_or(0);
            let _ = writeln!(
                page,
                "| {step} | {} | {seconds:.2} | {ratio} | {cpu:.2} | {} |",
                tool.name(),
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
    fn a_record_replaces_the_last_one_of_its_set_and_nothing_else() {
        let section = |name: &str, text: &str| Section { name: name.into(), text: text.into() };
        let page = format!("# Performance\n{END}\nwhat it means\n");
        let once = recorded(&page, &section("usr", "old\n")).unwrap();
        let twice = recorded(&once, &section("usr, cold", "cold\n")).unwrap();
        let thrice = recorded(&twice, &section("usr", "new\n")).unwrap();
        assert_eq!(
            thrice,
            format!(
                "# Performance\n<!-- usr: begin -->\nnew\n<!-- usr: end -->\n\n\
                 <!-- usr, cold: begin -->\ncold\n<!-- usr, cold: end -->\n\n\
                 {END}\nwhat it means\n"
            )
        );
        assert!(recorded("# Performance\n", &section("usr", "new\n")).is_err());
    }
}
