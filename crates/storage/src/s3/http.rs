//! The way to the server: one blocking HTTP client under the library's asynchronous surface.
//!
//! The library signs and shapes requests; this sends them. A request runs in a thread of its own,
//! so that whoever waits for it can stop waiting: the thread ends by its own time limits.

use super::options::{Lock, Tuning};
use super::trouble::Trouble;
use super::xml;
use async_trait::async_trait;
use hyper::body::Bytes;
use model::CancelToken;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
};
use std::future::Future;
use std::io::Read;
use std::pin::pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use ureq::http::header::{AUTHORIZATION, HeaderValue, RANGE};
use ureq::http::{Method, Response};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, SendBody};

/// No error message or listing page is longer.
const LARGEST_TEXT_BYTES: u64 = 64 << 20;

/// No object is longer. It bounds a server that never ends its answer.
const LARGEST_OBJECT_BYTES: u64 = 4 << 30;

/// How often a waiting caller looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Waits for a future whose work is done by blocking calls. Needs no runtime, and does not mind
/// one around it.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Who signs requests that the library did not shape to their end.
#[derive(Debug)]
pub(super) struct Signing {
    pub(super) credentials: AwsCredentialProvider,
    pub(super) region: String,
}

impl Signing {
    /// Signs a request, replacing a signature that it has.
    pub(super) async fn sign(&self, request: &mut HttpRequest) -> Result<(), Trouble> {
        let credential = self
            .credentials
            .get_credential()
            .await
            .map_err(|e| Trouble::Credentials(Trouble::from_library(&e).to_string()))?;
        request.headers_mut().remove(AUTHORIZATION);
        // The body was hashed when the library signed it; it is not hashed again.
        let known = request.headers().get("x-amz-content-sha256").cloned();
        let digest = known.and_then(|text| hex::decode(text.as_bytes()).ok());
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(request, digest.as_deref())
            .map_err(|e| Trouble::Nonsense(format!("cannot sign the request: {e}")))
    }
}

/// Carried by a request whose object is to be locked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retain(pub(super) Lock);

/// Sends requests. Clones share connections.
#[derive(Clone, Debug)]
pub(super) struct Http {
    agent: Agent,
    tuning: Tuning,
    cancel: CancelToken,
    signing: Arc<OnceLock<Signing>>,
}

impl Http {
    /// With these certificate authorities instead of the public ones.
    pub(super) fn new(
        tuning: Tuning,
        cancel: CancelToken,
        authorities: Option<Vec<ureq::tls::Certificate<'static>>>,
    ) -> Http {
        let roots = match authorities {
            Some(list) => RootCerts::Specific(Arc::new(list)),
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(tuning.connect))
            .timeout_connect(Some(tuning.connect))
            .timeout_per_read(Some(tuning.idle))
            .timeout_per_write(Some(tuning.idle))
            .timeout_recv_response(Some(tuning.idle))
            .max_idle_connections_per_host(16)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        Http { agent: config.into(), tuning, cancel, signing: Arc::default() }
    }

    /// Names who signs; until then nothing can be locked and no request of our own be made.
    pub(super) fn sign_with(&self, signing: Signing) {
        let _ = self.signing.set(signing);
    }

    /// Signs and sends a request of our own.
    pub(super) async fn send_own(&self, mut request: HttpRequest) -> Result<Answer, Trouble> {
        let signing =
            self.signing.get().ok_or_else(|| Trouble::Nonsense("nobody signs".to_owned()))?;
        signing.sign(&mut request).await?;
        self.send(request, LARGEST_TEXT_BYTES)
    }

    /// Sends a request and waits for its whole answer, or until it was cancelled. A body of more
    /// than `at_most` bytes is no answer to it.
    fn send(&self, request: HttpRequest, at_most: u64) -> Result<Answer, Trouble> {
        let began_cancelled = self.cancel.is_cancelled();
        // What cleans up after a cancel is still sent, but does not hang for long.
        let limit = if began_cancelled { self.tuning.cancelled } else { Duration::MAX };
        let until = Instant::now().checked_add(limit);
        let (sender, receiver) = mpsc::sync_channel(1);
        let agent = self.agent.clone();
        std::thread::Builder::new()
            .name("s3".to_owned())
            .spawn(move || {
                // Nobody listens any more if the caller was cancelled.
                let _ = sender.send(exchange(&agent, request, at_most));
            })
            .map_err(|e| Trouble::NoAnswer(format!("cannot start a thread: {e}")))?;
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Trouble::NoAnswer("the request was given up".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.cancel.is_cancelled() && !began_cancelled {
                return Err(Trouble::Cancelled);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Trouble::NoAnswer("no answer in time".to_owned()));
            }
        }
    }

    /// Adds what locks the object, and signs again, because these headers must be signed.
    async fn retain(&self, lock: Lock, request: &mut HttpRequest) -> Result<(), Trouble> {
        let signing =
            self.signing.get().ok_or_else(|| Trouble::Nonsense("nobody signs".to_owned()))?;
        let until = lock.until(jiff::Timestamp::now());
        let value =
            |text: &str| HeaderValue::from_str(text).map_err(|e| Trouble::Nonsense(e.to_string()));
        let headers = request.headers_mut();
        headers.insert("x-amz-object-lock-mode", value(lock.mode.as_str())?);
        headers.insert("x-amz-object-lock-retain-until-date", value(&until)?);
        // Older servers want the checksum announced too.
        headers.insert("x-amz-sdk-checksum-algorithm", HeaderValue::from_static("SHA256"));
        signing.sign(request).await
    }
}

