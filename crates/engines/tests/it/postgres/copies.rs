//! What is demanded of restored files, and what judging them finds.

use super::{Shop, setting};
use crate::contract::Fixture;
use mainstay_engines::Purpose;
use model::{Class, Classify};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

#[test]
fn a_sound_copy_is_judged_sound_and_left_alone() {
    let shop = Shop::archiving();
    let cx = shop.bench.cx();
    let base = shop.capture();
    for (name, purpose) in
        [("standby", Purpose::Standby), ("look", Purpose::Scratch { until: None })]
    {
        let copy = shop.copy(&base, name, &purpose);
        let before = fingerprint(copy.server.data());
        let verdict = copy.engine.check(&cx, &copy.staged()).expect("check");
        assert!(verdict.sound, "{verdict:?}");
        let said = verdict.findings.join("\n");
        assert!(said.contains("pg_amcheck") && said.contains("pg_checksums"), "{said}");
        assert_eq!(fingerprint(copy.server.data()), before, "{name} was changed");
    }
    let left = fs::read_dir(&shop.bench.scratch).expect("scratch").count();
    assert_eq!(left, 0, "the judge cleans up");
}

fn fingerprint(dir: &std::path::Path) -> String {
    let listing = std::process::Command::new("sh")
        .arg("-c")
        .arg("find . -type f | sort | xargs -d '\\n' sha256sum; find . -type d | sort")
        .current_dir(dir)
        .output()
        .expect("find");
    String::from_utf8_lossy(&listing.stdout).into_owned()
}

#[test]
fn damage_is_found() {
    let shop = Shop::new("");
    let cx = shop.bench.cx();
    shop.server.sql("INSERT INTO orders (n) SELECT generate_series(2, 2000)");
    // Nothing may touch the pages any more: a page that is changed during the backup is in the log
    // whole, and replaying that would mend the damage.
    shop.server.sql("ALTER TABLE orders SET (autovacuum_enabled = off)");
    shop.server.sql("VACUUM (FREEZE) orders");
    let table = shop.server.sql("SELECT pg_relation_filepath('orders')");
    let index = shop.server.sql("SELECT pg_relation_filepath('orders_pkey')");
    shop.server.sql("CHECKPOINT");
    let base = shop.capture();
    for (name, file) in [("table", table), ("index", index)] {
        let copy = shop.copy(&base, name, &Purpose::Scratch { until: None });
        let path = copy.server.data().join(file);
        let opened = fs::OpenOptions::new().read(true).write(true).open(path).expect("open");
        let mut byte = [0];
        opened.read_exact_at(&mut byte, 8192 + 4000).expect("read");
        opened.write_all_at(&[byte[0] ^ 0x40], 8192 + 4000).expect("flip a bit");
        let verdict = copy.engine.check(&cx, &copy.staged()).expect("check");
        assert!(!verdict.sound, "{name}: {verdict:?}");
    }

    // Records that the base needs are gone.
    let copy = shop.copy(&base, "log", &Purpose::Scratch { until: None });
    let segment = fs::read_dir(copy.server.data().join("pg_wal"))
        .expect("pg_wal")
        .flatten()
        .find(|entry| entry.file_name().len() == 24)
        .expect("a segment");
    let zeros = vec![0; 1 << 20];
    let file = fs::OpenOptions::new().write(true).open(segment.path()).expect("open");
    file.write_all_at(&zeros, 0).expect("zero");
    let verdict = copy.engine.check(&cx, &copy.staged()).expect("check");
    assert!(!verdict.sound, "{verdict:?}");
    assert!(!verdict.findings.is_empty());
}

