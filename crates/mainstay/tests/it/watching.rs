//! What looks after services: doctor, status, logs, and run-due with its alerts.

use crate::rig::{Rig, Said};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// How long a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host with a tree; `lines` are added to its section, and alerts go to a file.
fn host(lines: &str) -> Rig {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    configure(&rig, lines);
    rig.run(&["init"]).code(0);
    rig
}

fn configure(rig: &Rig, lines: &str) {
    rig.configure(&format!(
        "[alerts]\ncommand = \"cat >> {0}; echo >> {0}\"\n\n\
         [service.docs]\nengine = \"files\"\npath = \"{1}\"\n{lines}",
        rig.path("alerts").display(),
        rig.path("docs").display(),
    ));
}

/// The events that somebody was told of, in order.
fn alerts(rig: &Rig) -> Vec<String> {
    let text = fs::read_to_string(rig.path("alerts")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an alert is JSON"))
        .map(|alert| {
            assert_eq!((&alert["service"], &alert["host"]), (&json!("docs"), &json!("here")));
            alert["event"].as_str().unwrap_or_default().to_owned()
        })
        .collect()
}

/// Runs until the exit code is this.
fn until(rig: &Rig, words: &[&str], code: i32) -> Said {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = rig.run(words);
        if said.code == code || Instant::now() > deadline {
            return said.code(code);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The verdicts of one link, of a doctor's document.
fn verdicts(said: &Said, link: &str) -> Vec<String> {
    let json = said.json();
    let links = json["links"].as_array().expect("links");
    let of_link = links.iter().filter(|one| one["link"] == link);
    of_link.map(|one| one["verdict"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_doctor_finds_the_broken_link() {
    let rig = host("");
    let words = ["doctor", "--json"];
    let new = rig.run(&words).code(1);
    assert_eq!(verdicts(&new, "newest point"), ["fail"]);
    rig.run(&["backup", "docs"]).code(0);
    let well = rig.run(&words).code(0);
    assert_eq!(well.json()["healthy"], true);
    rig.run(&["doctor"]).code(0).says("ok    docs newest point").says("to look at");

    let password = fs::read(rig.path("password")).unwrap();
    rig.write("password", "another\n");
    let said = rig.run(&["doctor"]).code(1).says("FAIL  docs repository").says("opens no key");
    assert!(!said.out.contains("newest point"), "what cannot be known is not said: {said:#?}");
    rig.write("password", &password);

    fs::rename(rig.path("docs"), rig.path("moved")).unwrap();
    let said = rig.run(&words).code(1);
    assert!(verdicts(&said, "service").contains(&"fail".to_owned()), "{said:#?}");
    fs::rename(rig.path("moved"), rig.path("docs")).unwrap();

    fs::rename(rig.path("vault"), rig.path("moved")).unwrap();
    rig.run(&["doctor"]).code(1).says("FAIL  vault");
    fs::rename(rig.path("moved"), rig.path("vault")).unwrap();

    fs::rename(rig.path("state"), rig.path("moved")).unwrap();
    rig.run(&["doctor"]).code(1).says("FAIL  state");
    fs::remove_dir_all(rig.path("state")).ok();
    fs::rename(rig.path("moved"), rig.path("state")).unwrap();

    configure(&rig, "rpo = \"1s\"\n");
    let stale = until(&rig, &words, 1);
    assert_eq!(verdicts(&stale, "newest point"), ["fail"]);
    configure(&rig, "exclude = [\"letter.txt\"]\nrpo = \"1h\"\n");
    rig.run(&words).code(0);
}

#[test]
fn status_tells_what_is_known() {
    let rig = host("rpo = \"1h\"\n");
    rig.run(&["status"]).code(0).says("primary").says("no point");
    let made = rig.run(&["backup", "docs", "--json"]).code(0).json();
    let status = rig.run(&["status", "docs", "--json"]).code(0).json();
    let status = &status["services"][0];
    assert_eq!(status["role"], "primary");
    assert_eq!(status["generation"], 1);
    assert_eq!(status["rpo-kept"], true);
    assert_eq!(status["head"]["name"], made["services"][0]["name"]);
    assert_eq!(status["last"]["kind"], "backup");
    assert_eq!(status["last-failure"], Value::Null);
    let source = made["services"][0]["point"]["source-time"].clone();
    assert_eq!(status["head"]["source-time"], source);

    fs::rename(rig.path("docs"), rig.path("moved")).unwrap();
    rig.run(&["backup", "docs"]).code(1);
    let said = rig.run(&["status", "docs"]).code(0).says("last failure").says("mainstay logs docs");
    let command = said.out.lines().find_map(|line| line.trim().strip_prefix("mainstay "));
    let words: Vec<&str> = command.unwrap().split(' ').collect();
    rig.run(&words).code(0).says("failed:");
    fs::rename(rig.path("moved"), rig.path("docs")).unwrap();
    rig.run(&["backup", "docs"]).code(0);
    let status = rig.run(&["status", "docs", "--json"]).code(0).json();
    assert_eq!(status["services"][0]["last-failure"], Value::Null, "a success redeems it");
    rig.run(&["status", "nothere"]).code(1).complains("docs");
}

#[test]
fn logs_of_operations_stay_readable() {
    let rig = host("");
    rig.run(&["logs", "docs"]).code(1).complains("no operation");
    rig.run(&["logs", "docs", "--list"]).code(0).says("no operation");
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    let newest = rig.run(&["logs", "docs"]).code(0).says("backup of docs begins").says("done:");
    // Followed, what is over ends by itself.
    assert_eq!(rig.run(&["logs", "docs", "-f"]).code(0).out, newest.out);
    let list = rig.run(&["logs", "docs", "--list", "--json"]).code(0).json();
    let list = list["operations"].as_array().unwrap().clone();
    assert_eq!(list.len(), 2);
    let first = list[0]["id"].as_str().unwrap();
    let log = rig.run(&["logs", "docs", first, "--json"]).code(0).json();
    assert_eq!(log["operation"]["outcome"], "done");
    assert!(log["lines"].as_array().is_some_and(|lines| lines.len() > 1), "{log}");
    rig.run(&["logs", "docs", "backup"]).code(1).complains("means 2 operations");
    rig.run(&["logs", "docs", "nonsense"]).code(1).complains("--list");
}

#[test]
fn what_is_due_runs_once() {
    // Due at a time that the test does not come near: next year's first of January.
    let rig = host("schedule = \"0 0 1 1 *\"\n");
    rig.run(&["run-due", "--dry-run"]).code(0).says("a backup is due");
    let ran = rig.run(&["run-due", "--json"]).code(0).json();
    assert_eq!(ran["services"][0]["ran"], "backup");
    let again = rig.run(&["run-due", "--json"]).code(0).json();
    assert_eq!(again["services"][0]["ran"], "nothing");
    assert_eq!(rig.run(&["run-due"]).code(0).out, "");
    rig.run(&["run-due", "--dry-run"]).code(0).says("nothing is due; next ");
    let list = rig.run(&["snapshots", "docs", "--json"]).code(0).json();
    assert_eq!(list["services"][0]["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(alerts(&rig), Vec::<String>::new());
}

#[test]
fn somebody_is_told_once_when_it_fails_and_when_that_is_over() {
    let rig = host("schedule = \"0 0 1 1 *\"\n");
    fs::rename(rig.path("docs"), rig.path("moved")).unwrap();
    rig.run(&["run-due"]).code(1);
    // Not tried again at once, and not told again.
    let again = rig.run(&["run-due", "--json"]).json();
    assert_eq!(again["services"][0]["ran"], "nothing");
    assert_eq!(alerts(&rig), ["backup-failed"]);
    fs::rename(rig.path("moved"), rig.path("docs")).unwrap();
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["run-due"]).code(0);
    assert_eq!(alerts(&rig), ["backup-failed", "backup-failed-over"]);

    fs::rename(rig.path("vault"), rig.path("moved")).unwrap();
    let said = rig.run(&["run-due"]);
    assert_ne!(said.code, 0, "{said:#?}");
    assert_ne!(rig.run(&["run-due"]).code, 0);
    fs::rename(rig.path("moved"), rig.path("vault")).unwrap();
    rig.run(&["run-due"]).code(0);
    assert_eq!(alerts(&rig)[2..], ["unreachable", "unreachable-over"]);
}

#[test]
fn silence_is_told() {
    // Nothing is scheduled, so nothing ever runs: only the age of the newest point shows it.
    let rig = host("rpo = \"1s\"\n");
    rig.run(&["backup", "docs"]).code(0);
    until(&rig, &["run-due"], 1);
    rig.run(&["run-due"]).code(1);
    assert_eq!(alerts(&rig), ["rpo-exceeded"]);
    configure(&rig, "rpo = \"1h\"\n");
    rig.run(&["run-due"]).code(0);
    assert_eq!(alerts(&rig), ["rpo-exceeded", "rpo-exceeded-over"]);
}

#[test]
fn an_alert_that_cannot_be_sent_is_tried_again() {
    let rig = host("schedule = \"0 0 1 1 *\"\nrpo = \"1s\"\n");
    fs::create_dir(rig.path("alerts")).unwrap();
    rig.run(&["run-due"]);
    until(&rig, &["run-due"], 1).complains("an alert could not be sent");
    fs::remove_dir(rig.path("alerts")).unwrap();
    rig.run(&["run-due"]).code(1);
    assert_eq!(alerts(&rig), ["rpo-exceeded"]);
}

#[test]
fn a_log_segment_that_cannot_be_asked_for_is_not_the_end_of_the_log() {
    let rig = Rig::new();
    rig.configure(
        "[service.erp]\nengine = \"postgres\"\nurl = \"postgres://u@/db?host=/nonexistent\"\n\
         data-dir = \"/nonexistent/data\"\n",
    );
    rig.run(&["init"]).code(0);
    let target = rig.path("segment").display().to_string();
    let name = "000000010000000000000001";
    let words = ["wal", "fetch", "erp", name, &target];
    rig.run(&words).code(1);
    let password = fs::read(rig.path("password")).unwrap();
    rig.write("password", "another\n");
    assert!(rig.run(&words).complains("opens no key").code > 125);
    rig.write("password", password);
    fs::rename(rig.path("vault"), rig.path("moved")).unwrap();
    assert!(rig.run(&words).code > 125);
    assert!(rig.run(&["wal", "fetch", "nothere", name, &target]).code > 125);
    assert!(!rig.path("segment").exists());
    fs::rename(rig.path("moved"), rig.path("vault")).unwrap();
    // What is no segment is not stored, and a failed push is below 126, so that the server goes on.
    let garbage = rig.write(name, "no segment");
    let said = rig.run(&["wal", "push", "erp", garbage.to_str().unwrap()]);
    assert!((1..=125).contains(&said.code), "{said:#?}");
    rig.run(&words).code(1);
}

#[test]
fn a_failure_of_several_lines_is_shown_on_one() {
    let rig = host("[service.docs.hooks]\nbefore-backup = \"echo one >&2; echo two >&2; false\"\n");
    rig.run(&["backup", "docs"]).code(1);
    for words in [&["status", "docs"][..], &["logs", "docs", "--list"]] {
        let said = rig.run(words).says("it said: one two");
        assert!(!said.out.contains("\\n"), "{said:#?}");
    }
}

/// A timer's journal is quiet as long as all is well, and says why nothing is done where it is not.
#[test]
fn what_is_not_well_is_said_and_nothing_else() {
    let yearly = "schedule = \"0 0 1 1 *\"\n";
    let failing = format!("{yearly}[service.docs.hooks]\nbefore-backup = \"false\"\n");
    let rig = host(&failing);
    let quiet = ["-q", "run-due"];
    rig.run(&quiet).code(1).complains("the hook `before-backup` failed");
    let said =
        rig.run(&quiet).complains("docs: the last backup failed").complains("tried again at");
    assert_eq!(said.err.lines().count(), 1, "{said:#?}");
    configure(&rig, yearly);
    rig.run(&["backup", "docs"]).code(0);
    let said = rig.run(&quiet).code(0);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    configure(&rig, &format!("{yearly}rpo = \"1s\"\n"));
    let said = until(&rig, &quiet, 1).complains("docs: the newest point is ");
    let said = said.complains("1 s are allowed; the next backup is due at ");
    assert_eq!(said.err.lines().count(), 1, "{said:#?}");
    configure(&rig, "rpo = \"1s\"\n");
    rig.run(&quiet).code(1).complains("no backup is scheduled here");
    // Beside JSON it is in the document alone.
    let said = rig.run(&["--json", "run-due"]).code(1);
    assert!(said.json()["services"][0]["stale"].is_string() && said.err.is_empty(), "{said:#?}");
}
