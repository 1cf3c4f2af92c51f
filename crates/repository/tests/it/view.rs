//! The history as directories, asked as a kernel would ask, with no kernel in between.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the unexpected")]

use crate::rig::{self, Rig, noise, open, password};
use crate::trees::{Looks, archive, beyond_restic, looks, rich_tree, same};
use jiff::Timestamp;
use mainstay_repository as repository;
use model::progress::Silent;
use model::{Progress, SnapshotId};
use repository::view::{Attributes, Fault, Options, ROOT, Seek, Shelf, Shown, View};
use repository::{Error, Kdf, NodeKind, Repository, TreeOptions};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::doubles::{Fault as Broken, Flaky, How, Memory, Verb};
use storage::{ErrorKind, Storage};

/// A shelf with one service, whose points a test can change.
#[derive(Clone)]
struct Desk {
    repository: Repository,
    points: Arc<Mutex<Vec<Shown>>>,
}

impl Desk {
    fn new(repository: &Repository) -> Desk {
        Desk { repository: repository.clone(), points: Arc::default() }
    }

    fn add(&self, snapshot: SnapshotId, taken: &str) {
        let mut points = self.points.lock().unwrap();
        points.iter_mut().for_each(|point| point.latest = false);
        points.push(Shown { taken: taken.parse().unwrap(), snapshot, latest: true });
    }
}

impl Shelf for Desk {
    fn services(&self) -> Vec<String> {
        vec!["docs".to_owned(), "out of reach".to_owned()]
    }

    fn points(&self, service: &str) -> Result<(Repository, Vec<Shown>), Error> {
        match service {
            "docs" => Ok((self.repository.clone(), self.points.lock().unwrap().clone())),
            _ => Err(Error::NoRepository("there".to_owned())),
        }
    }
}

/// What was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Progress for Told {
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

const NOW: Options = Options { cache_bytes: 64 << 20, points_age: Duration::ZERO };

fn view(desk: &Desk) -> View {
    View::new(Box::new(desk.clone()), NOW, Arc::new(Silent))
}

/// What is at a path, held.
fn walk(view: &View, path: &Path) -> Result<Attributes, Fault> {
    let mut at = view.attributes(ROOT).unwrap();
    for part in path.iter() {
        at = view.lookup(at.number, part.as_bytes())?;
    }
    Ok(at)
}

/// The names in a directory, with their numbers and kinds.
fn list(view: &View, number: u64) -> Vec<(Vec<u8>, u64, NodeKind)> {
    let handle = view.open_dir(number).unwrap();
    let entries = view.listing(handle).unwrap();
    view.close(handle);
    assert!(matches!(view.listing(handle), Err(Fault::NotOpen)));
    entries.iter().map(|entry| (entry.name.clone(), entry.number, entry.kind)).collect()
}

fn names(view: &View, number: u64) -> Vec<String> {
    let named = list(view, number).into_iter().skip(2);
    named.map(|(name, ..)| String::from_utf8(name).unwrap()).collect()
}

fn content(view: &View, number: u64, step: usize) -> Result<Vec<u8>, Fault> {
    let handle = view.open(number)?;
    let mut content = Vec::new();
    loop {
        match view.read(handle, content.len() as u64, step) {
            Ok(part) if part.is_empty() => break,
            Ok(part) => content.extend(part),
            Err(e) => {
                view.close(handle);
                return Err(e);
            }
        }
    }
    view.close(handle);
    Ok(content)
}

/// As [`looks`] of a directory on disk.
fn looks_of(view: &View, root: &Attributes) -> BTreeMap<String, Looks> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut open = vec![(root.clone(), String::from("."))];
    while let Some((at, name)) = open.pop() {
        let mut linked_to = None;
        if at.links > 1 && at.kind != NodeKind::Dir {
            linked_to = Some(inodes.entry(at.number).or_insert_with(|| name.clone()).clone());
        }
        let xattrs = view.attribute_names(at.number).unwrap().into_iter().map(|name| {
            let value = view.attribute(at.number, name.as_bytes()).unwrap();
            (name.into_bytes(), value)
        });
        let kind = match at.kind {
            NodeKind::File => 0o100_000,
            NodeKind::Dir => 0o040_000,
            NodeKind::Symlink => 0o120_000,
            NodeKind::Dev => 0o060_000,
            NodeKind::CharDev => 0o020_000,
            NodeKind::Fifo => 0o010_000,
            NodeKind::Socket => 0o140_000,
            NodeKind::Irregular => panic!("irregular"),
        };
        let readable = crate::trees::is_root() || at.permissions & 0o400 != 0;
        let looks = Looks {
            mode: kind | at.permissions,
            owner: at.owner.unwrap(),
            mtime: (at.mtime.seconds, at.mtime.nanos.into()),
            device: at.device,
            target: (at.kind == NodeKind::Symlink)
                .then(|| OsString::from_vec(view.read_link(at.number).unwrap()).into()),
            xattrs: xattrs.collect(),
            linked_to,
            content: (at.kind == NodeKind::File && readable).then(|| {
                let content = content(view, at.number, 100_000).unwrap();
                (at.size, hex::encode(Sha256::digest(content)))
            }),
        };
        found.insert(name.clone(), looks);
        if at.kind == NodeKind::Dir {
            // Of its entries, what a listing says is what looking them up says.
            for (entry, number, kind) in list(view, at.number).into_iter().skip(2).rev() {
                let below = view.lookup(at.number, &entry).unwrap();
                assert_eq!((number, kind), (below.number, below.kind));
                open.push((below, format!("{name}/{}", entry.escape_ascii())));
            }
        }
    }
    found
}

