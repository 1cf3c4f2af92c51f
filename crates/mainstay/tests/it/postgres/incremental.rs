//! Bases after the first: what has not changed is not read again, and what has changed is, whatever
//! its file looks like.

use super::receiving::restored;
use super::*;
use std::path::Path;

/// The file of a table.
fn file_of(host: &Host, table: &str) -> PathBuf {
    host.server.data().join(host.server.sql(&format!("SELECT pg_relation_filepath('{table}')")))
}

fn bytes_below(dir: &Path) -> u64 {
    let of = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => bytes_below(&entry.path()),
        meta => meta.len(),
    };
    fs::read_dir(dir).unwrap().map(|entry| of(entry.unwrap())).sum()
}

/// What the newest base has, and no log beyond it.
fn value_in_base(stage: &Stage, name: &str) -> String {
    let copy = restored(stage, &stage.a, name, &["--snapshot", "latest"]);
    copy.server.sql("SELECT v FROM small")
}

/// A page is written to in its place: the file keeps its size, and somebody sets its times back. Or
/// it is written to within the very tick of the clock in which a base read it. Each base has what was
/// committed before it, and only the file that was written to is read again.
#[test]
fn a_page_that_was_written_to_is_in_the_next_base_whatever_its_file_looks_like() {
    let stage = Stage::with("archive_mode = off\nautovacuum = off", "");
    let a = &stage.a;
    a.server.sql("CREATE TABLE small (v int); INSERT INTO small VALUES (0)");
    a.server
        .sql("CREATE TABLE still AS SELECT n, repeat('y', 400) FROM generate_series(1, 9000) n");
    a.server.sql("VACUUM FREEZE still");
    a.run(&["backup", "shop"]).code(0);
    let file = file_of(a, "small");
    let before = fs::metadata(&file).unwrap();

    a.server.sql("UPDATE small SET v = 1");
    a.server.sql("CHECKPOINT");
    let set_back = fs::File::options().write(true).open(&file).unwrap();
    set_back.set_modified(before.modified().unwrap()).unwrap();
    drop(set_back);
    let after = fs::metadata(&file).unwrap();
    assert_eq!(
        (before.len(), before.modified().unwrap()),
        (after.len(), after.modified().unwrap())
    );
    let made = a.run(&["backup", "shop", "--json"]).code(0).json();
    let made = &made["services"][0];
    let (files, read) = (made["files"].as_u64().unwrap(), made["files-read"].as_u64().unwrap());
    assert!(read * 4 < files, "{read} of {files} files were read again");
    assert_eq!(value_in_base(&stage, "set-back"), "1");

    // The checkpoint of the backup itself writes the page just before the file is read.
    for round in 2..6 {
        a.server.sql(&format!("UPDATE small SET v = {round}"));
        a.run(&["backup", "shop"]).code(0);
        assert_eq!(value_in_base(&stage, &format!("round{round}")), round.to_string());
    }
}

/// Of a table of which some pages changed, only the chunks with these pages are stored again.
#[test]
fn a_few_pages_of_a_large_table_cost_a_few_chunks() {
    let stage = Stage::with("archive_mode = off\nautovacuum = off", "");
    let a = &stage.a;
    run(&mut a.pgbench(&["-i", "-s", "6", "-q"])).code(0);
    a.run(&["backup", "shop"]).code(0);
    let size = || bytes_below(&stage.dir.path().join("vault/shop/data"));
    let first = size();
    a.server.sql("UPDATE pgbench_accounts SET abalance = 7 WHERE aid IN (1, 200000, 400000)");
    a.run(&["backup", "shop"]).code(0);
    let more = size() - first;
    assert!(more < first / 4, "{more} bytes more than {first}");
    a.run(&["check", "shop", "--read-data"]).code(0);
}
