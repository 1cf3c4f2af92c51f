//! What is looked at before a standby's server is refreshed.

use super::*;

/// A copy that was promoted by hand has gone its own way: it is told, and nothing of it is lost.
#[test]
fn a_standby_that_was_promoted_by_hand_is_refused_and_put_aside() {
    let stage = Stage::new();
    let (a, b) = (&stage.a, &stage.b);
    a.write();
    a.run(&["backup", "shop"]).code(0);
    b.run(&["refresh", "shop"]).code(0);
    b.server.sql("SELECT pg_promote()");
    b.server.sql("CREATE TABLE mine (x int)");
    let wanted = a.write();
    a.run(&["backup", "shop"]).code(0);
    let said = b.run(&["refresh", "shop"]).code(1);
    said.complains("does not follow any more").complains("--reseed");
    assert_eq!(b.server.sql("SELECT count(*) FROM mine"), "0", "it was touched");
    // Neither can it take over.
    a.server.stop("immediate");
    stage.dead(true);
    assert_ne!(b.run(&["takeover", "shop", "--yes"]).code, 0);
    a.server.start();

    b.run(&["refresh", "shop", "--reseed"]).code(0);
    assert_eq!(b.server.sql("SELECT pg_is_in_recovery()"), "t");
    b.server.eventually(&format!("SELECT max(n) = {wanted} FROM orders"));
    assert_eq!(b.server.sql("SELECT to_regclass('mine') IS NULL"), "t");
    let kept = fs::read_dir(stage.dir.path().join("b")).unwrap().flatten();
    let kept = kept.filter(|item| item.file_name().to_string_lossy().contains("data.diverged-"));
    assert_eq!(kept.count(), 1);
}

#[test]
fn before_the_first_segment_nobody_is_advised_what_is_done_already() {
    let stage = Stage::new();
    let a = &stage.a;
    let said =
        a.run(&["doctor", "shop"]).says("the server archives it, and no segment has been full");
    assert!(!said.out.contains("set `archive_mode"), "{said:#?}");
    a.server.sql("ALTER SYSTEM SET archive_command = 'false'");
    a.server.sql("SELECT pg_reload_conf()");
    a.server.eventually("SELECT current_setting('archive_command') = 'false'");
    a.run(&["doctor", "shop"]).says("nothing of it was ever stored").says("set `archive_mode");
}