#[test]
fn a_tree_with_one_of_each_is_shown_as_it_was() {
    let rig = Rig::new();
    let source = rig.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    rich_tree(&source);
    beyond_restic(&source);
    let (_, id) = archive(&rig, &source, None, &TreeOptions::default());
    let desk = Desk::new(&rig.repository);
    desk.add(id, "2026-11-20T10:00:00.75Z");
    let view = view(&desk);
    let path = Path::new("docs/2026-11-20T10:00:00Z").join(source.strip_prefix("/").unwrap());
    let root = walk(&view, &path).unwrap();
    same(&looks(&source), &looks_of(&view, &root));

    // All of it is let go again.
    assert!(view.held() > 25);
    let mut open = vec![ROOT];
    let mut seen = BTreeSet::new();
    while let Some(number) = open.pop() {
        if !seen.insert(number) {
            continue;
        }
        if view.attributes(number).is_ok_and(|at| at.kind == NodeKind::Dir) {
            open.extend(list(&view, number).into_iter().skip(2).map(|(_, number, _)| number));
        }
        if number != ROOT {
            view.forget(number, 1000);
        }
    }
    // What `lookup` gave out under these numbers was all there was, but for directories whose
    // parents went first; asking for those is no harm.
    assert_eq!(view.held(), 1);
    assert!(matches!(view.attributes(root.number), Err(Fault::NotFound)));
}

#[test]
fn points_are_found_by_time_by_id_and_as_the_latest() {
    let rig = Rig::new();
    let ids: Vec<_> = (0..4).map(|n| rig::back_up(&rig.repository, &noise(n, 1000))).collect();
    let desk = Desk::new(&rig.repository);
    let view = view(&desk);
    assert_eq!(names(&view, ROOT), ["docs", "out of reach"]);
    let docs = walk(&view, Path::new("docs")).unwrap().number;
    assert_eq!(names(&view, docs), ["ids"]);
    assert!(matches!(view.lookup(docs, b"latest"), Err(Fault::NotFound)));

    desk.add(ids[0], "2026-11-20T10:00:00Z");
    desk.add(ids[1], "2026-11-20T10:00:00.5Z");
    desk.add(ids[2], "2025-01-01T00:00:00Z");
    let times = ["2025-01-01T00:00:00Z", "2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z-2"];
    assert_eq!(names(&view, docs), [&times[..], &["latest", "ids"]].concat());
    let latest = view.lookup(docs, b"latest").unwrap();
    assert_eq!(latest.kind, NodeKind::Symlink);
    assert_eq!(view.read_link(latest.number).unwrap(), times[0].as_bytes());
    desk.add(ids[3], "2026-11-21T10:00:00Z");
    assert_eq!(view.read_link(latest.number).unwrap(), b"2026-11-21T10:00:00Z");

    let by_id = view.lookup(docs, b"ids").unwrap().number;
    assert_eq!(names(&view, by_id).len(), 4);
    for (id, time) in [(ids[0], times[1]), (ids[1], times[2]), (ids[2], times[0])] {
        for name in [id.short(), id.to_string()] {
            let link = view.lookup(by_id, name.as_bytes()).unwrap();
            let target = String::from_utf8(view.read_link(link.number).unwrap()).unwrap();
            assert_eq!(target, format!("../{time}"));
            assert_eq!(link.size, target.len() as u64);
        }
        let file = walk(&view, &Path::new("docs").join(time).join("file")).unwrap();
        assert_eq!(
            content(&view, file.number, 300).unwrap(),
            rig::read_back(&rig.repository, id).unwrap()
        );
    }
    // A link to where it says; `..` of everything is where it was found.
    let parent = |number| list(&view, number)[1].1;
    let point = walk(&view, &Path::new("docs").join(times[0])).unwrap();
    assert_eq!((parent(point.number), parent(by_id), parent(docs)), (docs, docs, ROOT));
    assert_eq!(point.mtime.timestamp(), "2025-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    for nothing in ["nothing", "2026-11-20", "docs", ""] {
        assert!(matches!(view.lookup(docs, nothing.as_bytes()), Err(Fault::NotFound)));
        assert!(matches!(
            view.lookup(ROOT, format!("x{nothing}").as_bytes()),
            Err(Fault::NotFound)
        ));
        assert!(matches!(view.lookup(by_id, nothing.as_bytes()), Err(Fault::NotFound)));
    }
    assert!(matches!(view.lookup(docs, b"\xff"), Err(Fault::NotFound)));
    assert!(matches!(view.lookup(latest.number, b"x"), Err(Fault::NotADirectory)));
    assert!(matches!(view.open_dir(latest.number), Err(Fault::NotADirectory)));
    assert!(matches!(view.open(docs), Err(Fault::IsADirectory)));
    assert!(matches!(view.read_link(docs), Err(Fault::Invalid)));
    assert!(matches!(view.read(99, 0, 10), Err(Fault::NotOpen)));
    assert!(matches!(view.attributes(99), Err(Fault::NotFound)));
}

