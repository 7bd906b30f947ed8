//! The shapes of random histories.
//!
//! Two ways: calls with answers drawn at random (mostly invalid, for small objects), and calls whose
//! answers come from running them at random points of their windows (valid), of which some are
//! then spoilt.

use super::dice::Dice;
use crate::check::lists::{ListStep, ListTxn};
use crate::check::spec::Call;
use crate::check::specs::{QueueOp, RegisterOp, SetOp, SumOp, TextOp, Txn};
use std::collections::{BTreeMap, BTreeSet};

/// A call before it has an answer: its window, its point in it, and whether it happened.
struct Slot {
    invoke: u64,
    complete: u64,
    point: u64,
    known: bool,
    happened: bool,
}

fn slots(dice: &mut Dice, count: u64) -> Vec<Slot> {
    let span = count + dice.below(2 * count + 1);
    let longest = 1 + dice.below(span + 1);
    let crash_odds = 2 + dice.below(8);
    (0..count)
        .map(|_| {
            let invoke = dice.below(span);
            let complete = invoke + dice.below(longest);
            let point = invoke + dice.below(complete - invoke + 1);
            let known = !dice.once_in(crash_odds);
            let happened = known || dice.once_in(2);
            Slot {
                invoke,
                complete,
                point,
                known,
                happened,
            }
        })
        .collect()
}

/// Calls with operations drawn one by one; those that may not be unknown are not.
fn drawn<O>(
    dice: &mut Dice,
    most: u64,
    mut draw: impl FnMut(&mut Dice) -> (O, bool),
) -> Vec<Call<O>> {
    let count = 2 + dice.below(most - 1);
    let slots = slots(dice, count);
    let call = |(slot, id): (Slot, u64)| {
        let (op, may_be_unknown) = draw(dice);
        let complete = (slot.known || !may_be_unknown).then_some(slot.complete);
        Call {
            id,
            invoke: slot.invoke,
            complete,
            op,
        }
    };
    slots.into_iter().zip(0..).map(call).collect()
}

/// Calls whose operations come from `run` in the order of their points. `run` also says whether
/// the operation may be of unknown outcome; one that did not happen is told so and must not change
/// anything. Operations that may not be unknown, but are, are left out.
fn ran<O>(
    dice: &mut Dice,
    most: u64,
    mut run: impl FnMut(&mut Dice, bool, bool) -> (O, bool),
) -> Vec<Call<O>> {
    let count = 2 + dice.below(most - 1);
    let mut slots = slots(dice, count);
    slots.sort_by_key(|slot| slot.point);
    let mut calls = Vec::new();
    for slot in slots {
        let (op, may_be_unknown) = run(dice, slot.happened, slot.known);
        if slot.known || may_be_unknown {
            let complete = slot.known.then_some(slot.complete);
            calls.push(Call {
                id: calls.len() as u64,
                invoke: slot.invoke,
                complete,
                op,
            });
        }
    }
    calls
}

/// One operation, or nothing with even odds, to be spoilt.
fn victim<'a, O>(dice: &mut Dice, calls: &'a mut [Call<O>]) -> Option<&'a mut O> {
    if calls.is_empty() || dice.once_in(2) {
        return None;
    }
    let at = usize::try_from(dice.below(calls.len() as u64)).expect("a place in the list");
    Some(&mut calls[at].op)
}

/// Every value is written once but for 0, which is also there at first.
pub(crate) fn unique_register(dice: &mut Dice) -> Vec<Call<RegisterOp>> {
    let with_chains = dice.once_in(2);
    let zero_odds = 2 + dice.below(6);
    let mut fresh = 0;
    drawn(dice, 8, |dice| {
        let known = fresh + 1;
        match dice.below(5) {
            0 | 1 if dice.once_in(zero_odds) => (RegisterOp::Write(0), true),
            0 | 1 => {
                fresh += 1;
                (RegisterOp::Write(fresh), true)
            }
            2 if with_chains => {
                let from = dice.below(known + 3);
                fresh += 1;
                (RegisterOp::CompareAndSet(from, fresh), true)
            }
            _ => (RegisterOp::Read(dice.below(known + 1)), false),
        }
    })
}

/// Three values: hardly anything is unique.
pub(crate) fn repeating_register(dice: &mut Dice) -> Vec<Call<RegisterOp>> {
    drawn(dice, 9, |dice| match dice.below(5) {
        0 | 1 => (RegisterOp::Write(dice.below(3)), true),
        2 => (
            RegisterOp::CompareAndSet(dice.below(3), dice.below(3)),
            true,
        ),
        _ => (RegisterOp::Read(dice.below(3)), false),
    })
}

/// Transactions on three registers.
pub(crate) fn multi_register(dice: &mut Dice) -> Vec<Call<Txn>> {
    let mut state = [0; 3];
    let mut fresh = 0;
    let mut calls = ran(dice, 7, |dice, happened, known| {
        let mut txn = Txn {
            reads: vec![],
            writes: vec![],
        };
        for (key, &value) in state.iter().enumerate() {
            if known && dice.once_in(2) {
                txn.reads.push((key, value));
            }
            if dice.once_in(3) {
                fresh += 1;
                let value = if dice.once_in(4) {
                    dice.below(3)
                } else {
                    fresh
                };
                txn.writes.push((key, value));
            }
        }
        if happened {
            txn.writes
                .iter()
                .for_each(|&(key, value)| state[key] = value);
        }
        (txn, true)
    });
    if let Some(txn) = victim(dice, &mut calls)
        && let Some(read) = txn.reads.first_mut()
    {
        read.1 = dice.below(fresh + 1);
    }
    calls
}

