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
    damaged(writer.load());
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
