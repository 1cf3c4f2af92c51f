//! What uneven measurements still say.

/// A median, and between what the true one lies with at least 95 % certainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Spread {
    /// The interval is that of the sign test: it asks nothing of how the values are distributed. Each
    /// lies on either side of the true median like a coin's, so that the number of those below it is
    /// binomial.
    pub(super) fn of(values: &[f64]) -> Option<Spread> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        let outer = outside(values.len());
        Some(Spread {
            median: f64::midpoint(lower, upper),
            low: *values.get(outer)?,
            high: *values.get(values.len() - 1 - outer)?,
        })
    }
}

/// How many of `count` values may be left out at either end, so that the median of what they are drawn
/// from is outside the rest in at most 5 % of all cases. With less than six values that is so of none.
fn outside(count: usize) -> usize {
    let all = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    // So likely it is that just `n` of the values are below it, and that at most so many are.
    let (mut exactly, mut at_most) = (all, all);
    let mut n = 0;
    while 2 * n < count {
        #[allow(clippy::cast_precision_loss)]
        let next = exactly * (count - n) as f64 / (n + 1) as f64;
        if 2.0 * (at_most + next) > 0.05 {
            break;
        }
        (exactly, at_most, n) = (next, at_most + next, n + 1);
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_sign_test() {
        // From tables of the sign test's critical values at 5 %, two-sided: 6: 0, 12: 2, 24: 6, 30: 9.
        for (count, left_out) in [(6, 0), (12, 2), (24, 6), (30, 9)] {
            assert_eq!(outside(count), left_out, "{count}");
        }
        let values: Vec<f64> = (1..=24).rev().map(f64::from).collect();
        let spread = Spread::of(&values).unwrap();
        assert_eq!(spread, Spread { median: 12.5, low: 7.0, high: 18.0 });
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { median: 3.0, low: 3.0, high: 3.0 }));
    }
}
