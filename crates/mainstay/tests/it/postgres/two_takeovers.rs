//! Two who want to be the primary at once, on one host and on two, when the primary is lost: one of them
//! is, and the other is told why it is not, and follows.

use super::gaps::status;
use super::receiving::wait_for;
use super::*;

const TAKEOVER: &[&str] = &["takeover", "shop", "--yes"];

/// A third host, and all of them wait at their fence until somebody says `go`.
fn with_a_third(stage: &Stage) -> Host {
    let here = stage.dir.path().display();
    let c = stage.dir.path().join("c.toml");
    let text = fs::read_to_string(&stage.b.config).unwrap();
    let hook = format!("test -e {here}/dead");
    assert!(text.contains(&hook), "{text}");
    let text = text
        .replace(&hook, &format!("while [ -d {here} ] && [ ! -e {here}/go ]; do sleep 0.02; done"));
    fs::write(&stage.b.config, &text).unwrap();
    let text = text
        .replace("name = 'b'", "name = 'c'")
        .replace(&format!("{here}/b/"), &format!("{here}/c/"));
    fs::write(&c, text).unwrap();
    give(&c);
    fs::set_permissions(&c, fs::Permissions::from_mode(0o600)).unwrap();
    let home = stage.dir.path().join("c");
    Host {
        server: PgServer::on(&home, &home.join("data")),
        config: c,
        program: stage.b.program.clone(),
    }
}

/// Takes over in the background.
fn take_over(host: &Host) -> Child {
    let mut command = host.command(TAKEOVER);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn accepts(host: &Host) -> bool {
    host.server.runs() && host.server.sql("SELECT pg_is_in_recovery()") == "f"
}

#[test]
fn of_two_takeovers_one_wins_and_the_other_follows() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    let c = with_a_third(&stage);
    c.run(&["init"]).code(0);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    c.run(&["refresh", "shop"]).code(0);
    let newest = a.write();
    a.archived();
    a.server.kill();

    // On two hosts: whoever claims it is at its fence until the other one is gone.
    let mut candidates = [(b, take_over(b)), (&c, take_over(&c))];
    let mut loser = None;
    wait_for("one of them is refused", || {
        loser = candidates.iter_mut().position(|(_, child)| child.try_wait().unwrap().is_some());
        loser.is_some()
    });
    let [first, second] = candidates;
    let (lost, won) = if loser == Some(0) { (first, second) } else { (second, first) };
    let (loser, winner) = (lost.0, won.0);
    let said = lost.1.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    // It saw the claim, or came just too late for it.
    assert!(matches!(said.status.code(), Some(1 | 11)), "{text}");
    let name = if std::ptr::eq(winner, b) { "b" } else { "c" };
    assert!(text.to_lowercase().contains(&format!("takeover to {name}")), "{text}");
    // And once more on either, before anything is decided.
    loser.run(TAKEOVER).code(1).complains(&format!("A takeover to {name} is under way"));
    let busy = winner.run(TAKEOVER).code(11);
    busy.complains("this member is busy").complains("-takeover-");
    assert!(!accepts(b) && !accepts(&c));

    fs::write(stage.dir.path().join("go"), "").unwrap();
    let said = won.1.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    assert!(accepts(winner) && !accepts(loser) && !a.server.runs());
    for host in [a, b, &c] {
        let seen = status(host).1;
        assert_eq!((&seen["primary"], &seen["generation"]), (&name.into(), &2.into()), "{seen}");
        assert!(seen["takeover"].is_null(), "{seen}");
    }
    assert_eq!(winner.newest(), newest);
    winner.run(TAKEOVER).code(1).complains(&format!("{name} is the primary already"));
    a.run(&["may-start", "shop"]).code(1);

    // Both others follow, and all have the same.
    let wanted = winner.write();
    winner.run(&["backup", "shop"]).code(0);
    winner.archived();
    a.run(&["rejoin", "shop"]).code(0);
    loser.run(&["refresh", "shop"]).code(0);
    for host in [a, loser] {
        host.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
        assert_eq!(host.newest(), wanted);
        assert!(!accepts(host));
    }
}
