//! The verifier of witnesses: plain enough to be believed by reading, apart from all engines.
//!
//! A witness is a set of calls. [`Witnessed::weaken`] says what those calls alone still demand
//! when all others are left out, such that the demand is met whenever the whole history can be
//! explained; [`confirms`] then tries every order of them. So a confirmed witness is a proof.
//! It costs (calls of the witness)² times the length of the history, and exponential time in the
//! witness: it is meant for the small ones the engines hand out.

use super::spec::{Call, Spec};
use std::collections::BTreeSet;

/// An object whose histories can be cut down to a few calls.
pub trait Witnessed: Spec {
    /// What `chosen` calls (places in `full`) must satisfy if `full` can be explained.
    fn weaken(&self, full: &[Call<Self::Op>], chosen: &[usize]) -> Vec<Call<Self::Op>>;
}

/// Whether no order explains the chosen calls of the history.
pub fn confirms<S: Witnessed>(spec: &S, full: &[Call<S::Op>], chosen: &[usize]) -> bool {
    let calls = spec.weaken(full, chosen);
    let mut tried = BTreeSet::new();
    !explained(
        spec,
        &calls,
        &mut BTreeSet::new(),
        &spec.initial(),
        &mut tried,
    )
}

fn explained<S: Spec>(
    spec: &S,
    calls: &[Call<S::Op>],
    done: &mut BTreeSet<usize>,
    state: &S::State,
    tried: &mut BTreeSet<(BTreeSet<usize>, S::State)>,
) -> bool {
    let open: Vec<usize> = (0..calls.len()).filter(|at| !done.contains(at)).collect();
    if open.iter().all(|&at| calls[at].complete.is_none()) {
        return true;
    }
    if !tried.insert((done.clone(), state.clone())) {
        return false;
    }
    open.iter().any(|&at| {
        if open.iter().any(|&other| calls[other].precedes(&calls[at])) {
            return false;
        }
        let Some(next) = spec.step(state, &calls[at].op) else {
            return false;
        };
        done.insert(at);
        let found = explained(spec, calls, done, &next, tried);
        done.remove(&at);
        found
    })
}
