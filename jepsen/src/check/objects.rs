//! The independent objects of a history: which call concerns which.
//!
//! Invariants: either every call of a history has a key or none has; the key is the call's own, or,
//! if every value has that shape, the first of a pair `[key value]` (Jepsen's independent
//! histories); an answer concerns the key that was asked about. A refusal names its line.

use super::judge::contradiction;
use super::spec::Call;
use super::{ModelError, Verdict};
use crate::history::{self, Ending, HistoryError, Value};
use std::collections::BTreeMap;

/// A call as its object sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    /// Its place among the history's calls.
    pub(super) at: usize,
    pub(super) call: &'a history::Call,
    /// Without the key.
    pub(super) argument: &'a Value,
    /// Without the key; meaningful if it was answered.
    pub(super) answer: &'a Value,
}

/// What a model sees of a history.
pub(super) struct Object<'a> {
    /// Absent if the history has one object.
    pub(super) name: Option<String>,
    pub(super) steps: Vec<Step<'a>>,
}

/// Why calls do not become operations.
pub(super) enum Stop {
    /// The history cannot be read so.
    Unusable(HistoryError),
    /// One call contradicts itself.
    Contradiction(Verdict),
}

impl From<HistoryError> for Stop {
    fn from(error: HistoryError) -> Self {
        Self::Unusable(error)
    }
}

impl<'a> Step<'a> {
    pub(super) fn function(&self) -> &'a str {
        &self.call.function
    }

    pub(super) fn answered(&self) -> bool {
        self.call.ending == Ending::Ok
    }

    pub(super) fn failed(&self) -> bool {
        self.call.ending == Ending::Fail
    }

    /// When its answer arrived.
    pub(super) fn complete(&self) -> Option<u64> {
        self.call.complete.filter(|_| self.answered())
    }

    /// This call in time, as an operation.
    pub(super) fn timed<O>(&self, op: O) -> Call<O> {
        Call {
            id: self.at as u64,
            invoke: self.call.invoke,
            complete: self.complete(),
            op,
        }
    }

    /// The call's refusal, with the line of what was asked.
    pub(super) fn refuse(&self, expected: &str, found: &Value) -> HistoryError {
        refuse(self.call, self.call.invoke_line, expected, found)
    }

    /// The refusal of its answer, with that line.
    pub(super) fn refuse_answer(&self, expected: &str, found: &Value) -> HistoryError {
        let line = self.call.complete_line.unwrap_or(self.call.invoke_line);
        refuse(self.call, line, expected, found)
    }

    pub(super) fn unknown_function(&self, known: &str) -> HistoryError {
        HistoryError::at(
            self.call.invoke_line,
            known,
            format!(":{}", self.function()),
        )
    }

    /// The answer cannot be, whatever else happened.
    pub(super) fn contradicts(&self, expected: &str) -> Stop {
        Stop::Contradiction(contradiction(self.at, expected))
    }
}

fn refuse(call: &history::Call, line: u64, expected: &str, found: &Value) -> HistoryError {
    HistoryError::at(line, expected, format!(":{} {found}", call.function))
}

/// Whether a value may be `[key value]`, by the call's function.
pub(super) type IsKeyed = fn(&str, &Value) -> bool;

/// The objects of a history, by key.
pub(super) fn objects(
    calls: &[history::Call],
    is_keyed: IsKeyed,
) -> Result<Vec<Object<'_>>, HistoryError> {
    let with_keys = calls.first().is_some_and(|call| call.key.is_some());
    let in_pairs = !with_keys
        && !calls.is_empty()
        && calls
            .iter()
            .all(|call| is_keyed(&call.function, &call.argument));
    let mut objects: BTreeMap<Option<&Value>, Vec<Step<'_>>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        if call.key.is_some() != with_keys {
            let expected = [
                "no key, as in the first call",
                "a key, as in the first call",
            ];
            let found = call
                .key
                .as_ref()
                .map_or("none".to_owned(), Value::to_string);
            let expected = expected[usize::from(with_keys)];
            return Err(HistoryError::at(call.invoke_line, expected, found));
        }
        let mut step = Step {
            at,
            call,
            argument: &call.argument,
            answer: &call.answer,
        };
        let mut key = call.key.as_ref();
        if in_pairs && let Some((first, second)) = call.argument.pair() {
            key = Some(first);
            step.argument = second;
            if step.answered() {
                let pair = call.answer.pair().filter(|(key, _)| *key == first);
                let expected = || format!("an answer [key value] with the key {first}");
                let pair = pair.ok_or_else(|| step.refuse_answer(&expected(), &call.answer))?;
                step.answer = pair.1;
            }
        }
        objects.entry(key).or_default().push(step);
    }
    let object = |(key, steps): (Option<&Value>, _)| Object {
        name: key.map(|key| format!("key {key}")),
        steps,
    };
    Ok(objects.into_iter().map(object).collect())
}

