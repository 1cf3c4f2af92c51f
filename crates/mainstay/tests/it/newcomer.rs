//! What somebody meets who uses the program for the first time, and is not careful.

use crate::rig::{Rig, Said, copy_program, restic, run, script};
use std::os::unix::fs::PermissionsExt;

/// The words of a second host, whose configuration is `b.toml`.
fn on_b(rig: &Rig, words: &[&str]) -> Said {
    run(rig.command(words).env("MAINSTAY_CONFIG", rig.path("b.toml")))
}

/// A tree on `here`, backed up, and a second host `b` that is to stand by for it.
fn two_hosts() -> Rig {
    let rig = Rig::new();
    rig.write("docs/hello", "hello\n");
    let docs = rig.path("docs");
    rig.configure(&format!(
        "[service.docs]\nengine = \"files\"\npath = \"{}\"\nstart = \"true\"\nstop = \"true\"\n\
         status = \"exit 3\"\n",
        docs.display()
    ));
    let text = std::fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    let text = text
        .replace("\"here\"", "\"b\"")
        .replace(rig.path("state").to_str().unwrap(), rig.path("b-state").to_str().unwrap())
        .replace(docs.to_str().unwrap(), rig.path("b-docs").to_str().unwrap())
        + "role = \"standby\"\n";
    rig.write("b.toml", text);
    rig.run(&["init"]).code(0).says("Next: mainstay backup --all, and mainstay doctor.");
    rig
}

