//! The answers of a bucket's server, for tests that try any bytes on what reads them. Behind the
//! feature `doubles`.

use super::xml;

/// Reads bytes as each of the documents that are expected; says how many of them they could be.
pub fn documents(body: &[u8]) -> usize {
    let _ = xml::error(body);
    [xml::objects(body).is_ok(), xml::uploads(body).is_ok(), xml::versions(body).is_ok()]
        .into_iter()
        .filter(|good| *good)
        .count()
}