/// Judges each object: all are prepared first, so that a history that cannot be read is refused
/// whatever its other objects say. The first invalid one gives the verdict, or else the first
/// unknown one.
pub(super) fn verdict<'a, P>(
    objects: &[Object<'a>],
    mut prepare: impl FnMut(&[Step<'a>]) -> Result<P, Stop>,
    judge: impl Fn(P) -> Verdict,
) -> Result<Verdict, ModelError> {
    let mut prepared = Vec::new();
    for object in objects {
        prepared.push(match prepare(&object.steps) {
            Ok(ready) => Ok(ready),
            Err(Stop::Contradiction(verdict)) => Err(verdict),
            Err(Stop::Unusable(error)) => return Err(error.into()),
        });
    }
    let mut unknown = None;
    for (object, ready) in objects.iter().zip(prepared) {
        let name = object.name.as_deref();
        match ready.map_or_else(|verdict| verdict, &judge) {
            Verdict::Valid => {}
            Verdict::Invalid(mut witness) => {
                let parts: Vec<&str> = name.into_iter().chain(witness.part.as_deref()).collect();
                witness.part = (!parts.is_empty()).then(|| parts.join(", "));
                return Ok(Verdict::Invalid(witness));
            }
            Verdict::Unknown(why) => {
                let why = name.map_or(why.clone(), |name| format!("{name}: {why}"));
                unknown = unknown.or(Some(why));
            }
        }
    }
    Ok(unknown.map_or(Verdict::Valid, Verdict::Unknown))
}

/// The operations of an object whose calls are translated one by one; failed ones did not happen.
pub(super) fn operations<O>(
    steps: &[Step<'_>],
    mut translate: impl FnMut(&Step<'_>) -> Result<Option<O>, Stop>,
) -> Result<Vec<Call<O>>, Stop> {
    let mut operations = Vec::new();
    for step in steps.iter().filter(|step| !step.failed()) {
        if let Some(op) = translate(step)? {
            operations.push(step.timed(op));
        }
    }
    Ok(operations)
}

/// Any pair may be `[key value]`.
pub(super) fn any_pair(_: &str, value: &Value) -> bool {
    value.pair().is_some()
}

/// A compare-and-set takes a pair anyway, so its second must be one again.
pub(super) fn register_pair(function: &str, value: &Value) -> bool {
    let second = value.pair().map(|(_, second)| second);
    match function {
        "cas" | "compare-and-set" => second.is_some_and(|second| second.pair().is_some()),
        _ => second.is_some(),
    }
}

/// A range of blocks has a number in second place, `[key range]` a sequence; the name of a snapshot is
/// anything.
pub(super) fn block_pair(function: &str, value: &Value) -> bool {
    let second = value.pair().map(|(_, second)| second);
    match function {
        "snapshot" => second.is_some(),
        _ => second.is_some_and(|second| second.sequence().is_some()),
    }
}

/// A transaction is a list of triples, `[key transaction]` has such a list in second place.
pub(super) fn transaction_pair(_: &str, value: &Value) -> bool {
    let is_triple = |item: &Value| item.sequence().is_some_and(|item| item.len() == 3);
    let is_transaction = |value: &Value| {
        let items = value.sequence();
        items.is_some_and(|items| items.iter().all(is_triple))
    };
    let pair = value.pair();
    pair.is_some_and(|(_, second)| is_transaction(second)) && !is_transaction(value)
}
