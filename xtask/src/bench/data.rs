//! Generated data, the same bytes on every machine; and what there is to say of trees.

use super::failed;
use crate::Failure;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Regular files and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Made {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files, {} MiB", self.files, self.bytes >> 20)
    }
}

/// What is in a tree.
pub(super) fn count(top: &Path) -> Result<Made, Failure> {
    let list = |e| failed("list", top, &e);
    let mut made = Made::default();
    for entry in std::fs::read_dir(top).map_err(list)? {
        let entry = entry.map_err(list)?;
        let meta = entry.metadata().map_err(list)?;
        let below = if meta.is_dir() {
            count(&entry.path())?
        } else {
            Made { files: u64::from(meta.is_file()), bytes: meta.len() }
        };
        made.files += below.files;
        made.bytes += below.bytes;
    }
    Ok(made)
}

/// Makes a tree of about this size, mixed as servers are: half in small text files, some of which do
/// not compress, half in large ones that share content; and a sparse one.
pub(super) fn make(top: &Path, bytes: u64) -> Result<Made, Failure> {
    let mut random = Random::new();
    let mut made = Made::default();
    let mut buffer = Vec::new();
    while made.bytes < bytes / 2 {
        // Sizes as in a home directory: most small, some of a quarter MiB.
        let scale = 8 + random.below(11);
        let size = 256 + random.below(1 << scale);
        let directory = top.join(format!("d{:02}/s{:02}", made.files % 37, made.files % 23));
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

/// Writes a file, and makes the directories above it.
pub(super) fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let create = || match std::fs::File::create(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(file.parent().unwrap_or(file))?;
            std::fs::File::create(file)
        }
        created => created,
    };
    create().and_then(|mut out| out.write_all(bytes)).map_err(|e| failed("write", file, &e))
}

/// Compares two trees by names, kinds, link targets and bytes; the error says what the second is.
pub(super) fn same(left: &Path, right: &Path) -> Result<(), String> {
    let unreadable =
        |path: &Path, e: std::io::Error| format!("what is not readable: {} ({e})", path.display());
    let looks = |path: &Path| std::fs::symlink_metadata(path).map_err(|e| unreadable(path, e));
    let (here, there) = (looks(left)?.file_type(), looks(right)?.file_type());
    if here != there {
        return Err(format!("another kind of file at {}", right.display()));
    }
    if here.is_symlink() {
        if std::fs::read_link(left).ok() != std::fs::read_link(right).ok() {
            return Err(format!("another link at {}", right.display()));
        }
        return Ok(());
    }
    if here.is_file() {
        let equal = same_bytes(left, right).map_err(|e| unreadable(right, e))?;
        return if equal { Ok(()) } else { Err(format!("other bytes in {}", right.display())) };
    }
    if !here.is_dir() {
        return Ok(());
    }
    let list = |top: &Path| -> Result<Vec<std::ffi::OsString>, String> {
        let mut names: Vec<std::ffi::OsString> = std::fs::read_dir(top)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
            .map_err(|e| unreadable(top, e))?;
        names.sort();
        Ok(names)
    };
    let (names, others) = (list(left)?, list(right)?);
    if names != others {
        return Err(format!("other names below {}", right.display()));
    }
    names.iter().try_for_each(|name| same(&left.join(name), &right.join(name)))
}

fn same_bytes(left: &Path, right: &Path) -> std::io::Result<bool> {
    let (left, right) = (std::fs::File::open(left)?, std::fs::File::open(right)?);
    let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let (read, other) = (left.read_at(&mut here, at)?, right.read_at(&mut there, at)?);
        // A read of a regular file is short only at its end.
        if read != other || here[..read] != there[..other] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
        at += read as u64;
    }
}

/// Bytes of all files below a directory.
pub(super) fn bytes_below(top: &Path) -> Result<u64, Failure> {
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
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Random {
        Random(0x6d61_696e_7374_6179)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }

    /// Bytes that no compressor can shorten.
    pub(super) fn noise(&mut self, into: &mut Vec<u8>, bytes: u64) {
        let end = into.len() as u64 + bytes;
        while (into.len() as u64) < end {
            let word = self.next().to_le_bytes();
            let room = end - into.len() as u64;
            into.extend(word.iter().take(usize::try_from(room).unwrap_or(word.len())));
        }
    }

    /// Text that compresses about three to one.
    pub(super) fn prose(&mut self, into: &mut Vec<u8>, bytes: u64) {
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
