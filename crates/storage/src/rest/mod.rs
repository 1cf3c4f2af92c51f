//! A vault that another machine serves: over HTTP, HTTPS, or ssh.
//!
//! `docs/formats/vault-protocol.md` is what is spoken. Whether the other end speaks our dialect is
//! asked once, before the first request; a plain restic server is used for the files of a
//! repository, and refused for everything else.

mod body;
mod connect;
mod exchange;
mod plain;
#[cfg(feature = "doubles")]
pub mod trial;
mod trust;
mod url;

use crate::key::check_prefix;
use crate::protocol::{Capabilities, File, PROTOCOL, SHA256, VERSION};
use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use exchange::{Answer, Ask, Exchange};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, IF_NONE_MATCH, RANGE};
use hyper::{Method, StatusCode};
use model::{CancelToken, Secret};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use url::Address;

/// What a client of a served vault is told besides the URL.
#[derive(Clone, Debug)]
pub struct Options {
    /// The user, instead of the URL's.
    pub user: Option<String>,
    /// The user's password or token, instead of the URL's.
    pub password: Option<Secret>,
    /// Certificates (PEM) that are believed, instead of the public authorities'.
    pub ca_file: Option<PathBuf>,
    /// The SHA-256 of the one certificate that is believed, whoever signed it.
    pub pinned_sha256: Option<String>,
    /// The command that reaches another host, instead of `ssh`; the host and one word, a shell
    /// command line, are put after it.
    pub ssh_command: Vec<String>,
    /// `mainstay` on the other host, as its shell finds it.
    pub remote_program: Option<String>,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an answer may be waited for, and its body stand still.
    pub answer: Duration,
    /// How long a request is tried again.
    pub retry_for: Duration,
    /// Ends waiting.
    pub cancel: CancelToken,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            user: None,
            password: None,
            ca_file: None,
            pinned_sha256: None,
            ssh_command: Vec::new(),
            remote_program: None,
            connect: Duration::from_secs(15),
            // A server answers a write when it is durable, which a busy disk takes its time for.
            answer: Duration::from_secs(90),
            retry_for: Duration::from_secs(30),
            cancel: CancelToken::new(),
        }
    }
}

/// A served vault.
pub struct Rest {
    shown: String,
    exchange: Exchange,
    dialect: Mutex<Option<Dialect>>,
}

/// What the other end speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Ours,
    Restic,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rest").field(&self.shown).finish()
    }
}

impl Rest {
    /// The vault at a URL. Nothing is asked of it yet.
    pub fn open(url: &str, options: &Options) -> Result<Rest, Error> {
        let address = Address::parse(url)?;
        let exchange = Exchange::new(&address, options)?;
        Ok(Rest { shown: address.shown(), exchange, dialect: Mutex::new(None) })
    }

    /// What messages call an object.
    fn named(&self, place: impl fmt::Display) -> String {
        format!("{}/{place}", self.shown.trim_end_matches('/'))
    }

