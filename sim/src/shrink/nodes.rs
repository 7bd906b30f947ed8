//! Leaving out nodes: those that stay get new numbers, and everything that names a node follows.

use crate::scenario::{ClientOperation, Script};
use crate::world::{FaultAction, NodeIndex, Strike};

/// How the simulated cluster names a node's disk.
fn disk_name(node: NodeIndex) -> String {
    format!("node-{}", node.0)
}

/// Keeps the nodes of `kept`, in their order; without one that exists nothing changes.
pub(super) fn keep(script: &mut Script, kept: &[NodeIndex]) {
    let plan = &mut script.plan;
    let mut kept: Vec<NodeIndex> = kept
        .iter()
        .copied()
        .filter(|node| node.0 < plan.nodes)
        .collect();
    kept.sort_unstable();
    kept.dedup();
    if kept.is_empty() {
        return;
    }
    let renumbered = |node: NodeIndex| {
        let position = kept.binary_search(&node).ok()?;
        u16::try_from(position).ok().map(NodeIndex)
    };
    plan.drift_ppm = kept.iter().map(|node| plan.drift(*node)).collect();
    plan.nodes = u16::try_from(kept.len()).expect("no more than there were");
    plan.moves
        .retain_mut(|one| renumber(&mut one.to, renumbered));
    plan.operators.retain_mut(|action| {
        let node = action.node_mut();
        node.is_none_or(|node| renumber(node, renumbered))
    });
    // The first that is left is there from the beginning.
    plan.additions.retain_mut(|addition| {
        renumber(&mut addition.node, renumbered) && addition.node != NodeIndex(0)
    });
    let mut restoration = plan.restoration;
    plan.restoration =
        restoration.take_if(|restoration| renumber(&mut restoration.node, renumbered));
    let mut abandonment = plan.abandonment;
    plan.abandonment =
        abandonment.take_if(|abandonment| renumber(&mut abandonment.node, renumbered));
    for faults in [&mut plan.formation, &mut plan.faults] {
        faults.retain_mut(|fault| renumber_action(&mut fault.action, renumbered));
    }
    script
        .strikes
        .retain_mut(|strike| renumber_strike(strike, &kept, renumbered));
    if let Some(operations) = &mut script.operations {
        operations.retain_mut(|one: &mut ClientOperation| renumber(&mut one.node, renumbered));
    }
}

fn renumber(node: &mut NodeIndex, renumbered: impl Fn(NodeIndex) -> Option<NodeIndex>) -> bool {
    let new = renumbered(*node);
    *node = new.unwrap_or(*node);
    new.is_some()
}

/// False when the action has lost its subject.
fn renumber_action(
    action: &mut FaultAction,
    renumbered: impl Fn(NodeIndex) -> Option<NodeIndex> + Copy,
) -> bool {
    if let FaultAction::Partition(groups) = action.deed_mut() {
        for group in groups.iter_mut() {
            group.retain_mut(|node| renumber(node, renumbered));
        }
        groups.retain(|group| !group.is_empty());
        return groups.len() > 1;
    }
    let mut nodes = action.nodes_mut();
    nodes.iter_mut().all(|node| renumber(node, renumbered))
}

fn renumber_strike(
    strike: &mut Strike,
    kept: &[NodeIndex],
    renumbered: impl Fn(NodeIndex) -> Option<NodeIndex> + Copy,
) -> bool {
    match strike {
        Strike::Message(id, _) => {
            renumber(&mut id.from, renumbered) && renumber(&mut id.to, renumbered)
        }
        Strike::Disk(id, _) => {
            let node = kept.iter().find(|node| disk_name(**node) == id.disk);
            let Some(new) = node.and_then(|node| renumbered(*node)) else {
                return false;
            };
            id.disk = disk_name(new);
            true
        }
    }
}

/// Nodes that the script names: where something strikes, where the disk is, where clients run.
pub(super) fn named(script: &Script) -> Vec<NodeIndex> {
    let mut named = vec![NodeIndex(0)];
    for fault in script.plan.formation.iter().chain(&script.plan.faults) {
        let mut action = fault.action.clone();
        if !matches!(action.deed(), FaultAction::Partition(_)) {
            named.extend(action.nodes_mut().into_iter().map(|node| *node));
        }
    }
    let mut operators = script.plan.operators.clone();
    named.extend(
        operators
            .iter_mut()
            .filter_map(|action| action.node_mut().copied()),
    );
    named.extend(script.plan.moves.iter().map(|one| one.to));
    named.extend(script.plan.abandonment.map(|abandonment| abandonment.node));
    named.extend(script.plan.restoration.map(|restoration| restoration.node));
    let operations = script.operations.iter().flatten();
    named.extend(operations.map(|operation| operation.node));
    named.sort_unstable();
    named.dedup();
    named
}
