//! The README and the guides show commands and configurations that the program takes.

use crate::rig::{Rig, mainstay, run};
use std::path::{Path, PathBuf};

/// The README and every guide.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guides = std::fs::read_dir(root.join("docs/guide")).expect("guides");
    let mut pages: Vec<_> = guides.map(|entry| entry.expect("an entry").path()).collect();
    pages.push(root.join("README.md"));
    pages.sort();
    pages
}

/// Fenced blocks: the word after the opening fence, and the lines.
pub(crate) fn fences(page: &Path) -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(page).expect("a page");
    let mut fences = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let block = lines.by_ref().take_while(|line| *line != "```").map(str::to_owned);
            fences.push((kind.to_owned(), block.collect()));
        }
    }
    fences
}

#[test]
fn every_command_that_is_shown_is_there_with_its_options() {
    let mut shown = 0;
    for page in pages() {
        let blocks = fences(&page).into_iter().filter(|(kind, _)| kind.is_empty());
        for line in blocks.flat_map(|(_, lines)| lines) {
            let Some(command) = line.strip_prefix("mainstay ") else { continue };
            let command = command.split(" # ").next().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().collect();
            // Two words name the command where the first one is a group: `wal push`.
            let group = run(mainstay().args([words[0], "--help"])).code(0);
            let depth = if group.out.contains("<COMMAND>") { 2 } else { 1 };
            let help = run(mainstay().args(&words[..depth]).arg("--help")).code(0).out;
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let name = option.split('=').next().unwrap_or(option);
                assert!(help.contains(name), "{}: `{line}`: no {name}", page.display());
            }
            shown += 1;
        }
    }
    assert!(shown > 20, "only {shown} commands were found");
}

#[test]
fn every_configuration_that_is_shown_is_valid() {
    let mut shown = 0;
    for page in pages() {
        for (_, lines) in fences(&page).into_iter().filter(|(kind, _)| kind == "toml") {
            let mut text = lines.join("\n");
            if !text.contains("[host]") {
                // A fragment: a service without the rest, or less than a service.
                let whole = lines
                    .iter()
                    .any(|line| line.starts_with("[service.") && !line.contains(".hooks]"));
                if !whole {
                    let head = "[service.shop]\nengine = \"files\"\npath = \"/srv/shop\"";
                    text = format!("{head}\n{text}");
                }
                if !lines.iter().any(|line| line == "[vault]") {
                    let vault = "[vault]\nurl = \"/srv/vault\"\npassword-file = \"/etc/password\"";
                    text = format!("{vault}\n{text}");
                }
                text = format!("[host]\nname = \"a\"\nstate-dir = \"/var/lib/mainstay\"\n{text}");
            }
            let rig = Rig::new();
            rig.write("mainstay.toml", &text);
            let said = rig.run(&["config", "check"]);
            assert_eq!(said.code, 0, "{}:\n{text}\n{said:#?}", page.display());
            shown += 1;
        }
    }
    assert!(shown >= 5, "only {shown} configurations were found");
}
