//! What a server's `archive_command` and `restore_command` come down to.

use engines::postgres::made;
use jiff::Timestamp;
use mainstay_operations::wal::{
    Fetched, Until, fetch, is_gap, let_go, note_pushed, open_gap, push, push_or_spare, reaches,
    stored_until,
};
use mainstay_operations::{ServiceSite, Site};
use model::progress::Silent;
use model::state::{Applied, FenceProof, Intent, TakeoverKind};
use model::{
    Class, Classify, ClusterId, Generation, MemberName, Position, RecoveryPoint, Role, Secret,
    ServiceName, SnapshotId,
};
use repository::log::Pushed;
use repository::{Kdf, Repository};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

const SEGMENT_BYTES: usize = 1 << 20;
/// Whose log it is.
const CLUSTER: Option<ClusterId> = Some(made::CLUSTER);

/// Two hosts, `a` the primary and `b` a standby, with one vault.
struct Bench {
    dir: TempDir,
    a: ServiceSite,
    b: ServiceSite,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("password"), "correct horse battery staple\n").expect("password");
        let (a, b) = (host(dir.path(), "a"), host(dir.path(), "b"));
        let password = Secret::new("correct horse battery staple".to_owned());
        Repository::create(a.storage().expect("storage"), &password, Kdf::Fast).expect("create");
        let now = Timestamp::now();
        for (site, role) in [(&a, Role::Primary), (&b, Role::Standby)] {
            let join = a.state().expect("state").update(|s| s.join(site.member(), role, now));
            join.expect("join");
        }
        made::control(&dir.path().join("data")).expect("a data directory");
        Bench { dir, a, b }
    }

    /// A file of the log in a place of the server's.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let dir = self.dir.path().join("pg_wal");
        fs::create_dir_all(&dir).expect("pg_wal");
        fs::write(dir.join(name), bytes).expect("write");
        dir.join(name)
    }

    /// One that the server wrote to last so many minutes ago, pushed as `archive_command` does. Says when
    /// that was.
    fn archive(&self, name: &str, bytes: &[u8], minutes: u64) -> Timestamp {
        let file = self.file(name, bytes);
        let written = SystemTime::now() - Duration::from_secs(60 * minutes);
        fs::File::options()
            .write(true)
            .open(&file)
            .expect("open")
            .set_modified(written)
            .expect("set");
        push(&self.a, &file).expect("push");
        note_pushed(&self.a, &file);
        let written = Timestamp::try_from(written).expect("a time");
        Timestamp::from_microsecond(written.as_microsecond()).expect("a time")
    }

    /// A point of so many minutes ago, at this place in the log.
    fn base(&self, lsn: u64, minutes: i64) -> Timestamp {
        let time = Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
        let point = RecoveryPoint {
            snapshot: SnapshotId([u8::try_from(lsn >> 20).expect("small"); 32]),
            engine: "postgres".to_owned(),
            generation: Generation::FIRST,
            member: self.a.member().clone(),
            source_time: time,
            received: time,
            verified: None,
            drilled: None,
            drill: None,
            position: Some(Position::Lsn { timeline: 1, lsn }),
            cluster: CLUSTER,
            size_bytes: 1,
            added_bytes: 1,
            incomplete: false,
            pinned: false,
            tags: Default::default(),
        };
        self.a.state().expect("state").update(|s| s.commit(point.clone())).expect("commit");
        time
    }

    /// Up to when the log reaches, as the vault says to `b` and as `a` knows, to the microsecond.
    fn reaches(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        let cut =
            |time: Timestamp| Timestamp::from_microsecond(time.as_microsecond()).expect("a time");
        let state = self.b.load_state().expect("state").state;
        let said = Until::look(&self.b, &state).expect("ask").newest().expect("ask");
        assert_eq!(reaches(&self.b, &state).expect("ask"), said);
        (said, reaches(&self.a, &state).expect("ask").map(cut))
    }

    /// `a` forgets what it said, and when.
    fn forget(&self) {
        fs::remove_file(self.a.dir().join("log-until.json")).expect("a note");
    }

    /// `b` takes over.
    fn takeover(&self) {
        let state = self.b.state().expect("state");
        let (versioned, ()) = state
            .update(|state| {
                let applied = Applied {
                    snapshot: SnapshotId([1; 32]),
                    source_time: Timestamp::now(),
                    position: None,
                    at: Timestamp::now(),
                };
                state.applied(self.b.member(), Some(applied))?;
                state.claim(Intent {
                    id: "t".to_owned(),
                    kind: TakeoverKind::Unplanned,
                    from: Some(self.a.member().clone()),
                    to: self.b.member().clone(),
                    generation: state.generation,
                    claimed: Timestamp::now(),
                    fenced: None,
                    overrides: Default::default(),
                    raised: false,
                })?;
                state.fenced("t", FenceProof::Override { reason: "test".to_owned() })?;
                state.raise("t", Timestamp::now())?;
                state.finish("t", Timestamp::now())
            })
            .expect("takeover");
        assert_eq!(versioned.state.primary, Some(MemberName::new("b").expect("b")));
    }
}

