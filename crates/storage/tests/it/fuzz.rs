//! Whatever comes over the network, nothing panics, and nothing leads out of the vault.

#[path = "../../../../fuzz/entries/requests.rs"]
mod entries;
#[path = "../../../../fuzz/entries/mutate.rs"]
mod mutate;

use mainstay_storage as storage;

/// What the fuzz targets do for as long as they are let, for a few seconds.
#[test]
fn changed_samples_of_requests_and_answers() {
    for (name, parser) in entries::ALL {
        mutate::try_out(name, &mutate::seeds(name), parser);
    }
}
