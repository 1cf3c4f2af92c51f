//! The units that `init` writes, tried by a real systemd at the real start of a host: of one that lost its
//! power in the middle of something, of one that was taken over while it was off, and of one whose vault
//! says nothing.
//!
//! The host is a systemd as process 1 of namespaces of its own. It has the programs of this machine, which
//! it can only read, and a disk, a network and a tree of cgroups that nobody else sees. What lies on its disk
//! outlives a loss of power, and nothing else.

mod machine;

use crate::guides::fences;
use crate::rig::{mainstay, run};
use crate::world::{lines_in, unfinished_in, wait_for};
use machine::Machine;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The first block of a guide that has such a line.
fn block(guide: &str, is_it: impl Fn(&String) -> bool) -> Vec<String> {
    let guides = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide");
    let mut blocks = fences(&guides.join(guide)).into_iter().map(|(_, lines)| lines);
    blocks.find(|lines| lines.iter().any(&is_it)).unwrap()
}

/// The start gate of `shop`, as the guide has it; the first that has these words.
fn gate(words: &str) -> String {
    let is_gate = |line: &String| line.starts_with("ExecCondition=") && line.contains(words);
    block("standby-and-takeover.md", is_gate).join("\n")
}

/// A service that its unit starts, stopped for each backup.
const SHOP: &str = "[service.shop]\nengine = \"files\"\npath = \"/srv/shop\"\nrole = \"primary\"\n\
     unit = \"shop.service\"\nquiesce = \"stop\"\n";

/// The same, of a unit that is not enabled, and is named as `systemctl` lets people name it.
const CAFE: &str = "[service.cafe]\nengine = \"files\"\npath = \"/srv/cafe\"\nrole = \"primary\"\n\
     unit = \"cafe\"\nquiesce = \"stop\"\n";

/// What is frozen for each backup.
const BANK: &str = "[service.bank]\nengine = \"files\"\npath = \"/srv/bank\"\nrole = \"primary\"\n\
     quiesce = \"freeze\"\n[service.bank.hooks]\nfreeze = \"touch /srv/frozen\"\n\
     thaw = \"rm -f /srv/frozen\"\n";

/// A host with these services, set up as the guide says; `shop` runs. None where no systemd can be started.
fn host(sections: &str) -> Option<Machine> {
    let mut machine = Machine::new()?;
    machine.write("srv/bank/letter", "dear reader\n");
    for name in ["shop", "cafe"] {
        machine.write(&format!("srv/{name}/letter"), "dear reader\n");
        machine.write(
            &format!("etc/systemd/system/{name}.service"),
            &format!(
                "[Service]\nUser=keeper\nExecStart=/bin/sleep infinity\n\
                 [Install]\nWantedBy=multi-user.target\n\
                 # {name}\n"
            ),
        );
    }
    machine.write("etc/systemd/system/shop.service.d/mainstay.conf", &gate("may-start shop"));
    machine.configure(sections);
    machine.boot();
    machine.run(&["mainstay", "init", "--no-recovery-key", "--install-timer"]);
    machine.run(&["systemctl", "enable", "--now", "shop.service"]);
    assert!(machine.is_active("shop"), "{}", machine.status("shop"));
    Some(machine)
}

