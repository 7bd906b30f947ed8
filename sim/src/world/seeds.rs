//! Where every random number of a world comes from: hashes of names, never a shared generator.
//!
//! A [`Dice`] answers a question about one event (a message, a disk call, a crash) from the event's
//! identity alone, so that a new draw in one place cannot shift a decision in any other. Streams for
//! the code under test are seeded in the same way from (seed, node, incarnation, label, call count).
//! Does not: hold any state but the call counts of one incarnation.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hedgerow_env::{Random, Seeds};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::node::NodeEnv;
use super::trace::EventKind;

/// One million: rates are given in parts per million.
pub const PPM: u32 = 1_000_000;

/// Answers about one event, drawn from its identity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(u64);

impl Dice {
    /// The dice of the things called `label`, under `seed`.
    pub(super) fn new(seed: u64, label: &str) -> Self {
        Self(xxh3_64_with_seed(label.as_bytes(), seed))
    }

    /// The dice of one member: number `id` of these things.
    pub(super) fn of(self, id: u64) -> Self {
        Self(scramble(
            self.0 ^ scramble(id.wrapping_add(0x9e37_79b9_7f4a_7c15)),
        ))
    }

    /// 64 uniform bits for the question `tag`.
    pub(super) fn bits(self, tag: u64) -> u64 {
        scramble(self.0.wrapping_add(tag.wrapping_mul(0xd1b5_4a32_d192_ed03)))
    }

    /// Uniform in `0..bound`; zero when `bound` is zero.
    pub(super) fn below(self, tag: u64, bound: u64) -> u64 {
        let wide = u128::from(self.bits(tag)) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half of a 128-bit product fits 64 bits")
    }

    /// True with probability `rate_ppm` in a million.
    pub(super) fn chance(self, tag: u64, rate_ppm: u32) -> bool {
        rate_ppm > 0 && self.below(tag, u64::from(PPM)) < u64::from(rate_ppm)
    }
}

/// A bijective mixer of 64 bits (the finaliser of splitmix64).
fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The seed of call number `count` for `label` by one incarnation of a node.
pub(super) fn stream_seed(seed: u64, node: &str, incarnation: u32, label: &str, count: u64) -> u64 {
    let key = xxh3_64_with_seed(node.as_bytes(), seed);
    let key = xxh3_64_with_seed(&incarnation.to_le_bytes(), key);
    let key = xxh3_64_with_seed(label.as_bytes(), key);
    xxh3_64_with_seed(&count.to_le_bytes(), key)
}

/// How often each label was asked for by one incarnation.
#[derive(Debug, Default)]
pub(super) struct CallCounts(Mutex<BTreeMap<String, u64>>);

impl CallCounts {
    fn next(&self, label: &str) -> u64 {
        let mut counts = self.0.lock().expect("no panic while counting");
        if let Some(count) = counts.get_mut(label) {
            *count += 1;
            return *count;
        }
        counts.insert(label.to_owned(), 0);
        0
    }
}

impl Seeds for NodeEnv {
    fn stream(&self, label: &str) -> Random {
        Random::from_seed(self.draw_seed(label))
    }

    fn secret(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Random::from_seed(self.draw_seed("secret")).fill(&mut bytes);
        bytes
    }
}

impl NodeEnv {
    fn draw_seed(&self, label: &str) -> u64 {
        let count = self.life.call_counts.next(label);
        let name = &self.node.spec.name;
        let seed = stream_seed(self.world.seed(), name, self.life.incarnation, label, count);
        self.world
            .record(EventKind::Stream, Some(self.node.index), count, 0, seed);
        seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_streams_name_matters() {
        let base = stream_seed(1, "a", 1, "elections", 0);
        assert_eq!(base, stream_seed(1, "a", 1, "elections", 0));
        for other in [
            stream_seed(2, "a", 1, "elections", 0),
            stream_seed(1, "b", 1, "elections", 0),
            stream_seed(1, "a", 2, "elections", 0),
            stream_seed(1, "a", 1, "placement", 0),
            stream_seed(1, "a", 1, "elections", 1),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn dice_keep_to_their_rates() {
        let dice = Dice::new(7, "loss");
        let hits = (0..100_000)
            .filter(|id| dice.of(*id).chance(3, 50_000))
            .count();
        assert!((4_600..5_400).contains(&hits), "5 % of 100,000, got {hits}");
        assert!((0..1_000).all(|id| !dice.of(id).chance(3, 0)));
        assert!((0..1_000).all(|id| dice.of(id).chance(3, PPM)));
    }
}
