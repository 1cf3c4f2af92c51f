//! Earlier versions of objects.

use super::trouble::Trouble;
use super::{S3, next_page, xml};
use crate::{Error, Key};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) id: String,
    pub(super) size_bytes: u64,
}

impl S3 {
    /// What was there at a time, by the bucket's own clock: of each object below the prefix the
    /// newest version that is not younger, unless it is the mark of its removal.
    pub(super) fn versions_at(
        &self,
        prefix: &str,
        time: Timestamp,
    ) -> Result<BTreeMap<Key, Version>, Error> {
        let first = vec![
            ("versions", String::new()),
            ("max-keys", self.0.tuning.page.to_string()),
            ("prefix", self.names_below(prefix)),
        ];
        let shown = format!("{}, versions below {prefix:?}", self.0.location);
        // When, and what. Many servers count whole seconds; of several of one time the newest is the
        // latest of all, or the first: servers list the newest first, though some list the marks of
        // removal apart. Where that leaves a doubt, an object is shown rather than not.
        let mut newest: BTreeMap<Key, (Timestamp, Option<Version>)> = BTreeMap::new();
        self.pages(&shown, first, |body| {
            let page = xml::versions(body)?;
            for version in page.entries {
                let Some(key) = self.key(&version.key) else { continue };
                let written: Timestamp = version.last_modified.parse().map_err(|e| {
                    let what = format!("a version of {key} has no time: {e}");
                    Trouble::Nonsense(what)
                })?;
                let older = newest.get(&key).is_some_and(|(best, _)| match version.is_latest {
                    true => *best > written,
                    false => *best >= written,
                });
                if written > time || older {
                    continue;
                }
                let id = version.version_id;
                let found = version.size.map(|size_bytes| Version { id, size_bytes });
                newest.insert(key, (written, found));
            }
            let next = [("key-marker", page.next_key), ("version-id-marker", page.next_version)];
            next_page(page.is_truncated, next)
        })?;
        Ok(newest.into_iter().filter_map(|(key, (_, version))| Some((key, version?))).collect())
    }
}
