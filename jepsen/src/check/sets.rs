//! Sets that only grow: exact in time linear in what was read (times a logarithm).
//!
//! The reads must form a chain by inclusion; equal reads form a level. An element stands first in
//! some level (or in none), so its first add has its position just before that level. The history
//! is linearizable if and only if nothing at a later position ended before something at an earlier
//! one began: positions are a total order between levels, and within one position real time itself
//! is an order. Of several adds of an element the first sent takes the position, the others only
//! have to end after everything before it began.
//!
//! It does not know removals: those go to the general search.

use super::models::Fast;
use super::spec::Call;
use super::specs::{Set, SetOp};
use std::collections::{BTreeMap, BTreeSet};

/// Judges the calls if nothing is removed.
pub(super) fn check(spec: &Set, calls: &[Call<SetOp>]) -> Fast {
    if calls.iter().any(|call| matches!(call.op, SetOp::Remove(_))) {
        return Fast::NotApplicable;
    }
    let mut reads: Vec<(usize, &BTreeSet<u64>)> = calls
        .iter()
        .enumerate()
        .filter_map(|(at, call)| match &call.op {
            SetOp::Read(found) => Some((at, found)),
            _ => None,
        })
        .collect();
    reads.sort_by_key(|(at, found)| (found.len(), *at));
    match judge(spec, calls, &reads) {
        Ok(()) => Fast::Valid,
        Err((hint, explanation)) => Fast::Invalid { hint, explanation },
    }
}

type Refusal = (Vec<usize>, String);

fn judge(
    spec: &Set,
    calls: &[Call<SetOp>],
    reads: &[(usize, &BTreeSet<u64>)],
) -> Result<(), Refusal> {
    let mut adds: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        if let SetOp::Add(element) = call.op {
            adds.entry(element).or_default().push(at);
        }
    }
    let placed = levels(spec, reads, &adds)?;
    // Position, then everything at it.
    let mut positions: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (&(at, _), level) in reads.iter().zip(&placed.level_of_read) {
        positions.entry(2 * level + 1).or_default().push(at);
    }
    let after_all = 2 * placed.levels;
    // Adds that need not take the position: they may stand later, so only their ending counts.
    let mut spare: Vec<(usize, usize)> = Vec::new();
    for (element, element_adds) in &adds {
        if spec.initial.contains(element) {
            continue;
        }
        let first_level = placed.first_level.get(element);
        let position = first_level.map_or(after_all, |level| 2 * level);
        let first = element_adds
            .iter()
            .copied()
            .min_by_key(|&at| (calls[at].invoke, at));
        for &at in element_adds {
            if first == Some(at) && first_level.is_some() {
                positions.entry(position).or_default().push(at);
            } else {
                spare.push((position, at));
            }
        }
    }
    ordered(calls, &positions, &spare)
}

/// Which level each read and each element belongs to.
struct Levels {
    level_of_read: Vec<usize>,
    first_level: BTreeMap<u64, usize>,
    levels: usize,
}

fn levels(
    spec: &Set,
    reads: &[(usize, &BTreeSet<u64>)],
    adds: &BTreeMap<u64, Vec<usize>>,
) -> Result<Levels, Refusal> {
    let mut placed = Levels {
        level_of_read: Vec::new(),
        first_level: BTreeMap::new(),
        levels: 0,
    };
    let mut last: Option<(usize, &BTreeSet<u64>)> = None;
    for &(at, found) in reads {
        let is_new = last.is_none_or(|(_, earlier)| earlier.len() < found.len());
        let base = last.map_or(&spec.initial, |(_, earlier)| earlier);
        if let Some(missing) = base.difference(found).next() {
            let mut hint = vec![at];
            hint.extend(last.map(|(at, _)| at));
            hint.extend(adds.get(missing).into_iter().flatten());
            // What this read has and the earlier has not shows that neither contains the other.
            let extra = found.difference(base).next();
            hint.extend(extra.and_then(|e| adds.get(e)).into_iter().flatten());
            return Err((
                hint,
                "two reads each lack something the other found".to_owned(),
            ));
        }
        if is_new {
            placed.levels += 1;
        }
        let level = placed.levels - 1;
        for &element in found.difference(base) {
            if !adds.contains_key(&element) {
                return Err((
                    vec![at],
                    "an element was read that nothing had added".to_owned(),
                ));
            }
            placed.first_level.insert(element, level);
        }
        placed.level_of_read.push(level);
        last = Some((at, found));
    }
    Ok(placed)
}

/// Nothing at a later position may have ended before something at an earlier one began.
fn ordered(
    calls: &[Call<SetOp>],
    positions: &BTreeMap<usize, Vec<usize>>,
    spare: &[(usize, usize)],
) -> Result<(), Refusal> {
    let ended_before = |at: usize, latest: usize| calls[at].precedes(&calls[latest]);
    // The latest to begin, up to and including each position.
    let mut begun: Vec<(usize, usize)> = Vec::new();
    let mut latest: Option<usize> = None;
    for (&position, here) in positions {
        for &at in here {
            if let Some(latest) = latest.filter(|&latest| ended_before(at, latest)) {
                return Err(too_early(at, latest));
            }
        }
        let last_here = here.iter().copied().max_by_key(|&at| calls[at].invoke);
        latest = last_here
            .into_iter()
            .chain(latest)
            .max_by_key(|&at| calls[at].invoke);
        begun.extend(latest.map(|latest| (position, latest)));
    }
    for &(position, at) in spare {
        let before = begun.partition_point(|&(other, _)| other < position);
        if let Some(&(_, latest)) = before.checked_sub(1).and_then(|before| begun.get(before))
            && ended_before(at, latest)
        {
            return Err(too_early(at, latest));
        }
    }
    Ok(())
}

fn too_early(at: usize, latest: usize) -> Refusal {
    (
        vec![at, latest],
        "something was over before a read began that did not see it, or was not even sent when \
         a read saw it"
            .to_owned(),
    )
}