/// A whole answer.
pub(super) type Answer = Response<Vec<u8>>;

fn exchange(agent: &Agent, request: HttpRequest, at_most: u64) -> Result<Answer, Trouble> {
    let (parts, body) = request.into_parts();
    let method = parts.method.clone();
    let length = body.content_length();
    let sends = !matches!(method, Method::GET | Method::HEAD | Method::DELETE);
    let bytes = if sends { flatten(body)? } else { Bytes::new() };
    debug_assert_eq!(bytes.len(), if sends { length } else { 0 });
    let answer = if sends {
        run(agent, ureq::http::Request::from_parts(parts, &bytes[..]))
    } else {
        run(agent, ureq::http::Request::from_parts(parts, SendBody::none()))
    }?;
    let (parts, mut body) = answer.into_parts();
    let declared = body.content_length();
    // A refusal may say more than the object would have had bytes.
    let limit = match parts.status.is_success() && method == Method::GET {
        true => at_most,
        false => LARGEST_TEXT_BYTES,
    };
    let mut bytes = Vec::new();
    if method != Method::HEAD {
        body.with_config()
            .limit(u64::MAX)
            .reader()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Trouble::NoAnswer(format!("the answer broke off: {e}")))?;
        if bytes.len() as u64 > limit {
            let what = format!("the answer has more than the {limit} bytes that it may have");
            return Err(Trouble::Nonsense(what));
        }
        if declared.is_some_and(|declared| declared != bytes.len() as u64) {
            return Err(Trouble::NoAnswer(format!("the answer ended after {} bytes", bytes.len())));
        }
    }
    let answer = Response::from_parts(parts, bytes);
    let status = answer.status();
    // A multipart upload is answered with success before it is known whether it is one.
    let hidden = method == Method::POST && xml::is_error(answer.body());
    if status.is_success() && !hidden {
        return Ok(answer);
    }
    let told = xml::error(answer.body());
    let region = answer.headers().get("x-amz-bucket-region");
    let region = region.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let elsewhere = status.is_redirection() || told.code == "AuthorizationHeaderMalformed";
    Err(Trouble::Answer {
        status: status.as_u16(),
        code: told.code,
        message: told.message,
        region: region.or(told.region).filter(|_| elsewhere),
    })
}

fn run(
    agent: &Agent,
    request: ureq::http::Request<impl AsSendBody>,
) -> Result<Response<ureq::Body>, Trouble> {
    agent.run(request).map_err(|e| {
        let text = match &e {
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            ureq::Error::HostNotFound => "the server's name is not known".to_owned(),
            ureq::Error::ConnectionFailed => "the server cannot be connected to".to_owned(),
            ureq::Error::Io(io) => format!("no connection: {io}"),
            other => other.to_string(),
        };
        match e {
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                Trouble::Nonsense(format!("no secure connection: {text}"))
            }
            ureq::Error::Io(io) if is_distrust(&io) => Trouble::Distrust(io.to_string()),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Trouble::Nonsense(text),
            _ => Trouble::NoAnswer(text),
        }
    })
}

/// How many bytes a request for a range asks for.
fn asked_for(request: &HttpRequest) -> Option<u64> {
    let range = request.headers().get(RANGE)?.to_str().ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
}

/// Whether the server showed a certificate that is not believed: it will show the same again.
fn is_distrust(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// The bytes of a request's body, shared with it where they are in one piece.
fn flatten(body: object_store::client::HttpRequestBody) -> Result<Bytes, Trouble> {
    if let Some(bytes) = body.as_bytes() {
        return Ok(bytes.clone());
    }
    block_on(object_store::client::HttpResponseBody::new(body).bytes()).map_err(Trouble::nonsense)
}

#[async_trait]
impl HttpService for Http {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // A part of a multipart upload belongs to an object that is locked as a whole.
        let lock = request.extensions().get::<Retain>().copied();
        if let Some(Retain(lock)) = lock {
            self.retain(lock, &mut request).await.map_err(Trouble::into_library)?;
        }
        let at_most = asked_for(&request).unwrap_or(LARGEST_OBJECT_BYTES);
        let answer = self.send(request, at_most).map_err(Trouble::into_library)?;
        Ok(answer.map(Into::into))
    }
}

impl HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
