//! An operator's decision that a node is to drain, or to drain no more.
//!
//! Invariants: a node is named beyond doubt, or nothing is done: a node that lost its store comes back
//! under another number and the same name. What is asked of the root names the topology that was seen, so that
//! a copy of it which comes late undoes no later decision.

use hedgerow_protocol::{
    AdminReply, Drain, NodeRecord, NodeState, RootAnswer, RootCommand, RootOutcome, RootQuery,
    RootRefusal, Topology,
};

use crate::admin::{AdminError, AdminService, GROUP_LIMIT, unexpected};

/// The root is asked so often while nodes come and go.
const LOOKS: u32 = 4;

impl AdminService {
    /// Answers `SetDraining`.
    pub(crate) async fn set_draining(
        &self,
        named: &str,
        draining: bool,
    ) -> Result<AdminReply, AdminError> {
        let mut last = None;
        for _ in 0..LOOKS {
            let query = RootQuery::Topology;
            let RootAnswer::Topology(topology) = self.groups.root_query(query, GROUP_LIMIT).await?
            else {
                return Err(AdminError::TryAgain("unexpected answer of the root".into()));
            };
            let Some(command) = decide(&topology, named, draining)? else {
                return Ok(AdminReply::Done);
            };
            match self.command(command).await? {
                RootOutcome::Done => return Ok(AdminReply::Done),
                RootOutcome::Refused(refusal @ RootRefusal::NodesChanged { .. }) => {
                    last = Some(refusal);
                }
                RootOutcome::Refused(refusal) => {
                    return Err(AdminError::Refused(refusal.to_string()));
                }
                other => return Err(unexpected(&other)),
            }
        }
        let text = last.map(|refusal| refusal.to_string()).unwrap_or_default();
        Err(AdminError::TryAgain(text))
    }
}

/// What to ask of the root; nothing when the node is as wanted.
fn decide(
    topology: &Topology,
    named: &str,
    draining: bool,
) -> Result<Option<RootCommand>, AdminError> {
    let node = the_one(&topology.nodes, named).map_err(AdminError::Refused)?;
    let reason = match (node.state, draining) {
        (NodeState::Draining, true) | (NodeState::Up, false) => return Ok(None),
        (NodeState::Up, true) => "by an operator",
        (NodeState::Draining, false) => "",
        (NodeState::Down, _) => {
            let text = format!("{} is down: start it first", node.name);
            return Err(AdminError::Refused(text));
        }
    };
    Ok(Some(RootCommand::Drain(Drain {
        node: node.node,
        seen: topology.index,
        draining,
        reason: reason.to_owned(),
    })))
}

/// The node of that name or number. Of several with one name, the one that is not down.
fn the_one<'a>(nodes: &'a [NodeRecord], named: &str) -> Result<&'a NodeRecord, String> {
    let number = |node: &NodeRecord| format!("{:016x}", node.node.0);
    if let Some(node) = nodes.iter().find(|node| number(node) == named) {
        return Ok(node);
    }
    let of_name: Vec<&NodeRecord> = nodes.iter().filter(|node| node.name == named).collect();
    let here = of_name.iter().filter(|node| node.state != NodeState::Down);
    match (
        here.clone().collect::<Vec<_>>().as_slice(),
        of_name.as_slice(),
    ) {
        ([one], _) => Ok(one),
        ([], [one]) => Ok(one),
        ([], []) => Err(format!(
            "no node is called {named:?}; `hedgerow status` shows them"
        )),
        _ => {
            let numbers: Vec<String> = of_name.iter().map(|node| number(node)).collect();
            Err(format!(
                "several nodes are called {named:?}; name one by its id: {}",
                numbers.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_env::NodeId;
    use hedgerow_protocol::{Location, Roles};

    use super::*;

    fn node(id: u64, name: &str, state: NodeState) -> NodeRecord {
        NodeRecord {
            node: NodeId(id),
            name: name.into(),
            address: String::new(),
            roles: Roles::ALL,
            location: Location::default(),
            stores: Vec::new(),
            state,
            reason: String::new(),
        }
    }

    #[test]
    fn a_node_is_named_beyond_doubt() {
        let nodes = [
            node(1, "a", NodeState::Up),
            node(2, "b", NodeState::Down),
            node(3, "b", NodeState::Draining),
            node(4, "c", NodeState::Up),
            node(5, "c", NodeState::Up),
        ];
        let found = |named| the_one(&nodes, named).map(|node| node.node.0);
        assert_eq!(found("a"), Ok(1));
        assert_eq!(found("b"), Ok(3), "the one that is there");
        assert_eq!(found("0000000000000002"), Ok(2));
        assert!(found("c").unwrap_err().contains("0000000000000005"));
        assert!(found("d").unwrap_err().contains("hedgerow status"));
    }
}