#[test]
fn a_standby_is_told_to_refresh_and_a_dry_run_leaves_no_state() {
    let rig = two_hosts();
    on_b(&rig, &["init", "--dry-run"]).code(0).says("missing  b is standby of docs");
    assert!(!rig.path("b-state").exists());
    // Whichever command comes first makes the state directory, for nobody else to read.
    on_b(&rig, &["status"]).code(0);
    let mode = std::fs::metadata(rig.path("b-state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    on_b(&rig, &["init"]).code(0).says("Next: mainstay refresh docs, and mainstay doctor.");
}

#[test]
fn a_restore_under_a_new_name_proposes_the_copy_and_nothing_of_the_original() {
    let rig = two_hosts();
    // As on a host that joined as a standby and took over since.
    let text = std::fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    rig.write("mainstay.toml", text + "role = \"standby\"\n");
    rig.run(&["backup", "docs"]).code(0);
    let said = rig.run(&["restore", "docs", "--as", "again"]).code(0).says("[service.again]");
    let copy = rig.path("docs.again");
    assert!(said.out.contains(&format!("path = \"{}\"", copy.display())), "{said:#?}");
    let proposed = said.out.split_once("[service.again]").unwrap().1;
    for key in ["start", "stop", "status"] {
        assert!(!proposed.contains(&format!("{key} =")), "{said:#?}");
    }
    // As proposed it is valid, and protects the copy.
    let text = std::fs::read_to_string(rig.path("mainstay.toml")).unwrap();
    rig.write("mainstay.toml", format!("{text}[service.again]{proposed}"));
    rig.run(&["init"]).code(0).says("made     here is primary of again");
    rig.run(&["backup", "again"]).code(0);
    rig.run(&["dump", "again", copy.join("hello").to_str().unwrap()]).code(0).says("hello");
}

#[test]
fn a_relative_path_that_restic_backed_up_is_restored() {
    let rig = two_hosts();
    rig.write("docs/more", "more\n");
    run(restic(&rig, "docs").current_dir(rig.path("")).args(["backup", "docs"])).code(0);
    let listed = rig.run(&["snapshots", "docs", "--json"]).code(0).json();
    let id = listed["services"][0]["snapshots"][0]["snapshot"].as_str().unwrap().to_owned();
    let target = rig.path("out");
    let words = ["restore", "docs", "--snapshot", &id, "--target", target.to_str().unwrap()];
    rig.run(&words).code(0);
    assert_eq!(std::fs::read_to_string(target.join("more")).unwrap(), "more\n");
}

#[test]
fn a_service_that_is_named_twice_is_backed_up_once() {
    let rig = two_hosts();
    let said = rig.run(&["backup", "docs", "docs", "--json"]).code(0).json();
    assert_eq!(said["services"].as_array().unwrap().len(), 1, "{said}");
}

#[test]
fn refusals_speak_plainly_and_say_what_to_do() {
    let rig = two_hosts();
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["refresh", "docs"]).code(1).complains("here is the primary of docs, and only a");
    let docs = rig.path("docs");
    rig.run(&["dump", "docs", docs.to_str().unwrap()]).code(1).complains("is a directory, not");
    std::fs::rename(rig.path("password"), rig.path("lost")).unwrap();
    rig.run(&["status"]).code(1).complains("Hint: Copy it from a host that has it");
    rig.write("password", "wrong\n");
    rig.run(&["status"]).code(12).complains("Hint:");
    std::fs::rename(rig.path("lost"), rig.path("password")).unwrap();
    std::fs::rename(rig.path("vault"), rig.path("unmounted")).unwrap();
    rig.run(&["status"]).code(10).complains("Hint:");
}

/// What somebody asked the wrong host for is no trouble of that host.
#[test]
fn a_refusal_for_the_role_does_not_stay_in_the_status() {
    let rig = two_hosts();
    let failure = |said: Said| said.code(0).json()["services"][0]["last-failure"].clone();
    let null = serde_json::Value::Null;
    rig.run(&["backup", "docs"]).code(0);
    on_b(&rig, &["init"]).code(0);
    on_b(&rig, &["refresh", "docs"]).code(0);
    on_b(&rig, &["backup", "docs"]).code(1);
    assert_eq!(failure(on_b(&rig, &["status", "docs", "--json"])), null);
    rig.run(&["rejoin", "docs", "--yes"]).code(1);
    assert_eq!(failure(rig.run(&["status", "docs", "--json"])), null);
    // A scrub that found a copy that was written to is settled by the refresh that replaces it.
    rig.write("b-docs/hello", "changed\n");
    on_b(&rig, &["scrub", "docs"]).code(1);
    assert_ne!(failure(on_b(&rig, &["status", "docs", "--json"])), null);
    on_b(&rig, &["refresh", "docs", "--reseed"]).code(0);
    assert_eq!(failure(on_b(&rig, &["status", "docs", "--json"])), null);
}

/// The password is there, and not for whoever runs this: another copy of it would be no help.
#[test]
fn a_password_file_of_somebody_else_is_told_from_one_that_is_missing() {
    let rig = two_hosts();
    let mut command = rig.command(&["status"]);
    if rustix::process::geteuid().is_root() {
        // By somebody who may read everything but the password.
        let program = rig.path("mainstay");
        copy_program(&program);
        std::fs::set_permissions(rig.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut other = std::process::Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        other.args(command.get_args()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        other.env("MAINSTAY_CONFIG", rig.path("mainstay.toml"));
        command = other;
    } else {
        let private = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(rig.path("password"), private).unwrap();
    }
    run(&mut command).code(1).complains("Permission denied").complains("Hint: Let the user that");
}

#[test]
fn the_first_export_finds_an_empty_directory() {
    let rig = Rig::new();
    let (exporter, importer) = (rig.path("exporter"), rig.path("importer"));
    script(
        &exporter,
        "set -e\nnow=$(date -u +%Y-%m-%dT%H:%M:%SZ)\necho 1 > \"$MAINSTAY_BACKUP_DIR/data\"\n\
         printf '{\"export-id\":\"%s\",\"source-time\":\"%s\"}' \"$MAINSTAY_EXPORT_ID\" \"$now\"\n",
    );
    script(&importer, "exit 0\n");
    // The directory itself is not there either.
    rig.configure(&format!(
        "[service.wiki]\nengine = \"script\"\npath = \"{}\"\nexporter = \"{}\"\nimporter = \"{}\"\n",
        rig.path("export").display(),
        exporter.display(),
        importer.display()
    ));
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "wiki"]).code(0);
    rig.run(&["ls", "-r", "wiki"]).code(0).says("/data");
}
