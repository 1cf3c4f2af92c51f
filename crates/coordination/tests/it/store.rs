//! One store, nobody else: what is written, what is refused.

use crate::support::{REPOSITORY, ToySeal, join, key, member, service, store};
use jiff::Timestamp;
use mainstay_coordination::{Error, StateStore, Versioned};
use model::state::Refusal;
use model::{Role, Seal, ServiceName, ServiceState};
use std::sync::Arc;
use storage::{Key, Local, Storage};
use tempfile::TempDir;

fn vault() -> (TempDir, Arc<dyn Storage>) {
    let dir = TempDir::new().unwrap();
    let storage = Arc::new(Local::open(dir.path()).unwrap());
    (dir, storage)
}

fn damaged(result: Result<Versioned, Error>) -> String {
    match result {
        Err(e @ Error::Damaged { .. }) => e.to_string(),
        other => panic!("expected damage, got {other:?}"),
    }
}

#[test]
fn an_empty_vault_holds_a_new_state() {
    let (_dir, storage) = vault();
    let loaded = store(storage).load().unwrap();
    assert_eq!(loaded.number, 0);
    assert_eq!(loaded.state, ServiceState::new(REPOSITORY.to_owned(), service()));
}

#[test]
fn an_update_is_what_the_next_load_shows() {
    let (_dir, storage) = vault();
    let (first, role) = store(storage.clone()).update(join("a")).unwrap();
    assert_eq!((first.number, role), (1, Role::Standby));
    let (second, _) = store(storage.clone()).update(join("b")).unwrap();
    assert_eq!(second.number, 2);
    let loaded = store(storage).load().unwrap();
    assert_eq!(loaded, second);
    assert_eq!(loaded.state.members.len(), 2);
}

#[test]
fn a_transition_that_changes_nothing_stores_nothing() {
    let (_dir, storage) = vault();
    let store = store(storage.clone());
    store.update(join("a")).unwrap();
    let (same, _) = store.update(join("a")).unwrap();
    assert_eq!(same.number, 1);
    assert_eq!(storage.list("mainstay").unwrap().len(), 1);
}

#[test]
fn a_refused_transition_stores_nothing() {
    let (_dir, storage) = vault();
    let store = store(storage.clone());
    let refused = store.update(|state| state.importing(&member("nobody")));
    assert!(matches!(refused, Err(Error::Refused(Refusal::NoSuchMember(_)))), "{refused:?}");
    assert_eq!(storage.list("").unwrap(), []);
}

#[test]
fn the_newest_64_stay() {
    let (_dir, storage) = vault();
    let store = store(storage.clone());
    for n in 0..70 {
        store.update(join(&format!("m{n}"))).unwrap();
    }
    let keys: Vec<Key> =
        storage.list("mainstay/state").unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, (7..=70).map(key).collect::<Vec<_>>());
    assert_eq!(store.load().unwrap().state.members.len(), 70);
}

#[test]
fn a_damaged_newest_object_is_an_error_and_not_the_one_before() {
    let (_dir, storage) = vault();
    let intact = store(storage.clone());
    intact.update(join("a")).unwrap();
    intact.update(join("b")).unwrap();
    let good = storage.read(&key(2)).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        storage.put(&key(2), &bad).unwrap();
        let message = damaged(store(storage.clone()).load());
        assert!(message.contains("mainstay/state/00000000000000000002"), "{message}");
    }
    for length in [0, 1, 7, 8, 9, good.len() - 1] {
        storage.put(&key(2), &good[..length]).unwrap();
        damaged(store(storage.clone()).load());
        assert!(store(storage.clone()).update(join("c")).is_err());
    }
    assert_eq!(storage.list("").unwrap().len(), 2, "nothing was built on damage");
}

#[test]
fn a_state_copied_from_another_number_is_refused() {
    let (_dir, storage) = vault();
    let writer = store(storage.clone());
    writer.update(join("a")).unwrap();
    writer.update(join("b")).unwrap();
    storage.put(&key(3), &storage.read(&key(1)).unwrap()).unwrap();
    let message = damaged(store(storage).load());
    assert!(message.ends_with("it is the state of number 1"), "{message}");
}

#[test]
fn a_state_copied_from_another_service_or_repository_or_key_is_refused() {
    let (_dir, storage) = vault();
    store(storage.clone()).update(join("a")).unwrap();
    let open = |key: u8, repository: &str, service: &str| {
        let service = ServiceName::new(service).unwrap();
        StateStore::new(storage.clone(), Arc::new(ToySeal(key)), repository, service).load()
    };
    assert!(open(1, REPOSITORY, "shop").is_ok());
    assert!(damaged(open(1, REPOSITORY, "docs")).ends_with("it belongs to service shop"));
    assert!(damaged(open(1, "other", "shop")).ends_with("it belongs to repository 5f8e7b"));
    assert!(damaged(open(2, REPOSITORY, "shop")).contains("another key"));
}

#[test]
fn a_later_format_is_named_as_such() {
    let (_dir, storage) = vault();
    let text = br#"{"number":1,"write":"00","state":{"format":7,"shape":"unknown"}}"#;
    storage.put(&key(1), &ToySeal(1).seal(text)).unwrap();
    assert!(matches!(store(storage).load(), Err(Error::TooNew(7))));
}

#[test]
fn a_field_that_is_not_known_is_refused_because_it_would_be_dropped() {
    let (_dir, storage) = vault();
    store(storage.clone()).update(join("a")).unwrap();
    let plain = ToySeal(1).open(&storage.read(&key(1)).unwrap()).unwrap();
    let text = String::from_utf8(plain).unwrap();
    for (from, to) in [
        ("\"format\":1", "\"format\":1,\"later\":true"),
        ("\"role\":\"standby\"", "\"role\":\"standby\",\"later\":true"),
        ("\"number\":1", "\"number\":1,\"later\":true"),
    ] {
        assert!(text.contains(from), "{text}");
        let later = text.replacen(from, to, 1);
        storage.put(&key(1), &ToySeal(1).seal(later.as_bytes())).unwrap();
        assert!(damaged(store(storage.clone()).load()).contains("later"));
    }
}

