//! The models by name, and how a history becomes calls on their objects.
//!
//! Invariants: failed calls are left out (they did not happen), unanswered reads too (they say
//! nothing), every other unanswered call may have happened or not; a function or value a model
//! does not know is refused with its line. An object per key is judged by itself.

use super::block::check_blocks;
use super::judge::{judge_queue, judge_set, judge_sum, judge_text, judge_txn};
use super::spec::Call;
use super::specs::{QueueOp, SetOp, SumOp, TextOp, Txn};
use super::{Verdict, append, snapshot};
use crate::history::{self, Ending, HistoryError, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What a near-linear engine says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fast {
    /// Linearizable.
    Valid,
    /// Not linearizable, probably because of these calls (places in the list).
    Invalid {
        /// Where to look.
        hint: Vec<usize>,
        /// Why.
        explanation: String,
    },
    /// The theory does not cover this history.
    NotApplicable,
}

/// What a history is judged against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Model {
    /// `:read`, `:write`.
    Register,
    /// `:read`, `:write`, `:cas [from to]`.
    CasRegister,
    /// `:txn [[:r k v] [:w k v]]` on registers, in one step.
    MultiRegister,
    /// `:get [k v]`, `:put [k v]`, `:append [k v]`; texts by key.
    Kv,
    /// `:acquire`, `:release`.
    Mutex,
    /// `:add v`, `:remove v`, `:read #{..}`.
    Set,
    /// `:add n`, `:increment`, `:decrement`, `:read n`.
    Counter,
    /// `:enqueue v`, `:dequeue v`; first in, first out.
    Queue,
    /// Lists by key under `:txn [[:append k v] [:r k [..]]]`, strictly serializable.
    Append,
    /// `:write [first count tag]`, `:zero [first count]`, `:read [first count [tag ..]]`.
    Block,
    /// Blocks, `:snapshot id` and `:read-snapshot [id first count [tag ..]]`.
    Snapshot,
}

/// All models and their names.
const NAMES: [(&str, Model); 11] = [
    ("register", Model::Register),
    ("cas-register", Model::CasRegister),
    ("multi-register", Model::MultiRegister),
    ("kv", Model::Kv),
    ("mutex", Model::Mutex),
    ("set", Model::Set),
    ("counter", Model::Counter),
    ("queue", Model::Queue),
    ("append", Model::Append),
    ("block", Model::Block),
    ("snapshot", Model::Snapshot),
];

impl Model {
    /// The names of all models.
    pub fn names() -> Vec<&'static str> {
        NAMES.iter().map(|(name, _)| *name).collect()
    }

    /// The model of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, model)| *model)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        NAMES
            .iter()
            .find(|(_, model)| *model == self)
            .map_or("", |(name, _)| name)
    }

    /// Judges the calls of a history; `initial` is the state before it, if not the usual one.
    /// Operations in a witness are places in `calls`.
    ///
    /// # Errors
    /// The line of a call this model does not know.
    pub fn check(
        self,
        initial: Option<&Value>,
        calls: &[history::Call],
    ) -> Result<Verdict, HistoryError> {
        match self {
            Self::Register | Self::CasRegister => {
                let mut values = Interner::default();
                let start = values.number(initial.unwrap_or(&Value::Nil));
                let with_cas = self == Self::CasRegister;
                let parts = split(calls, is_keyed(calls), |call, argument, answer| {
                    register_op(call, argument, answer, with_cas, &mut values)
                })?;
                Ok(first_problem(parts, |calls| judge_txn(vec![start], calls)))
            }
            Self::MultiRegister => multi_register(initial, calls),
            Self::Kv => kv(initial, calls),
            Self::Mutex => {
                let locked = matches!(initial, Some(Value::Bool(true) | Value::Int(1)));
                let parts = split(calls, is_keyed(calls), |call, _, _| mutex_op(call))?;
                Ok(first_problem(parts, |calls| {
                    judge_sum(i64::from(locked), calls)
                }))
            }
            Self::Set => {
                let mut values = Interner::default();
                let start = match initial {
                    None | Some(Value::Nil) => BTreeSet::new(),
                    Some(value) => elements(0, value, &mut values)?,
                };
                let parts = split(calls, is_keyed(calls), |call, argument, answer| {
                    set_op(call, argument, answer, &mut values)
                })?;
                Ok(first_problem(parts, |calls| {
                    judge_set(start.clone(), calls)
                }))
            }
            Self::Counter => {
                let start = initial.and_then(Value::int).unwrap_or(0);
                let parts = split(calls, is_keyed(calls), counter_op)?;
                Ok(first_problem(parts, |calls| judge_sum(start, calls)))
            }
            Self::Queue => {
                let mut values = Interner::default();
                let parts = split(calls, is_keyed(calls), |call, argument, answer| {
                    queue_op(call, argument, answer, &mut values)
                })?;
                Ok(first_problem(parts, judge_queue))
            }
            Self::Append => append::check(calls),
            Self::Block => Ok(check_blocks(&snapshot::accesses(calls)?)),
            Self::Snapshot => snapshot::check(calls),
        }
    }
}

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
}

