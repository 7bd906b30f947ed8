//! Being known: this node has a handshake with one other node after the other, so that each knows
//! durably how far this node's stores had come. Of an image older than the last handshake with some
//! node, that node knows that it is old (DESIGN section 6).
//!
//! Invariants: whoever is in turn is met, whether or not there is anything to call it for: quiet
//! nodes would tell each other nothing. A node that starts meets every other one sooner, for by
//! then it may be an image itself.
//! Does not: judge (`rollback` does).

use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::{Env, NodeId};
use hedgerow_net::{Directory, Peer, Rpc};
use hedgerow_protocol::Topology;

/// From one meeting to the next. An image younger than that cannot be told from the store that it
/// was taken of.
const PERIOD: Duration = Duration::from_secs(5);
/// The same until each node was met once since the start.
const FIRST_PERIOD: Duration = Duration::from_millis(500);

/// Who was met.
#[derive(Debug, Default)]
struct Round {
    last: Option<NodeId>,
    /// Whether every node was met since the start, or found away.
    complete: bool,
}

impl Round {
    /// The node after the one of last time, by id and around, but not `own`.
    fn next(&mut self, topology: &Topology, own: NodeId) -> Option<Peer> {
        let others = || topology.nodes.iter().filter(|record| record.node != own);
        let after = self.last;
        let later = others().filter(|record| Some(record.node) > after);
        let next = later.min_by_key(|record| record.node).or_else(|| {
            self.complete = true;
            others().min_by_key(|record| record.node)
        })?;
        self.last = Some(next.node);
        Some(Peer::new(next.address.clone(), next.node))
    }

    fn pause(&self) -> Duration {
        if self.complete { PERIOD } else { FIRST_PERIOD }
    }
}

/// Meets one node after the other for as long as this one lives; `show` puts the newest stamps
/// into handshakes.
pub(crate) async fn keep_known(
    env: Env,
    rpc: Rpc,
    own: NodeId,
    directory: Arc<Directory>,
    show: impl Fn(),
) {
    let mut round = Round::default();
    loop {
        env.sleep(round.pause()).await;
        show();
        let topology = directory.topology();
        // One that is away is passed over, so that somebody is told each time.
        for _ in 0..topology.nodes.len() {
            let Some(peer) = round.next(&topology, own) else {
                break;
            };
            if rpc.renew(&peer).await.is_ok() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_protocol::{Location, NodeRecord, NodeState, Roles};

    use super::*;

    fn topology(nodes: &[u64]) -> Topology {
        let record = |node: &u64| NodeRecord {
            node: NodeId(*node),
            name: format!("n{node}"),
            address: format!("n{node}:1"),
            roles: Roles::default(),
            location: Location::default(),
            stores: Vec::new(),
            state: NodeState::Up,
            reason: String::new(),
        };
        Topology {
            index: 1,
            nodes: nodes.iter().map(record).collect(),
        }
    }

    #[test]
    fn every_other_node_has_its_turn_and_soon_after_a_start() {
        let mut round = Round::default();
        let mut met = Vec::new();
        let mut paused = Vec::new();
        for _ in 0..5 {
            paused.push(round.pause());
            let peer = round.next(&topology(&[7, 3, 9, 1]), NodeId(3)).unwrap();
            met.push(peer.node.unwrap().0);
        }
        assert_eq!(met, [1, 7, 9, 1, 7]);
        let (soon, later) = (FIRST_PERIOD, PERIOD);
        assert_eq!(paused, [soon, soon, soon, soon, later]);
    }

    #[test]
    fn nodes_that_come_and_go_disturb_nobodys_turn() {
        let mut round = Round::default();
        let mut met = Vec::new();
        for nodes in [&[1, 5, 9][..], &[1, 9], &[1, 9, 12], &[2, 9]] {
            let peer = round.next(&topology(nodes), NodeId(0)).unwrap();
            met.push(peer.node.unwrap().0);
        }
        assert_eq!(met, [1, 9, 12, 2]);
    }

    #[test]
    fn a_node_alone_meets_nobody() {
        assert_eq!(Round::default().next(&topology(&[4]), NodeId(4)), None);
        assert_eq!(Round::default().next(&topology(&[]), NodeId(4)), None);
    }
}
