//! Random small histories, on which the engines must agree with the exhaustive search.
//!
//! Invariants: a seed and a number name one history for ever; generators favour the shapes that
//! break checkers (ties, unknown outcomes, chains, repeated values) over likely ones. It does not
//! print: a disagreement is returned with the history that shows it.

use crate::check::spec::Call;
use crate::check::specs::RegisterOp;

/// A small random generator (the finaliser of SplitMix64 over a counter).
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// Dice for history `number` of a campaign named by `seed`.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut dice = Self { state: seed };
        let start = dice.roll() ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { state: start }
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True once in `odds` times.
    pub fn once_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }
}

/// Random times for `count` calls: a mix of short and long ones with many ties.
pub(crate) fn random_calls<O>(
    dice: &mut Dice,
    count: u64,
    mut op: impl FnMut(&mut Dice) -> (O, bool),
) -> Vec<Call<O>> {
    let span = count + dice.below(2 * count + 1);
    let longest = 1 + dice.below(span + 1);
    let crash_odds = 2 + dice.below(8);
    (0..count)
        .map(|id| {
            let (op, may_be_unknown) = op(dice);
            let invoke = dice.below(span);
            let complete = invoke + dice.below(longest);
            let unknown = may_be_unknown && dice.once_in(crash_odds);
            Call {
                id,
                invoke,
                complete: (!unknown).then_some(complete),
                op,
            }
        })
        .collect()
}

/// A register history: values unique but for 0, which is also the initial value.
pub(crate) fn random_register(dice: &mut Dice) -> Vec<Call<RegisterOp>> {
    let count = 2 + dice.below(7);
    let with_chains = dice.once_in(2);
    let zero_odds = 2 + dice.below(6);
    let mut fresh = 0;
    random_calls(dice, count, |dice| {
        let known = fresh + 1;
        match dice.below(5) {
            0 | 1 if dice.once_in(zero_odds) => (RegisterOp::Write(0), true),
            0 | 1 => {
                fresh += 1;
                (RegisterOp::Write(fresh), true)
            }
            2 if with_chains => {
                let from = dice.below(known + 1);
                fresh += 1;
                (RegisterOp::CompareAndSet(from, fresh), true)
            }
            _ => (RegisterOp::Read(dice.below(known + 1)), false),
        }
    })
}

/// A register history over three values: hardly anything is unique.
pub(crate) fn random_repeating_register(dice: &mut Dice) -> Vec<Call<RegisterOp>> {
    let count = 2 + dice.below(8);
    random_calls(dice, count, |dice| match dice.below(5) {
        0 | 1 => (RegisterOp::Write(dice.below(3)), true),
        2 => (
            RegisterOp::CompareAndSet(dice.below(3), dice.below(3)),
            true,
        ),
        _ => (RegisterOp::Read(dice.below(3)), false),
    })
}
