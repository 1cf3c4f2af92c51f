//! Whatever stands in the vault, what engines read of it returns.

use mainstay_engines::sqlite::log::{Batch, BatchName};

#[path = "../../../../fuzz/entries/engines.rs"]
mod entries;
#[path = "../../../../fuzz/entries/mutate.rs"]
mod mutate;

/// What the fuzz targets do for as long as they are let, for a few seconds.
#[test]
fn changed_samples_of_logs() {
    for (name, parser) in entries::ALL {
        let samples = mutate::seeds(name);
        // Those that nobody has changed are understood.
        for sample in &samples {
            let text = String::from_utf8_lossy(sample);
            let understood = match *name {
                "sqlite_batch" => Batch::decode(sample).is_ok(),
                _ => BatchName::parse(&text).is_some(),
            };
            assert!(understood, "{name}: {text}");
        }
        mutate::try_out(name, &samples, parser);
    }
}
