//! What is taken for a segment of the log: real ones, and what can become of them.

use super::Shop;
use mainstay_engines::postgres::check_wal_file;

#[test]
fn real_segments_pass_and_damaged_ones_do_not() {
    let shop = Shop::archiving();
    shop.server.sql("INSERT INTO orders (n) SELECT generate_series(2, 60000)");
    shop.archived();
    let mut names: Vec<String> = std::fs::read_dir(shop.archive())
        .expect("archive")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.len() == 24)
        .collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    let read = |name: &str| std::fs::read(shop.archive().join(name)).expect("segment");
    for name in &names {
        check_wal_file(name, &read(name)).expect(name);
    }

    let (name, other) = (&names[0], &names[1]);
    let whole = read(name);
    check_wal_file(other, &whole).expect_err("another segment's bytes");
    let later = format!("00000002{}", &name[8..]);
    check_wal_file(&later, &whole).expect("a timeline begins with its parent's pages");
    check_wal_file("00000001000000000000", &whole).expect_err("no name");
    check_wal_file(name, &[]).expect_err("empty");
    check_wal_file(name, &whole[..whole.len() - 1]).expect_err("cut");
    check_wal_file(name, &whole[..1 << 20]).expect_err("cut to another size of segments");
    check_wal_file(name, &vec![0; whole.len()]).expect_err("zeros");
    check_wal_file(&format!("{name}.partial"), &whole).expect("a partial one");
    // Pages that were never written, and pages that another segment left in a recycled file.
    let mut torn = whole.clone();
    torn[10 << 13..12 << 13].fill(0);
    check_wal_file(name, &torn).expect_err("a hole");
    let mut recycled = whole.clone();
    recycled[10 << 13..].copy_from_slice(&read(other)[10 << 13..]);
    check_wal_file(name, &recycled).expect_err("recycled");
    for at in [0, 8, 32, 36, 5 << 13, (5 << 13) + 8] {
        let mut flipped = whole.clone();
        flipped[at + 1] ^= 0x11;
        check_wal_file(name, &flipped).expect_err("a flipped header");
    }

    check_wal_file("00000002.history", b"1\t0/3000000\tno recovery target specified\n")
        .expect("a history");
    check_wal_file("00000002.history", b"").expect_err("an empty history");
    check_wal_file("00000002.history", b"\xff\xfe").expect_err("no text");
    check_wal_file(&format!("{name}.00000028.backup"), b"START WAL LOCATION: 0/2000028\n")
        .expect("a backup's history");
}
