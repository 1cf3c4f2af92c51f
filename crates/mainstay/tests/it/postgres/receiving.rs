//! The log as it is written: read where the server writes it, shipped in parts, and what becomes of it
//! when the server, the receiver or the vault goes away.

use super::*;
use crate::dice::rounds;
use crate::vault_rig::VaultHost;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Nothing of the log comes from anywhere else.
pub(super) const NO_ARCHIVE: &str = "archive_mode = off\nmax_slot_wal_keep_size = 1GB";

/// `wal receive`, until it is dropped.
pub(super) fn receiver(host: &Host) -> Load {
    let mut command = host.command(&["wal", "receive", "shop"]);
    Load(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Up to when everything is in the vault, as `status` tells.
pub(super) fn stored(host: &Host) -> Option<Timestamp> {
    let status = host.run(&["status", "shop", "--json"]).code(0).json();
    status["services"][0]["log-stored"].as_str().map(|text| text.parse().unwrap())
}

#[track_caller]
pub(super) fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !there() {
        assert!(Instant::now() < deadline, "not within 120 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns when everything that was committed before the call is in the vault.
pub(super) fn is_stored(host: &Host) {
    let now = Timestamp::now();
    wait_for("the log is stored", || stored(host).is_some_and(|until| until >= now));
}

pub(super) fn objects(stage: &Stage, dir: &str) -> Vec<String> {
    let root = stage.dir.path().join("vault/shop/mainstay").join(dir);
    let mut found = Vec::new();
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for shard in below(&root).flat_map(|cluster| below(&cluster.path())) {
        for entry in below(&shard.path()) {
            found.push(format!(
                "{}/{}",
                shard.file_name().to_string_lossy(),
                entry.file_name().to_string_lossy()
            ));
        }
    }
    found.sort();
    found
}

/// A copy of the newest state that the vault has, started and replayed to its end.
pub(super) fn restored(stage: &Stage, host: &Host, name: &str, words: &[&str]) -> Host {
    let target = stage.dir.path().join(name).join("data");
    let shown = target.display().to_string();
    let words = [&["restore", "shop", "--target", &shown], words].concat();
    host.run(&words).code(0);
    let copy = Host {
        server: PgServer::on(&stage.dir.path().join(name), &target),
        config: host.config.clone(),
        program: host.program.clone(),
    };
    copy.starts_alone();
    copy
}

/// A crash cuts a record off in its middle; the server leaves what there is of it and goes on with the
/// next page. What comes then is received and shipped, and is part of what is said to be stored.
#[test]
fn the_log_goes_on_after_a_record_that_a_crash_cut_off() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let receive = receiver(a);
    // The server flushes whole pages of what nobody has committed.
    let insert = "BEGIN; INSERT INTO orders SELECT -n, repeat('x', 200) FROM generate_series(1, 999) n; \
                  SELECT pg_sleep(600)";
    let mut psql = a.server.program("psql");
    psql.args(["-Xq", "-U", "postgres", "-d", "postgres", "-c", insert, "-h"]);
    let session = Load(psql.arg(a.server.socket_dir()).stdout(Stdio::null()).spawn().unwrap());
    a.server.eventually(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep') AND \
         pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn() AND \
         pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0') % 8192 = 0",
    );
    a.server.stop("immediate");
    drop(session);
    a.server.start();
    let said = fs::read_to_string(stage.dir.path().join("a/server.log")).unwrap_or_default();
    assert!(said.contains("automatic recovery in progress"), "{said}");
    let wanted = a.write();
    is_stored(a);
    a.server.stop("immediate");
    drop(receive);
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
    // The vault has all of it, so the primary may be restored over.
    a.run(&["restore", "shop", "--delta"]).code(0);
    a.server.eventually("SELECT NOT pg_is_in_recovery()");
    assert_eq!(a.newest(), wanted);
    copy.server.stop("fast");
}

/// A writer numbers its commits and notes which were acknowledged, and when. Something is killed at
/// a moment that nobody chose. What the vault was said to have is there, and nothing of it is torn.
#[test]
fn what_was_acknowledged_and_shipped_survives_every_kill() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    run(&mut a.pgbench(&["-i", "-s", "1", "-q"])).code(0);
    let mut receive = Some(receiver(a));
    a.run(&["backup", "shop"]).code(0);
    let mut losses = Vec::new();
    for round in 0..rounds() {
        is_stored(a);
        let acknowledged: Mutex<BTreeMap<u64, Timestamp>> = Mutex::default();
        let start = a.newest();
        let next = AtomicU64::new(start + 1);
        let lost = AtomicBool::new(false);
        let said = std::thread::scope(|scope| {
            let _load = Load(a.pgbench(&["-n", "-c", "2", "-T", "600"]).spawn().unwrap());
            scope.spawn(|| {
                while !lost.load(Ordering::SeqCst) {
                    let n = next.load(Ordering::SeqCst);
                    let insert = format!("INSERT INTO orders VALUES ({n}, 'order')");
                    if !a.server.try_sql("postgres", &insert).status.success() {
                        break;
                    }
                    acknowledged.lock().unwrap().insert(n, Timestamp::now());
                    next.store(n + 1, Ordering::SeqCst);
                }
            });
            let mut random = [0; 2];
            getrandom::fill(&mut random).unwrap();
            let moment = Duration::from_millis(1200 + u64::from(u16::from_le_bytes(random)) % 1500);
            std::thread::sleep(moment);
            // The server, the receiver, or both.
            match round % 3 {
                0 => a.server.kill(),
                1 => drop(receive.take()),
                _ => {
                    drop(receive.take());
                    a.server.kill();
                }
            }
            let said = stored(a);
            if round % 3 == 1 {
                a.server.kill();
            }
            lost.store(true, Ordering::SeqCst);
            said
        });
        drop(receive.take());
        let acknowledged = acknowledged.into_inner().unwrap();
        let name = format!("copy{round}");
        let copy = restored(&stage, a, &name, &[]);
        let newest = copy.newest();
        copy.is_sound();
        let said = said.expect("something was stored");
        let (&last, &at) = acknowledged.last_key_value().unwrap();
        let shipped = acknowledged.iter().rfind(|(_, at)| **at <= said);
        // What was there when the round began is in the vault.
        let shipped = shipped.map_or(start, |(n, _)| *n);
        assert!(
            newest >= shipped,
            "round {round}: {newest} are there; {shipped} were acknowledged before {said}, up to \
             when the vault was said to have everything"
        );
        assert!(newest <= last + 1, "round {round}: {newest} of {last}");
        let kept = acknowledged.get(&newest).copied().unwrap_or(at);
        losses.push(at.duration_since(kept).as_secs_f64());
        drop(copy);
        fs::remove_dir_all(stage.dir.path().join(&name)).unwrap();
        a.server.start();
        receive = Some(receiver(a));
    }
    println!("seconds of commits lost: {losses:?}");
    assert!(losses.iter().all(|loss| *loss < 10.0), "too much was lost: {losses:?}");
    // And what was received more than once was stored once: no object is torn, none contradicts.
    is_stored(a);
    a.run(&["check", "shop", "--read-data"]).code(0);
}

/// Of a quiet server the vault gets small parts, which are put together, and give way to the segment.
#[test]
fn parts_give_way_to_the_whole() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.run(&["backup", "shop"]).code(0);
    let wanted = a.write();
    let done = a.run(&["wal", "receive", "shop", "--once", "--json"]).code(0).json();
    assert_eq!(done["position"]["timeline"], 1, "{done}");
    assert!(!objects(&stage, "log-parts").is_empty());
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
    drop(copy);

    // A standby follows what is not a segment yet.
    stage.b.run(&["refresh", "shop"]).code(0);
    let _receive = receiver(a);
    for _ in 0..40 {
        let n = a.write();
        if n.is_multiple_of(10) {
            is_stored(a);
        }
    }
    let wanted = a.newest();
    stage.b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    let parts = objects(&stage, "log-parts").len();
    assert!((1..40).contains(&parts), "{parts} parts");

    // The segment is whole: its parts go.
    let segment = a.server.sql("SELECT pg_walfile_name(pg_switch_wal())");
    a.write();
    wait_for("its parts are gone", || {
        let whole = objects(&stage, "log").iter().any(|key| key.contains(&format!("/{segment}@")));
        whole && !objects(&stage, "log-parts").iter().any(|key| key.starts_with(&segment))
    });
    a.run(&["doctor"]).code(0).says("received as it is written");
    a.run(&["check", "shop", "--read-data"]).code(0);

    // Who stops it in between loses nothing, and a takeover needs no whole segment.
    let last = a.write();
    a.run(&["offline", "shop"]).code(0);
    stage.b.run(&["takeover", "shop", "--planned", "--yes"]).code(0);
    assert_eq!(stage.b.newest(), last);
}

