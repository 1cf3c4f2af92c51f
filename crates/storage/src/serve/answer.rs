//! From a request to its answer.

use super::route::{Range, Refusal, Request, Verb, route};
use super::states::StateName;
use super::users::User;
use super::{Access, Limits, Tell};
use crate::protocol::{
    Capabilities, File, Item, Kind, Leftovers, PROBE, PROTOCOL, RESTIC_V1, RESTIC_V2, Rights,
    VERSION, is_name,
};
use crate::{Entry, Error, ErrorKind, Key, Local, Storage};
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{Method, Response, StatusCode};
use std::fmt::Display;
use std::fs::File as OsFile;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

/// How much of an object is read at once.
const PIECE: usize = 256 << 10;

/// No probe is larger.
pub(super) const PROBE_BYTES: u64 = 64;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Answer = Result<Response<Body>, Refusal>;

/// The vault behind all connections.
pub(super) struct Served {
    pub(super) local: Arc<Local>,
    pub(super) access: Access,
    pub(super) limits: Limits,
    pub(super) tell: Tell,
}

impl Served {
    /// Answers one request, whatever it is.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
        peer: &dyn Peer,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        let mut who = "somebody".to_owned();
        let ours = head.headers.contains_key(PROTOCOL);
        let result = async {
            // Before anything else: who may not come in learns nothing, not even what is wrong.
            let (user, rights) = self.admit(&head.headers)?;
            if let Some(user) = &user {
                who.clone_from(&user.name);
            }
            let request = route(&head.method, &head.uri, &head.headers)?;
            self.permit(user.as_ref(), rights, &request.verb)?;
            self.clone().execute(request, rights, body).await
        }
        .await;
        let mut answer = result.unwrap_or_else(|refusal| {
            if worth_telling(refusal.status) {
                (self.tell)(&format!(
                    "{} {} {} by {who} from {}: {}",
                    refusal.status.as_u16(),
                    head.method,
                    head.uri.path(),
                    peer.name(),
                    refusal.reason
                ));
            }
            let mut answer = refused(&refusal);
            if head.method == Method::HEAD {
                // HTTP/2 takes a body here for a broken protocol.
                *answer.body_mut() = full(Bytes::new());
            }
            answer
        });
        if ours {
            answer.headers_mut().insert(PROTOCOL, HeaderValue::from_static(VERSION));
        }
        answer
    }

    fn admit(&self, headers: &hyper::HeaderMap) -> Result<(Option<User>, Rights), Refusal> {
        match &self.access {
            Access::Everyone(rights) => Ok((None, *rights)),
            Access::Users(users, cap) => {
                let user = users.authenticate(headers)?;
                let rights = user.rights.min(*cap);
                Ok((Some(user), rights))
            }
        }
    }

    /// What can be judged without looking at the vault.
    fn permit(&self, user: Option<&User>, rights: Rights, verb: &Verb) -> Result<(), Refusal> {
        let needed = match verb {
            Verb::Probe { .. }
            | Verb::Head(_)
            | Verb::Get(..)
            | Verb::List { .. }
            | Verb::ListKind { .. } => Rights::Read,
            // What exactly may be replaced or deleted is judged when it is there.
            Verb::CreateRepository { .. }
            | Verb::Put { .. }
            | Verb::Delete(_)
            | Verb::RemoveLeftovers { .. }
            | Verb::KeepReserve { .. } => Rights::Append,
            // For who frees space, and for nobody who would only fill it.
            Verb::GiveUpReserve { .. } => Rights::Full,
        };
        let place = verb.place();
        // What the server is, anybody may know who was let in, and whether it can be written to.
        // The disk is everybody's.
        let of_all = matches!(
            verb,
            Verb::Probe { .. } | Verb::KeepReserve { .. } | Verb::GiveUpReserve { .. }
        );
        let harmless = of_all || (place.starts_with(PROBE) && !place.contains('/'));
        if !harmless && user.is_some_and(|user| !user.may_see(place)) {
            let reason = format!("{place:?} is not below a path of this user");
            return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
        }
        if rights < needed {
            let reason = format!("this needs the right to {}", needed.name());
            return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
        }
        Ok(())
    }

    async fn execute(self: Arc<Self>, request: Request, rights: Rights, body: Incoming) -> Answer {
        let ours = request.ours;
        match request.verb {
            Verb::Probe { .. } => {
                let local = self.local.clone();
                let free_bytes = blocking(move || local.free_bytes()).await?;
                json(&Capabilities { protocol: 1, put_if_absent: true, rights, free_bytes })
            }
            Verb::CreateRepository { .. } => Ok(done(StatusCode::OK)),
            Verb::Head(key) => {
                let local = self.local.clone();
                let (_, size) = blocking(move || local.object(&key)).await?;
                let mut answer = done(StatusCode::OK);
                answer.headers_mut().insert(CONTENT_LENGTH, size.into());
                answer.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
                Ok(answer)
            }
            Verb::Get(key, range) => self.get(key, range).await,
            Verb::Put { key, how, sha256 } => self.put(key, how, sha256, rights, body).await,
            Verb::Delete(key) => {
                blocking(move || {
                    if rights < Rights::Full {
                        deletable(&self.local, &key, self.limits.state_age)?;
                    }
                    Ok::<_, Refusal>(self.local.delete(&key)?)
                })
                .await?;
                Ok(done(StatusCode::OK))
            }
            Verb::List { prefix } => {
                let items = self.list(prefix, relative).await?;
                debug_assert!(ours);
                json(&items)
            }
            Verb::ListKind { prefix, kind, with_sizes } => {
                let below = match prefix.as_str() {
                    "" => kind.name().to_owned(),
                    _ => format!("{prefix}/{}", kind.name()),
                };
                let items = self.list(below, move |_, entry| file_name(kind, &entry.key)).await?;
                if with_sizes {
                    return typed(&items, RESTIC_V2);
                }
                typed(&items.into_iter().map(|item| item.name).collect::<Vec<_>>(), RESTIC_V1)
            }
            Verb::RemoveLeftovers { prefix } => {
                let removed = blocking(move || self.local.remove_leftovers(&prefix)).await?;
                json(&Leftovers { removed })
            }
            Verb::KeepReserve { .. } => {
                blocking(move || self.local.keep_reserve()).await?;
                Ok(done(StatusCode::OK))
            }
            Verb::GiveUpReserve { .. } => {
                let was_kept = blocking(move || self.local.give_up_reserve()).await?;
                Ok(done(if was_kept { StatusCode::OK } else { StatusCode::NOT_FOUND }))
            }
        }
    }

    async fn list(
        &self,
        prefix: String,
        name: impl Fn(&str, &Entry) -> Option<String> + Send + 'static,
    ) -> Result<Vec<Item>, Refusal> {
        let local = self.local.clone();
        blocking(move || {
            let entries = local.list(&prefix)?;
            let item =
                |entry: Entry| Some(Item { name: name(&prefix, &entry)?, size: entry.size_bytes });
            Ok::<_, Error>(entries.into_iter().filter_map(item).collect())
        })
        .await
    }

    async fn get(&self, key: Key, range: Option<Range>) -> Answer {
        let local = self.local.clone();
        let (mut file, size) = blocking(move || local.object(&key)).await?;
        let (first, length) = match range {
            None => (0, size),
            Some(range) => match range.within(size) {
                Some(part) => part,
                None => {
                    let reason = format!("the object has {size} bytes");
                    return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, reason));
                }
            },
        };
        let piece = next_length(length);
        let (file, piece) = blocking(move || {
            if first > 0 {
                file.seek(SeekFrom::Start(first)).map_err(|e| Error::io("object", "read", e))?;
            }
            read_piece(file, piece).map_err(|e| Error::io("object", "read", e))
        })
        .await?;
        let left = length - piece.len() as u64;
        let body = if left == 0 { full(piece) } else { streamed(file, piece, left) };
        let mut answer = Response::new(body);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_LENGTH, length.into());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if range.is_some() {
            let text = format!("bytes {first}-{}/{size}", first + length - 1);
            headers.insert(CONTENT_RANGE, value(&text));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(answer)
    }
}

