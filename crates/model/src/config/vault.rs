//! What kind of place a vault URL names. The one place that knows the schemes.

use super::Config;
use std::path::Path;

/// A vault URL, by its scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultUrl<'a> {
    /// A directory: a path, or `file://` and a path.
    Directory(&'a Path),
    /// A bucket: `s3://bucket/prefix`, or `s3:https://host/bucket/prefix`.
    S3(&'a str),
    /// What another machine serves: `rest:http…`, `ssh:…`.
    Served(&'a str),
    /// Anything else that has a scheme; none of it is supported.
    Other(&'a str),
}

impl<'a> VaultUrl<'a> {
    /// Looks at the scheme only; what follows it is judged by who opens it.
    pub fn new(url: &'a str) -> VaultUrl<'a> {
        if url.starts_with("rest:") || url.starts_with("ssh:") {
            return VaultUrl::Served(url);
        }
        let path = url.strip_prefix("file://").unwrap_or(url);
        // `sftp:…`: never a directory of that name by accident.
        let scheme = path.split('/').next().is_some_and(|first| first.contains(':'));
        match scheme {
            true if url.starts_with("s3:") => VaultUrl::S3(url),
            true => VaultUrl::Other(url),
            false => VaultUrl::Directory(Path::new(path)),
        }
    }
}

/// The directory that a vault URL names; none if it is another kind of vault.
pub fn vault_dir(url: &str) -> Option<&Path> {
    match VaultUrl::new(url) {
        VaultUrl::Directory(path) => Some(path),
        VaultUrl::S3(_) | VaultUrl::Served(_) | VaultUrl::Other(_) => None,
    }
}

impl Config {
    /// The directories of all vaults that the file names, also of second ones with a mistake.
    pub fn vault_dirs(&self) -> impl Iterator<Item = &Path> {
        let copies = self.copy.values().map(|copy| &copy.vault.url);
        let urls = std::iter::once(&self.vault.url).chain(copies).chain(&self.left_out);
        urls.filter_map(|url| vault_dir(url))
    }
}
