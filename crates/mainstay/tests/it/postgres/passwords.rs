//! A server that demands a password, which the definition says where to find: whoever connects reads
//! it, once, and who does not connect does not.

use super::receiving::{is_stored, receiver, restored};
use super::*;
use crate::secrets::Watch;

const NO_ARCHIVE: &str = "archive_mode = off";
/// What has to be quoted wherever it goes; the last part is looked for on command lines, so only one
/// test may have it.
const ODD: &str = "it's \\ a:b@c/%41 ö hunter4-frobozz";
const ON_A_COMMAND_LINE: &str = "hunter4-frobozz";
const PLAIN: &str = "a plain one";
const ANOTHER: &str = "not the one before";
/// Methods of authentication: only the tests themselves get in without a password.
const HBA: &str = "local all postgres trust\nlocal replication postgres trust\n\
                   local all all scram-sha-256\nlocal replication all scram-sha-256\n";

/// Host `a`, whose server demands this password of the role that Mainstay connects as.
fn demanding(password: &str) -> Stage {
    let stage = Stage::with(NO_ARCHIVE, "");
    let server = &stage.a.server;
    server.sql("CREATE ROLE backup LOGIN SUPERUSER REPLICATION");
    set_password(&stage, password);
    let before = server.sql("SELECT pg_conf_load_time()");
    fs::write(server.data().join("pg_hba.conf"), HBA).unwrap();
    server.sql("SELECT pg_reload_conf()");
    server.eventually(&format!("SELECT pg_conf_load_time() > '{before}'"));
    let text = fs::read_to_string(&stage.a.config).unwrap();
    let there = text.replace("postgres://postgres@", "postgres://backup@");
    assert_ne!(text, there);
    fs::write(&stage.a.config, there).unwrap();
    stage
}

fn set_password(stage: &Stage, password: &str) {
    let quoted = password.replace('\'', "''");
    stage.a.server.sql(&format!(
        "SET password_encryption = 'scram-sha-256'; ALTER ROLE backup PASSWORD '{quoted}'"
    ));
}

