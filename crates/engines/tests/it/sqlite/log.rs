//! How the log of a database is held, read, planned and replayed.

use jiff::Timestamp;
use mainstay_engines::sqlite::log::{
    Batch, BatchName, ChainPlace, Held, Mark, Place, Reach, Restart, Span, plan, replay, together,
    wal_path,
};
use rusqlite::Connection;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

fn database(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("open");
    connection.busy_timeout(Duration::from_secs(5)).expect("timeout");
    connection
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)")
        .expect("a table");
    connection
}

fn insert(connection: &Connection, n: i64) {
    connection.execute("INSERT INTO t VALUES (?1, randomblob(3000))", [n]).expect("insert");
}

/// What is committed after a place, as one batch.
fn batch(held: &Held, path: &Path, place: &mut Place, before: u32) -> Batch {
    let published = held.look().expect("look");
    assert_eq!(published.header, Some(place.header));
    let file = File::open(wal_path(path)).expect("the log");
    let start = *place;
    let frames = place.read(&file, published.frames, 1 << 30).expect("read").expect("frames");
    let mut batch = Batch { place: start, before, marks: Vec::new(), frames };
    let (frame, pages) = (place.frame, batch.last_commit().expect("a commit"));
    batch.marks.push(Mark { frame, pages, seen: Timestamp::from_millisecond(7).expect("a time") });
    assert_eq!(batch.end(), *place);
    assert_eq!(Batch::decode(&batch.encode()).expect("decode"), batch);
    batch
}

fn begins(held: &Held) -> Place {
    Place::start(held.look().expect("look").header.expect("a header"))
}

#[test]
fn no_checkpoint_of_anybody_takes_what_is_held() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let connection = database(&path);
    let mut held = Held::open(&path).expect("open").expect("it is in WAL mode");
    fs::copy(&path, dir.path().join("copy.db")).expect("a copy");
    let mut place = begins(&held);
    let mut batches = Vec::new();
    for n in 1..=20 {
        insert(&connection, n);
        for how in ["PASSIVE", "FULL"] {
            let sql = format!("PRAGMA wal_checkpoint({how})");
            connection.busy_timeout(Duration::ZERO).expect("timeout");
            connection.query_row(&sql, [], |_| Ok(())).expect("a checkpoint");
        }
        if n % 5 == 0 {
            held.take_next().expect("take");
            batches.push(batch(&held, &path, &mut place, 0));
            held.release_previous().expect("release");
        }
    }
    // All in one log, and nothing of it was written over.
    assert_eq!(begins(&held).header, place.header);
    let copy = dir.path().join("copy.db");
    let mut replayed = replay(&copy).expect("replay");
    for batch in &batches {
        replayed.apply(batch, u32::MAX).expect("apply");
    }
    replayed.finish().expect("finish");
    assert_eq!(count(&copy), 20);
}

fn count(path: &Path) -> i64 {
    let connection = Connection::open(path).expect("open");
    let check: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
    assert_eq!(check, "ok");
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("count")
}

