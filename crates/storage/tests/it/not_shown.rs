//! What a test cannot show on this machine is said, past what the test runner keeps to itself. Where
//! `MAINSTAY_TEST_NEEDS_ROOT=1` says that everything must be shown, as on a machine that was made for
//! that, it is a failure.

use std::io::Write;

/// Says why a test shows nothing.
#[track_caller]
pub(crate) fn not_shown(why: &str) {
    let must = std::env::var_os("MAINSTAY_TEST_NEEDS_ROOT").is_some_and(|set| set == "1");
    assert!(!must, "this must be shown (MAINSTAY_TEST_NEEDS_ROOT=1), and cannot be: {why}");
    let _ = writeln!(std::io::stderr().lock(), "NOT SHOWN: {why}");
}
