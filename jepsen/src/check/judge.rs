//! From calls to a verdict: the fastest engine that is exact, then a minimal witness.

use super::lists::{ListTxn, Lists};
use super::models::Fast;
use super::search::{Limits, SearchAnswer, search};
use super::spec::{Call, Spec};
use super::specs::{MultiRegister, Queue, QueueOp, Set, SetOp, Sum, SumOp, Text, TextOp, Txn};
use super::verify::{Witnessed, confirms};
use super::zone_blocks::NOTHING_WROTE;
use super::zones::{ZoneAnswer, ZoneChecker};
use super::{Verdict, Witness, append, minimise, queues, sets};
use std::collections::{BTreeMap, BTreeSet};

/// Witnesses of so many calls at most are confirmed by the verifier, which takes exponential time.
const CONFIRMED_MAXIMUM: usize = 10;

/// Judges registers in which each call is one step.
pub(crate) fn judge_txn(initial: Vec<u64>, calls: &[Call<Txn>]) -> Verdict {
    let read: BTreeSet<(usize, u64)> = calls
        .iter()
        .flat_map(|call| call.op.reads.iter().copied())
        .collect();
    // A write of unknown outcome that nobody can have seen need not have happened.
    let matters = |call: &&Call<Txn>| {
        call.complete.is_some() || call.op.writes.iter().any(|write| read.contains(write))
    };
    let calls: Vec<Call<Txn>> = calls.iter().filter(matters).cloned().collect();
    judge(&MultiRegister { initial }, &calls, register_zones)
}

/// Judges a counter or a lock.
pub(crate) fn judge_sum(initial: i64, calls: &[Call<SumOp>]) -> Verdict {
    judge(&Sum { initial }, calls, |_, _| Fast::NotApplicable)
}

/// Judges a set.
pub(crate) fn judge_set(initial: BTreeSet<u64>, calls: &[Call<SetOp>]) -> Verdict {
    judge(&Set { initial }, calls, sets::check)
}

/// Judges a queue.
pub(crate) fn judge_queue(calls: &[Call<QueueOp>]) -> Verdict {
    judge(&Queue, calls, |_, calls| queues::check(calls))
}

/// Judges a text.
pub(crate) fn judge_text(initial: String, calls: &[Call<TextOp>]) -> Verdict {
    judge(&Text { initial }, calls, |_, _| Fast::NotApplicable)
}

/// Judges lists under transactions.
pub(crate) fn judge_lists(lists: &Lists, calls: &[Call<ListTxn>]) -> Verdict {
    judge(lists, calls, append::fast)
}

/// A single call that cannot be.
pub(super) fn contradiction(at: usize, expected: &str) -> Verdict {
    Verdict::Invalid(Witness::new(
        vec![at as u64],
        format!("operation {at} is not {expected}"),
    ))
}

fn judge<S: Witnessed>(
    spec: &S,
    calls: &[Call<S::Op>],
    fast: impl Fn(&S, &[Call<S::Op>]) -> Fast,
) -> Verdict {
    let (hint, stuck, whole) = match fast(spec, calls) {
        Fast::Valid => return Verdict::Valid,
        Fast::Invalid { hint, explanation } => (hint, None, explanation),
        Fast::NotApplicable => match search(spec, calls, Limits::default()) {
            SearchAnswer::Linearizable => return Verdict::Valid,
            SearchAnswer::TooLarge(why) => return Verdict::Unknown(why),
            SearchAnswer::Stuck { call } => (vec![call], Some(call), String::new()),
        },
    };
    let chosen = minimise::minimise(spec, calls, &hint, stuck);
    if chosen.len() <= CONFIRMED_MAXIMUM && !confirms(spec, calls, &chosen) {
        // The engines and the verifier share nothing: one of them is wrong, and nobody is accused.
        let ids: Vec<u64> = chosen.iter().map(|&at| calls[at].id).collect();
        return Verdict::Unknown(format!(
            "a mistake of this checker, please report the history: operations {ids:?} are called \
             a contradiction, and the verifier finds an order of them"
        ));
    }
    let weak = spec.weaken(calls, &chosen);
    let explanation = match fast(spec, &weak) {
        // A witness may do without the write of a value if other writes in it covered that value: of
        // the whole history it would be wrong to say that nothing wrote it.
        Fast::Invalid { explanation, .. } if explanation == whole => explanation,
        Fast::Invalid { explanation, .. } => explanation.replace(
            NOTHING_WROTE,
            "that was overwritten before, written later, or never written",
        ),
        Fast::Valid | Fast::NotApplicable => explain(spec, &weak),
    };
    Verdict::Invalid(Witness::new(
        chosen.iter().map(|&at| calls[at].id).collect(),
        explanation,
    ))
}