/// A server that is stopped cleanly has everything in the vault, whatever becomes of its host then.
#[test]
fn what_was_written_last_before_a_stop_is_shipped() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.run(&["backup", "shop"]).code(0);
    let _receive = receiver(a);
    a.write();
    is_stored(a);
    let wanted = a.write();
    a.server.stop("fast");
    let mut attempt = 0;
    wait_for("the last write is in the vault", || {
        attempt += 1;
        let copy = restored(&stage, a, &format!("copy{attempt}"), &[]);
        copy.newest() == wanted
    });
    // And it goes on when the server is back.
    a.server.start();
    let wanted = a.write();
    is_stored(a);
    assert_eq!(restored(&stage, a, "copy", &[]).newest(), wanted);
}

/// Another server's bytes of a segment are refused, whole or in part.
#[test]
fn a_part_of_another_server_is_refused() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    let again = written_once_more(&stage);
    a.run(&["wal", "receive", "shop", "--once"]).code(0);
    again();
    a.run(&["wal", "receive", "shop", "--once"]).code(1).complains("another server has pushed");
}

/// The same of one that was looked after all the time, and that wrote on before anybody looked.
#[test]
fn a_server_that_goes_back_in_time_beside_its_receiver_is_noticed() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let again = written_once_more(&stage);
    let mut receive = receiver(&stage.a);
    is_stored(&stage.a);
    again();
    let mut ended = None;
    wait_for("it ends", || {
        ended = receive.0.try_wait().unwrap();
        ended.is_some()
    });
    assert!(!ended.unwrap().success());
}