#[test]
fn a_log_that_is_read_to_its_end_is_begun_anew_once_and_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let connection = database(&path);
    let mut held = Held::open(&path).expect("open").expect("it is in WAL mode");
    fs::copy(&path, dir.path().join("copy.db")).expect("a copy");
    insert(&connection, 1);
    let mut first = begins(&held);
    held.take_next().expect("take");
    let old = batch(&held, &path, &mut first, 0);
    held.release_previous().expect("release");
    let restarted = held.restart(|published| Ok(published.frames == first.frame));
    assert!(matches!(restarted.expect("restart"), Restart::Ready(_)));
    // By another connection, which counts for itself.
    insert(&Connection::open(&path).expect("open"), 2);
    let mut second = begins(&held);
    assert!(second.header.follows(&first.header), "{second:?} after {first:?}");
    // Nothing of the new log may get lost before it is read, whoever tries.
    for n in 3..=5 {
        for how in ["PASSIVE", "RESTART", "TRUNCATE"] {
            connection.busy_timeout(Duration::ZERO).expect("timeout");
            let sql = format!("PRAGMA wal_checkpoint({how})");
            connection.query_row(&sql, [], |_| Ok(())).expect("a checkpoint");
        }
        insert(&connection, n);
    }
    let new = batch(&held, &path, &mut second, first.frame);
    let copy = dir.path().join("copy.db");
    let mut replayed = replay(&copy).expect("replay");
    replayed.apply(&old, u32::MAX).expect("apply");
    replayed.apply(&new, u32::MAX).expect("apply");
    replayed.finish().expect("finish");
    assert_eq!(count(&copy), 5);
    // Without the first the second goes on nowhere.
    let mut replayed = replay(&copy).expect("replay");
    replayed.apply(&Batch { before: first.frame + 1, ..new.clone() }, u32::MAX).expect("apply");
    assert!(replayed.apply(&Batch { before: first.frame + 1, ..old }, u32::MAX).is_err());
    // What has another name is somebody else's, too.
    let other = dir.path().join("other.db");
    std::fs::hard_link(&copy, &other).expect("a link");
    assert!(replay(&copy).is_err_and(|e| e.to_string().contains("another name")));
    std::fs::remove_file(other).expect("no link");
    // A page of it that is not what it was is noticed.
    let mut bytes = new.encode();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    assert!(Batch::decode(&bytes).is_err());
}

#[test]
fn readers_are_in_the_way_and_are_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let connection = database(&path);
    insert(&connection, 1);
    let reader = Connection::open(&path).expect("open");
    reader.execute_batch("BEGIN; SELECT * FROM t").expect("read");
    insert(&connection, 2);
    let mut held = Held::open(&path).expect("open").expect("it is in WAL mode");
    let Restart::InTheWay(took) = held.restart(|_| Ok(true)).expect("restart") else {
        panic!("a reader's state was taken from him");
    };
    assert!(took < Duration::from_secs(2), "{took:?}");
    insert(&connection, 3);
    assert_eq!(begins(&held).header, begins(&Held::open(&path).unwrap().unwrap()).header);
}

#[test]
fn another_journal_mode_has_no_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("app.db");
    let connection = database(&path);
    connection.execute_batch("PRAGMA journal_mode = DELETE").expect("a mode");
    assert!(Held::open(&path).expect("open").is_none());
}

fn name(chain: u64, sequence: u32, from: u32, to: u32, before: u32, millis: u64) -> BatchName {
    BatchName {
        database: 1,
        chain,
        sequence,
        salts: u64::from(sequence) + 100,
        from,
        to,
        before,
        whole: true,
        time: millis << 16,
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).expect("a time")
}

fn span(salts: u64, frame: u32) -> Span {
    let reach = Some(Reach { salts, frame: Some(frame) });
    Span { from: reach, to: reach, chain: None }
}

