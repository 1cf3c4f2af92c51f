//! What differs between what is there and what takes its place: what does not is not written.

use crate::{BlobId, Error};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files are compared in blocks of this size, aligned in the file.
pub(super) const BLOCK: usize = 4096;

/// How much of a file differed where it was last looked at. To look takes a read of all that is there, and
/// saves the write of what is the same. Where most of it is not, as in the middle of a long stretch that
/// has changed, that is no bargain: the reads are waited for, and the writes are not.
#[derive(Debug, Default)]
pub(super) struct Density {
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// How many bytes were compared.
    compared: usize,
    /// How many of a thousand differ. Each look counts as much as all before it: neighbours have mostly
    /// changed in the same way.
    differ: usize,
    /// Blobs that were written without a look since the last one.
    passed: usize,
}

/// So much of all files is compared in any case: it costs next to nothing.
const LITTLE: usize = 1 << 20;
/// One of so many blobs of a file is compared anyhow.
const EVERY: usize = 8;

impl Density {
    /// Whether it is likely to pay to look at what is there. Of a file that nobody has looked at it is
    /// told from `all` others.
    pub(super) fn pays(&self, all: &Density) -> bool {
        let (seen, all) = (*self.seen(), *all.seen());
        let told = if seen.compared == 0 { all } else { seen };
        told.differ <= 500 || all.compared < LITTLE
    }

    /// Whether the next blob is to be compared with what is there.
    pub(super) fn is_worth_a_look(&self, all: &Density) -> bool {
        let is_due = {
            let mut seen = self.seen();
            seen.passed = (seen.passed + 1) % EVERY;
            seen.passed == 0
        };
        is_due || self.pays(all)
    }