fn host(dir: &Path, name: &str) -> ServiceSite {
    let shown = dir.display();
    let config = format!(
        "[host]\nname = '{name}'\nstate-dir = '{shown}/state-{name}'\n\
         [vault]\nurl = '{shown}/vault'\npassword-file = '{shown}/password'\n\
         [service.shop]\nengine = 'postgres'\nurl = 'postgres://u@/d?host={shown}'\n\
         data-dir = '{shown}/data'\nlog-queue = '3 MiB'\n"
    );
    let config = toml::from_str(&config).expect("a configuration");
    let site = Site::new(config, dir.join(format!("{name}.toml")));
    site.service(&ServiceName::new("shop").expect("a name")).expect("the service")
}

/// A segment of this number on a timeline, with the pages that a server writes.
fn segment(timeline: u32, number: u64, fill: u8) -> (String, Vec<u8>) {
    let mut bytes = vec![fill; SEGMENT_BYTES];
    let start = number * SEGMENT_BYTES as u64;
    for (at, page) in bytes.chunks_mut(8192).enumerate() {
        page[..24].fill(0);
        page[..2].copy_from_slice(&0xd110u16.to_le_bytes());
        page[4..8].copy_from_slice(&timeline.to_le_bytes());
        page[8..16].copy_from_slice(&(start + at as u64 * 8192).to_le_bytes());
    }
    bytes[24..32].copy_from_slice(&made::CLUSTER.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&(1u32 << 20).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    (format!("{timeline:08X}{:08X}{:08X}", number >> 12, number & 0xfff), bytes)
}

#[test]
fn what_the_primary_pushes_the_standby_fetches() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    let target = bench.dir.path().join("RECOVERYXLOG");
    assert_eq!(fetch(&bench.b, CLUSTER, &name, &target).expect("ask"), Fetched::NotThere);
    assert!(!target.exists());

    let file = bench.file(&name, &bytes);
    assert_eq!(push(&bench.a, &file).expect("push"), Pushed::Stored);
    assert_eq!(push(&bench.a, &file).expect("again"), Pushed::Already);
    fs::write(&target, "what an earlier one left").expect("left over");
    assert_eq!(fetch(&bench.b, CLUSTER, &name, &target).expect("fetch"), Fetched::Found);
    assert_eq!(fs::read(&target).expect("read"), bytes);
    let names = fs::read_dir(bench.dir.path()).expect("dir").flatten();
    let left = names.filter(|entry| entry.file_name().to_string_lossy().contains("XLOG.")).count();
    assert_eq!(left, 0, "nothing stays beside the target");

    let history = bench.file("00000002.history", b"1\t0/300000\tno recovery target specified\n");
    push(&bench.a, &history).expect("a history");
    assert_eq!(
        fetch(&bench.b, CLUSTER, "00000002.history", &target).expect("fetch"),
        Fetched::Found
    );
}