    fn dialect(&self) -> Result<Dialect, Error> {
        // Held while asking, so that many threads ask once.
        let mut known = self.dialect.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dialect) = *known {
            return Ok(dialect);
        }
        let dialect = match self.capabilities()? {
            Some(_) => Dialect::Ours,
            None => Dialect::Restic,
        };
        *known = Some(dialect);
        Ok(dialect)
    }

    /// What the other end says of itself; none if it does not speak our dialect.
    fn capabilities(&self) -> Result<Option<Capabilities>, Error> {
        let ask = ours(Method::OPTIONS, "");
        let answer = self.exchange.ask(ask, &self.shown)?;
        if answer.headers.get(PROTOCOL).is_none_or(|version| version != VERSION) {
            // Whoever refuses us may speak it all the same.
            return match answer.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    Err(self.refused(&answer, &self.shown))
                }
                status if status.is_server_error() => Err(self.refused(&answer, &self.shown)),
                _ => Ok(None),
            };
        }
        if answer.status != StatusCode::OK {
            return Err(self.refused(&answer, &self.shown));
        }
        body::capabilities(&answer.body)
            .map(Some)
            .map_err(|(kind, message)| Error::new(kind, &self.shown, message))
    }

    /// Asks in our dialect, and believes only who answers in it.
    fn ask(&self, ask: Ask, place: impl fmt::Display) -> Result<Answer, Error> {
        let object = self.named(place);
        let answer = self.exchange.ask(ask, &object)?;
        let in_ours = answer.headers.get(PROTOCOL).is_some_and(|version| version == VERSION);
        if !in_ours && !answer.status.is_server_error() {
            let message = format!(
                "the answer ({}) is not from a vault host of ours any more",
                answer.status.as_u16()
            );
            return Err(Error::new(ErrorKind::Failed, object, message));
        }
        Ok(answer)
    }

    /// A refusal, or an answer that is none, as an error.
    fn refused(&self, answer: &Answer, object: &str) -> Error {
        let kind = match answer.status.as_u16() {
            401 | 403 => ErrorKind::Permission,
            404 => ErrorKind::NotFound,
            416 => ErrorKind::Truncated,
            507 => ErrorKind::NoSpace,
            408 | 429 | 502..=504 => ErrorKind::Unavailable,
            400 | 405 | 413 => ErrorKind::Invalid,
            _ => ErrorKind::Failed,
        };
        let message = match answer.status {
            StatusCode::NOT_FOUND => "no such object".to_owned(),
            StatusCode::UNAUTHORIZED => {
                format!("the server does not let us in: {}", answer.text())
            }
            status => format!("the server refused ({}): {}", status.as_u16(), answer.text()),
        };
        Error::new(kind, object, message)
    }

    fn get(&self, key: &Key, mut ask: Ask, range: Option<(u64, usize)>) -> Result<Vec<u8>, Error> {
        let object = self.named(key);
        if let Some((offset, length)) = range {
            let last = offset + length as u64 - 1;
            ask = ask.header(RANGE, format!("bytes={offset}-{last}"));
            ask.at_most = length as u64;
        }
        let answer = match self.dialect()? {
            Dialect::Ours => self.ask(ask, key)?,
            Dialect::Restic => self.exchange.ask(ask, &object)?,
        };
        let short = |what: String| Error::new(ErrorKind::Truncated, &object, what);
        match (answer.status, range) {
            (StatusCode::OK, None) => Ok(answer.body),
            (StatusCode::PARTIAL_CONTENT, Some((offset, length))) => {
                let said = answer.headers.get(CONTENT_RANGE).and_then(|said| said.to_str().ok());
                let begins = format!("bytes {offset}-");
                if !said.is_some_and(|said| said.starts_with(&begins)) {
                    let message = "the answer is of another range than the one asked for";
                    return Err(Error::new(ErrorKind::Failed, object, message));
                }
                if answer.body.len() == length {
                    return Ok(answer.body);
                }
                Err(short(format!("{} of {length} bytes from {offset}", answer.body.len())))
            }
            (StatusCode::OK, Some(_)) => {
                let message = "the server does not know ranges";
                Err(Error::new(ErrorKind::Failed, object, message))
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, Some((offset, length))) => {
                Err(short(format!("{length} bytes from {offset}: {}", answer.text())))
            }
            _ => Err(self.refused(&answer, &object)),
        }
    }

    fn put_with(&self, key: &Key, bytes: &[u8], only_if_absent: bool) -> Result<Put, Error> {
        let mut ask = ours(Method::PUT, key.as_str());
        ask.body = bytes.to_vec().into();
        // Where the key itself says what the bytes are, the server looks by itself.
        if File::of(key).and_then(|file| file.digest()).is_none() {
            let digest: [u8; 32] = Sha256::digest(bytes).into();
            ask = ask.header(HeaderName::from_static(SHA256), hex::encode(digest));
        }
        if only_if_absent {
            ask = ask.header(IF_NONE_MATCH, "*");
            ask.repeatable = false;
        }
        let answer = self.ask(ask, key)?;
        match answer.status {
            StatusCode::CREATED if only_if_absent => Ok(Put::Created),
            StatusCode::PRECONDITION_FAILED if only_if_absent => Ok(Put::Exists),
            StatusCode::OK if !only_if_absent => Ok(Put::Created),
            _ => Err(self.refused(&answer, &self.named(key))),
        }
    }
}

/// A request in our dialect.
fn ours(method: Method, path: &str) -> Ask {
    Ask::new(method, path).header(HeaderName::from_static(PROTOCOL), VERSION)
}

/// The path of everything below a prefix.
fn below(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
}

