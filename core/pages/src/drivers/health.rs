//! Verdicts on nodes: who answers is up, who did not for a while is down.
//!
//! Invariants: a verdict is about silence in this leader's own term; it holds for the state that was
//! judged, so an operator's decision is never overruled, however late the verdict comes. A node that
//! drains goes on draining when it falls silent; its reason says so.

use std::collections::BTreeMap;
use std::time::Duration;

use hedgerow_env::{Instant, NodeId};
use hedgerow_protocol::{NodeRecord, NodeState};

/// When each node last answered, in one term.
#[derive(Debug, Default)]
pub(super) struct HealthWatch {
    term: u64,
    heard: BTreeMap<NodeId, Instant>,
}

/// A node whose state is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) node: NodeId,
    pub(super) seen: NodeState,
    pub(super) state: NodeState,
    pub(super) reason: String,
}

impl HealthWatch {
    /// Takes in a round of probes, and answers the verdicts.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        term: u64,
        nodes: &[NodeRecord],
        answered: &[NodeId],
        down_after: Duration,
    ) -> Vec<Verdict> {
        if term != self.term {
            *self = Self {
                term,
                heard: BTreeMap::new(),
            };
        }
        let mut verdicts = Vec::new();
        for record in nodes {
            let answers = answered.contains(&record.node);
            let heard = self.heard.entry(record.node).or_insert(now);
            if answers {
                *heard = now;
            }
            let silence = now.since(*heard);
            let (state, reason) = match record.state {
                NodeState::Draining => {
                    let reason = reason_while_draining(record, answers, silence, down_after);
                    if reason == record.reason {
                        continue;
                    }
                    (NodeState::Draining, reason)
                }
                NodeState::Down if answers => (NodeState::Up, String::new()),
                NodeState::Up if silence >= down_after => {
                    let reason = format!("no answer for {} s", silence.as_secs());
                    (NodeState::Down, reason)
                }
                _ => continue,
            };
            verdicts.push(Verdict {
                node: record.node,
                seen: record.state,
                state,
                reason,
            });
        }
        verdicts
    }
}

/// Parts what the walks of a drain found from the word on the node's silence.
const SILENCE: &str = "; no answer for ";

/// The reason of a draining node without the word on its silence.
pub(super) fn without_silence(reason: &str) -> &str {
    reason
        .split_once(SILENCE)
        .map_or(reason, |(found, _)| found)
}

/// What is told grows in doublings: each change is an entry in the root's log.
fn reason_while_draining(
    record: &NodeRecord,
    answers: bool,
    silence: Duration,
    down_after: Duration,
) -> String {
    let found = without_silence(&record.reason);
    if answers {
        return found.to_owned();
    }
    if silence < down_after || down_after.is_zero() {
        // A leader that is new has not listened for long enough to say anything else.
        return record.reason.clone();
    }
    let mut told = down_after;
    while told * 2 <= silence {
        told *= 2;
    }
    format!("{found}{SILENCE}{} s or more", told.as_secs())
}

#[cfg(test)]
mod tests {
    use hedgerow_protocol::Roles;

    use super::*;

    fn node(id: u64, state: NodeState) -> NodeRecord {
        NodeRecord {
            node: NodeId(id),
            name: String::new(),
            address: String::new(),
            roles: Roles::ALL,
            location: hedgerow_protocol::Location::default(),
            stores: Vec::new(),
            state,
            reason: String::new(),
        }
    }

    #[test]
    fn a_silent_node_that_drains_is_told_of_in_doublings_and_drains_on() {
        let at = |seconds: u64| Instant::from_nanoseconds(seconds * 1_000_000_000);
        let limit = Duration::from_secs(5);
        let mut watch = HealthWatch::default();
        let mut nodes = [node(1, NodeState::Draining)];
        nodes[0].reason = "3 containers left".into();
        let mut told = |seconds, term, answered: &[NodeId]| {
            let verdicts = watch.judge(at(seconds), term, &nodes, answered, limit);
            let verdict = verdicts.into_iter().next()?;
            let states = (verdict.seen, verdict.state);
            assert_eq!(states, (NodeState::Draining, NodeState::Draining));
            nodes[0].reason.clone_from(&verdict.reason);
            Some(verdict.reason)
        };
        assert_eq!(told(0, 1, &[NodeId(1)]), None);
        assert_eq!(told(4, 1, &[]), None);
        let text = |seconds| {
            Some(format!(
                "3 containers left; no answer for {seconds} s or more"
            ))
        };
        assert_eq!(told(5, 1, &[]), text(5));
        assert_eq!(told(9, 1, &[]), None);
        assert_eq!(told(12, 1, &[]), text(10));
        assert_eq!(told(13, 2, &[]), None, "a new leader waits for itself");
        assert_eq!(told(14, 2, &[NodeId(1)]), Some("3 containers left".into()));
        assert_eq!(told(15, 2, &[NodeId(1)]), None);
    }

    #[test]
    fn silence_makes_down_an_answer_makes_up_and_draining_stays() {
        let at = |seconds: u64| Instant::from_nanoseconds(seconds * 1_000_000_000);
        let limit = Duration::from_secs(5);
        let mut watch = HealthWatch::default();
        let nodes = [
            node(1, NodeState::Up),
            node(2, NodeState::Up),
            node(3, NodeState::Draining),
            node(4, NodeState::Down),
        ];
        let first = watch.judge(at(0), 1, &nodes, &[NodeId(1), NodeId(4)], limit);
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].node, first[0].state), (NodeId(4), NodeState::Up));
        assert!(
            watch
                .judge(at(4), 1, &nodes[..3], &[NodeId(1)], limit)
                .is_empty()
        );
        let later = watch.judge(at(5), 1, &nodes[..3], &[NodeId(1)], limit);
        assert_eq!(later.len(), 2);
        assert_eq!(later[0].reason, "no answer for 5 s");
        assert_eq!(later[1].state, NodeState::Draining);
        assert_eq!(later[1].reason, "; no answer for 5 s or more");
        assert!(
            watch.judge(at(9), 2, &nodes[..3], &[], limit).is_empty(),
            "a new leader waits for itself"
        );
    }
}
