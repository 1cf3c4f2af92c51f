//! A disk image with a file system in it, of which one per cent is written to.

use super::Set;
use crate::Failure;
use crate::bench::tools::{Job, Tool};
use crate::bench::{Bench, data, failed, must, remove};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const IMAGE_BYTES: u64 = 4 << 30;
/// Stretches that change, each as long as a hundredth of the image together with all others.
const STRETCHES: u64 = 64;
const BLOCK: u64 = 4096;

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let source = bench.place.join("source");
    std::fs::create_dir_all(&source).map_err(|e| failed("make", &source, &e))?;
    let image = source.join("disk.img");
    let bytes = bench.part(IMAGE_BYTES);
    let content = bench.place.join("content");
    data::make(&content, bytes / 10 * 7)?;
    must(
        Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-d"])
            .arg(&content)
            .arg(&image)
            .arg(format!("{}k", bytes >> 10)),
    )
    .map_err(|e| Failure::new(format!("{e} (Debian: e2fsprogs)")))?;
    remove(&content)?;
    bench.about.push((
        Set::Image,
        format!(
            "a disk image of {} MiB with an ext4 that is 70 % full; between two backups 1 % of it \
             is written to, in {STRETCHES} places",
            bytes >> 20
        ),
    ));
    let ranges = bench.place.join("ranges");
    let mut random = data::Random::new();
    for _ in 0..bench.rounds {
        let tools = bench.tools(&Tool::BACKUP);
        let definition = "chunk-size = \"256 KiB\"\n";
        for tool in &tools {
            let home = bench.home(*tool);
            let job = Job { source: &image, home: &home, definition };
            tool.init(job)?;
            bench.step(Set::Image, "first backup", *tool, &mut tool.backup(job, "first"))?;
        }
        change(&image, bytes, &ranges, &mut random)?;
        for tool in &tools {
            let home = bench.home(*tool);
            let job = Job { source: &image, home: &home, definition };
            let mut command = if tool.is_ours() {
                tool.backup_ranges(job, &ranges)?
            } else {
                tool.backup(job, "second")
            };
            // The others cannot be told.
            bench.step(Set::Image, "1 % changed, ranges known", *tool, &mut command)?;
        }
        change(&image, bytes, &ranges, &mut random)?;
        for tool in &tools {
            let home = bench.home(*tool);
            let job = Job { source: &image, home: &home, definition };
            let mut command = tool.backup(job, "third");
            bench.step(Set::Image, "1 % changed, ranges unknown", *tool, &mut command)?;
        }
        for tool in &tools {
            let home = bench.home(*tool);
            let job = Job { source: &image, home: &home, definition };
            bench.step(Set::Image, "restore", *tool, &mut tool.restore(job, "third"))?;
            remove(&home.join("out"))?;
            bench.repository(Set::Image, *tool, &home)?;
        }
        bench.remove("homes")?;
    }
    Ok(())
}

/// Writes to one per cent of the image and lists where.
fn change(
    image: &Path,
    bytes: u64,
    ranges: &Path,
    random: &mut data::Random,
) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).open(image).map_err(|e| failed("open", image, &e))?;
    let length = bytes / 100 / STRETCHES / BLOCK * BLOCK;
    let mut list = String::new();
    let mut buffer = Vec::new();
    for _ in 0..STRETCHES {
        let at = random.below((bytes - length) / BLOCK) * BLOCK;
        buffer.clear();
        random.prose(&mut buffer, length / 2);
        random.noise(&mut buffer, length - length / 2);
        file.write_all_at(&buffer, at).map_err(|e| failed("write", image, &e))?;
        // Writing to a String cannot fail.
        let _ = writeln!(list, "{at} {length}");
    }
    file.sync_all().map_err(|e| failed("write", image, &e))?;
    std::fs::write(ranges, list).map_err(|e| failed("write", ranges, &e))
}