/// What a client is called in messages.
pub(super) trait Peer: Sync {
    fn name(&self) -> String;
}

impl<T: Display + Sync> Peer for T {
    fn name(&self) -> String {
        self.to_string()
    }
}

/// What somebody may delete who may only append.
fn deletable(local: &Local, key: &Key, state_age: Duration) -> Result<(), Refusal> {
    if let Some(File::Named { kind: Kind::Locks, .. }) = File::of(key) {
        return Ok(());
    }
    if is_probe(key) {
        return Ok(());
    }
    if let Some(state) = StateName::of(key) {
        return state.deletable(local, state_age);
    }
    Err(append_only("nothing is deleted here but locks"))
}

/// Whether this is an object with which somebody tries whether the vault can be written to.
pub(super) fn is_probe(key: &Key) -> bool {
    key.as_str().starts_with(PROBE) && key.name() == key.as_str()
}

pub(super) fn append_only(reason: &str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, format!("append-only: {reason}"))
}

/// The name of an entry below a prefix.
fn relative(prefix: &str, entry: &Entry) -> Option<String> {
    let key = entry.key.as_str();
    match prefix {
        "" => Some(key.to_owned()),
        _ => key.strip_prefix(prefix)?.strip_prefix('/').map(str::to_owned),
    }
}

