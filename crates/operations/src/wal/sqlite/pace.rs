//! For how long writers are kept out while a log is begun anew: what is left to bring into the database
//! by then is to take no longer than this, by what the same took just before, while nobody waited for it.
//! Nobody tells how long the application waits for a lock, and a disk may be slow or busy.

use std::time::Duration;

/// What writers are to be kept waiting at most.
const BLOCK: Duration = Duration::from_millis(100);
/// A disk that was that slow may be fast in a moment.
const SLOW: Duration = Duration::from_millis(500);
/// So much may be left to do in any case, and more never.
const LEAST: u64 = 128 << 10;
const MOST: u64 = 8 << 20;

/// What may be left to do while writers wait, if to bring so many bytes into the database took so long.
pub(super) fn affordable(moved: u64, took: Duration) -> u64 {
    if moved == 0 || took.is_zero() {
        return MOST;
    }
    let bytes = u128::from(moved) * BLOCK.as_micros() / took.as_micros().max(1);
    u64::try_from(bytes).unwrap_or(MOST).clamp(LEAST, MOST)
}

/// Whether it is better to wait for a moment in which the disk is faster.
pub(super) fn is_slow(moved: u64, took: Duration) -> bool {
    took > SLOW && moved <= MOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_goes_by_what_the_disk_did() {
        let millis = Duration::from_millis;
        assert_eq!(affordable(0, Duration::ZERO), MOST);
        assert_eq!(affordable(0, millis(900)), MOST, "nothing was moved: nothing is known");
        assert_eq!(affordable(4 << 20, millis(10)), MOST);
        // 10 MiB a second: one in a tenth of that.
        assert_eq!(affordable(4 << 20, millis(400)), 1 << 20);
        assert_eq!(affordable(4 << 20, millis(60_000)), LEAST);
        assert!(is_slow(1 << 20, millis(501)) && !is_slow(1 << 20, millis(500)));
        assert!(!is_slow(64 << 20, millis(900)), "that is much, and no slow disk");
    }
}
