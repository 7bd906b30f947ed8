//! The one hash function of this crate: fixed, fast and the same in every process.
//!
//! It mixes with a multiply and a rotation per word (the construction known as Fx). It is not made
//! to resist chosen keys: a hostile history can only slow down the check of itself. The order of
//! a map made with it is never observed.

use core::hash::{BuildHasherDefault, Hasher};

/// A hash map with the fixed hasher; its order must never be seen.
pub(crate) type FixedMap<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<FixedHasher>>;
/// An odd constant with well spread bits, from the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Word-at-a-time multiplicative hasher.
#[derive(Clone, Copy, Default)]
pub(crate) struct FixedHasher {
    state: u64,
}

impl FixedHasher {
    fn add(&mut self, word: u64) {
        self.state = (self.state.rotate_left(5) ^ word).wrapping_mul(SPREAD);
    }
}

impl Hasher for FixedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0_u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.add(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }

    fn finish(&self) -> u64 {
        // hashbrown takes its control bits from the top and its bucket from the bottom.
        self.state ^ (self.state >> 32)
    }
}
