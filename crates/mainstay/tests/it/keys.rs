//! Keys and passwords by the command line, and a change that is killed at every step.

use crate::rig::{Rig, Said, restic, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A host whose services share a password file, with a snapshot of each; and the recovery key.
fn host(services: &[&str]) -> (Rig, String) {
    let rig = Rig::new();
    let mut lines = String::new();
    for name in services {
        rig.write(format!("{name}/letter.txt"), "dear reader\n");
        let path = rig.path(name).display().to_string();
        lines.push_str(&format!("[service.{name}]\nengine = \"files\"\npath = \"{path}\"\n"));
    }
    rig.configure(&lines);
    let made = rig.run(&["init", "--json"]).code(0).json();
    for name in services {
        rig.run(&["backup", name]).code(0);
    }
    let key = made["recovery-key"].as_str().unwrap().to_owned();
    (rig, key)
}

fn password(rig: &Rig) -> String {
    fs::read_to_string(rig.path("password")).unwrap().trim().to_owned()
}

/// Whether plain restic opens the repository with a password and reads its snapshot.
fn opens(rig: &Rig, service: &str, password: &str) -> bool {
    let mut command = restic(rig, service);
    command.env_remove("RESTIC_PASSWORD_FILE").env("RESTIC_PASSWORD", password);
    let said = run(command.args(["snapshots", "--no-lock", "--json"]));
    said.code == 0 && said.json().as_array().is_some_and(|list| list.len() == 1)
}

fn keys(rig: &Rig, service: &str) -> Vec<serde_json::Value> {
    let list = rig.run(&["key", "list", service, "--json"]).code(0).json();
    list["keys"].as_array().unwrap().clone()
}

#[test]
fn keys_are_listed_added_and_removed() {
    let (rig, recovery) = host(&["docs"]);
    let list = rig.run(&["key", "list", "docs"]).code(0).says("in use").says("recovery key");
    assert_eq!(list.out.matches("in use").count(), 1, "{list:#?}");

    let file = rig.write("another", "thought up\n").display().to_string();
    let added = rig
        .run(&["key", "add", "docs", "--new-password-file", &file, "--user", "auditor", "--json"])
        .code(0)
        .json();
    let id = added["id"].as_str().unwrap().to_owned();
    assert!(opens(&rig, "docs", "thought up"));
    rig.run(&["key", "list", "docs"]).code(0).says("auditor");
    rig.run(&["key", "add", "docs", "--new-password-file", &file]).code(1).complains("already");
    rig.run(&["key", "remove", "docs", &id[..10]]).code(0).says("was removed");
    assert!(!opens(&rig, "docs", "thought up"));

    let generated = rig.run(&["key", "add", "docs", "--generate", "--json"]).code(0).json();
    assert!(opens(&rig, "docs", generated["password"].as_str().unwrap()));
    run(rig
        .command(&["key", "add", "docs", "--new-password-env", "NEW"])
        .env("NEW", "from the environment"))
    .code(0);
    assert!(opens(&rig, "docs", "from the environment"));
    assert_eq!(keys(&rig, "docs").len(), 4);

    let used = keys(&rig, "docs").into_iter().find(|key| key["in-use"] == true).unwrap();
    let used = used["id"].as_str().unwrap().to_owned();
    rig.run(&["key", "remove", "docs", &used]).code(1).complains("key in use");
    for key in keys(&rig, "docs").iter().filter(|key| key["in-use"] == false) {
        rig.run(&["key", "remove", "docs", key["id"].as_str().unwrap()]).code(0);
    }
    assert!(!opens(&rig, "docs", &recovery));
    rig.run(&["key", "remove", "docs", &used]).code(1).complains("last key");
    assert!(opens(&rig, "docs", &password(&rig)));
    rig.run(&["key", "remove", "docs", "ffffffff"]).code(1).complains("there is no key");
    rig.run(&["key", "add", "docs"]).code(1).complains("no terminal");
}

#[test]
fn a_damaged_key_is_listed_as_such_and_can_be_removed() {
    let (rig, _) = host(&["docs"]);
    let unused = keys(&rig, "docs").into_iter().find(|key| key["in-use"] == false).unwrap();
    let id = unused["id"].as_str().unwrap();
    let file = rig.path("vault/docs/keys").join(id);
    fs::remove_file(&file).unwrap();
    fs::write(&file, "{}").unwrap();
    rig.run(&["key", "list", "docs"]).code(1).says("DAMAGED").says("in use");
    rig.run(&["key", "remove", "docs", id]).code(0);
    rig.run(&["key", "list", "docs"]).code(0);
}

#[test]
fn a_password_is_changed_with_its_file() {
    let (rig, recovery) = host(&["docs", "shop"]);
    let old = password(&rig);
    let link = rig.path("linked");
    fs::rename(rig.path("password"), &link).unwrap();
    std::os::unix::fs::symlink(&link, rig.path("password")).unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o640)).unwrap();

    let alone = rig.run(&["key", "passwd", "docs", "--generate"]).code(1);
    alone.complains("is that of shop");
    let file = link.display().to_string();
    let itself = rig.run(&["key", "passwd", "docs", "shop", "--new-password-file", &file]).code(1);
    itself.complains("is the password file itself");
    let same = rig.write("same", &old).display().to_string();
    let words = ["key", "passwd", "docs", "shop", "--new-password-file"];
    run(rig.command(&words).arg(&same)).code(1).complains("is the old one");
    assert_eq!(password(&rig), old);

    let new = rig.write("new", "a better one\n");
    run(rig.command(&words).arg(&new)).code(0).says("2 old keys removed");
    assert_eq!(password(&rig), "a better one");
    for service in ["docs", "shop"] {
        assert!(opens(&rig, service, "a better one") && !opens(&rig, service, &old));
        assert_eq!(keys(&rig, service).len(), 2);
    }
    assert!(opens(&rig, "docs", &recovery));
    assert!(fs::symlink_metadata(rig.path("password")).unwrap().is_symlink());
    assert_eq!(fs::metadata(&link).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(!rig.path("linked.new").exists() && !rig.path("linked.old").exists());

    let kept = rig.run(&["key", "passwd", "docs", "shop", "--generate", "--keep-old"]).code(0);
    kept.says("still opens these keys");
    assert!(opens(&rig, "docs", "a better one") && opens(&rig, "docs", &password(&rig)));
    rig.run(&["backup", "docs"]).code(0);
}

