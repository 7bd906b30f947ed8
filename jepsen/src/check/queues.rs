//! Queues whose elements are enqueued once: exact in O(n log n).
//!
//! Without failed dequeues and dequeues of unknown element, such a history is linearizable unless
//! it shows one of three patterns (Henzinger, Sezgin and Vafeiadis, 2013): an element dequeued that
//! was not enqueued before, one dequeued twice, or two elements whose enqueues are ordered in time
//! while the first is dequeued after the second, or never. Everything else goes to the general
//! search.

use super::models::Fast;
use super::spec::Call;
use super::specs::QueueOp;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Default)]
struct Element {
    enqueue: Option<usize>,
    dequeue: Option<usize>,
}

/// Judges the calls if the theory applies.
pub(super) fn check(calls: &[Call<QueueOp>]) -> Fast {
    let mut elements: BTreeMap<u64, Element> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        match call.op {
            QueueOp::Empty | QueueOp::DequeueAny => return Fast::NotApplicable,
            QueueOp::Enqueue(value) => {
                if elements
                    .entry(value)
                    .or_default()
                    .enqueue
                    .replace(at)
                    .is_some()
                {
                    return Fast::NotApplicable;
                }
            }
            QueueOp::Dequeue(_) => {}
        }
    }
    for (at, call) in calls.iter().enumerate() {
        let QueueOp::Dequeue(value) = call.op else {
            continue;
        };
        let element = elements.entry(value).or_default();
        let Some(enqueue) = element.enqueue else {
            return invalid(
                vec![at],
                "an element was dequeued that nothing had enqueued",
            );
        };
        if let Some(earlier) = element.dequeue.replace(at) {
            return invalid(vec![enqueue, earlier, at], "an element was dequeued twice");
        }
        if call.precedes(&calls[enqueue]) {
            return invalid(
                vec![enqueue, at],
                "an element was dequeued before it was enqueued",
            );
        }
    }
    order(calls, elements.into_values().collect())
}

/// Looks for two elements that left in the wrong order.
fn order(calls: &[Call<QueueOp>], elements: Vec<Element>) -> Fast {
    let enqueued = |element: &Element| element.enqueue.expect("every element has its enqueue");
    let ended = |element: &Element| calls[enqueued(element)].complete;
    // An enqueue of unknown outcome whose element was never seen need not have happened.
    let mut by_end: Vec<Element> = elements
        .iter()
        .copied()
        .filter(|element| ended(element).is_some())
        .collect();
    by_end.sort_by_key(|element| ended(element));
    let mut by_start: Vec<Element> = elements
        .into_iter()
        .filter(|element| element.dequeue.is_some())
        .collect();
    by_start.sort_by_key(|element| calls[enqueued(element)].invoke);
    let leaves = |element: &Element| element.dequeue.map_or(u64::MAX, |at| calls[at].invoke);
    let mut earlier = by_end.into_iter().peekable();
    let mut last_to_leave: Option<Element> = None;
    for second in by_start {
        let starts = calls[enqueued(&second)].invoke;
        while let Some(first) =
            earlier.next_if(|first| ended(first).is_some_and(|end| end < starts))
        {
            if last_to_leave.is_none_or(|last| leaves(&last) <= leaves(&first)) {
                last_to_leave = Some(first);
            }
        }
        let left = second.dequeue.and_then(|at| calls[at].complete);
        if let (Some(first), Some(left)) = (last_to_leave, left)
            && left < leaves(&first)
        {
            let hint = [first.enqueue, first.dequeue, second.enqueue, second.dequeue];
            return invalid(
                hint.into_iter().flatten().collect(),
                "an element overtook one that was enqueued before it",
            );
        }
    }
    Fast::Valid
}

fn invalid(hint: Vec<usize>, explanation: &str) -> Fast {
    Fast::Invalid {
        hint,
        explanation: explanation.to_owned(),
    }
}
