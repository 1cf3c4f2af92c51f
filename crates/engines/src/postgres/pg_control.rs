//! `global/pg_control`: the few fields that are at the same place in every supported version.
//!
//! Format: `ControlFileData` of PostgreSQL's `src/include/catalog/pg_control.h`.

use super::lsn::Lsn;
use crate::Error;
use model::Class;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Where the file is in a data directory.
pub(super) const PATH: &str = "global/pg_control";

/// The struct's size lies between these in all versions; its checksum is its last field.
const SIZES: std::ops::RangeInclusive<usize> = 200..=508;
/// The file itself is padded to this.
const FILE_SIZE: usize = 8192;
/// A server rewrites the file while we read it; the next look finds it whole.
const TRIES: u32 = 100;

/// What the server last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PgControl {
    /// Different for every `initdb`; the same for all copies of one.
    pub(super) system: u64,
    /// Whether it runs.
    pub(super) state: State,
    /// Where its last checkpoint's record is.
    pub(super) checkpoint: Lsn,
    /// From where that checkpoint is replayed.
    pub(super) redo: Lsn,
    /// The timeline of that checkpoint.
    pub(super) timeline: u32,
    /// The file, whole and verified.
    pub(super) bytes: Vec<u8>,
}

/// `DBState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Shut down cleanly, as a primary.
    ShutDown,
    /// Shut down cleanly, as a standby.
    ShutDownInRecovery,
    /// A primary that runs, or that ran when its machine or itself died.
    InProduction,
    /// It replays a log, or did when it died; or was made ready for that, as by `pg_rewind`.
    InArchiveRecovery,
    /// Everything else: starting, stopping, replaying.
    Other(u32),
}

impl PgControl {
    /// Reads it from a data directory, again and again until it is whole.
    pub(super) fn read(data_dir: &Path) -> Result<PgControl, Error> {
        PgControl::read_file(&data_dir.join(PATH))
    }

    /// Reads it wherever it is.
    pub(super) fn read_file(path: &Path) -> Result<PgControl, Error> {
        for _ in 0..TRIES {
            let bytes = fs::read(path).map_err(|e| Error::io("read", path.display(), e))?;
            if bytes.len() > FILE_SIZE {
                break;
            }
            if let Some(control) = PgControl::parse(bytes) {
                return Ok(control);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(Error::new(
            Class::Corrupt,
            format!("{} is damaged: its checksum does not match", path.display()),
        ))
    }

    fn parse(bytes: Vec<u8>) -> Option<PgControl> {
        // Where the struct ends differs between versions; where a checksum of everything before
        // matches, it does.
        let checksummed = SIZES.step_by(4).any(|at| {
            let stored = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
            let body = bytes.get(..at).unwrap_or_default();
            stored.is_some_and(|stored| u32::from_le_bytes(stored) == crc32c::crc32c(body))
        });
        if !checksummed {
            return None;
        }
        let number = |at: usize| {
            bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let half = |at: usize| {
            bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
        };
        Some(PgControl {
            system: number(0),
            state: match half(16) {
                1 => State::ShutDown,
                2 => State::ShutDownInRecovery,
                5 => State::InArchiveRecovery,
                6 => State::InProduction,
                other => State::Other(other),
            },
            checkpoint: Lsn(number(32)),
            redo: Lsn(number(40)),
            timeline: half(48),
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as a server of version 15 writes it, with invented numbers.
    fn file() -> Vec<u8> {
        let mut bytes = vec![0; FILE_SIZE];
        bytes[0..8].copy_from_slice(&7_500_000_000_000_000_001u64.to_le_bytes());
        bytes[8..12].copy_from_slice(&1300u32.to_le_bytes());
        bytes[16..20].copy_from_slice(&6u32.to_le_bytes());
        bytes[32..40].copy_from_slice(&0x0300_0060u64.to_le_bytes());
        bytes[40..48].copy_from_slice(&0x0300_0028u64.to_le_bytes());
        bytes[48..52].copy_from_slice(&2u32.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_fields_are_read() {
        let control = PgControl::parse(file()).expect("a file");
        assert_eq!(control.system, 7_500_000_000_000_000_001);
        assert_eq!(control.state, State::InProduction);
        assert_eq!((control.checkpoint, control.redo), (Lsn(0x0300_0060), Lsn(0x0300_0028)));
        assert_eq!(control.timeline, 2);
    }

    #[test]
    fn damage_is_seen() {
        for at in [0, 17, 45, 287, 288, 291] {
            let mut bytes = file();
            bytes[at] ^= 4;
            assert_eq!(PgControl::parse(bytes), None, "byte {at}");
        }
        for length in [0, 3, 199, 204, 288, 291] {
            assert_eq!(PgControl::parse(file()[..length].to_vec()), None, "{length} bytes");
        }
        assert_eq!(PgControl::parse(vec![0; FILE_SIZE]), None);
    }
}
