//! From the URL of a vault to its storage: one arm for each kind of place.

use crate::{Error, ErrorKind, Local, Rest, Storage, rest, s3};
use model::CancelToken;
use model::config::VaultUrl;
use std::sync::Arc;

/// What a storage is told besides its URL.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Ends waiting: calls that wait for another machine return soon after it was set, with
    /// `ErrorKind::Cancelled`, and nothing is tried again from then on. Calls that begin later (to
    /// clean up) are still made, once each.
    pub cancel: CancelToken,
    /// For a vault that another machine serves.
    pub served: rest::Options,
    /// For a bucket.
    pub s3: s3::Options,
}

/// Opens the storage that a vault URL names.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn Storage>, Error> {
    match VaultUrl::new(url) {
        VaultUrl::Directory(path) => {
            no_past(url, options, "a directory")?;
            Ok(Arc::new(Local::open(path)?))
        }
        VaultUrl::Served(url) => {
            no_past(url, options, "what another machine serves")?;
            let options =
                rest::Options { cancel: options.cancel.clone(), ..options.served.clone() };
            Ok(Arc::new(Rest::open(url, &options)?))
        }
        VaultUrl::S3(url) => s3::open(url, &options.s3, &options.cancel),
        VaultUrl::Other(url) => Err(Error::new(
            ErrorKind::Invalid,
            model::config::without_password(url),
            "this kind of vault is not supported; use a directory, s3:, rest: or ssh:",
        )),
    }
}

/// Refuses to look at the past of a place that keeps none: what is there now would be taken for it.
fn no_past(url: &str, options: &Options, place: &str) -> Result<(), Error> {
    if options.s3.as_of.is_none() {
        return Ok(());
    }
    let what = format!("{place} keeps no earlier versions that it could be read as of");
    Err(Error::new(ErrorKind::Invalid, model::config::without_password(url), what))
}
