//! Making a script shorter in time: an earlier end, less waiting, rounder figures.

use std::time::Duration;

use crate::scenario::{OperatorDeed, Script};

/// One millisecond.
const MILLISECOND_NS: u64 = 1_000_000;

/// Every moment at which a script has something happen.
fn moments(script: &mut Script) -> Vec<&mut u64> {
    let plan = &mut script.plan;
    let faults = plan.faults.iter_mut().map(|fault| &mut fault.at_ns);
    let moves = plan.moves.iter_mut().map(|one| &mut one.at_ns);
    let operations = script.operations.iter_mut().flatten();
    let operations = operations.map(|operation| &mut operation.at_ns);
    let operators = plan.operators.iter_mut().flat_map(|action| {
        let until_ns = match &mut action.deed {
            OperatorDeed::Drain { until_ns, .. } => Some(until_ns),
            _ => None,
        };
        std::iter::once(&mut action.at_ns).chain(until_ns)
    });
    let additions = plan.additions.iter_mut();
    let additions = additions.map(|addition| &mut addition.at_ns);
    faults
        .chain(moves)
        .chain(additions)
        .chain(operators)
        .chain(operations)
        .collect()
}

/// The moments, in order.
pub(super) fn sorted_moments(script: &Script) -> Vec<u64> {
    let mut copy = script.clone();
    let mut sorted: Vec<u64> = moments(&mut copy).into_iter().map(|at_ns| *at_ns).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

/// The end of the safety phase, when all faults end.
pub(super) fn end_ns(script: &Script) -> u64 {
    u64::try_from(script.plan.safety.as_nanos()).unwrap_or(u64::MAX)
}

/// Ends the safety phase at `end_ns` at the latest, and everything listed with it.
pub(super) fn truncate(script: &mut Script, at_ns: u64) {
    if at_ns < end_ns(script) {
        script.plan.safety = Duration::from_nanos(at_ns);
    }
    script.plan.faults.retain(|fault| fault.at_ns <= at_ns);
    script.plan.moves.retain(|one| one.at_ns <= at_ns);
    script.plan.operators.retain(|one| one.at_ns <= at_ns);
    // Whoever was to come later comes when the faults end.
    for addition in &mut script.plan.additions {
        addition.at_ns = addition.at_ns.min(at_ns);
    }
    if let Some(operations) = &mut script.operations {
        operations.retain(|operation| operation.at_ns <= at_ns);
    }
}

/// Cuts the wait before `until_ns` to `to_ns`: all that comes then or later comes earlier.
pub(super) fn cut_wait(script: &mut Script, until_ns: u64, to_ns: u64) {
    let before = sorted_moments(script);
    let since_ns = before
        .iter()
        .rfind(|at_ns| **at_ns < until_ns)
        .copied()
        .unwrap_or_default();
    let cut_ns = (until_ns - since_ns).saturating_sub(to_ns);
    for at_ns in moments(script) {
        if *at_ns >= until_ns {
            *at_ns -= cut_ns;
        }
    }
    let end_ns = end_ns(script);
    if end_ns >= until_ns {
        script.plan.safety = Duration::from_nanos(end_ns - cut_ns);
    }
}

/// Rounds every time down to a millisecond.
pub(super) fn round(script: &mut Script) {
    let rounded = |ns: u64| ns / MILLISECOND_NS * MILLISECOND_NS;
    for at_ns in moments(script) {
        *at_ns = rounded(*at_ns);
    }
    script.plan.safety = Duration::from_nanos(rounded(end_ns(script)));
}
