//! What a request asks for, judged from its head alone. Pure, so that any bytes can be tried on it.

use crate::Key;
use crate::protocol::{self, Kind, PROTOCOL, RESTIC_V2, SHA256, VERSION, is_name};
use hyper::header::{ACCEPT, IF_NONE_MATCH, RANGE};
use hyper::{HeaderMap, Method, StatusCode, Uri};

#[cfg(test)]
mod tests;

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Whether it is of our dialect.
    pub(crate) ours: bool,
    pub(crate) verb: Verb,
}

/// What is asked for. A prefix is empty or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Probe { prefix: String },
    CreateRepository { prefix: String },
    Head(Key),
    Get(Key, Option<Range>),
    Put { key: Key, how: How, sha256: Option<String> },
    Delete(Key),
    List { prefix: String },
    ListKind { prefix: String, kind: Kind, with_sizes: bool },
    RemoveLeftovers { prefix: String },
    KeepReserve { prefix: String },
    GiveUpReserve { prefix: String },
}

impl Verb {
    /// The key or prefix that it is about.
    pub(crate) fn place(&self) -> &str {
        match self {
            Verb::Probe { prefix }
            | Verb::CreateRepository { prefix }
            | Verb::List { prefix }
            | Verb::ListKind { prefix, .. }
            | Verb::RemoveLeftovers { prefix }
            | Verb::KeepReserve { prefix }
            | Verb::GiveUpReserve { prefix } => prefix,
            Verb::Head(key) | Verb::Get(key, _) | Verb::Put { key, .. } | Verb::Delete(key) => {
                key.as_str()
            }
        }
    }
}

/// What becomes of an object that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It is replaced.
    Replace,
    /// It stays, and the client is told.
    IfAbsent,
    /// It stays if it has the same bytes (restic's `POST`).
    Same,
}

/// One range of bytes, as asked: the size of the object is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// From the first to the last, both included.
    Between(u64, u64),
    /// From here to the end.
    From(u64),
    /// The last so many.
    Last(u64),
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Refusal {
        Refusal { status, reason: reason.into() }
    }

    fn bad(reason: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, reason)
    }

    fn method(method: &Method) -> Refusal {
        let reason = format!("{method} is no request for this path");
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason)
    }
}

/// Understands the head of a request.
pub(crate) fn route(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Request, Refusal> {
    let ours = match headers.get(PROTOCOL) {
        None => false,
        Some(version) if version == VERSION => true,
        Some(_) => return Err(Refusal::bad("this server speaks Mainstay-Protocol 1")),
    };
    let path = path(uri)?;
    let verb = if ours {
        our_verb(method, path, uri.query(), headers)?
    } else {
        restic_verb(method, path, uri.query(), headers)?
    };
    Ok(Request { ours, verb })
}

/// What a path names.
enum Path<'a> {
    /// It ends in a slash: what is below it.
    Below(&'a str),
    /// An object.
    Object(Key),
}

fn path(uri: &Uri) -> Result<Path<'_>, Refusal> {
    let text = uri.path();
    if text.contains('%') {
        return Err(Refusal::bad("no path of a vault needs a percent sign"));
    }
    let Some(text) = text.strip_prefix('/') else {
        return Err(Refusal::bad("the path does not begin with a slash"));
    };
    if text.is_empty() {
        return Ok(Path::Below(""));
    }
    let prefix = text.strip_suffix('/');
    match Key::new(prefix.unwrap_or(text)) {
        Ok(key) => Ok(prefix.map_or(Path::Object(key), Path::Below)),
        Err(e) => Err(Refusal::bad(e.to_string())),
    }
}

