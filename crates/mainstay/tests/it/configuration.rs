//! Finding the configuration file, and what is said about a wrong one.

use crate::rig::{Rig, Said, mainstay, run};
use std::path::Path;

const DOCS: &str = "[service.docs]\nengine = \"files\"\npath = \"/srv/docs\"\n";

#[track_caller]
fn check(services: &str) -> Said {
    let rig = Rig::new();
    rig.configure(services);
    rig.run(&["config", "check"])
}

#[test]
fn a_valid_file_is_said_to_be_valid() {
    let rig = Rig::new();
    rig.configure(DOCS);
    let said = rig.run(&["config", "check"]).code(0).says("is valid: one service, docs.");
    assert_eq!(said.err, "");
    let json = rig.run(&["config", "check", "--json"]).code(0).json();
    assert_eq!(json["valid"], true);
    assert_eq!(json["services"][0], "docs");
    assert_eq!(rig.run(&["-q", "config", "check"]).code(0).out, "");
}

#[test]
fn the_file_is_found_in_order() {
    let rig = Rig::new();
    rig.configure(DOCS);
    let other = rig.write("other.toml", std::fs::read(rig.path("mainstay.toml")).unwrap());
    // The option comes before the environment.
    run(rig.command(&["config", "check", "--config"]).arg(&other)).code(0).says("other.toml");
    // A file that is not there is named.
    let said = run(mainstay().args(["config", "check", "--config", "/nonexistent/m.toml"]));
    said.code(1).complains("no configuration file /nonexistent/m.toml").complains("mainstay init");
    // Without either: root's is the system's; a user's own is below XDG_CONFIG_HOME.
    if !Path::new("/etc/mainstay/mainstay.toml").exists() {
        let mut command = mainstay();
        command.env("XDG_CONFIG_HOME", rig.path("xdg")).args(["config", "check"]);
        let said = run(&mut command).code(1);
        let users = rig.path("xdg/mainstay/mainstay.toml").display().to_string();
        assert!(said.err.contains("/etc/mainstay/mainstay.toml") || said.err.contains(&users));
    }
}

#[test]
fn misspelt_keys_are_all_told_with_line_and_meaning() {
    let said = check(
        "[service.docs]\nengine = \"files\"\npath = \"/srv/docs\"\nkep = { last = 3 }\n\
         keep = { lst = 3 }\nexclude_caches = true\n\n[allerts]\ncommand = \"x\"\n",
    )
    .code(1)
    .complains("has 4 errors")
    .complains("line 12: service.docs.kep: unknown key; did you mean `keep`?")
    .complains("service.docs.keep.lst: unknown key; did you mean `last`?")
    .complains("did you mean `exclude-caches`?")
    .complains("allerts: unknown key; did you mean `alerts`?");
    assert_eq!(said.out, "");
}

#[test]
fn contradictions_are_told() {
    for (services, expected) in [
        (
            "[service.a]\nengine = \"files\"\npath = \"/a\"\npaths = [\"/b\"]\n",
            "contradicts `path`",
        ),
        (
            "[service.a]\nengine = \"files\"\npath = \"/a\"\npassword-file = \"/p\"\npassword-env = \"P\"\n",
            "service.a.password-env: contradicts `password-file`",
        ),
        ("[service.a]\nengine = \"files\"\npath = \"/a\"\nquiesce = \"stop\"\n", "needs `unit`"),
        (
            "[service.a]\nengine = \"files\"\npath = \"/a\"\nquiesce = \"freeze\"\n",
            "needs `hooks.freeze`",
        ),
        ("[service.a]\nengine = \"files\"\n", "needs `path` or `paths`"),
        ("[service.a]\nengine = \"sqlite\"\n", "needs `path`"),
        ("[service.a]\nengine = \"postgres\"\n", "needs `data-dir`"),
        (
            "[service.a]\nengine = \"sqlite\"\npath = \"/a\"\nexclude = [\"x\"]\n",
            "means nothing to engine sqlite",
        ),
        ("[service.a]\nengine = \"fiels\"\npath = \"/a\"\n", "did you mean \"files\"?"),
        ("[service.a]\nengine = \"files\"\npath = \"/a\"\nkeep = {}\n", "keeps nothing"),
    ] {
        check(services).code(1).complains(expected);
    }
}

