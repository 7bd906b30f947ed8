//! Single steps that make a script smaller.
//!
//! Invariants: an edit never adds a fault, a node or an operation; it yields none when it would
//! change nothing. Whether the smaller script still fails is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use hedgerow_protocol::PlacementRule;

use crate::scenario::{ClientId, ClientOperation, Deed, Script};
use crate::tape;
use crate::world::{NodeIndex, Strike, TimedFault};

use super::episodes::{delete_orphans, episodes, gather};
use super::{nodes, rules, times};

/// What is left out or made plainer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Only these operations run, and none more need succeed afterwards.
    Operations(Vec<ClientOperation>),
    /// So many operations must succeed in the end, besides those listed.
    Service(u64),
    /// Operations by their places.
    DeleteOperations(Range<usize>),
    /// All but the operations of one block.
    OnlyBlock(u64),
    /// All operations of one kind.
    DeleteDeeds(DeedKind),
    /// Writes no longer cancel.
    CancelNothing,
    /// Every operation concerns one block.
    SingleBlocks,
    /// What initiators do, clients beside the proxy do.
    NoInitiators,
    /// Fault episodes by their places.
    DeleteEpisodes(Range<usize>),
    /// Fault episodes of the formation by their places.
    DeleteFormation(Range<usize>),
    /// An episode begins at the moment of an earlier one of its like, by their places.
    Gather {
        /// The episode that stays where it is.
        early: usize,
        /// The episode that moves.
        late: usize,
    },
    /// Single faults by their places: one link of several, the end of an episode.
    DeleteFaults(Range<usize>),
    /// Moves by their places.
    DeleteMoves(Range<usize>),
    /// What operators do, by their places.
    DeleteOperators(Range<usize>),
    /// Former holders release the disk.
    NobodyGoesOn,
    /// Every operation runs at this node, and the disk stays there.
    StayAtNode(NodeIndex),
    /// Only these nodes are left.
    KeepNodes(Vec<NodeIndex>),
    /// Something of the plan becomes plain.
    Plain(Feature),
    /// Rates give way to the very events that they struck.
    Strikes(Vec<Strike>),
    /// One field of one fault's rules is as if nothing were wrong.
    PlainRule {
        /// The fault's place.
        fault: usize,
        /// The field.
        field: String,
    },
    /// Strikes by their places.
    DeleteStrikes(Range<usize>),
    /// The faults end, and nothing happens any more, after this time.
    Truncate(u64),
    /// Nothing happens for a while before this moment: the wait is cut to a length.
    CutWait {
        /// The moment.
        until_ns: u64,
        /// What is left of the wait.
        to_ns: u64,
    },
    /// Times are rounded down to milliseconds.
    RoundTimes,
    /// Another seed: it draws latencies and the order of ready tasks.
    Seed(u64),
}

/// Kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeedKind {
    /// Reads.
    Read,
    /// Zeroing.
    Zero,
    /// Everything that a former holder does.
    FormerHolder,
}

/// Parts of a plan that may be plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// One shard.
    Shards,
    /// One data centre.
    DataCentres,
    /// One rack.
    Racks,
    /// No placement rule.
    Placement,
    /// No compression.
    Compression,
    /// So many containers.
    Containers(u32),
    /// Blocks of this size.
    BlockSize(u32),
    /// So many replicas.
    Replication(u8),
    /// No figure of the nodes is at an extreme.
    Tunables,
    /// No clock drifts.
    Drift,
    /// Nobody abandons the disk.
    Abandonment,
    /// No image is restored.
    Restoration,
    /// No shard is split.
    Splits,
    /// Every node is there from the beginning.
    Additions,
    /// Clients have the lowest numbers, blocks too.
    Numbers,
}

impl Edit {
    /// The script after the edit; none when nothing would change, or when
    /// no tape may be like that.
    #[must_use]
    pub fn apply(&self, script: &Script) -> Option<Script> {
        let mut after = script.clone();
        self.change(&mut after);
        if after == *script {
            return None;
        }
        if after.operations.is_some() {
            fit_clients(&mut after);
        }
        tape::check(&after).is_ok().then_some(after)
    }

