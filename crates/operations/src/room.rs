//! Room for what makes room. To forget and to prune, locks, a state and indexes have to be written first;
//! on a disk that is full to its last byte they could not be, and nothing would ever be freed. So a vault
//! on a disk keeps a little back, which is given up for that when it is needed.

use crate::ServiceSite;
use model::Progress;
use std::sync::Arc;
use storage::Storage;

/// With less than this free, what is kept back is given up.
const LITTLE: u64 = 8 << 20;

/// Sees to it that some space is kept back in the vault. That matters on another day: who has no room for
/// it, or no right, goes without.
pub(crate) fn keep(site: &ServiceSite) {
    if let Ok(storage) = site.storage() {
        let _ = storage.keep_reserve();
    }
}

/// While it is there, what was kept back may be used. It is kept back again afterwards, if there is room.
pub(crate) struct Room(Option<Arc<dyn Storage>>);

impl Room {
    /// Gives up what is kept back if too little is free. What stands in the way of that is found by whoever
    /// writes next.
    pub(crate) fn make(site: &ServiceSite, progress: &dyn Progress) -> Room {
        let Ok(storage) = site.storage() else { return Room(None) };
        let is_full = matches!(storage.free_bytes(), Ok(Some(free)) if free < LITTLE);
        if is_full && matches!(storage.give_up_reserve(), Ok(true)) {
            progress.warn(&format!(
                "{} is full: the space that was kept back there is used to free more",
                storage.location()
            ));
        }
        Room(Some(storage))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(storage) = &self.0 {
            let _ = storage.keep_reserve();
        }
    }
}
