//! Help, completions, manual pages, exit codes, and how errors are told.

use crate::rig::{Rig, mainstay, run};

/// Every command that the help lists.
pub(crate) fn commands() -> Vec<String> {
    let help = run(mainstay().arg("--help")).code(0);
    let list = help.out.split("Commands:").nth(1).expect("a list of commands");
    let list = list.split("\n\n").next().unwrap_or_default();
    list.lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_help() {
    let commands = commands();
    assert!(commands.contains(&"config".to_owned()), "{commands:?}");
    for command in commands {
        let help = run(mainstay().args([&command, "--help"])).code(0);
        assert!(help.out.contains("Usage: mainstay"), "{command}: {}", help.out);
        assert!(help.out.contains("--config <FILE>"), "{command}: {}", help.out);
        let first = help.out.lines().next().unwrap_or_default();
        assert!(
            first.len() > 10 && !first.starts_with("Usage"),
            "{command} says nothing of itself"
        );
        assert_eq!(help.err, "", "{command}");
    }
    let version = run(mainstay().arg("--version")).code(0);
    assert_eq!(version.out, format!("mainstay {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_words_are_told_on_standard_error() {
    for words in [
        &["bakcup"][..],
        &["config"],
        &["config", "check", "--nonsense"],
        &["-q", "-v", "config", "check"],
    ] {
        let said = run(mainstay().args(words));
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{words:?}: {said:#?}");
        assert!(!said.err.is_empty(), "{words:?}");
    }
    let said = run(mainstay().args(["--json", "config", "chekc"])).code(1);
    let error = said.error_json();
    assert_eq!(error["class"], "invalid");
    assert!(error["message"].as_str().unwrap().contains("chekc"), "{error}");
    run(mainstay().args(["--wait", "5", "config", "check"])).code(1).complains("30s");
    // All of it, also where it is a list.
    let error = run(mainstay().args(["mount", "--json"])).code(1).error_json();
    let message = error["message"].as_str().unwrap();
    assert!(message.ends_with("were not provided: <DIR>"), "{error}");
    let error = run(mainstay().args(["pin", "--json"])).code(1).error_json();
    assert!(error["message"].as_str().unwrap().ends_with("<SERVICE> <POINT>..."), "{error}");
}

#[test]
fn to_unpin_is_not_to_keep() {
    let said = run(mainstay().args(["unpin", "--help"])).code(0).says("mainstay unpin docs");
    assert!(!said.out.contains("Keep") && !said.out.contains("mainstay pin "), "{said:#?}");
    run(mainstay().args(["pin", "--help"])).code(0).says("Keep").says("mainstay pin docs");
}

#[test]
fn completions_for_every_shell() {
    for (shell, mark) in
        [("bash", "complete -F"), ("zsh", "#compdef mainstay"), ("fish", "complete -c mainstay")]
    {
        run(mainstay().args(["completions", shell])).code(0).says(mark);
    }
    // The shell itself finds no fault with it.
    let rig = Rig::new();
    let script = run(mainstay().args(["completions", "bash"])).out;
    let script = rig.write("completions.bash", script);
    run(std::process::Command::new("bash").arg("-n").arg(script)).code(0);
}

#[test]
fn manual_pages_for_every_command() {
    let rig = Rig::new();
    let dir = rig.path("man/man1");
    rig.run(&["man", dir.to_str().unwrap()]).code(0).says("manual pages");
    for command in commands() {
        let page = std::fs::read_to_string(dir.join(format!("mainstay-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
    }
    assert!(dir.join("mainstay.1").is_file());
    let file = rig.write("file", "");
    rig.run(&["man", file.to_str().unwrap()]).code(1).complains("cannot make the directory");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let rig = Rig::new();
    let words = ["config", "check"];
    assert!(!rig.run(&words).code(1).err.contains('\x1b'));
    let coloured = run(rig.command(&words).arg("--color=always")).code(1);
    assert!(coloured.err.contains('\x1b'), "{coloured:#?}");
    let never = run(rig.command(&words).args(["--color", "never"])).code(1);
    assert!(!never.err.contains('\x1b'));
}

#[test]
fn a_reader_who_goes_away_is_no_error_message() {
    use std::process::Stdio;
    let mut child = mainstay()
        .args(["config", "schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn every_command_tells_its_errors_as_json() {
    let rig = Rig::new();
    let nowhere = rig.path("nowhere").display().to_string();
    // What each command needs to get as far as the configuration, which is not there.
    for words in [
        &["init"][..],
        &["backup", "docs"],
        &["backup", "--all"],
        &["snapshots"],
        &["ls", "docs"],
        &["dump", "docs", "/file", "--output", &nowhere],
        &["restore", "docs"],
        &["refresh", "docs"],
        &["status"],
        &["logs", "docs"],
        &["cancel", "docs"],
        &["takeover", "docs"],
        &["rejoin", "docs"],
        &["offline", "docs"],
        &["online", "docs"],
        &["check"],
        &["doctor"],
        &["run-due"],
        &["rescue", "--vault", &nowhere, "--password-file", &nowhere],
        &["wal", "push", "docs", &nowhere],
        &["config", "check"],
        &["config", "show"],
    ] {
        let said = run(rig.command(words).arg("--json"));
        assert!((1..=12).contains(&said.code), "{words:?}: {said:#?}");
        assert_eq!(said.out, "", "{words:?}");
        let error = said.error_json();
        for key in ["class", "message", "causes", "hint", "exit-code"] {
            assert!(error.get(key).is_some(), "{words:?}: no {key} in {error}");
        }
        assert_eq!(error["exit-code"], said.code, "{words:?}");
        // The same in words: once, with a hint.
        let said = run(&mut rig.command(words));
        assert!(said.err.starts_with("Error: "), "{words:?}: {said:#?}");
        assert_eq!(said.err.matches("Error: ").count(), 1, "{words:?}: {said:#?}");
        assert!(said.err.contains("Hint: "), "{words:?}: {said:#?}");
    }
    // The gate answers, and so does the fetch of a log.
    let gate = run(rig.command(&["may-start", "docs"]).arg("--json")).code(1);
    assert_eq!(gate.json()["allowed"], false);
    run(rig.command(&["wal", "fetch", "docs", "x", "y"]).arg("--json")).code(200).error_json();
}

#[test]
fn what_only_reads_ends_at_once() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};
    let rig = Rig::new();
    rig.configure("[service.docs]\nengine = \"files\"\npath = \"/srv/docs\"\n");
    std::fs::create_dir(rig.path("vault")).unwrap();
    // A password that never comes, as from a file system that does not answer.
    let password = rig.path("password");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &password, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut child = rig.command(&["snapshots"]).spawn().unwrap();
    // Opens when the other side does.
    let _other_side = std::fs::File::options().write(true).open(&password).unwrap();
    // Not an interrupt: that one is ignored by whatever a shell without job control starts in the
    // background, tests among it.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                panic!("a signal does not end it");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert_eq!(status.signal(), Some(15));
}
