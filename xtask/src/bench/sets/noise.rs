//! Bytes that no compressor can shorten: media, archives, what is encrypted.

use super::{Set, all_steps};
use crate::Failure;
use crate::bench::tools::Tool;
use crate::bench::{Bench, data};

/// Of each of the files.
const FILE_BYTES: u64 = 64 << 20;

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let source = bench.place.join("source");
    let mut random = data::Random::new();
    let mut buffer = Vec::new();
    for number in 0..bench.part(2 << 30).div_ceil(FILE_BYTES) {
        buffer.clear();
        random.noise(&mut buffer, FILE_BYTES);
        data::write(&source.join(format!("f{number:03}")), &buffer)?;
    }
    let made = data::count(&source)?;
    bench.about.push((Set::Noise, format!("incompressible: {made}")));
    all_steps(bench, Set::Noise, &source, &Tool::BACKUP)
}
