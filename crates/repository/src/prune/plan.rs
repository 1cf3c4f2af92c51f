//! What becomes of each pack: a pure function of how much of it is used.

use std::fmt;
use std::str::FromStr;

/// How much of what a repository stores may be of no use after a prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxUnused {
    /// So many hundredths of a percent of all that is stored then.
    Percent(u32),
    /// So many bytes.
    Bytes(u64),
    /// However much: only packs of which nothing is used go.
    Unlimited,
}

impl Default for MaxUnused {
    /// 5 %: below it, what is freed is seldom worth what is copied for it.
    fn default() -> Self {
        MaxUnused::Percent(500)
    }
}

/// The text is no such limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no limit for unused data; write it as 5%, 200MiB or unlimited")]
pub struct MaxUnusedError(String);

impl FromStr for MaxUnused {
    type Err = MaxUnusedError;

    fn from_str(text: &str) -> Result<MaxUnused, MaxUnusedError> {
        let wrong = || MaxUnusedError(text.to_owned());
        let text = text.trim();
        if text == "unlimited" {
            return Ok(MaxUnused::Unlimited);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let hundredths = model::size::hundredths(percent.trim()).ok_or_else(wrong)?;
            // All of it would be no limit.
            return if hundredths < 10_000 {
                Ok(MaxUnused::Percent(hundredths))
            } else {
                Err(wrong())
            };
        }
        model::size::parse(text).map(MaxUnused::Bytes).map_err(|_| wrong())
    }
}

impl fmt::Display for MaxUnused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxUnused::Percent(hundredths) => write!(f, "{}%", f64::from(*hundredths) / 100.0),
            MaxUnused::Bytes(bytes) => f.write_str(&model::size::human(*bytes)),
            MaxUnused::Unlimited => f.write_str("unlimited"),
        }
    }
}

/// What a prune may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much may stay that nothing uses.
    pub max_unused: MaxUnused,
    /// Packs of no more than so many bytes in all are written anew.
    pub max_repack_bytes: Option<u64>,
    /// Packs that are much smaller than others are put together.
    pub repack_small: bool,
}

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holds {
    /// Directories.
    Trees,
    /// Contents of files.
    Data,
    /// Both, as restic's first versions wrote it.
    Both,
}

/// One pack, as far as the plan needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFacts {
    /// What it holds.
    pub holds: Holds,
    /// All of it.
    pub size_bytes: u64,
    /// The blobs in it that something uses.
    pub used_blobs: u32,
    /// Their bytes; no more than there are.
    pub used_bytes: u64,
    /// The blobs in it that nothing uses, or that are used from another pack.
    pub unused_blobs: u32,
}

impl PackFacts {
    /// What would be freed if only what is used were stored.
    pub fn unused_bytes(&self) -> u64 {
        match self.unused_blobs {
            0 => 0,
            _ => self.size_bytes.saturating_sub(self.used_bytes),
        }
    }
}

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays as it is.
    Keep,
    /// Nothing in it is used: it goes.
    Remove,
    /// What is used is written to new packs; then it goes.
    Repack,
}

/// Packs below this size are small, if small ones are put together.
pub const SMALL_BYTES: u64 = 12 << 20;

