//! Secrets come from files, the environment, systemd's credentials and commands, and go nowhere: not
//! into what is said, not into logs, not into command lines.

use crate::rig::{Rig, Said, run};
use crate::sqlite_log::files_below;
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Nothing else has this in it.
const SENTINEL: &str = "hunter2-plover-xyzzy";

/// The command lines of all processes, as often as can be looked.
pub(crate) struct Watch {
    over: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, Vec<String>)>>,
}

impl Watch {
    fn start() -> Watch {
        Watch::for_word(SENTINEL)
    }

    /// Looks for a word that nobody else has.
    pub(crate) fn for_word(word: &'static str) -> Watch {
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            let (mut looks, mut found) = (0, Vec::new());
            while !ended.load(Ordering::SeqCst) {
                for process in fs::read_dir("/proc").unwrap().flatten() {
                    let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if line.contains(word) {
                        found.push(line);
                    }
                }
                looks += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            (looks, found)
        });
        Watch { over, thread: Some(thread) }
    }

    pub(crate) fn end(mut self) {
        self.over.store(true, Ordering::SeqCst);
        let (looks, found) = self.thread.take().unwrap().join().unwrap();
        assert!(looks > 10, "nobody looked");
        assert!(found.is_empty(), "{found:?}");
    }
}

#[track_caller]
fn is_silent(said: &Said) {
    assert!(!said.out.contains(SENTINEL) && !said.err.contains(SENTINEL), "{said:#?}");
}

/// What lies on the disk of a host holds the secret nowhere but in these places.
#[track_caller]
fn is_nowhere_but(rig: &Rig, places: &[&str]) {
    let mut looked = 0;
    for file in files_below(&rig.path("")) {
        let text = fs::read(&file).unwrap_or_default();
        let name = file.strip_prefix(rig.path("")).unwrap().display().to_string();
        let known = places.contains(&name.as_str());
        assert_eq!(String::from_utf8_lossy(&text).contains(SENTINEL), known, "{name}");
        looked += 1;
    }
    assert!(looked > 5, "nothing is there");
}

/// A host whose vault's password comes from where these lines say.
fn host(lines: &str) -> Rig {
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    rig.configure(&format!(
        "[service.docs]\nengine = \"files\"\npath = \"{}\"\n",
        rig.path("docs").display()
    ));
    let file = rig.path("mainstay.toml");
    let text = fs::read_to_string(&file).unwrap();
    let at = text.find("password-file").unwrap();
    let end = at + text[at..].find('\n').unwrap() + 1;
    let lines = lines.replace('@', &rig.path("").display().to_string());
    fs::write(&file, format!("{}{lines}{}", &text[..at], &text[end..])).unwrap();
    rig
}

#[test]
fn a_password_opens_the_vault_from_everywhere_and_is_seen_nowhere() {
    let everything = [
        &["config", "show"][..],
        &["config", "check"],
        &["status", "docs", "--json"],
        &["doctor"],
        &["logs", "docs"],
        &["key", "list", "docs"],
        &["check", "docs", "--read-data"],
    ];
    for (lines, places) in [
        ("password-file = \"@/key\"\n", vec!["key"]),
        ("password-env = \"THE_KEY\"\n", vec![]),
        ("password-credential = \"the-key\"\n", vec!["credentials/the-key"]),
        ("password-command = \"cat @/key\"\n", vec!["key"]),
    ] {
        let rig = host(lines);
        for place in &places {
            rig.write(place, format!("{SENTINEL}\n"));
        }
        let watch = Watch::start();
        let go = |words: &[&str], good: bool| {
            let mut command = rig.command(words);
            command.env("CREDENTIALS_DIRECTORY", rig.path("credentials"));
            if lines.contains("-env") {
                command.env("THE_KEY", SENTINEL);
            }
            let said = run(&mut command);
            is_silent(&said);
            assert_eq!(said.code == 0, good, "{words:?}: {said:#?}");
        };
        go(&["init", "--no-recovery-key"], true);
        go(&["-v", "backup", "docs"], true);
        let target = rig.path("target").display().to_string();
        go(&["-v", "restore", "docs", "--target", &target], true);
        let some = if lines.contains("-file") { everything.len() } else { 1 };
        for words in &everything[..some] {
            go(words, true);
        }
        fs::rename(rig.path("docs"), rig.path("moved")).unwrap();
        go(&["-v", "backup", "docs"], false);
        fs::rename(rig.path("vault"), rig.path("away")).unwrap();
        go(&["-v", "backup", "docs"], false);
        go(&["doctor"], false);
        watch.end();
        is_nowhere_but(&rig, &places);
    }
}

#[test]
fn what_is_missing_is_named_and_not_shown() {
    let rig = host("password-credential = \"the-key\"\n");
    let said = rig.run(&["backup", "docs"]).code(1);
    said.complains("no systemd credentials").complains("LoadCredential=the-key");
    let mut command = rig.command(&["backup", "docs"]);
    let said = run(command.env("CREDENTIALS_DIRECTORY", rig.path("none"))).code(1);
    said.complains("the-key");
    // A command that holds what it should fetch does not tell it when it fails.
    // (Another word than the one that tests beside this one look for on command lines.)
    let word = "hunter3-plugh-xyzzy";
    let rig = host(&format!("password-command = \"echo {word}; exit 3\"\n"));
    let said = rig.run(&["backup", "docs"]).code(1).complains("the password command failed");
    assert!(!said.out.contains(word) && !said.err.contains(word), "{said:#?}");
    for (lines, what) in [
        ("password-credential = \"../x\"\n", "no name of a credential"),
        ("password-env = \"A\"\npassword-credential = \"b\"\n", "contradicts"),
        ("password-env = \"A\"\ntoken-credential = \"b\"\n", "for vaults whose URL begins"),
    ] {
        host(lines).run(&["config", "check"]).code(1).complains(what);
    }
}

