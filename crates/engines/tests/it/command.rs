//! Commands: their output, their end, and what they leave behind.

use crate::support::{Bench, alive, eventually, pid_in};
use mainstay_engines::command::Command;
use model::{CancelToken, Class, Classify, Secret};
use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

#[test]
fn success_gives_the_output() {
    let cancel = CancelToken::new();
    let output = Command::shell("the test command", "echo out; echo err >&2; cat")
        .input("in")
        .run(&cancel)
        .expect("runs");
    assert_eq!(output.stdout().expect("whole"), b"out\nin");
    assert_eq!(output.messages(), ["err"]);
}

/// Who was asked to stop before it began, and stood still meanwhile, does nothing that others have to undo.
#[test]
fn what_was_cancelled_before_it_began_does_nothing() {
    let bench = Bench::new();
    let (file, cancel) = (bench.path("done"), CancelToken::new());
    cancel.cancel();
    let command = Command::program("the freeze hook", "touch").arg(&file);
    let error = command.run(&cancel).expect_err("it was cancelled");
    assert_eq!(error.class(), Class::Cancelled, "{error}");
    assert!(!file.exists());
}

#[test]
fn failure_tells_the_exit_code_and_the_last_words() {
    let cancel = CancelToken::new();
    let line =
        "for i in $(seq 100); do echo line $i >&2; done; printf '\\033[31mred\\n' >&2; exit 7";
    let error = Command::shell("the freeze hook", line).run(&cancel).expect_err("fails");
    let text = error.to_string();
    assert!(text.contains("the freeze hook ended with exit code 7"), "{text}");
    assert!(text.contains("line 100") && text.contains("[31mred"), "{text}");
    assert!(!text.contains("line 50\n") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn death_by_signal_is_explained() {
    let cancel = CancelToken::new();
    let error = Command::shell("x", "kill -SEGV $$").run(&cancel).expect_err("fails");
    assert!(error.to_string().contains("signal 11 (SIGSEGV)"), "{error}");
}

#[test]
fn a_program_that_is_missing_or_not_executable_is_named_with_a_hint() {
    let bench = Bench::new();
    let error = Command::program("the exporter", "/nowhere/exporter")
        .run(&bench.cancel)
        .expect_err("cannot run");
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("/nowhere/exporter"), "{error}");
    let plain = bench.path("plain");
    fs::write(&plain, "#!/bin/sh\n").expect("write");
    let error = Command::program("x", &plain).run(&bench.cancel).expect_err("cannot run");
    assert!(error.hint().expect("a hint").contains("executable"), "{error}");
    let headless = bench.script("headless", "echo hello\n");
    let error = Command::program("x", &headless).run(&bench.cancel).expect_err("cannot run");
    assert!(error.hint().expect("a hint").contains("#!/bin/sh"), "{error}");
}

#[test]
fn secrets_do_not_show_in_errors() {
    let cancel = CancelToken::new();
    let secret = Secret::new("hunter2secret".to_owned());
    let error = Command::shell("x", "echo got $PW >&2; exit 1")
        .secret_env("PW", &secret)
        .run(&cancel)
        .expect_err("fails");
    assert!(error.to_string().contains("got [secret]"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn a_daemon_left_behind_does_not_hold_us_up_and_lives_on() {
    let bench = Bench::new();
    let pid_file = bench.path("pid");
    // It keeps our streams and goes on writing to them after the command has ended.
    let line = format!(
        "(trap '' PIPE; while :; do echo noise; sleep 0.01; done) & echo $! > {}; echo started",
        pid_file.display()
    );
    let began = Instant::now();
    let output = Command::shell("the start command", &line).run(&bench.cancel).expect("runs");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(output.stdout_text().expect("text").contains("started"));
    let pid = pid_in(&pid_file);
    let before = ticks(pid);
    eventually("the daemon goes on", || ticks(pid) != before);
    assert!(alive(pid));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid"),
        rustix::process::Signal::KILL,
    )
    .expect("kill the daemon");
}

/// Something about a process that changes while it works: its context switches.
fn ticks(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    status.lines().filter(|line| line.contains("ctxt_switches")).collect()
}

#[test]
fn cancel_ends_the_whole_group() {
    let bench = Bench::new();
    let (inner, outer) = (bench.path("inner"), bench.path("outer"));
    let line = format!(
        "trap '' TERM; echo $$ > {}; sh -c 'trap \"\" TERM; echo $$ > {}; sleep 600; sleep 600' & wait; wait",
        outer.display(),
        inner.display()
    );
    let command = Command::shell("x", &line);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| command.run(&bench.cancel));
        let (inner, outer) = (pid_in(&inner), pid_in(&outer));
        assert!(alive(inner) && alive(outer));
        bench.cancel.cancel();
        let error = run.join().expect("no panic").expect_err("cancelled");
        assert_eq!(error.class(), Class::Cancelled);
        eventually("all of the group is gone", || !alive(inner) && !alive(outer));
    });
}