/// A server whose files go back to an earlier time by other means, and that writes the same timeline
/// once more, when that is called. What it wrote first waits to be shipped.
fn written_once_more(stage: &Stage) -> impl Fn() + '_ {
    let a = &stage.a;
    a.run(&["backup", "shop"]).code(0);
    a.run(&["wal", "receive", "shop", "--once"]).code(0);
    a.server.stop("fast");
    let kept = stage.dir.path().join("kept");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let mut cp = as_server_user(std::path::Path::new("/bin/cp"));
        run(cp.arg("-a").arg(from).arg(to)).code(0);
    };
    give(stage.dir.path());
    copy(a.server.data(), &kept);
    a.server.start();
    a.write();
    move || {
        a.server.stop("fast");
        fs::remove_dir_all(a.server.data()).unwrap();
        copy(&kept, a.server.data());
        a.server.start();
        a.server.sql("CREATE TABLE another (t text)");
        for _ in 0..5 {
            a.write();
        }
    }
}

/// A server that goes back while the vault has all of a segment is not taken for one that goes on.
#[test]
fn other_bytes_of_a_whole_segment_are_refused_before_it_is_whole_again() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    let again = written_once_more(&stage);
    a.server.sql("SELECT pg_switch_wal()");
    a.run(&["wal", "receive", "shop", "--once"]).code(0);
    again();
    a.run(&["wal", "receive", "shop", "--once"]).code(1).complains("another server has pushed");
}

