//! Space: looked for before anything is touched, and a disk that fills at any moment costs nothing that
//! was there.

use crate::deleting::Held;
use crate::filesystems::{Small, empty, fill};
use crate::refreshing::{number as count, refresh};
use crate::rig::{Said, restic_at, run};
use crate::sqlite_log::{database, files_below, insert, last};
use crate::vault_rig::VaultHost;
use crate::world::{CONTROLLED, Tree, World, content, journal, wait_for};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Another version of the primary's tree: something new, something gone, a part of a large file.
fn version(world: &World, number: u32) -> Option<Tree> {
    version_of(world, number, 500_000)
}

/// The same with so many words in the large file.
fn version_of(world: &World, number: u32, words: u32) -> Option<Tree> {
    let dir = world.path("a/data");
    fs::create_dir_all(dir.join("sub")).unwrap();
    let noise = |seed: u32, words: u32| -> Vec<u8> {
        let word = |n: u32| (n ^ seed).wrapping_mul(2_654_435_761).rotate_left(seed % 31);
        (0..words).flat_map(|n| word(n).wrapping_mul(n | 1).to_le_bytes()).collect()
    };
    let mut large = noise(7, words);
    large[..5000].copy_from_slice(&noise(number, 1250));
    fs::write(dir.join("large"), large).unwrap();
    fs::write(dir.join("number"), number.to_string()).unwrap();
    let _ = fs::remove_file(dir.join(format!("sub/{}", number.saturating_sub(1))));
    fs::write(dir.join(format!("sub/{number}")), noise(number, 75_000)).unwrap();
    content(&dir)
}

/// Too little, with both figures; and nothing was done.
#[track_caller]
fn too_little(said: Said, place: &str) {
    let said = said.code(1).complains("too little space").complains(place);
    said.complains("are free").complains("are needed").complains("nothing was touched");
}

/// Every line that the journal of a host's last operation has, but the last.
fn lines(world: &World, host: &str) -> Vec<String> {
    let dirs = world.operations(host);
    let named = journal(dirs.last().unwrap()).into_iter().map(|line| {
        let event = line["event"].as_str().unwrap().to_owned();
        line["step"].as_str().map(|step| format!("{step}:{event}")).unwrap_or(event)
    });
    named.filter(|line| line != "end").collect()
}

/// Lets an operation stand still at each line of its journal while a disk fills to its last byte. Once
/// there is room again, whatever was left is cleaned up, and `whole` looks at what there is.
fn filled_at_each_line(
    world: &World,
    host: &str,
    words: &[&str],
    disk: &Path,
    mut prepare: impl FnMut(),
    mut full: impl FnMut(&str),
    mut whole: impl FnMut(&str),
) {
    prepare();
    world.run(host, words).code(0);
    let lines = lines(world, host);
    whole("nowhere");
    assert!(lines.len() >= 6, "{lines:?}");
    let mut failed = 0;
    for at in lines {
        prepare();
        let held = Held::begin(world, host, words, &at);
        fill(disk, 0);
        let output = held.go_on();
        failed += usize::from(!output.status.success());
        full(&at);
        empty(disk);
        let said = world.run(host, &["--wait", "60s", "recover", "docs"]);
        assert_eq!(said.code, 0, "{at}: {said:#?}, after {output:?}");
        assert!(world.unfinished(host).is_empty(), "{at}");
        whole(&at);
    }
    assert!(failed > 0, "the disk was never full");
}

fn history_is_whole(world: &World, at: &str) {
    for point in world.points("a") {
        assert_eq!((&point["committed"], &point["missing"]), (&true.into(), &false.into()), "{at}");
    }
    world.run("a", &["check", "docs", "--read-data"]).code(0);
}

