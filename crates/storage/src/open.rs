//! From the URL of a vault to its storage: one arm for each kind of place.

use crate::{Error, ErrorKind, Local, Rest, Storage, rest};
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
}

/// Opens the storage that a vault URL names.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn Storage>, Error> {
    match VaultUrl::new(url) {
        VaultUrl::Directory(path) => Ok(Arc::new(Local::open(path)?)),
        VaultUrl::Served(url) => {
            let options =
                rest::Options { cancel: options.cancel.clone(), ..options.served.clone() };
            Ok(Arc::new(Rest::open(url, &options)?))
        }
        VaultUrl::Other(url) => Err(Error::new(
            ErrorKind::Invalid,
            model::config::without_password(url),
            "this kind of vault is not supported; use a directory, rest: or ssh:",
        )),
    }
}