/// A takeover that is given back costs nothing: the server keeps what nobody may ship meanwhile.
#[test]
fn a_takeover_that_is_given_back_leaves_no_gap() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let (a, b) = (&stage.a, &stage.b);
    a.keeps_little();
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    let said = stage.dir.path().join("said");
    let mut receive = a.command(&["wal", "receive", "shop"]);
    receive.stdout(Stdio::null()).stderr(fs::File::create(&said).unwrap());
    let _receive = Load(receive.spawn().unwrap());
    is_stored(a);
    stage.dead(true);
    let mut takeover = b.command(&["takeover", "shop", "--yes"]);
    run(takeover.env("MAINSTAY_TEST_KILL_AT", "fence:done")).code(137);
    a.write();
    wait_for("it may ship nothing", || fs::read_to_string(&said).unwrap().contains("not to serve"));
    // Whatever is not kept is gone.
    for _ in 0..4 {
        a.write();
        a.server.sql("SELECT pg_switch_wal()");
        a.server.sql("CHECKPOINT");
    }
    b.run(&["recover", "shop"]).code(0);
    stage.dead(false);
    let wanted = a.write();
    is_stored(a);
    let status = a.run(&["status", "shop", "--json"]).code(0).json();
    assert!(status["services"][0]["log-gap"].is_null(), "{status}");
    assert_eq!(restored(&stage, a, "copy", &[]).newest(), wanted);
}

/// A slot can point to what is not there: the log goes on with a new one, and the gap has an end.
#[test]
fn a_slot_that_keeps_nothing_any_more_gives_way_to_a_new_one() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.run(&["backup", "shop"]).code(0);
    a.write();
    a.run(&["wal", "receive", "shop", "--once"]).code(0);
    a.write();
    a.server.stop("fast");
    let mut reset = a.server.program("pg_resetwal");
    run(reset.arg("--force").arg("--pgdata").arg(a.server.data())).code(0);
    a.server.start();
    let _receive = receiver(a);
    let gap =
        || a.run(&["status", "shop", "--json"]).code(0).json()["services"][0]["log-gap"].clone();
    wait_for("the gap has an end", || gap()["to"].is_u64());
    a.run(&["backup", "shop"]).code(0);
    let wanted = a.write();
    is_stored(a);
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// A vault that is gone does not fill the primary's disk: what is too much is let go, remembered, and
/// made good by a new base.
#[test]
fn a_vault_that_is_gone_never_fills_the_disk() {
    let stage = Stage::with(NO_ARCHIVE, "log-queue = '64 MiB'");
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    let goes = || fs::rename(&vault, &away).unwrap();
    without_a_vault(&stage, &goes, &|| fs::rename(&away, &vault).unwrap());
}

/// Nor does one that takes connections and never answers, also if the server crashes meanwhile, so that
/// the vault has to be asked where the log goes on.
#[test]
fn a_vault_that_hangs_never_fills_the_disk() {
    let stage = Stage::with(NO_ARCHIVE, "log-queue = '64 MiB'");
    let (dir, a) = (stage.dir.path(), &stage.a);
    let vault = VaultHost::start(dir, &dir.join("vault"), &["--no-auth"]);
    let text = fs::read_to_string(&a.config).unwrap();
    let here = dir.join("vault").display().to_string();
    fs::write(&a.config, text.replace(&here, &vault.url)).unwrap();
    let goes = || {
        vault.signal("STOP");
        a.server.kill();
        a.server.start();
    };
    without_a_vault(&stage, &goes, &|| vault.signal("CONT"));
}