/// The oldest segment of a backlog says nothing of what came later, and what lies beside the log says
/// nothing at all.
#[test]
fn a_push_says_up_to_when_it_proves_the_log_to_be_there() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    let first = bench.archive(&name, &bytes, 130);
    assert_eq!(bench.reaches(), (None, None), "there is no point that it leads on from");
    assert!(stored_until(&bench.a).is_some_and(|stored| stored >= first), "it is stored");

    bench.base((3 << 20) + 8, 140);
    let (name, bytes) = segment(1, 4, 1);
    let fourth = bench.archive(&name, &bytes, 120);
    assert_eq!(bench.reaches(), (Some(fourth), Some(fourth)));
    for (name, bytes) in [
        ("00000002.history", &b"1\t0/300000\tno recovery target specified\n"[..]),
        ("000000010000000000000004.00000028.backup", b"START WAL LOCATION: 0/400028\n"),
    ] {
        bench.archive(name, bytes, 0);
        assert_eq!(bench.reaches(), (Some(fourth), Some(fourth)), "{name}");
    }
    // A long backlog is not said once for each segment, but `a` knows.
    let (name, bytes) = segment(1, 5, 1);
    let fifth = bench.archive(&name, &bytes, 100);
    assert_eq!(bench.reaches(), (Some(fourth), Some(fifth)));
    bench.forget();
    let (name, bytes) = segment(1, 6, 1);
    let sixth = bench.archive(&name, &bytes, 90);
    assert_eq!(bench.reaches(), (Some(sixth), Some(sixth)));

    // One is missing: what comes after it can be reached from nowhere.
    bench.forget();
    let (name, bytes) = segment(1, 8, 1);
    bench.archive(&name, &bytes, 0);
    assert_eq!(bench.reaches(), (Some(sixth), Some(sixth)));
    // A point that was taken after that makes good for it.
    bench.base((8 << 20) + 8, 0);
    let (name, bytes) = segment(1, 9, 1);
    let ninth = bench.archive(&name, &bytes, 0);
    assert_eq!(bench.reaches(), (Some(ninth), Some(ninth)));
}

#[test]
fn the_same_name_with_other_bytes_is_refused() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    push(&bench.a, &bench.file(&name, &bytes)).expect("push");
    let (_, other) = segment(1, 3, 2);
    let error = push(&bench.a, &bench.file(&name, &other)).expect_err("other bytes");
    assert_eq!(error.class(), Class::Refused, "{error}");
    let target = bench.dir.path().join("target");
    fetch(&bench.b, CLUSTER, &name, &target).expect("fetch");
    assert_eq!(fs::read(&target).expect("read"), bytes);
}

#[test]
fn only_the_primary_of_the_current_generation_pushes() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    let file = bench.file(&name, &bytes);
    let error = push(&bench.b, &file).expect_err("a standby");
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert!(error.to_string().contains("not the primary"), "{error}");
    push(&bench.a, &file).expect("the primary");

    bench.takeover();
    let (name, bytes) = segment(1, 4, 1);
    let error = push(&bench.a, &bench.file(&name, &bytes)).expect_err("taken over");
    assert_eq!(error.class(), Class::Refused, "{error}");
    let (name, bytes) = segment(2, 4, 9);
    push(&bench.b, &bench.file(&name, &bytes)).expect("the new primary");
    let target = bench.dir.path().join("target");
    assert_eq!(fetch(&bench.a, CLUSTER, &name, &target).expect("fetch"), Fetched::Found);
}

#[test]
fn what_is_no_part_of_a_log_is_not_stored() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    for wrong in ["postgresql.conf", "000000010000000000000003.tmp", "archive_status"] {
        let error = push(&bench.a, &bench.file(wrong, &bytes)).expect_err(wrong);
        assert_eq!(error.class(), Class::Invalid, "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("archive_command")));
        let error = fetch(&bench.a, CLUSTER, wrong, &bench.dir.path().join("x")).expect_err(wrong);
        assert_eq!(error.class(), Class::Invalid, "{error}");
    }
    for (what, wrong) in [
        ("cut", &bytes[..SEGMENT_BYTES - 1]),
        ("empty", &[][..]),
        ("zeros", &vec![0; SEGMENT_BYTES][..]),
        ("another segment", &segment(1, 4, 1).1[..]),
    ] {
        let error = push(&bench.a, &bench.file(&name, wrong)).expect_err(what);
        assert_eq!(error.class(), Class::Corrupt, "{what}: {error}");
    }
    push(&bench.a, &bench.dir.path().join(&name)).expect_err("a file that is not there");
    let target = bench.dir.path().join("target");
    assert_eq!(fetch(&bench.b, CLUSTER, &name, &target).expect("ask"), Fetched::NotThere);
}

