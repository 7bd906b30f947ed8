//! Randomness: labelled streams, so that a new draw in one place does not shift any other place.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The seeds seam.
pub trait Seeds: Send + Sync {
    /// A stream for `label`. Each call with the same label gives a fresh, independent stream; in the
    /// simulator it depends on the seed, the node, its incarnation, the label and the call count.
    fn stream(&self, label: &str) -> Random;
    /// Bytes fit for keys and nonces; in production from the operating system alone.
    fn secret(&self, length: usize) -> Vec<u8>;
}

/// One deterministic stream of random numbers. Not for secrets.
#[derive(Debug)]
pub struct Random(StdRng);

impl Random {
    /// The stream that `seed` begins.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..bound`.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no member");
        // Multiply-shift; the bias is below 2^-64 x bound, of no concern outside cryptography.
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half of a 128-bit product fits 64 bits")
    }

    /// Uniform index into a slice of `length` members.
    ///
    /// # Panics
    /// When `length` is zero.
    pub fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).expect("usize fits 64 bits here");
        usize::try_from(self.below(bound)).expect("less than a usize")
    }

    /// True with probability `numerator / denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// Fills `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        self.0.fill_bytes(buffer);
    }
}
