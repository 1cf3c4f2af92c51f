//! How the system's allocator is used.

/// Larger blocks come from the system and go back to it at once. The allocator would learn to keep
/// them (up to 32 MiB, for each thread), because we free so many: a backup then takes half as much
/// memory again as it uses.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 256 << 10;
/// Heaps that threads share. Each more keeps what it once needed.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Before there are threads. What the allocator does not take, it need not.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub(crate) fn arrange() {
    // SAFETY: these are numbers that mallopt(3) takes, and no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Other allocators give back what is free.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn arrange() {}