fn our_verb(
    method: &Method,
    path: Path<'_>,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Verb, Refusal> {
    match path {
        Path::Below(prefix) => {
            let prefix = prefix.to_owned();
            match (method, query) {
                (&Method::OPTIONS, None) => Ok(Verb::Probe { prefix }),
                (&Method::GET, None) => Ok(Verb::List { prefix }),
                (&Method::POST, Some("leftovers")) => Ok(Verb::RemoveLeftovers { prefix }),
                (&Method::POST, Some("reserve")) => Ok(Verb::KeepReserve { prefix }),
                (&Method::DELETE, Some("reserve")) => Ok(Verb::GiveUpReserve { prefix }),
                _ => Err(Refusal::method(method)),
            }
        }
        Path::Object(_) if query.is_some() => Err(Refusal::bad("an object has no query")),
        Path::Object(key) => match *method {
            Method::HEAD => Ok(Verb::Head(key)),
            Method::GET => Ok(Verb::Get(key, range(headers))),
            Method::DELETE => Ok(Verb::Delete(key)),
            Method::PUT => {
                let how = match headers.get(IF_NONE_MATCH) {
                    None => How::Replace,
                    Some(any) if any == "*" => How::IfAbsent,
                    Some(_) => return Err(Refusal::bad("If-None-Match can only be *")),
                };
                let sha256 = match headers.get(SHA256) {
                    None => None,
                    Some(hex) => match hex.to_str() {
                        Ok(hex) if is_name(hex) => Some(hex.to_owned()),
                        _ => return Err(Refusal::bad("Mainstay-Sha256 is 64 hex digits")),
                    },
                };
                Ok(Verb::Put { key, how, sha256 })
            }
            _ => Err(Refusal::method(method)),
        },
    }
}

fn restic_verb(
    method: &Method,
    path: Path<'_>,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Verb, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "this is no file of a restic repository");
    match path {
        Path::Below(prefix) => match *method {
            Method::POST if query == Some("create=true") => {
                Ok(Verb::CreateRepository { prefix: prefix.to_owned() })
            }
            Method::DELETE => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "no request removes a repository; remove its directory",
            )),
            Method::GET => {
                let (above, last) = match prefix.rfind('/') {
                    Some(at) => (&prefix[..at], &prefix[at + 1..]),
                    None => ("", prefix),
                };
                let kind = Kind::named(last).ok_or_else(unknown)?;
                let with_sizes = headers
                    .get_all(ACCEPT)
                    .iter()
                    .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains(RESTIC_V2)));
                Ok(Verb::ListKind { prefix: above.to_owned(), kind, with_sizes })
            }
            _ => Err(Refusal::method(method)),
        },
        Path::Object(key) => {
            let key = restic_key(&key).ok_or_else(unknown)?;
            match *method {
                Method::HEAD => Ok(Verb::Head(key)),
                Method::GET => Ok(Verb::Get(key, range(headers))),
                Method::DELETE => Ok(Verb::Delete(key)),
                Method::POST => Ok(Verb::Put { key, how: How::Same, sha256: None }),
                _ => Err(Refusal::method(method)),
            }
        }
    }
}

/// The key of a file by its path in restic's dialect.
fn restic_key(path: &Key) -> Option<Key> {
    let text = path.as_str();
    if path.name() == "config" {
        return Some(path.clone());
    }
    let (above, name) = text.rsplit_once('/')?;
    let at = above.rfind('/').map_or(0, |at| at + 1);
    let (repository, kind) = above.split_at(at);
    if !is_name(name) {
        return None;
    }
    Key::new(protocol::named_key(repository, Kind::named(kind)?, name)).ok()
}

/// One range of bytes. Several, or what is none, mean the whole object, as HTTP has it.
fn range(headers: &HeaderMap) -> Option<Range> {
    let text = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    // Digits only: `+1` parses as a number.
    let number = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten()
    };
    match text.split_once('-')? {
        ("", last) => Some(Range::Last(number(last)?)),
        (first, "") => Some(Range::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Range::Between(first, last))
        }
    }
}

impl Range {
    /// First byte and length in an object of this size; none if it lies outside.
    pub(crate) fn within(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Range::Between(first, last) => (first, last.saturating_add(1).min(size)),
            Range::From(first) => (first, size),
            Range::Last(length) => (size.saturating_sub(length), size),
        };
        (first < end).then(|| (first, end - first))
    }
}
