//! Chance, for tests that kill at moments that nobody chose.

const ROUNDS: u64 = 3;

/// How many rounds there are: few each time, and many where `MAINSTAY_TEST_ROUNDS` asks for them.
pub(crate) fn rounds() -> u64 {
    let asked = std::env::var("MAINSTAY_TEST_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

/// Numbers from a seed. The test prints it, so that a failure can be looked for again.
pub(crate) struct Dice(u64);

impl std::fmt::Display for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MAINSTAY_TEST_SEED={}", self.0)
    }
}

impl Dice {
    pub(crate) fn new() -> Dice {
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let given = std::env::var("MAINSTAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
        Dice(given.unwrap_or(u64::from_le_bytes(random)) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    /// Numbers below a limit, in an order of chance, again and again: none comes a second time before all
    /// others came.
    pub(crate) fn cards(&mut self, limit: u64) -> impl FnMut() -> u64 + use<> {
        let mut dice = Dice(self.0 | 1);
        self.below(2);
        let mut left: Vec<u64> = Vec::new();
        move || {
            if left.is_empty() {
                left = (0..limit).collect();
            }
            let drawn = dice.below(left.len() as u64);
            left.swap_remove(usize::try_from(drawn).unwrap())
        }
    }
}
