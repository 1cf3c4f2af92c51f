//! Old copies that lie in a standby's place and become the seed of its copy: what travels, what is
//! shared, what is refused, and that whoever dies leaves the old copy or the new point.

use crate::filesystems::{Kind, Mounted};
use crate::kills::{Scenario, and_more};
use crate::refreshing::{
    LARGE, grow, is_new, joined, never_between, number, version, write_secretly,
};
use crate::rig::{Said, run};
use crate::world::{World, content, state, wait_for};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ADOPT: &[&str] = &["refresh", "docs", "--adopt"];

/// The head is at version 2, and an old copy of version 1 lies where the standby's belongs.
fn beside_an_old_copy(world: &World) {
    let data = world.path("a/data");
    let _ = fs::remove_dir_all(&data);
    grow(&data, 1);
    run(Command::new("cp").arg("-a").arg(&data).arg(world.path("b/data"))).code(0);
    grow(&data, 2);
    world.run("a", &["backup", "docs"]).code(0);
}

fn adopt(world: &World) -> Value {
    let words = ["--json", "refresh", "docs", "--adopt"];
    world.run("b", &words).code(0).json()["services"][0].clone()
}

fn staged_or_aside(world: &World) -> Vec<PathBuf> {
    let items = fs::read_dir(world.path("b")).unwrap().map(|item| item.unwrap().path());
    items.filter(|path| path.to_string_lossy().contains("/data.")).collect()
}

#[test]
fn only_what_differs_from_an_old_copy_travels() {
    let mut shown = 0;
    for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
        let mounted = kind.map(|kind| Mounted::new(kind, 512));
        let place = match &mounted {
            Some(None) => continue,
            Some(Some(mounted)) => mounted.path().to_owned(),
            None => std::env::temp_dir(),
        };
        let world = joined(&place);
        beside_an_old_copy(&world);
        let old = content(&world.path("b/data"));
        world.run("b", &["refresh", "docs"]).code(1).complains("--adopt").complains("--reseed");
        let dry = world.run("b", &[ADOPT, &["--dry-run"]].concat()).code(0);
        dry.says("would adopt what is there");
        assert!(content(&world.path("b/data")) == old, "{kind:?}: it was touched");

        let done = adopt(&world);
        assert_eq!((&done["adopted"], &done["from"]), (&true.into(), &Value::Null), "{done}");
        // Three places of it, what it grew by, and the small files: pieces of 256 KiB.
        assert!(number(&done, "fetched-bytes") < 3 << 20, "{kind:?}: {done}");
        assert!(number(&done, "bytes") > LARGE as u64, "{kind:?}: {done}");
        match kind {
            Some(kind) if kind.clones() => assert!(number(&done, "cloned-files") >= 2, "{done}"),
            Some(_) => assert_eq!(number(&done, "patched-files"), 2, "{done}"),
            None => {}
        }
        if kind.is_some() {
            assert!(number(&done, "written-bytes") < 4 << 20, "{kind:?}: {done}");
        }
        is_new(&world, "adopted");
        assert_eq!(staged_or_aside(&world), [] as [PathBuf; 0], "{kind:?}");
        // From now on it is a copy like any other: the option says nothing about it.
        let again = adopt(&world);
        assert_eq!((&again["unchanged"], &again["adopted"]), (&true.into(), &false.into()));
        fs::write(world.path("b/data/same"), "written to").unwrap();
        let said = world.run("b", ADOPT).code(1).complains("was written to since its last refresh");
        let head = world.points("a").pop().unwrap();
        let said = said.complains("`--adopt` is for what no refresh put there");
        said.complains(head["name"].as_str().unwrap()).complains("refresh docs --reseed");
        shown += 1;
    }
    assert!(shown > 0);
}

#[test]
fn an_adoption_is_killed_at_every_step() {
    let mounted = Mounted::new(Kind::Ext4, 2048);
    let place = mounted.as_ref().map_or(std::env::temp_dir(), |mounted| mounted.path().to_owned());
    let redo = ["place:moved", "redo:1", "redo:3", "redo:6", "redo:done"];
    let scenario = Scenario {
        host: "b",
        kind: "refresh",
        words: ADOPT,
        prepare: beside_an_old_copy,
        dead: |world, at| {
            never_between(world, at);
            let now = content(&world.path("b/data"));
            let placed = at.starts_with("place") || at.starts_with("settle") || at == "end";
            let placed = placed || at.starts_with("redo");
            assert!(placed || now == version(1), "{at}: the old copy was changed");
        },
        again: |world, _| world.run("b", ADOPT).code(0),
        after: is_new,
        guarded: false,
    };
    let between = if mounted.is_some() { &redo[..] } else { &redo[..1] };
    and_more(&joined(&place), &scenario, between);
}