#[test]
fn a_timeout_ends_it_and_says_so() {
    let cancel = CancelToken::new();
    let began = Instant::now();
    let error = Command::shell("the exporter", "echo reading; sleep 600")
        .timeout(Duration::from_millis(200))
        .run(&cancel)
        .expect_err("too long");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    let text = error.to_string();
    assert!(text.contains("took longer than 200ms") && text.contains("reading"), "{text}");
}

#[test]
fn endless_output_is_bounded_and_its_end_is_kept() {
    let cancel = CancelToken::new();
    // 200 MB of noise, then the words that matter.
    let line =
        "head -c 200000000 /dev/zero | tr '\\0' 'x' | fold -w 100 >&2; echo the end >&2; exit 1";
    let error = Command::shell("x", line).run(&cancel).expect_err("fails");
    assert!(error.to_string().ends_with("the end"), "{error}");
    assert!(error.to_string().len() < 10_000);
    let output = Command::shell("x", "head -c 40000000 /dev/zero").run(&cancel).expect("runs");
    assert!(output.stdout().is_err(), "half of an output must not pass for all of it");
}

#[test]
fn a_piped_output_is_the_callers() {
    let cancel = CancelToken::new();
    let mut process =
        Command::shell("x", "head -c 50000000 /dev/zero").piped().spawn().expect("starts");
    let mut stdout = process.take_stdout().expect("stdout");
    let mut total = 0;
    let mut buffer = vec![0; 65536];
    loop {
        match stdout.read(&mut buffer).expect("read") {
            0 => break,
            n => total += n,
        }
    }
    assert_eq!(total, 50_000_000);
    assert!(process.wait(&cancel).expect("ends").success());
}

#[test]
fn a_tied_command_keeps_its_exit_code_and_reads_nothing() {
    let cancel = CancelToken::new();
    let output = Command::shell("x", "cat; echo done; exit 5").tied().ask(&cancel).expect("runs");
    assert_eq!(output.code(), Some(5));
    assert_eq!(output.stdout_text().expect("text"), "done");
    let error = Command::program("x", "/nowhere").tied().run(&cancel).expect_err("fails");
    assert!(error.to_string().contains("127"), "{error}");
}

#[test]
fn a_tied_command_dies_with_us() {
    let bench = Bench::new();
    let pid_file = bench.path("pid");
    let line = format!("echo $$ > {}; sleep 600; true", pid_file.display());
    let mut process = Command::shell("x", &line).tied().spawn().expect("starts");
    let pid = pid_in(&pid_file);
    assert!(alive(pid));
    // What the kernel does with our end of the pipe when we are killed.
    drop(process.take_tie());
    eventually("the command is gone", || !alive(pid));
    assert!(!process.wait(&bench.cancel).expect("ends").success());
}