#[test]
fn what_else_lies_in_the_directory_is_left_alone() {
    let (_dir, storage) = vault();
    let writer = store(storage.clone());
    writer.update(join("a")).unwrap();
    for stray in ["mainstay/state/notes", "mainstay/state/2", "mainstay/state/old/3"] {
        storage.put(&Key::new(stray).unwrap(), b"x").unwrap();
    }
    assert_eq!(writer.load().unwrap().number, 1);
    let huge = Key::new("mainstay/state/99999999999999999999").unwrap();
    storage.put(&huge, b"x").unwrap();
    assert_eq!(writer.load().unwrap().number, 1);
    let strangers = writer.strangers().unwrap();
    assert!(strangers.len() == 1 && strangers[0].ends_with(huge.as_str()), "{strangers:?}");
}

/// Who can add objects, but has not the key, makes nobody believe that there is no state any more, or
/// that it is damaged.
#[test]
fn what_no_writer_can_have_stored_is_no_state() {
    for before in [1, 3, 70] {
        for strays in [&[1 << 60][..], &[1000, 1001, 1002], &[before + 65], &[200, 1 << 40]] {
            let (_dir, storage) = vault();
            let writer = store(storage.clone());
            for n in 0..before {
                writer.update(join(&format!("m{n}"))).unwrap();
            }
            for stray in strays {
                // Nothing, and a state of another number.
                let bytes =
                    if stray % 2 == 0 { Vec::new() } else { storage.read(&key(before)).unwrap() };
                storage.put(&key(*stray), &bytes).unwrap();
            }
            // Who had it open, and who opens it now.
            for reader in [&writer, &store(storage.clone())] {
                let loaded = reader.load().unwrap();
                assert_eq!((loaded.number, loaded.state.members.len() as u64), (before, before));
                assert_eq!(reader.strangers().unwrap().len(), strays.len());
            }
            let (next, _) = store(storage.clone()).update(join("next")).unwrap();
            assert_eq!(next.number, before + 1);
            assert_eq!(writer.load().unwrap().number, before + 1);
            // One that is added meanwhile makes no update fail either.
            let mut added = false;
            let (last, _) = writer
                .update(|state| {
                    if !std::mem::replace(&mut added, true) {
                        storage.put(&key(1 << 50), b"x").unwrap();
                    }
                    state.join(&member("last"), Role::Standby, Timestamp::UNIX_EPOCH)
                })
                .unwrap();
            assert_eq!(last.number, before + 2);
            // Nobody removes them but a person.
            assert_eq!(writer.strangers().unwrap().len(), strays.len() + 1);
        }
    }
}

#[test]
fn what_a_writer_can_have_stored_is_never_passed_over() {
    // The next one, one within the window, one before which there is nothing at all.
    for (states, stray) in [(3, 4), (3, 67), (70, 134), (0, 1 << 60), (0, 1)] {
        let (_dir, storage) = vault();
        for n in 0..states {
            store(storage.clone()).update(join(&format!("m{n}"))).unwrap();
        }
        storage.put(&key(stray), b"x").unwrap();
        let message = damaged(store(storage.clone()).load());
        assert!(message.contains(&format!("{stray:020}")), "{message}");
    }
    // Somebody has removed the states before it, but it is one, and the newest one is torn.
    let (_dir, storage) = vault();
    for n in 0..100 {
        store(storage.clone()).update(join(&format!("m{n}"))).unwrap();
    }
    let early = storage.read(&key(37)).unwrap();
    for number in 37..=98 {
        storage.delete(&key(number)).unwrap();
    }
    storage.put(&key(20), &early).unwrap();
    assert_eq!(store(storage.clone()).load().unwrap().number, 100, "it is whole, wherever it is");
    storage.put(&key(100), b"torn").unwrap();
    let message = damaged(store(storage.clone()).load());
    assert!(message.contains(&format!("{:020}", 100)), "{message}");
}

#[test]
fn state_that_vanishes_under_a_store_is_no_new_service() {
    let (dir, storage) = vault();
    let writer = store(storage.clone());
    writer.update(join("a")).unwrap();
    writer.update(join("b")).unwrap();
    std::fs::rename(dir.path().join("mainstay"), dir.path().join("aside")).unwrap();
    let loaded = writer.load();
    assert!(matches!(loaded, Err(Error::Vanished { shown: 0, seen: 2, .. })), "{loaded:?}");
    assert!(writer.update(join("c")).is_err());
    assert_eq!(storage.list("mainstay").unwrap(), []);
    std::fs::rename(dir.path().join("aside"), dir.path().join("mainstay")).unwrap();
    assert_eq!(writer.load().unwrap().number, 2);
}

#[test]
fn a_disk_unmounted_between_load_and_store_gets_no_state() {
    let (dir, storage) = vault();
    let writer = store(storage.clone());
    writer.update(join("a")).unwrap();
    let mut unmounted = false;
    let result = writer.update(|state| {
        if !unmounted {
            std::fs::rename(dir.path().join("mainstay"), dir.path().join("aside")).unwrap();
            unmounted = true;
        }
        state.join(&member("b"), Role::Standby, Timestamp::UNIX_EPOCH)
    });
    assert!(matches!(result, Err(Error::Vanished { shown: 0, seen: 1, .. })), "{result:?}");
    assert_eq!(storage.list("mainstay").unwrap(), [], "the object that was put was removed");
}