/// The file with the password, for the user who runs this.
fn write_password(stage: &Stage, password: &str) -> PathBuf {
    let file = stage.dir.path().join("db-password");
    fs::write(&file, format!("{password}\n")).unwrap();
    give(&file);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// Says where the password is, in place of what was said before.
fn say(stage: &Stage, line: &str) {
    let text = fs::read_to_string(&stage.a.config).unwrap();
    let kept: Vec<&str> = text.lines().filter(|kept| !kept.starts_with("url-password-")).collect();
    let text = kept.join("\n") + "\n";
    assert!(text.contains("url = 'postgres://"), "{text}");
    let text = text.replace("url = 'postgres://", &format!("{line}\nurl = 'postgres://"));
    fs::write(&stage.a.config, text).unwrap();
}

#[test]
fn a_server_that_demands_a_password_gets_it_from_whoever_connects() {
    let stage = demanding(ODD);
    let a = &stage.a;
    let file = write_password(&stage, ODD).display().to_string();
    let watch = Watch::for_word(ON_A_COMMAND_LINE);
    let silent = |said: Said| {
        assert!(!format!("{said:?}").contains(ON_A_COMMAND_LINE), "{said:#?}");
        said
    };
    // Nobody said where it is.
    silent(a.run(&["backup", "shop"]).code(1))
        .complains("password missing")
        .complains("url-password");
    let first = a.write();

    say(&stage, &format!("url-password-file = '{file}'"));
    silent(a.run(&["-v", "backup", "shop"]).code(0));
    let wanted = a.write();
    silent(a.run(&["-v", "wal", "receive", "shop", "--once"]).code(0));
    assert!(wanted > first);
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
    drop(copy);
    let said = silent(a.run(&["doctor"]).code(0));
    said.says("a primary at").says("slot: mainstay_shop keeps").says("nobody receives it");

    // A command is run once by who connects, and not at all by who does not.
    let runs = stage.dir.path().join("runs");
    let count = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    let line = format!("url-password-command = \"echo x >> {}; cat {file}\"", runs.display());
    say(&stage, &line);
    for words in [&["status", "shop"][..], &["snapshots", "shop"], &["ls", "shop"]] {
        silent(a.run(words).code(0));
    }
    assert_eq!(count(), 0);
    silent(a.run(&["doctor"]).code(0)).says("nobody receives it");
    assert_eq!(count(), 1);
    silent(a.run(&["wal", "receive", "shop", "--once"]).code(0));
    assert_eq!(count(), 2);

    // Dumps are made by other programs.
    let config = fs::read_to_string(&a.config).unwrap();
    let dump = format!(
        "[service.dump]\nengine = 'postgres'\nmethod = 'logical'\nrole = 'primary'\n{line}\n\
         url = '{}'\npath = '{}'\nbin-dir = '{}'\n",
        a.server.url("backup"),
        stage.dir.path().join("a/dump").display(),
        bin_dir().display(),
    );
    fs::write(&a.config, format!("{config}\n{dump}")).unwrap();
    silent(a.run(&["init"]).code(0));
    silent(a.run(&["-v", "backup", "dump"]).code(0));
    silent(a.run(&["doctor", "dump"]).code(0)).says("dump engine: postgres");
    watch.end();
}

#[test]
fn a_password_that_cannot_be_had_fails_only_what_connects() {
    let stage = demanding(PLAIN);
    let a = &stage.a;
    let file = write_password(&stage, PLAIN);
    say(&stage, &format!("url-password-file = '{}'", file.display()));
    let wanted = a.write();
    a.run(&["backup", "shop"]).code(0);

    let mode = |mode: u32| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    for words in [
        &["status", "shop"][..],
        &["snapshots", "shop"],
        &["ls", "shop"],
        &["check", "shop"],
        &["run-due"],
    ] {
        let said = a.run(words).code(0);
        assert!(!said.err.contains("db-password"), "{words:?}: {said:#?}");
    }
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
    drop(copy);
    let unreadable = "cannot read the connection password file";
    a.run(&["backup", "shop"]).code(1).complains(unreadable).complains("url-password-file");
    let said = a.run(&["doctor"]).code(1);
    said.says("FAIL  shop engine: cannot read the connection password file").says("db-password");

    // Others may read it: that is told, and no reason to stop.
    mode(0o644);
    a.run(&["doctor"]).says("db-password can be read by others").says("a primary at");

    write_password(&stage, "geheim-but-wrong");
    for words in [&["backup", "shop"][..], &["wal", "receive", "shop", "--once"]] {
        let said = a.run(words).code(1).complains("password authentication failed");
        let said = said.complains("correct its password where `url-password-");
        assert!(!said.err.contains("geheim"), "{said:#?}");
    }
    let said = a.run(&["doctor"]).code(1).says("FAIL  shop engine: cannot connect");
    let said = said.says("password authentication failed").says("url-password-");
    assert!(!said.out.contains("geheim"), "{said:#?}");
}

/// Who has the password in memory for long takes the new one when the old one is refused.
#[test]
fn a_password_that_is_changed_is_read_anew() {
    let stage = demanding(PLAIN);
    let a = &stage.a;
    let file = write_password(&stage, PLAIN);
    say(&stage, &format!("url-password-file = '{}'", file.display()));
    a.run(&["backup", "shop"]).code(0);
    let mut receive = receiver(a);
    a.write();
    is_stored(a);
    let mut wanted = 0;
    for password in [ANOTHER, PLAIN] {
        set_password(&stage, password);
        write_password(&stage, password);
        let ended = a.server.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE usename = 'backup'",
        );
        assert_ne!(ended, "0", "nobody was connected");
        wanted = a.write();
        is_stored(a);
    }
    assert!(receive.0.try_wait().unwrap().is_none(), "it ended");
    drop(receive);
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// No point holds the password of a URL: a new host is not given a definition that cannot connect.
#[test]
fn a_password_in_the_url_is_not_made_up_on_a_new_host() {
    let stage = demanding(PLAIN);
    let (a, b) = (&stage.a, &stage.b);
    let plain = fs::read_to_string(&a.config).unwrap();
    let text = plain.replace("postgres://backup@", "postgres://backup:a%20plain%20one@");
    assert_ne!(plain, text);
    fs::write(&a.config, text).unwrap();
    a.run(&["backup", "shop"]).code(0);

    let text = fs::read_to_string(&b.config).unwrap();
    let bare = text.split("[service.shop]").next().unwrap().to_owned();
    fs::write(&b.config, &bare).unwrap();
    let marker = stage.dir.path().join("provision.toml");
    fs::write(&marker, "services = [\"shop\"]\n").unwrap();
    give(&marker);
    for words in [&["provision", "--dry-run"][..], &["provision"]] {
        let said = b.run(words).code(1);
        said.complains("the `url` of shop holds a password").complains("url-password-file");
        assert_eq!(fs::read_to_string(&b.config).unwrap(), bare);
        assert!(marker.exists());
    }

    fs::write(&a.config, plain).unwrap();
    let file = write_password(&stage, PLAIN).display().to_string();
    say(&stage, &format!("url-password-file = '{file}'"));
    a.run(&["backup", "shop"]).code(0);
    b.run(&["provision", "--dry-run"]).code(0).says("would be defined");
}
