//! How a refresh is done on each file system: what it costs, that it is never between two points, and
//! what stands in its way.

use crate::cancel::{cont, held, outcome};
use crate::filesystems::{Kind, Mounted};
use crate::kills::{Scenario, and_more, refresh_again};
use crate::rig::{Said, run};
use crate::world::{Tree, Versions, World, content, fill};
use repository::BlobId;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Large enough that nobody wants to write it anew for a few bytes.
pub(crate) const LARGE: usize = 24 << 20;

/// Bytes that neither repeat nor compress.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The small tree of a version, and a large file of which little differs between the two.
pub(crate) fn grow(dir: &Path, version: u8) {
    fill(dir, version);
    let (disk, log) = (dir.join("sub/disk"), dir.join("sub/log"));
    if version == 1 {
        fs::write(&disk, noise(LARGE, 7)).unwrap();
        fs::write(&log, noise(LARGE / 3, 8)).unwrap();
        return;
    }
    let file = File::options().write(true).open(&disk).unwrap();
    for at in [5000, 9 << 20, (20 << 20) + 17] {
        file.write_all_at(&noise(50_000, at), at).unwrap();
    }
    // It grows, the other one shrinks.
    file.write_all_at(&noise(70_000, 3), LARGE as u64).unwrap();
    File::options().write(true).open(&log).unwrap().set_len(LARGE as u64 / 4).unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Both hosts have joined, the standby is at version 1, and the head is at version 2.
fn behind(world: &World) {
    let data = world.path("a/data");
    let _ = fs::remove_dir_all(&data);
    grow(&data, 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    grow(&data, 2);
    world.run("a", &["backup", "docs"]).code(0);
}

/// What is worth patching is not left to where a vault happens to cut: that differs from vault to
/// vault.
pub(crate) fn joined(parent: &Path) -> World {
    let world = World::new_in(parent, "files", "chunk-size = \"256 KiB\"\n");
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    world
}

pub(crate) fn version(number: u8) -> Option<Tree> {
    static VERSIONS: Versions = Versions::of(grow);
    VERSIONS.get(number)
}

pub(crate) fn refresh(world: &World) -> Value {
    world.run("b", &["--json", "refresh", "docs"]).code(0).json()["services"][0].clone()
}

#[track_caller]
pub(crate) fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn a_refresh_writes_and_takes_what_changed() {
    for kind in Kind::ALL {
        let Some(mounted) = Mounted::new(kind, 512) else { continue };
        let world = joined(mounted.path());
        behind(&world);
        let (used, written) = (mounted.used(), mounted.written());
        // Dead where all of the new point is there beside the old one: that is the most it takes.
        let mut command = world.command("b", &["refresh", "docs"]);
        assert_eq!(run(command.env("MAINSTAY_TEST_KILL_AT", "place:begin")).code, 137);
        let most = mounted.used().saturating_sub(used);
        assert!(most < 6 << 20, "{kind:?}: {most} bytes more are in use");
        refresh(&world);
        assert!(content(&world.path("b/data")) == version(2), "{kind:?}");
        let bytes = mounted.written() - written;
        assert!(bytes < 16 << 20, "{kind:?}: {bytes} bytes were written to the disk");

        // And as it says itself, of the way back.
        fs::remove_dir_all(world.path("a/data")).unwrap();
        grow(&world.path("a/data"), 1);
        world.run("a", &["backup", "docs"]).code(0);
        let done = refresh(&world);
        assert!(number(&done, "bytes") > LARGE as u64, "{kind:?}: {done}");
        // A third of a large file that it had cut off comes back.
        assert!(number(&done, "written-bytes") < 4 << 20, "{kind:?}: {done}");
        assert!(number(&done, "fetched-bytes") < 16 << 20, "{kind:?}: {done}");
        // Written anew, all files have other times: small ones may be cloned, but are not patched.
        let (cloned, patched) = (number(&done, "cloned-files"), number(&done, "patched-files"));
        match kind.clones() {
            true => assert!(cloned >= 2 && patched == 0, "{kind:?}: {done}"),
            false => assert!(cloned == 0 && patched == 2, "{kind:?}: {done}"),
        }
        assert!(content(&world.path("b/data")) == version(1), "{kind:?}");
        // Nothing of it looks as if somebody had written to it.
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
}

/// What is on disk is the old point or the new one, or it may be and is half written, and then the
/// gate says so.
#[track_caller]
pub(crate) fn is_whole_or_barred(
    world: &World,
    now: &Option<Tree>,
    versions: fn(u8) -> Option<Tree>,
    may_be_half: bool,
    at: &str,
) {
    if *now == versions(1) || *now == versions(2) {
        return;
    }
    assert!(may_be_half, "{at}: neither old nor new");
    let said = world.run("b", &["may-start", "docs"]).code(1);
    assert!(said.err.contains("half changed"), "{at}: {said:#?}");
}

/// Where a copy is exchanged, files are changed in their place when it has its name.
pub(crate) fn never_between(world: &World, at: &str) {
    let may_be_half = at == "place:moved" || at.starts_with("redo:");
    is_whole_or_barred(world, &content(&world.path("b/data")), version, may_be_half, at);
}

pub(crate) fn is_new(world: &World, at: &str) {
    holds(world, &version(2), at);
}

/// The standby has this and nothing else, and knows what it holds, and so does everybody.
#[track_caller]
pub(crate) fn holds(world: &World, expected: &Option<Tree>, at: &str) {
    assert!(content(&world.path("b/data")) == *expected, "{at}");
    world.run("b", &["refresh", "docs"]).code(0).says("already");
    let members = world.status("b")["members"].clone();
    assert_eq!(members[1]["importing"], false, "{at}: {members}");
    let said = world.run("b", &["may-start", "docs"]).code(1);
    assert!(!said.err.contains("half changed"), "{at}: {said:#?}");
}

pub(crate) const REFRESH: Scenario = Scenario {
    host: "b",
    kind: "refresh",
    words: &["refresh", "docs"],
    prepare: behind,
    dead: never_between,
    again: refresh_again,
    after: is_new,
    guarded: false,
};

/// All deaths of a refresh on a file system of this kind.
pub(crate) fn killed_everywhere(kind: Kind, scenario: &Scenario, between: &[&str]) {
    let Some(mounted) = Mounted::new(kind, 2048) else { return };
    and_more(&joined(mounted.path()), scenario, between);
}

#[test]
fn a_refresh_with_clones_on_xfs_is_killed_at_every_step() {
    killed_everywhere(Kind::Xfs, &REFRESH, &["place:moved"]);
}

#[test]
fn a_refresh_with_clones_on_btrfs_is_killed_at_every_step() {
    killed_everywhere(Kind::Btrfs, &REFRESH, &["place:moved"]);
}

#[test]
fn a_refresh_through_a_redo_journal_is_killed_at_every_step() {
    let between = ["place:moved", "redo:1", "redo:3", "redo:6", "redo:done"];
    killed_everywhere(Kind::Ext4, &REFRESH, &between);
}

/// A refresh whose worker stands still at a place, and that worker's number.
pub(crate) fn held_at(world: &World, place: &str) -> (Child, u32) {
    held(world, "b", &["refresh", "docs"], place)
}

#[track_caller]
pub(crate) fn ended(child: Child, code: i32) -> Said {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code_was = output.status.code().unwrap_or(-1);
    Said { code: code_was, out: text(&output.stdout), err: text(&output.stderr) }.code(code)
}

#[test]
fn a_cancel_leaves_the_old_point_or_comes_too_late() {
    for kind in [Kind::Xfs, Kind::Ext4] {
        let Some(mounted) = Mounted::new(kind, 512) else { continue };
        let world = joined(mounted.path());
        behind(&world);
        let (child, worker) = held_at(&world, "stage:done");
        world.run("b", &["cancel", "docs"]).code(0);
        cont(worker);
        ended(child, 130);
        assert_eq!(outcome(&world, "b"), "cancelled");
        assert!(content(&world.path("b/data")) == version(1), "{kind:?}");
        assert_eq!(world.staging(), [] as [PathBuf; 0], "{kind:?}");
        // Past the marker there is only forward.
        let place = if kind.clones() { "place:moved" } else { "redo:2" };
        let (child, worker) = held_at(&world, place);
        world.run("b", &["cancel", "docs"]).code(0);
        cont(worker);
        ended(child, 0);
        assert_eq!(outcome(&world, "b"), "done");
        is_new(&world, place);
        assert_eq!(world.staging(), [] as [PathBuf; 0], "{kind:?}");
    }
}

/// Writes to a file in its place, and takes back what that did to its time.
pub(crate) fn write_secretly(file: &Path) {
    let meta = fs::metadata(file).unwrap();
    let open = File::options().write(true).open(file).unwrap();
    open.write_all_at(b"!", meta.len() / 2).unwrap();
    open.set_modified(meta.modified().unwrap()).unwrap();
}

#[test]
fn who_writes_to_the_copy_meanwhile_is_noticed() {
    // Files that do not change are the same files in both copies, and so are those that are patched:
    // between the look at the copy and the new names of its files, and after that.
    for (place, name) in [
        ("stage:begin", "same"),
        ("stage:begin", "sub/disk"),
        ("stage:done", "same"),
        ("stage:done", "sub/disk"),
    ] {
        let world = joined(&std::env::temp_dir());
        behind(&world);
        let (child, worker) = held_at(&world, place);
        write_secretly(&world.path("b/data").join(name));
        cont(worker);
        ended(child, 1).complains("was written to").complains(name);
        assert_eq!(world.staging(), [] as [PathBuf; 0]);
        assert!(world.path("b/data/old").exists(), "the old point is in place");
        // And again, with nothing in its way any more but what was written.
        world.run("b", &["refresh", "docs"]).code(1).complains(name);
        world.run("b", &["refresh", "docs", "--reseed"]).code(0);
        assert!(content(&world.path("b/data")) == version(2), "{name}");
    }
}

#[test]
fn a_refresh_that_was_given_up_leaves_nothing_in_the_way_of_the_next() {
    let world = joined(&std::env::temp_dir());
    behind(&world);
    for _ in 0..2 {
        // Hard links came and went, which moved times of the copy's files.
        let mut command = world.command("b", &["refresh", "docs"]);
        assert_eq!(run(command.env("MAINSTAY_TEST_KILL_AT", "stage:done")).code, 137);
    }
    assert_eq!(number(&refresh(&world), "bytes"), fs_bytes(&world.path("a/data")));
    is_new(&world, "again");
}

fn fs_bytes(dir: &Path) -> u64 {
    content(dir).unwrap().values().map(|(_, bytes)| bytes.len() as u64).sum()
}

#[test]
fn space_is_asked_for_by_what_changed() {
    let Some(mounted) = Mounted::new(Kind::Ext4, 96) else { return };
    // Only the standby is on it: twice what it holds would not fit.
    let world = World::new("files", "");
    let data = mounted.path().join("data");
    let file = world.path("b/mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    let place = world.path("b/data").display().to_string();
    fs::write(&file, text.replace(&place, &data.display().to_string())).unwrap();
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    let source = world.path("a/data");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("disk"), noise(50 << 20, 1)).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    let disk = File::options().write(true).open(source.join("disk")).unwrap();
    disk.write_all_at(&noise(1 << 20, 2), 10 << 20).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let done = refresh(&world);
    assert_eq!(number(&done, "patched-files"), 1, "{done}");
    assert!(content(&data) == content(&source));
    // Too much of it changes: refused, with both figures, before anything is touched.
    let before = content(&data);
    fs::write(source.join("disk"), noise(50 << 20, 3)).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let said = world.run("b", &["refresh", "docs"]).code(1).complains("too little space");
    assert!(said.err.contains("are free") && said.err.contains("are needed"), "{said:#?}");
    assert!(content(&data) == before);
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 2, "data and lost+found");
    drop(world);
}

#[test]
fn what_is_patched_gets_its_attributes_too() {
    let Some(mounted) = Mounted::new(Kind::Ext4, 512) else { return };
    let world = joined(mounted.path());
    let (disk, copy) = (world.path("a/data/sub/disk"), world.path("b/data/sub/disk"));
    behind(&world);
    refresh(&world);
    let set = |words: &[&str]| run(Command::new("setfattr").args(words).arg(&disk)).code(0);
    set(&["-n", "user.old", "-v", "1"]);
    world.run("a", &["backup", "docs"]).code(0);
    assert_eq!(number(&refresh(&world), "patched-files"), 1);
    set(&["-x", "user.old"]);
    set(&["-n", "user.new", "-v", "2"]);
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o604)).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    let inode = fs::metadata(&copy).unwrap().ino();
    let done = refresh(&world);
    // Nothing of the content was written.
    assert_eq!((number(&done, "patched-files"), number(&done, "written-bytes")), (1, 0), "{done}");
    let (was, is) = (fs::metadata(&disk).unwrap(), fs::metadata(&copy).unwrap());
    assert_eq!(is.ino(), inode);
    assert_eq!((is.mode(), is.len(), is.mtime()), (was.mode(), was.len(), was.mtime()));
    let said = run(Command::new("getfattr").arg("-d").arg(&copy)).code(0);
    assert!(said.out.contains("user.new=\"2\"") && !said.out.contains("user.old"), "{said:#?}");
    // A file that is renamed is the new one's, and one with a second name is written anew.
    fs::rename(&disk, disk.with_file_name("moved")).unwrap();
    fs::hard_link(world.path("a/data/sub/log"), world.path("a/data/log-again")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);
    assert_eq!(number(&refresh(&world), "patched-files"), 0);
    assert!(content(&world.path("b/data")) == content(&world.path("a/data")));
}