/// The name of a file of this kind. Files that have none are not the repository's.
fn file_name(kind: Kind, key: &Key) -> Option<String> {
    match File::of(key) {
        Some(File::Named { kind: found, name, .. }) if found == kind && is_name(name) => {
            Some(name.to_owned())
        }
        _ => None,
    }
}

/// Runs what waits for a disk where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the request was not finished"))
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Truncated => StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            // Our own right to the directory is meant, not the client's.
            ErrorKind::Permission | ErrorKind::Cancelled | ErrorKind::Unfit | ErrorKind::Failed => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            reason.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Refusal::new(status, reason)
    }
}

/// What belongs to every day's work is not told.
fn worth_telling(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::RANGE_NOT_SATISFIABLE
            | StatusCode::CONFLICT
    )
}

fn next_length(left: u64) -> usize {
    usize::try_from(left).unwrap_or(PIECE).min(PIECE)
}

fn read_piece(mut file: OsFile, length: usize) -> io::Result<(OsFile, Bytes)> {
    let mut piece = vec![0; length];
    file.read_exact(&mut piece)?;
    Ok((file, piece.into()))
}

/// The rest of a file as a body. One that turns out shorter ends the connection, so that the client
/// sees that something is missing.
fn streamed(file: OsFile, first: Bytes, left: u64) -> Body {
    let (mut sender, body) = Channel::<Bytes, io::Error>::new(2);
    tokio::spawn(async move {
        let (mut file, mut left) = (file, left);
        if sender.send_data(first).await.is_err() {
            return;
        }
        while left > 0 {
            let length = next_length(left);
            let read = tokio::task::spawn_blocking(move || read_piece(file, length)).await;
            let piece = match read {
                Ok(Ok((same, piece))) => {
                    file = same;
                    piece
                }
                Ok(Err(e)) => return sender.abort(e),
                Err(_) => return sender.abort(io::ErrorKind::Other.into()),
            };
            left -= piece.len() as u64;
            if sender.send_data(piece).await.is_err() {
                return;
            }
        }
    });
    body.boxed_unsync()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn done(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

fn json(document: &impl serde::Serialize) -> Answer {
    typed(document, "application/json")
}

fn typed(document: &impl serde::Serialize, kind: &'static str) -> Answer {
    let bytes = serde_json::to_vec(document).map_err(|e| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the answer: {e}"))
    })?;
    let mut answer = Response::new(full(bytes));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(answer)
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let mut answer = Response::new(full(format!("{}\n", refusal.reason)));
    *answer.status_mut() = refusal.status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if refusal.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"vault\""));
    }
    answer
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
