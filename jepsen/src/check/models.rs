//! The models by name, and what each begins with.
//!
//! Invariant: an initial value that a model does not take is refused, never replaced.

use super::block::check_blocks;
use super::judge::{
    judge_components, judge_lists, judge_queue, judge_set, judge_sum, judge_text, judge_txn,
};
use super::objects::{
    IsKeyed, Object, Step, any_pair, block_pair, objects, operations, register_pair,
    transaction_pair, verdict,
};
use super::translate::{Interner, counter_op, elements, kv_op, mutex_op, queue_op, register_op};
use super::translate::{set_op, text_op};
use super::{Verdict, append, registers, snapshot};
use crate::history::{self, HistoryError, Value};
use std::collections::BTreeSet;
use thiserror::Error;

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

/// Why a history cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModelError {
    /// The model does not begin so.
    #[error("the initial value: expected {expected}, found {found}")]
    Initial {
        /// What the model takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A call that the model does not know.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// Whose the calls of a history are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objects {
    /// Of an object a key, if the calls have keys or every value is a pair `[key value]`.
    #[default]
    ByKey,
    /// Of an object a key, if the calls have keys; values are values, whatever they look like.
    One,
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
    /// An initial value that the model does not take, or the line of a call that it does not know.
    pub fn check(
        self,
        initial: Option<&Value>,
        calls: &[history::Call],
    ) -> Result<Verdict, ModelError> {
        self.check_of(Objects::ByKey, initial, calls)
    }

    /// The same; `Objects::One` takes no value for `[key value]`.
    ///
    /// # Errors
    /// As [`Model::check`].
    pub fn check_of(
        self,
        whose: Objects,
        initial: Option<&Value>,
        calls: &[history::Call],
    ) -> Result<Verdict, ModelError> {
        let equal: Vec<history::Call>;
        let is_canonical = |call: &history::Call| {
            let mut values = call.key.iter().chain([&call.argument, &call.answer]);
            values.all(Value::is_canonical)
        };
        let calls = if calls.iter().all(is_canonical) {
            calls
        } else {
            equal = calls.iter().map(history::Call::canonical).collect();
            &equal
        };
        let is_keyed = match whose {
            Objects::ByKey => self.is_keyed(),
            Objects::One => |_: &str, _: &Value| false,
        };
        let initial = initial.map(Value::canonical);
        self.judge(initial.as_ref(), &objects(calls, is_keyed)?)
    }

    fn judge(self, initial: Option<&Value>, objects: &[Object<'_>]) -> Result<Verdict, ModelError> {
        let mut values = Interner::default();
        match self {
            Self::Register | Self::CasRegister => {
                let start = values.number(initial.unwrap_or(&Value::Nil));
                let with_cas = self == Self::CasRegister;
                verdict(
                    objects,
                    |steps| operations(steps, |step| register_op(step, with_cas, &mut values)),
                    |calls| judge_txn(vec![start], &calls),
                )
            }
            Self::MultiRegister => {
                registers::check_initial(initial, objects)?;
                verdict(
                    objects,
                    |steps| registers::prepare(initial, steps),
                    |(start, calls)| judge_components(&start, calls),
                )
            }
            Self::Kv => kv(initial, objects),
            Self::Mutex => {
                let held = i64::from(initially_held(initial)?);
                let prepare = |steps: &[_]| operations(steps, mutex_op);
                verdict(objects, prepare, |calls| judge_sum(held, &calls))
            }
            Self::Set => {
                let start = initial_elements(initial, &mut values)?;
                verdict(
                    objects,
                    |steps| operations(steps, |step| set_op(step, &mut values)),
                    |calls| judge_set(start.clone(), &calls),
                )
            }
            Self::Counter => {
                let start = initial_count(initial)?;
                let prepare = |steps: &[_]| operations(steps, counter_op);
                verdict(objects, prepare, |calls| judge_sum(start, &calls))
            }
            Self::Queue => {
                takes_none(initial, "none: a queue begins empty")?;
                verdict(
                    objects,
                    |steps| operations(steps, |step| queue_op(step, &mut values)),
                    |calls| judge_queue(&calls),
                )
            }
            Self::Append => {
                takes_none(initial, "none: lists begin empty")?;
                verdict(objects, append::prepare, |(lists, calls)| {
                    judge_lists(&lists, &calls)
                })
            }
            Self::Block => {
                takes_none(initial, "none: blocks begin as zeros")?;
                verdict(objects, snapshot::accesses, |blocks| check_blocks(&blocks))
            }
            Self::Snapshot => {
                takes_none(initial, "none: blocks begin as zeros")?;
                verdict(objects, snapshot::prepare, snapshot::judge)
            }
        }
    }

    /// What this model takes for `[key value]`.
    fn is_keyed(self) -> IsKeyed {
        match self {
            Self::CasRegister | Self::Register => register_pair,
            Self::MultiRegister | Self::Append => transaction_pair,
            Self::Block | Self::Snapshot => block_pair,
            Self::Kv | Self::Mutex | Self::Set | Self::Counter | Self::Queue => any_pair,
        }
    }
}

/// Texts once something is appended, else registers.
fn kv(initial: Option<&Value>, objects: &[Object<'_>]) -> Result<Verdict, ModelError> {
    let unnamed = objects.iter().filter(|object| object.name.is_none());
    let without_key = |step: &&Step<'_>| step.argument.pair().is_none();
    if let Some(step) = unnamed.flat_map(|o| &o.steps).find(without_key) {
        return Err(step.refuse("[key value]", step.argument).into());
    }
    let mut steps = objects.iter().flat_map(|object| &object.steps);
    if steps.any(|step| step.function() == "append") {
        let start = initial_text(initial)?;
        let prepare = |steps: &[_]| operations(steps, text_op);
        return verdict(objects, prepare, |calls| judge_text(start.clone(), &calls));
    }
    let mut values = Interner::default();
    let start = values.text_number(initial.unwrap_or(&Value::Nil));
    verdict(
        objects,
        |steps| operations(steps, |step| kv_op(step, &mut values)),
        |calls| judge_txn(vec![start], &calls),
    )
}

fn refused<T>(expected: &str, found: &Value) -> Result<T, ModelError> {
    Err(ModelError::Initial {
        expected: expected.to_owned(),
        found: found.to_string(),
    })
}

fn takes_none(initial: Option<&Value>, expected: &str) -> Result<(), ModelError> {
    initial.map_or(Ok(()), |found| refused(expected, found))
}

fn initially_held(initial: Option<&Value>) -> Result<bool, ModelError> {
    match initial {
        None | Some(Value::Nil | Value::Bool(false) | Value::Int(0)) => Ok(false),
        Some(Value::Bool(true) | Value::Int(1)) => Ok(true),
        Some(other) => refused("true (held) or false (free)", other),
    }
}

fn initial_text(initial: Option<&Value>) -> Result<String, ModelError> {
    match initial {
        None | Some(Value::Nil) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => refused("a text, since the history appends", other),
    }
}

fn initial_elements(
    initial: Option<&Value>,
    values: &mut Interner,
) -> Result<BTreeSet<u64>, ModelError> {
    let Some(initial) = initial else {
        return Ok(BTreeSet::new());
    };
    let Some(elements) = elements(initial, values) else {
        return refused("a set, list or vector", initial);
    };
    Ok(elements.into_iter().collect())
}

fn initial_count(initial: Option<&Value>) -> Result<i64, ModelError> {
    match initial {
        None | Some(Value::Nil) => Ok(0),
        Some(Value::Int(count)) => Ok(*count),
        Some(other) => refused("an integer", other),
    }
}