#[test]
fn a_redo_journal_that_is_damaged_does_not_bar_the_way() {
    redo_that_fails(damage);
}

#[test]
fn a_file_that_cannot_be_patched_any_more_does_not_bar_the_way() {
    redo_that_fails(|world| fs::remove_file(world.path("b/data/sub/log")).unwrap());
}

#[test]
fn a_redo_journal_that_somebody_else_wrote_is_not_applied() {
    redo_that_fails(|world| {
        let mut other = b"mainstay redo 1\n".to_vec();
        let mut record = |head: String, data: &[u8]| {
            for part in [head.as_bytes(), data] {
                other.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
                other.extend_from_slice(part);
            }
            other.clone()
        };
        let range = json!({"what": "range", "path": "sub/log", "at": 0}).to_string();
        let sum = BlobId::of(&record(range, OTHERS)).0;
        let other = record(json!({"what": "end", "records": 1}).to_string(), &sum);
        let beside = world.path("other");
        fs::write(&beside, other).unwrap();
        fs::rename(&beside, redo(world)).unwrap();
    });
}

/// What the journal of somebody else writes.
const OTHERS: &[u8] = b"not what was written here";

fn redo(world: &World) -> PathBuf {
    let found =
        world.staging().into_iter().find(|path| path.extension().is_some_and(|e| e == "redo"));
    found.expect("a redo journal")
}