/// A counter with adds of either sign, or a lock.
pub(crate) fn counter_or_lock(dice: &mut Dice) -> Vec<Call<SumOp>> {
    if dice.once_in(2) {
        return drawn(dice, 8, |dice| match dice.below(2) {
            0 => (SumOp::found(0, 1), true),
            _ => (SumOp::found(1, -1), true),
        });
    }
    let mut sum = 0_i64;
    let signed = dice.once_in(2);
    let mut calls = ran(dice, 8, |dice, happened, known| {
        if known && dice.once_in(2) {
            return (SumOp::found(sum, 0), false);
        }
        let size = i64::from(!dice.once_in(2)) + 1;
        let delta = if signed && dice.once_in(2) {
            -size
        } else {
            size
        };
        if happened {
            sum += delta;
        }
        (SumOp::add(delta.into()), true)
    });
    if let Some(op) = victim(dice, &mut calls)
        && op.delta == 0
    {
        let shift = i128::from(dice.below(3)) - 1;
        (op.least, op.most) = (op.least + shift, op.most + shift);
    }
    calls
}

/// A set of few elements that holds 0 at first, with removals or without.
pub(crate) fn set(dice: &mut Dice) -> Vec<Call<SetOp>> {
    let mut state = BTreeSet::from([0]);
    let removes = dice.once_in(3);
    let mut calls = ran(dice, 8, |dice, happened, known| {
        let element = dice.below(5);
        if known && dice.once_in(2) {
            return (SetOp::Read(state.clone()), false);
        }
        if removes && dice.once_in(2) {
            if happened {
                state.remove(&element);
            }
            return (SetOp::Remove(element), true);
        }
        if happened {
            state.insert(element);
        }
        (SetOp::Add(element), true)
    });
    if let Some(SetOp::Read(found)) = victim(dice, &mut calls) {
        let element = dice.below(6);
        if !found.remove(&element) {
            found.insert(element);
        }
    }
    calls
}

/// A queue, mostly of unique elements, sometimes found empty.
pub(crate) fn queue(dice: &mut Dice) -> Vec<Call<QueueOp>> {
    let mut state: Vec<u64> = Vec::new();
    let repeats = dice.once_in(4);
    let simple = dice.once_in(2);
    let mut fresh = 0;
    let mut calls = ran(dice, 9, |dice, happened, known| {
        if dice.once_in(2) && (known || !simple) && !(simple && state.is_empty()) {
            let front = if happened && !state.is_empty() {
                Some(state.remove(0))
            } else {
                None
            };
            let op = match front {
                _ if !known => QueueOp::DequeueAny,
                Some(element) => QueueOp::Dequeue(element),
                None => QueueOp::Empty,
            };
            return (op, true);
        }
        fresh += 1;
        let element = if repeats { dice.below(3) } else { fresh };
        if happened {
            state.push(element);
        }
        (QueueOp::Enqueue(element), true)
    });
    if let Some(QueueOp::Dequeue(element)) = victim(dice, &mut calls) {
        *element = dice.below(fresh + 2);
    }
    calls
}

/// A text of single letters.
pub(crate) fn text(dice: &mut Dice) -> Vec<Call<TextOp>> {
    let mut state = String::new();
    let letters = ["a", "b", "c"];
    let letter =
        |dice: &mut Dice| letters[usize::from(dice.once_in(2)) + usize::from(dice.once_in(4))];
    let mut calls = ran(dice, 7, |dice, happened, known| {
        if known && dice.once_in(2) {
            return (TextOp::Get(state.clone()), false);
        }
        let letter = letter(dice).to_owned();
        if dice.once_in(3) {
            if happened {
                state.clone_from(&letter);
            }
            return (TextOp::Put(letter), true);
        }
        if happened {
            state.push_str(&letter);
        }
        (TextOp::Append(letter), true)
    });
    if let Some(TextOp::Get(found)) = victim(dice, &mut calls)
        && found.pop().is_none()
    {
        found.push('a');
    }
    calls
}

/// Transactions over two lists, mostly of unique elements.
pub(crate) fn lists(dice: &mut Dice) -> Vec<Call<ListTxn>> {
    let mut state: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let repeats = dice.once_in(8);
    let mut fresh = 0;
    let mut calls = ran(dice, 6, |dice, happened, known| {
        let mut next = state.clone();
        let mut txn = ListTxn::new();
        for _ in 0..=dice.below(3) {
            let key = dice.below(2);
            let list = next.entry(key).or_default();
            if dice.once_in(2) {
                fresh += 1;
                let element = if repeats { dice.below(3) } else { fresh };
                list.push(element);
                txn.push(ListStep::Append(key, element));
            } else if known {
                txn.push(ListStep::Read(key, list.clone()));
            }
        }
        if happened {
            state = next;
        }
        (txn, true)
    });
    if let Some(txn) = victim(dice, &mut calls) {
        spoil(dice, txn);
    }
    calls
}

/// Drops, repeats or swaps something in the first read of a transaction.
fn spoil(dice: &mut Dice, txn: &mut ListTxn) {
    let reads = txn.iter_mut().find_map(|step| match step {
        ListStep::Read(_, found) => Some(found),
        ListStep::Append(..) => None,
    });
    let Some(found) = reads else { return };
    match dice.below(4) {
        0 => found.truncate(found.len() / 2),
        1 => found.reverse(),
        2 => drop(found.pop()),
        _ => found.push(1 + dice.below(6)),
    }
}