fn explain<S: Spec>(spec: &S, calls: &[Call<S::Op>]) -> String {
    match search(spec, calls, Limits::default()) {
        SearchAnswer::Stuck { call } => format!(
            "no order of these operations gives operation {} its answer by the time it ended",
            calls[call].id
        ),
        SearchAnswer::Linearizable | SearchAnswer::TooLarge(_) => {
            "no order of these operations explains every answer".to_owned()
        }
    }
}

/// The zone checker, if it applies: one register, at most one value that is written repeatedly.
fn register_zones(spec: &MultiRegister, calls: &[Call<Txn>]) -> Fast {
    let &[initial] = spec.initial.as_slice() else {
        return Fast::NotApplicable;
    };
    let mut written: BTreeMap<u64, usize> = BTreeMap::from([(initial, 1)]);
    for &(_, value) in calls.iter().flat_map(|call| &call.op.writes) {
        *written.entry(value).or_default() += 1;
    }
    let mut repeated = written
        .iter()
        .filter(|&(_, &count)| count > 1)
        .map(|(&value, _)| value);
    let mut checker = match (repeated.next(), repeated.next()) {
        (None, _) => ZoneChecker::new(initial),
        (Some(value), None) => ZoneChecker::with_repeatable(initial, value),
        _ => return Fast::NotApplicable,
    };
    for call in calls {
        let (invoke, complete) = (call.invoke, call.complete);
        checker.number_next(call.id);
        match (
            call.op.reads.as_slice(),
            call.op.writes.as_slice(),
            complete,
        ) {
            (&[(_, from)], &[(_, to)], _) => checker.compare_and_set(invoke, complete, from, to),
            ([], &[(_, value)], _) => checker.write(invoke, complete, value),
            (&[(_, value)], [], Some(complete)) => checker.read(invoke, complete, value),
            _ => continue,
        };
    }
    match checker.finish() {
        ZoneAnswer::Valid => Fast::Valid,
        ZoneAnswer::Ambiguous(_) => Fast::NotApplicable,
        ZoneAnswer::Invalid(witness) => {
            let place = |op: &u64| calls.binary_search_by_key(op, |call| call.id).ok();
            let hint: Vec<usize> = witness.operations.iter().filter_map(place).collect();
            Fast::Invalid {
                hint,
                explanation: witness.explanation,
            }
        }
    }
}

/// Judges registers by groups of keys that some call ties together.
pub(crate) fn judge_components(initial: &[u64], calls: Vec<Call<Txn>>) -> Verdict {
    let mut group: Vec<usize> = (0..initial.len()).collect();
    for call in &calls {
        let mut keys = call
            .op
            .reads
            .iter()
            .chain(&call.op.writes)
            .map(|&(key, _)| key);
        let Some(first) = keys.next() else { continue };
        for key in keys {
            let (one, other) = (root(&mut group, first), root(&mut group, key));
            group[one] = other;
        }
    }
    let mut components: BTreeMap<usize, Vec<Call<Txn>>> = BTreeMap::new();
    for call in calls {
        let key = call
            .op
            .reads
            .first()
            .or(call.op.writes.first())
            .map(|&(key, _)| key);
        if let Some(key) = key {
            components
                .entry(root(&mut group, key))
                .or_default()
                .push(call);
        }
    }
    let mut unknown = None;
    for mut calls in components.into_values() {
        match judge_txn(renumber_keys(initial, &mut calls), &calls) {
            Verdict::Valid => {}
            invalid @ Verdict::Invalid(_) => return invalid,
            Verdict::Unknown(why) => unknown = unknown.or(Some(why)),
        }
    }
    unknown.map_or(Verdict::Valid, Verdict::Unknown)
}

fn root(group: &mut [usize], mut key: usize) -> usize {
    while group[key] != key {
        group[key] = group[group[key]];
        key = group[key];
    }
    key
}

/// Gives the keys of one component the numbers from 0, and their initial values.
fn renumber_keys(initial: &[u64], calls: &mut [Call<Txn>]) -> Vec<u64> {
    let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
    let mut start = Vec::new();
    for call in calls {
        for (key, _) in call.op.reads.iter_mut().chain(&mut call.op.writes) {
            *key = *numbers.entry(*key).or_insert_with(|| {
                start.push(initial[*key]);
                start.len() - 1
            });
        }
    }
    start
}
