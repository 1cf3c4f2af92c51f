//! A standby on XFS, of which one per cent changes: brought to the new state by a refresh, and by
//! `rsync --inplace`, which is at no state at all meanwhile.
//!
//! Of the same change: files that are written to in many places, which is what `--inplace` is for,
//! and, apart from that, many files of which some are replaced, where both have little to compare.

use super::Set;
use crate::Failure;
use crate::bench::tools::Tool;
use crate::bench::{Bench, data, failed, must, remove};
use crate::packages;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const BYTES: u64 = 4 << 30;
const FILES: u64 = 16;
/// Stretches that change, each as long as a hundredth of it all together with all others.
const STRETCHES: u64 = 64;
const BLOCK: u64 = 4096;
/// How often that happens. A standby is refreshed again and again, and only the first time pays for what
/// the copy's first change costs.
const CHANGES: usize = 5;

pub(super) fn run(bench: &mut Bench) -> Result<(), Failure> {
    let bytes = bench.part(BYTES);
    if packages::find("rsync", &[]).is_none() {
        return Err(Failure::new("rsync is not installed (Debian: rsync)"));
    }
    bench.about.push((
        Set::Refresh,
        format!(
            "a standby of {} MiB on XFS. Large files: {FILES}, of which 1 % is written to in \
             {STRETCHES} places. Many files: half of the bytes in small ones, of which 1 % is \
             replaced. Each changes {CHANGES} times, one after the other, and the medians are shown. \
             rsync copies from the source's own directory, without a network; its bytes \
             need not be on the disk when it ends",
            bytes >> 20
        ),
    ));
    for _ in 0..bench.rounds {
        let source = bench.place.join("source");
        let mut random = data::Random::new();
        large(&source, bytes, &mut random)?;
        let change = |random: &mut data::Random| write_to(&source, bytes, random);
        one(bench, &source, bytes, ["large files: backup", "large files: 1 % changed"], || {
            change(&mut random)
        })?;
        remove(&source)?;
        data::make(&source, bytes)?;
        let mut round = 0;
        one(bench, &source, bytes, ["many files: backup", "many files: 1 % changed"], || {
            round += 1;
            replace_some(&source, round)
        })?;
        remove(&source)?;
    }
    Ok(())
}

/// One kind of data: seeds the copies, lets it change, and brings each to the new state.
fn one(
    bench: &mut Bench,
    source: &Path,
    bytes: u64,
    [backup, refresh]: [&'static str; 2],
    mut change: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let homes = bench.place.join("homes");
    let (primary, standby) = (homes.join("a"), homes.join("b"));
    let xfs = Xfs::mount(&bench.place, bytes * 3 + bytes / 2 + (1 << 30))?;
    let copy = xfs.at.join("standby/data");
    host(&primary, "a", "primary", source, &homes)?;
    host(&standby, "b", "standby", &copy, &homes)?;
    std::fs::create_dir_all(xfs.at.join("standby"))
        .map_err(|e| failed("make", &xfs.at.join("standby"), &e))?;
    let ours = Tool::Mainstay;
    for home in [&primary, &standby] {
        must(ours.on(home).arg("init"))?;
    }
    must(ours.on(&primary).args(["backup", "data"]))?;
    must(ours.on(&standby).args(["refresh", "data"]))?;
    let others = bench.tools(&[Tool::Rsync, Tool::RsyncWhole]);
    for tool in &others {
        must(&mut tool.follow(source, &xfs.copy(*tool)))?;
    }
    for _ in 0..CHANGES {
        change()?;
        bench.step(Set::Refresh, backup, ours, ours.on(&primary).args(["backup", "data"]))?;
        must(&mut Command::new("sync"))?;
        bench.step(Set::Refresh, refresh, ours, ours.on(&standby).args(["refresh", "data"]))?;
        for tool in &others {
            must(&mut Command::new("sync"))?;
            bench.step(Set::Refresh, refresh, *tool, &mut tool.follow(source, &xfs.copy(*tool)))?;
        }
    }
    let wrong = |what: String| Failure::new(format!("after the change there is {what}"));
    data::same(source, &copy).map_err(wrong)?;
    for tool in &others {
        data::same(source, &xfs.copy(*tool)).map_err(wrong)?;
    }
    drop(xfs);
    bench.remove("homes")?;
    remove_file(&bench.place.join("xfs.image"))
}

fn host(home: &Path, name: &str, role: &str, path: &Path, homes: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(home).map_err(|e| failed("make", home, &e))?;
    let text = |path: PathBuf| toml::Value::from(path.to_string_lossy().into_owned());
    let config = format!(
        "[host]\nname = \"{name}\"\nstate-dir = {}\n\n[vault]\nurl = {}\npassword-file = {}\n\n\
         [service.data]\nengine = \"files\"\npath = {}\nrole = \"{role}\"\nchunk-size = \"256 KiB\"\n",
        text(home.join("state")),
        text(homes.join("vault")),
        text(homes.join("password")),
        text(path.to_path_buf()),
    );
    let file = home.join("mainstay.toml");
    std::fs::write(&file, config).map_err(|e| failed("write", &file, &e))
}

/// Large files, half of them of bytes that do not compress.
fn large(source: &Path, bytes: u64, random: &mut data::Random) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    for number in 0..FILES {
        buffer.clear();
        match number % 2 {
            0 => random.noise(&mut buffer, bytes / FILES),
            _ => random.prose(&mut buffer, bytes / FILES),
        }
        data::write(&source.join(format!("large{number:02}")), &buffer)?;
    }
    Ok(())
}