/// The newest point is what was there when it was made.
#[track_caller]
fn restores(world: &World, wanted: &Option<Tree>) {
    let target = world.path("target");
    let words = ["restore", "docs", "--target", target.to_str().unwrap()];
    world.run("a", &words).code(0);
    assert!(content(&target) == *wanted);
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn a_vault_that_is_too_small_is_seen_before_the_service_is_stopped() {
    let world = World::new("files", &format!("{CONTROLLED}quiesce = \"stop\"\n"));
    let vault = world.path("vault");
    let Some(_disk) = Small::mount(&vault, "40m") else { return };
    let wanted = version(&world, 1);
    world.run("a", &["init"]).code(0);
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    let pid = fs::read(world.path("a/pid")).unwrap();
    let before = (world.points("a"), files_below(&vault.join("docs/data")));
    version(&world, 2);
    fill(&vault, 4 << 20);
    too_little(world.run("a", &["backup", "docs"]), "the vault");
    empty(&vault);
    assert_eq!((world.points("a"), files_below(&vault.join("docs/data"))), before);
    assert_eq!(fs::read(world.path("a/pid")).unwrap(), pid, "it was stopped for nothing");
    restores(&world, &wanted);

    // A second vault, before anything is made there.
    let second = world.path("second");
    let _second = Small::mount(&second, "4m").unwrap();
    too_little(
        world.run("a", &["copy", "docs", "--to", second.to_str().unwrap()]),
        second.to_str().unwrap(),
    );
    assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
    // A target, and the place of a drill.
    let target = second.join("target");
    too_little(
        world.run("a", &["restore", "docs", "--target", target.to_str().unwrap()]),
        second.to_str().unwrap(),
    );
    assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
}

#[test]
fn a_vault_that_fills_at_any_moment_of_a_backup_loses_nothing() {
    let world = World::new("files", "");
    let vault = world.path("vault");
    let Some(_disk) = Small::mount(&vault, "64m") else { return };
    version(&world, 0);
    world.run("a", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    let mut number = 0;
    let prepare = || {
        number += 1;
        version(&world, number);
    };
    let whole = |at: &str| history_is_whole(&world, at);
    filled_at_each_line(&world, "a", &["backup", "docs"], &vault, prepare, |_| {}, whole);

    // What would free space needs next to none: a lock, a state, and an index.
    let wanted = version(&world, 1000);
    world.run("a", &["backup", "docs"]).code(0);
    let points = world.points("a").len();
    fill(&vault, 0);
    for words in [&["forget", "docs", "--keep-last", "1", "--prune"][..], &["prune", "docs"]] {
        let _ = world.run("a", words);
    }
    empty(&vault);
    assert!([1, points].contains(&world.points("a").len()), "some went and some did not");
    history_is_whole(&world, "full");
    fill(&vault, 256 << 10);
    world.run("a", &["forget", "docs", "--keep-last", "1", "--prune"]).code(0);
    assert_eq!(world.points("a").len(), 1);
    empty(&vault);
    restores(&world, &wanted);
    world.restic_check();
}

/// Full to its last byte: a backup is refused before anything is touched, and says what to do. That works,
/// since the vault has kept a little back, of which restic sees nothing.
#[test]
fn a_vault_that_is_full_to_its_last_byte_can_be_freed() {
    full_and_freed(false);
}

/// So can one on another machine, by who may remove.
#[test]
fn a_vault_host_whose_disk_is_full_to_its_last_byte_can_be_freed() {
    full_and_freed(true);
}

fn full_and_freed(served: bool) {
    let world = World::new("files", "");
    let vault = world.path("vault");
    let Some(_disk) = Small::mount(&vault, "160m") else { return };
    let reserve = vault.join(".mainstay~reserve");
    let kept = || fs::metadata(&reserve).ok().map(|meta| meta.blocks() * 512);
    let next = |number: u32| {
        // What a prune has to free, and to write anew.
        let noise: Vec<u8> = (0..2_000_000_u32)
            .flat_map(|n| {
                (n ^ number << 20).wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes()
            })
            .collect();
        fs::write(world.path("a/data/noise"), noise).unwrap();
        version(&world, number)
    };
    let free = || {
        let stat = rustix::fs::statvfs(&vault).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    fs::create_dir_all(world.path("a/data")).unwrap();
    world.run("a", &["init"]).code(0);
    let host = served.then(|| VaultHost::start(&world.path("."), &vault, &["--no-auth"]));
    if let Some(host) = &host {
        world.reach_vault_by("a", host);
    }
    let mut number = 0;
    for words in [&["forget", "docs", "--keep-last", "1", "--prune"][..], &["prune", "docs"]] {
        for _ in 0..3 {
            number += 1;
            next(number);
            world.run("a", &["backup", "docs"]).code(0);
        }
        assert_eq!(kept(), Some(8 << 20), "{words:?}");
        if words[0] == "prune" {
            world.run("a", &["forget", "docs", "--keep-last", "1"]).code(0);
        }
        fill(&vault, 0);
        assert_eq!(free(), 0);
        let wanted = next(number + 1);
        let said = world.run("a", &["backup", "docs"]).code(1).complains("too little space");
        said.complains("nothing was touched").complains("mainstay forget docs --prune");
        assert_eq!(kept(), Some(8 << 20), "{words:?}");
        // Whoever only looks leaves it for who frees something.
        let looks = [
            &["prune", "docs", "--dry-run"][..],
            &["forget", "docs", "--keep-last", "1", "--dry-run"],
        ];
        for looks in looks {
            world.run("a", looks).code(0);
            assert_eq!(kept(), Some(8 << 20), "{looks:?}");
        }
        world.run("a", words).code(0).complains("is full").complains("kept back");
        assert_eq!(world.points("a").len(), 1, "{words:?}");
        assert_eq!(kept(), Some(8 << 20), "{words:?}: it is kept back again");
        assert!(free() > 9 << 20, "{words:?}: {} are free", free());
        world.run("a", &["backup", "docs"]).code(0);
        number += 1;
        restores(&world, &wanted);
        world.restic_check();
        empty(&vault);
        let whole = ["check", "--read-data", "--no-cache"];
        run(restic_at(&vault.join("docs"), &world.path("password")).args(whole)).code(0);
    }
}

/// Where journals and logs are. Whatever cannot be written down there: a service that was stopped
/// comes back, and at once.
#[test]
fn a_state_directory_that_fills_at_any_moment_keeps_no_service_down() {
    let world = World::new("files", &format!("{CONTROLLED}quiesce = \"stop\"\n"));
    let state = world.path("a/state");
    let Some(_disk) = Small::mount(&state, "8m") else { return };
    version(&world, 0);
    world.run("a", &["init"]).code(0);
    assert_eq!(world.service("a", "start"), 0);
    world.run("a", &["backup", "docs"]).code(0);
    let mut number = 0;
    let prepare = || {
        number += 1;
        version(&world, number);
    };
    let full = |at: &str| {
        wait_for(&format!("{at}: the service is back while the disk is full"), || {
            world.serves("a")
        });
    };
    let whole = |at: &str| {
        assert!(world.serves("a"), "{at}");
        history_is_whole(&world, at);
    };
    filled_at_each_line(&world, "a", &["backup", "docs"], &state, prepare, full, whole);

    // And if nobody is left but the guardian.
    let held = Held::begin(&world, "a", &["backup", "docs"], "read:begin");
    assert!(!world.serves("a"));
    fill(&state, 0);
    held.die();
    full("killed");
    empty(&state);
    world.run("a", &["--wait", "60s", "recover", "docs"]).code(0);
    whole("killed");

    // Full from the beginning: it does not begin.
    let before = world.points("a").len();
    fill(&state, 0);
    assert_ne!(world.run("a", &["backup", "docs"]).code, 0);
    assert!(world.serves("a"));
    empty(&state);
    assert!(world.points("a").len() <= before + 1);
    let wanted = version(&world, 1000);
    world.run("a", &["--wait", "60s", "backup", "docs"]).code(0);
    restores(&world, &wanted);
    world.restic_check();
}

/// The standby's whole disk: its copy, and the journal that tells how far it came.
#[test]
fn a_disk_that_fills_at_any_moment_of_a_refresh_leaves_the_old_point_or_the_new() {
    filled_while_refreshing(500_000, "");
}

/// The same where the large file is written to in its place, past the commit marker, through a journal: what
/// that needs is set aside before.
#[test]
fn a_disk_that_fills_at_any_moment_of_a_refresh_in_place_leaves_the_old_point_or_the_new() {
    // Chunks of one size: of those that content defines, one may be more than half of the file.
    filled_while_refreshing(1_500_000, "refresh = \"exchange\"\nchunk-size = \"256 KiB\"\n");
}

fn filled_while_refreshing(words: u32, lines: &str) {
    let world = World::new("files", lines);
    let version = |world: &World, number| version_of(world, number, words);
    let host = world.path("b");
    let Some(_disk) = Small::mount(&host, "64m") else { return };
    world.define("b", "standby", "files", lines);
    let first = version(&world, 0);
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    let mut number = 0;
    let versions = std::cell::RefCell::new(vec![first]);
    let prepare = || {
        number += 1;
        versions.borrow_mut().push(version(&world, number));
        world.run("a", &["backup", "docs"]).code(0);
    };
    let whole = |at: &str| {
        let here = content(&host.join("data"));
        let versions = versions.borrow();
        let known = versions.iter().rev().take(2).any(|version| *version == here);
        assert!(known, "{at}: neither the old point nor the new");
        assert_eq!(world.staging(), [] as [PathBuf; 0], "{at}");
        world.run("b", &["refresh", "docs"]).code(0);
        assert!(content(&host.join("data")) == *versions.last().unwrap(), "{at}");
    };
    filled_at_each_line(&world, "b", &["refresh", "docs"], &host, prepare, |_| {}, whole);
    version(&world, 1000);
    world.run("a", &["backup", "docs"]).code(0);
    // A large one; a small one is written anew.
    let patched = u64::from(words * 4 > 4 << 20);
    assert_eq!(count(&refresh(&world), "patched-files"), patched);
}

/// Where a database is copied to before it is read: looked at first, also when it has filled since.
#[test]
fn a_scratch_disk_that_is_full_costs_a_database_nothing() {
    let world = World::new("sqlite", "");
    let state = world.path("a/state");
    let Some(_disk) = Small::mount(&state, "48m") else { return };
    let data = world.path("a/data");
    let connection = database(&data);
    let grow = |n: i64| {
        (0..4000).for_each(|more| insert(&connection, n * 4000 + more + 1));
        last(&data)
    };
    let mut wanted = grow(0);
    world.run("a", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    for (n, at) in [(1, None), (2, Some("read:begin"))] {
        wanted = wanted.max(grow(n));
        let points = world.points("a");
        let said = match at {
            None => {
                fill(&state, 4 << 20);
                world.run("a", &["backup", "docs"]).code(1).err
            }
            Some(at) => {
                let held = Held::begin(&world, "a", &["backup", "docs"], at);
                fill(&state, 1 << 20);
                String::from_utf8_lossy(&held.go_on().stderr).into_owned()
            }
        };
        assert!(said.contains("a copy of the database needs"), "{at:?}: {said}");
        assert!(said.contains("are free") && said.contains("move `state-dir`"), "{at:?}: {said}");
        assert_eq!(world.points("a"), points, "{at:?}");
        assert_eq!(last(&data), wanted, "{at:?}");
        empty(&state);
        world.run("a", &["backup", "docs"]).code(0);
        let target = world.path("target");
        let words = ["--json", "restore", "docs", "--target", target.to_str().unwrap()];
        let said = world.run("a", &words).code(0).json();
        let copy = said["targets"][0].as_str().unwrap();
        assert_eq!(last(Path::new(copy)), wanted, "{at:?}");
        fs::remove_dir_all(&target).unwrap();
    }
    world.restic_check();
}

/// What is restored elsewhere: a target, a scratch place, a second vault.
#[test]
fn a_disk_that_fills_meanwhile_leaves_nothing_half_and_is_no_fault_of_the_history() {
    let world = World::new("files", "");
    let place = world.path("place");
    let Some(_disk) = Small::mount(&place, "200m") else { return };
    let shown = place.display().to_string();
    let file = world.path("a/mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}drill-dir = \"{shown}/drills\"\n")).unwrap();
    let wanted = version(&world, 1);
    world.run("a", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    let (target, second) = (place.join("target"), place.join("second"));
    let cases: [(&[&str], &str); 3] = [
        (&["restore", "docs", "--target", target.to_str().unwrap()], "stage:begin"),
        (&["copy", "docs", "--to", second.to_str().unwrap()], "copy:created"),
        (&["drill", "docs"], "stage:begin"),
    ];
    for (words, at) in cases {
        let held = Held::begin(&world, "a", words, at);
        fill(&place, 16 << 10);
        let output = held.go_on();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains("No space left"), "{words:?}: {said}");
        assert!(!target.exists(), "{words:?}");
        empty(&place);
        assert!(world.unfinished("a").is_empty(), "{words:?}");
        let mut left = files_below(&place);
        left.retain(|path| !path.starts_with(&second));
        assert_eq!(left, [] as [PathBuf; 0], "{words:?}");
        let points = world.points("a");
        assert!(points[0]["drill"].is_null(), "{words:?}: a full disk says nothing of the point");
        let status = world.run("a", words).code(0);
        assert!(!status.err.contains("had died"), "{status:#?}");
        let _ = fs::remove_dir_all(place.join("drills"));
        if words[0] == "restore" {
            assert!(content(&target) == wanted);
            fs::remove_dir_all(&target).unwrap();
        }
        if words[0] == "copy" {
            let whole = ["check", "--read-data", "--no-cache"];
            run(restic_at(&second.join("docs"), &world.path("password")).args(whole)).code(0);
        }
    }
    assert_eq!(world.points("a")[0]["drill"]["sound"], true);
}
