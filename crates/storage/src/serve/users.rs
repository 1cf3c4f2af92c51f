//! Who may come in: a file of users, each with rights, paths, and the hash of a token.
//!
//! Tokens are generated, 160 bits, and never chosen. So a plain SHA-256 of one is as hard to turn
//! back as the token is to guess, nothing needs the slow derivation that chosen passwords need, and
//! a request costs a hash and not half a second.

use super::route::Refusal;
use crate::protocol::Rights;
use crate::{Error, ErrorKind, Key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, StatusCode};
use model::Secret;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// What stands before the hash, should there ever be another.
const SCHEME: &str = "sha256$";

/// Somebody who may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// What they may do.
    pub rights: Rights,
    /// Below which paths; all if there is none.
    pub paths: Vec<Key>,
    hash: [u8; 32],
}

impl User {
    /// A user with a new token, which nobody sees again.
    pub fn generate(name: &str, rights: Rights, paths: Vec<Key>) -> Result<(User, Secret), Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            let message = "a user's name has letters, digits, '.', '_', '-' and '@'";
            return Err(Error::new(ErrorKind::Invalid, name, message));
        }
        let mut random = [0; 20];
        getrandom::fill(&mut random)
            .map_err(|e| Error::new(ErrorKind::Failed, name, format!("no random bytes: {e}")))?;
        let token = Secret::new(hex::encode(random));
        let hash = Sha256::digest(token.expose()).into();
        Ok((User { name: name.to_owned(), rights, paths, hash }, token))
    }

    /// The line of a user file.
    pub fn line(&self) -> String {
        let paths: Vec<&str> = self.paths.iter().map(Key::as_str).collect();
        let paths = if paths.is_empty() { "/".to_owned() } else { paths.join(",") };
        let User { name, rights, hash, .. } = self;
        format!("{name}:{}:{paths}:{SCHEME}{}", rights.name(), hex::encode(hash))
    }

    fn parse(line: &str) -> Result<User, &'static str> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, rights, paths, hash] = fields.as_slice() else {
            return Err("it is not NAME:RIGHTS:PATHS:HASH");
        };
        let rights = Rights::named(rights).ok_or("the rights are read, append or full")?;
        let paths = match *paths {
            "/" => Vec::new(),
            // None would mean all.
            "" => return Err("it names no path"),
            some => {
                let keys = some.split(',').map(|path| Key::new(path.trim_matches('/')));
                keys.collect::<Result<_, _>>().map_err(|_| "one of the paths is none")?
            }
        };
        let mut bytes = [0; 32];
        hash.strip_prefix(SCHEME)
            .and_then(|hex| hex::decode_to_slice(hex, &mut bytes).ok())
            .ok_or("the hash is no sha256$ and 64 hex digits")?;
        Ok(User { name: (*name).to_owned(), rights, paths, hash: bytes })
    }

    /// Whether a key or prefix is theirs.
    pub(crate) fn may_see(&self, place: &str) -> bool {
        let below = |path: &Key| {
            place
                .strip_prefix(path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.paths.is_empty() || self.paths.iter().any(below)
    }
}

/// The users of a file. It is read again when it changes.
#[derive(Debug)]
pub struct Users {
    file: PathBuf,
    read: Mutex<(Stamp, Arc<Vec<User>>)>,
}

/// What shows that a file is another than before.
type Stamp = (Option<SystemTime>, u64, u64);

impl Users {
    /// Reads a file.
    pub fn open(file: &Path) -> Result<Users, Error> {
        let read = Mutex::new(load(file)?);
        Ok(Users { file: file.to_owned(), read })
    }

    /// All of them, as the file has them now.
    pub fn all(&self) -> Result<Arc<Vec<User>>, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that cannot be read any more lets nobody in: somebody may have been removed.
        if stamp(&self.file)? != read.0 {
            *read = load(&self.file)?;
        }
        Ok(read.1.clone())
    }

    /// The user who sent this.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<User, Refusal> {
        let refuse = |why: &str| Refusal::new(StatusCode::UNAUTHORIZED, why);
        let given = headers.get(AUTHORIZATION).ok_or_else(|| refuse("a user is needed"))?;
        let (name, token) = credentials(given.as_bytes())
            .ok_or_else(|| refuse("only basic authentication is known"))?;
        let users = self
            .all()
            .map_err(|e| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("no users: {e}")))?;
        let hash: [u8; 32] = Sha256::digest(token.expose()).into();
        let user = users.iter().find(|user| user.name == name && same(&user.hash, &hash));
        user.cloned().ok_or_else(|| refuse("this user is unknown, or has another token"))
    }
}

fn stamp(file: &Path) -> Result<Stamp, Error> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(file).map_err(|e| Error::io(file.display(), "look at", e))?;
    Ok((meta.modified().ok(), meta.len(), meta.ino()))
}

fn load(file: &Path) -> Result<(Stamp, Arc<Vec<User>>), Error> {
    // Before the reading: what is written in between is read next time.
    let stamp = stamp(file)?;
    let text = fs::read_to_string(file).map_err(|e| Error::io(file.display(), "read", e))?;
    Ok((
        stamp,
        Arc::new(parse(&text).map_err(|e| Error::new(ErrorKind::Invalid, file.display(), e))?),
    ))
}

/// The users of a file's text: one a line; empty lines and `#` lines are left out.
pub fn parse(text: &str) -> Result<Vec<User>, String> {
    let mut users: Vec<User> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // Not the line itself: it may hold what somebody took for a password.
        let user = User::parse(line).map_err(|why| format!("line {}: {why}", number + 1))?;
        if users.iter().any(|other| other.name == user.name) {
            return Err(format!("line {}: {} is there twice", number + 1, user.name));
        }
        users.push(user);
    }
    Ok(users)
}

/// Name and password of a basic `Authorization` (RFC 7617).
pub(super) fn credentials(header: &[u8]) -> Option<(String, Secret)> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let plain = String::from_utf8(STANDARD.decode(rest.trim_ascii()).ok()?).ok()?;
    let plain = Secret::new(plain);
    let (name, token) = plain.expose().split_once(':')?;
    Some((name.to_owned(), Secret::new(token.to_owned())))
}

/// Compares in the same time wherever they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
