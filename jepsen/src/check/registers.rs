//! The model `multi-register`: transactions on registers, each in one step; and the shape of
//! transactions, which `append` shares.
//!
//! Invariants: a transaction's answer is the transaction that was asked for, with what it read; a
//! read after a write of the same transaction shows that write and says nothing of the state that the
//! transaction found.

use super::ModelError;
use super::objects::{Object, Step, Stop};
use super::spec::Call;
use super::specs::Txn;
use super::translate::Interner;
use crate::history::{HistoryError, Value};
use std::collections::BTreeMap;

/// One micro-operation of a transaction: its function, key and value.
pub(super) type MicroOp<'a> = (&'a str, &'a Value, &'a Value);

/// The micro-operations of a transaction: answered, if it was, else as asked for.
pub(super) fn micro_ops<'a>(step: &Step<'a>) -> Result<Vec<MicroOp<'a>>, HistoryError> {
    let shape = "a list of [function key value]";
    let asked = listed(step.argument).map_err(|found| step.refuse(shape, found))?;
    if !step.answered() {
        return Ok(asked);
    }
    let answered = listed(step.answer).map_err(|found| step.refuse_answer(shape, found))?;
    let same = |(asked, found): (&MicroOp<'_>, &MicroOp<'_>)| {
        let is_read = matches!(asked.0, "r" | "read");
        (asked.0, asked.1) == (found.0, found.1) && (is_read || asked.2 == found.2)
    };
    let differs = asked.len() != answered.len() || !asked.iter().zip(&answered).all(same);
    if differs {
        let expected = format!("the transaction of line {}", step.call.invoke_line);
        return Err(step.refuse_answer(&expected, step.answer));
    }
    Ok(answered)
}

/// The triples of a transaction, or what is none.
fn listed(value: &Value) -> Result<Vec<MicroOp<'_>>, &Value> {
    let micro_op = |item| match Value::sequence(item) {
        Some([function, key, value]) => Ok((function.name().ok_or(item)?, key, value)),
        _ => Err(item),
    };
    let items = value.sequence().ok_or(value)?;
    items.iter().map(micro_op).collect()
}

/// The state before the calls, and the calls.
pub(super) fn prepare(
    initial: Option<&Value>,
    steps: &[Step<'_>],
) -> Result<(Vec<u64>, Vec<Call<Txn>>), Stop> {
    let (mut keys, mut values) = (Interner::default(), Interner::default());
    let mut txns = Vec::new();
    for step in steps.iter().filter(|step| !step.failed()) {
        txns.push(step.timed(transaction(step, &mut keys, &mut values)?));
    }
    let nil = values.number(&Value::Nil);
    let mut start = vec![nil; keys.len()];
    if let Some(Value::Map(map)) = initial {
        for (key, value) in map {
            if let Some(key) = keys.known(key) {
                start[place(key)] = values.number(value);
            }
        }
    } else if let Some(value) = initial {
        start.fill(values.number(value));
    }
    Ok((start, txns))
}

/// Refuses an initial map of which no key stands in the history: it would say nothing.
pub(super) fn check_initial(
    initial: Option<&Value>,
    objects: &[Object<'_>],
) -> Result<(), ModelError> {
    let Some(found @ Value::Map(map)) = initial else {
        return Ok(());
    };
    let mut known = false;
    let mut any = None;
    for step in objects.iter().flat_map(|object| &object.steps) {
        for (_, key, _) in micro_ops(step)? {
            known |= map.contains_key(key);
            any = any.or(Some(key));
        }
    }
    match any {
        Some(key) if !known && !map.is_empty() => Err(ModelError::Initial {
            expected: format!("values of keys of the history, such as {{{key} ..}}"),
            found: found.to_string(),
        }),
        _ => Ok(()),
    }
}

fn place(key: u64) -> usize {
    usize::try_from(key).expect("keys are counted in memory")
}

fn transaction(step: &Step<'_>, keys: &mut Interner, values: &mut Interner) -> Result<Txn, Stop> {
    let mut reads: BTreeMap<usize, u64> = BTreeMap::new();
    let mut writes: BTreeMap<usize, u64> = BTreeMap::new();
    for (function, key, value) in micro_ops(step)? {
        let key = place(keys.number(key));
        match function {
            "w" | "write" => {
                writes.insert(key, values.number(value));
            }
            // An unanswered transaction saw something, but nobody knows what.
            "r" | "read" if !step.answered() => {}
            "r" | "read" => {
                let number = values.number(value);
                let expected = writes.get(&key).or(reads.get(&key)).copied();
                if expected.is_some_and(|expected| expected != number) {
                    return Err(step.contradicts("a transaction that agrees with itself"));
                }
                // What it wrote itself says nothing of the state that it found.
                if !writes.contains_key(&key) {
                    reads.entry(key).or_insert(number);
                }
            }
            _ => return Err(step.unknown_function("micro-operations :r and :w").into()),
        }
    }
    Ok(Txn {
        reads: reads.into_iter().collect(),
        writes: writes.into_iter().collect(),
    })
}