/// Begins a backup, which stands still at a line of its journal.
fn halted(machine: &Machine, service: &str, at: &str) -> Child {
    let stop = format!("MAINSTAY_TEST_STOP_AT={at}");
    let mut command = machine.inside(&["env", &stop, "mainstay", "backup", service]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("it stands still", || is_at(machine, service, at));
    child
}

/// Whether an operation that has not ended has come to a line of its journal.
fn is_at(machine: &Machine, service: &str, at: &str) -> bool {
    let unfinished = unfinished_in(&machine.operations(service)).pop();
    unfinished.is_some_and(|dir| lines_in(&dir).iter().any(|line| line == at))
}

/// The host has no power any more, with all that ran on it.
fn lost(machine: &mut Machine, running: Vec<Child>) {
    machine.lose_power();
    for mut child in running {
        child.wait().unwrap();
    }
}

/// When the clean-up at the start of the host began and ended, in microseconds.
fn cleaned_up(machine: &Machine) -> (u64, u64) {
    let recover = |what| machine.micros("mainstay-recover.service", what);
    (recover("ExecMainStartTimestampMonotonic"), recover("ExecMainExitTimestampMonotonic"))
}

#[test]
fn after_a_loss_of_power_what_was_stopped_is_back_and_was_cleaned_up_before() {
    let sections = format!("{SHOP}schedule = \"0 0 1 1 *\"\n{CAFE}{BANK}");
    let Some(mut machine) = host(&sections) else { return };
    machine.run(&["systemctl", "start", "cafe.service"]);
    let both = ["shop", "cafe"];
    let running = both.map(|service| halted(&machine, service, "quiesce:done"));
    assert!(!both.into_iter().any(|service| machine.is_active(service)));
    let frozen = halted(&machine, "bank", "quiesce:done");
    lost(&mut machine, running.into_iter().chain([frozen]).collect());
    assert!(machine.disk("srv/frozen").exists());
    // The timer has missed its time, and so what is due is looked for at once.
    machine.was_off_for(Duration::from_secs(300));
    machine.boot();
    wait_for("what is due was looked for", || {
        machine.micros("mainstay.service", "ExecMainExitTimestampMonotonic") > 0
    });
    wait_for("both are back", || both.into_iter().all(|service| machine.is_active(service)));
    assert!(!machine.disk("srv/frozen").exists());
    let (_, over) = cleaned_up(&machine);
    assert_eq!(machine.show("mainstay-recover.service", "Result"), "success");
    for unit in ["shop.service", "cafe.service", "mainstay.service"] {
        let began = machine.micros(unit, "InactiveExitTimestampMonotonic");
        assert!(over > 0 && began >= over, "{unit} {began} {over}: {}", machine.journal());
    }
    for (service, how) in [("shop", "starts with its host"), ("cafe", "systemd was told to start")]
    {
        assert!(unfinished_in(&machine.operations(service)).is_empty());
        let said = machine.run(&["mainstay", "logs", "--list", service]);
        assert!(said.out.contains(how), "{said:#?}");
    }
    assert_eq!(machine.run(&["systemctl", "is-system-running", "--wait"]).out, "running\n");
}

#[test]
fn a_host_that_was_taken_over_while_it_was_off_does_not_serve_and_says_why() {
    let Some(mut machine) = host(SHOP) else { return };
    machine.run(&["mainstay", "backup", "shop"]);
    let running = halted(&machine, "shop", "quiesce:done");
    lost(&mut machine, vec![running]);
    // Meanwhile, on another host.
    let (disk, here) = (machine.disk(""), machine.path("b"));
    fs::create_dir(&here).unwrap();
    let (disk, place) = (disk.display(), here.display());
    let config = here.join("mainstay.toml");
    let text = format!(
        "[host]\nname = \"b\"\nstate-dir = \"{place}/state\"\n\n[vault]\nurl = \"{disk}/srv/vault\"\n\
         password-file = \"{disk}/etc/mainstay/vault.password\"\n\n[service.shop]\n\
         engine = \"files\"\npath = \"{place}/data\"\nrole = \"standby\"\n"
    );
    fs::write(&config, text).unwrap();
    let word = "primary-not-fenced=it has no power";
    for words in [
        &["init", "--no-recovery-key"][..],
        &["refresh", "shop"],
        &["takeover", "shop", "--yes", "--override", word],
    ] {
        run(mainstay().env("MAINSTAY_CONFIG", &config).args(words)).code(0);
    }
    machine.boot();
    wait_for("its unit had its turn", || {
        machine.show("shop.service", "Result") == "exec-condition"
    });
    assert!(!machine.is_active("shop"));
    let why = "shop must not start: a was taken over by b at generation 2 and must not serve; \
               `mainstay rejoin` makes it a standby";
    machine.tells("shop", why);
    assert_eq!(machine.micros("shop.service", "ExecMainStartTimestampMonotonic"), 0);
    // Nobody brings it up past its gate, either.
    machine.run(&["systemctl", "start", "mainstay.service"]);
    assert!(!machine.is_active("shop"));
    assert!(unfinished_in(&machine.operations("shop")).is_empty());
}

/// The second host is made of the first: with its vault, and nothing else of it.
#[test]
fn a_new_host_is_a_standby_when_it_is_switched_on_as_the_guide_says() {
    let Some(mut machine) = host(SHOP) else { return };
    machine.run(&["mainstay", "backup", "shop"]);
    machine.lose_power();
    for gone in ["var/lib/mainstay", "srv/shop", "etc/systemd/system/multi-user.target.wants"] {
        fs::remove_dir_all(machine.disk(gone)).unwrap();
    }
    machine.configure("");
    let config = machine.disk("etc/mainstay/mainstay.toml");
    let text = fs::read_to_string(&config).unwrap().replace("name = \"a\"", "name = \"c\"");
    fs::write(config, text).unwrap();
    machine.write("etc/mainstay/provision.toml", "services = [\"shop\"]\n");
    machine.boot();
    machine.run(&["systemctl", "disable", "--now", "mainstay.timer"]);
    let guide =
        block("new-host.md", |line| line.starts_with("systemctl enable mainstay-provision"));
    for line in &guide {
        machine.run(&["sh", "-c", line]);
    }
    machine.run(&["systemctl", "enable", "shop.service"]);
    machine.lose_power();
    machine.boot();
    wait_for("it is one", || machine.disk("srv/shop/letter").exists());
    wait_for("that is over", || {
        machine.micros("mainstay-provision.service", "ExecMainExitTimestampMonotonic") > 0
    });
    let status = machine.run(&["mainstay", "--json", "status", "shop"]).json();
    assert_eq!(status["services"][0]["role"], "standby", "{status}");
    assert!(!machine.is_active("shop"));
    // From now on it is refreshed, and cleaned up after.
    assert_eq!(machine.show("mainstay.timer", "ActiveState"), "active");
    assert!(cleaned_up(&machine).1 > 0);
}

/// What was written when the timer was installed knows nothing of it.
#[test]
fn the_doctor_finds_a_unit_that_would_not_wait_for_the_clean_up() {
    let Some(machine) = host(SHOP) else { return };
    machine.configure(&format!("{SHOP}{CAFE}"));
    machine.run(&["mainstay", "init", "--no-recovery-key"]);
    machine.run(&["systemctl", "enable", "--now", "cafe.service"]);
    let boot = |service: &str| {
        let said = run(&mut machine.inside(&["mainstay", "--json", "doctor", service])).json();
        let links = said["links"].as_array().unwrap().clone();
        let boot = links.iter().find(|link| link["link"] == "boot");
        boot.map(|link| link["verdict"].as_str().unwrap().to_owned())
    };
    assert_eq!(boot("shop").as_deref(), Some("ok"));
    assert_eq!(boot("cafe").as_deref(), Some("warn"));
    machine.run(&["mainstay", "init", "--no-recovery-key", "--install-timer"]);
    assert_eq!(boot("cafe").as_deref(), Some("ok"));
    machine.run(&["systemctl", "disable", "mainstay-recover.service"]);
    assert_eq!(boot("cafe").as_deref(), Some("warn"));
}

/// As after a loss of power everywhere: the vault comes back later than the host.
#[test]
fn a_service_whose_vault_is_not_there_yet_is_started_when_it_is_if_the_unit_says_so() {
    let Some(mut machine) = host(SHOP) else { return };
    let drop_ins = "etc/systemd/system/shop.service.d";
    machine.write(&format!("{drop_ins}/mainstay.conf"), &gate("--fail-when-unreachable"));
    machine.write(&format!("{drop_ins}/test.conf"), "[Service]\nRestartSec=200ms\n");
    machine.lose_power();
    fs::rename(machine.disk("srv/vault"), machine.disk("srv/away")).unwrap();
    machine.boot();
    wait_for("it was tried again", || machine.show("shop.service", "NRestarts") != "0");
    assert!(!machine.is_active("shop"));
    machine.tells("shop", "shop must not start: the vault cannot be asked");
    fs::rename(machine.disk("srv/away"), machine.disk("srv/vault")).unwrap();
    wait_for("it is up", || machine.is_active("shop"));
    // Somebody who said no is not asked again.
    machine.run(&["mainstay", "offline", "shop"]);
    machine.run(&["systemctl", "restart", "shop.service"]);
    assert!(!machine.is_active("shop"));
    assert_eq!(machine.show("shop.service", "Result"), "exec-condition");
}

/// A vault host that takes connections and never answers. What waits for it is not what the host waits for.
#[test]
fn a_vault_that_says_nothing_does_not_hold_up_the_start_of_the_host() {
    let cafe = CAFE.replace("quiesce = \"stop\"\n", "");
    let Some(mut machine) = host(&format!("{SHOP}{cafe}")) else { return };
    let halts = [("shop", "quiesce:done"), ("cafe", "snapshot:done")];
    let running = halts.map(|(service, at)| halted(&machine, service, at));
    lost(&mut machine, running.into());
    machine.write(
        "etc/systemd/system/silent.socket",
        "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=127.0.0.1:8000\n\
         [Install]\nWantedBy=sockets.target\n",
    );
    machine
        .write("etc/systemd/system/silent.service", "[Service]\nExecStart=/bin/sleep infinity\n");
    machine.link("../silent.socket", "etc/systemd/system/sockets.target.wants/silent.socket");
    // Its gate waits for a minute; here it has none.
    fs::remove_file(machine.disk("etc/systemd/system/shop.service.d/mainstay.conf")).unwrap();
    machine.configure_at("rest:http://127.0.0.1:8000/", &format!("{SHOP}{cafe}"));
    machine.boot();
    wait_for("it is back", || machine.is_active("shop"));
    let (began, over) = cleaned_up(&machine);
    let waited = Duration::from_micros(over - began);
    assert!(waited < Duration::from_secs(25), "{waited:?}: {}", machine.journal());
    assert!(unfinished_in(&machine.operations("shop")).is_empty());
    assert_eq!(unfinished_in(&machine.operations("cafe")).len(), 1, "the next command sees to it");
}

/// Its guardian is gone with its host, so that nobody would hear that another host has taken over.
#[test]
fn what_only_the_clean_up_starts_waits_for_a_vault_that_says_nothing_yet() {
    let Some(mut machine) = host(&format!("{SHOP}{CAFE}")) else { return };
    machine.run(&["systemctl", "start", "cafe.service"]);
    machine.run(&["systemctl", "disable", "mainstay.timer"]);
    let running = halted(&machine, "cafe", "quiesce:done");
    lost(&mut machine, vec![running]);
    fs::rename(machine.disk("srv/vault"), machine.disk("srv/away")).unwrap();
    machine.boot();
    wait_for("the clean-up is over", || cleaned_up(&machine).1 > 0);
    let units = machine.show("mainstay-recover.service", "After");
    assert!(units.split(' ').any(|unit| unit == "network-online.target"), "{units}");
    let said = run(&mut machine.inside(&["mainstay", "recover", "cafe"])).code(0);
    assert!(said.out.contains("does not say whether somebody took over"), "{said:#?}");
    assert!(!machine.is_active("cafe"), "{}", machine.status("cafe"));
    assert_eq!(unfinished_in(&machine.operations("cafe")).len(), 1, "it is asked again");
    fs::rename(machine.disk("srv/away"), machine.disk("srv/vault")).unwrap();
    machine.run(&["systemctl", "start", "--no-block", "mainstay.service"]);
    wait_for("it is back", || machine.is_active("cafe"));
    wait_for("that is over", || unfinished_in(&machine.operations("cafe")).is_empty());
}

/// Who waits for a unit that comes after the clean-up waits for the end of the clean-up.
#[test]
fn a_start_command_that_waits_for_a_later_unit_does_not_hold_up_the_start_of_the_host() {
    let cafe = CAFE.replace(
        "unit = \"cafe\"\n",
        "start = \"systemctl start cafe\"\nstop = \"systemctl stop cafe\"\n\
         status = \"systemctl is-active --quiet cafe\"\n",
    );
    let Some(mut machine) = host(&format!("{SHOP}{cafe}")) else { return };
    let later = "[Unit]\nAfter=mainstay-recover.service\n";
    machine.write("etc/systemd/system/cafe.service.d/test.conf", later);
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "start", "cafe.service"]);
    let running = halted(&machine, "cafe", "quiesce:done");
    lost(&mut machine, vec![running]);
    machine.boot();
    wait_for("the clean-up has begun", || cleaned_up(&machine).0 > 0);
    wait_for("the host has started", || machine.is_active("shop"));
    let (began, over) = cleaned_up(&machine);
    assert!(over > began, "{}", machine.journal());
    machine.run(&["systemctl", "start", "--no-block", "mainstay.service"]);
    wait_for("it is back", || machine.is_active("cafe"));
    wait_for("that is over", || unfinished_in(&machine.operations("cafe")).is_empty());
}

