//! Disks are created, resized and deleted by name, and looked up.
//!
//! Each name is a register of the disk's size: nil when there is none. Creation is a
//! compare-and-set from nil, resize from the size that was seen, deletion to nil. Sizes are unique,
//! so each look-up names the operation that it saw.

use std::collections::BTreeMap;

use hedgerow_env::Random;
use serde::{Deserialize, Serialize};

use super::{Generator, key_below, strange};
use crate::history::Value;
use crate::run::bounds::{self, within};
use crate::run::plan::PlanError;
use crate::run::target::{Completion, Operation};

/// The workload `disk-lifecycle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifecyclePlan {
    /// How many names.
    pub names: u32,
}

impl LifecyclePlan {
    pub(super) fn check(self) -> Result<(), PlanError> {
        within("names", "--keys", self.names, &bounds::NAMES)
    }

    /// Whether the operation is a request about one of its disks.
    pub(super) fn takes(self, operation: &Operation) -> Result<(), PlanError> {
        key_below(self.names, operation.key)?;
        let (argument, no) = (&operation.argument, || strange("disk-lifecycle", operation));
        let (_, request) = DiskRequest::of(operation).ok_or_else(no)?;
        let whole = |size: u64| size.is_multiple_of(SIZE_STEP_BYTES.unsigned_abs());
        let fits = match request {
            DiskRequest::Show => *argument == Value::Nil,
            DiskRequest::Delete => true,
            DiskRequest::Resize(size) => whole(size),
            // What it expects is that there is no disk.
            DiskRequest::Create(size) => {
                whole(size) && argument.pair().is_some_and(|(from, _)| *from == Value::Nil)
            }
        };
        if let DiskRequest::Create(size) | DiskRequest::Resize(size) = request {
            within("the disk's size", "", size, &bounds::DISK_BYTES)?;
        }
        fits.then_some(()).ok_or_else(no)
    }
}

/// Hands out the operations of a [`LifecyclePlan`].
pub(super) struct Lifecycle {
    plan: LifecyclePlan,
    next_size: i64,
    seen: BTreeMap<i64, Option<i64>>,
}

/// A request about the disk of a name, read from an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskRequest {
    /// Create it with this size.
    Create(u64),
    /// Give it this size.
    Resize(u64),
    /// Delete it.
    Delete,
    /// Tell its size.
    Show,
}

/// Sizes count in these, so that each is valid for every block size.
const SIZE_STEP_BYTES: i64 = 1 << 20;

impl DiskRequest {
    /// The name of the disk and the request that `operation` stands for.
    #[must_use]
    pub fn of(operation: &Operation) -> Option<(String, Self)> {
        let name = format!("lifecycle-{}", operation.key?);
        let size = |value: &Value| u64::try_from(value.int()?).ok();
        let request = match (operation.function, &operation.argument) {
            ("read", _) => Self::Show,
            ("write", Value::Nil) => Self::Delete,
            ("write", value) => Self::Resize(size(value)?),
            ("cas", pair) => Self::Create(size(pair.pair()?.1)?),
            _ => return None,
        };
        Some((name, request))
    }
}

impl Lifecycle {
    pub(super) fn new(plan: LifecyclePlan) -> Self {
        Self {
            plan,
            next_size: 0,
            seen: BTreeMap::new(),
        }
    }

    /// Sizes only grow, because a disk is made smaller by other means than made larger.
    fn size(&mut self) -> Value {
        self.next_size += 1;
        Value::Int(self.next_size * SIZE_STEP_BYTES)
    }
}

fn operation(function: &'static str, key: i64, argument: Value) -> Operation {
    Operation {
        function,
        key: Some(key),
        argument,
    }
}

impl Generator for Lifecycle {
    fn prepare(&mut self) -> Vec<Operation> {
        Vec::new()
    }

    fn next(&mut self, random: &mut Random, _process: u64) -> Operation {
        let key = i64::try_from(random.below(u64::from(self.plan.names))).expect("few names");
        if random.chance(2, 5) {
            return operation("read", key, Value::Nil);
        }
        match self.seen.get(&key) {
            Some(Some(_)) if random.chance(1, 2) => operation("write", key, Value::Nil),
            Some(Some(_)) => operation("write", key, self.size()),
            _ => operation("cas", key, Value::Vector(vec![Value::Nil, self.size()])),
        }
    }

    fn learn(&mut self, operation: &Operation, completion: &Completion) {
        let (Some(key), Completion::Ok(answer)) = (operation.key, completion) else {
            return;
        };
        let size = match operation.function {
            "read" => answer.int(),
            "write" => operation.argument.int(),
            _ => operation.argument.pair().and_then(|(_, new)| new.int()),
        };
        self.seen.insert(key, size);
    }

    fn finale(&mut self) -> Vec<Operation> {
        let names = 0..i64::from(self.plan.names);
        names
            .map(|key| operation("read", key, Value::Nil))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_own_operations_and_no_others() {
        let plan = LifecyclePlan { names: 3 };
        let (mut random, mut lifecycle) = (Random::from_seed(3), Lifecycle::new(plan));
        for _ in 0..200 {
            let own = lifecycle.next(&mut random, 0);
            assert_eq!(plan.takes(&own), Ok(()));
            lifecycle.learn(&own, &Completion::Ok(Value::Int(SIZE_STEP_BYTES)));
        }
        let from_size = Value::Vector(vec![Value::Int(1), Value::Int(SIZE_STEP_BYTES)]);
        for strange in [
            operation("read", 3, Value::Nil),
            operation("write", 0, Value::Int(SIZE_STEP_BYTES + 1)),
            operation("write", 0, Value::Int(i64::MAX)),
            operation("cas", 0, from_size),
            operation("zero", 0, Value::Nil),
        ] {
            plan.takes(&strange).unwrap_err();
        }
    }
}