/// Whatever an old copy is, what becomes of it is the point.
#[test]
fn what_looks_like_the_point_and_is_not_is_not_taken_for_it() {
    let world = joined(&std::env::temp_dir());
    let (source, copy) = (world.path("a/data"), world.path("b/data"));
    grow(&source, 1);
    for name in ["linked", "fifo", "link", "shut", "dressed", "directory"] {
        fs::write(source.join(name), format!("{name}\n").repeat(1000)).unwrap();
    }
    fs::create_dir(source.join("elsewhere")).unwrap();
    fs::write(source.join("elsewhere/inner"), "inner").unwrap();
    run(Command::new("cp").arg("-a").arg(&source).arg(&copy)).code(0);
    world.run("a", &["backup", "docs"]).code(0);

    // Other bytes of the same size and time.
    for name in ["same", "sub/disk", "sub/big"] {
        write_secretly(&copy.join(name));
    }
    // Other attributes, and the same bytes and times.
    fs::set_permissions(copy.join("shut"), fs::Permissions::from_mode(0o777)).unwrap();
    let words = ["-n", "user.other", "-v", "1"];
    let dressed = run(Command::new("setfattr").args(words).arg(copy.join("dressed"))).code == 0;
    // A file that is somebody else's, too, who may write to it.
    fs::hard_link(copy.join("linked"), world.path("b/mine")).unwrap();
    // Other kinds of things.
    fs::remove_file(copy.join("fifo")).unwrap();
    run(Command::new("mkfifo").arg(copy.join("fifo"))).code(0);
    fs::remove_file(copy.join("directory")).unwrap();
    fs::create_dir(copy.join("directory")).unwrap();
    fs::write(world.path("b/target"), "link\n".repeat(1000)).unwrap();
    fs::remove_file(copy.join("link")).unwrap();
    symlink(world.path("b/target"), copy.join("link")).unwrap();
    fs::rename(copy.join("elsewhere"), world.path("b/elsewhere")).unwrap();
    symlink(world.path("b/elsewhere"), copy.join("elsewhere")).unwrap();
    fs::write(copy.join("more"), "what the point does not have").unwrap();

    let done = adopt(&world);
    assert!(number(&done, "fetched-bytes") < 4 << 20, "{done}");
    assert!(content(&copy) == content(&source));
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_ne!(inode(&copy.join("linked")), inode(&world.path("b/mine")));
    assert_eq!(fs::read(world.path("b/mine")).unwrap(), b"linked\n".repeat(1000));
    assert_eq!(fs::read(world.path("b/target")).unwrap(), b"link\n".repeat(1000));
    assert_eq!(fs::read(world.path("b/elsewhere/inner")).unwrap(), b"inner");
    if dressed {
        let said = run(Command::new("getfattr").arg("-d").arg(copy.join("dressed"))).code(0);
        assert!(!said.out.contains("user.other"), "{said:#?}");
    }
    world.run("b", &["refresh", "docs"]).code(0).says("already");
    assert_eq!(world.run("b", &["scrub", "docs"]).code(0).code, 0);
}

#[test]
fn what_is_no_copy_is_refused_and_left() {
    let world = joined(&std::env::temp_dir());
    let (source, copy) = (world.path("a/data"), world.path("b/data"));
    grow(&source, 1);
    world.run("a", &["backup", "docs"]).code(0);
    let refused = |why: &str| {
        let before = content(&copy);
        world.run("b", ADOPT).code(1).complains(why).complains("--reseed");
        assert!(content(&copy) == before, "{why}: it was touched");
        assert_eq!(world.staging(), [] as [PathBuf; 0], "{why}");
        assert_eq!(world.status("b")["members"][1]["importing"], false, "{why}");
    };
    // A directory that was named by mistake.
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("letter"), "dear").unwrap();
    // The same name is not the same thing.
    fs::create_dir(copy.join("same")).unwrap();
    refused("nothing in common");
    fs::rename(&copy, world.path("b/home")).unwrap();
    fs::write(&copy, "a file").unwrap();
    refused("is no directory");
    fs::remove_file(&copy).unwrap();
    symlink(world.path("b/home"), &copy).unwrap();
    world.run("b", ADOPT).code(1).complains("is a symbolic link").complains("--reseed");
    assert_eq!(fs::read(world.path("b/home/letter")).unwrap(), b"dear");
    fs::remove_file(&copy).unwrap();
    // A place with nothing in it is no copy, and nothing to be refused.
    let done = adopt(&world);
    assert_eq!((&done["adopted"], &done["seeded"]), (&false.into(), &true.into()), "{done}");
    assert!(content(&copy) == content(&source));
    // Neither option stands for the other.
    world.run("b", &["refresh", "docs", "--adopt", "--reseed"]).complains("cannot be used with");
}

