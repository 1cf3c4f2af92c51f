//! `mainstay init`: what it makes, what it leaves, what it proposes.

use crate::rig::{Rig, Said, restic, run};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

const DOCS: &str = "[service.docs]\nengine = \"files\"\npath = \"/srv/docs\"\n";

fn recovery_key(said: &Said) -> String {
    let line = said.out.lines().find(|line| line.starts_with("    "));
    line.unwrap_or_else(|| panic!("no recovery key in {said:#?}")).trim().to_owned()
}

#[test]
fn what_is_missing_is_made_and_what_is_there_is_left() {
    let rig = Rig::new();
    rig.configure(DOCS);
    let first = rig.run(&["init"]).code(0).says("made").says("here is primary of docs");
    let password = std::fs::read_to_string(rig.path("password")).unwrap();
    assert!(password.trim().len() >= 40, "{password}");
    let mode = std::fs::metadata(rig.path("password")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // restic opens it with the password file, and with the recovery key.
    run(restic(&rig, "docs").args(["snapshots", "--json"])).code(0).says("[]");
    let key = recovery_key(&first);
    assert!(!std::fs::read_to_string(rig.path("mainstay.toml")).unwrap().contains(&key));
    let mut by_key = restic(&rig, "docs");
    by_key.env_remove("RESTIC_PASSWORD_FILE").env("RESTIC_PASSWORD", &key);
    run(by_key.args(["snapshots", "--json"])).code(0);

    let keys = std::fs::read_dir(rig.path("vault/docs/keys")).unwrap().count();
    assert_eq!(keys, 2);
    let second = rig.run(&["init"]).code(0);
    assert!(!second.out.contains("made") && !second.out.contains("Recovery"), "{second:#?}");
    assert_eq!(std::fs::read_to_string(rig.path("password")).unwrap(), password);
    assert_eq!(std::fs::read_dir(rig.path("vault/docs/keys")).unwrap().count(), keys);

    // A service that is added later is made later; a new key is made on demand.
    rig.configure(&format!("{DOCS}[service.more]\nengine = \"files\"\npath = \"/srv/more\"\n"));
    rig.run(&["init"]).code(0).says("Recovery key for more");
    rig.run(&["init", "--new-recovery-key"]).code(0).says("Recovery key for docs, more");
    rig.run(&["init", "--json"]).code(0).json();
}

#[test]
fn a_dry_run_makes_nothing() {
    let rig = Rig::new();
    rig.configure(DOCS);
    rig.run(&["init", "--dry-run"]).code(0).says("missing").says("repository of docs");
    for name in ["password", "vault", "state"] {
        assert!(!rig.path(name).exists(), "{name}");
    }
}

#[test]
fn a_lost_password_is_not_replaced_by_a_new_one() {
    let rig = Rig::new();
    rig.configure(DOCS);
    rig.run(&["init"]).code(0);
    std::fs::remove_file(rig.path("password")).unwrap();
    rig.run(&["init"]).code(12).complains("is missing, and the repository of docs needs it");
    assert!(!rig.path("password").exists());
    rig.write("password", "another one\n");
    rig.run(&["init"]).code(12).complains("opens no key");
    rig.write("password", "");
    rig.run(&["init"]).code(1).complains("is empty");
}

#[test]
fn a_vault_that_is_not_mounted_is_not_made_anew() {
    let rig = Rig::new();
    rig.configure(DOCS);
    rig.run(&["init"]).code(0);
    std::fs::rename(rig.path("vault"), rig.path("unmounted")).unwrap();
    rig.run(&["init"]).code(1).complains("has used docs in the vault before");
    assert!(!rig.path("vault").exists());
    std::fs::create_dir(rig.path("vault")).unwrap();
    rig.run(&["init"]).code(1).complains("has used docs in the vault before");
    assert_eq!(std::fs::read_dir(rig.path("vault")).unwrap().count(), 0);
}

#[test]
fn the_second_primary_is_refused_and_a_standby_joins() {
    let rig = Rig::new();
    rig.configure(DOCS);
    rig.run(&["init"]).code(0);
    let text = std::fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let other = text.replace("\"here\"", "\"there\"").replace("/state\"", "/state2\"");
    rig.write("mainstay.toml", &other);
    rig.run(&["init"]).code(1).complains("has a primary already").complains("role = \"standby\"");
    rig.write("mainstay.toml", other + "role = \"standby\"\n");
    rig.run(&["init"]).code(0).says("there is standby of docs");
}

#[test]
fn without_a_configuration_one_is_proposed() {
    let rig = Rig::new();
    let database = rig.path("data/app/shop.db");
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    let connection = rusqlite::Connection::open(&database).unwrap();
    connection.execute_batch("create table t (x); insert into t values (1);").unwrap();
    drop(connection);
    rig.write("data/notes/a.txt", "no database");
    rig.write("data/fake.db", "SQLite format 4 is none");
    // What restores and refreshes have put aside is no service.
    for left in ["replaced-20261121T010203Z", "diverged-20261121T010203Z-2"] {
        std::fs::copy(&database, database.with_extension(format!("db.{left}"))).unwrap();
    }
    let words = |rig: &Rig, more: &[&str]| {
        let mut command = rig.command(&["init"]);
        command.arg(rig.path("data/app")).arg(rig.path("data/notes"));
        command.arg("--vault").arg(rig.path("vault")).arg("--state-dir").arg(rig.path("state"));
        run(command.args(["--name", "db1"]).args(more))
    };
    words(&rig, &[]).code(1).complains("--print");
    assert!(!rig.path("mainstay.toml").exists());
    let printed = words(&rig, &["--print"]).code(0).says("[service.shop]").says("[service.notes]");
    assert_eq!(printed.out.matches("[service.shop").count(), 1, "{printed:#?}");
    assert!(!rig.path("mainstay.toml").exists());

    words(&rig, &["--yes"]).code(0).says("Recovery key for notes, shop");
    assert_eq!(std::fs::read_to_string(rig.path("mainstay.toml")).unwrap(), printed.out);
    let shown = rig.run(&["config", "show", "--json"]).code(0).json();
    assert_eq!(shown["service"]["shop"]["path"], Value::from(database.to_str().unwrap()));
    assert_eq!(shown["service"]["notes"]["engine"], "files");
    rig.run(&["backup", "--all"]).code(0);
    // With a configuration in place, nothing is proposed.
    words(&rig, &["--yes"]).code(1).complains("there is a configuration");
}

#[test]
fn a_proposal_is_json_if_that_is_asked_for() {
    let rig = Rig::new();
    rig.write("data/file", "x");
    let data = rig.path("data").display().to_string();
    for words in [["init", "--print", "--json", &data], ["init", "--dry-run", "--json", &data]] {
        let json = rig.run(&words).code(0).json();
        assert_eq!(json["file"], rig.path("mainstay.toml").display().to_string());
        assert!(
            json["proposed-configuration"].as_str().unwrap().contains("[service.data]"),
            "{json}"
        );
    }
}

#[test]
fn the_timer_is_written_for_systemd() {
    let rig = Rig::new();
    rig.configure(DOCS);
    let units = rig.path("units");
    let words = ["init", "--install-timer", "--unit-dir", units.to_str().unwrap()];
    rig.run(&words).code(0).says("mainstay.timer");
    let service = std::fs::read_to_string(units.join("mainstay.service")).unwrap();
    let config = rig.path("mainstay.toml").display().to_string();
    assert!(service.contains(&format!("--config \"{config}\" --quiet run-due")), "{service}");
    // systemd itself finds no fault with them.
    let mut verify = std::process::Command::new("systemd-analyze");
    verify
        .args(["verify", "--man=no"])
        .args([units.join("mainstay.service"), units.join("mainstay.timer")])
        .arg(units.join("mainstay-recover.service"))
        .arg(units.join("mainstay-provision.service"));
    if let Ok(output) = verify.output() {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("mainstay.") && !said.contains("mainstay-"), "{said}");
    }
    assert!(!rig.run(&words).code(0).out.contains("wrote"));
}

#[test]
fn the_unit_that_ships_a_log_is_written_and_offered() {
    let rig = Rig::new();
    let database = rig.path("app.db").display().to_string();
    rig.configure(&format!("[service.shop]\nengine = \"sqlite\"\npath = \"{database}\"\n"));
    let units = rig.path("units");
    let words = ["init", "--install-timer", "--unit-dir", units.to_str().unwrap()];
    rig.run(&words).code(0).says("systemctl enable --now mainstay-log@shop.service");
    let unit = std::fs::read_to_string(units.join("mainstay-log@.service")).unwrap();
    assert!(unit.contains("--quiet wal receive %i\n") && unit.contains("Restart=always"), "{unit}");
    let instance = units.join("mainstay-log@shop.service");
    std::os::unix::fs::symlink("mainstay-log@.service", &instance).unwrap();
    let mut verify = std::process::Command::new("systemd-analyze");
    if let Ok(output) = verify.args(["verify", "--man=no"]).arg(&instance).output() {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("mainstay-log"), "{said}");
    }
}