/// A server that lets nobody in, for as long as the test runs.
fn unwelcoming() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Read::read(&mut &stream, &mut [0; 4096]);
            let answer =
                b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = std::io::Write::write_all(&mut &stream, answer);
        }
    });
    port
}

/// A port at which nobody answers as a server would.
fn closed() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_connection_that_fails_shows_no_password() {
    let port = closed();
    let rig = Rig::new();
    rig.write("db-password", format!("{SENTINEL}\n"));
    let file = rig.path("db-password").display().to_string();
    for (url, more) in [
        (format!("postgres://u@127.0.0.1:{port}/d"), format!("url-password-file = \"{file}\"\n")),
        (
            format!("postgres://u@127.0.0.1:{port}/d"),
            format!("url-password-command = \"cat {file}\"\n"),
        ),
        (format!("postgres://u:{SENTINEL}@127.0.0.1:{port}/d"), String::new()),
        (format!("postgres://127.0.0.1:{port}/d?user=u&password={SENTINEL}"), String::new()),
    ] {
        let data = rig.path("data").display().to_string();
        rig.configure(&format!(
            "[service.erp]\nengine = \"postgres\"\nurl = \"{url}\"\ndata-dir = \"{data}\"\n{more}"
        ));
        let watch = Watch::start();
        is_silent(&rig.run(&["init", "--no-recovery-key"]).code(0));
        for words in [
            &["-v", "backup", "erp"][..],
            &["doctor"],
            &["status", "erp"],
            &["run-due"],
            &["config", "show"],
            &["config", "check"],
            &["logs", "erp"],
        ] {
            is_silent(&rig.run(words));
        }
        watch.end();
    }
    is_nowhere_but(&rig, &["db-password", "mainstay.toml"]);
    rig.configure(&format!(
        "[service.erp]\nengine = \"postgres\"\nurl = \"postgres://u:x@h/d\"\ndata-dir = \"/x\"\n\
         url-password-file = \"{file}\"\n"
    ));
    rig.run(&["config", "check"]).code(1).complains("holds a password");
}

#[test]
fn a_token_and_a_webhook_are_shown_nowhere() {
    let port = unwelcoming();
    let rig = Rig::new();
    rig.write("docs/letter.txt", "dear reader\n");
    rig.write("token", format!("{SENTINEL}\n"));
    rig.write("hook", format!("http://127.0.0.1:{port}/services/{SENTINEL}\n"));
    let at = |name: &str| rig.path(name).display().to_string();
    let configure = |vault: &str, hook: &str| {
        let text = format!(
            "[host]\nname = \"here\"\nstate-dir = \"{}\"\n\n[vault]\n{vault}\
             password-command = \"echo something\"\n\n[alerts]\n{hook}\n\n[service.docs]\n\
             engine = \"files\"\npath = \"{}\"\nrpo = \"1s\"\n",
            at("state"),
            at("docs")
        );
        rig.write("mainstay.toml", text);
    };
    let token = at("token");
    let rest = format!("url = \"rest:http://127.0.0.1:{port}/\"\nuser = \"u\"\n");
    let hook_file = format!("webhook-file = \"{}\"", at("hook"));
    let hook = format!("webhook = \"http://127.0.0.1:{port}/services/{SENTINEL}\"");
    let inline = format!("url = \"rest:http://u:{SENTINEL}@127.0.0.1:{port}/\"\n");
    for (vault, hook) in [
        (format!("{rest}token-file = \"{token}\"\n"), &hook_file),
        (format!("{rest}token-command = \"cat {token}\"\n"), &hook),
        (inline, &hook),
    ] {
        configure(&vault, hook);
        let watch = Watch::start();
        for words in [
            &["-v", "init"][..],
            &["-v", "backup", "docs"],
            &["doctor"],
            &["status"],
            &["run-due"],
            &["config", "show"],
            &["config", "check"],
        ] {
            is_silent(&rig.run(words));
        }
        watch.end();
    }
    // One that answers is told.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!("http://{}/services/{SENTINEL}\n", listener.local_addr().unwrap());
    rig.write("hook", hook);
    let vault = at("vault");
    configure(&format!("url = \"{vault}\"\n"), &hook_file);
    is_silent(&rig.run(&["init", "--no-recovery-key"]).code(0));
    is_silent(&rig.run(&["backup", "docs"]).code(0));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut command = rig.command(&["run-due"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut child = Ended(child);
    let (stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&request).contains("rpo-exceeded") {
        let read = std::io::Read::read(&mut &stream, &mut buffer).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&request));
        request.extend_from_slice(&buffer[..read]);
    }
    let text = String::from_utf8_lossy(&request);
    assert!(text.starts_with(&format!("POST /services/{SENTINEL} ")), "{text}");
    std::io::Write::write_all(&mut &stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    child.0.wait().unwrap();
}

/// Ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
