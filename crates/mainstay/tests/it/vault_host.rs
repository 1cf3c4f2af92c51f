//! A vault on another machine, for us and for plain restic.

use crate::rig::{Said, mainstay, run};
use crate::vault_rig::{Sshd, VaultHost, say};
use crate::world::{World, content, fill, wait_for};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_mainstay");

/// The real restic with a repository and a password.
fn restic(home: &Path, repository: &str) -> Command {
    let mut command = Command::new("restic");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("RESTIC_CACHE_DIR", home.join("cache"))
        .env("RESTIC_REPOSITORY", repository)
        .env("RESTIC_PASSWORD", "password of the test")
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn does(mut command: Command, words: &[&str]) -> Said {
    run(command.args(words)).code(0)
}

/// What people do with restic, with every byte judged at the end.
fn with_restic(dir: &Path, restic: &dyn Fn() -> Command) {
    let source = dir.join("source");
    fill(&source, 1);
    let source_name = source.to_str().unwrap();
    does(restic(), &["init"]);
    assert_ne!(run(restic().arg("init")).code, 0, "there is one already");
    does(restic(), &["backup", "--quiet", source_name]);
    fill(&source, 2);
    does(restic(), &["backup", "--quiet", source_name]);
    does(restic(), &["check", "--read-data"]);
    let back = dir.join("back");
    does(restic(), &["restore", "latest", "--target", back.to_str().unwrap()]);
    assert_eq!(content(&back.join(&source_name[1..])), content(&source));
    does(restic(), &["forget", "--keep-last", "1", "--prune"]);
    does(restic(), &["check", "--read-data"]);
    let left = does(restic(), &["snapshots", "--json"]).json();
    assert_eq!(left.as_array().unwrap().len(), 1);
    fs::remove_dir_all(back).unwrap();
}

#[test]
fn restic_works_against_a_vault_host() {
    let dir = TempDir::new().unwrap();
    let vault = dir.path().join("vault");
    fs::create_dir(&vault).unwrap();
    let host = VaultHost::start(dir.path(), &vault, &["--no-auth"]);
    let repository = format!("{}hosts/a/shop", host.url);
    with_restic(dir.path(), &|| restic(dir.path(), &repository));
    // In the directory it is a repository like any other.
    let local = vault.join("hosts/a/shop");
    does(restic(dir.path(), local.to_str().unwrap()), &["check", "--read-data", "--no-cache"]);
    assert_eq!(host.log(), "");
}

#[test]
fn restic_takes_it_for_its_rclone() {
    let dir = TempDir::new().unwrap();
    let vault = dir.path().join("vault");
    let repository = format!("rclone:{}", vault.display());
    fs::create_dir(&vault).unwrap();
    // With the arguments that restic gives rclone by itself.
    let program = format!("rclone.program={BINARY} vault");
    with_restic(dir.path(), &|| {
        let mut command = restic(dir.path(), &repository);
        command.args(["-o", &program]);
        command
    });
    let program = format!("rclone.program={BINARY}");
    let mut command = restic(dir.path(), &repository);
    command.args(["-o", &program, "-o", "rclone.args=vault serve --stdio --append-only"]);
    does(command, &["check", "--read-data"]);
}

#[test]
fn append_only_holds_against_restic() {
    let dir = TempDir::new().unwrap();
    let vault = dir.path().join("vault");
    fs::create_dir(&vault).unwrap();
    let host = VaultHost::start(dir.path(), &vault, &["--no-auth", "--append-only"]);
    let repository = format!("{}shop", host.url);
    let restic = || restic(dir.path(), &repository);
    let source = dir.path().join("source");
    fill(&source, 1);
    does(restic(), &["init"]);
    does(restic(), &["backup", "--quiet", source.to_str().unwrap()]);
    assert_eq!(host.log(), "", "locks come and go");
    let whole = content(&vault);
    let mut command = restic();
    command.args(["forget", "latest", "--prune"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // It would go on trying for most of a minute.
    wait_for("it is refused", || host.log().contains("403 DELETE"));
    child.kill().unwrap();
    child.wait().unwrap();
    let now = content(&vault).unwrap();
    for (path, bytes) in whole.unwrap() {
        assert_eq!(now.get(&path), Some(&bytes), "{} was changed", path.display());
    }
    does(restic(), &["unlock", "--remove-all"]);
    does(restic(), &["check", "--read-data"]);
    assert_eq!(does(restic(), &["snapshots", "--json"]).json().as_array().unwrap().len(), 1);
}

/// The hosts of a world reach its vault by these lines.
pub(crate) fn reach(world: &World, lines: &str) {
    for host in ["a", "b"] {
        let file = world.path(host).join("mainstay.toml");
        let text = fs::read_to_string(&file).unwrap();
        let here = format!("url = \"{}\"\n", world.path("vault").display());
        assert!(text.contains(&here), "{text}");
        fs::write(&file, text.replace(&here, lines)).unwrap();
    }
}

/// The life of a service with a vault that both hosts reach over a network.
fn life(world: &World) {
    world.run("a", &["init"]).code(0);
    world.run("b", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    fill(&world.path("a/data"), 2);
    world.run("a", &["backup", "docs"]).code(0);
    assert_eq!(world.points("b").len(), 2);
    world.run("a", &["check", "docs", "--read-data"]).code(0);
    let back = world.path("back");
    world.run("b", &["restore", "docs", "--target", back.to_str().unwrap()]).code(0);
    assert_eq!(content(&back), content(&world.path("a/data")));
    world.run("b", &["refresh", "docs"]).code(0);
    assert_eq!(content(&world.path("b/data")), content(&world.path("a/data")));
    let doctor = world.run("a", &["--json", "doctor"]);
    assert!(!doctor.out.contains("\"fail\""), "{doctor:#?}");
    let forced = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested here"];
    world.run("b", &forced).code(0);
    world.run("a", &["backup", "docs"]).code(1);
    world.run("a", &["may-start", "docs"]).code(1);
    world.run("b", &["may-start", "docs"]).code(0);
    fs::write(world.path("b/data/changed"), "by b").unwrap();
    world.run("b", &["backup", "docs"]).code(0);
    world.run("a", &["rejoin", "docs", "--yes"]).code(0);
    assert_eq!(content(&world.path("b/data")), content(&world.path("a/data")));
    world.restic_check();
    for host in ["a", "b"] {
        assert!(world.unfinished(host).is_empty(), "{host}");
    }
}

/// A certificate for this machine's loopback address, signed by itself: the file and the key's.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

#[test]
fn a_service_lives_with_a_vault_over_https_that_it_can_only_add_to() {
    let world = World::new("files", "");
    let (vault, users) = (world.path("vault"), world.path("users"));
    fs::create_dir(&vault).unwrap();
    let users_name = users.to_str().unwrap();
    let add = ["vault", "user", "add", "hosts", "--users", users_name, "--path", "docs"];
    let token = run(mainstay().args(add)).code(0).out;
    let token_file = world.path("token");
    fs::write(&token_file, &token).unwrap();
    let (cert, key) = certificate(&world.path("a"));
    let words = ["--users", users_name, "--tls-cert", cert.to_str().unwrap(), "--tls-key"];
    let words: Vec<&str> = words.into_iter().chain([key.to_str().unwrap()]).collect();
    let host = VaultHost::start(&world.path("a"), &vault, &words);
    reach(
        &world,
        &format!(
            "url = \"{}\"\nuser = \"hosts\"\ntoken-file = \"{}\"\nca-file = \"{}\"\n",
            host.url,
            token_file.display(),
            cert.display()
        ),
    );
    life(&world);
    let shown = world.run("a", &["--json", "status"]);
    assert!(!format!("{shown:?}{}", host.log()).contains(token.trim()));
    // And restic, with the token in the URL and the certificate by option.
    let repository = format!("{}docs", host.url_of("hosts", token.trim()));
    let mut command = restic(&world.path("home"), &repository);
    command.env_remove("RESTIC_PASSWORD").env("RESTIC_PASSWORD_FILE", world.path("password"));
    command.arg("--cacert").arg(&cert);
    does(command, &["check", "--read-data"]);
    // Somebody who is not let in any more.
    run(mainstay().args(["vault", "user", "remove", "hosts", "--users", users_name])).code(0);
    world.run("a", &["backup", "docs"]).code(1).complains("does not let us in");
}

#[test]
fn a_service_lives_with_a_vault_over_http() {
    let world = World::new("files", "");
    fs::create_dir(world.path("vault")).unwrap();
    let host = VaultHost::start(&world.path("a"), &world.path("vault"), &["--no-auth"]);
    reach(&world, &format!("url = \"{}\"\n", host.url));
    life(&world);
    assert_eq!(host.log(), "", "nothing of it had to be refused");
}

#[test]
fn a_service_lives_with_a_vault_over_ssh() {
    let world = World::new("files", "");
    fs::create_dir(world.path("vault")).unwrap();
    let sshd = Sshd::start("");
    let [ssh, option, config] = sshd.ssh();
    let vault = world.path("vault");
    let lines = format!(
        "url = \"ssh://{}@vault{}\"\nssh-command = [\"{ssh}\", \"{option}\", \"{config}\"]\n\
         remote-program = \"{BINARY}\"\n",
        sshd.user,
        vault.display()
    );
    reach(&world, &lines);
    life(&world);
    // Restic on the other end of the same way.
    let mut command = restic(&world.path("home"), &format!("rclone:{}/docs", vault.display()));
    command.env_remove("RESTIC_PASSWORD").env("RESTIC_PASSWORD_FILE", world.path("password"));
    command.args(["-o", &format!("rclone.program={ssh} {option} {config} vault {BINARY} vault")]);
    does(command, &["check", "--read-data"]);
}

#[test]
fn a_forced_command_decides_what_is_served_and_how() {
    let world = World::new("files", "");
    fs::create_dir(world.path("vault")).unwrap();
    let vault = world.path("vault");
    let serve = format!("{BINARY} vault serve --stdio --append-only {}", vault.display());
    let sshd = Sshd::start(&format!("restrict,command=\"{serve}\""));
    let [ssh, option, config] = sshd.ssh();
    // The directory and the program that a client names are not heeded.
    let lines = format!(
        "url = \"ssh://vault/etc\"\nssh-command = [\"{ssh}\", \"{option}\", \"{config}\"]\n\
         remote-program = \"rm -rf\"\n"
    );
    reach(&world, &lines);
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world.restic_check();
    let before = content(&vault).unwrap();
    let mut command = restic(&world.path("home"), "rclone:docs");
    command.env_remove("RESTIC_PASSWORD").env("RESTIC_PASSWORD_FILE", world.path("password"));
    // restic asks for its files at the root, and that is the vault and no repository.
    command.args(["-o", &format!("rclone.program={ssh} {option} {config} vault")]);
    assert_ne!(run(command.arg("snapshots")).code, 0);
    assert_eq!(content(&vault).unwrap(), before);
}

#[test]
fn a_server_that_is_killed_leaves_nothing_half() {
    let dir = TempDir::new().unwrap();
    let vault = dir.path().join("vault");
    fs::create_dir(&vault).unwrap();
    let put = "PUT /docs/x HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nContent-Length: 4000000\r\n\r\n";
    for _ in 0..3 {
        let mut host = VaultHost::start(dir.path(), &vault, &["--no-auth"]);
        let mut socket = host.socket();
        socket.write_all(put.as_bytes()).unwrap();
        socket.write_all(&vec![7; 3_900_000]).unwrap();
        wait_for("the body arrives", || {
            let found = content(&vault).unwrap();
            found.values().any(|(_, bytes)| bytes.len() >= 1 << 20)
        });
        host.child.kill().unwrap();
        host.child.wait().unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0, "it answered");
        let host = VaultHost::start(dir.path(), &vault, &["--no-auth"]);
        let mut socket = host.socket();
        let list = "GET / HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nConnection: close\r\n\r\n";
        socket.write_all(list.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\n[]"), "{answer}");
    }
}

#[test]
fn at_the_stop_what_runs_comes_to_its_end() {
    let dir = TempDir::new().unwrap();
    let vault = dir.path().join("vault");
    fs::create_dir(&vault).unwrap();
    let mut host = VaultHost::start(dir.path(), &vault, &["--no-auth"]);
    let mut socket = host.socket();
    let put =
        "PUT /docs/x HTTP/1.1\r\nHost: x\r\nMainstay-Protocol: 1\r\nContent-Length: 10\r\n\r\n";
    socket.write_all(put.as_bytes()).unwrap();
    socket.write_all(b"01234").unwrap();
    wait_for("the request has begun", || content(&vault).unwrap().len() > 2);
    host.signal("TERM");
    let address = host.address().to_owned();
    wait_for("it takes no more", || std::net::TcpStream::connect(&address).is_err());
    assert_eq!(say(&mut socket, b"56789"), "HTTP/1.1 200");
    assert_eq!(host.child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read(vault.join("docs/x")).unwrap(), b"0123456789");
}

#[test]
fn what_would_be_a_mistake_is_refused() {
    let dir = TempDir::new().unwrap();
    let here = dir.path().to_str().unwrap();
    let serve = |words: &[&str]| run(mainstay().args(["vault", "serve"]).args(words));
    serve(&[here]).code(1).complains("--users");
    serve(&["/no/such/vault", "--no-auth"]).code(1).complains("mount its disk");
    serve(&[here, "--no-auth", "--listen", "0.0.0.0:0"]).code(1).complains("--plain-http");
    serve(&["one", here, "--no-auth"]).code(1).complains("name one directory");
    serve(&[here, "--no-auth", "--tls-cert", "x"]).code(1).complains("--tls-key");
    serve(&[here, "--no-auth", "--tls-cert", "/x", "--tls-key", "/x"]).code(1).complains("/x");
    serve(&[here, "--stdio", "--users", "x"]).code(1).complains("cannot be used with");
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = serve(&["--json", here, "--no-auth", "--listen", &address]).code(1);
    assert!(said.error_json()["message"].as_str().unwrap().contains(&address), "{said:#?}");
    let bad = dir.path().join("users");
    fs::write(&bad, "a:full:/:plain\n").unwrap();
    let said = serve(&[here, "--users", bad.to_str().unwrap()]).code(1).complains("line 1");
    assert!(!said.err.contains("plain"), "a hash, or what somebody took for one: {said:#?}");
}

#[test]
fn users_are_added_listed_and_removed() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("etc/users");
    let user = |words: &[&str]| {
        run(mainstay().args(["vault", "user"]).args(words).arg("--users").arg(&file))
    };
    let first = user(&["add", "db1"]).code(0).out;
    assert_eq!(first.trim().len(), 40);
    user(&["add", "keeper", "--rights", "full", "--path", "/"]).code(0);
    user(&["add", "both", "--rights", "read", "--path", "/shop/", "--path", "docs"]).code(0);
    user(&["list"]).code(0).says("db1 append db1\nkeeper full /\nboth read shop, docs\n");
    let second = user(&["--json", "add", "db1"]).code(0).json();
    assert_ne!(second["token"].as_str().unwrap(), first.trim());
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(first.trim()) && !text.contains(second["token"].as_str().unwrap()));
    assert_eq!(text.lines().filter(|line| line.starts_with("db1:")).count(), 1);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    user(&["remove", "nobody"]).code(1).complains("no user nobody");
    user(&["remove", "both"]).code(0);
    assert_eq!(user(&["--json", "list"]).code(0).json()["users"].as_array().unwrap().len(), 2);
    for bad in [&["add", "a:b"][..], &["add", ""], &["add", "x", "--path", "../y"]] {
        user(bad).code(1);
    }
    user(&["add", "x", "--rights", "some"]).code(1).complains("read, append or full");
}