/// One service that cannot be reached takes nothing from the others.
#[test]
fn a_service_out_of_reach_is_told_once() {
    let rig = Rig::new();
    let desk = Desk::new(&rig.repository);
    desk.add(rig::back_up(&rig.repository, b"content"), "2026-11-20T10:00:00Z");
    let told = Told::default();
    let view = View::new(Box::new(desk), NOW, Arc::new(told.clone()));
    let away = walk(&view, Path::new("out of reach")).unwrap().number;
    for _ in 0..3 {
        assert!(matches!(view.open_dir(away), Err(Fault::Unreadable)));
        assert!(matches!(view.lookup(away, b"latest"), Err(Fault::Unreadable)));
    }
    assert_eq!(told.0.lock().unwrap().len(), 1, "{told:?}", told = told.0);
    walk(&view, Path::new("docs/2026-11-20T10:00:00Z/file")).unwrap();
}

/// Any part of a file, by any number of readers, from a cache that is smaller than it.
#[test]
fn any_part_of_a_file_is_read() {
    let rig = Rig::new();
    let mut whole = noise(5, 20 << 20);
    whole.extend(vec![0; 3 << 20]);
    whole.extend(noise(6, 4 << 20));
    let desk = Desk::new(&rig.repository);
    desk.add(rig::back_up(&rig.repository, &whole), "2026-11-20T10:00:00Z");
    let options = Options { cache_bytes: 4 << 20, ..NOW };
    let view = View::new(Box::new(desk), options, Arc::new(Silent));
    let file = walk(&view, Path::new("docs/2026-11-20T10:00:00Z/file")).unwrap();
    assert_eq!(file.size, whole.len() as u64);
    let handle = view.open(file.number).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4_u64 {
            let (view, whole) = (&view, &whole);
            scope.spawn(move || {
                for part in noise(seed, 8 * 60).chunks(8) {
                    let random = u64::from_le_bytes(part.try_into().unwrap());
                    let number = |n: u64| usize::try_from(n).unwrap();
                    let from = number(random % (whole.len() as u64 + 1000));
                    let length = number((random >> 40) % 700_000);
                    let end = whole.len().min(from + length);
                    let expected = whole.get(from..end).unwrap_or_default();
                    assert!(view.read(handle, from as u64, length).unwrap() == expected);
                }
            });
        }
    });
    assert!(view.read(handle, u64::MAX, 100).unwrap().is_empty());
    assert!(view.read(handle, 0, 0).unwrap().is_empty());
    view.close(handle);
    assert!(matches!(view.read(handle, 0, 1), Err(Fault::NotOpen)));
    assert!(content(&view, file.number, 131_072).unwrap() == whole);
}

