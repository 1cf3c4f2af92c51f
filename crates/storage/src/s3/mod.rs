//! A bucket of any server that speaks S3.
//!
//! The library `object_store` shapes and signs the requests and knows where credentials come from;
//! the requests are sent by the same blocking HTTP client as everything else (`http.rs`), tried
//! again by us (`attempts.rs`), and their failures told in our words (`trouble.rs`). Listings are
//! read by us (`xml.rs`), because a bucket may hold objects whose names are no keys of ours.
//!
//! A put that returned is durable: S3 answers when the object is stored. Every listing shows what
//! was put before it (S3 is consistent since 2020; a server that is not is no vault).

mod as_of;
mod attempts;
mod credentials;
mod http;
mod locks;
mod multipart;
mod options;
#[cfg(feature = "doubles")]
pub mod trial;
mod trouble;
mod versions;
mod xml;

pub use options::{Credentials, Lock, LockMode, Options, Tuning};

use crate::key::check_prefix;
use crate::probe::Retention;
use crate::{Entry, Error, ErrorKind, Key, Put, Storage};
use attempts::Attempts;
use base64::prelude::*;
use http::{Answer, Http, Signing, block_on};
use model::CancelToken;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use options::Place;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use trouble::Trouble;
use ureq::http::{HeaderValue, Method};

/// Which attempt of ours made an object: a random mark that a put-if-absent stores beside it.
const MARK: &str = "mainstay-mark";

/// A part of a bucket.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

struct Inner {
    library: AmazonS3,
    http: Http,
    /// Without the slash at its end.
    bucket_url: String,
    place: Place,
    location: String,
    lock: Option<Lock>,
    tuning: Tuning,
    cancel: CancelToken,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3").field(&self.0.location).finish()
    }
}

/// Opens what an `s3:` URL names. Asks the server nothing yet.
pub fn open(url: &str, options: &Options, cancel: &CancelToken) -> Result<Arc<dyn Storage>, Error> {
    let s3 = S3::open(url, options, cancel)?;
    Ok(match options.as_of {
        Some(time) => Arc::new(as_of::AsOf::new(s3, time)),
        None => Arc::new(s3),
    })
}

impl S3 {
    fn open(url: &str, options: &Options, cancel: &CancelToken) -> Result<S3, Error> {
        let mut place = Place::parse(url)?;
        let shown = model::config::without_password(url);
        let invalid = |what: String| Error::new(ErrorKind::Invalid, &shown, what);
        if place.endpoint.is_some() && options.endpoint.is_some() {
            return Err(invalid("the URL and `endpoint` both name a server".to_owned()));
        }
        let from_environment = || {
            ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().find_map(credentials::variable)
        };
        place.endpoint =
            place.endpoint.or_else(|| options.endpoint.clone()).or_else(from_environment);
        if let Some(endpoint) = &mut place.endpoint {
            let trimmed = endpoint.trim_end_matches('/').len();
            endpoint.truncate(trimmed);
            if !(endpoint.starts_with("http://") || endpoint.starts_with("https://")) {
                return Err(invalid(format!("the endpoint {endpoint} is no http or https URL")));
            }
        }
        let region = options.region.clone().or_else(|| {
            ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(credentials::variable)
        });
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        // A dot in the bucket's name would not match the server's certificate.
        let as_path = place.endpoint.is_some() || place.bucket.contains('.');
        let as_path = options.path_style.unwrap_or(as_path);
        let (base, bucket_url) = addresses(&place, &region, as_path);
        let location = match &place.endpoint {
            Some(endpoint) => format!("s3:{endpoint}/{}", joined(&place.bucket, &place.prefix)),
            None => format!("s3://{}", joined(&place.bucket, &place.prefix)),
        };

        let ca_file = options.ca_file.clone();
        let ca_file = ca_file.or_else(|| credentials::variable("AWS_CA_BUNDLE").map(Into::into));
        let authorities = ca_file.as_deref().map(certificates).transpose()?;
        let http = Http::new(options.tuning, cancel.clone(), authorities);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&place.bucket)
            .with_region(&region)
            .with_endpoint(base)
            .with_allow_http(true)
            .with_virtual_hosted_style_request(!as_path)
            // Trying again is ours: it has to end when somebody cancels.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(http.clone());
        if options.lock.is_some() {
            // S3 wants a checksum with everything that it locks.
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        let library = credentials::provide(builder, &options.credentials, &location)?
            .build()
            .map_err(|e| Trouble::from_library(&e).about(&location))?;
        http.sign_with(Signing { credentials: library.credentials().clone(), region });
        Ok(S3(Arc::new(Inner {
            library,
            http,
            bucket_url,
            place,
            location,
            lock: options.lock,
            tuning: options.tuning,
            cancel: cancel.clone(),
        })))
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts::new(&self.0.tuning, &self.0.cancel)
    }