/// Writes to one per cent of the large files.
fn write_to(source: &Path, bytes: u64, random: &mut data::Random) -> Result<(), Failure> {
    let length = (bytes / 100 / STRETCHES / BLOCK * BLOCK).max(BLOCK);
    let mut buffer = Vec::new();
    for number in 0..STRETCHES {
        let path = source.join(format!("large{:02}", number % FILES));
        let file =
            OpenOptions::new().write(true).open(&path).map_err(|e| failed("open", &path, &e))?;
        let at = random.below((bytes / FILES - length) / BLOCK) * BLOCK;
        buffer.clear();
        random.noise(&mut buffer, length);
        file.write_all_at(&buffer, at).map_err(|e| failed("write", &path, &e))?;
    }
    Ok(())
}

/// Replaces one small file in a hundred, and writes to one large one.
fn replace_some(source: &Path, round: u64) -> Result<(), Failure> {
    let mut number = 0;
    let mut dirs = vec![source.to_owned()];
    while let Some(dir) = dirs.pop() {
        let list = |e| failed("list", &dir, &e);
        for entry in std::fs::read_dir(&dir).map_err(list)? {
            let entry = entry.map_err(list)?;
            let path = entry.path();
            if entry.file_type().map_err(list)?.is_dir() {
                dirs.push(path);
                continue;
            }
            number += 1;
            if number % 100 == round % 100 && !path.starts_with(source.join("large")) {
                let mut bytes = std::fs::read(&path).map_err(|e| failed("read", &path, &e))?;
                bytes.extend_from_slice(b"one line more\n");
                std::fs::write(&path, bytes).map_err(|e| failed("write", &path, &e))?;
            }
        }
    }
    let image = source.join("large/image2");
    let file =
        OpenOptions::new().write(true).open(&image).map_err(|e| failed("open", &image, &e))?;
    let size = file.metadata().map_err(|e| failed("look at", &image, &e))?.len();
    let mut buffer = Vec::new();
    data::Random::new().prose(&mut buffer, size / 12);
    let at = (round % 11) * (size / 12);
    file.write_all_at(&buffer, at).map_err(|e| failed("write", &image, &e))
}

/// An XFS in a file, unmounted when it goes.
struct Xfs {
    at: PathBuf,
}

impl Xfs {
    fn mount(place: &Path, bytes: u64) -> Result<Xfs, Failure> {
        let (image, at) = (place.join("xfs.image"), place.join("xfs"));
        remove_file(&image)?;
        std::fs::create_dir_all(&at).map_err(|e| failed("make", &at, &e))?;
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(|e| failed("make", &image, &e))?;
        let mkfs = packages::find("mkfs.xfs", &["/usr/sbin", "/sbin"])
            .ok_or_else(|| Failure::new("mkfs.xfs is not installed (Debian: xfsprogs)"))?;
        must(Command::new(mkfs).arg("-q").arg(&image))?;
        must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at))
            .map_err(|e| Failure::new(format!("{e} (mounting needs root)")))?;
        Ok(Xfs { at })
    }

    /// The copy of another tool.
    fn copy(&self, tool: Tool) -> PathBuf {
        self.at.join(if tool == Tool::Rsync { "compared" } else { "whole" })
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        if let Err(e) = must(Command::new("umount").arg(&self.at)) {
            eprintln!("{e}");
        }
    }
}

fn remove_file(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path, &e)),
        _ => Ok(()),
    }
}
