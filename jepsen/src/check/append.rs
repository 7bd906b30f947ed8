//! The model `append`: transactions over lists, strictly serializable, in the manner of Elle
//! (Kingsbury and Alvaro, 2020).
//!
//! A read of a list shows the order of everything appended to it. From the longest read of each
//! key follow the edges between transactions: who wrote right after whom (ww), who read what (wr),
//! who overwrote what was read (rw), and who was over before another was sent. The history is
//! strictly serializable if and only if every read fits its key's order and the edges have no
//! cycle. Cycles get the names of Adya: G0 (ww), G1c (ww and wr), G-single (one rw), G2 (several);
//! `-realtime` is added if the cycle needs real time.
//!
//! Invariants: an append of unknown outcome counts once somebody saw it; a committed one that no
//! read saw stands behind everything the longest read saw. If an element was appended twice to one
//! key the general search takes over.

use super::graph::{Edge, Graph};
use super::lists::{ListStep, ListTxn, Lists};
use super::models::Fast;
use super::objects::{Step, Stop};
use super::registers::micro_ops;
use super::spec::Call;
use super::translate::Interner;
use crate::history::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Edges tried as the single rw edge of a cycle before it is just called G2.
const MOST_SINGLE_TRIES: usize = 256;

/// The lists before the calls with what failed transactions appended, and the calls.
pub(super) fn prepare(steps: &[Step<'_>]) -> Result<(Lists, Vec<Call<ListTxn>>), Stop> {
    let (mut keys, mut values) = (Interner::default(), Interner::default());
    let mut lists = Lists::default();
    let mut txns = Vec::new();
    for step in steps {
        let mut txn = ListTxn::new();
        for (function, key, value) in micro_ops(step)? {
            let key = keys.number(key);
            match function {
                "append" => txn.push(ListStep::Append(key, values.number(value))),
                "r" | "read" if step.answered() => {
                    let none: &[Value] = &[];
                    let found = match value {
                        Value::Nil => Some(none),
                        value => value.sequence(),
                    };
                    let shape = "a list that was read";
                    let found = found.ok_or_else(|| step.refuse_answer(shape, value))?;
                    let found = found.iter().map(|element| values.number(element)).collect();
                    txn.push(ListStep::Read(key, found));
                }
                "r" | "read" => {}
                _ => {
                    let known = "micro-operations :append and :r";
                    return Err(step.refuse(known, step.argument).into());
                }
            }
        }
        if step.failed() {
            lists.aborted.extend(txn.iter().filter_map(appended));
        } else {
            txns.push(step.timed(txn));
        }
    }
    Ok((lists, txns))
}

fn appended(step: &ListStep) -> Option<(u64, u64)> {
    match step {
        ListStep::Append(key, element) => Some((*key, *element)),
        ListStep::Read(..) => None,
    }
}

type Refusal = (Vec<usize>, String);

/// What is known about one key.
#[derive(Default)]
struct Key<'a> {
    /// The longest read and who read it.
    longest: &'a [u64],
    longest_by: usize,
    /// Reads of the state before the reader's own appends: reader and length.
    reads: Vec<(usize, usize)>,
    /// Elements with the transactions that appended them.
    writers: BTreeMap<u64, usize>,
}

/// The near-linear engine.
pub(super) fn fast(lists: &Lists, calls: &[Call<ListTxn>]) -> Fast {
    let mut keys: BTreeMap<u64, Key<'_>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        for (key, element) in call.op.iter().filter_map(appended) {
            if keys
                .entry(key)
                .or_default()
                .writers
                .insert(element, at)
                .is_some()
            {
                return Fast::NotApplicable;
            }
        }
    }
    let found = read_all(lists, calls, &mut keys);
    let found = found.and_then(|()| own_order(calls, &keys)).and_then(|()| {
        let graph = edges(calls, &keys);
        no_cycle(&graph, calls.len())
    });
    match found {
        Ok(()) => Fast::Valid,
        Err((hint, explanation)) => Fast::Invalid { hint, explanation },
    }
}

