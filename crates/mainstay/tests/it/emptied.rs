//! A disk that is not mounted looks like an empty directory, and is no new state of a service.

use crate::world::World;
use std::fs;

/// A service of two trees, backed up, and refreshed on the standby.
fn two_trees() -> World {
    let world = World::new("files", "");
    for host in ["a", "b"] {
        let config = world.path(host).join("mainstay.toml");
        let here = world.path(host).display().to_string();
        let text = fs::read_to_string(&config).unwrap();
        let one = format!("path = \"{here}/data\"");
        assert!(text.contains(&one));
        let two = format!("paths = [\"{here}/one\", \"{here}/two\"]");
        fs::write(&config, text.replace(&one, &two)).unwrap();
    }
    for tree in ["one", "two"] {
        fs::create_dir(world.path("a").join(tree)).unwrap();
        fs::write(world.path("a").join(tree).join("file"), tree).unwrap();
    }
    for host in ["a", "b"] {
        world.run(host, &["init"]).code(0);
    }
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    world
}

#[test]
fn one_of_several_trees_that_became_empty_is_refused_until_it_is_said_to_be_meant() {
    let world = two_trees();
    let head = world.head("a");
    fs::rename(world.path("a/two/file"), world.path("a/away")).unwrap();
    world
        .run("a", &["backup", "docs"])
        .code(1)
        .complains("a/two is empty, and was not at")
        .complains("--allow-empty");
    assert_eq!(world.head("a"), head);
    world.run("b", &["refresh", "docs"]).code(0);
    assert_eq!(fs::read_to_string(world.path("b/two/file")).unwrap(), "two");

    // The disk is there again.
    fs::rename(world.path("a/away"), world.path("a/two/file")).unwrap();
    world.run("a", &["backup", "docs"]).code(0);

    // It is meant, and from then on known.
    fs::remove_file(world.path("a/two/file")).unwrap();
    world.run("a", &["backup", "docs", "--allow-empty"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    assert!(!world.path("b/two/file").exists());
    assert!(world.path("b/one/file").exists());
}

#[test]
fn a_service_of_which_nothing_is_there_is_not_backed_up() {
    let world = two_trees();
    let head = world.head("a");
    for tree in ["one", "two"] {
        fs::remove_file(world.path("a").join(tree).join("file")).unwrap();
    }
    for words in [&["backup", "docs"][..], &["backup", "docs", "--allow-empty"]] {
        world.run("a", words).code(1).complains("there is nothing to back up");
    }
    assert_eq!(world.head("a"), head);
}