#[test]
fn texts_that_make_no_sense_are_told() {
    for (line, expected) in [
        ("schedule = \"every hour\"", "is not cron syntax"),
        ("schedule = \"61 * * * *\"", "is not cron syntax"),
        ("time-zone = \"Mars/Olympus\"\nschedule = \"0 * * * *\"", "is not a time zone"),
        ("rpo = \"soon\"", "is not a duration"),
        ("keep = { within = \"1 fortnight\" }", "is not a duration"),
        ("keep = { last = -1 }", "line 12"),
        ("exclude-larger-than = \"big\"", "is not a size"),
        ("quiesce = \"maybe\"", "unknown variant `maybe`"),
        ("role = \"broken\"", "unknown variant `broken`"),
        ("password-file = \"relative\"", "is relative"),
        ("engine = \"again\"", "duplicate key"),
    ] {
        check(&format!("{DOCS}{line}\n")).code(1).complains(expected);
    }
    check("[service.a]\nengine = \"files\"\npath = \"srv\"\n").code(1).complains("is relative");
    check("[service.a]\nengine = \"files\"\npath = \"/srv/../etc\"\n").code(1).complains("`..`");
    check("[service.a]\nengine = \"files\"\npath = \"/srv\\n\"\n").code(1).complains("control");
}

#[test]
fn names_that_could_leave_their_place_are_refused() {
    for name in ["..", "a..b", "a/b", "a\\nb", "", " a", "-a", "a\\u0000"] {
        let services = format!("[service.\"{name}\"]\nengine = \"files\"\npath = \"/a\"\n");
        check(&services).code(1).complains("is not valid");
    }
}

#[test]
fn a_vault_inside_what_is_backed_up_is_refused() {
    let rig = Rig::new();
    let root = rig.path("").display().to_string();
    let service =
        format!("[service.a]\nengine = \"files\"\npath = \"{}\"\n", root.trim_end_matches('/'));
    rig.configure(&service);
    rig.run(&["config", "check"]).code(1).complains("holds the vault");
    rig.configure(&format!(
        "{service}exclude = [\"{}\", \"{}\"]\n",
        rig.path("vault").display(),
        rig.path("state").display()
    ));
    rig.run(&["config", "check"]).code(0);
}

#[test]
fn no_password_anywhere_is_an_error() {
    let rig = Rig::new();
    let text = "[host]\nname = \"h\"\nstate-dir = \"/s\"\n[vault]\nurl = \"/v\"\n";
    rig.write("mainstay.toml", format!("{text}{DOCS}"));
    rig.run(&["config", "check"]).code(1).complains("has no password");
    rig.write("mainstay.toml", text.replace("/v", "sftp:host:/x"));
    rig.run(&["config", "check"]).code(1).complains("this kind of vault is not supported");
    rig.write("mainstay.toml", text.replace("/s", "/v/state"));
    rig.run(&["config", "check"]).code(1).complains("lies inside the vault");
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let rig = Rig::new();
    for text in [&b"[host\n"[..], b"\xff\xfe", b"{}", b"", b"host = 3\n", b"\0"] {
        rig.write("mainstay.toml", text);
        let said = rig.run(&["config", "check"]).code(1);
        assert!(said.err.starts_with("Error: "), "{said:#?}");
        let json = rig.run(&["config", "check", "--json"]).code(1).error_json();
        assert!(json["message"].as_str().unwrap().contains("mainstay.toml"), "{json}");
    }
    std::fs::remove_file(rig.path("mainstay.toml")).unwrap();
    std::fs::create_dir(rig.path("mainstay.toml")).unwrap();
    rig.run(&["config", "check"]).code(1).complains("cannot read");
}

#[test]
fn what_is_shown_holds_no_password() {
    let rig = Rig::new();
    rig.configure(
        "[service.shop]\nengine = \"postgres\"\nurl = \"postgres://u:secret@h/db?password=secret\"\ndata-dir = \"/d\"\n",
    );
    rig.run(&["config", "check"]).code(0).complains("holds a password");
    let text = rig.run(&["config", "show"]).code(0).says("[service.shop]");
    let json = rig.run(&["config", "show", "--json"]).code(0);
    assert_eq!(json.json()["service"]["shop"]["engine"], "postgres");
    assert!(!text.out.contains("secret") && !json.out.contains("secret"));
}

#[test]
fn the_schema_is_json_schema() {
    let schema = run(mainstay().args(["config", "schema"])).code(0).json();
    assert_eq!(schema["properties"]["vault"]["$ref"], "#/$defs/Vault");
}