impl Storage for Rest {
    fn location(&self) -> String {
        self.shown.clone()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        match self.dialect()? {
            Dialect::Ours => self.get(key, ours(Method::GET, key.as_str()), None),
            Dialect::Restic => self.get(key, self.plain(Method::GET, key)?, None),
        }
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        let end = offset.checked_add(length as u64);
        if length == 0 || end.is_none() {
            // HTTP knows no empty range; and beyond all numbers nothing can be.
            let size = self.size(key)?;
            return match end {
                Some(end) if end <= size => Ok(Vec::new()),
                _ => {
                    let message = format!("{length} bytes from {offset} of {size}");
                    Err(Error::new(ErrorKind::Truncated, self.named(key), message))
                }
            };
        }
        let ask = match self.dialect()? {
            Dialect::Ours => ours(Method::GET, key.as_str()),
            Dialect::Restic => self.plain(Method::GET, key)?,
        };
        self.get(key, ask, Some((offset, length)))
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        let object = self.named(key);
        let answer = match self.dialect()? {
            Dialect::Ours => self.ask(ours(Method::HEAD, key.as_str()), key)?,
            Dialect::Restic => self.exchange.ask(self.plain(Method::HEAD, key)?, &object)?,
        };
        if answer.status != StatusCode::OK {
            return Err(self.refused(&answer, &object));
        }
        let length = answer.headers.get(CONTENT_LENGTH).and_then(|text| text.to_str().ok());
        length.and_then(|text| text.parse().ok()).ok_or_else(|| {
            Error::new(ErrorKind::Failed, object, "the server does not say how large it is")
        })
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        match self.dialect()? {
            Dialect::Ours => self.put_with(key, bytes, false).map(|_| ()),
            Dialect::Restic => self.plain_put(key, bytes),
        }
    }

    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        match self.dialect()? {
            Dialect::Ours => self.put_with(key, bytes, true),
            Dialect::Restic => Err(self.no_state(key)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        check_prefix(prefix)?;
        if self.dialect()? == Dialect::Restic {
            return self.plain_list(prefix);
        }
        let answer = self.ask(ours(Method::GET, &below(prefix)), prefix)?;
        let object = self.named(prefix);
        if answer.status != StatusCode::OK {
            return Err(self.refused(&answer, &object));
        }
        body::listing(prefix, &answer.body)
            .map_err(|message| Error::new(ErrorKind::Failed, object, message))
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        let object = self.named(key);
        let answer = match self.dialect()? {
            Dialect::Ours => self.ask(ours(Method::DELETE, key.as_str()), key)?,
            Dialect::Restic => self.exchange.ask(self.plain(Method::DELETE, key)?, &object)?,
        };
        match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            _ => Err(self.refused(&answer, &object)),
        }
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        match self.dialect()? {
            Dialect::Ours => Ok(self.capabilities()?.and_then(|told| told.free_bytes)),
            Dialect::Restic => Ok(None),
        }
    }

    fn keep_reserve(&self) -> Result<(), Error> {
        if self.dialect()? == Dialect::Restic {
            return Ok(());
        }
        let answer = self.ask(ours(Method::POST, &format!("{}?reserve", below(""))), "")?;
        match answer.status {
            StatusCode::OK => Ok(()),
            _ => Err(self.refused(&answer, &self.named(""))),
        }
    }

    fn give_up_reserve(&self) -> Result<bool, Error> {
        if self.dialect()? == Dialect::Restic {
            return Ok(false);
        }
        let answer = self.ask(ours(Method::DELETE, &format!("{}?reserve", below(""))), "")?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(&answer, &self.named(""))),
        }
    }

    fn remove_leftovers(&self, prefix: &str) -> Result<u64, Error> {
        check_prefix(prefix)?;
        if self.dialect()? == Dialect::Restic {
            return Ok(0);
        }
        let path = format!("{}?leftovers", below(prefix));
        let answer = self.ask(ours(Method::POST, &path), prefix)?;
        let object = self.named(prefix);
        if answer.status != StatusCode::OK {
            return Err(self.refused(&answer, &object));
        }
        body::leftovers(&answer.body)
            .map_err(|message| Error::new(ErrorKind::Failed, object, message))
    }

    /// A vault host makes one name once, and says that it is one; whoever does not say so is
    /// refused.
    fn needs_proof(&self) -> bool {
        false
    }
}
