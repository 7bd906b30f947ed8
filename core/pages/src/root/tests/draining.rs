//! When the root lets a node drain.

use hedgerow_protocol::Drain;

use super::*;

#[test]
fn a_node_drains_only_when_the_others_suffice_for_every_disk() {
    let mut root = Root::ready();
    let set = |id, state| RootCommand::SetNodeState {
        node: NodeId(id),
        state,
        reason: String::new(),
    };
    let drain = |id| set(id, NodeState::Draining);
    // Without a disk there is nothing that would have to go anywhere.
    assert_eq!(root.run(drain(3)), RootOutcome::Done);
    root.run(set(3, NodeState::Up));
    root.disk(create(1, "demo"));
    let refused = root.refused(drain(3)).to_string();
    assert_eq!(
        refused,
        "node3 cannot drain: the 3 copies of disk demo need 3 other nodes that keep data (role \
         hblock), there are 2: add a node first"
    );
    let mut proxy = node(5);
    proxy.roles = Roles::PROXY;
    root.run(joining(proxy));
    root.refused(drain(3));
    assert_eq!(root.run(drain(5)), RootOutcome::Done, "it keeps nothing");
    root.run(joining(node(4)));
    assert_eq!(root.run(drain(3)), RootOutcome::Done);
    assert_eq!(root.run(drain(3)), RootOutcome::Done, "repeated");
    let refused = root.refused(drain(2)).to_string();
    assert!(
        refused.contains("there are 2 beside those that drain (node3)"),
        "{refused}"
    );
    // To take it back is always allowed.
    assert_eq!(root.run(set(3, NodeState::Up)), RootOutcome::Done);
    assert_eq!(root.run(drain(2)), RootOutcome::Done);
}

#[test]
fn a_decision_that_comes_late_undoes_no_later_one() {
    let mut root = Root::ready();
    let index = |root: &Root| query::topology(&root.state).unwrap().index;
    let decide = |seen, draining| {
        RootCommand::Drain(Drain {
            node: NodeId(3),
            seen,
            draining,
            reason: String::new(),
        })
    };
    let drain = decide(index(&root), true);
    assert_eq!(root.run(drain.clone()), RootOutcome::Done);
    let undo = decide(index(&root), false);
    assert_eq!(root.run(undo.clone()), RootOutcome::Done);
    let changed = RootRefusal::NodesChanged {
        index: index(&root),
    };
    assert_eq!(root.refused(drain), changed);
    assert_eq!(root.refused(undo), changed);
}
