//! One request and its answer, tried again where that is right.

use super::Options;
use super::connect::Connector;
use super::url::Address;
use crate::{Error, ErrorKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::{CancelToken, Secret};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

/// The first pause before a request is tried again; the next ones double.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Bytes a second below which a connection counts as broken.
const SLOWEST: u64 = 16 << 10;

/// No answer is larger. It is gathered as it comes, never allocated ahead.
const LARGEST: u64 = 4 << 30;

/// How much of a refusal's text is shown.
const SHOWN: usize = 500;

/// A request, as often as it is sent.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// After the address's own path.
    pub(super) path: String,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Bytes,
    /// Whether it may be sent again when it is not known what became of it.
    pub(super) repeatable: bool,
    /// More bytes than this are no answer to it.
    pub(super) at_most: u64,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Ask {
        Ask {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            repeatable: true,
            at_most: LARGEST,
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Ask {
        self.headers.push((name, value.into()));
        self
    }
}

/// An answer, all of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// What a refusal says, on one line.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(SHOWN)]);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.trim().chars().map(plain).collect();
        if text.is_empty() { self.status.to_string() } else { text }
    }
}

/// Why there is no answer.
struct Silence {
    /// Nothing reached the server.
    unsent: bool,
    why: String,
}

type Http = Client<Connector, Full<Bytes>>;

/// The way to one server. Callers wait in their own threads; what is asynchronous stays in here.
pub(super) struct Exchange {
    http: Http,
    base: String,
    authorization: Option<HeaderValue>,
    answer: Duration,
    retry_for: Duration,
    cancel: CancelToken,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

impl Exchange {
    pub(super) fn new(address: &Address, options: &Options) -> Result<Exchange, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("vault-client")
            .enable_all()
            .build()
            .map_err(|e| Error::io(address.shown(), "start a client for", e))?;
        let connector = Connector::new(address, options)?;
        let piped = matches!(address, Address::Ssh(_));
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            // Well before a server closes what is idle, so that no request meets that.
            .pool_idle_timeout(if piped { None } else { Some(Duration::from_secs(20)) })
            .http2_only(piped)
            .http2_initial_stream_window_size(4 << 20)
            .http2_initial_connection_window_size(64 << 20)
            .build(connector);
        let base = match address {
            Address::Http(http) => format!("http://{}/{}", http.authority(), http.path),
            Address::Ssh(_) => "http://vault/".to_owned(),
        };
        let authorization = match address {
            Address::Http(http) => authorization(
                options.user.as_ref().or(http.user.as_ref()),
                options.password.as_ref().or(http.password.as_ref()),
            )?,
            Address::Ssh(_) => None,
        };
        Ok(Exchange {
            http,
            base,
            authorization,
            answer: options.answer,
            retry_for: options.retry_for,
            cancel: options.cancel.clone(),
            runtime: Some(runtime),
        })
    }