fn without_a_vault(stage: &Stage, goes: &dyn Fn(), comes: &dyn Fn()) {
    let a = &stage.a;
    a.keeps_little();
    a.run(&["backup", "shop"]).code(0);
    let receive = receiver(a);
    a.write();
    is_stored(a);
    goes();
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mainstay_shop'";
    a.fill_much();
    a.server.eventually(&format!("SELECT ({slots}) = 0"));
    // The server recycles what nobody needs.
    a.server.sql("CHECKPOINT");
    a.server.eventually("SELECT sum(size) < 200000000 FROM pg_ls_waldir()");
    comes();

    // It goes on by itself, and somebody is told that a base is missing.
    wait_for("the slot is there again", || a.server.sql(slots) == "1");
    let gap =
        || a.run(&["status", "shop", "--json"]).code(0).json()["services"][0]["log-gap"].clone();
    wait_for("the gap has an end", || gap()["to"].is_u64());
    a.run(&["doctor"]).code(1).says("is not in the vault: more than 64.0 MiB of it waited");
    a.run(&["run-due", "--dry-run"]).code(0).says("a backup is due").says("is not in the vault");
    is_stored(a);
    wait_for("it is written down in the vault", || {
        objects(stage, "log").iter().any(|key| key.contains(".gap@"))
    });
    a.run(&["run-due"]).code(0);
    assert!(gap().is_null(), "{}", gap());
    a.run(&["run-due", "--dry-run"]).code(0).says("nothing is due");
    let wanted = a.write();
    is_stored(a);
    drop(receive);
    let copy = restored(stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// Neither does a state directory that is full as well, in which nothing can be noted: the log is let go all
/// the same. What is missing is noted when there is room again, also if who let it go has died with it.
#[test]
fn a_full_state_directory_never_fills_the_servers_disk() {
    let stage = Stage::with(NO_ARCHIVE, "log-queue = '64 MiB'");
    let Some(disk) = stage.small_state("16m") else { return };
    let a = &stage.a;
    a.keeps_little();
    a.run(&["backup", "shop"]).code(0);
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mainstay_shop'";
    let noted = a.home().join("state/services/shop/log-gap.json");
    let gap =
        || a.run(&["status", "shop", "--json"]).code(0).json()["services"][0]["log-gap"].clone();
    let fill = || {
        disk.fill(0);
        fs::rename(&vault, &away).unwrap();
        a.fill_much();
    };
    for receives in ["on", "killed", "once"] {
        let before = a.write();
        let receive = match receives {
            "once" => {
                a.run(&["wal", "receive", "shop", "--once"]).code(0);
                None
            }
            _ => {
                let receive = receiver(a);
                is_stored(a);
                Some(receive)
            }
        };
        fill();
        if receives == "once" {
            let said = a.run(&["run-due"]);
            assert!(said.err.contains("is let go"), "{said:#?}");
        }
        a.server.eventually(&format!("SELECT ({slots}) = 0"));
        a.server.sql("CHECKPOINT");
        assert!(!noted.exists(), "{receives}: the disk was not full");
        let receive = receive.filter(|_| receives == "on");
        // With the vault alone nothing is shipped past what nobody knows to be missing.
        fs::rename(&away, &vault).unwrap();
        let after = a.write();
        disk.empty();
        let receive = receive.unwrap_or_else(|| receiver(a));
        wait_for("the gap has an end", || gap()["to"].is_u64());
        a.run(&["doctor"]).code(1).says("is not in the vault");
        a.run(&["run-due"]).code(0);
        assert!(gap().is_null(), "{receives}: {}", gap());
        is_stored(a);
        drop(receive);
        let copy = restored(&stage, a, receives, &[]);
        assert_eq!(copy.newest(), after, "{receives}: {before} was the last before");
    }
}

/// Nor does one that fills while the log goes on behind a gap: that the gap has an end cannot be noted then,
/// and the server keeps no more than the vault lacks all the same.
#[test]
fn a_gap_whose_end_cannot_be_noted_keeps_no_log_from_going_on() {
    let stage = Stage::with(NO_ARCHIVE, "log-queue = '64 MiB'");
    let Some(disk) = stage.small_state("16m") else { return };
    let a = &stage.a;
    a.keeps_little();
    a.run(&["backup", "shop"]).code(0);
    let fill = || {
        a.fill(30);
        a.server.sql("CHECKPOINT");
    };
    let kept = |sql: &str| {
        a.server.eventually(&format!(
            "SELECT {sql} FROM pg_replication_slots WHERE slot_name = 'mainstay_shop'"
        ));
    };
    let _receive = receiver(a);
    a.write();
    is_stored(a);
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    (0..4).for_each(|_| fill());
    kept("count(*) = 0");
    let noted = a.home().join("state/services/shop/log-gap.json");
    let gap = || serde_json::from_slice::<serde_json::Value>(&fs::read(&noted).unwrap()).unwrap();
    wait_for("the gap is noted", || noted.exists());
    disk.fill(0);
    fs::rename(&away, &vault).unwrap();
    kept("count(*) = 1");
    // Until a pass has taken in all that there is.
    let parts = || objects(&stage, "log-parts");
    let before = parts();
    wait_for("the log goes on", || {
        a.write();
        parts() != before
    });
    for _ in 0..4 {
        fill();
        kept("count(*) = 1 AND pg_current_wal_flush_lsn() - min(restart_lsn) < 20000000");
    }
    assert!(gap()["to"].is_null(), "the disk was not full");
    disk.empty();
    wait_for("the gap has an end", || gap()["to"].is_u64());
}

/// A slot goes back to its server's last checkpoint when that crashes. What the vault has by then waits for
/// nobody: letting it go would make a gap of what is none.
#[test]
fn what_the_vault_has_is_no_gap_after_a_crash() {
    let settings = "archive_mode = off\nmax_wal_size = 4GB\ncheckpoint_timeout = 1h";
    let stage = Stage::with(settings, "log-queue = '64 MiB'");
    let a = &stage.a;
    let fill = || {
        a.fill(30);
        a.write();
    };
    let receive = || {
        let done = a.run(&["wal", "receive", "shop", "--once", "--json"]).code(0).json();
        done["position"]["lsn"].as_u64().unwrap()
    };
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mainstay_shop'";
    let kept = || {
        let lsn = "SELECT restart_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = 'mainstay_shop'";
        a.server.sql(lsn).parse::<u64>().unwrap()
    };
    let gap =
        || a.run(&["status", "shop", "--json"]).code(0).json()["services"][0]["log-gap"].clone();
    a.run(&["backup", "shop"]).code(0);
    receive();
    a.server.sql("CHECKPOINT");
    let before = kept();
    // Never too much at once, and too much since the checkpoint.
    let mut shipped = 0;
    for _ in 0..4 {
        fill();
        shipped = receive();
    }
    assert!(kept() > before);
    a.server.kill();
    a.server.start();
    assert_eq!(kept(), before, "the slot did not go back");

    // The vault cannot be asked: what is known of it here has to do.
    let (vault, away) = (stage.dir.path().join("vault"), stage.dir.path().join("away"));
    fs::rename(&vault, &away).unwrap();
    assert_ne!(a.run(&["run-due"]).code, 0);
    fs::rename(&away, &vault).unwrap();
    assert_eq!((a.server.sql(slots).as_str(), gap()), ("1", serde_json::Value::Null));
    // It can.
    fs::remove_file(a.home().join("state/services/shop/log-shipped")).unwrap();
    a.run(&["run-due"]).code(0);
    assert_eq!((a.server.sql(slots).as_str(), gap()), ("1", serde_json::Value::Null));
    a.run(&["run-due", "--dry-run"]).code(0).says("nothing is due");
    assert!(kept() > before, "the server keeps what the vault has");

    // What the vault does not have is let go all the same, and nothing that it has.
    for _ in 0..4 {
        fill();
    }
    a.run(&["run-due"]).code(0).complains("is let go");
    assert_eq!(a.server.sql(slots), "0");
    let noted = fs::read(a.home().join("state/services/shop/log-gap.json")).unwrap();
    let noted: serde_json::Value = serde_json::from_slice(&noted).unwrap();
    let from = noted["from"].as_u64().unwrap();
    assert!((shipped..shipped + (16 << 20)).contains(&from), "{noted}, and {shipped} was shipped");
}

/// Nobody received for a while, and nothing was kept: it goes on where the server still has the log,
/// and the gap is remembered.
#[test]
fn a_log_that_the_server_let_go_goes_on_where_there_is_some() {
    let stage = Stage::with("archive_mode = off\nmax_wal_size = 32MB\nwal_keep_size = 0", "");
    let a = &stage.a;
    a.run(&["backup", "shop"]).code(0);
    a.write();
    a.run(&["wal", "receive", "shop", "--once"]).code(0);
    a.server.sql("SELECT pg_drop_replication_slot('mainstay_shop')");
    let segment = a.server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    for _ in 0..4 {
        a.write();
        a.server.sql("SELECT pg_switch_wal()");
        a.server.sql("CHECKPOINT");
    }
    a.server.eventually(&format!(
        "SELECT NOT EXISTS (SELECT FROM pg_ls_waldir() WHERE name = '{segment}')"
    ));
    let _receive = receiver(a);
    a.server.eventually("SELECT count(*) = 1 FROM pg_replication_slots");
    a.run(&["backup", "shop"]).code(0);
    let wanted = a.write();
    is_stored(a);
    let copy = restored(&stage, a, "copy", &[]);
    assert_eq!(copy.newest(), wanted);
}

/// What stands in the way is told, with what to do about it, before anything is changed.
#[test]
fn what_stands_in_the_way_of_receiving_is_told() {
    let stage = Stage::with(NO_ARCHIVE, "");
    let a = &stage.a;
    a.server.sql("CREATE ROLE plain LOGIN");
    let text = fs::read_to_string(&a.config).unwrap();
    let other = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        let config = stage.dir.path().join("other.toml");
        fs::write(&config, text.replace(from, to)).unwrap();
        give(&config);
        let shown = config.display().to_string();
        a.run(&["--config", &shown, "wal", "receive", "shop", "--once"])
    };
    // A copy of the server's files is not what the server writes to.
    let copy = stage.dir.path().join("theirs-too");
    let mut base = a.server.program("pg_basebackup");
    base.args(["-U", "postgres", "-X", "none", "--checkpoint=fast", "-h"]);
    run(base.arg(a.server.socket_dir()).arg("-D").arg(&copy)).code(0);
    let (data, copy) = (a.server.data().display().to_string(), copy.display().to_string());
    other(&data, &copy).code(1).complains("not what the server at").complains("data-dir");
    // Nor are those that it worked on before it was moved, slot and all.
    a.run(&["wal", "receive", "shop", "--once"]).code(0);
    a.server.stop("fast");
    let moved = a.home().join("moved");
    let mut cp = as_server_user(std::path::Path::new("/bin/cp"));
    run(cp.arg("-a").arg(a.server.data()).arg(&moved)).code(0);
    let elsewhere = PgServer::on(&a.home(), &moved);
    elsewhere.start();
    a.run(&["wal", "receive", "shop", "--once"]).code(1).complains("not what the server at");
    elsewhere.stop("fast");
    a.server.start();
    a.server.sql("SELECT pg_drop_replication_slot('mainstay_shop')");
    other("postgres://postgres@", "postgres://plain@").code(1).complains("make a replication slot");
    other("postgres://postgres@", "postgres://nobody@").code(1).complains("pg_hba.conf");
    other("engine = 'postgres'", "engine = 'sqlite'").code(1);
    stage.b.run(&["wal", "receive", "shop", "--once"]).code(1).complains("primary");
    a.server.stop("fast");
    a.run(&["doctor"]).code(1);
    a.server.start();

    // Two of them would be in each other's way.
    let _receive = receiver(a);
    wait_for("it runs", || {
        let status = a.run(&["status", "shop", "--json"]).code(0).json();
        status["services"][0]["log-received"] == true
    });
    a.run(&["wal", "receive", "shop", "--once"]).code(11).complains("another process");
    a.server.eventually("SELECT count(*) = 1 FROM pg_replication_slots");
    // Somebody else's backup runs beside: neither ends the other.
    let mut base = a.server.program("pg_basebackup");
    base.args(["-U", "postgres", "-X", "none", "--checkpoint=fast", "-h"]);
    base.arg(a.server.socket_dir()).arg("-D").arg(stage.dir.path().join("theirs"));
    give(stage.dir.path());
    let theirs = base.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    a.run(&["backup", "shop"]).code(0);
    let mut theirs = theirs;
    assert!(theirs.wait().unwrap().success());
}

/// While a primary is restored in its place its receiver finds files that are gone. What the vault has of
/// them is all that there was.
#[test]
fn a_restore_beside_its_receiver_is_no_gap() {
    let stage = Stage::new();
    let a = &stage.a;
    a.write();
    a.run(&["backup", "shop"]).code(0);
    let _receive = receiver(a);
    for _ in 0..4 {
        let wanted = a.write();
        is_stored(a);
        a.run(&["offline", "shop"]).code(0);
        a.run(&["restore", "shop", "--delta"]).code(0);
        a.run(&["online", "shop"]).code(0);
        a.server.eventually("SELECT NOT pg_is_in_recovery()");
        assert_eq!(a.newest(), wanted);
        a.write();
        is_stored(a);
        let status = a.run(&["status", "shop", "--json"]).code(0).json();
        assert!(status["services"][0]["log-gap"].is_null(), "{status}");
    }
}
