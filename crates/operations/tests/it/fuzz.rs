//! Whatever stands in the files that operations read, they return.
#![allow(clippy::unwrap_used, reason = "a test stops at the unexpected")]

#[path = "../../../../fuzz/entries/operations.rs"]
mod entries;
#[path = "../../../../fuzz/entries/mutate.rs"]
mod mutate;

/// What the fuzz targets do for as long as they are let, for a few seconds.
#[test]
fn changed_samples_of_journals_and_records() {
    for (name, parser) in entries::ALL {
        let samples = mutate::seeds(name);
        // Those that nobody has changed are understood.
        for sample in &samples {
            let understood = match *name {
                "journal" => mainstay_operations::parse_journal(sample).is_ok(),
                "snapshot_meta" => {
                    mainstay_operations::decode_meta(model::SnapshotId([7; 32]), sample).is_ok()
                }
                _ => serde_json::from_slice::<mainstay_operations::MemberRecord>(sample).is_ok(),
            };
            assert!(understood, "{name}: {}", String::from_utf8_lossy(sample));
        }
        mutate::try_out(name, &samples, parser);
    }
}
