//! What engines read of what they once wrote into the vault.

use mainstay_engines::sqlite::log::{Batch, BatchName, Span, plan};

/// By its name.
pub(crate) type Entry = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const ALL: &[Entry] =
    &[("sqlite_batch", sqlite_batch), ("sqlite_batch_name", sqlite_batch_name)];

/// What is understood is written so that it is understood in the same way.
pub(crate) fn sqlite_batch(bytes: &[u8]) {
    let Ok(batch) = Batch::decode(bytes) else { return };
    assert_eq!(batch.encode(), bytes);
    assert!(batch.end().frame > batch.place.frame);
    assert!(batch.marks.iter().all(|mark| mark.frame <= batch.end().frame && mark.pages > 0));
    let _ = batch.last_commit();
}

/// A name is read as it would be written, and any set of them gives a plan.
pub(crate) fn sqlite_batch_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(name) = BatchName::parse(text) else { return };
    assert_eq!(name.to_string(), text);
    let taken = name.read_at();
    for until in [None, Some(taken)] {
        let planned = plan(&Span::default(), taken, &[name, name], until);
        assert!(planned.whole.len() + planned.partly.len() <= 1, "{planned:?}");
    }
}