fn damage(world: &World) {
    let redo = File::options().read(true).write(true).open(redo(world)).unwrap();
    let mut byte = [0];
    redo.read_exact_at(&mut byte, 100_000).unwrap();
    redo.write_all_at(&[byte[0] ^ 1], 100_000).unwrap();
}

fn redo_that_fails(hinder: fn(&World)) {
    let Some(mounted) = Mounted::new(Kind::Ext4, 512) else { return };
    let world = joined(mounted.path());
    behind(&world);
    let mut command = world.command("b", &["refresh", "docs"]);
    assert_eq!(run(command.env("MAINSTAY_TEST_KILL_AT", "redo:2")).code, 137);
    hinder(&world);
    // The copy is lost, and everybody is told so.
    world
        .run("b", &["refresh", "docs"])
        .code(1)
        .complains("of no use any more")
        .complains("--reseed");
    let log = fs::read(world.path("b/data/sub/log")).unwrap_or_default();
    assert!(!log.starts_with(OTHERS));
    assert!(world.unfinished("b").is_empty());
    assert_eq!(world.staging(), [] as [PathBuf; 0]);
    let said = world.run("b", &["may-start", "docs"]).code(1);
    assert!(said.err.contains("refused"), "{said:#?}");
    assert_eq!(world.status("b")["members"][1]["importing"], true);
    let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested"];
    assert_ne!(world.run("b", &words).code, 0);
    world.run("b", &["refresh", "docs", "--reseed"]).code(0);
    assert!(content(&world.path("b/data")) == version(2));
    assert_eq!(world.status("b")["members"][1]["importing"], false);
}