/// Checks every read against its transaction and its key, and notes it.
fn read_all<'a>(
    lists: &Lists,
    calls: &'a [Call<ListTxn>],
    keys: &mut BTreeMap<u64, Key<'a>>,
) -> Result<(), Refusal> {
    for (at, call) in calls.iter().enumerate() {
        let mut own: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut known: BTreeMap<u64, usize> = BTreeMap::new();
        for step in &call.op {
            match step {
                ListStep::Append(key, element) => own.entry(*key).or_default().push(*element),
                ListStep::Read(key, found) => {
                    let own = own.get(key).map_or(&[][..], Vec::as_slice);
                    let Some(before) = found.strip_suffix(own) else {
                        return Err((vec![at], "a read misses its own appends".to_owned()));
                    };
                    if known
                        .insert(*key, before.len())
                        .is_some_and(|len| len != before.len())
                    {
                        return Err((vec![at], "two reads in one step differ".to_owned()));
                    }
                    let key_number = *key;
                    let key = keys.entry(key_number).or_default();
                    elements_exist(lists, key_number, key, at, found)?;
                    if before.iter().any(|element| key.writers[element] == at) {
                        let what = "a transaction read what it appended only later";
                        return Err((vec![at], what.to_owned()));
                    }
                    if !agree(key.longest, found) {
                        let mut hint = vec![at, key.longest_by];
                        hint.extend(found.iter().chain(key.longest).map(|e| key.writers[e]));
                        return Err((hint, "two reads show different orders".to_owned()));
                    }
                    if found.len() > key.longest.len() {
                        (key.longest, key.longest_by) = (found, at);
                    }
                    key.reads.push((at, before.len()));
                }
            }
        }
    }
    Ok(())
}

/// What one transaction appended to one list must stand there in its own order, from the first.
fn own_order(calls: &[Call<ListTxn>], keys: &BTreeMap<u64, Key<'_>>) -> Result<(), Refusal> {
    let mut places: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for (&number, key) in keys {
        places.extend(
            key.longest
                .iter()
                .zip(0..)
                .map(|(&element, at)| ((number, element), at)),
        );
    }
    for (at, call) in calls.iter().enumerate() {
        let mut last: BTreeMap<u64, usize> = BTreeMap::new();
        for (key, element) in call.op.iter().filter_map(appended) {
            let place = places.get(&(key, element)).copied().unwrap_or(usize::MAX);
            let before = last.insert(key, place);
            if before.is_some_and(|before| place < before) {
                let reader = keys[&key].longest_by;
                return Err((
                    vec![at, reader],
                    "appends of one transaction were reordered".into(),
                ));
            }
        }
    }
    Ok(())
}

fn agree(one: &[u64], other: &[u64]) -> bool {
    let shared = one.len().min(other.len());
    one[..shared] == other[..shared]
}

fn elements_exist(
    lists: &Lists,
    key_number: u64,
    key: &Key<'_>,
    at: usize,
    found: &[u64],
) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for element in found {
        let Some(&writer) = key.writers.get(element) else {
            let what = if lists.aborted.contains(&(key_number, *element)) {
                "aborted read (G1a): an element of a failed transaction was read"
            } else {
                "an element was read that nothing had appended"
            };
            return Err((vec![at], what.to_owned()));
        };
        if !seen.insert(*element) {
            return Err((
                vec![at, writer],
                "an element was read twice in one list".to_owned(),
            ));
        }
    }
    Ok(())
}

