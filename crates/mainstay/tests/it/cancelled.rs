//! A cancel at every line of a journal: before the commit marker the service is what it was, and from
//! it on it is what it was to become. Either way it is whole, and runs if it ran.

use crate::cancel::{cont, held, outcome};
use crate::kills::{self, Scenario, behind, each, insert, lines, rows, start, trees, version};
use crate::refreshing::ended;
use crate::vault_host::reach;
use crate::vault_rig::VaultHost;
use crate::world::{CONTROLLED, World, content, fill};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One operation under test.
struct Cancelled {
    host: &'static str,
    kind: &'static str,
    words: &'static [&'static str],
    /// What is done to a copy of the world before it.
    prepare: fn(&World),
    /// The first line from which on there is only forward.
    marker: &'static str,
    /// Looks at a world in which it was stopped.
    old: fn(&World, &str),
    /// Looks at a world in which it came to its end.
    new: fn(&World, &str),
}

impl Cancelled {
    fn everywhere(&self, base: &World) {
        let Cancelled { host, kind, words, prepare, new, .. } = *self;
        let again = |world: &World, _: &str| world.run("a", &["status"]);
        let dead = |_: &World, _: &str| ();
        let scenario =
            Scenario { host, kind, words, prepare, dead, again, after: new, guarded: false };
        let mut lines = lines(base, &scenario);
        // Then it is over.
        lines.retain(|line| line != "end");
        let marker = lines.iter().position(|line| line == self.marker);
        let marker = marker.unwrap_or_else(|| panic!("no {} in {lines:?}", self.marker));
        each(&lines, |at| {
            let is_late = lines.iter().position(|line| line == at) >= Some(marker);
            let world = base.copy();
            prepare(&world);
            let (child, worker) = held(&world, host, words, at);
            world.run(host, &["cancel", "docs"]).code(0).says("was asked to stop");
            cont(worker);
            let said = ended(child, if is_late { 0 } else { 130 });
            let was = outcome(&world, host);
            assert_eq!(was, if is_late { "done" } else { "cancelled" }, "{at}: {said:#?}");
            assert_eq!(world.unfinished(host), [] as [PathBuf; 0], "{at}");
            assert_eq!(world.staging(), [] as [PathBuf; 0], "{at}");
            if is_late { new(&world, at) } else { (self.old)(&world, at) }
        });
    }
}

#[test]
fn a_backup_that_stops_the_service() {
    let base = trees(&format!("{CONTROLLED}quiesce = \"stop\"\n"));
    let backup = Cancelled {
        host: "a",
        kind: "backup",
        words: &["backup", "docs"],
        prepare: start,
        marker: "commit:begin",
        old: |world, at| {
            assert!(world.serves("a"), "{at}");
            assert_eq!(world.points("a").len(), 1, "{at}");
        },
        new: kills::history_is_whole_and_it_serves,
    };
    backup.everywhere(&base);
}

fn mistake(world: &World) {
    fs::write(world.path("a/data/changed"), "by mistake").unwrap();
}

#[track_caller]
fn is_mistaken(world: &World, at: &str) {
    assert_eq!(fs::read(world.path("a/data/changed")).unwrap(), b"by mistake", "{at}");
}

fn is_restored_and_serves(world: &World, at: &str) {
    assert!(content(&world.path("a/data")) == version(2), "{at}");
    assert!(world.serves("a"), "{at}: it is down");
    world.run("a", &["may-start", "docs"]).code(0);
}

const RESTORE: Cancelled = Cancelled {
    host: "a",
    kind: "restore",
    words: &["restore", "docs", "--replace"],
    prepare: |world| {
        start(world);
        mistake(world);
    },
    marker: "place:begin",
    old: |world, at| {
        is_mistaken(world, at);
        assert!(world.serves("a"), "{at}: it is down");
    },
    new: is_restored_and_serves,
};

#[test]
fn a_restore_in_place_of_a_service_that_runs() {
    let base = trees(CONTROLLED);
    base.run("a", &["backup", "docs"]).code(0);
    RESTORE.everywhere(&base);
}

#[test]
fn a_restore_in_place_of_a_service_that_is_down() {
    let base = trees(CONTROLLED);
    base.run("a", &["backup", "docs"]).code(0);
    let down = Cancelled {
        prepare: mistake,
        old: |world, at| {
            is_mistaken(world, at);
            assert!(!world.serves("a"), "{at}");
        },
        ..RESTORE
    };
    down.everywhere(&base);
}

#[test]
fn a_restore_of_a_database() {
    let base = World::new("sqlite", CONTROLLED);
    base.run("a", &["init"]).code(0);
    base.run("b", &["init"]).code(0);
    insert(&base, "a", 1);
    base.run("a", &["backup", "docs"]).code(0);
    let restore = Cancelled {
        prepare: |world| {
            start(world);
            insert(world, "a", 2);
        },
        old: |world, at| {
            assert_eq!(rows(world, "a"), Some(vec![1, 2]), "{at}");
            assert!(world.serves("a"), "{at}: it is down");
        },
        new: |world, at| {
            assert_eq!(rows(world, "a"), Some(vec![1]), "{at}");
            assert!(world.serves("a"), "{at}: it is down");
        },
        ..RESTORE
    };
    restore.everywhere(&base);
}

const REFRESH: Cancelled = Cancelled {
    host: "b",
    kind: "refresh",
    words: &["refresh", "docs"],
    prepare: behind,
    marker: "place:begin",
    old: |world, at| {
        assert!(content(&world.path("b/data")) == version(1), "{at}");
        assert_eq!(world.status("b")["members"][1]["importing"], false, "{at}");
    },
    new: kills::standby_is_new,
};

#[test]
fn a_refresh() {
    REFRESH.everywhere(&trees(""));
}

#[test]
fn a_refresh_of_a_database() {
    let base = World::new("sqlite", "");
    base.run("a", &["init"]).code(0);
    base.run("b", &["init"]).code(0);
    insert(&base, "a", 1);
    base.run("a", &["backup", "docs"]).code(0);
    let refresh = Cancelled {
        prepare: |world| {
            world.run("b", &["refresh", "docs"]).code(0);
            insert(world, "a", 2);
            world.run("a", &["backup", "docs"]).code(0);
        },
        old: |world, at| assert_eq!(rows(world, "b"), Some(vec![1]), "{at}"),
        new: |world, at| {
            assert_eq!(rows(world, "b"), Some(vec![1, 2]), "{at}");
            world.run("b", &["refresh", "docs"]).code(0).says("already");
        },
        ..REFRESH
    };
    refresh.everywhere(&base);
}

/// Past the marker a cancel does not reach a request to the vault that is under way either.
#[test]
fn past_the_marker_the_vault_is_waited_for() {
    let world = World::new("files", "");
    fs::create_dir(world.path("vault")).unwrap();
    let vault = VaultHost::start(&world.path("a"), &world.path("vault"), &["--no-auth"]);
    reach(&world, &format!("url = \"{}\"\n", vault.url));
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    let (mut child, worker) = held(&world, "b", &["refresh", "docs"], "settle:begin");
    vault.signal("STOP");
    cont(worker);
    world.run("b", &["cancel", "docs"]).code(0).says("was asked to stop");
    // Long enough for whoever looks for a cancel to find it.
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let ended = child.try_wait().unwrap();
        if ended.is_some() {
            vault.signal("CONT");
        }
        assert!(ended.is_none(), "it did not wait: {ended:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    vault.signal("CONT");
    ended(child, 0);
    assert_eq!(outcome(&world, "b"), "done");
    assert!(content(&world.path("b/data")) == version(1));
}