#[test]
fn the_old_copy_does_not_come_back_as_the_new_one() {
    let world = joined(&std::env::temp_dir());
    behind(&world);
    let mut command = world.command("b", &["refresh", "docs"]);
    assert_eq!(run(command.env("MAINSTAY_TEST_KILL_AT", "place:moved")).code, 137);
    fs::remove_dir_all(world.path("b/data")).unwrap();
    // What is left of the old one is kept, and the new one is built again.
    let said = world.run("b", &["refresh", "docs"]).code(0);
    said.complains("of no use any more").complains("data.left-");
    is_new(&world, "again");
    assert_eq!(world.staging(), [] as [PathBuf; 0]);
}

fn rows(path: &Path) -> i64 {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let uri = format!("file:{}?immutable=1", path.display());
    let connection = rusqlite::Connection::open_with_flags(uri, flags).unwrap();
    let sound: String =
        connection.query_row("pragma integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    connection.query_row("select count(*) from t", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_database_is_cloned_or_patched() {
    for kind in Kind::ALL {
        let Some(mounted) = Mounted::new(kind, 512) else { continue };
        let world = World::new_in(mounted.path(), "sqlite", "");
        world.run("a", &["init"]).code(0);
        world.run("b", &["init"]).code(0);
        let source = rusqlite::Connection::open(world.path("a/data")).unwrap();
        source
            .execute_batch(
                "create table t (x integer primary key, y blob); with recursive n(i) as (select 1 \
                 union all select i + 1 from n where i < 3000) insert into t select i, \
                 randomblob(4000) from n;",
            )
            .unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        world.run("b", &["refresh", "docs"]).code(0);
        source.execute_batch("insert into t (y) values (randomblob(4000))").unwrap();
        world.run("a", &["backup", "docs"]).code(0);
        let copy = world.path("b/data");
        assert_eq!(rows(&copy), 3000);
        if !kind.clones() {
            // Half written, the gate is shut, and the next command brings it to its end.
            let mut command = world.command("b", &["refresh", "docs"]);
            assert_eq!(run(command.env("MAINSTAY_TEST_KILL_AT", "redo:1")).code, 137);
            let said = world.run("b", &["may-start", "docs"]).code(1);
            assert!(said.err.contains("half changed"), "{said:#?}");
            world.run("b", &["refresh", "docs"]).code(0).says("already");
            assert_eq!(rows(&copy), 3001);
            source.execute_batch("insert into t (y) values (randomblob(4000))").unwrap();
            world.run("a", &["backup", "docs"]).code(0);
        }
        let done = refresh(&world);
        let how = if kind.clones() { "cloned-files" } else { "patched-files" };
        assert_eq!(number(&done, how), 1, "{kind:?}: {done}");
        assert!(number(&done, "written-bytes") < 1 << 20, "{kind:?}: {done}");
        assert_eq!(rows(&copy), if kind.clones() { 3001 } else { 3002 });
        world.run("b", &["refresh", "docs"]).code(0).says("already");
    }
}