/// The calls of one independent object.
pub(super) struct Part<O> {
    name: Option<String>,
    calls: Vec<Call<O>>,
}

/// A call's refusal, with its line.
pub(super) fn refuse(call: &history::Call, expected: &str, found: &Value) -> HistoryError {
    let found = format!(":{} {found}", call.function);
    HistoryError::at(
        call.complete_line.unwrap_or(call.invoke_line),
        expected,
        found,
    )
}

fn unknown_function(call: &history::Call, known: &str) -> HistoryError {
    let found = format!(":{}", call.function);
    HistoryError::at(call.invoke_line, known, found)
}

/// A timed call of a history call, unless it failed.
pub(super) fn timed<O>(at: usize, call: &history::Call, op: O) -> Call<O> {
    let complete = if call.ending == Ending::Ok {
        call.complete
    } else {
        None
    };
    Call {
        id: at as u64,
        invoke: call.invoke,
        complete,
        op,
    }
}

/// Whether every value is a pair whose first may be a key: Jepsen's independent histories. A
/// compare-and-set takes a pair anyway, so its second must be one again.
fn is_keyed(calls: &[history::Call]) -> bool {
    !calls.is_empty()
        && calls.iter().all(|call| {
            let pair = call.argument.pair();
            let second = pair.map(|(_, second)| second);
            match call.function.as_str() {
                "cas" | "compare-and-set" => second.is_some_and(|second| second.pair().is_some()),
                _ => pair.is_some(),
            }
        })
}

/// Splits a history by key, and translates each call that may have happened.
fn split<O>(
    calls: &[history::Call],
    keyed: bool,
    mut translate: impl FnMut(&history::Call, &Value, &Value) -> Result<Option<O>, HistoryError>,
) -> Result<Vec<Part<O>>, HistoryError> {
    let mut parts: BTreeMap<Option<Value>, Vec<Call<O>>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        if call.ending == Ending::Fail {
            continue;
        }
        let (mut key, mut argument, mut answer) = (call.key.clone(), &call.argument, &call.answer);
        if key.is_none() && keyed {
            let pair = call.argument.pair();
            let (first, second) = pair.ok_or_else(|| refuse(call, "[key value]", argument))?;
            key = Some(first.clone());
            argument = second;
            if call.ending == Ending::Ok {
                let pair = call.answer.pair();
                answer = pair.ok_or_else(|| refuse(call, "[key value]", answer))?.1;
            }
        }
        if let Some(op) = translate(call, argument, answer)? {
            parts.entry(key).or_default().push(timed(at, call, op));
        }
    }
    let name = |key: Option<Value>| key.map(|key| format!("key {key}"));
    Ok(parts
        .into_iter()
        .map(|(key, calls)| Part {
            name: name(key),
            calls,
        })
        .collect())
}

/// The first invalid part, or else the first unknown one.
pub(super) fn first_problem<O>(
    parts: Vec<Part<O>>,
    judge: impl Fn(&[Call<O>]) -> Verdict,
) -> Verdict {
    let mut unknown = None;
    for part in parts {
        match judge(&part.calls) {
            Verdict::Valid => {}
            Verdict::Invalid(mut witness) => {
                witness.part = part.name;
                return Verdict::Invalid(witness);
            }
            Verdict::Unknown(why) => {
                let name = part
                    .name
                    .map(|name| format!("{name}: "))
                    .unwrap_or_default();
                unknown = unknown.or(Some(format!("{name}{why}")));
            }
        }
    }
    unknown.map_or(Verdict::Valid, Verdict::Unknown)
}

fn answered(call: &history::Call) -> bool {
    call.ending == Ending::Ok
}