    /// The name in the bucket.
    fn name(&self, key: &Key) -> String {
        joined(&self.0.place.prefix, key.as_str())
    }

    fn path(&self, key: &Key) -> Result<Path, Error> {
        Path::parse(self.name(key)).map_err(|e| Error::new(ErrorKind::Invalid, key, e))
    }

    /// The prefix of all names below a prefix of ours, with its slash.
    fn names_below(&self, prefix: &str) -> String {
        match joined(&self.0.place.prefix, prefix) {
            all if all.is_empty() => all,
            some => format!("{some}/"),
        }
    }

    /// Ours again; none for what is not.
    fn key(&self, name: &str) -> Option<Key> {
        let rest = match self.0.place.prefix.as_str() {
            "" => name,
            prefix => name.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        Key::new(rest).ok()
    }

    /// A request of the library, tried again.
    fn library<T>(
        &self,
        object: &str,
        mut request: impl FnMut(&AmazonS3) -> object_store::Result<T>,
    ) -> Result<T, Error> {
        self.attempts()
            .run(|| request(&self.0.library).map_err(|e| Trouble::from_library(&e)))
            .map_err(|trouble| trouble.about(object))
    }

    /// A request that the library does not know, tried again. `name` is empty for the bucket.
    fn own(&self, method: &Method, name: &str, query: &[(&str, &str)]) -> Result<Answer, Trouble> {
        self.own_with(method, name, query, String::new())
    }

    /// The same, with a document in it.
    fn own_with(
        &self,
        method: &Method,
        name: &str,
        query: &[(&str, &str)],
        document: String,
    ) -> Result<Answer, Trouble> {
        let url = own_url(&self.0.bucket_url, name, query);
        self.attempts().run(|| {
            let mut request = HttpRequest::new(HttpRequestBody::from(document.clone()));
            if !document.is_empty() {
                let sum = BASE64_STANDARD.encode(Sha256::digest(&document));
                let sum = HeaderValue::from_str(&sum).map_err(Trouble::nonsense)?;
                request.headers_mut().insert("x-amz-checksum-sha256", sum);
            }
            *request.method_mut() = method.clone();
            *request.uri_mut() = url.parse().map_err(Trouble::nonsense)?;
            block_on(self.0.http.send_own(request))
        })
    }

    fn get(&self, key: &Key, range: Option<GetRange>, version: Option<&str>) -> GetOut {
        let path = self.path(key)?;
        let options =
            GetOptions { range, version: version.map(str::to_owned), ..GetOptions::default() };
        let shown = self.shown(key);
        self.library(&shown, |library| {
            block_on(async {
                let result = library.get_opts(&path, options.clone()).await?;
                let size = result.meta.size;
                Ok((size, result.bytes().await?.into()))
            })
        })
    }

    fn read_version(&self, key: &Key, version: Option<&str>) -> Result<Vec<u8>, Error> {
        let (size, bytes) = self.get(key, None, version)?;
        if bytes.len() as u64 != size {
            let what = format!("{} bytes came of {size}", bytes.len());
            return Err(Error::new(ErrorKind::Truncated, self.shown(key), what));
        }
        Ok(bytes)
    }

    fn read_range_version(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
        version: Option<&str>,
    ) -> Result<Vec<u8>, Error> {
        let truncated = |what: String| Error::new(ErrorKind::Truncated, self.shown(key), what);
        let end = offset.checked_add(length as u64);
        let Some(end) = end.filter(|end| *end > offset) else {
            // No bytes, or more than there can be: S3 has no such range.
            let size = self.size_of_version(key, version)?;
            return match length {
                0 if offset <= size => Ok(Vec::new()),
                _ => Err(truncated(format!("{length} bytes from {offset} of {size}"))),
            };
        };
        let (size, bytes) = self.get(key, Some(GetRange::Bounded(offset..end)), version)?;
        if bytes.len() != length {
            return Err(truncated(format!(
                "{} bytes came of {length} from {offset} of {size}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    fn size_of_version(&self, key: &Key, version: Option<&str>) -> Result<u64, Error> {
        let path = self.path(key)?;
        let options =
            GetOptions { head: true, version: version.map(str::to_owned), ..GetOptions::default() };
        let meta = self.library(&self.shown(key), |library| {
            block_on(library.get_opts(&path, options.clone()))
        })?;
        Ok(meta.meta.size)
    }

    /// The object, for messages.
    fn shown(&self, key: &Key) -> String {
        format!("{}/{key}", self.0.location)
    }

    /// Whether the object that is there carries this mark, so that it was an attempt of ours that
    /// made it.
    fn carries(&self, key: &Key, path: &Path, mark: &str) -> Result<bool, Error> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = self
            .library(&self.shown(key), |library| block_on(library.get_opts(path, options.clone())));
        match found {
            Ok(result) => {
                let stored = result.attributes.get(&Attribute::Metadata(MARK.into()));
                Ok(stored.is_some_and(|stored| stored.as_ref() == mark))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// All pages of a listing. `page` reads one and says how the next is asked for.
    fn pages(
        &self,
        shown: &str,
        first: Vec<(&'static str, String)>,
        mut page: impl FnMut(&[u8]) -> Result<Option<Vec<(&'static str, String)>>, Trouble>,
    ) -> Result<(), Error> {
        let mut more = Vec::new();
        loop {
            let query: Vec<(&str, &str)> =
                first.iter().chain(&more).map(|(key, value)| (*key, value.as_str())).collect();
            let answer =
                self.own(&Method::GET, "", &query).map_err(|trouble| not_listed(trouble, shown))?;
            match page(answer.body()).map_err(|trouble| trouble.about(shown))? {
                // A server that names the same page again would be asked for ever.
                Some(next) if next == more => {
                    let trouble = Trouble::Nonsense("the listing does not go on".to_owned());
                    return Err(trouble.about(shown));
                }
                Some(next) => more = next,
                None => return Ok(()),
            }
        }
    }
}

/// A size and bytes.
type GetOut = Result<(u64, Vec<u8>), Error>;

/// No listing means no bucket, never an empty vault.
fn not_listed(trouble: Trouble, shown: &str) -> Error {
    match trouble {
        Trouble::Answer { status: 404, code, message, region } if code.is_empty() => {
            let code = "NoSuchBucket".to_owned();
            Trouble::Answer { status: 404, code, message, region }.about(shown)
        }
        trouble => trouble.about(shown),
    }
}

fn joined(front: &str, back: &str) -> String {
    match (front, back) {
        ("", back) => back.to_owned(),
        (front, "") => front.to_owned(),
        (front, back) => format!("{front}/{back}"),
    }
}

/// What the library takes for the endpoint, and the URL of the bucket.
fn addresses(place: &Place, region: &str, as_path: bool) -> (String, String) {
    let bucket = &place.bucket;
    let server = match &place.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => format!("https://s3.{region}.amazonaws.com"),
    };
    if as_path {
        let url = format!("{server}/{bucket}");
        (server, url)
    } else {
        // As a host of its own below the server.
        let url = match server.split_once("://") {
            Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
            None => server,
        };
        (url.clone(), url)
    }
}

/// The URL of a request of our own. What is escaped is what the signature escapes.
fn own_url(bucket_url: &str, name: &str, query: &[(&str, &str)]) -> String {
    let mut url = format!("{bucket_url}/{}", escaped(name, true));
    for (at, (key, value)) in query.iter().enumerate() {
        url.push(if at == 0 { '?' } else { '&' });
        url.push_str(&format!("{}={}", escaped(key, false), escaped(value, false)));
    }
    url
}

fn escaped(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if keep_slash => out.push('/'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn certificates(file: &std::path::Path) -> Result<Vec<ureq::tls::Certificate<'static>>, Error> {
    let pem = std::fs::read(file).map_err(|e| Error::io(file.display(), "read", e))?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        let item = item.map_err(|e| {
            Error::new(ErrorKind::Invalid, file.display(), format!("no certificates: {e}"))
        })?;
        if let ureq::tls::PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, file.display(), "holds no certificate"));
    }
    Ok(found)
}

impl Storage for S3 {
    fn location(&self) -> String {
        self.0.location.clone()
    }

    fn read(&self, key: &Key) -> Result<Vec<u8>, Error> {
        self.read_version(key, None)
    }

    fn read_range(&self, key: &Key, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
        self.read_range_version(key, offset, length, None)
    }

    fn size(&self, key: &Key) -> Result<u64, Error> {
        self.size_of_version(key, None)
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > self.0.tuning.part_bytes {
            return self.put_parts(key, bytes);
        }
        let path = self.path(key)?;
        let payload = PutPayload::from(bytes.to_vec());
        self.library(&self.shown(key), |library| {
            let options = PutOptions { extensions: self.extensions(key), ..PutOptions::default() };
            block_on(library.put_opts(&path, payload.clone(), options)).map(|_| ())
        })
    }

    /// By `If-None-Match: *`, which the server must honour; see `crate::probe`.
    ///
    /// An answer can be lost after the object was made. The next attempt then meets an object,
    /// and it matters whose: if ours, this call made it and must say so, because nobody else will
    /// be told `Created`; if another's, it must not. Equal bytes would not tell, because another
    /// caller may have put the same. So each call stores a random mark beside the bytes, the same
    /// in all its attempts: an object that carries it was made by an attempt of this call, and an
    /// object that does not was not. (A server that loses marks has us say `Exists` of our own
    /// object, which is the safe side: the caller looks at the object then, or tries the next
    /// number.) Only after a lost answer is it asked at all; 412 to the first attempt is `Exists`.
    fn put_if_absent(&self, key: &Key, bytes: &[u8]) -> Result<Put, Error> {
        let path = self.path(key)?;
        let shown = self.shown(key);
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|e| Error::new(ErrorKind::Failed, &shown, format!("no random bytes: {e}")))?;
        let mark = hex::encode(random);
        let payload = PutPayload::from(bytes.to_vec());
        let mut attempts = self.attempts();
        let mut may_be_ours = false;
        loop {
            let mut attributes = Attributes::new();
            attributes.insert(Attribute::Metadata(MARK.into()), mark.clone().into());
            let options = PutOptions {
                mode: PutMode::Create,
                attributes,
                extensions: self.extensions(key),
                ..PutOptions::default()
            };
            let result = block_on(self.0.library.put_opts(&path, payload.clone(), options));
            match result.map_err(|e| Trouble::from_library(&e)) {
                Ok(_) => return Ok(Put::Created),
                Err(trouble) if trouble.is_condition() => {
                    return match may_be_ours && self.carries(key, &path, &mark)? {
                        true => Ok(Put::Created),
                        false => Ok(Put::Exists),
                    };
                }
                Err(trouble) => {
                    may_be_ours |= trouble.may_be_done();
                    attempts.pause(trouble).map_err(|trouble| trouble.about(&shown))?;
                }
            }
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        check_prefix(prefix)?;
        let first = vec![
            ("list-type", "2".to_owned()),
            ("max-keys", self.0.tuning.page.to_string()),
            ("prefix", self.names_below(prefix)),
        ];
        let shown = format!("list {}", joined(&self.0.location, prefix));
        let mut entries = Vec::new();
        self.pages(&shown, first, |body| {
            let page = xml::objects(body)?;
            let ours = page.contents.into_iter().filter_map(|object| {
                Some(Entry { key: self.key(&object.key)?, size_bytes: object.size })
            });
            entries.extend(ours);
            next_page(page.is_truncated, [("continuation-token", page.next_continuation_token)])
        })?;
        entries.sort_unstable();
        entries.dedup_by(|a, b| a.key == b.key);
        Ok(entries)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        match self.own(&Method::DELETE, &self.name(key), &[]) {
            Ok(_) => Ok(()),
            Err(trouble) if trouble.status() == Some(404) && trouble.code() != "NoSuchBucket" => {
                Ok(())
            }
            Err(trouble) => Err(trouble.about(&self.shown(key))),
        }
    }

    /// The server groups them: a vault may hold many objects.
    fn first_parts(&self) -> Result<Vec<String>, Error> {
        let first = vec![
            ("delimiter", "/".to_owned()),
            ("list-type", "2".to_owned()),
            ("max-keys", self.0.tuning.page.to_string()),
            ("prefix", self.names_below("")),
        ];
        let mut parts = Vec::new();
        self.pages(&format!("list {}", self.0.location), first, |body| {
            let page = xml::objects(body)?;
            let groups = page.common_prefixes.iter().map(|one| one.prefix.trim_end_matches('/'));
            let names = groups.chain(page.contents.iter().map(|object| object.key.as_str()));
            parts.extend(names.filter_map(|name| self.key(name)).map(|key| key.to_string()));
            next_page(page.is_truncated, [("continuation-token", page.next_continuation_token)])
        })?;
        parts.sort_unstable();
        parts.dedup();
        Ok(parts)
    }

    fn free_bytes(&self) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    fn remove_leftovers(&self, prefix: &str) -> Result<u64, Error> {
        self.abort_old_uploads(prefix)
    }

    fn lock_again(&self, prefix: &str) -> Result<Option<u64>, Error> {
        check_prefix(prefix)?;
        S3::lock_again(self, prefix)
    }

    fn probe_retention(&self, key: &Key) -> Result<Retention, Error> {
        self.probe_lock(key)
    }
}

/// How the next page is asked for; a server that says that there is more must say how.
fn next_page<const N: usize>(
    is_truncated: bool,
    next: [(&'static str, Option<String>); N],
) -> Result<Option<Vec<(&'static str, String)>>, Trouble> {
    if !is_truncated {
        return Ok(None);
    }
    let next: Vec<_> = next.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    match next.is_empty() {
        true => Err(Trouble::Nonsense("the listing ends in the middle".to_owned())),
        false => Ok(Some(next)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_a_part_of_the_path_or_of_the_name() {
        let at = |url: &str| Place::parse(url).unwrap();
        let address = |url: &str, as_path| addresses(&at(url), "eu-central-1", as_path).1;
        let amazon = "s3://bucket/x";
        assert_eq!(address(amazon, true), "https://s3.eu-central-1.amazonaws.com/bucket");
        assert_eq!(address(amazon, false), "https://bucket.s3.eu-central-1.amazonaws.com");
        let other = "s3:https://h:9000/bucket/x";
        assert_eq!(address(other, true), "https://h:9000/bucket");
        assert_eq!(address(other, false), "https://bucket.h:9000");
    }

    #[test]
    fn what_the_signature_escapes_is_escaped() {
        let url = own_url("https://h/b", "v/a+b=c@d~e", &[("prefix", "a/b c"), ("uploads", "")]);
        assert_eq!(url, "https://h/b/v/a%2Bb%3Dc%40d~e?prefix=a%2Fb%20c&uploads=");
    }
}