#[test]
fn a_vault_that_is_away_is_an_error_and_not_the_end_of_the_log() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    push(&bench.a, &bench.file(&name, &bytes)).expect("push");
    fs::rename(bench.dir.path().join("vault"), bench.dir.path().join("away")).expect("unmount");
    let target = bench.dir.path().join("target");
    fetch(&bench.b, CLUSTER, &name, &target).expect_err("away");
    // Nor for a process that begins only now.
    fetch(&host(bench.dir.path(), "b"), CLUSTER, &name, &target).expect_err("away");
    fs::create_dir(bench.dir.path().join("vault")).expect("an empty mount point");
    fetch(&host(bench.dir.path(), "b"), CLUSTER, &name, &target).expect_err("empty");
    assert!(!target.exists());
}

#[test]
fn a_damaged_segment_is_an_error() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    push(&bench.a, &bench.file(&name, &bytes)).expect("push");
    let log = bench.dir.path().join("vault/shop/mainstay/log/7/0000000100000000");
    let object = fs::read_dir(&log).expect("log").flatten().next().expect("an object").path();
    let mut stored = fs::read(&object).expect("read");
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    fs::write(&object, stored).expect("damage");
    let target = bench.dir.path().join("target");
    let error = fetch(&bench.b, CLUSTER, &name, &target).expect_err("damaged");
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(!target.exists());
}

#[test]
fn a_gap_is_told_from_what_is_not_there_yet() {
    let bench = Bench::new();
    for number in [3, 5] {
        let (name, bytes) = segment(1, number, 1);
        push(&bench.a, &bench.file(&name, &bytes)).expect("push");
    }
    let (other, bytes) = segment(2, 9, 1);
    push(&bench.a, &bench.file(&other, &bytes)).expect("push");
    for (number, gap) in [(2, true), (3, false), (4, true), (5, false), (6, false)] {
        let (name, _) = segment(1, number, 1);
        assert_eq!(is_gap(&bench.b, CLUSTER, &name).expect("ask"), gap, "{number}");
    }
    assert!(!is_gap(&bench.b, CLUSTER, "00000002.history").expect("ask"));
}

/// A server waits for both: what they cost is a process, a key derivation and one file.
#[test]
fn neither_loads_the_index() {
    let bench = Bench::new();
    let index = bench.dir.path().join("vault/shop/index");
    fs::create_dir_all(&index).expect("index");
    let broken = index.join("00".repeat(32));
    fs::write(broken, "not an index").expect("a broken index");
    let (name, bytes) = segment(1, 3, 1);
    let a = host(bench.dir.path(), "a");
    push(&a, &bench.file(&name, &bytes)).expect("push");
    let target = bench.dir.path().join("target");
    assert_eq!(fetch(&a, CLUSTER, &name, &target).expect("fetch"), Fetched::Found);
    a.repository().expect("open").refresh_index().expect_err("the index is broken indeed");
}

#[test]
fn a_primary_that_a_takeover_counts_on_not_to_serve_pushes_nothing() {
    let bench = Bench::new();
    let (name, bytes) = segment(1, 3, 1);
    let file = bench.file(&name, &bytes);
    let fence = bench.b.state().expect("state").update(|state| {
        let applied = Applied {
            snapshot: SnapshotId([1; 32]),
            source_time: Timestamp::now(),
            position: None,
            at: Timestamp::now(),
        };
        state.applied(bench.b.member(), Some(applied))?;
        state.claim(Intent {
            id: "t".to_owned(),
            kind: TakeoverKind::Unplanned,
            from: Some(bench.a.member().clone()),
            to: bench.b.member().clone(),
            generation: state.generation,
            claimed: Timestamp::now(),
            fenced: None,
            overrides: Default::default(),
            raised: false,
        })?;
        state.fenced("t", FenceProof::Override { reason: "test".to_owned() })
    });
    fence.expect("fence");
    let error = push(&bench.a, &file).expect_err("it is fenced");
    assert_eq!(error.class(), Class::Refused, "{error}");
    bench.b.state().expect("state").update(|state| state.abandon("t")).expect("abandon");
    assert_eq!(push(&bench.a, &file).expect("push"), Pushed::Stored);
}

