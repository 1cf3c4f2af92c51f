//! Where `cargo xtask provide` puts the servers that tests drive: into the user's cache, so that
//! every checkout uses the same ones and `cargo clean` spares them.
//!
//! The task compiles this very file, too. It may link nothing of the product, and there must be one
//! answer.

use std::path::PathBuf;

/// The directory of the S3 servers.
pub const S3_SERVERS: &str = "mainstay-s3-servers";

/// The directory of the versions of PostgreSQL that Debian does not have.
pub const POSTGRES_VERSIONS: &str = "mainstay-postgres-versions";

/// The directory of those that are driven on demand only.
pub const MORE_POSTGRES_VERSIONS: &str = "mainstay-more-postgres-versions";

/// Where one of these directories is, or belongs.
pub fn provided(directory: &str) -> Result<PathBuf, String> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
    let cache = cache.ok_or("neither HOME nor XDG_CACHE_HOME is set")?;
    Ok(cache.join(directory))
}