#[test]
fn a_plan_takes_what_follows_and_names_what_is_missing() {
    let names = [
        name(1000, 0, 0, 10, 0, 1100),
        name(1000, 0, 10, 20, 0, 1200),
        name(1000, 1, 0, 5, 20, 1300),
        name(5000, 0, 0, 5, 0, 5100),
    ];
    let all = plan(&span(100, 10), at(1100), &names[..3], None);
    assert_eq!(all.whole, names[1..3]);
    assert_eq!((all.gap, all.reaches), (None, Some(at(1300))));
    // Up to a time: the batch in which it lies is taken in part.
    let some = plan(&span(100, 10), at(1100), &names, Some(at(1250)));
    assert_eq!((some.whole.as_slice(), some.partly.as_slice()), (&names[1..2], &names[2..3]));
    assert_eq!(some.gap, None);
    // The next chain tells that something is missing after the first.
    let beyond = plan(&span(100, 10), at(1100), &names, Some(at(4000)));
    assert!(beyond.gap.is_some_and(|gap| gap.contains("gap")));
    // So does a hole, and what lies before it is there.
    let holed = [names[0], names[2]];
    let hole = plan(&span(100, 5), at(1050), &holed, None);
    assert_eq!(hole.whole, holed[..1]);
    assert!(hole.gap.is_some());
    // A copy that is further than what was shipped is as it is.
    let further = plan(&span(100, 30), at(1500), &names[..2], None);
    assert!(further.whole.is_empty() && further.gap.is_none(), "{further:?}");
    // What came before the copy may be gone; the chain that it was in is known.
    let chain = Some(ChainPlace { chain: 1000, next: 1 });
    let pruned = plan(&Span { chain, ..span(100, 20) }, at(1250), &names[2..3], None);
    assert_eq!(pruned.whole, names[2..3]);
    let empty = plan(&Span { from: None, to: None, chain }, at(1250), &names[2..3], None);
    assert_eq!((empty.whole.as_slice(), empty.least), (&names[2..3], Some((1, 0))));
}

#[test]
fn a_mark_says_up_to_when_nothing_more_was_committed() {
    let names = [name(1000, 0, 0, 10, 0, 1100), name(1000, 0, 10, 20, 0, 1200)];
    let mark = |frame, millis| name(1000, 0, frame, frame, 0, millis);
    let with = |more: &[BatchName]| [&names[..], more].concat();
    let quiet = plan(&span(100, 10), at(1100), &with(&[mark(20, 9000)]), None);
    assert_eq!((quiet.whole.as_slice(), quiet.reaches), (&names[1..], Some(at(9000))));
    assert_eq!((quiet.chain, quiet.end), (Some(1000), Some((0, 20))));
    // A copy that is at the end has nothing to do, and is as new.
    let still = plan(&span(100, 20), at(1250), &with(&[mark(20, 9000)]), None);
    assert_eq!((still.whole.len(), still.reaches, still.gap), (0, Some(at(9000)), None));
    // What came after it counts instead, and no time is reached that was not asked for.
    let names = with(&[mark(20, 1250), name(1000, 0, 20, 30, 0, 1300)]);
    assert_eq!(plan(&span(100, 10), at(1100), &names, None).reaches, Some(at(1300)));
    let until = plan(&span(100, 10), at(1100), &with(&[mark(20, 9000)]), Some(at(2000)));
    assert_eq!((until.reaches, until.gap), (Some(at(2000)), None));
    // A part of a commit says nothing of its time.
    let part = BatchName { whole: false, ..name(1000, 0, 20, 30, 0, 1300) };
    let cut = plan(&span(100, 10), at(1100), &[names[0], names[1], part], None);
    assert_eq!((cut.whole.len(), cut.reaches), (1, Some(at(1200))));
}

#[test]
fn several_databases_get_to_one_moment() {
    let busy = vec![name(1000, 0, 0, 10, 0, 1100), name(1000, 0, 10, 20, 0, 1900)];
    let quiet = vec![name(1000, 0, 0, 5, 0, 1100), name(1000, 0, 5, 5, 0, 1500)];
    let copies = [(span(100, 5), busy.clone()), (span(100, 5), quiet.clone())];
    let plans = together(&copies, at(1050), None);
    assert_eq!((plans[0].whole.as_slice(), plans[0].partly.as_slice()), (&busy[..1], &busy[1..]));
    assert_eq!((plans[0].until, plans[0].reaches), (Some(at(1500)), Some(at(1500))));
    assert_eq!((plans[1].until, plans[1].reaches), (None, Some(at(1500))));
    // One that was asked for is one for all of them anyway.
    let plans = together(&copies, at(1050), Some(at(1200)));
    assert!(plans.iter().all(|plan| plan.until.is_none() && plan.gap.is_none()), "{plans:?}");
    // One that nobody has shipped for long keeps nobody back, and is named.
    let late = vec![name(1000, 0, 0, 10, 0, 1100), name(1000, 0, 10, 20, 0, 900_000)];
    let plans = together(&[(span(100, 5), late), (span(100, 5), quiet)], at(1050), None);
    assert_eq!((plans[0].whole.len(), &plans[0].gap), (2, &None));
    assert!(plans[1].gap.as_ref().is_some_and(|gap| gap.contains("goes on")), "{plans:?}");
}