#[test]
fn a_password_from_elsewhere_stays_valid_until_it_is_removed() {
    let (rig, _) = host(&["docs"]);
    let old = password(&rig);
    let config = fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let config = config.lines().filter(|line| !line.starts_with("password-file"));
    let config: Vec<String> = config
        .map(|line| match line.starts_with("url") {
            true => format!("{line}\npassword-env = \"SECRET\""),
            false => line.to_owned(),
        })
        .collect();
    rig.write("mainstay.toml", config.join("\n"));
    let mut command = rig.command(&["key", "passwd", "docs", "--generate", "--json"]);
    let said = run(command.env("SECRET", &old)).code(0).json();
    let new = said["password"].as_str().unwrap().to_owned();
    assert!(opens(&rig, "docs", &new) && opens(&rig, "docs", &old));
    let id = said["old-keys"][0].as_str().unwrap();
    let mut command = rig.command(&["key", "remove", "docs", id]);
    run(command.env("SECRET", &old)).code(1).complains("in use");
    let mut command = rig.command(&["key", "remove", "docs", id]);
    run(command.env("SECRET", &new)).code(0);
    assert!(opens(&rig, "docs", &new) && !opens(&rig, "docs", &old));
}

#[test]
fn a_change_that_is_killed_locks_nobody_out_and_is_brought_to_its_end() {
    let killed_at = |step: &str, second: &[&str]| {
        let (rig, recovery) = host(&["docs", "shop"]);
        let old = password(&rig);
        let words = ["key", "passwd", "docs", "shop", "--generate"];
        let said: Said = run(rig.command(&words).env("MAINSTAY_TEST_KILL_AT", step));
        assert_eq!(said.code, -1, "not killed at {step}: {said:#?}");
        for service in ["docs", "shop"] {
            assert!(opens(&rig, service, &password(&rig)), "restic is locked out at {step}");
            assert!(opens(&rig, service, &recovery), "the recovery key is lost at {step}");
            rig.run(&["ls", service]).code(0);
        }
        let mut again = vec!["key", "passwd", "docs", "shop"];
        again.extend(second);
        rig.run(&again).code(0);
        let new = password(&rig);
        assert_ne!(new, old);
        for service in ["docs", "shop"] {
            assert!(opens(&rig, service, &new) && !opens(&rig, service, &old), "after {step}");
            assert_eq!(keys(&rig, service).len(), 2, "keys are left over after {step}");
        }
        run(restic(&rig, "docs").args(["unlock", "--quiet"])).code(0);
        run(restic(&rig, "docs").args(["check", "--quiet"])).code(0);
        for left in ["password.new", "password.old", "password.new.tmp"] {
            assert!(!rig.path(left).exists(), "{left} is left after {step}");
        }
    };
    for step in ["staged", "added", "kept", "exchanged", "removed"] {
        killed_at(&format!("passwd:{step}"), &["--generate"]);
    }
    // Another password was thought of meanwhile.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "yet another\n").unwrap();
    let file = file.path().display().to_string();
    for step in ["added", "exchanged"] {
        killed_at(&format!("passwd:{step}"), &["--new-password-file", &file]);
    }
}

#[test]
fn other_hosts_are_thought_of() {
    let world = crate::world::World::new("files", "");
    crate::world::fill(&world.path("a/data"), 1);
    world.run("a", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["init"]).code(0);
    let said = world.run("a", &["key", "passwd", "docs", "--generate"]).code(1);
    said.complains("other hosts have the old password: b").complains("--keep-old");
    world.run("a", &["key", "passwd", "docs", "--generate", "--keep-old"]).code(0);
    world.run("a", &["key", "passwd", "docs", "--generate", "--yes"]).code(0);
}
