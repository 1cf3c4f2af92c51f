//! Keys and the making of repositories, in both directions with restic.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

use crate::rig::{self, PASSWORD, Rig, check, in_time, password};
use mainstay_repository::{Error, Kdf, Repository};
use model::{Class, Classify, Secret};
use std::fs;
use std::sync::{Arc, Barrier};
use storage::doubles::{Fault, Flaky, How, Memory, Verb};
use storage::{ErrorKind, Key, Local, Storage};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

#[test]
fn restic_opens_with_keys_that_we_made() {
    let rig = Rig::new();
    rig.restic(&["cat", "config"]);
    rig.repository.add_key(&secret("another one"), Kdf::Slow).unwrap();
    assert_eq!(rig.repository.keys().unwrap().len(), 2);
    let output = rig::restic_command(&rig.path(), &["cat", "config"])
        .env("RESTIC_PASSWORD", "another one")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let wrong = rig::restic_command(&rig.path(), &["cat", "config"])
        .env("RESTIC_PASSWORD", "wrong")
        .output()
        .unwrap();
    assert!(!wrong.status.success());
}

#[test]
fn we_open_with_keys_that_restic_made() {
    let rig = Rig::new();
    let file = rig.dir.path().join("password");
    fs::write(&file, "made by restic").unwrap();
    rig.restic(&["key", "add", "--new-password-file", file.to_str().unwrap()]);
    let storage: Arc<dyn Storage> = Arc::new(Local::open(rig.path()).unwrap());
    let opened = Repository::open(storage.clone(), &secret("made by restic")).unwrap();
    assert_eq!(opened.id(), rig.repository.id());
    assert_eq!(opened.keys().unwrap().len(), 2);
    let error = Repository::open(storage, &secret("neither")).unwrap_err();
    assert_eq!(error.class(), Class::WrongPassword);
    assert!(!error.to_string().contains("neither"));
}

#[test]
fn what_is_no_repository_is_told_apart() {
    let dir = tempfile::TempDir::new().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("nothing")] {
        let storage: Arc<dyn Storage> = Arc::new(Local::open(path).unwrap());
        assert!(!Repository::exists(&*storage).unwrap());
        let error = Repository::open(storage, &password()).unwrap_err();
        assert_eq!(error.class(), Class::NoRepository, "{error}");
    }
}

#[test]
fn of_many_that_create_one_succeeds() {
    for _ in 0..5 {
        let storage: Arc<dyn Storage> = Arc::new(Memory::new());
        let start = Barrier::new(8);
        let won: Vec<usize> = std::thread::scope(|scope| {
            let create = |i: usize| {
                let (storage, start) = (storage.clone(), &start);
                move || {
                    start.wait();
                    match Repository::create(storage, &secret(&format!("password {i}")), Kdf::Fast)
                    {
                        Ok(_) => Some(i),
                        Err(Error::Exists(_)) => None,
                        Err(e) => panic!("{e}"),
                    }
                }
            };
            let threads: Vec<_> = (0..8).map(|i| scope.spawn(create(i))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "{won:?}");
        let repository =
            Repository::open(storage.clone(), &secret(&format!("password {}", won[0]))).unwrap();
        assert_eq!(repository.keys().unwrap().len(), 1, "keys of the others were left");
        assert_eq!(check(&repository).errors, Vec::<String>::new());
    }
}

#[test]
fn what_an_interrupted_create_left_is_in_nobodys_way() {
    for how in [How::Before(ErrorKind::Unavailable), How::After(ErrorKind::Unavailable)] {
        for n in 1.. {
            let memory: Arc<dyn Storage> = Arc::new(Memory::new());
            let flaky = Arc::new(Flaky::new(memory.clone()));
            flaky.plan(Fault::nth(n, how));
            let created = Repository::create(flaky.clone(), &password(), Kdf::Fast);
            if flaky.fired() == 0 {
                created.unwrap();
                assert!(n > 5, "the fault was never met");
                break;
            }
            flaky.heal();
            match Repository::create(memory.clone(), &password(), Kdf::Fast) {
                Ok(_) => assert!(created.is_err(), "{how:?} {n}: it was there already"),
                Err(Error::Exists(_)) => {}
                Err(e) => panic!("{how:?} {n}: {e}"),
            }
            let opened = Repository::open(memory, &password());
            opened.unwrap_or_else(|e| panic!("{how:?} at call {n}: {e}"));
        }
    }
}

#[test]
fn a_repository_that_lost_its_config_is_not_overwritten() {
    let rig = Rig::new();
    rig::back_up(&rig.repository, b"content");
    fs::remove_file(rig.path().join("config")).unwrap();
    let storage = Arc::new(Local::open(rig.path()).unwrap());
    let error = Repository::create(storage, &password(), Kdf::Fast).unwrap_err();
    assert_eq!(error.class(), Class::Corrupt, "{error}");
    assert!(!rig.path().join("config").exists());
}

#[test]
fn a_hostile_key_file_keeps_nobody_out() {
    let rig = Rig::new();
    let storage: Arc<dyn Storage> = Arc::new(Local::open(rig.path()).unwrap());
    let good = rig::files_below(&rig.path().join("keys")).pop().unwrap();
    let json = fs::read_to_string(rig.path().join("keys").join(good)).unwrap();
    for hostile in [
        json.replace("\"N\":1024", "\"N\":2147483648"),
        json.replace("\"r\":8", "\"r\":4294967295"),
        json.replace("\"p\":1", "\"p\":4294967295"),
        json.replace("scrypt", "something"),
        "{}".to_owned(),
        String::new(),
    ] {
        assert_ne!(hostile, json);
        let id = mainstay_repository::format::KeyId::of(hostile.as_bytes());
        storage.put(&Key::new(format!("keys/{id}")).unwrap(), hostile.as_bytes()).unwrap();
    }
    let opened = in_time({
        let storage = storage.clone();
        move || Repository::open(storage, &password()).unwrap()
    });
    assert!(opened.keys().is_err(), "damaged keys are named");
    assert_eq!(check(&opened).errors.len(), 2, "{:?}", check(&opened).errors);
}

#[test]
fn a_fast_key_opens_at_once_and_a_slow_one_does_not() {
    let memory: Arc<dyn Storage> = Arc::new(Memory::new());
    let repository = Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    let key = memory.list("keys").unwrap().pop().unwrap();
    let file = |key: &Key| -> serde_json::Value {
        serde_json::from_slice(&memory.read(key).unwrap()).unwrap()
    };
    assert_eq!(file(&key.key)["N"], 1024);
    let slow = repository.add_key(&secret(PASSWORD), Kdf::Slow).unwrap();
    let slow = file(&Key::new(format!("keys/{slow}")).unwrap());
    assert_eq!((&slow["N"], &slow["r"]), (&32768.into(), &8.into()));
}

#[test]
fn a_storage_that_does_not_answer_is_no_wrong_password() {
    let memory: Arc<dyn Storage> = Arc::new(Memory::new());
    Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    let flaky = Arc::new(Flaky::new(memory));
    for verb in [Verb::Read, Verb::List] {
        flaky.plan(Fault::every(verb, How::Before(ErrorKind::Unavailable)));
        let error = Repository::open(flaky.clone(), &password()).unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
        flaky.heal();
    }
    flaky.plan(Fault::every(Verb::Read, How::Before(ErrorKind::Unavailable)).on("keys"));
    let error = Repository::open(flaky, &password()).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
}
