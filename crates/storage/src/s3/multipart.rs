//! Large objects, sent in parts of which each can be tried again by itself.

use super::http::block_on;
use super::trouble::Trouble;
use super::{S3, next_page, xml};
use crate::key::check_prefix;
use crate::{Error, Key};
use jiff::{SignedDuration, Timestamp};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{PutMultipartOptions, PutPayload};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use ureq::http::Method;

/// So many parts are on their way at once.
const AT_ONCE: usize = 3;

/// An upload that was begun longer ago has lost its writer.
const LEFTOVER_AGE: SignedDuration = SignedDuration::from_hours(24);

impl S3 {
    /// Stores an object in parts. It is there when the last request is answered, and not before.
    pub(super) fn put_parts(&self, key: &Key, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(key)?;
        let shown = self.shown(key);
        // Ended twice if the answer to its end was lost: the upload is gone then, and whether it
        // is because it succeeded is not worth asking; what is stored again is the same.
        let mut attempts = self.attempts();
        loop {
            match self.upload(key, &path, bytes) {
                Ok(()) => return Ok(()),
                Err(trouble) if trouble.code() == "NoSuchUpload" => {
                    let again = Trouble::NoAnswer(trouble.to_string());
                    attempts.pause(again).map_err(|trouble| trouble.about(&shown))?;
                }
                Err(trouble) => return Err(trouble.about(&shown)),
            }
        }
    }

    fn upload(&self, key: &Key, path: &Path, bytes: &[u8]) -> Result<(), Trouble> {
        let library = &self.0.library;
        let id = self.attempts().run(|| {
            let options = PutMultipartOptions {
                extensions: self.extensions(key),
                ..PutMultipartOptions::default()
            };
            block_on(library.create_multipart_opts(path, options))
                .map_err(|e| Trouble::from_library(&e))
        })?;
        let stored = self.upload_parts(path, &id, bytes).and_then(|parts| {
            self.attempts().run(|| {
                block_on(library.complete_multipart(path, &id, parts.clone()))
                    .map(|_| ())
                    .map_err(|e| Trouble::from_library(&e))
            })
        });
        if stored.is_err() {
            // Parts of an upload that does not end cost space. What is missed here is removed
            // with the leftovers.
            let _ = block_on(library.abort_multipart(path, &id));
        }
        stored?;
        self.lock_stored(key)
    }

    fn upload_parts(&self, path: &Path, id: &String, bytes: &[u8]) -> Result<Vec<PartId>, Trouble> {
        let parts: Vec<&[u8]> = bytes.chunks(self.0.tuning.part_bytes).collect();
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(parts.len()));
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(parts.len()) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::SeqCst);
                        let Some(part) = parts.get(at) else { return };
                        let payload = PutPayload::from(part.to_vec());
                        let sent = self.attempts().run(|| {
                            let part = self.0.library.put_part(path, id, at, payload.clone());
                            block_on(part).map_err(|e| Trouble::from_library(&e))
                        });
                        match sent {
                            Ok(part) => lock(&done).push((at, part)),
                            Err(trouble) => {
                                lock(&failed).get_or_insert(trouble);
                                // The others stop after the part that they are at.
                                next.store(parts.len(), Ordering::SeqCst);
                                return;
                            }
                        }
                    }
                });
            }
        });
        if let Some(trouble) = lock(&failed).take() {
            return Err(trouble);
        }
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(at, _)| *at);
        if done.len() != parts.len() {
            return Err(Trouble::NoAnswer("a part was not sent".to_owned()));
        }
        Ok(done.into_iter().map(|(_, part)| part).collect())
    }

    /// Ends the uploads below a prefix whose writers are gone.
    pub(super) fn abort_old_uploads(&self, prefix: &str) -> Result<u64, Error> {
        check_prefix(prefix)?;
        let first = vec![("uploads", String::new()), ("prefix", self.names_below(prefix))];
        let shown = format!("{}, uploads below {prefix:?}", self.0.location);
        let mut found = Vec::new();
        self.pages(&shown, first, |body| {
            let page = xml::uploads(body)?;
            found.extend(page.uploads);
            let next = [
                ("key-marker", page.next_key_marker),
                ("upload-id-marker", page.next_upload_id_marker),
            ];
            next_page(page.is_truncated, next)
        })?;
        let limit = Timestamp::now() - LEFTOVER_AGE;
        let mut removed = 0;
        for upload in found {
            let Some(key) = self.key(&upload.key) else { continue };
            let old = upload.initiated.parse::<Timestamp>().is_ok_and(|begun| begun < limit);
            if !old {
                continue;
            }
            let query = [("uploadId", upload.upload_id.as_str())];
            match self.own(&Method::DELETE, &upload.key, &query) {
                Ok(_) => removed += 1,
                Err(trouble) if trouble.status() == Some(404) => {}
                Err(trouble) => return Err(trouble.about(&self.shown(&key))),
            }
        }
        Ok(removed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
