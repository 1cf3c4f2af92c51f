//! The documentation says what the program does.

use crate::command_line::commands;
use crate::rig::{mainstay, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(docs(name)).expect("a document")
}

/// The first words in backticks of the table rows below a heading, up to the next heading.
fn documented(text: &str, heading: &str) -> BTreeSet<String> {
    let mut section = text.lines().skip_while(|line| *line != heading).skip(1).peekable();
    assert!(section.peek().is_some(), "no heading {heading}");
    section
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect()
}

#[test]
fn every_configuration_key_is_documented_and_no_other() {
    let text = read("configuration.md");
    let schema = run(mainstay().args(["config", "schema"])).code(0).json();
    for (definition, heading) in [
        ("Host", "## [host]"),
        ("Vault", "## [vault]"),
        ("Bucket", "### [vault.s3]"),
        ("SecondVault", "## [copy.NAME]"),
        ("Alerts", "## [alerts]"),
        ("Service", "## [service.NAME]"),
        ("Keep", "### keep"),
        ("Hooks", "### [service.NAME.hooks]"),
    ] {
        let known = schema["$defs"][definition]["properties"]
            .as_object()
            .map(|known| known.keys().cloned().collect::<BTreeSet<String>>());
        assert_eq!(known, Some(documented(&text, heading)), "{heading}");
    }
    let top = schema["properties"].as_object().map(serde_json::Map::len);
    assert_eq!(top, Some(5), "a new section needs a heading here");
}

#[test]
fn the_example_configuration_is_valid() {
    let mut command = mainstay();
    command.args(["--json", "config", "check", "--config"]).arg(docs("example.toml"));
    let said = run(&mut command).code(0);
    let json = said.json();
    assert_eq!(json["warnings"], Value::Array(Vec::new()), "{json}");
    assert_eq!(json["services"].as_array().map(Vec::len), Some(4), "{json}");
}

#[test]
fn every_command_is_documented() {
    let text = read("commands.md");
    for command in commands() {
        let row = text.lines().any(|line| {
            let named = line.strip_prefix("| ").is_some_and(|row| {
                let words = row.split(" | ").next().unwrap_or_default();
                words.split('`').any(|part| part.split(' ').next() == Some(command.as_str()))
            });
            named && line.ends_with(" |")
        });
        assert!(row, "docs/commands.md does not mention {command}");
    }
}