/// Decides on each pack, in the order given.
///
/// Packs that hold nothing of use go. Of the others those with the largest share of waste are
/// written anew, until what is unused is within the limit.
pub fn decide(packs: &[PackFacts], options: &Options) -> Vec<Fate> {
    let mut fates: Vec<Fate> = packs
        .iter()
        .map(|pack| if pack.used_blobs == 0 { Fate::Remove } else { Fate::Keep })
        .collect();
    let kept = || packs.iter().enumerate().filter(|(_, pack)| pack.used_blobs > 0);
    let mut unused: u64 = kept().map(|(_, pack)| pack.unused_bytes()).sum();
    let used: u64 = kept().map(|(_, pack)| pack.used_bytes).sum();
    let allowed = match options.max_unused {
        MaxUnused::Unlimited => u64::MAX,
        MaxUnused::Bytes(bytes) => bytes,
        // Of what is stored afterwards, used and unused.
        MaxUnused::Percent(hundredths) => share(used, hundredths),
    };
    let mut left = options.max_repack_bytes.unwrap_or(u64::MAX);
    let mut repack = |at: usize, fates: &mut Vec<Fate>, unused: &mut u64| {
        let Some((pack, fate)) = packs.get(at).zip(fates.get_mut(at)) else { return };
        if pack.size_bytes <= left {
            left -= pack.size_bytes;
            *unused -= pack.unused_bytes();
            *fate = Fate::Repack;
        }
    };

    let mut wasteful: Vec<usize> =
        kept().filter(|(_, pack)| pack.unused_bytes() > 0).map(|(at, _)| at).collect();
    // The most freed for each byte copied first. Where two are alike the order given decides.
    wasteful.sort_by(|a, b| {
        let waste = |at: &usize| {
            let pack = packs.get(*at);
            (
                pack.map_or(0, |p| u128::from(p.unused_bytes())),
                pack.map_or(1, |p| p.used_bytes.max(1)),
            )
        };
        let ((a_unused, a_used), (b_unused, b_used)) = (waste(a), waste(b));
        (b_unused * u128::from(a_used)).cmp(&(a_unused * u128::from(b_used)))
    });
    for at in wasteful {
        if unused <= allowed {
            break;
        }
        repack(at, &mut fates, &mut unused);
    }

    if options.repack_small {
        for holds in [Holds::Trees, Holds::Data] {
            let small: Vec<usize> = kept()
                .filter(|(_, pack)| pack.holds == holds && pack.size_bytes < SMALL_BYTES)
                .map(|(at, _)| at)
                .collect();
            // One alone would only become itself again.
            if small.len() < 2 {
                continue;
            }
            for at in small {
                if fates.get(at) == Some(&Fate::Keep) {
                    repack(at, &mut fates, &mut unused);
                }
            }
        }
    }
    fates
}

/// What `hundredths` of a percent are of a sum whose rest is `used`.
fn share(used: u64, hundredths: u32) -> u64 {
    let hundredths = u128::from(hundredths.min(9_999));
    u64::try_from(u128::from(used) * hundredths / (10_000 - hundredths)).unwrap_or(u64::MAX)
}

/// Parts of the work, one after the other, each of which frees what it can before the next needs
/// space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Packs (by their places) of which nothing is used.
    pub remove: Vec<usize>,
    /// Packs that are written anew.
    pub repack: Vec<usize>,
}

/// How much of the free space one step may fill for a while.
const FREE_SHARE: u64 = 2;
/// A step copies no more than this: what an interruption loses is bounded.
const STEP_BYTES: u64 = 16 << 30;

/// Cuts the work into steps. With room to spare it is one; where `free_bytes` is little, packs that
/// simply go do so first, and what is written anew at once is no more than half of what is free then.
pub fn steps(packs: &[PackFacts], fates: &[Fate], free_bytes: Option<u64>) -> Vec<Step> {
    let of = |fate: Fate| {
        let places = fates.iter().enumerate().filter(move |(_, f)| **f == fate);
        places.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let size = |at: &usize| packs.get(*at).map_or(0, |pack| pack.size_bytes);
    let copied = |at: &usize| packs.get(*at).map_or(0, |pack| pack.used_bytes);
    let (remove, repack) = (of(Fate::Remove), of(Fate::Repack));
    let needed: u64 = repack.iter().map(copied).sum();
    let mut free = free_bytes.unwrap_or(u64::MAX);
    let mut steps = Vec::new();
    let mut step = Step { remove, repack: Vec::new() };
    if needed > free / FREE_SHARE && !step.remove.is_empty() {
        free = free.saturating_add(step.remove.iter().map(size).sum());
        steps.push(std::mem::take(&mut step));
    }
    let (mut copying, mut going) = (0u64, 0u64);
    for at in repack {
        let full = copying.saturating_add(copied(&at)) > (free / FREE_SHARE).min(STEP_BYTES);
        if full && !step.repack.is_empty() {
            free = free.saturating_add(going).saturating_sub(copying);
            (copying, going) = (0, 0);
            steps.push(std::mem::take(&mut step));
        }
        copying = copying.saturating_add(copied(&at));
        going = going.saturating_add(size(&at));
        step.repack.push(at);
    }
    if step != Step::default() {
        steps.push(step);
    }
    steps
}