    fn change(&self, script: &mut Script) {
        let plan = &mut script.plan;
        match self {
            Self::Operations(list) => only_listed(script, list),
            Self::Service(wanted) => script.service = script.service.min(*wanted),
            Self::DeleteOperations(range) => delete(script.operations.as_mut(), range),
            Self::OnlyBlock(block) => {
                let holds = |one: &ClientOperation| covers(one).contains(block);
                if script.operations.iter().flatten().any(holds) {
                    retain(script, holds);
                }
            }
            Self::DeleteDeeds(kind) => retain(script, |one| !kind.holds(one)),
            Self::CancelNothing => {
                for operation in script.operations.iter_mut().flatten() {
                    if matches!(operation.deed, Deed::WriteThenCancel { .. }) {
                        operation.deed = Deed::Write;
                    }
                }
            }
            Self::SingleBlocks => {
                for operation in script.operations.iter_mut().flatten() {
                    operation.count = 1;
                }
            }
            Self::NoInitiators => without_initiators(script),
            Self::DeleteEpisodes(range) => delete_episodes(&mut plan.faults, range),
            Self::DeleteFormation(range) => delete_episodes(&mut plan.formation, range),
            Self::Gather { early, late } => gather(&mut plan.faults, *early, *late),
            Self::DeleteFaults(range) => delete(Some(&mut plan.faults), range),
            Self::DeleteMoves(range) => delete(Some(&mut plan.moves), range),
            Self::DeleteOperators(range) => delete(Some(&mut plan.operators), range),
            Self::NobodyGoesOn => {
                for one in &mut plan.moves {
                    one.former_goes_on_ns = 0;
                    one.recovery_ns = None;
                }
            }
            Self::StayAtNode(node) => stay_at(script, *node),
            Self::KeepNodes(kept) => nodes::keep(script, kept),
            Self::Plain(feature) => feature.make_plain(script),
            Self::Strikes(strikes) => {
                script.strikes.clone_from(strikes);
                for faults in [&mut plan.formation, &mut plan.faults] {
                    faults.retain_mut(|fault| {
                        let had_rates = rules::without_rates(&mut fault.action);
                        !(had_rates && rules::broken_fields(&fault.action).is_empty())
                    });
                    delete_orphans(faults);
                }
            }
            Self::PlainRule { fault, field } => {
                if let Some(fault) = plan.faults.get_mut(*fault) {
                    rules::make_plain(&mut fault.action, field);
                }
            }
            Self::DeleteStrikes(range) => delete(Some(&mut script.strikes), range),
            Self::Truncate(end_ns) => times::truncate(script, *end_ns),
            Self::CutWait { until_ns, to_ns } => times::cut_wait(script, *until_ns, *to_ns),
            Self::RoundTimes => times::round(script),
            Self::Seed(seed) => plan.seed = *seed,
        }
    }
}

impl DeedKind {
    fn holds(self, operation: &ClientOperation) -> bool {
        match self {
            Self::Read => operation.deed == Deed::Read,
            Self::Zero => operation.deed == Deed::Zero,
            Self::FormerHolder => operation.client == ClientId::FORMER_HOLDER,
        }
    }
}

impl Feature {
    fn make_plain(self, script: &mut Script) {
        let plan = &mut script.plan;
        match self {
            Self::Abandonment => plan.abandonment = None,
            Self::Restoration => plan.restoration = None,
            Self::Splits => plan.splits.clear(),
            Self::Additions => plan.additions.clear(),
            Self::Shards => plan.shards = 1,
            Self::DataCentres => plan.data_centres = 1,
            Self::Racks => plan.racks = 1,
            Self::Placement => plan.policy.placement = PlacementRule::Agnostic,
            Self::Compression => plan.policy.compression = false,
            Self::Containers(count) => plan.containers = plan.containers.min(count),
            Self::BlockSize(size) => plan.policy.block_size = plan.policy.block_size.min(size),
            Self::Replication(factor) => {
                plan.policy.replication_factor = plan.policy.replication_factor.min(factor);
            }
            Self::Tunables => plan.tunables = None,
            Self::Drift => plan.drift_ppm.fill(0),
            Self::Numbers => renumber(script),
        }
    }
}

/// The blocks of an operation.
pub(super) fn covers(operation: &ClientOperation) -> Range<u64> {
    operation.block..operation.block + operation.count
}

fn delete_episodes(faults: &mut Vec<TimedFault>, range: &Range<usize>) {
    let episodes = episodes(faults);
    let end = range.end.min(episodes.len());
    let start = range.start.min(end);
    let gone: BTreeSet<usize> = episodes[start..end].iter().flatten().copied().collect();
    let mut at = 0..;
    faults.retain(|_| !at.next().is_some_and(|at| gone.contains(&at)));
}

fn delete<T>(list: Option<&mut Vec<T>>, range: &Range<usize>) {
    if let Some(list) = list {
        let end = range.end.min(list.len());
        list.drain(range.start.min(end)..end);
    }
}

