//! A host that is switched on with nothing but its name, the vault and a marker becomes a standby,
//! once.

use crate::kills::{Scenario, and_more};
use crate::refreshing::{LARGE, grow, joined, number};
use crate::rig::{Rig, run};
use crate::world::{World, content, fill, state, wait_for};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The new host, `c`: a name, a vault, and a marker. What the primary's definition names is not there
/// yet, as on another machine.
fn switched_on(world: &World, marker: &str) {
    let dir = world.path("c");
    let here = dir.parent().unwrap().display().to_string();
    fs::create_dir_all(&dir).unwrap();
    let text = format!(
        "[host]\nname = \"c\"\nstate-dir = \"{here}/c/state\"\n\n# The vault of all.\n[vault]\n\
         url = \"{here}/vault\"\npassword-file = \"{here}/password\"\n"
    );
    fs::write(dir.join("mainstay.toml"), text).unwrap();
    fs::set_permissions(dir.join("mainstay.toml"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(dir.join("provision.toml"), marker).unwrap();
    if world.path("a/data").exists() {
        fs::rename(world.path("a/data"), world.path("a/kept")).unwrap();
    }
}

const MARKER: &str = "services = [\"docs\"]\n";

/// A primary with one point.
fn protected(engine: &str, lines: &str) -> World {
    let world = World::new(engine, lines);
    world.run("a", &["init"]).code(0);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    world
}

fn member(world: &World, host: &str, name: &str) -> Value {
    let members = world.status(host)["members"].clone();
    let members = members.as_array().unwrap();
    members.iter().find(|member| member["name"] == name).cloned().unwrap_or_default()
}

fn markers(world: &World) -> Vec<String> {
    let items = fs::read_dir(world.path("c")).unwrap().map(|item| item.unwrap().file_name());
    let mut names: Vec<_> = items.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("provision.toml"));
    names
}

/// It was done, and is not done again.
fn is_done_once(world: &World, at: &str) {
    let names = markers(world);
    assert_eq!(names.len(), 1, "{at}: {names:?}");
    assert!(names[0].starts_with("provision.toml.done-"), "{at}: {names:?}");
    let config = fs::read_to_string(world.path("c/mainstay.toml")).unwrap();
    assert_eq!(config.matches("[service.docs]").count(), 1, "{at}: {config}");
    let operations = world.operations("c").len();
    world.run("c", &["provision"]).code(0).says("nothing to provision");
    assert_eq!(world.operations("c").len(), operations, "{at}: it did something again");
    assert_eq!(member(world, "c", "c")["role"], "standby", "{at}");
}

#[test]
fn a_new_host_becomes_a_standby_once() {
    let world = protected("files", "schedule = \"0 * * * *\"\n");
    world.run("a", &["provision"]).code(0).says("nothing to provision");
    switched_on(&world, MARKER);
    let config = world.path("c/mainstay.toml");
    let before = fs::read_to_string(&config).unwrap();

    let dry = world.run("c", &["provision", "--dry-run"]).code(0);
    dry.says("would be defined").says("c would become a standby").says("would be built from");
    let json = world.run("c", &["--json", "provision", "--dry-run"]).code(0).json();
    let step = &json["services"][0];
    assert_eq!(
        (&step["service"], &step["define"], &step["join"]),
        (&"docs".into(), &true.into(), &true.into()),
        "{json}"
    );
    assert_eq!(fs::read_to_string(&config).unwrap(), before);
    assert_eq!(markers(&world), ["provision.toml"]);
    assert!(!world.path("c/state").exists() && !world.path("a/data").exists());

    let json = world.run("c", &["--json", "provision"]).code(0).json();
    assert_eq!(json["services"][0]["defined"], true, "{json}");
    assert_eq!(json["services"][0]["seeded"], true, "{json}");
    assert!(Path::new(json["marker"].as_str().unwrap()).exists(), "{json}");
    assert!(content(&world.path("a/data")) == content(&world.path("a/kept")));
    is_done_once(&world, "the first time");
    // What was there of the configuration stays, and so does who may read it.
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.starts_with(before.trim_end()), "{text}");
    assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o640);
    world.run("c", &["config", "check"]).code(0);
    // A standby like any other.
    world.run("c", &["refresh", "docs"]).code(0).says("already");
    world.run("c", &["may-start", "docs"]).code(1);
    let words = ["takeover", "docs", "--yes", "--override", "primary-not-fenced=tested"];
    world.run("c", &words).code(0);
    assert_eq!(world.status("c")["primary"], "c");
    // A second marker on a host that is the primary by now is refused.
    fs::write(world.path("c/provision.toml"), MARKER).unwrap();
    world.run("c", &["provision"]).code(1).complains("is the primary of docs");
    assert!(world.path("c/provision.toml").exists());
}

