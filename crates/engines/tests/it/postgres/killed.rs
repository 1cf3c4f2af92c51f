//! A capture that is killed leaves nothing behind in the server.

use super::{Shop, definition, name};
use crate::contract::Fixture;
use crate::support::Bench;
use mainstay_engines::{CaptureSink, Error, FileMeta, TreeOptions, open};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// Set for the process that is killed: url and data directory of the server.
const TO_CAPTURE: &str = "MAINSTAY_TEST_CAPTURE";

/// Never comes to an end.
struct Endless;

impl CaptureSink for Endless {
    fn tree(&mut self, _: &str, _: &Path, _: &TreeOptions) -> Result<(), Error> {
        loop {
            std::thread::park();
        }
    }

    fn file(&mut self, _: &str, _: &FileMeta, _: &mut dyn Read) -> Result<(), Error> {
        Ok(())
    }
}

/// The process that is killed runs this one test alone; among the others it has nothing to do.
#[test]
fn the_one_that_is_killed() {
    let Ok(definition) = std::env::var(TO_CAPTURE) else { return };
    let bench = Bench::new();
    let engine = open(&name(), &toml::from_str(&definition).expect("toml")).expect("the engine");
    engine.capture(&bench.cx(), &mut Endless).expect("never");
}

#[test]
fn it_leaves_neither_slot_nor_backup_mode() {
    let shop = Shop::new("");
    let before = shop.footprint();
    let definition = toml::to_string(&definition(&shop.server, "postgres")).expect("toml");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "postgres::killed::the_one_that_is_killed", "--nocapture"])
        .env(TO_CAPTURE, definition)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("spawn");
    // In backup mode: its session has a slot and waits for what the reader has to say.
    shop.server.eventually(
        "SELECT count(*) = 1 FROM pg_replication_slots s JOIN pg_stat_activity a \
         ON a.pid = s.active_pid WHERE s.temporary AND a.query LIKE '%pg_backup_start%' \
         AND a.state = 'idle'",
    );
    child.kill().expect("kill");
    child.wait().expect("wait");
    shop.server.eventually("SELECT count(*) = 0 FROM pg_replication_slots");
    shop.server.eventually(
        "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'mainstay'",
    );
    assert_eq!(shop.footprint(), before);
    // The server itself says so in its log; a backup after it is whole.
    let base = shop.capture();
    assert!(base.captured.position.is_some());
}
