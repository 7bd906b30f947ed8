//! Reads, writes and compare-and-sets of a few keys, every written value unique.
//!
//! A compare-and-set expects the value that was seen last, so that many of them succeed.

use std::collections::BTreeMap;

use hedgerow_env::Random;
use serde::{Deserialize, Serialize};

use super::{Generator, skewed};
use crate::history::Value;
use crate::run::bounds::{self, within};
use crate::run::plan::PlanError;
use crate::run::target::{Completion, Operation};

/// The workload `cas-register`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterPlan {
    /// How many keys.
    pub keys: u32,
    /// Of 100 operations, how many are reads; the others are writes and compare-and-sets, half
    /// each.
    pub reads_percent: u32,
    /// How unevenly keys are chosen, 0 to 95.
    pub skew: u32,
}

impl RegisterPlan {
    pub(super) fn check(self) -> Result<(), PlanError> {
        within("keys", "--keys", self.keys, &bounds::KEYS)?;
        within(
            "reads_percent",
            "--reads",
            self.reads_percent,
            &bounds::PERCENT,
        )?;
        within("skew", "--skew", self.skew, &bounds::SKEW)
    }
}

/// Hands out the operations of a [`RegisterPlan`].
pub(super) struct Registers {
    plan: RegisterPlan,
    next_value: i64,
    seen: BTreeMap<i64, i64>,
}

impl Registers {
    pub(super) fn new(plan: RegisterPlan) -> Self {
        Self {
            plan,
            next_value: 0,
            seen: BTreeMap::new(),
        }
    }

    fn value(&mut self) -> i64 {
        self.next_value += 1;
        self.next_value
    }
}

fn operation(function: &'static str, key: i64, argument: Value) -> Operation {
    Operation {
        function,
        key: Some(key),
        argument,
    }
}

impl Generator for Registers {
    fn prepare(&mut self) -> Vec<Operation> {
        Vec::new()
    }

    fn next(&mut self, random: &mut Random, _process: u64) -> Operation {
        let keys = u64::from(self.plan.keys);
        let key = i64::try_from(skewed(random, keys, self.plan.skew)).expect("32 bits fit");
        if random.chance(u64::from(self.plan.reads_percent), 100) {
            return operation("read", key, Value::Nil);
        }
        match self.seen.get(&key).copied() {
            Some(seen) if random.chance(1, 2) => {
                let pair = vec![Value::Int(seen), Value::Int(self.value())];
                operation("cas", key, Value::Vector(pair))
            }
            _ => operation("write", key, Value::Int(self.value())),
        }
    }

    fn learn(&mut self, operation: &Operation, completion: &Completion) {
        let (Some(key), Completion::Ok(answer)) = (operation.key, completion) else {
            return;
        };
        let seen = match operation.function {
            "read" => answer.int(),
            "write" => operation.argument.int(),
            _ => operation.argument.pair().and_then(|(_, new)| new.int()),
        };
        if let Some(seen) = seen {
            self.seen.insert(key, seen);
        }
    }

    fn finale(&mut self) -> Vec<Operation> {
        let keys = 0..i64::from(self.plan.keys);
        keys.map(|key| operation("read", key, Value::Nil)).collect()
    }
}
