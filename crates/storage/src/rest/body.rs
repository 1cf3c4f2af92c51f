//! What a server's answers say. It may be any server, or somebody in between: nothing of it is
//! believed that does not fit what was asked.

use super::below;
use crate::protocol::{Capabilities, Item, Kind, Leftovers, is_name, named_key};
use crate::{Entry, ErrorKind, Key};
use serde::de::DeserializeOwned;

/// What a vault host says of itself.
pub(super) fn capabilities(body: &[u8]) -> Result<Capabilities, (ErrorKind, String)> {
    let told: Capabilities =
        json(body, "answer to the probe").map_err(|e| (ErrorKind::Failed, e))?;
    if told.protocol != 1 || !told.put_if_absent {
        let message = "it cannot create an object only where there is none";
        return Err((ErrorKind::Invalid, message.to_owned()));
    }
    Ok(told)
}

/// A listing of everything below a prefix, in our dialect.
pub(super) fn listing(prefix: &str, body: &[u8]) -> Result<Vec<Entry>, String> {
    let items: Vec<Item> = json(body, "listing")?;
    let entry = |item: Item| entry(format!("{}{}", below(prefix), item.name), item.size);
    let mut entries = items.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    Ok(entries)
}

/// A listing of one kind of file in restic's dialect. Other files in there are not the repository's.
pub(super) fn plain_listing(
    repository: &str,
    kind: Kind,
    body: &[u8],
) -> Result<Vec<Entry>, String> {
    let items: Vec<Item> = json(body, "listing")?;
    let items = items.into_iter().filter(|item| is_name(&item.name));
    items.map(|item| entry(named_key(repository, kind, &item.name), item.size)).collect()
}

/// How many leftovers were removed.
pub(super) fn leftovers(body: &[u8]) -> Result<u64, String> {
    json(body, "answer").map(|Leftovers { removed }| removed)
}

fn entry(key: String, size_bytes: u64) -> Result<Entry, String> {
    let key = Key::new(key).map_err(|e| format!("its listing makes no sense: {e}"))?;
    Ok(Entry { key, size_bytes })
}

fn json<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|e| format!("its {what} makes no sense: {e}"))
}
