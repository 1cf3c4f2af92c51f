//! A program of the server's that is not there is told before anything is done that counts on it.

use super::*;

impl Stage {
    /// A directory with the server's programs, but one.
    pub(super) fn programs_without(&self, program: &str) -> PathBuf {
        let programs = self.dir.path().join("bin");
        fs::create_dir(&programs).unwrap();
        for entry in fs::read_dir(bin_dir()).unwrap().flatten() {
            std::os::unix::fs::symlink(entry.path(), programs.join(entry.file_name())).unwrap();
        }
        fs::remove_file(programs.join(program)).unwrap();
        programs
    }
}

impl Host {
    /// Runs it with the programs of another directory.
    fn run_with(&self, programs: &Path, words: &[&str]) -> Said {
        let config = fs::read_to_string(&self.config).unwrap();
        let usual = format!("bin-dir = '{}'", bin_dir().display());
        let other = format!("bin-dir = '{}'", programs.display());
        assert!(config.contains(&usual));
        // In one step: its server may ask for a segment at any moment, and ends if that cannot be tried.
        let write = |text: &str| {
            let beside = self.config.with_extension("new");
            fs::write(&beside, text).unwrap();
            give(&beside);
            fs::rename(&beside, &self.config).unwrap();
        };
        write(&config.replace(&usual, &other));
        let said = self.run(words);
        write(&config);
        said
    }
}

/// Without what starts a server none is brought into a place where it would have to be started: no old
/// primary is fenced for it, nothing is put in another's place, and nobody joins.
#[test]
fn without_pg_ctl_nothing_is_begun_that_counts_on_it() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    let programs = stage.programs_without("pg_ctl");
    let refused = |host: &Host, words: &[&str]| {
        let said = host.run_with(&programs, words).code(1);
        said.complains("there is no `pg_ctl`").complains("`bin-dir` in [service.shop]");
    };
    let seen = |host: &Host| {
        let services = host.run(&["status", "shop", "--json"]).json()["services"].clone();
        (services[0]["generation"].clone(), services[0]["intent"].clone())
    };
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let home = || fs::read_dir(b.home()).unwrap().count();
    let before = home();
    a.run_with(&programs, &["doctor", "shop"]).code(1).says("there is no `pg_ctl`");
    refused(b, &["refresh", "shop"]);
    assert!(!b.server.data().join("PG_VERSION").exists());
    assert_eq!(home(), before);
    b.run(&["refresh", "shop"]).code(0);
    let wanted = a.write();
    a.archived();
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    refused(b, &["refresh", "shop", "--reseed"]);
    assert_eq!(b.newest(), wanted, "it serves as before");

    // Nobody is fenced for a copy that could not be started.
    b.server.stop("fast");
    a.server.kill();
    stage.dead(true);
    let fenced = stage.dir.path().join("fenced");
    let config = fs::read_to_string(&b.config).unwrap();
    let fence = format!("fence = 'touch {}; test -e ", fenced.display());
    fs::write(&b.config, config.replace("fence = 'test -e ", &fence)).unwrap();
    give(stage.dir.path());
    let state = seen(b);
    refused(b, &["takeover", "shop", "--yes"]);
    assert!(!fenced.exists(), "the old primary was fenced");
    assert_eq!(seen(b), state);
    b.run(&["takeover", "shop", "--yes"]).code(0);
    assert!(fenced.exists());
    assert_eq!(b.newest(), wanted);
    b.run(&["backup", "shop"]).code(0);

    let role = || {
        let services = b.run(&["status", "shop", "--json"]).json()["services"].clone();
        let members = services[0]["members"].as_array().unwrap().clone();
        members.into_iter().find(|member| member["name"] == "a").unwrap()["role"].clone()
    };
    assert_eq!(role(), "broken");
    refused(a, &["rejoin", "shop"]);
    assert_eq!(role(), "broken");
    stage.dead(false);
    a.run(&["rejoin", "shop"]).code(0);
    assert_eq!(role(), "standby");
}

/// What cannot be rewound is built anew.
#[test]
fn without_pg_rewind_the_copy_is_built_anew() {
    let stage = super::targets::taken_over();
    let programs = stage.programs_without("pg_rewind");
    let said = stage.a.run_with(&programs, &["rejoin", "shop", "--json"]).code(0);
    assert_eq!(said.json()["rewound"], false, "{said:#?}");
    let wanted = stage.b.write();
    stage.a.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    assert_eq!(stage.a.newest(), wanted);
}