    /// Asks, and waits for the answer. `object` is what messages call it.
    pub(super) fn ask(&self, ask: Ask, object: &str) -> Result<Answer, Error> {
        let Some(runtime) = &self.runtime else {
            return Err(Error::new(ErrorKind::Failed, object, "the client was closed"));
        };
        // Who asks after a cancel cleans up: once, and no more waiting than for the answer.
        let cleaning = self.cancel.is_cancelled();
        let deadline = if cleaning { Duration::ZERO } else { self.retry_for };
        let asking = asking(
            self.http.clone(),
            self.base.clone(),
            self.authorization.clone(),
            ask,
            self.answer,
            deadline,
        );
        // Waited for outside of the runtime, so that a caller may be anywhere, and can be cancelled.
        let (sender, receiver) = sync_channel(1);
        let task = runtime.spawn(async move {
            let _ = sender.send(asking.await);
        });
        loop {
            match receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(silence)) => {
                    return Err(Error::new(ErrorKind::Unavailable, object, silence.why));
                }
                Err(RecvTimeoutError::Timeout) if !cleaning && self.cancel.is_cancelled() => {
                    task.abort();
                    return Err(Error::new(ErrorKind::Cancelled, object, "cancelled"));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(ErrorKind::Failed, object, "the client broke down"));
                }
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn authorization(
    user: Option<&String>,
    password: Option<&Secret>,
) -> Result<Option<HeaderValue>, Error> {
    let Some(user) = user else { return Ok(None) };
    if user.contains(':') {
        return Err(Error::new(ErrorKind::Invalid, "the vault's user", "has a colon in it"));
    }
    let password = password.map(Secret::expose).unwrap_or_default();
    let encoded = Secret::new(STANDARD.encode(Secret::new(format!("{user}:{password}")).expose()));
    let text = Secret::new(format!("Basic {}", encoded.expose()));
    let mut value = HeaderValue::from_str(text.expose())
        .map_err(|e| Error::new(ErrorKind::Invalid, "the vault's user", e))?;
    // Keeps it out of what hyper prints, and out of HTTP/2's table of headers.
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Sends until there is an answer, or the time for that is over.
async fn asking(
    http: Http,
    base: String,
    authorization: Option<HeaderValue>,
    ask: Ask,
    patience: Duration,
    retry_for: Duration,
) -> Result<Answer, Silence> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let result = once(&http, &base, authorization.as_ref(), &ask, patience).await;
        let again = match &result {
            Ok(answer) => matches!(answer.status.as_u16(), 408 | 429 | 502 | 503 | 504),
            Err(silence) => silence.unsent || ask.repeatable,
        };
        if !again || began.elapsed() + pause > retry_for {
            return result;
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between half of it and all of it, so that many clients do not come back at the same instant.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness there is a pause all the same.
    let _ = getrandom::fill(&mut random);
    pause / 2 + pause * u32::from(random[0]) / 512
}

async fn once(
    http: &Http,
    base: &str,
    authorization: Option<&HeaderValue>,
    ask: &Ask,
    patience: Duration,
) -> Result<Answer, Silence> {
    let impossible = |e: hyper::http::Error| Silence { unsent: true, why: e.to_string() };
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(format!("{base}{}", ask.path))
        .body(Full::new(ask.body.clone()))
        .map_err(impossible)?;
    let headers = request.headers_mut();
    for (name, value) in &ask.headers {
        let value = HeaderValue::from_str(value).map_err(|e| impossible(e.into()))?;
        headers.insert(name.clone(), value);
    }
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    // A large body may take its time; standing still is not noticed earlier than that.
    let to_send = Duration::from_secs(ask.body.len() as u64 / SLOWEST);
    let answering = async { http.request(request).await };
    let answer = match timeout(patience + to_send, answering).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return Err(Silence { unsent: e.is_connect(), why: chain(&e) }),
        Err(_) => return Err(Silence { unsent: false, why: "no answer in time".to_owned() }),
    };
    gather(answer, ask, patience).await
}

async fn gather(
    answer: Response<Incoming>,
    ask: &Ask,
    patience: Duration,
) -> Result<Answer, Silence> {
    let broken = |why: String| Silence { unsent: false, why };
    let (head, mut incoming) = answer.into_parts();
    // A refusal may say more than the object would have had bytes.
    let at_most = if head.status.is_success() { ask.at_most } else { 64 << 10 };
    let mut body = Vec::new();
    if let Some(length) = incoming.size_hint().exact().filter(|length| *length <= at_most) {
        // Believed up to a size that nobody can do harm with.
        body.reserve(usize::try_from(length.min(64 << 20)).unwrap_or(0));
    }
    loop {
        match timeout(patience, incoming.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if body.len() as u64 + data.len() as u64 > at_most {
                    let why = format!("the answer has more than the {at_most} bytes asked for");
                    return Err(broken(why));
                }
                body.extend_from_slice(&data);
            }
            Ok(Some(Err(e))) => return Err(broken(chain(&e))),
            Err(_) => return Err(broken("the answer stands still".to_owned())),
        }
    }
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// An error with everything below it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
