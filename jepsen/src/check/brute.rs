//! Exhaustive search over orders, for small histories: what the engines are compared with.
//!
//! Invariant: as plain as can be, so that it can be believed by reading it. It tries every order
//! that respects time, remembering only which (set of calls, state) pairs led nowhere. It is
//! exponential and takes at most 64 calls.

use super::spec::{Call, Spec};
use std::collections::BTreeSet;

/// The most calls it takes: they are kept in one word.
pub const MOST_CALLS: usize = 64;

/// Whether some order explains every answer; nothing if there are too many calls.
pub fn is_linearizable<S: Spec>(spec: &S, calls: &[Call<S::Op>]) -> Option<bool> {
    if calls.len() > MOST_CALLS {
        return None;
    }
    let mut dead_ends = BTreeSet::new();
    Some(explore(spec, calls, 0, &spec.initial(), &mut dead_ends))
}

fn explore<S: Spec>(
    spec: &S,
    calls: &[Call<S::Op>],
    done: u64,
    state: &S::State,
    dead_ends: &mut BTreeSet<(u64, S::State)>,
) -> bool {
    let open = || (0..calls.len()).filter(|&at| done & (1 << at) == 0);
    if open().all(|at| calls[at].complete.is_none()) {
        return true;
    }
    if !dead_ends.insert((done, state.clone())) {
        return false;
    }
    open().any(|at| {
        let may_be_next = open().all(|other| !calls[other].precedes(&calls[at]));
        may_be_next
            && spec
                .step(state, &calls[at].op)
                .is_some_and(|next| explore(spec, calls, done | 1 << at, &next, dead_ends))
    })
}
