//! The plan of a prune, on repositories made up by lot.

use mainstay_repository::prune::plan::{
    Fate, Holds, MaxUnused, Options, PackFacts, SMALL_BYTES, decide, steps,
};
use proptest::prelude::*;

fn pack() -> impl Strategy<Value = PackFacts> {
    let holds = prop_oneof![Just(Holds::Trees), Just(Holds::Data), Just(Holds::Both)];
    let size = prop_oneof![1..1000u64, 1..40_000_000u64, Just(u64::MAX >> 20)];
    (holds, size, 0..4u32, 0..4u32, 0..=100u64).prop_map(
        |(holds, size_bytes, used_blobs, unused_blobs, percent)| {
            let used_bytes = match (used_blobs, unused_blobs) {
                (0, _) => 0,
                (_, 0) => size_bytes,
                _ => size_bytes / 100 * percent,
            };
            PackFacts { holds, size_bytes, used_blobs, used_bytes, unused_blobs }
        },
    )
}

fn options() -> impl Strategy<Value = Options> {
    let max_unused = prop_oneof![
        (0..10_000u32).prop_map(MaxUnused::Percent),
        (0..100_000_000u64).prop_map(MaxUnused::Bytes),
        Just(MaxUnused::Unlimited),
    ];
    (max_unused, proptest::option::of(0..100_000_000u64), any::<bool>()).prop_map(
        |(max_unused, max_repack_bytes, repack_small)| Options {
            max_unused,
            max_repack_bytes,
            repack_small,
        },
    )
}

fn of(packs: &[PackFacts], fates: &[Fate], fate: Fate) -> Vec<PackFacts> {
    packs.iter().zip(fates).filter(|(_, f)| **f == fate).map(|(pack, _)| *pack).collect()
}

fn sum(packs: &[PackFacts], what: impl Fn(&PackFacts) -> u64) -> u64 {
    packs.iter().map(what).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_holds_nothing_of_use_is_removed(
        packs in proptest::collection::vec(pack(), 0..30),
        options in options(),
    ) {
        let fates = decide(&packs, &options);
        prop_assert_eq!(fates.len(), packs.len());
        for (pack, fate) in packs.iter().zip(&fates) {
            prop_assert_eq!(*fate == Fate::Remove, pack.used_blobs == 0, "{:?}", pack);
        }
    }

    #[test]
    fn what_is_written_anew_is_within_its_limit_and_worth_it(
        packs in proptest::collection::vec(pack(), 0..30),
        options in options(),
    ) {
        let fates = decide(&packs, &options);
        let repacked = of(&packs, &fates, Fate::Repack);
        if let Some(limit) = options.max_repack_bytes {
            prop_assert!(sum(&repacked, |pack| pack.size_bytes) <= limit);
        }
        let small = |pack: &PackFacts| pack.size_bytes < SMALL_BYTES && pack.holds != Holds::Both;
        for pack in &repacked {
            prop_assert!(pack.unused_bytes() > 0 || options.repack_small && small(pack));
        }
        if options.max_unused == MaxUnused::Unlimited && !options.repack_small {
            prop_assert!(repacked.is_empty());
        }
    }

    #[test]
    fn what_stays_unused_is_within_the_limit(
        packs in proptest::collection::vec(pack(), 0..30),
        options in options(),
    ) {
        let options = Options { max_repack_bytes: None, ..options };
        let fates = decide(&packs, &options);
        let kept = of(&packs, &fates, Fate::Keep);
        let unused = sum(&kept, PackFacts::unused_bytes);
        let used = sum(&packs, |pack| pack.used_bytes);
        match options.max_unused {
            MaxUnused::Unlimited => {}
            MaxUnused::Bytes(limit) => prop_assert!(unused <= limit),
            MaxUnused::Percent(hundredths) => {
                let all = u128::from(used) + u128::from(unused);
                prop_assert!(u128::from(unused) * 10_000 <= all * u128::from(hundredths));
            }
        }
        // And no more is copied than for that: without the cheapest one it would not be.
        if let (MaxUnused::Bytes(limit), false) = (options.max_unused, options.repack_small) {
            let repacked = of(&packs, &fates, Fate::Repack);
            if let Some(least) = repacked.iter().map(PackFacts::unused_bytes).max() {
                prop_assert!(unused + least > limit);
            }
        }
    }

    #[test]
    fn steps_are_all_of_the_work_and_each_fits(
        packs in proptest::collection::vec(pack(), 0..30),
        options in options(),
        free in proptest::option::of(0..200_000_000u64),
    ) {
        let fates = decide(&packs, &options);
        let steps = steps(&packs, &fates, free);
        let mut seen: Vec<usize> =
            steps.iter().flat_map(|step| step.remove.iter().chain(&step.repack)).copied().collect();
        seen.sort_unstable();
        let all: Vec<usize> = (0..packs.len()).filter(|at| fates[*at] != Fate::Keep).collect();
        prop_assert_eq!(seen, all);
        let mut free = free.unwrap_or(u64::MAX);
        for (n, step) in steps.iter().enumerate() {
            prop_assert!(step.remove.is_empty() || n == 0, "what simply goes goes first");
            let copied: u64 = step.repack.iter().map(|at| packs[*at].used_bytes).sum();
            prop_assert!(step.repack.len() == 1 || copied <= free / 2, "{} of {}", copied, free);
            let gone = step.remove.iter().chain(&step.repack).map(|at| packs[*at].size_bytes);
            free = free.saturating_add(gone.sum()).saturating_sub(copied);
        }
    }
}

#[test]
fn the_most_wasteful_go_first() {
    let pack = |used_bytes| PackFacts {
        holds: Holds::Data,
        size_bytes: 1000,
        used_blobs: 1,
        used_bytes,
        unused_blobs: 1,
    };
    let packs = [pack(900), pack(100), pack(500)];
    let fates = |bytes| {
        let max_unused = MaxUnused::Bytes(bytes);
        decide(&packs, &Options { max_unused, ..Options::default() })
    };
    use Fate::{Keep, Repack};
    assert_eq!(fates(1500), [Keep, Keep, Keep]);
    assert_eq!(fates(1499), [Keep, Repack, Keep]);
    assert_eq!(fates(599), [Keep, Repack, Repack]);
    assert_eq!(fates(0), [Repack, Repack, Repack]);
}

#[test]
fn limits_are_read() {
    assert_eq!("5%".parse(), Ok(MaxUnused::Percent(500)));
    assert_eq!("0%".parse(), Ok(MaxUnused::Percent(0)));
    assert_eq!("200MiB".parse(), Ok(MaxUnused::Bytes(200 << 20)));
    assert_eq!("unlimited".parse(), Ok(MaxUnused::Unlimited));
    for bad in ["", "100%", "-1%", "some"] {
        assert!(bad.parse::<MaxUnused>().is_err(), "{bad:?}");
    }
}