fn retain(script: &mut Script, keep: impl Fn(&ClientOperation) -> bool) {
    if let Some(operations) = &mut script.operations {
        operations.retain(keep);
    }
}

/// Cuts the list down to these, or makes them the list if there is none.
fn only_listed(script: &mut Script, list: &[ClientOperation]) {
    let kept: BTreeSet<(ClientId, u64)> = list.iter().map(|one| (one.id(), one.number)).collect();
    match &mut script.operations {
        Some(operations) => {
            operations.retain(|one| kept.contains(&(one.id(), one.number)));
        }
        None => script.operations = Some(list.to_vec()),
    }
}

/// All operations become those of one node's clients; each client stays a client of its own.
fn stay_at(script: &mut Script, node: NodeIndex) {
    script.plan.moves.clear();
    if node != NodeIndex(0) {
        let first = crate::scenario::Move::of_released(0, node);
        script.plan.moves.push(first);
    }
    let mut clients: BTreeMap<ClientId, u32> = BTreeMap::new();
    let (mut regular, mut initiators) = (1.., ClientId::FIRST_INITIATOR..);
    for operation in script.operations.iter_mut().flatten() {
        let numbers = match is_initiator(operation) {
            true => &mut initiators,
            false => &mut regular,
        };
        let client = clients
            .entry(operation.id())
            .or_insert_with(|| numbers.next().expect("fewer clients than numbers"));
        operation.node = node;
        operation.client = *client;
    }
    number_anew(script);
}

/// Gives every client's operations the numbers 0, 1, 2 ...
fn number_anew(script: &mut Script) {
    let mut next: BTreeMap<ClientId, u64> = BTreeMap::new();
    for operation in script.operations.iter_mut().flatten() {
        let number = next.entry(operation.id()).or_default();
        operation.number = *number;
        *number += 1;
    }
}

fn is_initiator(operation: &ClientOperation) -> bool {
    operation.client >= ClientId::FIRST_INITIATOR
}

/// Each initiator becomes a client of its own beside the proxy.
fn without_initiators(script: &mut Script) {
    let operations = script.operations.iter().flatten();
    let regular = operations.filter(|one| !is_initiator(one));
    let highest = regular.map(|one| one.client).max().unwrap_or_default();
    for operation in script.operations.iter_mut().flatten() {
        if is_initiator(operation) {
            operation.client = highest + 1 + (operation.client - ClientId::FIRST_INITIATOR);
        }
    }
}

/// The lowest numbers for blocks, clients and operations, and no blocks beyond those in use.
fn renumber(script: &mut Script) {
    let Some(operations) = &mut script.operations else {
        return;
    };
    let used: BTreeSet<u64> = operations.iter().flat_map(covers).collect();
    let blocks: BTreeMap<u64, u64> = used.into_iter().zip(0..).collect();
    let used: BTreeSet<u32> = operations.iter().map(|one| one.client).collect();
    let is_regular = |client: &u32| *client < ClientId::FIRST_INITIATOR;
    let (regular, initiators): (Vec<u32>, Vec<u32>) = used.into_iter().partition(is_regular);
    let regular = regular
        .into_iter()
        .filter(|client| *client != ClientId::FORMER_HOLDER);
    let clients: BTreeMap<u32, u32> = regular
        .zip(1..)
        .chain(initiators.into_iter().zip(ClientId::FIRST_INITIATOR..))
        .collect();
    for operation in operations.iter_mut() {
        operation.block = blocks[&operation.block];
        if let Some(client) = clients.get(&operation.client) {
            operation.client = *client;
        }
    }
    let count = u64::try_from(blocks.len()).expect("usize fits 64 bits");
    script.plan.hot_blocks = count.max(1);
    number_anew(script);
}

/// As many clients and initiators as the list has use for.
fn fit_clients(script: &mut Script) {
    let (mut regular, mut initiators) = (1, 0);
    for operation in script.operations.iter().flatten() {
        if is_initiator(operation) {
            initiators = initiators.max(operation.client - ClientId::FIRST_INITIATOR + 1);
        } else {
            regular = regular.max(operation.client);
        }
    }
    let plan = &mut script.plan;
    if script.service > 0 {
        // Those that are idle in the list serve to show that the cluster serves.
        regular = regular.max(plan.clients);
        initiators = initiators.max(plan.initiators);
    }
    plan.clients = regular;
    plan.initiators = initiators;
}

#[cfg(test)]
mod tests;
