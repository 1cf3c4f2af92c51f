//! What a storage says it can do is tried before it is believed.

use crate::s3::{key, open, server_with_bucket};
use mainstay_storage::doubles::{Fault, Flaky, How, Memory, S3Kind, S3Server, Verb};
use mainstay_storage::probe::{Proved, Retention, Verdict, compare_and_set, retention};
use mainstay_storage::{Entry, Error, ErrorKind, Key, Local, Put, Storage};
use model::{Class, Classify};
use std::sync::Arc;
use tempfile::TempDir;

fn careless() -> (S3Server, Arc<dyn Storage>) {
    let server = S3Server::start(S3Kind::Careless).unwrap();
    server.make_bucket("bucket", false).unwrap();
    let storage = open(&server.endpoint(), "bucket/v");
    (server, storage)
}

#[test]
fn places_that_let_one_of_many_create_an_object_pass_and_are_left_clean() {
    let dir = TempDir::new().unwrap();
    let (server, _) = server_with_bucket();
    let bucket = open(&server.endpoint(), "bucket/v");
    let places: [Arc<dyn Storage>; 3] =
        [Arc::new(Memory::new()), Arc::new(Local::open(dir.path()).unwrap()), bucket];
    for place in places {
        for _ in 0..3 {
            assert_eq!(compare_and_set(&*place).unwrap(), Verdict::Holds, "{place:?}");
        }
        assert_eq!(place.list("").unwrap(), []);
    }
}

#[test]
fn a_server_that_takes_no_notice_of_conditions_is_found_out() {
    let (_server, storage) = careless();
    // The reason for the probe: nothing but trying tells.
    assert_eq!(storage.put_if_absent(&key("a"), b"1").unwrap(), Put::Created);
    assert_eq!(storage.put_if_absent(&key("a"), b"2").unwrap(), Put::Created);
    storage.delete(&key("a")).unwrap();
    match compare_and_set(&*storage).unwrap() {
        Verdict::Fails(reason) => assert!(reason.contains("second writer"), "{reason}"),
        Verdict::Holds => panic!("it passed"),
    }
    assert_eq!(storage.list("").unwrap(), []);
}

#[test]
fn state_is_not_written_where_the_probe_failed_and_all_else_goes_on() {
    let dir = TempDir::new().unwrap();
    let (_server, storage) = careless();
    let proved = Proved::new(storage.clone(), &dir.path().join("proof"));
    let error = proved.put_if_absent(&key("mainstay/state/1"), b"x").unwrap_err();
    assert_eq!((error.kind(), error.class()), (ErrorKind::Unfit, Class::Refused));
    assert!(error.to_string().contains(&storage.location()), "{error}");
    assert!(error.to_string().contains("second writer"), "{error}");
    assert!(error.hint().unwrap().contains("If-None-Match"), "{error}");
    assert!(!dir.path().join("proof").exists());
    proved.put(&key("data/1"), b"x").unwrap();
    assert_eq!(proved.read(&key("data/1")).unwrap(), b"x");
    assert_eq!(storage.list("").unwrap().len(), 1, "nothing of the state is there");
}

#[test]
fn a_proof_is_remembered_for_the_place_that_gave_it() {
    let dir = TempDir::new().unwrap();
    let memory = dir.path().join("deep/proof");
    let (server, _) = server_with_bucket();
    let proxy = mainstay_storage::doubles::HttpProxy::start(&server.address()).unwrap();
    let storage = open(&proxy.endpoint(), "bucket/v");
    let requests = |name: &str| {
        proxy.take();
        let proved = Proved::new(storage.clone(), &memory);
        assert_eq!(proved.put_if_absent(&key(name), b"x").unwrap(), Put::Created);
        proxy.take().len()
    };
    let first = requests("a");
    assert!((15..40).contains(&first), "{first}");
    assert_eq!(requests("b"), 1);
    std::fs::write(&memory, "s3://another").unwrap();
    assert!(requests("c") > 1);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 60 * 60);
    std::fs::File::options().write(true).open(&memory).unwrap().set_modified(old).unwrap();
    assert!(requests("d") > 1);
}

/// Lies as servers do, one lie each.
#[derive(Debug)]
struct Liar {
    inner: Memory,
    lie: Lie,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    /// Says that it exists, and overwrites all the same.
    Overwrites,
    /// Lets two at the same moment both create.
    Races,
    /// Its listing lags behind.
    ListsLate,
    /// Knows no conditions.
    Refuses,
}

impl Storage for Liar {
    fn location(&self) -> String {
        "liar".to_owned()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        self.inner.read(key)
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.inner.read_range(key, offset, length)
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.inner.size(key)
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        self.inner.put(key, bytes)
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        match self.lie {
            Lie::Refuses => Err(Error::new(ErrorKind::Failed, key, "NotImplemented")),
            Lie::Races if key.as_str().contains("race") => {
                self.inner.put(key, bytes)?;
                Ok(Put::Created)
            }
            Lie::Overwrites => {
                let result = self.inner.put_if_absent(key, bytes);
                self.inner.put(key, bytes)?;
                result
            }
            _ => self.inner.put_if_absent(key, bytes),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = self.inner.list(prefix)?;
        if self.lie == Lie::ListsLate {
            entries.pop();
        }
        Ok(entries)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.inner.delete(key)
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        Ok(None)
    }
}

#[test]
fn every_lie_is_found_out() {
    for (lie, part) in [
        (Lie::Overwrites, "changes an object"),
        (Lie::Races, "same moment"),
        (Lie::ListsLate, "listing"),
        (Lie::Refuses, "does not know conditional writes"),
    ] {
        let liar = Liar { inner: Memory::new(), lie };
        assert!(liar.needs_proof(), "a storage is not believed unless it says why");
        match compare_and_set(&liar).unwrap() {
            Verdict::Fails(reason) => assert!(reason.contains(part), "{lie:?}: {reason}"),
            Verdict::Holds => panic!("{lie:?} passed"),
        }
    }
}

#[test]
fn a_probe_that_could_not_be_made_is_neither_passed_nor_failed() {
    let flaky = Flaky::new(Arc::new(Memory::new()));
    flaky.plan(Fault::next(Verb::PutIfAbsent, How::Before(ErrorKind::Unavailable)));
    assert_eq!(compare_and_set(&flaky).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(compare_and_set(&flaky).unwrap(), Verdict::Holds);
    assert_eq!(retention(&flaky).unwrap(), Retention::None);
}
