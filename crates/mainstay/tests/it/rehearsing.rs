//! Drills of services whose engine or importer is a program of somebody's: it brings the copy to life
//! and judges it; whatever else it does proves nothing, and nothing of it is left.

use crate::rig::{Rig, Said, run};
use crate::world::{kill, state, wait_for, worker_in};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

/// An engine for a directory with a note in it. Its service is a server that serves the note on a port.
const NOTES: &str = r#"#!/usr/bin/env python3
import json, os, signal, socket, sys, time
from datetime import datetime, timezone

request = json.load(sys.stdin)
here = os.path.dirname(os.path.abspath(__file__))
path = request["definition"]["path"]


def read(name):
    with open(os.path.join(here, name)) as file:
        return file.read().strip()


def tell(name, what):
    with open(os.path.join(here, name + ".new"), "w") as file:
        file.write(what)
    os.rename(os.path.join(here, name + ".new"), os.path.join(here, name))


def describe():
    answer = {"protocol": 1, "roots": [{"in-snapshot": "/notes", "on-host": path, "kind": "tree"}]}
    if request.get("offers", {}).get("rehearse") == 1 and read("mode") != "old":
        answer.update({"rehearse": 1, "rehearse-port": True})
    if read("mode") == "stay":
        answer["check"] = True
    return answer


def inspect():
    return {"running": "unknown", "has-data": os.path.exists(path), "summary": "notes"}


def capture():
    now = datetime.now(timezone.utc).isoformat()
    trees = [{"in-snapshot": "/notes", "source": path}]
    return {"capture-id": request["capture-id"], "source-time": now, "trees": trees}


def stay(verb):
    """Notes where it runs, and leaves a process behind in a session of its own."""
    if read("mode") != "stay":
        return
    tell(verb, json.dumps({name: os.readlink("/proc/self/ns/" + name) for name in ("net", "pid")}))
    ready, told = os.pipe()
    if os.fork() == 0:
        os.setsid()
        tell("left-" + verb, os.readlink("/proc/self"))
        os.write(told, b"x")
        for name in (0, 1, 2):
            os.close(name)
        time.sleep(600)
    os.close(told)
    os.read(ready, 1)


def prepare():
    stay("prepare")
    return {}


def check():
    stay("check")
    return {"sound": True, "findings": ["looked at"]}


def serve():
    """Leaves a server behind that does not want to go."""
    ready, told = os.pipe()
    if os.fork() == 0:
        # In a namespace of processes this is no way out; elsewhere it would be.
        if os.readlink("/proc/self") != str(os.getpid()):
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        socket_ = socket.create_server(("127.0.0.1", request["port"]))
        tell("left", os.readlink("/proc/self"))
        os.write(told, b"x")
        for name in (0, 1, 2):
            os.close(name)
        while True:
            client, _ = socket_.accept()
            with open(os.path.join(request["copy"][0]["staged"], "note"), "rb") as note:
                client.sendall(note.read())
            client.close()
    os.close(told)
    os.read(ready, 1)


def rehearse():
    mode = read("mode")
    tell("asked", json.dumps({
        "net": os.readlink("/proc/self/ns/net"),
        "cwd": os.getcwd(),
        **{key: request[key] for key in ("home", "port", "isolated")},
    }))
    serve()
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode == "hang":
        time.sleep(600)
    if mode == "say":
        sys.stdout.write(read("say"))
        sys.exit()
    if mode == "flood":
        for _ in range(40):
            sys.stdout.write("x" * 1000000)
        sys.exit()
    with socket.create_connection(("127.0.0.1", request["port"])) as client:
        note = client.makefile().read()
    sound = note == "kept\n"
    return {"sound": sound, "findings": ["the server says " + note]}


verbs = {
    "describe": describe, "inspect": inspect, "capture": capture, "release": dict,
    "prepare": prepare, "check": check, "ready": dict, "activate": dict, "rehearse": rehearse,
}
json.dump(verbs[sys.argv[1]](), sys.stdout)
"#;

/// A host whose service `docs` is one of notes, backed up.
struct Host(Rig);

impl Host {
    fn new() -> Host {
        let host = Host(Rig::new());
        let program = host.0.write("bin/mainstay-engine-notes", NOTES);
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        host.configure("");
        host.mode("sound");
        host.0.write("notes/note", "kept\n");
        host.run(&["init"]).code(0);
        host.run(&["backup", "docs"]).code(0);
        host
    }

    fn configure(&self, lines: &str) {
        self.0.configure(&format!(
            "[service.docs]\nengine = \"notes\"\npath = \"{}\"\n{lines}",
            self.0.path("notes").display()
        ));
    }