    /// Notes what a look has shown.
    pub(super) fn note(&self, compared: usize, differed: usize) {
        let mut seen = self.seen();
        let differ = differed.saturating_mul(1000) / compared.max(1);
        seen.differ = if seen.compared == 0 { differ } else { (seen.differ + differ) / 2 };
        seen.compared = seen.compared.saturating_add(compared);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No further than this the places of blobs are asked for before these come: it is soon known whether
/// anybody is going to look at them.
const WINDOW: u64 = 1 << 20;

/// Which blobs of one read have come, and the lengths of those behind them whose places were asked for.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    come: usize,
    asked: VecDeque<u64>,
    bytes: u64,
}

impl Ahead {
    /// Has the next places asked for, now that this blob has come. `ask` says how long a blob is.
    pub(super) fn behind<T>(
        &mut self,
        blobs: &[(BlobId, T)],
        id: &BlobId,
        mut ask: impl FnMut(&BlobId) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        let rest = blobs.get(self.come..).unwrap_or_default();
        let more = rest.iter().position(|(is, _)| is == id).unwrap_or(0) + 1;
        self.come += more;
        for _ in 0..more {
            self.bytes -= self.asked.pop_front().unwrap_or(0);
        }
        while self.bytes < WINDOW
            && let Some((next, _)) = blobs.get(self.come + self.asked.len())
        {
            let length = ask(next)?;
            self.bytes += length;
            self.asked.push_back(length);
        }
        Ok(())
    }
}

/// Reads what there is of a place in a file; behind its end are zeros. What cannot be read comes out as
/// something else than what is `wanted` there, so that it is written anew, whatever it was.
pub(super) fn read_up_to(
    file: impl AsFd,
    bytes: &mut [u8],
    wanted: &[u8],
    mut at: u64,
) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::pread(&file, &mut *rest, at) {
            Ok(0) => {
                rest.fill(0);
                break;
            }
            Ok(read) => {
                rest = &mut rest[read..];
                at += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::IO) => {
                let step = rest.len().min(BLOCK);
                let (unread, others) = rest.split_at_mut(step);
                let from = wanted.len().saturating_sub(step + others.len());
                for (byte, wanted) in unread.iter_mut().zip(wanted.get(from..).unwrap_or_default())
                {
                    *byte = !wanted;
                }
                rest = others;
                at += step as u64;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Where bytes that go to a place of a file differ from those that are there, in whole blocks of the
/// file. Short stretches that do not differ are taken along: one longer write is cheaper than two.
pub(super) fn differing(before: &[u8], bytes: &[u8], at: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let into_block = usize::try_from(at % BLOCK as u64).unwrap_or(0);
    let mut start = 0;
    while start < bytes.len() {
        let end = (start + BLOCK - if start == 0 { into_block } else { 0 }).min(bytes.len());
        if before.get(start..end) != bytes.get(start..end) {
            match runs.last_mut() {
                Some(last) if start - last.end < 4 * BLOCK => last.end = end,
                _ => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_most_differs_nobody_looks_any_more_but_now_and_then() {
        let (all, file, other) = (Density::default(), Density::default(), Density::default());
        let looks = |file: &Density| (0..80).filter(|_| file.is_worth_a_look(&all)).count();
        let note = |file: &Density, compared, differed| {
            file.note(compared, differed);
            all.note(compared, differed);
        };
        assert_eq!(looks(&file), 80);
        note(&file, LITTLE - 1, LITTLE - 1);
        assert_eq!(looks(&file), 80, "so little tells nothing");
        note(&file, 1000, 1000);
        assert_eq!(looks(&file), 10);
        // Another may have changed in the same way, until one of these looks finds little.
        assert!(!other.pays(&all));
        note(&other, 1000, 4);
        assert_eq!((looks(&other), looks(&file)), (80, 10));
        note(&file, 1000, 0);
        assert_eq!(looks(&file), 80);
        note(&file, 1 << 40, 1 << 40);
        assert_eq!(looks(&file), 10);
        note(&file, 0, 0);
        assert_eq!(looks(&file), 80);
    }

    #[test]
    fn no_more_is_asked_for_ahead_than_the_window() {
        let blobs: Vec<(BlobId, ())> = (0..40_u8).map(|n| (BlobId::of(&[n]), ())).collect();
        let mut ahead = Ahead::default();
        let mut asked = Vec::new();
        let place = |id: &BlobId| blobs.iter().position(|(is, ())| is == id).unwrap();
        let mut come = |number: usize, asked: &mut Vec<usize>| {
            let ask = |id: &BlobId| {
                asked.push(place(id));
                Ok(WINDOW / 4)
            };
            ahead.behind(&blobs, &blobs[number].0, ask).unwrap();
        };
        come(0, &mut asked);
        assert_eq!(asked, [1, 2, 3, 4]);
        come(1, &mut asked);
        assert_eq!(asked, [1, 2, 3, 4, 5]);
        // Some were passed over.
        come(9, &mut asked);
        assert_eq!(asked[5..], [10, 11, 12, 13]);
        for number in 10..40 {
            come(number, &mut asked);
        }
        assert_eq!(asked.len(), 5 + 30);
        assert_eq!(asked.last(), Some(&39));
    }

    #[test]
    fn what_cannot_be_read_differs_from_everything() {
        // Nothing is mapped at the beginning of our memory: to read it is an I/O error.
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        for wanted in [vec![0; 10_000], vec![1; 10_000], (0..=255).cycle().take(10_000).collect()] {
            let mut before = vec![0; wanted.len()];
            read_up_to(&memory, &mut before, &wanted, 96).unwrap();
            assert!(before.iter().zip(&wanted).all(|(before, wanted)| before != wanted));
            let runs = differing(&before, &wanted, 96);
            assert_eq!((runs.len(), runs.first()), (1, Some(&(0..10_000))));
        }
    }

    #[test]
    fn behind_the_end_of_a_file_are_zeros_whatever_the_buffer_held() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 5000]).unwrap();
        let mut before = vec![9; 10_000];
        read_up_to(&file, &mut before, &[1; 10_000], 1000).unwrap();
        assert!(before[..4000].iter().all(|byte| *byte == 7));
        assert!(before[4000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_differs_is_written_in_blocks_of_the_file() {
        let before = vec![1; 100_000];
        let runs = |bytes: &[u8], at| -> Vec<(usize, usize)> {
            let runs = differing(&before[..bytes.len()], bytes, at);
            runs.into_iter().map(|run| (run.start, run.end)).collect()
        };
        assert_eq!(runs(&before, 0), []);
        let mut bytes = before.clone();
        bytes[5000] = 2;
        assert_eq!(runs(&bytes, 0), [(4096, 8192)]);
        // The blocks are the file's, wherever the bytes begin.
        assert_eq!(runs(&bytes, 4000), [(4192, 8288)]);
        bytes[20_000] = 2;
        assert_eq!(runs(&bytes, 0), [(4096, 20_480)], "a short gap is written");
        bytes[99_999] = 2;
        assert_eq!(runs(&bytes, 0), [(4096, 20_480), (98_304, 100_000)]);
        assert_eq!(runs(&[], 7), []);
    }
}
