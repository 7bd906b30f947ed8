//! Verdicts on nodes: who answers is up, who did not for a while is down.
//!
//! Invariants: a verdict is about silence in this leader's own term; it holds for the state that was
//! judged, so an operator's decision is never overruled, however late the verdict comes.

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
        assert_eq!(later.len(), 1);
        assert_eq!(later[0].reason, "no answer for 5 s");
        assert!(
            watch.judge(at(9), 2, &nodes[..3], &[], limit).is_empty(),
            "a new leader waits for itself"
        );
    }
}