fn register_op(
    call: &history::Call,
    argument: &Value,
    answer: &Value,
    with_cas: bool,
    values: &mut Interner,
) -> Result<Option<Txn>, HistoryError> {
    match call.function.as_str() {
        "read" | "r" if answered(call) => Ok(Some(Txn {
            reads: vec![(0, values.number(answer))],
            writes: vec![],
        })),
        "read" | "r" => Ok(None),
        "write" | "w" => Ok(Some(Txn {
            reads: vec![],
            writes: vec![(0, values.number(argument))],
        })),
        "cas" | "compare-and-set" if with_cas => {
            let pair = argument.pair();
            let (from, to) = pair.ok_or_else(|| refuse(call, ":cas [from to]", argument))?;
            let (from, to) = (values.number(from), values.number(to));
            Ok(Some(Txn {
                reads: vec![(0, from)],
                writes: vec![(0, to)],
            }))
        }
        _ if with_cas => Err(unknown_function(call, ":read, :write or :cas")),
        _ => Err(unknown_function(call, ":read or :write")),
    }
}

fn mutex_op(call: &history::Call) -> Result<Option<SumOp>, HistoryError> {
    match call.function.as_str() {
        "acquire" | "lock" => Ok(Some(SumOp::found(0, 1))),
        "release" | "unlock" => Ok(Some(SumOp::found(1, -1))),
        _ => Err(unknown_function(call, ":acquire or :release")),
    }
}

fn counter_op(
    call: &history::Call,
    argument: &Value,
    answer: &Value,
) -> Result<Option<SumOp>, HistoryError> {
    let amount = |value: &Value| match value {
        Value::Nil => Ok(1),
        value => value.int().ok_or_else(|| refuse(call, "an integer", value)),
    };
    match call.function.as_str() {
        "add" => {
            let amount = argument
                .int()
                .ok_or_else(|| refuse(call, ":add and an integer", argument))?;
            // Adding nothing says nothing.
            Ok((amount != 0).then(|| SumOp::add(amount)))
        }
        "increment" | "inc" => Ok(Some(SumOp::add(amount(argument)?))),
        "decrement" | "dec" => Ok(Some(SumOp::add(amount(argument)?.saturating_neg()))),
        "read" if answered(call) => {
            let sum = answer
                .int()
                .ok_or_else(|| refuse(call, "an integer read", answer))?;
            Ok(Some(SumOp::found(sum, 0)))
        }
        "read" => Ok(None),
        _ => Err(unknown_function(
            call,
            ":add, :increment, :decrement or :read",
        )),
    }
}

fn elements(
    line: u64,
    value: &Value,
    values: &mut Interner,
) -> Result<BTreeSet<u64>, HistoryError> {
    match value {
        Value::Nil => Ok(BTreeSet::new()),
        Value::Set(items) => Ok(items.iter().map(|item| values.number(item)).collect()),
        Value::Tagged(_, inner) => elements(line, inner, values),
        other => match other.sequence() {
            Some(items) => Ok(items.iter().map(|item| values.number(item)).collect()),
            None => Err(HistoryError::at(
                line,
                "a set, list or vector",
                other.to_string(),
            )),
        },
    }
}

fn set_op(
    call: &history::Call,
    argument: &Value,
    answer: &Value,
    values: &mut Interner,
) -> Result<Option<SetOp>, HistoryError> {
    match call.function.as_str() {
        "add" => Ok(Some(SetOp::Add(values.number(argument)))),
        "remove" => Ok(Some(SetOp::Remove(values.number(argument)))),
        "read" if answered(call) => {
            let line = call.complete_line.unwrap_or(call.invoke_line);
            Ok(Some(SetOp::Read(elements(line, answer, values)?)))
        }
        "read" => Ok(None),
        _ => Err(unknown_function(call, ":add, :remove or :read")),
    }
}

fn queue_op(
    call: &history::Call,
    argument: &Value,
    answer: &Value,
    values: &mut Interner,
) -> Result<Option<QueueOp>, HistoryError> {
    match call.function.as_str() {
        "enqueue" => Ok(Some(QueueOp::Enqueue(values.number(argument)))),
        "dequeue" if !answered(call) => Ok(Some(QueueOp::DequeueAny)),
        "dequeue" if *answer == Value::Nil => Ok(Some(QueueOp::Empty)),
        "dequeue" => Ok(Some(QueueOp::Dequeue(values.number(answer)))),
        _ => Err(unknown_function(call, ":enqueue or :dequeue")),
    }
}

