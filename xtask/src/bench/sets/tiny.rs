//! A million tiny files: a mail store, a cache, sessions.

use super::{Set, all_steps};
use crate::Failure;
use crate::bench::tools::Tool;
use crate::bench::{Bench, data};

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let source = bench.place.join("source");
    let mut random = data::Random::new();
    let mut buffer = Vec::new();
    for number in 0..bench.part(1_000_000) {
        buffer.clear();
        let bytes = 16 + random.below(200);
        random.prose(&mut buffer, bytes);
        let directory = format!("{:02}/{:02}", number % 97, number % 89);
        data::write(&source.join(directory).join(format!("{number}")), &buffer)?;
    }
    let made = data::count(&source)?;
    bench.about.push((Set::Tiny, format!("tiny files: {made}")));
    all_steps(bench, Set::Tiny, &source, &Tool::BACKUP)
}
