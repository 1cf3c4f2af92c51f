//! What a member remembers, and what it refuses.

use crate::support::{REPOSITORY, member, service};
use mainstay_coordination::{Error, Remembered, Versioned, Witness};
use model::{Generation, ServiceState};
use std::fs;
use tempfile::TempDir;

fn shown(number: u64, generation: u64, primary: Option<&str>) -> Versioned {
    let mut state = ServiceState::new(REPOSITORY.to_owned(), service());
    state.generation = Generation(generation);
    state.primary = primary.map(member);
    Versioned { number, state }
}

fn remembered(number: u64, generation: u64, primary: Option<&str>) -> Option<Remembered> {
    let primary = primary.map(member);
    Some(Remembered { generation: Generation(generation), primary, number })
}

#[test]
fn what_was_seen_is_remembered_across_instances() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("services/shop/witness");
    assert_eq!(Witness::at(&file).remembered().unwrap(), None);
    Witness::at(&file).see(&shown(3, 1, Some("a"))).unwrap();
    assert_eq!(Witness::at(&file).remembered().unwrap(), remembered(3, 1, Some("a")));
    Witness::at(&file).see(&shown(9, 2, Some("b"))).unwrap();
    assert_eq!(Witness::at(&file).remembered().unwrap(), remembered(9, 2, Some("b")));
}

#[test]
fn format_1_is_frozen() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("witness");
    let text = "{\"format\":1,\"generation\":2,\"primary\":\"db2\",\"number\":417}\n";
    fs::write(&file, text).unwrap();
    assert_eq!(Witness::at(&file).remembered().unwrap(), remembered(417, 2, Some("db2")));
    fs::remove_file(&file).unwrap();
    Witness::at(&file).see(&shown(417, 2, Some("db2"))).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn going_back_is_refused_and_not_remembered() {
    let dir = TempDir::new().unwrap();
    let witness = Witness::at(&dir.path().join("witness"));
    witness.see(&shown(9, 2, Some("b"))).unwrap();
    let lower = witness.see(&shown(10, 1, Some("a")));
    assert!(matches!(lower, Err(Error::WentBack { shown: Generation(1), seen: Generation(2) })));
    let older = witness.see(&shown(8, 2, Some("b")));
    assert!(matches!(older, Err(Error::StateWentBack { shown: 8, seen: 9 })), "{older:?}");
    let empty = witness.see(&shown(0, 1, None));
    assert!(empty.is_err());
    let forked = witness.see(&shown(10, 2, Some("c")));
    assert!(matches!(forked, Err(Error::Forked { .. })), "{forked:?}");
    let nobody = witness.see(&shown(10, 2, None));
    assert!(matches!(nobody, Err(Error::Forked { .. })), "{nobody:?}");
    assert_eq!(witness.remembered().unwrap(), remembered(9, 2, Some("b")));
    witness.see(&shown(9, 2, Some("b"))).unwrap();
    let forked = witness.see(&shown(9, 3, Some("c"))).unwrap_err();
    assert_eq!(
        forked.to_string(),
        "the vault shows c at generation 3 in state number 9, but this host has seen b at \
         generation 2 in state number 9: the vault was copied, and both copies were used"
    );
    witness.see(&shown(10, 3, Some("c"))).unwrap();
}

/// Two processes of one host: what the other one was shown while this one asked is newer, and stays.
#[test]
fn a_state_that_was_overtaken_while_it_was_asked_for_has_not_gone_back() {
    let dir = TempDir::new().unwrap();
    let witness = Witness::at(&dir.path().join("witness"));
    let first = shown(3, 1, Some("a"));
    witness.see(&first).unwrap();
    let before = witness.remembered().unwrap();
    for newer in [shown(4, 1, Some("a")), shown(5, 2, Some("b"))] {
        witness.see(&newer).unwrap();
        witness.see_since(before.as_ref(), &first).unwrap();
        witness.see_since(None, &first).unwrap();
        assert_eq!(witness.remembered().unwrap().unwrap().number, newer.number);
    }
    // What was known before it was asked for is asked of it all the same, and what contradicts.
    let older = witness.see_since(before.as_ref(), &shown(2, 1, Some("a")));
    assert!(matches!(older, Err(Error::StateWentBack { shown: 2, seen: 3 })), "{older:?}");
    let forked = witness.see_since(before.as_ref(), &shown(4, 2, Some("c")));
    assert!(matches!(forked, Err(Error::Forked { .. })), "{forked:?}");
    let forked = witness.see_since(before.as_ref(), &shown(4, 3, Some("c")));
    assert!(matches!(forked, Err(Error::Forked { .. })), "{forked:?}");
    assert_eq!(witness.remembered().unwrap(), remembered(5, 2, Some("b")));
}

#[test]
fn the_first_primary_may_appear() {
    let dir = TempDir::new().unwrap();
    let witness = Witness::at(&dir.path().join("witness"));
    witness.see(&shown(1, 1, None)).unwrap();
    witness.see(&shown(2, 1, Some("a"))).unwrap();
    assert_eq!(witness.remembered().unwrap(), remembered(2, 1, Some("a")));
}

#[test]
fn a_person_may_accept_an_older_vault() {
    let dir = TempDir::new().unwrap();
    let witness = Witness::at(&dir.path().join("witness"));
    witness.see(&shown(9, 2, Some("b"))).unwrap();
    witness.accept(&shown(4, 1, Some("a"))).unwrap();
    assert_eq!(witness.remembered().unwrap(), remembered(4, 1, Some("a")));
    witness.see(&shown(5, 1, Some("a"))).unwrap();
}

#[test]
fn a_damaged_memory_is_an_error_and_never_no_memory() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("witness");
    let witness = Witness::at(&file);
    witness.see(&shown(9, 2, Some("b"))).unwrap();
    let good = fs::read(&file).unwrap();
    for bad in [&b""[..], b"{}", b"null", &good[..good.len() / 2]] {
        fs::write(&file, bad).unwrap();
        assert!(matches!(witness.remembered(), Err(Error::Damaged { .. })));
        assert!(matches!(witness.see(&shown(1, 1, None)), Err(Error::Damaged { .. })));
        assert_eq!(fs::read(&file).unwrap(), bad);
    }
    fs::write(&file, String::from_utf8(good).unwrap().replace("\"format\":1", "\"format\":2"))
        .unwrap();
    assert!(matches!(witness.remembered(), Err(Error::Damaged { .. })));
}

#[test]
fn a_write_that_was_cut_short_leaves_the_old_memory() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("witness");
    let witness = Witness::at(&file);
    witness.see(&shown(3, 1, Some("a"))).unwrap();
    // What a crash before the rename leaves behind.
    fs::write(dir.path().join("witness.tmp"), b"{\"form").unwrap();
    assert_eq!(witness.remembered().unwrap(), remembered(3, 1, Some("a")));
    witness.see(&shown(4, 1, Some("a"))).unwrap();
    assert_eq!(witness.remembered().unwrap(), remembered(4, 1, Some("a")));
}

#[test]
fn of_many_at_once_the_highest_stays() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("witness");
    std::thread::scope(|scope| {
        for worker in 0..8u64 {
            let file = &file;
            scope.spawn(move || {
                for step in 0..20 {
                    let number = step * 8 + worker + 1;
                    match Witness::at(file).see(&shown(number, 1, Some("a"))) {
                        Ok(()) | Err(Error::StateWentBack { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                    let now = Witness::at(file).remembered().unwrap().unwrap();
                    assert!(now.number >= number);
                }
            });
        }
    });
    assert_eq!(Witness::at(&file).remembered().unwrap(), remembered(160, 1, Some("a")));
}
