//! `cargo xtask deps`: the rules about who may know whom, read off `cargo metadata`.
//!
//! The tables below are the rules, all of them. An edge that is missing here is refused by its
//! name, so that a new one is a decision somebody makes and not something that happened.

use crate::{Failure, cargo, licences, root};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Every crate of the workspace and the siblings that it may know. Tests included.
const DIRECTIONS: &[(&str, &[&str])] = &[
    // Nouns and pure rules.
    ("mainstay-model", &[]),
    // Decides and never acts.
    ("mainstay-takeover", &["mainstay-model"]),
    ("mainstay-storage", &["mainstay-model"]),
    // Engines know no repository and the repository no engine: operations pipes one into the
    // other.
    ("mainstay-engines", &["mainstay-model"]),
    ("mainstay-repository", &["mainstay-model", "mainstay-storage"]),
    ("mainstay-coordination", &["mainstay-model", "mainstay-storage"]),
    // Executes plans, so it must not know who decides them.
    (
        "mainstay-operations",
        &[
            "mainstay-model",
            "mainstay-storage",
            "mainstay-repository",
            "mainstay-engines",
            "mainstay-coordination",
        ],
    ),
    // The binary connects decisions to actions.
    (
        "mainstay",
        &[
            "mainstay-model",
            "mainstay-storage",
            "mainstay-repository",
            "mainstay-engines",
            "mainstay-coordination",
            "mainstay-operations",
            "mainstay-takeover",
        ],
    ),
    ("xtask", &[]),
];

/// Dependencies that only the crates named may have directly, tests aside.
const RESERVED: &[(&str, &[&str], &str)] = &[
    ("aes", &["mainstay-repository"], "one place encrypts"),
    ("ctr", &["mainstay-repository"], "one place encrypts"),
    ("poly1305", &["mainstay-repository"], "one place encrypts"),
    ("scrypt", &["mainstay-repository"], "one place derives keys"),
    ("zstd", &["mainstay-repository"], "one place knows the format"),
    // The binary for its demo, whose shop is a client like any other.
    ("postgres", &["mainstay-engines", "mainstay"], "an engine's client stays in the engine"),
    ("rusqlite", &["mainstay-engines", "mainstay"], "an engine's client stays in the engine"),
    // To people who are told, and to buckets.
    ("ureq", &["mainstay-operations", "mainstay-storage"], "one place speaks HTTP"),
    ("object_store", &["mainstay-storage"], "one place knows storages"),
    ("quick-xml", &["mainstay-storage"], "one place knows storages"),
    ("clap", &["mainstay", "xtask"], "libraries take no command lines"),
    ("comfy-table", &["mainstay"], "libraries never print"),
    ("indicatif", &["mainstay"], "libraries never print"),
    ("signal-hook", &["mainstay"], "one place handles signals"),
    ("rustls", &["mainstay-storage"], "one place speaks TLS"),
    ("fuser", &["mainstay"], "what is shown is decided without a kernel"),
    ("hyper", &["mainstay-storage"], "one place serves and reaches vaults"),
    // Where many connections wait for each other's networks, and nowhere else.
    ("tokio", &["mainstay-storage"], "callers wait in threads of their own"),
];

/// Crates of which at most one may be anywhere in the tree, with the reason.
const AT_MOST_ONE: &[(&[&str], &str)] =
    &[(&["ring", "aws-lc-rs", "openssl"], "two crypto providers are two sets of flaws")];

/// Crates that may write to the terminal.
const MAY_PRINT: &[&str] = &["mainstay", "xtask"];

/// Checks the workspace that this was built from.
pub(crate) fn run() -> Result<(), Failure> {
    let metadata = Metadata::read()?;
    let mut broken = metadata.broken_rules();
    broken.extend(lints_switched_off(&metadata)?);
    if broken.is_empty() {
        println!("{} packages keep the rules", metadata.packages.len());
        return Ok(());
    }
    Err(Failure::new(broken.join("\n")))
}

/// What of `cargo metadata` matters here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: std::path::PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or none for a normal one.
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

/// A package that is really built here, features and platform considered.
#[derive(Debug, Deserialize)]
struct Node {
    id: String,
}