#[test]
fn a_provisioning_is_killed_at_every_step() {
    fn prepare(world: &World) {
        let data = world.path("a/data");
        fill(&data, 2);
        world.run("a", &["backup", "docs"]).code(0);
        switched_on(world, MARKER);
    }
    fn whole(world: &World) -> bool {
        content(&world.path("a/data")) == content(&world.path("a/kept"))
    }
    let scenario = Scenario {
        host: "c",
        kind: "refresh",
        words: &["provision"],
        prepare,
        dead: |world, at| {
            let there = world.path("a/data").exists();
            assert!(!there || whole(world), "{at}: the copy is half built");
            assert!(!there || at != "provision:joined", "{at}");
        },
        again: |world, _| world.run("c", &["provision"]).code(0),
        after: |world, at| {
            assert!(whole(world), "{at}");
            is_done_once(world, at);
            world.run("c", &["refresh", "docs"]).code(0).says("already");
        },
        guarded: false,
    };
    let between =
        ["defined", "joined", "seeded", "renamed"].map(|step| format!("provision:{step}"));
    let between: Vec<&str> = between.iter().map(String::as_str).collect();
    and_more(&protected("files", ""), &scenario, &between);
}

#[test]
fn an_old_copy_on_a_new_host_is_adopted() {
    let world = joined(&std::env::temp_dir());
    let data = world.path("a/data");
    grow(&data, 1);
    run(Command::new("cp").arg("-a").arg(&data).arg(world.path("a/old"))).code(0);
    grow(&data, 2);
    world.run("a", &["backup", "docs"]).code(0);
    switched_on(&world, MARKER);
    fs::rename(world.path("a/old"), &data).unwrap();
    // Without a word it is not touched, and the marker stays.
    let old = content(&data);
    world.run("c", &["provision"]).code(1).complains("docs: ").complains("holds data that no");
    assert!(content(&data) == old);
    assert_eq!(markers(&world), ["provision.toml"]);
    fs::write(world.path("c/provision.toml"), format!("{MARKER}adopt = true\n")).unwrap();
    world.run("c", &["provision", "--dry-run"]).code(0).says("would be adopted");
    let json = world.run("c", &["--json", "provision"]).code(0).json();
    let done = &json["services"][0];
    assert_eq!((&done["adopted"], &done["defined"]), (&true.into(), &false.into()), "{json}");
    assert!(number(done, "fetched-bytes") < 3 << 20, "{json}");
    assert!(number(done, "bytes") > LARGE as u64, "{json}");
    assert!(content(&data) == content(&world.path("a/kept")));
    is_done_once(&world, "adopted");
}

#[test]
fn a_service_that_is_imported_is_imported() {
    let scripts = "exporter = \"@HERE@/export\"\nimporter = \"@HERE@/import\"\n";
    let world = World::new("script", scripts);
    world.script(
        "export",
        "echo exported >\"$MAINSTAY_BACKUP_DIR/dump\"\n\
         echo \"{\\\"export-id\\\": \\\"$MAINSTAY_EXPORT_ID\\\", \
         \\\"source-time\\\": \\\"$(date -u +%Y-%m-%dT%H:%M:%SZ)\\\"}\"\n",
    );
    let imported = world.path("imported");
    world
        .script("import", &format!("cat \"$MAINSTAY_BACKUP_DIR/dump\" >>{}\n", imported.display()));
    fs::create_dir_all(world.path("a/data")).unwrap();
    world.run("a", &["init"]).code(0);
    world.run("a", &["backup", "docs"]).code(0);
    switched_on(&world, MARKER);
    world.run("c", &["provision"]).code(0);
    assert_eq!(fs::read_to_string(&imported).unwrap(), "exported\n");
    is_done_once(&world, "imported");
    assert_eq!(fs::read_to_string(&imported).unwrap(), "exported\n");
}

