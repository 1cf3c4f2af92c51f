//! What can go wrong between us and an S3 server, and whether trying again may help.

use crate::{Error, ErrorKind};
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error as StdError;

/// A request that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// The server answered, and not with success.
    #[error("{}", told(*.status, .code, .message, .region.as_deref()))]
    Answer {
        /// The HTTP status.
        status: u16,
        /// S3's name for it (`SlowDown`), empty if the answer had none.
        code: String,
        /// What the server says about it.
        message: String,
        /// Where the bucket really is, if the server says so.
        region: Option<String>,
    },
    /// There was no whole answer: the request may have been carried out all the same.
    #[error("{0}")]
    NoAnswer(String),
    /// An answer that makes no sense, or whose bytes are not those that were asked for.
    #[error("{0}")]
    Nonsense(String),
    /// The server's certificate is not believed.
    #[error("no secure connection: {0}")]
    Distrust(String),
    /// The credentials could not be had.
    #[error("{0}")]
    Credentials(String),
    /// Somebody asked for it to stop.
    #[error("stopped while waiting for the server")]
    Cancelled,
}

fn told(status: u16, code: &str, message: &str, region: Option<&str>) -> String {
    let mut text = match (code, message) {
        ("", "") => format!("the server answered with status {status}"),
        ("", message) => format!("the server answered with status {status}: {message}"),
        (code, "") => format!("the server answered {code} (status {status})"),
        (code, message) => format!("the server answered {code} (status {status}): {message}"),
    };
    if let Some(region) = region {
        text.push_str(&format!("; the bucket is in region {region}"));
    }
    text
}

impl Trouble {
    /// Our own error again, from within the library's.
    pub(super) fn from_library(error: &(dyn StdError + 'static)) -> Trouble {
        let mut text = error.to_string();
        let mut at = Some(error);
        while let Some(one) = at {
            if let Some(trouble) = one.downcast_ref::<Trouble>() {
                return trouble.clone();
            }
            text = one.to_string();
            at = one.source();
        }
        Trouble::Nonsense(text)
    }

    /// Something that could not be made or read.
    pub(super) fn nonsense(error: impl std::fmt::Display) -> Trouble {
        Trouble::Nonsense(error.to_string())
    }

    /// As the library wants it. It must not try again by itself, so it is told that that is no use.
    pub(super) fn into_library(self) -> HttpError {
        HttpError::new(HttpErrorKind::Unknown, self)
    }

    /// The HTTP status, if there was an answer.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Trouble::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// S3's name for it.
    pub(super) fn code(&self) -> &str {
        match self {
            Trouble::Answer { code, .. } => code,
            _ => "",
        }
    }

    /// Whether the same request may succeed a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Trouble::Answer { status, code, .. } => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
                    || matches!(
                        code.as_str(),
                        "InternalError" | "SlowDown" | "RequestTimeout" | "OperationAborted"
                    )
                    // Two conditional requests for one object at the same moment.
                    || code == "ConditionalRequestConflict"
            }
            Trouble::NoAnswer(_) => true,
            Trouble::Nonsense(_)
            | Trouble::Distrust(_)
            | Trouble::Credentials(_)
            | Trouble::Cancelled => false,
        }
    }

    /// Whether the server may have carried the request out although it did not say so.
    pub(super) fn may_be_done(&self) -> bool {
        match self {
            Trouble::Answer { status, .. } => *status >= 500,
            Trouble::NoAnswer(_) | Trouble::Nonsense(_) | Trouble::Cancelled => true,
            Trouble::Distrust(_) | Trouble::Credentials(_) => false,
        }
    }

    /// Whether the server refused a condition (`If-None-Match`): some say 412, some 304.
    pub(super) fn is_condition(&self) -> bool {
        matches!(self.status(), Some(304 | 412))
    }

    /// As an error of ours, about this object.
    pub(super) fn about(self, object: &str) -> Error {
        let kind = match &self {
            Trouble::Cancelled => ErrorKind::Cancelled,
            Trouble::Credentials(_) => ErrorKind::Permission,
            Trouble::Nonsense(_) | Trouble::Distrust(_) => ErrorKind::Failed,
            Trouble::NoAnswer(_) => ErrorKind::Unavailable,
            Trouble::Answer { status, code, .. } => match (*status, code.as_str()) {
                (_, "NoSuchBucket" | "InvalidBucketName" | "PermanentRedirect") => {
                    ErrorKind::Invalid
                }
                (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed") => ErrorKind::Invalid,
                (_, "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage") | (507, _) => {
                    ErrorKind::NoSpace
                }
                (404, _) => ErrorKind::NotFound,
                (416, _) => ErrorKind::Truncated,
                (401 | 403, _) => ErrorKind::Permission,
                _ if self.may_pass() => ErrorKind::Unavailable,
                _ => ErrorKind::Failed,
            },
        };
        let hint = self.hint();
        let error = Error::new(kind, object, self);
        match hint {
            Some(hint) => error.hinting(hint),
            None => error,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Trouble::Answer { region: Some(region), .. } => {
                return Some(format!("Set `region = \"{region}\"` in [vault.s3]."));
            }
            Trouble::NoAnswer(_) => {
                "Look whether the server runs and can be reached from this host (name, port, \
                 firewall); the URL and `endpoint` say where it is."
            }
            Trouble::Distrust(_) => {
                "If the certificate is signed by an authority of your own, name its file with \
                 `ca-file` in [vault.s3]."
            }
            Trouble::Answer { status, code, .. } => match (code.as_str(), *status) {
                ("NoSuchBucket", _) => {
                    "Make the bucket first (Mainstay makes none), or correct the vault's URL."
                }
                ("InvalidAccessKeyId" | "SignatureDoesNotMatch", _) => {
                    "Correct the access key or its secret; docs/guide/s3.md says where they come \
                     from."
                }
                ("RequestTimeTooSkewed", _) => {
                    "Set this host's clock: the server refuses requests that are signed at \
                     another time than its own."
                }
                ("ExpiredToken", _) => "Get new temporary credentials.",
                (_, 401 | 403) => {
                    "Look at what the access key may do; docs/guide/s3.md lists the least that it \
                     needs."
                }
                _ => return None,
            },
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
