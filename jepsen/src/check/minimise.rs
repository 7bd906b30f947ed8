//! Few calls that cannot be explained, out of many.
//!
//! Starting from a hint (or from ever longer stretches before the place where the search got stuck)
//! it takes calls away as long as what is left is still a proof in the sense of
//! [`Witnessed::weaken`]. The result is minimal: taking away any single call leaves a set that can
//! be explained. It need not be the smallest there is.

use super::search::{Limits, SearchAnswer, search};
use super::spec::Call;
use super::verify::Witnessed;

/// Configurations per trial: trials that need more are given up, and the set stays larger.
const TRIAL: Limits = Limits { most_held: 1 << 17 };
/// The first stretch tried before the stuck call.
const FIRST_STRETCH: usize = 16;

/// Minimises a refused history to a witness: places in `full`, ascending. `hint` holds calls that
/// are suspected, `stuck` the call after whose ending nothing matters.
pub(super) fn minimise<S: Witnessed>(
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
