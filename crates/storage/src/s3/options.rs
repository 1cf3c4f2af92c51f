//! How a bucket is reached: what the configuration may say, and what it means where it says
//! nothing.

use crate::{Error, ErrorKind};
use jiff::{SignedDuration, Timestamp};
use model::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// What an S3 storage is told besides its URL.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `https://host:port` of the server, without the bucket. Amazon's without it, or what
    /// `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` say.
    pub endpoint: Option<String>,
    /// `eu-central-1`; else what `AWS_REGION` and `AWS_DEFAULT_REGION` say, else `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket is a part of the path and not of the host's name. Without it: yes for
    /// every server but Amazon's.
    pub path_style: Option<bool>,
    /// Who we are.
    pub credentials: Credentials,
    /// Certificate authorities in PEM that are trusted instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Lock what is written against removal.
    pub lock: Option<Lock>,
    /// Read the bucket as it was at this time, by its own clock, and write nothing.
    pub as_of: Option<Timestamp>,
    /// Waiting and trying again.
    pub tuning: Tuning,
}

/// Where the access key is.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// In the environment, as the field's other tools read it: `AWS_ACCESS_KEY_ID` and
    /// `AWS_SECRET_ACCESS_KEY`, a shared credentials file, a web identity, a container's role.
    #[default]
    Environment,
    /// Here.
    Key {
        /// Its id, which is no secret.
        id: String,
        /// Its secret.
        secret: Secret,
        /// The token of temporary credentials.
        token: Option<Secret>,
    },
    /// In a shared credentials file, under this profile (`default` without one).
    File {
        /// The file.
        path: PathBuf,
        /// `[profile]` in it.
        profile: Option<String>,
    },
    /// From the metadata service of the cloud machine that this runs on.
    Instance,
}

/// How strong a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Who has a special permission can lift it.
    Governance,
    /// Nobody can lift it before its time, not even the account's owner.
    Compliance,
}

impl LockMode {
    /// As S3 writes it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            LockMode::Governance => "GOVERNANCE",
            LockMode::Compliance => "COMPLIANCE",
        }
    }
}

/// A lock on what is written: it cannot be removed or replaced for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// How strong.
    pub mode: LockMode,
    /// How long from the moment of writing.
    pub period: Duration,
}

impl Lock {
    /// When it ends, as S3 writes times.
    pub(super) fn until(&self, now: Timestamp) -> String {
        let period = SignedDuration::try_from(self.period).unwrap_or(SignedDuration::MAX);
        let end = now.saturating_add(period).unwrap_or(Timestamp::MAX);
        // Whole seconds, rounded up: a lock must not end early.
        let seconds = end.as_second().saturating_add(1);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
    }
}

/// Waiting and trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The longest to wait for a connection.
    pub connect: Duration,
    /// The longest to wait for the next bytes.
    pub idle: Duration,
    /// No attempt begins later than this after the first one of a request.
    pub give_up: Duration,
    /// The longest pause before the second attempt; it doubles from there on.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long a request may take that cleans up after a cancel.
    pub cancelled: Duration,
    /// Objects larger than this are sent in parts of this size; S3 asks for 5 MiB at least.
    pub part_bytes: usize,
    /// Entries on one page of a listing; 1,000 is the most that S3 gives.
    pub page: u32,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            give_up: Duration::from_secs(180),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(15),
            cancelled: Duration::from_secs(5),
            part_bytes: 32 << 20,
            page: 1000,
        }
    }
}

/// What a URL says: `s3://bucket/prefix`, or as restic writes it
/// `s3:https://host:port/bucket/prefix` and `s3:host/bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) endpoint: Option<String>,
    pub(super) bucket: String,
    /// Empty for the whole bucket.
    pub(super) prefix: String,
}

impl Place {
    pub(super) fn parse(url: &str) -> Result<Place, Error> {
        // What is wrong may be a password that does not belong there.
        let shown = model::config::without_password(url);
        let wrong = |what: &str| {
            Err(Error::new(ErrorKind::Invalid, &shown, what).hinting(
                "Write s3://BUCKET/PREFIX, or s3:https://HOST:PORT/BUCKET/PREFIX for a server \
                 other than Amazon's.",
            ))
        };
        if url.contains(['?', '#', '@', '%', ' ']) || url.chars().any(char::is_control) {
            return wrong("a vault's URL holds no user, password, query or escapes");
        }
        let (endpoint, path) = if let Some(path) = url.strip_prefix("s3://") {
            (None, path)
        } else {
            let Some(rest) = url.strip_prefix("s3:") else { return wrong("not an S3 URL") };
            let (scheme, rest) = match rest.split_once("://") {
                Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
                Some(_) => return wrong("the server is reached by http or https only"),
                None => ("https", rest),
            };
            let Some((host, path)) = rest.split_once('/').filter(|(host, _)| !host.is_empty())
            else {
                return wrong("no bucket is named");
            };
            (Some(format!("{scheme}://{host}")), path)
        };
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
            return wrong("a bucket's name has 3 to 63 letters, digits, dots and dashes");
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() && crate::Key::new(prefix).is_err() {
            return wrong("the prefix in the bucket is no key");
        }
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(Place { endpoint, bucket, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_bucket_and_a_prefix() {
        let place = |endpoint: Option<&str>, bucket: &str, prefix: &str| Place {
            endpoint: endpoint.map(str::to_owned),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (url, want) in [
            ("s3://bucket", place(None, "bucket", "")),
            ("s3://bucket/", place(None, "bucket", "")),
            ("s3://bucket/a/b/", place(None, "bucket", "a/b")),
            ("s3:https://h:9000/bucket/a", place(Some("https://h:9000"), "bucket", "a")),
            ("s3:http://127.0.0.1:1/bucket", place(Some("http://127.0.0.1:1"), "bucket", "")),
            ("s3:s3.example.org/bucket/a", place(Some("https://s3.example.org"), "bucket", "a")),
        ] {
            assert_eq!(Place::parse(url).unwrap(), want, "{url}");
        }
        for url in [
            "s3:",
            "s3://",
            "s3:host",
            "s3:https:///bucket",
            "s3:ftp://host/bucket",
            "s3://b",
            "s3://buck et",
            "s3://user:secret@bucket/x",
            "s3:https://user:secret@host/bucket",
            "s3://bucket/../x",
            "s3://bucket//x",
            "s3://bucket/x?versionId=1",
        ] {
            let error = Place::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_lock_does_not_end_early() {
        let lock = Lock { mode: LockMode::Governance, period: Duration::from_secs(86_400) };
        let now: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        assert_eq!(lock.until(now), "2026-01-02T00:00:01Z");
        let forever = Lock { period: Duration::MAX, ..lock };
        assert!(forever.until(now).starts_with("9999-"));
    }
}