/// A database of more than 1 GiB of which nearly nothing is on disk: its pages are free, and those
/// beside the lock page are the next to be used.
fn beyond_a_gibibyte(path: &Path) -> u32 {
    const PAGE: u32 = 65536;
    let lock = (1 << 30) / PAGE + 1;
    let connection = Connection::open(path).expect("open");
    let made = "PRAGMA page_size = 65536; PRAGMA journal_mode = WAL;
                CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)";
    connection.execute_batch(made).expect("a table");
    connection.close().expect("close");
    let pages = lock + 10;
    let first: Vec<u32> = vec![lock - 1, lock + 1, lock + 2, lock + 3];
    let rest: Vec<u32> = (5..lock - 1).chain(lock + 4..=pages).collect();
    let file = File::options().read(true).write(true).open(path).expect("open");
    file.set_len(u64::from(pages) * u64::from(PAGE)).expect("a length");
    let write = |page: u32, next: u32, leaves: &[u32]| {
        let count = u32::try_from(leaves.len()).expect("a count");
        let numbers = [next, count].into_iter().chain(leaves.iter().copied());
        let bytes: Vec<u8> = numbers.flat_map(u32::to_be_bytes).collect();
        file.write_all_at(&bytes, u64::from(page - 1) * u64::from(PAGE)).expect("write");
    };
    // As https://sqlite.org/fileformat2.html#the_freelist says.
    let (some, others) = rest.split_at(8000);
    write(3, 4, &first);
    write(4, others[0], some);
    write(others[0], 0, &others[1..]);
    let free = u32::try_from(first.len() + rest.len() + 2).expect("a count");
    for (at, number) in [(28, pages), (32, 3), (36, free)] {
        file.write_all_at(&number.to_be_bytes(), at).expect("write");
    }
    file.sync_all().expect("sync");
    lock
}

#[test]
fn a_log_goes_past_the_lock_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, copy) = (dir.path().join("app.db"), dir.path().join("copy.db"));
    let lock = beyond_a_gibibyte(&path);
    let mut command = std::process::Command::new("cp");
    let copied = command.arg("--sparse=always").args([&path, &copy]).status();
    assert!(copied.expect("cp").success());
    assert_eq!(count(&copy), 0);
    let connection = Connection::open(&path).expect("open");
    connection.busy_timeout(Duration::from_secs(5)).expect("timeout");
    let held = Held::open(&path).expect("open").expect("it is in WAL mode");
    for n in 1..=8 {
        let sql = "INSERT INTO t VALUES (?1, randomblob(60000))";
        connection.execute(sql, [n]).expect("insert");
    }
    let mut place = begins(&held);
    let batch = batch(&held, &path, &mut place, 0);
    let size = usize::try_from(place.header.frame_bytes()).expect("a size");
    let page = |frame: &[u8]| u32::from_be_bytes(frame[..4].try_into().expect("a number"));
    let pages: Vec<u32> = batch.frames.chunks(size).map(page).collect();
    assert!(pages.iter().any(|page| *page > lock), "{pages:?}");
    assert!(pages.contains(&(lock - 1)) && !pages.contains(&lock), "{pages:?}");
    let mut replayed = replay(&copy).expect("replay");
    replayed.apply(&batch, u32::MAX).expect("apply");
    replayed.finish().expect("finish");
    assert_eq!(count(&copy), 8);
}
