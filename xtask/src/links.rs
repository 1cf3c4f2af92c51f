//! Whether the documentation's links to its own pages lead somewhere.

use crate::{Failure, root};
use std::path::{Path, PathBuf};

/// Checks every Markdown page of the workspace.
pub(crate) fn run() -> Result<(), Failure> {
    let mut pages = vec![root().join("docs")];
    for page in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        pages.push(root().join(page));
    }
    let mut dead = Vec::new();
    let mut seen = 0;
    for page in pages.iter().flat_map(|page| markdown(page)) {
        let text = std::fs::read_to_string(&page)
            .map_err(|e| Failure::new(format!("cannot read {}: {e}", page.display())))?;
        seen += 1;
        for link in links(&text) {
            if let Err(why) = follow(&page, &text, link) {
                let page = page.strip_prefix(root()).unwrap_or(&page).display();
                dead.push(format!("{page}: {link}: {why}"));
            }
        }
    }
    if dead.is_empty() {
        println!("{seen} pages, every link of theirs leads somewhere");
        return Ok(());
    }
    Err(Failure::new(dead.join("\n")))
}

fn markdown(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        return entries.flat_map(|entry| markdown(&entry.path())).collect();
    }
    let is_page = path.extension().is_some_and(|extension| extension == "md");
    if is_page { vec![path.to_owned()] } else { Vec::new() }
}

/// What stands in `](…)`, links to other sites aside.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        .collect()
}

fn follow(page: &Path, text: &str, link: &str) -> Result<(), String> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = page.parent().unwrap_or(Path::new("")).join(path);
    if !path.is_empty() && !target.exists() {
        return Err("there is no such file".to_owned());
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let there = match path.is_empty() {
        true => text.to_owned(),
        false => std::fs::read_to_string(&target).map_err(|e| e.to_string())?,
    };
    let headings = there.lines().filter(|line| line.starts_with('#'));
    let found = headings.map(heading_anchor).any(|there| there == anchor);
    if found { Ok(()) } else { Err("there is no such heading".to_owned()) }
}

/// The anchor that forges make of a heading: lower case, spaces as dashes, punctuation dropped.
fn heading_anchor(line: &str) -> String {
    line.trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_this_workspace_lead_somewhere() {
        run().unwrap();
    }

    #[test]
    fn a_dead_link_and_a_dead_anchor_are_noticed() {
        let home = tempfile::tempdir().unwrap();
        let page = home.path().join("page.md");
        let text = "# One thing, said\n[a](other.md#two) [b](#one-thing-said) [c](https://x.y)";
        std::fs::write(home.path().join("other.md"), "## Two\n").unwrap();
        assert_eq!(links(text), ["other.md#two", "#one-thing-said"]);
        for link in links(text) {
            follow(&page, text, link).unwrap();
        }
        for link in ["gone.md", "other.md#three", "#two"] {
            assert!(follow(&page, text, link).is_err(), "{link}");
        }
    }
}
