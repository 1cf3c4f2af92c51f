//! The password of a connection, from wherever it is kept.

use crate::Error;
use model::Secret;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

type Fetch = dyn Fn() -> Result<Secret, Error> + Send + Sync;

/// A password that is fetched by whoever connects first, and kept for the others; clones share it.
/// Who connects to nothing never asks for it, so one that cannot be had fails nothing else.
#[derive(Clone)]
pub struct Password(Arc<Inner>);

struct Inner {
    fetch: Box<Fetch>,
    had: Mutex<Option<Secret>>,
}

impl Password {
    /// A password that is fetched this way.
    pub fn new(fetch: impl Fn() -> Result<Secret, Error> + Send + Sync + 'static) -> Password {
        Password(Arc::new(Inner { fetch: Box::new(fetch), had: Mutex::new(None) }))
    }

    /// The password itself, for the one who connects. A failure is not kept: the next one tries again.
    pub(crate) fn get(&self) -> Result<Secret, Error> {
        // Others wait meanwhile: a command that prints it runs once.
        let mut had = self.0.had.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(secret) = &*had {
            return Ok(secret.clone());
        }
        let secret = (self.0.fetch)()?;
        Ok(had.insert(secret).clone())
    }

    /// It may have been changed: whoever connects next fetches it anew.
    pub(crate) fn forget(&self) {
        *self.0.had.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn it_is_fetched_once_and_again_when_it_was_refused() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let password = Password::new(move || match count.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Error::failed("not yet")),
            n => Ok(Secret::new(format!("number {n}"))),
        });
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        password.get().expect_err("nothing is there");
        let clone = password.clone();
        for _ in 0..2 {
            assert_eq!(clone.get().expect("a password").expose(), "number 1");
            assert_eq!(password.get().expect("a password").expose(), "number 1");
        }
        password.forget();
        assert_eq!(clone.get().expect("a password").expose(), "number 2");
        assert!(!format!("{password:?}").contains("number"));
    }
}
