//! Several processes on one directory, some of them killed.

use crate::support::{join, store};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use storage::Local;
use tempfile::TempDir;

#[test]
fn what_a_process_was_told_is_in_the_state_even_if_it_is_killed() {
    let dir = TempDir::new().unwrap();
    let mut children: Vec<_> = (0..4)
        .map(|id| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "processes::helper_joins", "--nocapture"])
                .env("COORDINATION_TEST_VAULT", dir.path())
                .env("COORDINATION_TEST_ID", id.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    // Two are killed in the middle of their work, two end by themselves.
    let told: Vec<Vec<String>> = std::thread::scope(|scope| {
        let readers: Vec<_> = children
            .iter_mut()
            .enumerate()
            .map(|(id, child)| {
                scope.spawn(move || {
                    let mut told = Vec::new();
                    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
                    for line in lines.map_while(Result::ok) {
                        if let Some(name) = line.strip_prefix("joined ") {
                            told.push(name.to_owned());
                        }
                        if id < 2 && told.len() == 10 + id * 7 {
                            child.kill().unwrap();
                        }
                    }
                    let status = child.wait().unwrap();
                    assert_eq!(status.success(), id >= 2);
                    told
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert_eq!((told[2].len(), told[3].len()), (40, 40));
    let store = store(Arc::new(Local::open(dir.path()).unwrap()));
    let loaded = store.load().unwrap();
    let members: BTreeSet<String> = loaded.state.members.keys().map(ToString::to_string).collect();
    assert_eq!(loaded.number, members.len() as u64, "one number for each change");
    for name in told.into_iter().flatten() {
        assert!(members.contains(&name), "{name} was told that it joined");
    }
    store.update(join("afterwards")).unwrap();
}

/// Not a test of its own: one process of the one above.
#[test]
fn helper_joins() {
    let Some(vault) = std::env::var_os("COORDINATION_TEST_VAULT") else { return };
    let id = std::env::var("COORDINATION_TEST_ID").unwrap();
    let store = store(Arc::new(Local::open(vault).unwrap()));
    println!();
    for n in 0..40 {
        let name = format!("p{id}n{n}");
        store.update(join(&name)).unwrap();
        println!("joined {name}");
    }
}
