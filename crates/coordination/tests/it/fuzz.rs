//! Whatever is sealed as a state, loading it returns.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the unexpected")]

#[path = "../../../../fuzz/entries/state.rs"]
mod entries;
#[path = "../../../../fuzz/entries/mutate.rs"]
mod mutate;

use crate::support;

/// What the fuzz target does for as long as it is let, for a few seconds.
#[test]
fn changed_samples_of_state_objects() {
    // A real one, besides those that are kept.
    let memory = std::sync::Arc::new(storage::doubles::Memory::new());
    support::store(memory.clone()).update(support::join("a")).unwrap();
    let sealed = memory.objects().into_values().next().unwrap();
    for (name, parser) in entries::ALL {
        let mut samples = mutate::seeds(name);
        samples.push(sealed[8..].to_vec());
        mutate::try_out(name, &samples, parser);
    }
}
