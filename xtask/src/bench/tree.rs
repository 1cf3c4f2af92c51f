//! The tree that is measured: the same bytes on every machine.
//!
//! Mixed as servers are: many small text files, some that do not compress, a few large ones that
//! share content, and a sparse one.

use super::failed;
use crate::Failure;
use std::io::Write;
use std::path::Path;

/// What was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Makes a tree of about this size: half in small files, half in large ones.
pub(crate) fn make(top: &Path, bytes: u64) -> Result<Made, Failure> {
    let mut random = Random(0x6d61_696e_7374_6179);
    let mut made = Made::default();
    let mut buffer = Vec::new();
    while made.bytes < bytes / 2 {
        // Sizes as in a home directory: most small, some of a quarter MiB.
        let scale = 8 + random.below(11);
        let size = 256 + random.below(1 << scale);
        let directory = top.join(format!("d{:02}/s{:02}", made.files % 37, made.files % 23));
        std::fs::create_dir_all(&directory).map_err(|e| failed("make", &directory, &e))?;
        buffer.clear();
        match random.below(4) {
            0 => random.noise(&mut buffer, size),
            _ => random.prose(&mut buffer, size),
        }
        write(&directory.join(format!("f{:06}", made.files)), &buffer)?;
        made.files += 1;
        made.bytes += size;
    }
    let large = (bytes - made.bytes) / 8;
    let directory = top.join("large");
    std::fs::create_dir_all(&directory).map_err(|e| failed("make", &directory, &e))?;
    let mut shared = Vec::new();
    random.noise(&mut shared, large / 2);
    for number in 0..8 {
        buffer.clear();
        match number {
            // Two that differ in their first bytes only, so that cuts must find the rest again.
            0 | 1 => {
                random.noise(&mut buffer, 1000 + number);
                buffer.extend_from_slice(&shared);
                random.prose(&mut buffer, large / 2);
            }
            2 | 3 => random.noise(&mut buffer, large),
            _ => random.prose(&mut buffer, large),
        }
        write(&directory.join(format!("image{number}")), &buffer)?;
        made.files += 1;
        made.bytes += buffer.len() as u64;
    }
    let sparse = directory.join("sparse");
    std::fs::File::create(&sparse)
        .and_then(|file| file.set_len(64 << 20))
        .map_err(|e| failed("make", &sparse, &e))?;
    made.files += 1;
    Ok(made)
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::File::create(file)
        .and_then(|mut out| out.write_all(bytes))
        .map_err(|e| failed("write", file, &e))
}

/// Compares two trees by names and bytes; the error says what the second one is.
pub(crate) fn same(left: &Path, right: &Path) -> Result<(), String> {
    let list = |top: &Path| -> Result<Vec<_>, String> {
        let mut entries = std::fs::read_dir(top)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| format!("nothing readable at {}: {e}", top.display()))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        Ok(entries)
    };
    let (here, there) = (list(left)?, list(right)?);
    let names = |entries: &[std::fs::DirEntry]| {
        entries.iter().map(std::fs::DirEntry::file_name).collect::<Vec<_>>()
    };
    if names(&here) != names(&there) {
        return Err(format!("other names below {}", right.display()));
    }
    for (here, there) in here.iter().zip(&there) {
        if here.path().is_dir() {
            same(&here.path(), &there.path())?;
        } else if std::fs::read(here.path()).ok() != std::fs::read(there.path()).ok() {
            return Err(format!("other bytes in {}", there.path().display()));
        }
    }
    Ok(())
}

/// Bytes of all files below a directory.
pub(crate) fn bytes_below(top: &Path) -> Result<u64, Failure> {
    let list = |e| failed("list", top, &e);
    let mut bytes = 0;
    for entry in std::fs::read_dir(top).map_err(list)? {
        let entry = entry.map_err(list)?;
        let kind = entry.file_type().map_err(list)?;
        bytes += if kind.is_dir() {
            bytes_below(&entry.path())?
        } else {
            entry.metadata().map_err(list)?.len()
        };
    }
    Ok(bytes)
}

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }

    /// Bytes that no compressor can shorten.
    fn noise(&mut self, into: &mut Vec<u8>, bytes: u64) {
        let end = into.len() as u64 + bytes;
        while (into.len() as u64) < end {
            let word = self.next().to_le_bytes();
            let room = end - into.len() as u64;
            into.extend(word.iter().take(usize::try_from(room).unwrap_or(word.len())));
        }
    }

    /// Text that compresses about three to one.
    fn prose(&mut self, into: &mut Vec<u8>, bytes: u64) {
        const SYLLABLES: [&str; 16] = [
            "ka", "lo", "mi", "ser", "vice", "stand", "by", "vault", "re", "cov", "er", "point",
            " the ", " of ", ", ", ".\n",
        ];
        let end = into.len() as u64 + bytes;
        while (into.len() as u64) < end {
            let mut word = self.next();
            for _ in 0..16 {
                let room = end - into.len() as u64;
                let syllable = SYLLABLES[(word & 15) as usize].as_bytes();
                into.extend(syllable.iter().take(usize::try_from(room).unwrap_or(syllable.len())));
                word >>= 4;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_trees_are_the_same_until_one_byte_differs() {
        let place = tempfile::tempdir().unwrap();
        let (one, two) = (place.path().join("one"), place.path().join("two"));
        let made = make(&one, 4 << 20).unwrap();
        make(&two, 4 << 20).unwrap();
        assert!(made.files > 10 && made.bytes >= 3 << 20, "{made:?}");
        same(&one, &two).unwrap();
        let image = two.join("large/image0");
        let mut bytes = std::fs::read(&image).unwrap();
        bytes[17] ^= 1;
        std::fs::write(&image, bytes).unwrap();
        assert!(same(&one, &two).is_err());
    }
}
