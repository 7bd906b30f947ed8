//! What a few calls of a history demand when all others are left out: the claims witnesses make.
//!
//! Invariant, for every object: if the full history can be explained, so can the weakened calls,
//! because an order of all calls, cut down to the chosen ones, explains what is still demanded.
//! The reasons stand at each object. No engine is used here.

use super::spec::{Call, Spec};
use super::specs::{MultiRegister, Queue, QueueOp, Set, SetOp, Sum, SumOp, Text, TextOp, Txn};
use super::verify::Witnessed;
use std::collections::{BTreeMap, BTreeSet};

/// Calls of `full` that are not chosen and could matter to those that are. Only the order up to
/// the last ending of a chosen call counts: chosen calls of unknown outcome need not come later,
/// and calls sent after that ending cannot come earlier.
pub(super) fn left_out<'a, O>(
    full: &'a [Call<O>],
    chosen: &'a BTreeSet<usize>,
) -> impl Iterator<Item = &'a Call<O>> {
    let last = chosen
        .iter()
        .filter_map(|&at| full[at].complete)
        .max()
        .unwrap_or(0);
    let calls = full.iter().enumerate();
    calls
        .filter(move |(at, call)| !chosen.contains(at) && call.invoke <= last)
        .map(|(_, call)| call)
}

/// Whether `write` could be the last write before `read` in spite of the chosen writes `over`,
/// each of which replaces what was there.
fn may_be_last<'a, O: 'a>(
    write: &Call<O>,
    read: &Call<O>,
    mut over: impl Iterator<Item = &'a Call<O>>,
) -> bool {
    !read.precedes(write) && !over.any(|over| write.precedes(over) && over.precedes(read))
}

impl Witnessed for MultiRegister {
    /// A read is demanded if every write of its value is chosen, or cannot be the one it saw.
    fn weaken(&self, full: &[Call<Txn>], chosen: &[usize]) -> Vec<Call<Txn>> {
        let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
        let calls = || chosen.iter().map(|&at| &full[at]);
        let mut writes: BTreeMap<(usize, u64), Vec<&Call<Txn>>> = BTreeMap::new();
        for call in left_out(full, &chosen) {
            call.op
                .writes
                .iter()
                .for_each(|write| writes.entry(*write).or_default().push(call));
        }
        let demanded = |call: &Call<Txn>, read: (usize, u64)| {
            let other = |over: &&Call<Txn>| {
                over.op
                    .writes
                    .iter()
                    .any(|&(key, value)| key == read.0 && value != read.1)
            };
            let mut writes = writes.get(&read).into_iter().flatten();
            writes.all(|write| !may_be_last(write, call, calls().filter(other)))
        };
        let weak = |call: &Call<Txn>| {
            let mut weak = call.clone();
            weak.op.reads.retain(|&read| demanded(call, read));
            weak
        };
        calls().map(weak).collect()
    }
}

impl Witnessed for Sum {
    /// Bounds are widened by what the steps left out may have added, and moved by what those that
    /// ended before certainly did.
    fn weaken(&self, full: &[Call<SumOp>], chosen: &[usize]) -> Vec<Call<SumOp>> {
        let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
        let weak = |at: &usize| {
            let mut weak = full[*at].clone();
            let (mut least, mut most) = (0_i128, 0_i128);
            for other in left_out(full, &chosen).filter(|other| !full[*at].precedes(other)) {
                let certain = other.precedes(&full[*at]);
                least += if certain {
                    other.op.delta
                } else {
                    other.op.delta.min(0)
                };
                most += if certain {
                    other.op.delta
                } else {
                    other.op.delta.max(0)
                };
            }
            weak.op.least = weak.op.least.saturating_sub(most);
            weak.op.most = weak.op.most.saturating_sub(least);
            weak
        };
        chosen.iter().map(weak).collect()
    }
}

impl Witnessed for Set {
    /// Only elements of which every add and remove is chosen count.
    fn weaken(&self, full: &[Call<SetOp>], chosen: &[usize]) -> Vec<Call<SetOp>> {
        let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
        let hidden: BTreeSet<u64> = left_out(full, &chosen)
            .filter_map(|call| call.op.element())
            .collect();
        let mut calls: Vec<Call<SetOp>> = chosen.iter().map(|&at| full[at].clone()).collect();
        calls.retain(|call| {
            call.op
                .element()
                .is_none_or(|element| !hidden.contains(&element))
        });
        for call in &mut calls {
            if let SetOp::Read(found) = &mut call.op {
                found.retain(|element| !hidden.contains(element));
                found.extend(self.initial.intersection(&hidden));
            }
        }
        calls
    }
}

impl Witnessed for Queue {
    /// Only elements of which every enqueue and dequeue is chosen count, and none if a dequeue of
    /// unknown element is left out.
    fn weaken(&self, full: &[Call<QueueOp>], chosen: &[usize]) -> Vec<Call<QueueOp>> {
        let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
        if left_out(full, &chosen).any(|call| call.op == QueueOp::DequeueAny) {
            return Vec::new();
        }
        let hidden: BTreeSet<u64> = left_out(full, &chosen)
            .filter_map(|call| call.op.element())
            .collect();
        let kept = |call: &Call<QueueOp>| call.op.element().is_none_or(|e| !hidden.contains(&e));
        chosen
            .iter()
            .map(|&at| full[at].clone())
            .filter(kept)
            .collect()
    }
}

impl Witnessed for Text {
    /// A get is demanded if every change is chosen, or comes after it, or was certainly replaced.
    fn weaken(&self, full: &[Call<TextOp>], chosen: &[usize]) -> Vec<Call<TextOp>> {
        let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
        let calls = || chosen.iter().map(|&at| &full[at]);
        let put = |call: &&Call<TextOp>| matches!(call.op, TextOp::Put(_));
        let changes: Vec<&Call<TextOp>> = left_out(full, &chosen)
            .filter(|call| !self.is_pure(&call.op))
            .collect();
        let demanded = |call: &&Call<TextOp>| {
            !self.is_pure(&call.op)
                || !changes
                    .iter()
                    .any(|change| may_be_last(change, call, calls().filter(put)))
        };
        calls().filter(demanded).cloned().collect()
    }
}
