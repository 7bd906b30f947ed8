//! Lists by key under transactions that append and read: the object of the model `append`.
//!
//! Invariant: a transaction is one step; its own appends are visible to its later reads.

use super::spec::{Call, Spec};
use super::verify::Witnessed;
use super::weaken::left_out;
use std::collections::{BTreeMap, BTreeSet};

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListStep {
    /// This element was put at the end of the list of this key.
    Append(u64, u64),
    /// The list of this key was read.
    Read(u64, Vec<u64>),
}

/// A transaction: its steps in order. One of unknown outcome carries no reads.
pub type ListTxn = Vec<ListStep>;

/// Lists by key, empty at first.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// Key and element of appends that certainly did not happen: only to name what was seen.
    pub aborted: BTreeSet<(u64, u64)>,
}

impl Spec for Lists {
    type State = BTreeMap<u64, Vec<u64>>;
    type Op = ListTxn;

    fn initial(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(&self, state: &Self::State, op: &ListTxn) -> Option<Self::State> {
        let mut next = state.clone();
        for step in op {
            match step {
                ListStep::Append(key, element) => next.entry(*key).or_default().push(*element),
                ListStep::Read(key, found) => {
                    if next.get(key).map_or(&[][..], Vec::as_slice) != found {
                        return None;
                    }
                }
            }
        }
        Some(next)
    }

    fn is_pure(&self, op: &ListTxn) -> bool {
        op.iter().all(|step| matches!(step, ListStep::Read(..)))
    }
}

impl Witnessed for Lists {
    /// Elements appended by transactions left out are taken out of every read.
    fn weaken(&self, full: &[Call<ListTxn>], chosen: &[usize]) -> Vec<Call<ListTxn>> {
        let chosen: BTreeSet<usize> = chosen.iter().copied().collect();
        let steps = left_out(full, &chosen).flat_map(|call| &call.op);
        let hidden: BTreeSet<(u64, u64)> = steps
            .filter_map(|step| match step {
                ListStep::Append(key, element) => Some((*key, *element)),
                ListStep::Read(..) => None,
            })
            .collect();
        let mut calls: Vec<Call<ListTxn>> = chosen.iter().map(|&at| full[at].clone()).collect();
        for step in calls.iter_mut().flat_map(|call| &mut call.op) {
            if let ListStep::Read(key, found) = step {
                found.retain(|element| !hidden.contains(&(*key, *element)));
            }
        }
        // An element appended twice, once in here and once outside, is hidden in here as well.
        for call in &mut calls {
            call.op.retain(|step| match step {
                ListStep::Append(key, element) => !hidden.contains(&(*key, *element)),
                ListStep::Read(..) => true,
            });
        }
        calls
    }
}