#[test]
fn what_cannot_be_a_standby_is_refused_and_the_marker_stays() {
    let world = protected("files", "");
    fs::write(world.path("a/provision.toml"), MARKER).unwrap();
    world.run("a", &["provision"]).code(1).complains("a is the primary of docs");
    assert!(world.path("a/provision.toml").exists());

    switched_on(&world, "services = [\"dosc\"]\n");
    let before = fs::read_to_string(world.path("c/mainstay.toml")).unwrap();
    let refused = |code: i32, why: &str| {
        world.run("c", &["provision"]).code(code).complains(why).complains("Hint: ");
        assert_eq!(markers(&world), ["provision.toml"], "{why}");
        assert!(!world.path("a/data").exists(), "{why}");
    };
    refused(10, "there is no repository of dosc");
    for (marker, why) in [
        ("service = \"docs\"\n", "is no marker"),
        ("services = []\n", "names no service"),
        ("services = [\"../docs\"]\n", "is no marker"),
        ("", "is no marker"),
    ] {
        fs::write(world.path("c/provision.toml"), marker).unwrap();
        refused(1, why);
    }
    fs::write(world.path("c/provision.toml"), MARKER).unwrap();
    // A vault that is not mounted is not made.
    fs::rename(world.path("vault"), world.path("unmounted")).unwrap();
    world.run("c", &["provision"]).code(10);
    assert!(!world.path("vault").exists());
    fs::create_dir(world.path("vault")).unwrap();
    refused(10, "there is no repository of docs");
    assert_eq!(fs::read_dir(world.path("vault")).unwrap().count(), 0);
    fs::remove_dir(world.path("vault")).unwrap();
    fs::rename(world.path("unmounted"), world.path("vault")).unwrap();
    // The password of something else.
    fs::rename(world.path("password"), world.path("password.kept")).unwrap();
    world.run("c", &["provision"]).code(1).complains("password");
    fs::write(world.path("password"), "another\n").unwrap();
    world.run("c", &["provision"]).code(12);
    fs::rename(world.path("password.kept"), world.path("password")).unwrap();
    assert_eq!(fs::read_to_string(world.path("c/mainstay.toml")).unwrap(), before);
    assert!(!world.path("c/state").exists());

    // A section that makes it a primary is somebody's mistake.
    let place = world.path("c/data").display().to_string();
    let section = format!("\n[service.docs]\nengine = \"files\"\npath = \"{place}\"\n");
    fs::write(world.path("c/mainstay.toml"), format!("{before}{section}")).unwrap();
    refused(1, "c would join docs as the primary");
    // And one that does not goes before what the vault knows.
    let section = format!("{section}role = \"standby\"\n");
    fs::write(world.path("c/mainstay.toml"), format!("{before}{section}")).unwrap();
    world.run("c", &["provision"]).code(0);
    assert!(content(&world.path("c/data")) == content(&world.path("a/kept")));
    assert!(!world.path("a/data").exists());
    is_done_once(&world, "in its own place");
}

#[test]
fn a_service_without_a_point_is_waited_for() {
    let world = World::new("files", "");
    world.run("a", &["init"]).code(0);
    switched_on(&world, MARKER);
    world.run("c", &["provision"]).code(1).complains("has no recovery point yet");
    assert_eq!(markers(&world), ["provision.toml"]);
    fill(&world.path("a/data"), 1);
    world.run("a", &["backup", "docs"]).code(0);
    fs::rename(world.path("a/data"), world.path("a/kept")).unwrap();
    world.run("c", &["provision"]).code(0);
    is_done_once(&world, "when there was one");
}

#[test]
fn two_at_once_do_it_once() {
    let world = protected("files", "");
    switched_on(&world, MARKER);
    let mut command = world.command("c", &["provision"]);
    command.env("MAINSTAY_TEST_STOP_AT", "stage:done").stdout(Stdio::null());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let worker = world.worker("c");
    wait_for("it has staged", || state(worker) == Some('T'));
    world.run("c", &["provision"]).code(11).complains("goes by");
    crate::cancel::cont(worker);
    assert!(child.wait().unwrap().success());
    is_done_once(&world, "twice");
}

/// A definition whose keys this host cannot have leaves its configuration as it was.
#[test]
fn a_definition_that_does_not_fit_is_not_written() {
    let world = protected("files", "");
    switched_on(&world, MARKER);
    let config = world.path("c/mainstay.toml");
    let inside = world.path("a/data").display().to_string();
    let mut text = fs::read_to_string(&config).unwrap();
    // Another service has its place.
    text.push_str(&format!("\n[service.other]\nengine = \"files\"\npath = \"{inside}\"\n"));
    fs::write(&config, &text).unwrap();
    world.run("c", &["provision"]).code(1).complains("does not fit this host");
    assert_eq!(fs::read_to_string(&config).unwrap(), text);
    assert_eq!(markers(&world), ["provision.toml"]);
}

#[test]
fn the_unit_runs_it_once_and_before_what_it_does_not_start() {
    let rig = Rig::new();
    let here = rig.path("").display().to_string();
    rig.configure(&format!(
        "[service.docs]\nengine = \"files\"\npath = \"{here}docs\"\nunit = \"docs.service\"\n\
         [service.shop]\nengine = \"postgres\"\nurl = \"postgres://a@/b?host=/run\"\n\
         data-dir = \"{here}shop\"\nunit = \"shop\"\n"
    ));
    let units: PathBuf = rig.path("units");
    let words = ["init", "--install-timer", "--unit-dir", units.to_str().unwrap()];
    rig.run(&words).code(0).says("mainstay-provision.service");
    let unit = fs::read_to_string(units.join("mainstay-provision.service")).unwrap();
    let has = |line: &str| assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
    has(&format!("ConditionPathExists={here}provision.toml"));
    has("Before=docs.service");
    assert!(unit.contains("After=local-fs.target network-online.target"), "{unit}");
    assert!(unit.contains("mainstay.toml\" --quiet --wait 1h provision\n"), "{unit}");
    let recover = fs::read_to_string(units.join("mainstay-recover.service")).unwrap();
    assert!(recover.contains("\nBefore=docs.service shop.service\n"), "{recover}");
}
