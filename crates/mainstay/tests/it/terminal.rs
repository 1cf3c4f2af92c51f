//! What a person at a terminal is asked. util-linux's `script` is the terminal.

use crate::rig::{Rig, Said};
use crate::world::{PATIENCE, World};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};

/// Runs a command at a terminal and types `answer` when the terminal shows `question`. Everything
/// shown is in `out`.
#[track_caller]
fn at_terminal(command: &Command, question: &str, answer: &str) -> Said {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().expect("plain words"));
    let mut line = quoted(command.get_program());
    for word in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(word));
    }
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            script.env(name, value);
        }
    }
    script.env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().expect("script of util-linux");
    let mut keyboard = child.stdin.take().expect("a keyboard");
    let mut screen = child.stdout.take().expect("a screen");
    // Read beside the test, which must not wait for ever.
    let (pieces, arrived) = mpsc::channel::<Vec<u8>>();
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = screen.read(&mut bytes) {
            if pieces.send(bytes[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut shown = Vec::new();
    let mut typed = false;
    loop {
        match arrived.recv_timeout(PATIENCE) {
            Ok(piece) => shown.extend_from_slice(&piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                panic!("nothing more comes after {}", String::from_utf8_lossy(&shown));
            }
        }
        if !typed && String::from_utf8_lossy(&shown).contains(question) {
            keyboard.write_all(answer.as_bytes()).expect("a key");
            keyboard.flush().expect("a key");
            typed = true;
        }
    }
    reader.join().expect("the reader");
    let code = child.wait().expect("an end").code().unwrap_or(-1);
    let out = String::from_utf8_lossy(&shown).replace('\r', "");
    assert!(typed, "never asked {question:?}: {out}");
    Said { code, out, err: String::new() }
}

/// A host `b` that may take over from `a` by a person's word.
fn ready() -> World {
    let world = World::new("files", "");
    std::fs::create_dir_all(world.path("a/data")).unwrap();
    std::fs::write(world.path("a/data/file"), "content").unwrap();
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    world.run("b", &["refresh", "docs"]).code(0);
    world
}

const FORCED: &[&str] = &["takeover", "docs", "--override", "primary-not-fenced=tested"];

#[test]
fn a_takeover_is_confirmed_by_the_name_of_the_service() {
    let world = ready();
    let question = "Type the service's name (docs) to go on: ";
    let said = at_terminal(&world.command("b", FORCED), question, "yes\n");
    assert_eq!(said.code, 130, "{said:#?}");
    assert_eq!(world.status("b")["generation"], 1);
    // Control-C at the question.
    let said = at_terminal(&world.command("b", FORCED), question, "\u{3}");
    assert_eq!(said.code, 130, "{said:#?}");
    assert_eq!(world.status("b")["generation"], 1);
    let said = at_terminal(&world.command("b", FORCED), question, "docs\n");
    assert_eq!(said.code, 0, "{said:#?}");
    assert!(said.out.contains("b is the primary at generation 2"), "{said:#?}");
}

#[test]
fn a_proposal_is_written_after_asking() {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    let docs = rig.path("docs").display().to_string();
    let (vault, state) = (rig.path("vault"), rig.path("state"));
    let words =
        ["init", &docs, "--vault", vault.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
    let question = "mainstay.toml? [y/N] ";
    let said = at_terminal(&rig.command(&words), question, "\n");
    assert_eq!(said.code, 130, "{said:#?}");
    assert!(!rig.path("mainstay.toml").exists() && !rig.path("vault").exists());
    // Whoever has systemd is asked about the timer, too, and says no.
    let said = at_terminal(&rig.command(&words), question, "y\nn\n");
    assert_eq!(said.code, 0, "{said:#?}");
    assert!(said.out.contains("Recovery key for docs"), "{said:#?}");
    assert!(rig.path("vault/docs/config").is_file());
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    rig.configure(&format!(
        "[service.docs]\nengine = \"files\"\npath = \"{}\"\n",
        rig.path("docs").display()
    ));
    let key = rig.run(&["init", "--json"]).code(0).json();
    let key = key["recovery-key"].as_str().unwrap().to_owned();
    rig.run(&["backup", "docs"]).code(0);
    let vault = rig.path("vault").display().to_string();
    let rescue = rig.command(&["rescue", "--vault", &vault]);
    let said = at_terminal(&rescue, "Password or recovery key: ", &format!("{key}\n"));
    assert_eq!(said.code, 0, "{said:#?}");
    assert!(said.out.contains("-files-") && !said.out.contains(&key), "{said:#?}");
    let said = at_terminal(&rescue, "Password or recovery key: ", "wrong\n");
    assert_eq!(said.code, 12, "{said:#?}");
}
