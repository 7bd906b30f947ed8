//! Random small histories, on which the engines must agree with the exhaustive search.
//!
//! Invariants: a seed and a number name one history for ever; the shapes that break checkers (ties,
//! unknown outcomes, chains, repeated values) are likelier than in life. Every refusal's witness
//! goes to the independent verifier. It does not print: a disagreement is returned with the
//! history that shows it.

mod dice;
pub(crate) mod histories;
mod meaning;
mod texts;

pub use dice::Dice;
pub use texts::{TextReport, fuzz_texts};

use crate::check::Verdict;
use crate::check::brute;
use crate::check::judge;
use crate::check::lists::Lists;
use crate::check::search::{Limits, SearchAnswer, search};
use crate::check::spec::Call;
use crate::check::specs::{MultiRegister, Queue, RegisterOp, Set, Sum, Text, Txn};
use crate::check::verify::{Witnessed, confirms};
use histories as random;
use std::collections::BTreeSet;
use std::fmt::Debug;

/// What a campaign saw without any disagreement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FuzzReport {
    /// Histories that could be explained.
    pub valid: u64,
    /// Histories that could not, each with a confirmed witness.
    pub invalid: u64,
    /// The largest witness.
    pub largest_witness: usize,
}

/// A history on which two answers differ: a bug in one of the engines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// Its number in the campaign.
    pub number: u64,
    /// The object.
    pub object: &'static str,
    /// What differs.
    pub problem: String,
    /// The calls.
    pub history: String,
}

/// The kinds of histories a campaign goes through in turn.
const KINDS: u64 = 9;

/// Judges `count` random histories of the campaign named by `seed`, each by the engines and by
/// exhaustive search. Some ten thousand a second and core.
///
/// # Errors
/// The first history on which they disagree.
pub fn fuzz(seed: u64, count: u64) -> Result<FuzzReport, Box<Disagreement>> {
    let mut report = FuzzReport::default();
    for number in 0..count {
        let mut dice = Dice::new(seed, number);
        let (object, compared) = one(number % KINDS, &mut dice);
        match compared {
            Ok(None) => report.valid += 1,
            Ok(Some(witness)) => {
                report.invalid += 1;
                report.largest_witness = report.largest_witness.max(witness);
            }
            Err((problem, history)) => {
                return Err(Box::new(Disagreement {
                    number,
                    object,
                    problem,
                    history,
                }));
            }
        }
    }
    Ok(report)
}

/// The size of the witness of a refused history, or the problem and the history.
type Compared = Result<Option<usize>, (String, String)>;

fn one(kind: u64, dice: &mut Dice) -> (&'static str, Compared) {
    match kind {
        0 | 1 => {
            let calls = to_txns(random::unique_register(dice));
            ("register, unique values and zeros", txn(vec![0], &calls))
        }
        2 => {
            let calls = to_txns(random::repeating_register(dice));
            ("register, repeated values", txn(vec![0], &calls))
        }
        3 => (
            "multi-register",
            txn(vec![0; 3], &random::multi_register(dice)),
        ),
        4 => {
            let calls = random::counter_or_lock(dice);
            (
                "sum",
                compare(&Sum { initial: 0 }, &calls, &judge::judge_sum(0, &calls)),
            )
        }
        5 => {
            let calls = random::set(dice);
            let initial = BTreeSet::from([0]);
            let verdict = judge::judge_set(initial.clone(), &calls);
            ("set", compare(&Set { initial }, &calls, &verdict))
        }
        6 => {
            let calls = random::queue(dice);
            (
                "queue",
                compare(&Queue, &calls, &judge::judge_queue(&calls)),
            )
        }
        7 => {
            let calls = random::text(dice);
            let text = Text::default();
            (
                "text",
                compare(&text, &calls, &judge::judge_text(String::new(), &calls)),
            )
        }
        _ => {
            let calls = random::lists(dice);
            let lists = Lists::default();
            (
                "lists",
                compare(&lists, &calls, &judge::judge_lists(&lists, &calls)),
            )
        }
    }
}

fn to_txns(calls: Vec<Call<RegisterOp>>) -> Vec<Call<Txn>> {
    let txn = |call: Call<RegisterOp>| Call {
        id: call.id,
        invoke: call.invoke,
        complete: call.complete,
        op: call.op.to_txn(),
    };
    calls.into_iter().map(txn).collect()
}

fn txn(initial: Vec<u64>, calls: &[Call<Txn>]) -> Compared {
    let verdict = if initial.len() == 1 {
        judge::judge_txn(initial.clone(), calls)
    } else {
        judge::judge_components(&initial, calls.to_vec())
    };
    compare(&MultiRegister { initial }, calls, &verdict)
}

/// Compares a verdict with the exhaustive search, the general search and the verifier.
fn compare<S: Witnessed>(spec: &S, calls: &[Call<S::Op>], verdict: &Verdict) -> Compared
where
    S::Op: Debug,
{
    let problem = |what: String| Err((what, format!("{calls:#?}")));
    let Some(expected) = brute::is_linearizable(spec, calls) else {
        return problem("too many calls for the exhaustive search".to_owned());
    };
    let searched = search(spec, calls, Limits::default());
    if (searched == SearchAnswer::Linearizable) != expected {
        return problem(format!(
            "the general search says {searched:?}, exhaustion {expected}"
        ));
    }
    match verdict {
        Verdict::Valid if expected => Ok(None),
        Verdict::Invalid(witness) if !expected => {
            let chosen: Vec<usize> = (0..calls.len())
                .filter(|&at| witness.operations.contains(&calls[at].id))
                .collect();
            if let Some(smaller) = smaller_proof(spec, calls, chosen.len()) {
                problem(format!("{smaller:?} are fewer than {witness:?}"))
            } else if confirms(spec, calls, &chosen) {
                Ok(Some(chosen.len()))
            } else {
                problem(format!("the verifier does not confirm {witness:?}"))
            }
        }
        other => problem(format!(
            "the verdict is {other:?}, exhaustion says {expected}"
        )),
    }
}

/// A proof of fewer than `known` calls by the verifier, which tries every set.
fn smaller_proof<S: Witnessed>(
    spec: &S,
    calls: &[Call<S::Op>],
    known: usize,
) -> Option<Vec<usize>> {
    let sets = 1_u64..1 << calls.len();
    let smaller = sets.filter(|set| (set.count_ones() as usize) < known);
    let places = |set: u64| -> Vec<usize> {
        let chosen = (0..calls.len()).filter(|at| set >> at & 1 == 1);
        chosen.collect()
    };
    smaller
        .map(places)
        .find(|chosen| confirms(spec, calls, chosen))
}
