//! How the calls of a history become operations of objects.
//!
//! Invariants: failed calls did not happen and do not get here; unanswered reads say nothing, every
//! other unanswered call may have happened or not; a function or value that a model does not know
//! is refused with its line.

use super::objects::{Step, Stop};
use super::specs::{QueueOp, SetOp, SumOp, TextOp, Txn};
use crate::history::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers for values, in order of appearance.
#[derive(Debug, Default)]
pub(super) struct Interner {
    numbers: BTreeMap<Value, u64>,
}

impl Interner {
    pub(super) fn number(&mut self, value: &Value) -> u64 {
        if let Some(&known) = self.numbers.get(value) {
            return known;
        }
        let next = self.numbers.len() as u64;
        self.numbers.insert(value.clone(), next);
        next
    }

    /// A key that was never put reads as nil or as the empty text.
    pub(super) fn text_number(&mut self, value: &Value) -> u64 {
        match value {
            Value::String(text) if text.is_empty() => self.number(&Value::Nil),
            other => self.number(other),
        }
    }

    pub(super) fn known(&self, value: &Value) -> Option<u64> {
        self.numbers.get(value).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

type Translated<O> = Result<Option<O>, Stop>;

fn read(value: u64) -> Txn {
    Txn {
        reads: vec![(0, value)],
        writes: vec![],
    }
}

fn write(value: u64) -> Txn {
    Txn {
        reads: vec![],
        writes: vec![(0, value)],
    }
}

pub(super) fn register_op(
    step: &Step<'_>,
    with_cas: bool,
    values: &mut Interner,
) -> Translated<Txn> {
    match step.function() {
        "read" | "r" => Ok(step.answered().then(|| read(values.number(step.answer)))),
        "write" | "w" => Ok(Some(write(values.number(step.argument)))),
        "cas" | "compare-and-set" if with_cas => {
            let pair = step.argument.pair();
            let (from, to) = pair.ok_or_else(|| step.refuse(":cas [from to]", step.argument))?;
            Ok(Some(Txn {
                reads: vec![(0, values.number(from))],
                writes: vec![(0, values.number(to))],
            }))
        }
        _ if with_cas => Err(step.unknown_function(":read, :write or :cas").into()),
        _ => Err(step.unknown_function(":read or :write").into()),
    }
}

/// Keys without appends.
pub(super) fn kv_op(step: &Step<'_>, values: &mut Interner) -> Translated<Txn> {
    match step.function() {
        "get" | "read" => Ok(step
            .answered()
            .then(|| read(values.text_number(step.answer)))),
        "put" | "write" => Ok(Some(write(values.text_number(step.argument)))),
        _ => Err(step.unknown_function(":get, :put or :append").into()),
    }
}

/// Keys with appends.
pub(super) fn text_op(step: &Step<'_>) -> Translated<TextOp> {
    let shape = "a text, since the history appends";
    let text = |value: &Value| match value {
        Value::Nil => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    let argument =
        || text(step.argument).ok_or_else(|| Stop::from(step.refuse(shape, step.argument)));
    match step.function() {
        "get" | "read" if step.answered() => {
            let found = text(step.answer);
            let found = found.ok_or_else(|| step.refuse_answer(shape, step.answer))?;
            Ok(Some(TextOp::Get(found)))
        }
        "get" | "read" => Ok(None),
        "put" | "write" => Ok(Some(TextOp::Put(argument()?))),
        "append" => Ok(Some(TextOp::Append(argument()?))),
        _ => Err(step.unknown_function(":get, :put or :append").into()),
    }
}

pub(super) fn mutex_op(step: &Step<'_>) -> Translated<SumOp> {
    match step.function() {
        "acquire" | "lock" => Ok(Some(SumOp::found(0, 1))),
        "release" | "unlock" => Ok(Some(SumOp::found(1, -1))),
        _ => Err(step.unknown_function(":acquire or :release").into()),
    }
}

pub(super) fn counter_op(step: &Step<'_>) -> Translated<SumOp> {
    let amount = |without: Option<i64>| {
        let amount = match step.argument {
            Value::Nil => without,
            value => value.int(),
        };
        amount.ok_or_else(|| Stop::from(step.refuse("an integer", step.argument)))
    };
    // Adding nothing says nothing.
    let add = |amount: i128| (amount != 0).then(|| SumOp::add(amount));
    match step.function() {
        "add" => Ok(add(amount(None)?.into())),
        "increment" | "inc" => Ok(add(amount(Some(1))?.into())),
        "decrement" | "dec" => Ok(add(-i128::from(amount(Some(1))?))),
        "read" if step.answered() => {
            let sum = step.answer.int();
            let sum = sum.ok_or_else(|| step.refuse_answer("an integer read", step.answer))?;
            Ok(Some(SumOp::found(sum, 0)))
        }
        "read" => Ok(None),
        _ => {
            let known = ":add, :increment, :decrement or :read";
            Err(step.unknown_function(known).into())
        }
    }
}

/// The elements of a collection, in its order, as often as it has them.
pub(super) fn elements(value: &Value, values: &mut Interner) -> Option<Vec<u64>> {
    match value {
        Value::Nil => Some(Vec::new()),
        Value::Set(items) => Some(items.iter().map(|item| values.number(item)).collect()),
        Value::Tagged(_, inner) => elements(inner, values),
        other => {
            let items = other.sequence()?;
            Some(items.iter().map(|item| values.number(item)).collect())
        }
    }
}

pub(super) fn set_op(step: &Step<'_>, values: &mut Interner) -> Translated<SetOp> {
    match step.function() {
        "add" => Ok(Some(SetOp::Add(values.number(step.argument)))),
        "remove" => Ok(Some(SetOp::Remove(values.number(step.argument)))),
        "read" if step.answered() => {
            let shape = "a set, list or vector";
            let found = elements(step.answer, values);
            let found = found.ok_or_else(|| step.refuse_answer(shape, step.answer))?;
            let different: BTreeSet<u64> = found.iter().copied().collect();
            if different.len() < found.len() {
                return Err(step.contradicts("a read of a set: it has an element twice"));
            }
            Ok(Some(SetOp::Read(different)))
        }
        "read" => Ok(None),
        _ => Err(step.unknown_function(":add, :remove or :read").into()),
    }
}

pub(super) fn queue_op(step: &Step<'_>, values: &mut Interner) -> Translated<QueueOp> {
    match step.function() {
        // Nil would be taken for "empty" when it is dequeued.
        "enqueue" if *step.argument == Value::Nil => Err(step
            .refuse("an element, which nil is not", step.argument)
            .into()),
        "enqueue" => Ok(Some(QueueOp::Enqueue(values.number(step.argument)))),
        "dequeue" if !step.answered() => Ok(Some(QueueOp::DequeueAny)),
        "dequeue" if *step.answer == Value::Nil => Ok(Some(QueueOp::Empty)),
        "dequeue" => Ok(Some(QueueOp::Dequeue(values.number(step.answer)))),
        _ => Err(step.unknown_function(":enqueue or :dequeue").into()),
    }
}