#[test]
fn holes_are_found_without_reading_them() {
    let rig = Rig::new();
    let source = rig.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sparse.write_all_at(&noise(1, 3_000_000), 40 << 20).unwrap();
    fs::write(source.join("full"), noise(2, 3_000_000)).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    let (_, id) = archive(&rig, &source, None, &TreeOptions::default());
    let desk = Desk::new(&rig.repository);
    desk.add(id, "2026-11-20T10:00:00Z");
    let view = view(&desk);
    let path = Path::new("docs/2026-11-20T10:00:00Z").join(source.strip_prefix("/").unwrap());
    let open = |name: &str| view.open(walk(&view, &path.join(name)).unwrap().number).unwrap();

    // `cp` and `tar` look for holes where a file has fewer blocks than bytes.
    let allocated = |name: &str| walk(&view, &path.join(name)).unwrap().allocated;
    assert!((3_000_000..20_000_000).contains(&allocated("sparse")), "{}", allocated("sparse"));
    assert_eq!((allocated("full"), allocated("empty")), (3_000_000, 0));
    let handle = open("sparse");
    assert_eq!(view.seek(handle, 0, Seek::Hole).unwrap(), 0);
    let data = view.seek(handle, 0, Seek::Data).unwrap();
    assert!((32 << 20..=40 << 20).contains(&data), "{data}");
    let hole = view.seek(handle, data, Seek::Hole).unwrap();
    assert!(((40 << 20) + 3_000_000..60 << 20).contains(&hole), "{hole}");
    assert_eq!(view.seek(handle, hole + 5, Seek::Hole).unwrap(), hole + 5);
    // What it calls holes is zeros.
    for at in [0, 20 << 20, hole, 90 << 20] {
        assert!(view.read(handle, at, 100_000).unwrap().iter().all(|byte| *byte == 0));
    }
    assert!(matches!(view.seek(handle, 100 << 20, Seek::Hole), Err(Fault::NoSuchOffset)));
    let handle = open("full");
    assert_eq!(view.seek(handle, 7, Seek::Data).unwrap(), 7);
    assert_eq!(view.seek(handle, 7, Seek::Hole).unwrap(), 3_000_000);
    let handle = open("empty");
    assert!(matches!(view.seek(handle, 0, Seek::Data), Err(Fault::NoSuchOffset)));
}

/// Damage is an error where it is, told by name, and not one wrong byte.
#[test]
fn what_is_damaged_is_an_error_and_the_rest_is_shown() {
    let memory = Arc::new(Memory::new());
    let repository = Repository::create(memory.clone(), &password(), Kdf::Fast).unwrap();
    let good = rig::back_up(&repository, &noise(1, 100_000));
    let bad = rig::back_up(&repository, &noise(2, 100_000));
    let blob = repository::BlobId::of(&noise(2, 100_000));
    let at = repository.locate(repository::BlobKind::Data, &blob).unwrap();
    let pack = memory.list("data").unwrap().into_iter().map(|entry| entry.key);
    let pack = pack.into_iter().find(|key| key.name() == at.pack.to_hex()).unwrap();
    let whole = memory.read(&pack).unwrap();
    let mut bytes = whole.clone();
    bytes[at.offset as usize + 99] ^= 1;
    memory.put(&pack, &bytes).unwrap();

    let desk = Desk::new(&open(memory.clone()));
    desk.add(good, "2026-11-20T10:00:00Z");
    desk.add(bad, "2026-11-20T11:00:00Z");
    let told = Told::default();
    let view = View::new(Box::new(desk), NOW, Arc::new(told.clone()));
    let file =
        |hour| walk(&view, Path::new(&format!("docs/2026-11-20T{hour}:00:00Z/file"))).unwrap();
    for _ in 0..3 {
        assert!(matches!(content(&view, file(11).number, 4096), Err(Fault::Unreadable)));
    }
    assert!(content(&view, file(10).number, 4096).unwrap() == noise(1, 100_000));
    let told = told.0.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&blob.to_hex()), "{told:?}");
    // Healed, it is read: a failure is not remembered.
    memory.put(&pack, &whole).unwrap();
    assert!(content(&view, file(11).number, 4096).unwrap() == noise(2, 100_000));
}

/// A vault that does not answer for a while: what was listed stays, and all is well afterwards.
#[test]
fn an_outage_is_an_error_and_passes() {
    let inner = Arc::new(Memory::new());
    let repository = Repository::create(inner.clone(), &password(), Kdf::Fast).unwrap();
    let id = rig::back_up(&repository, &noise(1, 100_000));
    let flaky = Arc::new(Flaky::new(inner));
    let desk = Desk::new(&open(flaky.clone()));
    desk.add(id, "2026-11-20T10:00:00Z");
    let view = view(&desk);
    let file = walk(&view, Path::new("docs/2026-11-20T10:00:00Z/file")).unwrap();
    flaky.plan(Broken::every(Verb::ReadRange, How::Before(ErrorKind::Unavailable)));
    assert!(matches!(content(&view, file.number, 4096), Err(Fault::Unreadable)));
    flaky.heal();
    assert!(content(&view, file.number, 4096).unwrap() == noise(1, 100_000));
}
