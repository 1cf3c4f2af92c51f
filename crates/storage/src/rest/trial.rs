//! What a server's answers are taken for, for tests that try any bytes on what reads them. Behind
//! the feature `doubles`.

use super::body;
use crate::Entry;
use crate::protocol::Kind;

/// The objects that an answer lists, if it is taken for a listing of what lies below this prefix: in
/// our dialect, and then, of the repository there, in restic's.
pub fn listed(prefix: &str, answer: &[u8]) -> [Vec<Entry>; 2] {
    let _ = (body::capabilities(answer), body::leftovers(answer));
    let plain = Kind::ALL.into_iter().flat_map(|kind| {
        body::plain_listing(&super::below(prefix), kind, answer).unwrap_or_default()
    });
    [body::listing(prefix, answer).unwrap_or_default(), plain.collect()]
}
