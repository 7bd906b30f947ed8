//! Reads, writes and compare-and-sets of a few keys, every written value unique.
//!
//! A compare-and-set expects the value that was seen last, so that many of them succeed.

use std::collections::BTreeMap;

use hedgerow_env::Random;
use serde::{Deserialize, Serialize};

use super::{Generator, key_below, skewed, strange};
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

    /// Whether the operation is about one of its keys, and well formed.
    pub(super) fn takes(self, operation: &Operation) -> Result<(), PlanError> {
        key_below(self.keys, operation.key)?;
        let is_int = |value: &Value| value.int().is_some();
        let argument = &operation.argument;
        let fits = match operation.function {
            "read" => *argument == Value::Nil,
            "write" => is_int(argument),
            "cas" => argument
                .pair()
                .is_some_and(|(from, to)| is_int(from) && is_int(to)),
            _ => false,
        };
        fits.then_some(())
            .ok_or_else(|| strange("cas-register", operation))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_its_own_operations_and_no_others() {
        let plan = RegisterPlan {
            keys: 3,
            reads_percent: 50,
            skew: 0,
        };
        let (mut random, mut registers) = (Random::from_seed(3), Registers::new(plan));
        for _ in 0..200 {
            let own = registers.next(&mut random, 0);
            assert_eq!(plan.takes(&own), Ok(()));
            registers.learn(&own, &Completion::Ok(Value::Int(1)));
        }
        let pair = Value::Vector(vec![Value::Nil, Value::Int(1)]);
        for strange in [
            operation("read", 3, Value::Nil),
            operation("read", 0, Value::Int(1)),
            operation("write", 0, Value::Nil),
            operation("cas", 0, pair),
            operation("zero", 0, Value::Nil),
        ] {
            plan.takes(&strange).unwrap_err();
        }
    }
}
