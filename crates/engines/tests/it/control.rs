//! Starting and stopping a service by its configured commands.

use crate::support::{Bench, service};
use mainstay_engines::Running;
use mainstay_engines::control::Control;
use model::ServiceName;
use std::fs;

/// A "service" that is a file: it runs while the file is there. Each start and stop leaves a line
/// in a journal.
fn control(bench: &Bench, start: &str, stop: &str) -> Control {
    let (flag, journal) = (bench.path("runs"), bench.path("journal"));
    let (flag, journal) = (flag.display(), journal.display());
    let toml = format!(
        "engine = 'files'\npath = '/srv/docs'\n\
         start = '''echo start >> {journal}; {start}'''\n\
         stop = '''echo stop >> {journal}; {stop}'''\n\
         status = '''test -e {flag} || exit 3'''\n"
    )
    .replace("FLAG", &flag.to_string())
    .replace("JOURNAL", &journal.to_string());
    Control::of(&ServiceName::new("docs").expect("name"), &service(&toml))
}

fn journal(bench: &Bench) -> Vec<String> {
    let text = fs::read_to_string(bench.path("journal")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn start_and_stop_act_only_when_there_is_something_to_do() {
    let bench = Bench::new();
    let control = control(&bench, "touch FLAG", "rm FLAG");
    assert_eq!(control.running(&bench.cx()).expect("status"), Running::No);
    control.stop(&bench.cx()).expect("stopping a stopped one");
    control.start(&bench.cx()).expect("start");
    control.start(&bench.cx()).expect("starting a running one");
    assert_eq!(control.running(&bench.cx()).expect("status"), Running::Yes);
    control.stop(&bench.cx()).expect("stop");
    assert_eq!(control.running(&bench.cx()).expect("status"), Running::No);
    assert_eq!(journal(&bench), ["start", "stop"]);
}

#[test]
fn start_is_tried_again_and_then_fails_with_the_reason() {
    let bench = Bench::new();
    let twice = "test $(grep -c start JOURNAL) -lt 3 && { echo not yet >&2; exit 1; }; touch FLAG";
    control(&bench, twice, "rm FLAG").start(&bench.cx()).expect("the third try works");
    assert_eq!(journal(&bench), ["start", "start", "start"]);
    assert!(bench.notes.all().contains("not yet"), "{}", bench.notes.all());

    let bench = Bench::new();
    let error = control(&bench, "echo no license >&2; exit 4", "true")
        .start(&bench.cx())
        .expect_err("never works");
    assert!(error.to_string().contains("the start command ended with exit code 4"), "{error}");
    assert!(error.to_string().contains("no license"), "{error}");
    assert_eq!(journal(&bench), ["start", "start", "start"]);
}

#[test]
fn a_command_that_fails_although_the_service_is_as_wanted_is_a_warning() {
    let bench = Bench::new();
    control(&bench, "touch FLAG; echo odd >&2; exit 1", "true")
        .start(&bench.cx())
        .expect("it runs");
    assert_eq!(journal(&bench), ["start"]);
    assert!(bench.notes.all().contains("odd"), "{}", bench.notes.all());
}

#[test]
fn a_service_without_commands_says_what_is_missing() {
    let bench = Bench::new();
    let bare = Control::of(
        &ServiceName::new("docs").expect("name"),
        &service("engine = 'files'\npath = '/srv/docs'"),
    );
    assert!(!bare.can_start_stop());
    assert_eq!(bare.running(&bench.cx()).expect("status"), Running::Unknown);
    let error = bare.stop(&bench.cx()).expect_err("cannot");
    assert!(error.to_string().contains("neither a `stop` command nor a `unit`"), "{error}");
}

#[test]
fn a_status_command_that_answers_neither_is_an_error_but_keeps_nobody_from_starting() {
    let bench = Bench::new();
    let toml = "engine = 'files'\npath = '/srv/docs'\nstart = 'true'\nstop = 'true'\n\
                status = 'echo broken >&2; exit 9'";
    let control = Control::of(&ServiceName::new("docs").expect("name"), &service(toml));
    let error = control.running(&bench.cx()).expect_err("no answer");
    assert!(error.to_string().contains("broken"), "{error}");
    control.start(&bench.cx()).expect("the start command's word counts");
    assert!(bench.notes.all().contains("broken"), "{}", bench.notes.all());
}

const UNIT_TEST: &str = "MAINSTAY_TEST_FAKE_SYSTEMCTL";

/// `systemctl` is found on PATH, and a process cannot safely change its own. So the test runs itself
/// again with a PATH where a stand-in for systemd is: a directory with the unit's state in a file.
#[test]
fn a_unit_is_started_stopped_and_asked_through_systemctl() {
    let Some(state) = std::env::var_os(UNIT_TEST) else {
        let bench = Bench::new();
        let state = bench.path("state");
        fs::create_dir(&state).expect("state");
        fs::create_dir(bench.path("bin")).expect("bin");
        bench.script(
            "bin/systemctl",
            r#"#!/bin/sh
            cd "$MAINSTAY_TEST_FAKE_SYSTEMCTL" || exit 1
            echo "$*" >> journal
            case "$*" in
            "show --property=LoadState,ActiveState -- gone.service")
                echo LoadState=not-found; echo ActiveState=inactive ;;
            "show --property=LoadState,ActiveState -- shop.service")
                echo LoadState=loaded
                if test -e ends; then rm ends active; echo ActiveState=deactivating
                elif test -e active; then echo ActiveState=active
                elif test -e failed; then echo ActiveState=failed
                else echo ActiveState=inactive; fi ;;
            "start -- shop.service") touch active ;;
            "stop -- shop.service") touch ends ;;
            *) echo "what is $*?" >&2; exit 1 ;;
            esac
            "#,
        );
        let mut path = bench.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").expect("PATH"));
        let status = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "control::a_unit_is_started_stopped_and_asked_through_systemctl"])
            .env("PATH", path)
            .env(UNIT_TEST, &state)
            .status()
            .expect("run the test within");
        assert!(status.success());
        assert!(state.join("passed").exists(), "nothing was run within");
        return;
    };
    let state = std::path::PathBuf::from(state);
    let bench = Bench::new();
    let unit = |name: &str| {
        let toml = format!("engine = 'files'\npath = '/srv/docs'\nunit = '{name}'");
        Control::of(&ServiceName::new("docs").expect("name"), &service(&toml))
    };
    let shop = unit("shop.service");
    assert!(shop.can_start_stop());
    assert_eq!(shop.running(&bench.cx()).expect("status"), Running::No);
    shop.start(&bench.cx()).expect("start");
    shop.start(&bench.cx()).expect("start again");
    assert_eq!(shop.running(&bench.cx()).expect("status"), Running::Yes);
    // `stop` returns while the unit is still going down; that is waited for.
    shop.stop(&bench.cx()).expect("stop");
    assert_eq!(shop.running(&bench.cx()).expect("status"), Running::No);
    fs::write(state.join("failed"), "").expect("a unit that failed");
    assert_eq!(shop.running(&bench.cx()).expect("status"), Running::No);
    let journal = fs::read_to_string(state.join("journal")).expect("journal");
    assert_eq!(journal.lines().filter(|line| line.starts_with("start ")).count(), 1, "{journal}");

    let error = unit("gone.service").running(&bench.cx()).expect_err("no such unit");
    assert!(error.to_string().contains("no systemd unit gone.service"), "{error}");
    fs::write(state.join("passed"), "").expect("tell");
}