fn edges(calls: &[Call<ListTxn>], keys: &BTreeMap<u64, Key<'_>>) -> Graph {
    let mut graph = Graph::new(calls.len());
    let mut happened: Vec<bool> = calls.iter().map(|call| call.complete.is_some()).collect();
    for key in keys.values() {
        key.longest
            .iter()
            .for_each(|element| happened[key.writers[element]] = true);
    }
    for key in keys.values() {
        let writers: Vec<usize> = key.longest.iter().map(|e| key.writers[e]).collect();
        for pair in writers.windows(2) {
            graph.add(pair[0], pair[1], Edge::WriteWrite);
        }
        let seen: BTreeSet<u64> = key.longest.iter().copied().collect();
        let unseen: BTreeSet<usize> = key
            .writers
            .iter()
            .filter(|(element, at)| !seen.contains(element) && happened[**at])
            .map(|(_, &at)| at)
            .collect();
        if let Some(&last) = writers.last() {
            unseen
                .iter()
                .for_each(|&at| graph.add(last, at, Edge::WriteWrite));
        }
        // Helper nodes keep the number of edges linear: chains that reach all up to a place, and all
        // from a place on.
        let up_to = chain(&mut graph, unseen.iter().copied());
        let mut from = chain(&mut graph, unseen.iter().rev().copied());
        from.reverse();
        let places: BTreeMap<usize, usize> = unseen.iter().copied().zip(0..).collect();
        for &(reader, length) in &key.reads {
            if let Some(last) = length.checked_sub(1) {
                graph.add(writers[last], reader, Edge::WriteRead);
            }
            if let Some(&next) = writers.get(length) {
                graph.add(reader, next, Edge::ReadWrite);
            } else if let Some(&place) = places.get(&reader) {
                // To every one but its own.
                if let Some(&others) = place.checked_sub(1).and_then(|before| up_to.get(before)) {
                    graph.add(reader, others, Edge::ReadWrite);
                }
                if let Some(&others) = from.get(place + 1) {
                    graph.add(reader, others, Edge::ReadWrite);
                }
            } else if let Some(&all) = up_to.last() {
                graph.add(reader, all, Edge::ReadWrite);
            }
        }
    }
    real_time(calls, &mut graph);
    graph
}

/// Helper nodes of which each reaches its own node and those of all helpers before it.
fn chain(graph: &mut Graph, nodes: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut helpers: Vec<usize> = Vec::new();
    for node in nodes {
        let helper = graph.add_node();
        graph.add(helper, node, Edge::WriteWrite);
        if let Some(&before) = helpers.last() {
            graph.add(helper, before, Edge::WriteWrite);
        }
        helpers.push(helper);
    }
    helpers
}

/// A chain of helper nodes, one an ending, stands for all edges of real time.
fn real_time(calls: &[Call<ListTxn>], graph: &mut Graph) {
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        events.push((call.invoke, false, at));
        events.extend(call.complete.map(|complete| (complete, true, at)));
    }
    events.sort_unstable();
    let mut last = None;
    for (_, is_ending, at) in events {
        if is_ending {
            let helper = graph.add_node();
            graph.add(at, helper, Edge::RealTime);
            if let Some(last) = last {
                graph.add(last, helper, Edge::RealTime);
            }
            last = Some(helper);
        } else if let Some(last) = last {
            graph.add(last, at, Edge::RealTime);
        }
    }
}

fn no_cycle(graph: &Graph, txns: usize) -> Result<(), Refusal> {
    let (ww, wr, rw, rt) = (
        Edge::WriteWrite,
        Edge::WriteRead,
        Edge::ReadWrite,
        Edge::RealTime,
    );
    for (suffix, time) in [("", None), ("-realtime", Some(rt))] {
        let with = |kinds: &[Edge]| kinds.iter().copied().chain(time).collect::<Vec<Edge>>();
        let (ww, both, all) = (with(&[ww]), with(&[ww, wr]), with(&[ww, wr, rw]));
        let found = graph
            .cycle(&ww)
            .map(|cycle| ("G0", cycle))
            .or_else(|| graph.cycle(&both).map(|cycle| ("G1c", cycle)))
            .or_else(|| {
                let cycle = graph.cycle_with_one(rw, &both, MOST_SINGLE_TRIES)?;
                Some(("G-single", cycle))
            })
            .or_else(|| graph.cycle(&all).map(|cycle| ("G2", cycle)));
        if let Some((name, cycle)) = found {
            return Err(explain(&format!("{name}{suffix}"), &cycle, txns));
        }
    }
    Ok(())
}

fn explain(name: &str, cycle: &[(usize, Edge)], txns: usize) -> Refusal {
    let hint: Vec<usize> = cycle
        .iter()
        .map(|&(node, _)| node)
        .filter(|&at| at < txns)
        .collect();
    let kinds: Vec<&str> = cycle
        .iter()
        .filter(|(node, _)| *node < txns)
        .map(|(_, edge)| match edge {
            Edge::WriteWrite => "ww",
            Edge::WriteRead => "wr",
            Edge::ReadWrite => "rw",
            Edge::RealTime => "rt",
        })
        .collect();
    (
        hint,
        format!(
            "{name}: a cycle of {} transactions, by {}",
            kinds.len(),
            kinds.join(", ")
        ),
    )
}