#[test]
fn files_that_are_not_what_was_captured_are_refused() {
    let (shop, other) = (Shop::new(""), Shop::new(""));
    let base = shop.capture();
    let segment = fs::read_dir(base.sink.at("/postgres/data/pg_wal"))
        .expect("pg_wal")
        .flatten()
        .find(|entry| entry.file_name().len() == 24)
        .expect("a segment")
        .path();
    let whole = fs::read(&segment).expect("segment");
    fs::write(&segment, &whole[..whole.len() - 1]).expect("cut");
    let purpose = Purpose::Primary { until: None };
    let error = shop.try_copy(&base, "cut", &purpose).err().expect("refused");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    fs::remove_file(&segment).expect("remove");
    let error = shop.try_copy(&base, "gone", &purpose).err().expect("refused");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    fs::write(&segment, &whole).expect("back");

    // Without its label a server would begin to replay too late, and be torn without a word.
    let label = base.sink.at("/postgres/data/backup_label");
    let own = fs::read_to_string(&label).expect("a label");
    fs::remove_file(&label).expect("remove");
    let error = shop.try_copy(&base, "no label", &purpose).err().expect("refused");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(error.to_string().contains("backup_label is not there"), "{error}");
    let other_start = own.replace("START WAL LOCATION: 0/", "START WAL LOCATION: 7/");
    for (name, text) in [("other label", other_start.as_str()), ("empty label", "")] {
        fs::write(&label, text).expect("label");
        let error = shop.try_copy(&base, name, &purpose).err().expect(name);
        assert_eq!(error.class(), Class::Corrupt, "{name}: {error}");
    }
    fs::write(&label, own).expect("label");

    let control = base.sink.at("/postgres/data/global/pg_control");
    let own = fs::read(&control).expect("control");
    let mut damaged = own.clone();
    damaged[100] ^= 1;
    let foreign = fs::read(other.server.data().join("global/pg_control")).expect("control");
    for (name, bytes) in [("damaged", damaged), ("foreign", foreign)] {
        fs::write(&control, bytes).expect("control");
        let error = shop.try_copy(&base, name, &purpose).err().expect(name);
        assert_eq!(error.class(), Class::Corrupt, "{name}: {error}");
    }
    fs::write(&control, own).expect("control");
    shop.try_copy(&base, "good", &purpose).expect("good");
}

#[test]
fn what_the_source_set_for_itself_is_not_the_copys() {
    let shop = Shop::archiving();
    for set in [
        "listen_addresses = '10.1.2.3'",
        "primary_conninfo = 'host=elsewhere password=geheim'",
        "recovery_target_name = 'x'",
        "work_mem = '5MB'",
    ] {
        shop.server.sql(&format!("ALTER SYSTEM SET {set}"));
    }
    shop.server.stop("fast");
    let auto = shop.server.data().join("postgresql.auto.conf");
    // The test's server has no such address.
    let text = fs::read_to_string(&auto).expect("auto");
    fs::write(&auto, text.replace("10.1.2.3", "")).expect("auto");
    shop.server.start();
    let base = shop.capture();
    fs::set_permissions(base.sink.at("/postgres/data"), fs::Permissions::from_mode(0o755))
        .expect("chmod");
    let copy = shop.copy(&base, "standby", &Purpose::Standby);
    let data = copy.server.data();
    let mode = fs::metadata(data).expect("data").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let value = |name: &str| setting(data, name).unwrap_or_default();
    assert_eq!(value("primary_conninfo"), "''");
    assert_eq!(value("recovery_target_name"), "''");
    assert_eq!(value("work_mem"), "'5MB'");
    assert_eq!(value("port"), "'5432'");
    assert_eq!(
        value("unix_socket_directories"),
        format!("'{}'", copy.server.socket_dir().display())
    );
    let log = shop.bench.path("log");
    assert_eq!(
        value("restore_command"),
        format!("'{} wal fetch subject %f \"%p\"'", log.display())
    );
    assert_eq!(value("archive_command"), format!("'{} wal push subject \"%p\"'", log.display()));
    assert!(data.join("standby.signal").exists() && !data.join("recovery.signal").exists());
    assert!(shop.newest() > 0);
}

/// What is in a data directory was put there by whoever runs the server. Nothing that is written to a
/// copy of it leads out of that.
#[test]
fn nothing_is_written_through_the_links_of_a_copy() {
    let shop = Shop::new("");
    let precious = shop.bench.path("precious");
    fs::write(&precious, "precious").expect("something outside");
    for name in ["postgresql.conf", "postgresql.auto.conf", "standby.signal", "recovery.signal"] {
        let link = shop.server.data().join(format!(".{name}.mainstay"));
        std::os::unix::fs::symlink(&precious, link).expect("a link");
    }
    let base = shop.capture();
    for (name, purpose) in [
        ("standby", Purpose::Standby),
        ("primary", Purpose::Primary { until: None }),
        ("look", Purpose::Scratch { until: None }),
    ] {
        shop.copy(&base, name, &purpose);
        assert_eq!(fs::read(&precious).expect("read"), b"precious", "{name}");
    }
}