/// A server keeps what it cannot archive until its disk is full. What is too much is let go, known to
/// be missing, and made good by a base.
#[test]
fn what_waits_for_a_vault_that_is_gone_is_bounded() {
    let bench = Bench::new();
    bench.base((3 << 20) + 8, 60);
    let (name, bytes) = segment(1, 3, 1);
    let third = bench.archive(&name, &bytes, 50);
    assert_eq!(bench.reaches(), (Some(third), Some(third)));
    let status = bench.dir.path().join("pg_wal/archive_status");
    fs::create_dir_all(&status).expect("archive_status");
    let (vault, away) = (bench.dir.path().join("vault"), bench.dir.path().join("away"));
    fs::rename(&vault, &away).expect("the vault goes");
    let mut oldest = None;
    for number in 4..8 {
        let (name, bytes) = segment(1, number, 1);
        let file = bench.file(&name, &bytes);
        fs::write(status.join(format!("{name}.ready")), "").expect("ready");
        let oldest = oldest.get_or_insert(file);
        let error = push(&bench.a, oldest).expect_err("no vault");
        // Three may wait.
        assert_eq!(
            let_go(&bench.a, oldest, &error, &Silent).expect("ask"),
            number == 7,
            "{number}"
        );
    }
    fs::rename(&away, &vault).expect("the vault is back");
    let gap = || open_gap(&bench.a, &bench.a.load_state().expect("state").state).expect("gap");
    let open = gap().expect("a gap");
    assert_eq!((open.from, open.to, open.timeline), (4 << 20, None, 1));
    let (name, bytes) = segment(1, 5, 1);
    bench.forget();
    bench.archive(&name, &bytes, 0);
    assert_eq!(bench.reaches(), (Some(third), Some(third)), "the gap ends it");
    let open = gap().expect("a gap");
    assert_eq!((open.to, open.recorded), (Some(5 << 20), true));
    assert!(is_gap(&bench.b, CLUSTER, "000000010000000000000004").expect("ask"));

    // What the vault refuses is never let go: somebody has to look.
    let (_, other) = segment(1, 5, 2);
    let file = bench.file("000000010000000000000005", &other);
    let error = push(&bench.a, &file).expect_err("other bytes");
    assert!(!let_go(&bench.a, &file, &error, &Silent).expect("ask"), "{error}");
}

/// A vault that takes connections and never answers gives no error, and the server waits.
#[test]
fn what_waits_for_a_vault_that_hangs_is_bounded() {
    let bench = Bench::new();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut config = bench.a.site().config().clone();
    config.vault.url = format!("rest:http://{}/", silent.local_addr().expect("an address"));
    let site = Site::new(config, bench.dir.path().join("a.toml"));
    let site = site.service(bench.a.name()).expect("the service");
    let status = bench.dir.path().join("pg_wal/archive_status");
    fs::create_dir_all(&status).expect("archive_status");
    let files: Vec<PathBuf> = (4..9)
        .map(|number| {
            let (name, bytes) = segment(1, number, 1);
            bench.file(&name, &bytes)
        })
        .collect();
    let ready = |file: &Path| {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        fs::write(status.join(format!("{name}.ready")), "").expect("ready");
    };
    files[..3].iter().for_each(|file| ready(file));
    // As many as may wait: it goes on waiting. Then one more comes.
    let pushed = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| push_or_spare(&site, &files[0]));
        std::thread::sleep(Duration::from_secs(6));
        assert!(!pushing.is_finished(), "nothing was too much");
        ready(&files[3]);
        pushing.join().expect("it ends")
    });
    let error = pushed.expect_err("no answer");
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(let_go(&site, &files[0], &error, &Silent).expect("ask"));
    let gap = || open_gap(&bench.a, &bench.a.load_state().expect("state").state).expect("gap");
    assert_eq!(gap().expect("a gap").from, 4 << 20);
    // The others follow at once: the vault was waited for.
    fs::remove_file(status.join("000000010000000000000004.ready")).expect("it is let go");
    ready(&files[4]);
    let began = Instant::now();
    let error = push_or_spare(&site, &files[1]).expect_err("no answer");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(let_go(&site, &files[1], &error, &Silent).expect("ask"));
}