/// Holds the backup that the timer has begun, as long as there is a file `hold`.
const EXPORT: &str = "mkdir -p \"$MAINSTAY_BACKUP_DIR\"\ndate +%s.%N > \"$MAINSTAY_BACKUP_DIR/letter\"\n\
     while [ -e \"/srv/hold-$MAINSTAY_SERVICE\" ]; do sleep 0.02; done\n\
     printf '{\"export-id\": \"%s\", \"source-time\": \"%s\"}\\n' \"$MAINSTAY_EXPORT_ID\" \
     \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\"\n";

/// A service that is exported.
fn exported(name: &str, control: &str) -> String {
    format!(
        "[service.{name}]\nengine = \"script\"\npath = \"/srv/{name}\"\nexporter = \"/srv/export\"\n\
         importer = \"/bin/true\"\nrole = \"primary\"\nquiesce = \"stop\"\n\
         schedule = \"0 0 1 1 *\"\n{control}"
    )
}

#[test]
fn what_the_timer_has_begun_outlives_its_unit_and_a_stop_of_the_unit_ends_it_cleanly() {
    let shop = exported("shop", "unit = \"shop.service\"\n");
    let Some(mut machine) = host(&shop) else { return };
    machine.script("srv/export", EXPORT);
    machine.write("srv/hold-shop", "");
    machine.lose_power();
    machine.was_off_for(Duration::from_secs(300));
    machine.boot();
    let shops = machine.operations("shop");
    wait_for("the timer has begun the backup that is due", || {
        is_at(&machine, "shop", "quiesce:done")
    });
    assert!(!machine.is_active("shop"));
    // The unit's own process goes, as it does when it has attended for long enough; the work does not.
    machine.run(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "mainstay.service"]);
    wait_for("the unit is down", || machine.show("mainstay.service", "ActiveState") == "failed");
    machine.run(&["systemctl", "start", "mainstay.service"]);
    assert_eq!(unfinished_in(&shops).len(), 1, "the next run leaves it alone");
    assert!(!machine.is_active("shop"));
    fs::remove_file(machine.disk("srv/hold-shop")).unwrap();
    wait_for("it is done", || unfinished_in(&shops).is_empty());
    assert!(machine.is_active("shop"));
    let said = machine.run(&["mainstay", "--json", "snapshots", "shop"]).json();
    assert_eq!(said["services"][0]["snapshots"].as_array().unwrap().len(), 1, "{said}");

    // One that is started by a command: it becomes a child of the unit, and stays.
    let pid = "/srv/cafe.pid";
    let start =
        format!("setsid sh -c 'echo $$ > {pid}; exec sleep infinity' >/dev/null 2>&1 </dev/null &");
    let runs = format!("kill -0 $(cat {pid}) 2>/dev/null");
    let cafe = exported(
        "cafe",
        &format!(
            "start = \"{start}\"\nstop = \"kill $(cat {pid}); while {runs}; do sleep 0.01; done\"\n\
             status = \"{runs} || exit 3\"\n"
        ),
    );
    machine.configure(&format!("{shop}{cafe}"));
    machine.run(&["mainstay", "init", "--no-recovery-key"]);
    machine.run(&["sh", "-c", &start]);
    let runs = |machine: &Machine| run(&mut machine.inside(&["sh", "-c", &runs])).code == 0;
    wait_for("it runs", || runs(&machine));
    machine.write("srv/hold-cafe", "");
    machine.run(&["systemctl", "start", "--no-block", "mainstay.service"]);
    wait_for("its backup has begun", || is_at(&machine, "cafe", "quiesce:done"));
    assert!(!runs(&machine));
    machine.run(&["systemctl", "stop", "mainstay.service"]);
    assert!(runs(&machine), "it is back before the unit is down");
    let said = machine.run(&["mainstay", "logs", "--list", "cafe"]);
    assert!(said.out.contains("cancelled"), "{said:#?}");
    // That somebody wanted it to end is no failure of the unit.
    assert_eq!(machine.show("mainstay.service", "ActiveState"), "inactive");
    assert_eq!(machine.show("mainstay.service", "Nice"), "10");
    let nice = machine.run(&["sh", "-c", &format!("ps -o ni= -p $(cat {pid})")]);
    assert_eq!(nice.out.trim(), "0", "what runs for good is not nice");
    machine.run(&["systemctl", "start", "mainstay.service"]);
    machine.run(&["systemctl", "stop", "mainstay.service"]);
    assert!(runs(&machine), "neither the next run nor its stop touches it");
}

/// While a host shuts down nothing can be started any more. It does not wait for those who would: its services
/// are back when it has started again.
#[test]
fn a_host_that_shuts_down_in_the_middle_of_something_does_not_wait_for_its_guardian() {
    let Some(mut machine) = host(&exported("shop", "unit = \"shop.service\"\n")) else { return };
    machine.script("srv/export", EXPORT);
    machine.write("srv/hold-shop", "");
    machine.run(&["systemctl", "start", "--no-block", "mainstay.service"]);
    wait_for("its backup has begun", || is_at(&machine, "shop", "quiesce:done"));
    machine.shut_down();
    assert!(!unfinished_in(&machine.operations("shop")).is_empty(), "nobody could start it");
    machine.boot();
    wait_for("it is back", || machine.is_active("shop"));
    assert!(unfinished_in(&machine.operations("shop")).is_empty());
    assert_eq!(machine.show("mainstay-recover.service", "Result"), "success");
}
