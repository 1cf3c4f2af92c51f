//! Standbys: what somebody wrote to one is noticed before it is touched, and a refresh costs what
//! changed.

use crate::cancel::cont;
use crate::rig::run;
use crate::world::{CONTROLLED, World, content, fill, state, wait_for};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn behind() -> World {
    let world = World::new("files", "");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    world
}

/// What was put aside beside a place.
fn aside(world: &World) -> Vec<PathBuf> {
    let items = fs::read_dir(world.path("b")).unwrap().map(|item| item.unwrap().path());
    items.filter(|path| path.to_string_lossy().contains("/data.diverged-")).collect()
}

fn change_secretly(file: &Path) {
    let like = file.with_extension("like");
    let run = |words: &[&str]| {
        assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
    };
    let (file, like) = (file.to_str().unwrap(), like.to_str().unwrap());
    run(&["touch", "-r", file, like]);
    let mut bytes = fs::read(file).unwrap();
    bytes[0] ^= 1;
    fs::write(file, bytes).unwrap();
    run(&["touch", "-r", like, file]);
    fs::remove_file(like).unwrap();
}

#[test]
fn a_write_to_a_tree_is_noticed() {
    type Change = fn(&Path);
    let changes: [(&str, &str, Change); 4] = [
        ("content", "same", |dir| change_secretly(&dir.join("same"))),
        ("new", "sub/mine", |dir| fs::write(dir.join("sub/mine"), "mine").unwrap()),
        ("gone", "sub/big", |dir| fs::remove_file(dir.join("sub/big")).unwrap()),
        ("mode", "same", |dir| {
            fs::set_permissions(dir.join("same"), fs::Permissions::from_mode(0o600)).unwrap();
        }),
    ];
    let world = behind();
    for (what, name, change) in changes {
        let place = world.path("b/data");
        change(&place);
        let written = content(&place);
        let said = world.run("b", &["refresh", "docs"]).code(1).complains("was written to");
        assert!(said.err.contains(name), "{what}: {said:#?}");
        assert!(said.err.contains("--reseed"), "{what}: {said:#?}");
        assert!(content(&place) == written, "{what}: it was touched");
        // Neither can it take over.
        let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested"];
        world.run("b", &words).code(1);
        world.run("b", &["refresh", "docs", "--reseed"]).code(0);
        assert!(content(&place) == content(&world.path("a/data")), "{what}");
        let kept: Vec<_> = aside(&world).into_iter().filter(|a| content(a) == written).collect();
        assert_eq!(kept.len(), 1, "{what}");
        fs::remove_dir_all(&kept[0]).unwrap();
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
}

#[test]
fn a_write_to_a_database_is_noticed() {
    let world = World::new("sqlite", "");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    let open = |path: PathBuf| rusqlite::Connection::open(path).unwrap();
    let source = open(world.path("a/data"));
    source.execute_batch("pragma journal_mode = wal; create table t (x);").unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    source.execute_batch("insert into t values (1)").unwrap();
    world.run("a", &["backup", "docs"]).code(0);

    // A write that is only in the journal beside the file, as a killed application leaves it.
    fs::copy(world.path("b/data"), world.path("elsewhere")).unwrap();
    let killed = open(world.path("elsewhere"));
    killed.execute_batch("pragma wal_autocheckpoint = 0; insert into t values (99)").unwrap();
    fs::copy(world.path("elsewhere-wal"), world.path("b/data-wal")).unwrap();
    world.run("b", &["refresh", "docs"]).code(1).complains("was written to");
    world.run("b", &["refresh", "docs", "--reseed"]).code(0);
    assert!(!world.path("b/data-wal").exists());
    let rows = |path: PathBuf| -> Vec<i64> {
        let connection = open(path);
        let mut query = connection.prepare("select x from t").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    // Nothing was lost: the row is in the copy that was put aside.
    let kept = aside(&world);
    assert_eq!(kept.len(), 1);
    assert_eq!(rows(kept[0].clone()), [99]);

    open(world.path("b/data")).execute_batch("insert into t values (98)").unwrap();
    world.run("b", &["refresh", "docs"]).code(1).complains("was written to");
    world.run("b", &["refresh", "docs", "--reseed"]).code(0);
    assert_eq!(rows(world.path("b/data")), [1]);
}

#[test]
fn data_that_no_refresh_put_there_is_not_touched() {
    let world = behind();
    fs::remove_dir_all(world.path("b/data")).unwrap();
    fs::remove_file(world.path("b/state/services/docs/member.json")).unwrap();
    fill(&world.path("b/data"), 1);
    world.run("b", &["refresh", "docs"]).code(1).complains("--reseed");
    assert!(world.path("b/data/old").exists());
    world.run("b", &["refresh", "docs", "--reseed"]).code(0);
    assert!(aside(&world)[0].join("old").exists());
}

#[test]
fn a_refresh_costs_what_changed() {
    let world = World::new("files", "");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    let numbers = |words: &[&str]| {
        let said = world.run("b", words).code(0).json();
        let one = said["services"][0].clone();
        (one["bytes"].as_u64().unwrap(), one["fetched-bytes"].as_u64().unwrap())
    };
    let words = ["--json", "refresh", "docs"];
    let (bytes, seeded) = numbers(&words);
    assert!(bytes > 1_000_000 && seeded >= bytes, "{bytes} {seeded}");
    fs::write(world.path("a/data/changed"), vec![7; 3000]).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let (bytes, fetched) = numbers(&words);
    assert!(bytes > 1_000_000 && (3000..10_000).contains(&fetched), "{bytes} {fetched}");
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
}

#[test]
fn what_its_engine_refuses_does_not_bar_the_way() {
    let scripts = "exporter = \"@HERE@/export\"\nimporter = \"@HERE@/import\"\n";
    let world = World::new("script", scripts);
    let (source, loaded) = (world.path("source"), world.path("loaded"));
    world.script(
        "export",
        &format!(
            "cp {} \"$MAINSTAY_BACKUP_DIR/dump\"\n\
             echo \"{{\\\"export-id\\\": \\\"$MAINSTAY_EXPORT_ID\\\", \
             \\\"source-time\\\": \\\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\\\"}}\"\n",
            source.display()
        ),
    );
    world.script(
        "import",
        &format!(
            "if grep -q bad \"$MAINSTAY_BACKUP_DIR/dump\"; then exit 1; fi\n\
             cp \"$MAINSTAY_BACKUP_DIR/dump\" {}\n",
            loaded.display()
        ),
    );
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fs::create_dir_all(world.path("a/data")).unwrap();
    for (text, code) in [("good", 0), ("bad", 1), ("better", 0)] {
        fs::write(&source, text).unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        let said = world.run("b", &["refresh", "docs"]).code(code);
        assert!(world.unfinished("b").is_empty(), "{text}: {said:#?}");
        let members = world.status("b")["members"].clone();
        assert_eq!(members[1]["importing"], code == 1, "{text}: {members}");
        if code == 1 {
            // It says so again, instead of taking the point for one that it holds.
            world.run("b", &["refresh", "docs"]).code(1);
            let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested"];
            assert_ne!(world.run("b", &words).code, 0);
            assert_eq!(world.status("a")["primary"], "a");
            assert_eq!(fs::read_to_string(&loaded).unwrap(), "good");
        } else {
            assert_eq!(fs::read_to_string(&loaded).unwrap(), text);
        }
    }
}

/// A service of one number, for what must hold of every engine whose copy is exchanged.
#[derive(Clone, Copy, Debug)]
struct OfOne {
    engine: &'static str,
    lines: &'static str,
    write: fn(&World, u32),
    read: fn(&World) -> u32,
    /// Somebody writes to the copy.
    spoil: fn(&World),
}

const OF_ONE: [OfOne; 3] = [
    OfOne {
        engine: "files",
        lines: "",
        write: |world, number| {
            fs::create_dir_all(world.path("a/data")).unwrap();
            fs::write(world.path("a/data/number"), number.to_string()).unwrap();
        },
        read: |world| fs::read_to_string(world.path("b/data/number")).unwrap().parse().unwrap(),
        spoil: |world| fs::write(world.path("b/data/mine"), "mine").unwrap(),
    },
    OfOne {
        engine: "sqlite",
        lines: "",
        write: |world, number| {
            let database = rusqlite::Connection::open(world.path("a/data")).unwrap();
            let sql = "create table if not exists t (x); delete from t;";
            database.execute_batch(&format!("{sql} insert into t values ({number})")).unwrap();
        },
        read: |world| {
            let database = rusqlite::Connection::open_with_flags(
                world.path("b/data"),
                rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
            );
            database.unwrap().query_row("select x from t", [], |row| row.get(0)).unwrap()
        },
        spoil: |world| {
            let database = rusqlite::Connection::open(world.path("b/data")).unwrap();
            database.execute_batch("insert into t values (99)").unwrap();
        },
    },
    OfOne {
        engine: "script",
        lines: "exporter = \"@HERE@/export\"\nimporter = \"@HERE@/import\"\n",
        write: |world, number| {
            fs::create_dir_all(world.path("a/data")).unwrap();
            fs::write(world.path("a/number"), number.to_string()).unwrap();
            let export = "cp \"$MAINSTAY_BACKUP_DIR/../number\" \"$MAINSTAY_BACKUP_DIR/dump\"\n\
                          echo \"{\\\"export-id\\\": \\\"$MAINSTAY_EXPORT_ID\\\", \\\"source-time\\\": \
                          \\\"$(date -u +%Y-%m-%dT%H:%M:%S.%NZ)\\\"}\"\n";
            let import = "cp \"$MAINSTAY_BACKUP_DIR/dump\" \"$MAINSTAY_BACKUP_DIR/../loaded\"\n";
            for (name, text) in [("export", export), ("import", import)] {
                world.script(name, text);
            }
        },
        read: |world| fs::read_to_string(world.path("b/loaded")).unwrap().parse().unwrap(),
        spoil: |world| fs::write(world.path("b/data/dump"), "99").unwrap(),
    },
];

impl OfOne {
    /// Both have joined; the standby holds the first point, and there is a second.
    fn behind(&self) -> World {
        let world = World::new(self.engine, &format!("{}{CONTROLLED}", self.lines));
        (self.write)(&world, 1);
        world.run("a", &["init"]).code(0);
        world.run("b", &["init"]).code(0);
        world.run("a", &["backup", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        (self.write)(&world, 2);
        world.run("a", &["backup", "docs"]).code(0);
        world
    }

    /// What the standby has, on disk and by its own word.
    fn copy(&self, world: &World) -> (Option<crate::world::Tree>, u32) {
        (content(&world.path("b/data")), (self.read)(world))
    }
}

/// A service that works with the copy is not ours to stop, unless somebody says that the copy goes.
#[test]
fn a_standby_that_runs_is_refused_and_stopped_only_if_its_copy_is_given_up() {
    for one in OF_ONE {
        let world = one.behind();
        let before = one.copy(&world);
        assert_eq!(world.service("b", "start"), 0);
        let said = world.run("b", &["refresh", "docs"]).code(1).complains("runs on this standby");
        said.complains("Stop it");
        assert!(one.copy(&world) == before && world.serves("b"), "{}", one.engine);
        assert_eq!(world.status("b")["members"][1]["importing"], false);
        world.service("b", "stop");
        world.run("b", &["refresh", "docs"]).code(0);
        assert_eq!((one.read)(&world), 2, "{}", one.engine);

        assert_eq!(world.service("b", "start"), 0);
        let last = one.copy(&world).0;
        (one.write)(&world, 3);
        world.run("a", &["backup", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(1);
        world.run("b", &["refresh", "docs", "--reseed"]).code(0);
        assert!(!world.serves("b"), "{}: we stopped it, and a standby does not serve", one.engine);
        world.run("b", &["may-start", "docs"]).code(1);
        assert_eq!((one.read)(&world), 3, "{}", one.engine);
        assert!(aside(&world).iter().any(|kept| content(kept) == last), "{}", one.engine);
    }
}

/// Building the new copy takes time, and somebody may start what works with the old one meanwhile.
#[test]
fn a_standby_that_is_started_while_its_copy_is_built_keeps_it() {
    for one in OF_ONE {
        let world = one.behind();
        let before = one.copy(&world);
        let mut command = world.command("b", &["refresh", "docs"]);
        command.env("MAINSTAY_TEST_STOP_AT", "prepare:done");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let worker = world.worker("b");
        wait_for("it is built", || state(worker) == Some('T'));
        assert_eq!(world.service("b", "start"), 0);
        cont(worker);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}: {said}", one.engine);
        assert!(said.contains("somebody has started docs"), "{}: {said}", one.engine);
        assert!(one.copy(&world) == before && world.serves("b"), "{}", one.engine);
        assert_eq!(world.staging(), [] as [PathBuf; 0]);
        assert!(world.unfinished("b").is_empty());
        world.service("b", "stop");
        world.run("b", &["refresh", "docs"]).code(0);
        assert_eq!((one.read)(&world), 2, "{}", one.engine);
    }
}

#[test]
fn a_standby_of_any_engine_that_was_written_to_is_refused() {
    for one in OF_ONE {
        let world = one.behind();
        (one.spoil)(&world);
        let spoilt = one.copy(&world);
        world.run("b", &["refresh", "docs"]).code(1).complains("was written to");
        assert!(one.copy(&world) == spoilt, "{}", one.engine);
        world.run("b", &["refresh", "docs", "--reseed"]).code(0);
        assert_eq!((one.read)(&world), 2, "{}", one.engine);
        assert!(aside(&world).iter().any(|kept| content(kept) == spoilt.0), "{}", one.engine);
    }
}

/// A vault that went back does not have what the standby holds, and holds nothing that came after it.
#[test]
fn a_standby_that_is_no_ancestor_of_what_comes_is_refused() {
    for one in OF_ONE {
        let world = one.behind();
        let vault = world.path("vault");
        let (copy, lost) = (world.path("old-vault"), world.path("lost-vault"));
        run(Command::new("cp").arg("-a").arg(&vault).arg(&copy)).code(0);
        (one.write)(&world, 3);
        world.run("a", &["backup", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        fs::rename(&vault, lost).unwrap();
        fs::rename(&copy, &vault).unwrap();
        let held = one.copy(&world);
        world.run("b", &["refresh", "docs"]).code(1).complains("mainstay vault accept");
        for host in ["a", "b"] {
            world.run(host, &["vault", "accept", "docs", "--yes"]).code(0);
        }
        let said = world.run("b", &["refresh", "docs"]).code(1).complains("is not in the history");
        said.complains("--reseed");
        assert!(one.copy(&world) == held, "{}: it was touched", one.engine);
        assert_eq!(world.status("b")["members"][1]["importing"], false);
        world.run("b", &["refresh", "docs", "--reseed"]).code(0);
        assert_eq!((one.read)(&world), 2, "{}", one.engine);
        assert!(aside(&world).iter().any(|kept| content(kept) == held.0), "{}", one.engine);
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
}

/// Out of service, restored, and back: the standby holds what was asked for, and goes on from there.
#[test]
fn a_standby_that_is_offline_is_restored_and_goes_on_when_it_is_back() {
    for one in OF_ONE {
        let world = one.behind();
        world.run("b", &["refresh", "docs"]).code(0);
        let first = world.points("a")[0].clone();
        world.run("b", &["offline", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(1).complains("is offline");
        let words = ["restore", "docs", "--snapshot", first["name"].as_str().unwrap(), "--replace"];
        world.run("b", &words).code(0);
        assert_eq!((one.read)(&world), 1, "{}", one.engine);
        assert!(!world.serves("b"));
        assert_eq!(world.status("b")["members"][1]["holds"], first["source-time"]);
        // Where there is no log, a time means the newest point that is not later.
        let words =
            ["restore", "docs", "--at", first["source-time"].as_str().unwrap(), "--replace"];
        world.run("b", &words).code(0);
        assert_eq!((one.read)(&world), 1, "{}", one.engine);
        assert_eq!(world.status("b")["members"][1]["holds"], first["source-time"]);
        world.run("b", &["refresh", "docs"]).code(1).complains("is offline");
        world.run("b", &["online", "docs"]).code(0);
        assert!(!world.serves("b"), "{}: a standby of this kind does not run", one.engine);
        world.run("b", &["refresh", "docs"]).code(0);
        assert_eq!((one.read)(&world), 2, "{}", one.engine);
    }
}