fn kv(initial: Option<&Value>, calls: &[history::Call]) -> Result<Verdict, HistoryError> {
    let keyed = calls.iter().all(|call| call.key.is_none());
    if !calls.iter().any(|call| call.function == "append") {
        let mut values = Interner::default();
        // A key that was never put reads as nil or as the empty text.
        let empty = |value: &Value| *value == Value::Nil || *value == Value::String(String::new());
        let mut number = |value: &Value| {
            if empty(value) {
                values.number(&Value::Nil)
            } else {
                values.number(value)
            }
        };
        let start = number(initial.unwrap_or(&Value::Nil));
        let parts = split(calls, keyed, |call, argument, answer| {
            match call.function.as_str() {
                "get" | "read" if answered(call) => Ok(Some(Txn {
                    reads: vec![(0, number(answer))],
                    writes: vec![],
                })),
                "get" | "read" => Ok(None),
                "put" | "write" => Ok(Some(Txn {
                    reads: vec![],
                    writes: vec![(0, number(argument))],
                })),
                _ => Err(unknown_function(call, ":get, :put or :append")),
            }
        })?;
        return Ok(first_problem(parts, |calls| judge_txn(vec![start], calls)));
    }
    let text = |call: &history::Call, value: &Value| match value {
        Value::Nil => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        other => Err(refuse(call, "texts, since the history appends", other)),
    };
    let start = match initial {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let parts = split(calls, keyed, |call, argument, answer| {
        match call.function.as_str() {
            "get" | "read" if answered(call) => Ok(Some(TextOp::Get(text(call, answer)?))),
            "get" | "read" => Ok(None),
            "put" | "write" => Ok(Some(TextOp::Put(text(call, argument)?))),
            "append" => Ok(Some(TextOp::Append(text(call, argument)?))),
            _ => Err(unknown_function(call, ":get, :put or :append")),
        }
    })?;
    Ok(first_problem(parts, |calls| {
        judge_text(start.clone(), calls)
    }))
}

/// One micro-operation of a transaction: its function, key and value.
pub(super) fn micro_ops<'a>(
    call: &history::Call,
    value: &'a Value,
) -> Result<Vec<(&'a str, &'a Value, &'a Value)>, HistoryError> {
    let shape = "a list of [function key value]";
    let items = value.sequence().ok_or_else(|| refuse(call, shape, value))?;
    let micro_op = |item: &'a Value| match item.sequence() {
        Some([function, key, value]) => function.name().map(|name| (name, key, value)),
        _ => None,
    };
    items
        .iter()
        .map(|item| micro_op(item).ok_or_else(|| refuse(call, shape, item)))
        .collect()
}

fn multi_register(
    initial: Option<&Value>,
    calls: &[history::Call],
) -> Result<Verdict, HistoryError> {
    let (mut keys, mut values) = (Interner::default(), Interner::default());
    let mut txns = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        if call.ending == Ending::Fail {
            continue;
        }
        let source = if answered(call) {
            &call.answer
        } else {
            &call.argument
        };
        let mut reads: BTreeMap<usize, u64> = BTreeMap::new();
        let mut writes: BTreeMap<usize, u64> = BTreeMap::new();
        for (function, key, value) in micro_ops(call, source)? {
            let key = usize::try_from(keys.number(key)).expect("keys are counted in memory");
            let number = values.number(value);
            match function {
                "w" | "write" => {
                    writes.insert(key, number);
                }
                // An unanswered transaction saw something, but nobody knows what.
                "r" | "read" if !answered(call) => {}
                "r" | "read" => {
                    let expected = writes.get(&key).or(reads.get(&key)).copied();
                    if expected.is_some_and(|expected| expected != number) {
                        let expected = "a transaction that agrees with itself";
                        return Ok(super::judge::contradiction(at, expected));
                    }
                    // What it wrote itself says nothing of the state that it found.
                    if !writes.contains_key(&key) {
                        reads.entry(key).or_insert(number);
                    }
                }
                _ => return Err(unknown_function(call, "micro-operations :r and :w")),
            }
        }
        let (reads, writes) = (reads.into_iter().collect(), writes.into_iter().collect());
        txns.push(timed(at, call, Txn { reads, writes }));
    }
    let nil = values.number(&Value::Nil);
    let mut start = vec![nil; keys.numbers.len()];
    if let Some(Value::Map(map)) = initial {
        for (key, value) in map {
            if let Some(&key) = keys.numbers.get(key) {
                let key = usize::try_from(key).expect("keys are counted in memory");
                start[key] = values.number(value);
            }
        }
    } else if let Some(value) = initial {
        start.fill(values.number(value));
    }
    Ok(super::judge::judge_components(&start, txns))
}