    fn mode(&self, mode: &str) {
        self.0.write("bin/mode", mode);
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.0.command(words);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.0.path("bin")).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(path).unwrap());
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Said {
        run(&mut self.command(words))
    }

    /// A drill that must end like this; its findings, in lines.
    #[track_caller]
    fn drill(&self, code: i32) -> (Value, String) {
        let done = self.run(&["drill", "docs", "--json"]).code(code).json();
        let findings = done["findings"].as_array().unwrap().iter();
        let findings: Vec<_> = findings.map(|one| one.as_str().unwrap().to_owned()).collect();
        self.nothing_is_left();
        assert_eq!(done["sound"], json!(code == 0));
        let list = self.run(&["snapshots", "docs", "--json"]).code(0).json();
        let point = &list["services"][0]["snapshots"][0];
        assert_eq!(point["drill"]["sound"], json!(code == 0), "{point}");
        (done, findings.join("\n"))
    }

    /// Neither the server that the program left, nor what it worked on.
    #[track_caller]
    fn nothing_is_left(&self) {
        if let Ok(pid) = fs::read_to_string(self.0.path("bin/left")) {
            let pid = pid.parse().unwrap();
            wait_for("the server is gone", || state(pid).is_none_or(|state| state == 'Z'));
            fs::remove_file(self.0.path("bin/left")).unwrap();
        }
        let drills = fs::read_dir(self.0.path("state/drills")).into_iter().flatten().count();
        assert_eq!(drills, 0);
    }

    /// A drill that has come to where its server serves, and the process that does the work.
    fn begin(&self) -> (Child, u32) {
        let mut command = self.command(&["drill", "docs"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("it serves", || self.0.path("bin/left").exists());
        let running = worker_in(&self.0.path("state/services/docs/operations"));
        (child, running.unwrap())
    }
}

#[test]
fn an_engine_of_ones_own_brings_the_copy_to_life_and_judges_it() {
    let host = Host::new();
    let (done, findings) = host.drill(0);
    assert!(findings.contains("every byte on disk is the snapshot's"), "{findings}");
    assert!(findings.contains("the server says kept"), "{findings}");
    assert!(done["start-seconds"].as_f64().unwrap() > 0.0, "{done}");
    assert!(done["recovery-seconds"].as_f64() > done["start-seconds"].as_f64(), "{done}");
    // Where it worked, and that it was cut off if the host allows that.
    let asked: Value =
        serde_json::from_slice(&fs::read(host.0.path("bin/asked")).unwrap()).unwrap();
    assert_eq!((&asked["cwd"], &asked["isolated"]), (&asked["home"], &done["isolated"]));
    let ours = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(asked["net"] != json!(ours), done["isolated"] == json!(true), "{asked}");
    assert!(asked["home"].as_str().unwrap().contains("/state/drills/"), "{asked}");
    assert!(asked["port"].as_u64().is_some_and(|port| port > 1023), "{asked}");

    // The program says no.
    host.0.write("notes/note", "lost\n");
    host.run(&["backup", "docs"]).code(0);
    let unsound = host.run(&["drill", "docs", "--json"]).code(1).json();
    let findings = unsound["findings"].to_string();
    assert!(findings.contains("the server says lost"), "{findings}");
    assert!(findings.contains("found the copy not sound"), "{findings}");
    host.nothing_is_left();

    // Programs that know of no rehearsals go on as before.
    host.mode("old");
    let plain = host.run(&["drill", "docs", "--json"]).code(0).json();
    let findings = plain["findings"].to_string();
    assert!(findings.contains("neither a rehearsal nor a check"), "{findings}");
    assert!(!host.0.path("bin/left").exists());
}

#[test]
fn whatever_else_a_rehearsal_does_proves_nothing_and_leaves_nothing() {
    let host = Host::new();
    host.mode("crash");
    let (_, findings) = host.drill(1);
    assert!(findings.contains("SIGSEGV"), "{findings}");
    host.mode("flood");
    let (_, findings) = host.drill(1);
    assert!(findings.contains("said far too much"), "{findings}");
    host.mode("say");
    let deep = "[".repeat(100_000);
    let long = format!("{{\"sound\": true, \"{}\": 1}}", "shiny".repeat(10_000));
    for nonsense in [
        "",
        "hello",
        "{}",
        "{\"sound\": \"maybe\"}",
        "{\"sound\": true, \"findings\": [7]}",
        "{\"sound\": true} {\"sound\": true}",
        "{\"sound\": true, \"answered-after-seconds\": 1e999}",
        &deep,
        &long,
    ] {
        host.0.write("bin/say", nonsense);
        let (_, findings) = host.drill(1);
        let start = &nonsense[..nonsense.len().min(60)];
        assert!(findings.contains("did not answer as it should"), "{start}: {findings}");
        assert!(findings.len() < 20_000, "{start}: {}", findings.len());
    }
    host.0.write("bin/say", "{\"sound\": true, \"answered-after-seconds\": -1}");
    let (_, findings) = host.drill(1);
    assert!(findings.contains("at an impossible time"), "{findings}");
    // It does not come to its end.
    host.mode("hang");
    host.configure("drill-timeout = \"5s\"\n");
    let (_, findings) = host.drill(1);
    assert!(findings.contains("took longer than 5s and was ended"), "{findings}");
    // And the point is none the worse for all that.
    host.mode("sound");
    host.drill(0);
}

/// What prepares the copy and what checks it may call home, and leave something behind, as much as what
/// brings it to life.
#[test]
fn all_that_an_engine_does_in_a_drill_is_enclosed() {
    let host = Host::new();
    host.mode("stay");
    let left_nothing = || {
        for verb in ["prepare", "check"] {
            let file = host.0.path(format!("bin/left-{verb}"));
            let pid = fs::read_to_string(&file).unwrap().parse().unwrap();
            assert!(state(pid).is_none_or(|state| state == 'Z'), "what {verb} left lives");
            fs::remove_file(file).unwrap();
        }
    };
    let (done, findings) = host.drill(0);
    assert!(findings.contains("looked at"), "{findings}");
    left_nothing();
    let enclosed = !findings.contains("no namespace of processes");
    for verb in ["prepare", "check"] {
        let ran: Value =
            serde_json::from_slice(&fs::read(host.0.path(format!("bin/{verb}"))).unwrap()).unwrap();
        for (name, own) in [("net", done["isolated"] == json!(true)), ("pid", enclosed)] {
            let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            assert_eq!(ran[name] != json!(ours), own, "{verb} in {name}: {ran}");
        }
    }

    // On a host that allows no namespaces it is looked for, and said, once.
    let stub = "#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2; exit 1\n";
    crate::rig::script(&host.0.path("bin/unshare"), stub);
    let (_, findings) = host.drill(0);
    left_nothing();
    assert!(findings.contains("no namespace of processes"), "{findings}");
}

#[test]
fn a_rehearsal_ends_with_whoever_asked_for_it() {
    let host = Host::new();
    host.mode("hang");
    let (child, _) = host.begin();
    host.run(&["cancel", "docs"]).code(0);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    host.nothing_is_left();

    let (child, worker) = host.begin();
    let left = fs::read_to_string(host.0.path("bin/left")).unwrap().parse().unwrap();
    kill(worker);
    wait_for("the server is gone", || state(left).is_none_or(|state| state == 'Z'));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
    host.mode("sound");
    fs::remove_file(host.0.path("bin/left")).unwrap();
    host.drill(0);
}

/// An importer that hangs is ended, and so is a command that looks at the copy.
#[test]
fn an_importer_and_a_drill_command_have_a_limit() {
    let rig = Rig::new();
    let program = |name: &str, text: &str| {
        let path = rig.write(name, format!("#!/bin/sh\n{text}"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let here = rig.path("").display().to_string();
    let service = format!(
        "[service.docs]\nengine = \"script\"\npath = \"{here}/export\"\n\
         exporter = \"{here}/exporter\"\nimporter = \"{here}/importer\"\n"
    );
    program(
        "exporter",
        "echo \"$MAINSTAY_EXPORT_ID\" >page\n\
         echo \"{\\\"export-id\\\": \\\"$MAINSTAY_EXPORT_ID\\\", \\\"importer-knows-scratch\\\": true, \
         \\\"source-time\\\": \\\"$(date -u +%Y-%m-%dT%H:%M:%S.%NZ)\\\"}\"\n",
    );
    // Only the one that is to hang needs long.
    program("importer", &format!("test ! -e {here}/hang || sleep 600\n"));
    rig.configure(&service);
    rig.run(&["init"]).code(0);
    rig.run(&["backup", "docs"]).code(0);
    rig.run(&["drill", "docs"]).code(0);
    rig.write("hang", "");
    rig.configure(&format!("{service}drill-timeout = \"1s\"\n"));
    let hung = rig.run(&["drill", "docs", "--json"]).code(1).json();
    let said = hung["findings"].to_string();
    assert!(said.contains("the importer took longer than 1s and was ended"), "{said}");

    fs::remove_file(rig.path("hang")).unwrap();
    rig.configure(&format!("{service}drill-timeout = \"5s\"\ndrill-command = \"sleep 600\"\n"));
    let hung = rig.run(&["drill", "docs", "--json"]).code(1).json();
    let said = hung["findings"].to_string();
    assert!(said.contains("the drill command took longer than 5s and was ended"), "{said}");
    let status = rig.run(&["status", "docs", "--json"]).code(1).json();
    assert_eq!(status["services"][0]["last-drill"]["sound"], false);
}
