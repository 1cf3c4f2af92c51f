//! Several processes on one directory.

use mainstay_storage::{Key, Local, Put, Storage};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const ROUNDS: usize = 50;

#[test]
fn of_several_processes_exactly_one_creates_each_object() {
    let dir = TempDir::new().unwrap();
    let children: Vec<_> = (0..4)
        .map(|id| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "processes::helper_races", "--nocapture"])
                .env("STORAGE_TEST_RACE", dir.path())
                .env("STORAGE_TEST_ID", id.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut winners = vec![Vec::new(); ROUNDS];
    for (id, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        for line in said.lines().filter_map(|line| line.strip_prefix("won ")) {
            winners[line.parse::<usize>().unwrap()].push(id);
        }
    }
    let storage = Local::open(dir.path()).unwrap();
    for (round, winners) in winners.iter().enumerate() {
        assert_eq!(winners.len(), 1, "round {round} was won by {winners:?}");
        let bytes = storage.read(&Key::new(format!("race/{round}")).unwrap()).unwrap();
        assert_eq!(bytes, winners[0].to_string().as_bytes());
    }
}

/// Not a test of its own: one racer of the one above.
#[test]
fn helper_races() {
    let Some(root) = std::env::var_os("STORAGE_TEST_RACE") else { return };
    let id = std::env::var("STORAGE_TEST_ID").unwrap();
    let storage = Local::open(root).unwrap();
    println!();
    for round in 0..ROUNDS {
        let key = Key::new(format!("race/{round}")).unwrap();
        if storage.put_if_absent(&key, id.as_bytes()).unwrap() == Put::Created {
            println!("won {round}");
        }
    }
}
