//! The sequential objects histories are judged against.
//!
//! Values are interned to numbers before they come here: equality is all these objects need,
//! except the counter's sums.

use super::spec::Spec;
use std::collections::BTreeSet;

/// An operation on a register, with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RegisterOp {
    /// It was written.
    Write(u64),
    /// It was read and held this.
    Read(u64),
    /// It held the first value and was given the second in one step.
    CompareAndSet(u64, u64),
}

/// A register, or one block of a block device.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// What it holds before all operations.
    pub initial: u64,
}

impl Spec for Register {
    type State = u64;
    type Op = RegisterOp;

    fn initial(&self) -> u64 {
        self.initial
    }

    fn step(&self, state: &u64, op: &RegisterOp) -> Option<u64> {
        match *op {
            RegisterOp::Write(value) => Some(value),
            RegisterOp::Read(value) => (*state == value).then_some(value),
            RegisterOp::CompareAndSet(from, to) => (*state == from).then_some(to),
        }
    }

    fn is_pure(&self, op: &RegisterOp) -> bool {
        matches!(op, RegisterOp::Read(_))
    }
}

impl RegisterOp {
    /// The same as a transaction on one key.
    pub fn to_txn(self) -> Txn {
        let (reads, writes) = match self {
            Self::Write(value) => (vec![], vec![(0, value)]),
            Self::Read(value) => (vec![(0, value)], vec![]),
            Self::CompareAndSet(from, to) => (vec![(0, from)], vec![(0, to)]),
        };
        Txn { reads, writes }
    }
}

/// Reads and writes of several registers in one step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Txn {
    /// Keys and what they held before the step, each key once.
    pub reads: Vec<(usize, u64)>,
    /// Keys and what they hold after it, each key once.
    pub writes: Vec<(usize, u64)>,
}

/// Registers numbered from 0.
#[derive(Clone, Debug)]
pub struct MultiRegister {
    /// What they hold before all operations.
    pub initial: Vec<u64>,
}

impl Spec for MultiRegister {
    type State = Vec<u64>;
    type Op = Txn;

    fn initial(&self) -> Vec<u64> {
        self.initial.clone()
    }

    fn step(&self, state: &Vec<u64>, op: &Txn) -> Option<Vec<u64>> {
        if op.reads.iter().any(|&(key, value)| state[key] != value) {
            return None;
        }
        let mut next = state.clone();
        for &(key, value) in &op.writes {
            next[key] = value;
        }
        Some(next)
    }

    fn is_pure(&self, op: &Txn) -> bool {
        op.writes.is_empty()
    }
}

/// A step of a sum: it needs the sum within bounds and changes it. A counter's add needs nothing, its
/// read pins the sum; a lock is a sum whose acquire needs 0 and whose release needs 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SumOp {
    /// The least sum before the step.
    pub least: i128,
    /// The greatest sum before the step.
    pub most: i128,
    /// What the step adds.
    pub delta: i128,
}

impl SumOp {
    /// Adds whatever the sum is.
    pub fn add(delta: i128) -> Self {
        Self {
            least: i128::MIN,
            most: i128::MAX,
            delta,
        }
    }

    /// Finds exactly this sum, then adds.
    pub fn found(sum: i64, delta: i64) -> Self {
        let sum = i128::from(sum);
        Self {
            least: sum,
            most: sum,
            delta: i128::from(delta),
        }
    }
}

/// A counter or a lock.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    /// The sum before all operations.
    pub initial: i64,
}

impl Spec for Sum {
    type State = i128;
    type Op = SumOp;

    fn initial(&self) -> i128 {
        i128::from(self.initial)
    }

    fn step(&self, state: &i128, op: &SumOp) -> Option<i128> {
        (op.least <= *state && *state <= op.most).then(|| state.saturating_add(op.delta))
    }

    fn is_pure(&self, op: &SumOp) -> bool {
        op.delta == 0
    }
}

/// An operation on a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetOp {
    /// An element was added; it may have been there.
    Add(u64),
    /// An element was removed; it may have been absent.
    Remove(u64),
    /// The whole set was read.
    Read(BTreeSet<u64>),
}

impl SetOp {
    /// The element it adds or removes.
    pub fn element(&self) -> Option<u64> {
        match self {
            Self::Add(element) | Self::Remove(element) => Some(*element),
            Self::Read(_) => None,
        }
    }
}

/// A set.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// What it holds before all operations.
    pub initial: BTreeSet<u64>,
}

impl Spec for Set {
    type State = BTreeSet<u64>;
    type Op = SetOp;

    fn initial(&self) -> BTreeSet<u64> {
        self.initial.clone()
    }

    fn step(&self, state: &BTreeSet<u64>, op: &SetOp) -> Option<BTreeSet<u64>> {
        let mut next = state.clone();
        match op {
            SetOp::Add(element) => {
                next.insert(*element);
            }
            SetOp::Remove(element) => {
                next.remove(element);
            }
            SetOp::Read(found) if found == state => {}
            SetOp::Read(_) => return None,
        }
        Some(next)
    }

    fn is_pure(&self, op: &SetOp) -> bool {
        matches!(op, SetOp::Read(_))
    }
}

/// An operation on a first-in-first-out queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueOp {
    /// An element was put at the end.
    Enqueue(u64),
    /// This element was taken from the front.
    Dequeue(u64),
    /// The queue was found empty.
    Empty,
    /// Whatever was in front was taken, or the queue was empty: nobody knows.
    DequeueAny,
}

impl QueueOp {
    /// The element it is known to put or take.
    pub fn element(&self) -> Option<u64> {
        match *self {
            Self::Enqueue(element) | Self::Dequeue(element) => Some(element),
            Self::Empty | Self::DequeueAny => None,
        }
    }
}

/// A first-in-first-out queue, empty at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queue;

impl Spec for Queue {
    type State = Vec<u64>;
    type Op = QueueOp;

    fn initial(&self) -> Vec<u64> {
        Vec::new()
    }

    fn step(&self, state: &Vec<u64>, op: &QueueOp) -> Option<Vec<u64>> {
        match *op {
            QueueOp::Enqueue(element) => {
                let mut next = state.clone();
                next.push(element);
                Some(next)
            }
            QueueOp::Dequeue(element) if state.first() == Some(&element) => {
                Some(state[1..].to_vec())
            }
            QueueOp::Empty if state.is_empty() => Some(Vec::new()),
            QueueOp::DequeueAny => Some(state.get(1..).unwrap_or_default().to_vec()),
            QueueOp::Dequeue(_) | QueueOp::Empty => None,
        }
    }

    fn is_pure(&self, op: &QueueOp) -> bool {
        matches!(op, QueueOp::Empty)
    }
}

/// An operation on a text that can be replaced and appended to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TextOp {
    /// It was replaced.
    Put(String),
    /// This was appended.
    Append(String),
    /// It was read and held this.
    Get(String),
}

/// A text.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// What it holds before all operations.
    pub initial: String,
}

impl Spec for Text {
    type State = String;
    type Op = TextOp;

    fn initial(&self) -> String {
        self.initial.clone()
    }

    fn step(&self, state: &String, op: &TextOp) -> Option<String> {
        match op {
            TextOp::Put(text) => Some(text.clone()),
            TextOp::Append(more) => Some(format!("{state}{more}")),
            TextOp::Get(found) => (found == state).then(|| state.clone()),
        }
    }

    fn is_pure(&self, op: &TextOp) -> bool {
        matches!(op, TextOp::Get(_))
    }
}