#[test]
fn who_writes_to_an_old_copy_while_it_is_adopted_is_noticed() {
    for name in ["same", "sub/disk", "new"] {
        let world = joined(&std::env::temp_dir());
        beside_an_old_copy(&world);
        let mut command = world.command("b", ADOPT);
        command.env("MAINSTAY_TEST_STOP_AT", "stage:done");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let worker = world.worker("b");
        wait_for("it has read everything", || state(worker) == Some('T'));
        let file = world.path("b/data").join(name);
        match name {
            "new" => fs::write(&file, "new").unwrap(),
            _ => write_secretly(&file),
        }
        let written = content(&world.path("b/data"));
        crate::cancel::cont(worker);
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = Said { code: output.status.code().unwrap_or(-1), out: String::new(), err };
        said.code(1).complains("somebody writes to").complains(name);
        assert!(content(&world.path("b/data")) == written, "{name}: the old copy is as it was");
        assert_eq!(world.staging(), [] as [PathBuf; 0]);
        adopt(&world);
        is_new(&world, name);
    }
}

/// A copy that a redo journal left half written is of no use as it is; of its bytes most are.
#[test]
fn a_copy_that_was_given_up_is_adopted() {
    let Some(mounted) = Mounted::new(Kind::Ext4, 512) else { return };
    let world = joined(mounted.path());
    beside_an_old_copy(&world);
    let mut command = world.command("b", ADOPT);
    assert_eq!(run(command.env("MAINSTAY_TEST_KILL_AT", "redo:2")).code, 137);
    fs::remove_file(world.path("b/data/sub/log")).unwrap();
    world.run("b", &["refresh", "docs"]).code(1).complains("of no use any more");
    world.run("b", &["may-start", "docs"]).code(1);
    let done = adopt(&world);
    let log = LARGE as u64 / 4;
    assert!(number(&done, "fetched-bytes") < log + (4 << 20), "{done}");
    is_new(&world, "adopted");
}

#[test]
fn an_old_database_is_adopted_with_the_journal_beside_it() {
    for kind in [None, Some(Kind::Ext4)] {
        let mounted = kind.map(|kind| Mounted::new(kind, 512));
        let place = match &mounted {
            Some(None) => continue,
            Some(Some(mounted)) => mounted.path().to_owned(),
            None => std::env::temp_dir(),
        };
        let world = World::new_in(&place, "sqlite", "");
        world.run("a", &["init"]).code(0);
        world.run("b", &["init"]).code(0);
        let open = |path: PathBuf| rusqlite::Connection::open(path).unwrap();
        let source = open(world.path("a/data"));
        source
            .execute_batch(
                "pragma journal_mode = wal; create table t (x integer primary key, y blob); with \
                 recursive n(i) as (select 1 union all select i + 1 from n where i < 2000) insert \
                 into t select i, randomblob(4000) from n; pragma wal_checkpoint(truncate);",
            )
            .unwrap();
        // An old copy, into which a program wrote that was killed.
        fs::copy(world.path("a/data"), world.path("b/elsewhere")).unwrap();
        let killed = open(world.path("b/elsewhere"));
        let insert = "insert into t (y) values (randomblob(90000))";
        killed.execute_batch(&format!("pragma wal_autocheckpoint = 0; {insert}")).unwrap();
        for (from, to) in [("elsewhere", "data"), ("elsewhere-wal", "data-wal")] {
            fs::copy(world.path("b").join(from), world.path("b").join(to)).unwrap();
        }
        assert!(fs::metadata(world.path("b/data-wal")).unwrap().len() > 90_000);
        source.execute_batch("delete from t where x = 1000; delete from t where x = 7").unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        let done = adopt(&world);
        assert_eq!(done["adopted"], true, "{done}");
        assert!(!world.path("b/data-wal").exists());
        let copy = open(world.path("b/data"));
        let row = |sql: &str| -> String { copy.query_row(sql, [], |row| row.get(0)).unwrap() };
        assert_eq!(row("pragma integrity_check"), "ok");
        assert_eq!(row("select count(*) || ' ' || max(x) from t"), "1998 2000");
        drop(copy);
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
}