impl Metadata {
    fn read() -> Result<Metadata, Failure> {
        let output = cargo()
            .args(["metadata", "--locked", "--format-version=1", "--filter-platform", &host()?])
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|e| Failure::new(format!("cannot start cargo metadata: {e}")))?;
        if !output.status.success() {
            return Err(Failure::new("cargo metadata failed"));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|e| Failure::new(format!("cannot read what cargo metadata says: {e}")))
    }

    /// One sentence for every rule that is broken.
    fn broken_rules(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let members: BTreeMap<&str, &Package> = self
            .packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
            .map(|package| (package.name.as_str(), package))
            .collect();
        let allowed: BTreeMap<&str, &[&str]> = DIRECTIONS.iter().copied().collect();
        for (name, package) in &members {
            let Some(allowed) = allowed.get(name) else {
                broken
                    .push(format!("{name} is not in the table of directions in xtask/src/deps.rs"));
                continue;
            };
            for dependency in &package.dependencies {
                let to = dependency.name.as_str();
                // A crate that names itself switches on a feature of its own for its tests.
                if members.contains_key(to) && to != *name && !allowed.contains(&to) {
                    broken.push(format!("{name} -> {to}: {name} must not know {to}"));
                }
                // A test may drive a server with the server's client.
                let in_tests = dependency.kind.as_deref() == Some("dev");
                for (reserved, by, why) in RESERVED {
                    if *reserved == to && !in_tests && !by.contains(name) {
                        broken.push(format!("{name} -> {to}: {why}"));
                    }
                }
            }
        }
        let built: BTreeSet<&str> =
            self.resolve.nodes.iter().map(|node| node.id.as_str()).collect();
        let built: Vec<&Package> =
            self.packages.iter().filter(|p| built.contains(p.id.as_str())).collect();
        for (names, why) in AT_MOST_ONE {
            let there: BTreeSet<&str> =
                built.iter().map(|p| p.name.as_str()).filter(|n| names.contains(n)).collect();
            if there.len() > 1 {
                let there = there.into_iter().collect::<Vec<_>>().join(" and ");
                broken.push(format!("{there} are both in the tree: {why}"));
            }
        }
        for package in built {
            let Package { name, version, license, .. } = package;
            match license {
                None => broken.push(format!("{name} {version} names no licence")),
                Some(expression) => {
                    if let Err(why) = licences::judge(expression) {
                        broken.push(format!("{name} {version} is under {expression:?}: {why}"));
                    }
                }
            }
        }
        broken
    }
}

/// The lints that forbid `print!` and its like hold in every crate, and no library allows itself
/// an exception.
fn lints_switched_off(metadata: &Metadata) -> Result<Vec<String>, Failure> {
    let mut broken = Vec::new();
    for package in metadata.packages.iter().filter(|p| metadata.workspace_members.contains(&p.id)) {
        let name = &package.name;
        let manifest = read(&package.manifest_path)?;
        let manifest: toml::Table = manifest
            .parse()
            .map_err(|e| Failure::new(format!("{}: {e}", package.manifest_path.display())))?;
        let inherits = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            broken.push(format!("{name} does not inherit the workspace's lints"));
        }
        if MAY_PRINT.contains(&name.as_str()) {
            continue;
        }
        let source = package.manifest_path.with_file_name("src");
        for file in rust_files(&source)? {
            if read(&file)?.contains("clippy::print_std") {
                let file = file.strip_prefix(root()).unwrap_or(&file).display();
                broken.push(format!("{file}: a library must not allow itself to print"));
            }
        }
    }
    Ok(broken)
}

fn rust_files(directory: &std::path::Path) -> Result<Vec<std::path::PathBuf>, Failure> {
    let failed = |e| Failure::new(format!("cannot list {}: {e}", directory.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(file: &std::path::Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", file.display())))
}

/// The platform that this machine builds for. Packages for others are not looked at (nor fetched).
fn host() -> Result<String, Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc)
        .arg("-vV")
        .output()
        .map_err(|e| Failure::new(format!("cannot start rustc: {e}")))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .ok_or_else(|| Failure::new("rustc -vV does not name its host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(packages: &[(&str, &str, &[&str])]) -> Metadata {
        let packages: Vec<Package> = packages
            .iter()
            .map(|(name, license, dependencies)| Package {
                id: (*name).to_owned(),
                name: (*name).to_owned(),
                version: "1.0.0".to_owned(),
                license: Some((*license).to_owned()),
                manifest_path: "Cargo.toml".into(),
                dependencies: dependencies
                    .iter()
                    .map(|name| Dependency { name: (*name).to_owned(), kind: None })
                    .collect(),
            })
            .collect();
        let ids = packages.iter().map(|p| p.id.clone());
        let ours = |id: &String| id.starts_with("mainstay") || id == "xtask";
        Metadata {
            workspace_members: ids.clone().filter(ours).collect(),
            resolve: Resolve { nodes: ids.map(|id| Node { id }).collect() },
            packages,
        }
    }

    #[test]
    fn this_workspace_keeps_its_rules() {
        run().unwrap();
    }

    #[test]
    fn an_edge_against_the_direction_is_named() {
        let broken = metadata(&[
            ("mainstay-engines", "MIT", &["mainstay-repository"]),
            ("mainstay-repository", "MIT", &[]),
        ])
        .broken_rules();
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].starts_with("mainstay-engines -> mainstay-repository"), "{broken:?}");
    }

    #[test]
    fn a_crate_that_nobody_decided_about_is_named() {
        let broken = metadata(&[("mainstay-new", "MIT", &[])]).broken_rules();
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].contains("mainstay-new"), "{broken:?}");
    }

    #[test]
    fn a_reserved_dependency_is_refused_elsewhere() {
        let broken = metadata(&[("mainstay-takeover", "MIT", &["ureq"])]).broken_rules();
        assert_eq!(broken, ["mainstay-takeover -> ureq: one place speaks HTTP"]);
    }

    #[test]
    fn two_crypto_providers_are_refused() {
        let both = metadata(&[("ring", "ISC", &[]), ("aws-lc-rs", "ISC", &[])]).broken_rules();
        assert_eq!(both.len(), 1, "{both:?}");
        assert!(metadata(&[("ring", "ISC", &[])]).broken_rules().is_empty());
    }

    #[test]
    fn a_copyleft_dependency_is_refused() {
        let broken = metadata(&[("readline", "GPL-3.0-or-later", &[])]).broken_rules();
        assert_eq!(broken.len(), 1, "{broken:?}");
        assert!(broken[0].starts_with("readline 1.0.0"), "{broken:?}");
    }
}
