//! A plain restic server: the files of a repository, and nothing else.

use super::exchange::Ask;
use super::{Rest, below, body};
use crate::protocol::{File, Kind, RESTIC_V2};
use crate::{Entry, Error, ErrorKind, Key, Storage};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Method, StatusCode};

impl Rest {
    /// A request for a file of a repository in restic's dialect.
    pub(super) fn plain(&self, method: Method, key: &Key) -> Result<Ask, Error> {
        let file = File::of(key).ok_or_else(|| self.no_state(key))?;
        Ok(Ask::new(method, file.restic_path()).header(ACCEPT, RESTIC_V2))
    }

    /// Why this server cannot hold a key.
    pub(super) fn no_state(&self, key: &Key) -> Error {
        let message = "this is a plain restic REST server: it holds the files of a repository, and \
                       neither state nor log, because it cannot create an object only where there \
                       is none; serve the vault with `mainstay vault serve`";
        Error::new(ErrorKind::Invalid, self.named(key), message)
    }

    pub(super) fn plain_put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        let mut ask = self.plain(Method::POST, key)?;
        ask.body = bytes.to_vec().into();
        let object = self.named(key);
        let answer = self.exchange.ask(ask, &object)?;
        if answer.status.is_success() {
            return Ok(());
        }
        // What a lost answer leaves behind, and a server that refuses to be asked twice: the name
        // says what the bytes must be.
        let content_addressed = File::of(key).and_then(|file| file.digest()).is_some();
        let is_there = || self.read(key).is_ok_and(|stored| stored == bytes);
        if answer.status == StatusCode::FORBIDDEN && content_addressed && is_there() {
            return Ok(());
        }
        Err(self.refused(&answer, &object))
    }

    /// Such a server lists one kind of file of one repository at a time.
    pub(super) fn plain_list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let (repository, last) = match prefix.rfind('/') {
            Some(at) => prefix.split_at(at + 1),
            None => ("", prefix),
        };
        let mut entries = match Kind::named(last) {
            Some(kind) => self.plain_kind(repository, kind)?,
            None => {
                let repository = below(prefix);
                let mut all = Vec::new();
                for kind in Kind::ALL {
                    all.extend(self.plain_kind(&repository, kind)?);
                }
                let config = Key::new(format!("{repository}config"))
                    .map_err(|e| Error::new(ErrorKind::Invalid, prefix, e))?;
                match self.size(&config) {
                    Ok(size_bytes) => all.push(Entry { key: config, size_bytes }),
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
                all
            }
        };
        entries.sort();
        Ok(entries)
    }

    fn plain_kind(&self, repository: &str, kind: Kind) -> Result<Vec<Entry>, Error> {
        let path = format!("{repository}{}/", kind.name());
        let object = self.named(&path);
        let ask = Ask::new(Method::GET, path).header(ACCEPT, RESTIC_V2);
        let answer = self.exchange.ask(ask, &object)?;
        match answer.status {
            StatusCode::OK => {}
            // What nobody has written to yet.
            StatusCode::NOT_FOUND => return Ok(Vec::new()),
            _ => return Err(self.refused(&answer, &object)),
        }
        let wrong = |what: String| Error::new(ErrorKind::Failed, &object, what);
        let is_v2 = answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == RESTIC_V2);
        if !is_v2 {
            return Err(wrong("the server lists no sizes (it speaks version 1)".to_owned()));
        }
        body::plain_listing(repository, kind, &answer.body).map_err(wrong)
    }
}
