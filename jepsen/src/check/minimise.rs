//! Few calls that cannot be explained, out of many.
//!
//! Starting from a hint (or from ever longer stretches before the place where the search got stuck)
//! it takes calls away as long as what is left is still a proof in the sense of
//! [`Witnessed::weaken`]. The result is minimal: taking away any single call leaves a set that can
//! be explained. It is of the fewest calls that any proof needs if there are few enough smaller sets
//! to try them all ([`MOST_TRIALS`]); else it need not be.

use super::search::{Limits, SearchAnswer, search};
use super::spec::Call;
use super::verify::Witnessed;

/// Configurations per trial: trials that need more are given up, and the set stays larger.
const TRIAL: Limits = Limits {
    most_held: 1 << 17,
    most_compared: 1 << 26,
};
/// The first stretch tried before the stuck call.
const FIRST_STRETCH: usize = 16;

/// Smaller sets that are tried: a proof of two calls is the smallest of any history up to this
/// length, one of three of two hundred calls, one of five of two dozen.
const MOST_TRIALS: usize = 20_000;
/// Calls that these trials look at in all, so that a long history is judged no later for it.
const MOST_LOOKS: usize = 20_000_000;

/// Minimises a refused history to a witness: places in `full`, ascending. `hint` holds calls that
/// are suspected, `stuck` the call after whose ending nothing matters.
pub(super) fn minimise<S: Witnessed>(
    spec: &S,
    full: &[Call<S::Op>],
    hint: &[usize],
    stuck: Option<usize>,
) -> Vec<usize> {
    let refused = |chosen: &[usize]| is_proof(spec, full, chosen);
    let minimal = minimal(spec, full, hint, stuck);
    fewest(full.len(), minimal.len(), &refused).unwrap_or(minimal)
}

/// Whether these calls alone are one.
pub(super) fn is_proof<S: Witnessed>(spec: &S, full: &[Call<S::Op>], chosen: &[usize]) -> bool {
    let weak = spec.weaken(full, chosen);
    matches!(search(spec, &weak, TRIAL), SearchAnswer::Stuck { .. })
}

/// A proof of fewer than `known` of the `calls`, as small as can be, if one is found.
fn fewest(calls: usize, known: usize, refused: &dyn Fn(&[usize]) -> bool) -> Option<Vec<usize>> {
    let mut trials = MOST_TRIALS.min(MOST_LOOKS / calls.max(1));
    for size in 1..known {
        let mut chosen: Vec<usize> = (0..size).collect();
        loop {
            trials = trials.checked_sub(1)?;
            if refused(&chosen) {
                return Some(chosen);
            }
            if !advance(&mut chosen, calls) {
                break;
            }
        }
    }
    None
}

/// The next set of as many of the `calls`, in lexical order; false after the last.
fn advance(chosen: &mut [usize], calls: usize) -> bool {
    let size = chosen.len();
    let movable = |&at: &usize| chosen[at] + size < calls + at;
    let Some(at) = (0..size).rev().find(movable) else {
        return false;
    };
    chosen[at] += 1;
    for next in at + 1..size {
        chosen[next] = chosen[next - 1] + 1;
    }
    true
}

fn minimal<S: Witnessed>(
    spec: &S,
    full: &[Call<S::Op>],
    hint: &[usize],
    stuck: Option<usize>,
) -> Vec<usize> {
    let refused = |chosen: &[usize]| {
        let weak = spec.weaken(full, chosen);
        matches!(search(spec, &weak, TRIAL), SearchAnswer::Stuck { .. })
    };
    let mut hint = hint.to_vec();
    hint.sort_unstable();
    hint.dedup();
    if refused(&hint) {
        return shrink(hint, &refused);
    }
    let suspects = stuck.iter().chain(&hint);
    let end = suspects
        .filter_map(|&call| full[call].complete)
        .max()
        .unwrap_or(u64::MAX);
    let mut order: Vec<usize> = (0..full.len())
        .filter(|&at| full[at].invoke <= end)
        .collect();
    order.sort_by_key(|&at| (full[at].invoke, at));
    let mut length = FIRST_STRETCH;
    while length < order.len() {
        let mut stretch = order[order.len() - length..].to_vec();
        stretch.extend(&hint);
        stretch.extend(stuck);
        stretch.sort_unstable();
        stretch.dedup();
        if refused(&stretch) {
            return shrink(stretch, &refused);
        }
        length *= 2;
    }
    order.sort_unstable();
    if refused(&order) {
        return shrink(order, &refused);
    }
    shrink((0..full.len()).collect(), &refused)
}

/// Takes away halves, quarters and so on down to single calls, until none can go.
fn shrink(mut kept: Vec<usize>, refused: &dyn Fn(&[usize]) -> bool) -> Vec<usize> {
    let mut size = kept.len().div_ceil(2).max(1);
    loop {
        let mut shrank = false;
        let mut at = 0;
        while at < kept.len() {
            let mut trial = kept.clone();
            trial.drain(at..(at + size).min(kept.len()));
            if refused(&trial) {
                kept = trial;
                shrank = true;
            } else {
                at += size;
            }
        }
        if size > 1 {
            size = size.div_ceil(2);
        } else if !shrank {
            return kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_smaller_set_is_tried_once_and_the_smallest_proof_is_found() {
        let mut sets = vec![vec![0, 1, 2]];
        let mut chosen = vec![0, 1, 2];
        while advance(&mut chosen, 6) {
            sets.push(chosen.clone());
        }
        assert_eq!((sets.len(), sets[19].as_slice()), (20, &[3, 4, 5][..]));
        sets.dedup();
        assert!(sets.is_sorted() && sets.len() == 20);
        let holds = |chosen: &[usize]| chosen.contains(&4) && chosen.contains(&1);
        assert_eq!(fewest(6, 5, &holds), Some(vec![1, 4]));
        assert_eq!(fewest(6, 2, &holds), None, "there is no smaller one");
        assert_eq!(fewest(50_000_000, 2, &holds), None, "nor is one looked for");
    }
}
