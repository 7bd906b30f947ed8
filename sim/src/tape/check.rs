//! What a tape may ask for: limits and references, so that no tape, however it was edited, makes
//! the simulator panic or run for ever.

use std::collections::BTreeSet;

use hedgerow_env::Phase;

use crate::scenario::{ClientId, HALVES_MAXIMUM, OTHER_DISKS_MAXIMUM, OperatorDeed, Script};
use crate::world::{FaultAction, NodeIndex, Strike};

use super::TapeError;

/// Nodes at most; the largest cluster that is simulated.
pub const NODES_MAXIMUM: u16 = 128;
/// Clients of a node at most; their tags have eight bits for it.
pub const CLIENTS_MAXIMUM: u32 = ClientId::FIRST_INITIATOR - 1;
/// Blocks in use at most: each is read at the end.
pub const BLOCKS_MAXIMUM: u64 = 100_000;
/// Operations at most.
pub const OPERATIONS_MAXIMUM: usize = 1_000_000;
/// Numbers of operations; their tags have forty bits for it.
const NUMBERS_MAXIMUM: u64 = 1 << 40;
/// Writes that are under way at once when the disk is abandoned.
const WRITES_MAXIMUM: u32 = 1_024;
/// Most splits of shards: each costs the nodes a group more.
const SPLITS_MAXIMUM: u32 = 64;
/// Faults strike for so long at most: the run as a whole has 1,200 s.
const SAFETY_MAXIMUM_S: u64 = 600;
/// Nothing is scheduled later than the whole run may last.
const TIME_MAXIMUM_NS: u64 = 1_200_000_000_000;
/// Clocks may be this wrong at most: a node's clock still runs forward.
const DRIFT_MAXIMUM_PPM: u32 = 900_000;

/// Checks every limit and every reference of a script.
pub(crate) fn check(script: &Script) -> Result<(), TapeError> {
    check_shape(script)?;
    let nodes = script.plan.nodes;
    for (at, one) in script.plan.moves.iter().enumerate() {
        let place = format!("plan.moves[{at}]");
        known(nodes, one.to, || format!("{place}.to"))?;
        within(&format!("{place}.at_ns"), one.at_ns, 0, TIME_MAXIMUM_NS)?;
        let goes_on = format!("{place}.former_goes_on_ns");
        within(&goes_on, one.former_goes_on_ns, 0, TIME_MAXIMUM_NS)?;
        let recovery_ns = one.recovery_ns.unwrap_or_default();
        within(
            &format!("{place}.recovery_ns"),
            recovery_ns,
            0,
            TIME_MAXIMUM_NS,
        )?;
    }
    check_operators(script)?;
    check_additions(script)?;
    if let Some(abandonment) = &script.plan.abandonment {
        let place = "plan.abandonment";
        known(nodes, abandonment.node, || format!("{place}.node"))?;
        let (writes, after) = (abandonment.writes, abandonment.after_ns);
        within(&format!("{place}.writes"), writes, 0, WRITES_MAXIMUM)?;
        within(&format!("{place}.after_ns"), after, 0, TIME_MAXIMUM_NS)?;
    }
    if let Some(restoration) = &script.plan.restoration {
        let place = "plan.restoration";
        known(nodes, restoration.node, || format!("{place}.node"))?;
        let at_ns = restoration.image_at_ns;
        within(&format!("{place}.image_at_ns"), at_ns, 0, TIME_MAXIMUM_NS)?;
    }
    let splits = u64::try_from(script.plan.splits.len()).unwrap_or(u64::MAX);
    within("plan.splits", splits, 0, SPLITS_MAXIMUM)?;
    for (at, split) in script.plan.splits.iter().enumerate() {
        let place = format!("plan.splits[{at}].at_ns");
        within(&place, split.at_ns, 0, TIME_MAXIMUM_NS)?;
    }
    for (list, faults) in [
        ("formation", &script.plan.formation),
        ("faults", &script.plan.faults),
    ] {
        for (at, fault) in faults.iter().enumerate() {
            let place = format!("plan.{list}[{at}].at_ns");
            within(&place, fault.at_ns, 0, TIME_MAXIMUM_NS)?;
            let mut action = fault.action.clone();
            if let FaultAction::AtPhase(_, phase, faults) = &action {
                let place = format!("plan.{list}[{at}].action");
                if Phase::ALL.iter().all(|one| one.name() != phase) {
                    let reason = format!("{phase:?} is no phase");
                    return Err(TapeError::field(place, reason));
                }
                for later in faults {
                    within(&place, later.at_ns, 0, TIME_MAXIMUM_NS)?;
                }
            }
            for node in action.nodes_mut() {
                known(nodes, *node, || format!("plan.{list}[{at}]"))?;
            }
        }
    }
    for (at, strike) in script.strikes.iter().enumerate() {
        if let Strike::Message(id, _) = strike {
            known(nodes, id.from, || format!("strikes[{at}].from"))?;
            known(nodes, id.to, || format!("strikes[{at}].to"))?;
        }
    }
    check_operations(script)
}

fn check_operators(script: &Script) -> Result<(), TapeError> {
    let plan = &script.plan;
    let mut size = 2 * plan.containers;
    for (at, action) in plan.operators.iter().enumerate() {
        let place = |field: &str| format!("plan.operators[{at}].{field}");
        within(&place("at_ns"), action.at_ns, 0, TIME_MAXIMUM_NS)?;
        if let Some(node) = action.clone().node_mut() {
            known(plan.nodes, *node, || place("deed"))?;
        }
        let (disk, halves) = match &action.deed {
            OperatorDeed::Create {
                disk,
                halves,
                policy,
                ..
            } => {
                let block_size = u64::from(policy.block_size);
                if policy.check().is_err() || !(plan.container_bytes / 2).is_multiple_of(block_size)
                {
                    return Err(TapeError::field(
                        place("deed"),
                        "no disk can have this policy",
                    ));
                }
                (*disk, *halves)
            }
            OperatorDeed::Resize { disk: 0, halves } => {
                // Clients use all of it.
                within(
                    &place("deed.resize.halves"),
                    *halves,
                    size.into(),
                    HALVES_MAXIMUM,
                )?;
                size = *halves;
                continue;
            }
            OperatorDeed::Resize { disk, halves } => (*disk, *halves),
            OperatorDeed::Delete { disk } => (*disk, 1),
            OperatorDeed::Drain { until_ns, .. } => {
                within(&place("deed.drain.until_ns"), *until_ns, 0, TIME_MAXIMUM_NS)?;
                continue;
            }
        };
        within(&place("deed.disk"), disk, 1, OTHER_DISKS_MAXIMUM)?;
        within(&place("deed.halves"), halves, 1, HALVES_MAXIMUM)?;
    }
    Ok(())
}

/// Added nodes are distinct, and not all: the first one founds the cluster.
fn check_additions(script: &Script) -> Result<(), TapeError> {
    let plan = &script.plan;
    let mut seen = BTreeSet::from([NodeIndex(0)]);
    for (at, addition) in plan.additions.iter().enumerate() {
        let place = |field: &str| format!("plan.additions[{at}].{field}");
        within(&place("at_ns"), addition.at_ns, 0, TIME_MAXIMUM_NS)?;
        known(plan.nodes, addition.node, || place("node"))?;
        if !seen.insert(addition.node) {
            let reason = format!("node {} is there already", addition.node);
            return Err(TapeError::field(place("node"), reason));
        }
    }
    Ok(())
}

fn known(nodes: u16, node: NodeIndex, place: impl Fn() -> String) -> Result<(), TapeError> {
    if node.0 < nodes {
        return Ok(());
    }
    let reason = format!("node {} is not one of the {nodes}", node.0);
    Err(TapeError::field(place(), reason))
}

fn within(
    place: &str,
    value: impl Into<u64>,
    least: u64,
    most: impl Into<u64>,
) -> Result<(), TapeError> {
    let (value, most) = (value.into(), most.into());
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let reason = format!("{value} is not within {least} to {most}");
    Err(TapeError::field(place, reason))
}

fn check_shape(script: &Script) -> Result<(), TapeError> {
    let plan = &script.plan;
    within("plan.nodes", plan.nodes, 1, NODES_MAXIMUM)?;
    within("plan.racks", plan.racks, 1, NODES_MAXIMUM)?;
    within("plan.data_centres", plan.data_centres, 1, NODES_MAXIMUM)?;
    within("plan.shards", plan.shards, 1, 64_u32)?;
    within("plan.containers", plan.containers, 1, 1_024_u32)?;
    within("plan.clients", plan.clients, 1, CLIENTS_MAXIMUM)?;
    within("plan.initiators", plan.initiators, 0, CLIENTS_MAXIMUM)?;
    within(
        "plan.safety.secs",
        plan.safety.as_secs(),
        0,
        SAFETY_MAXIMUM_S,
    )?;
    within("plan.pause.secs", plan.pause.as_secs(), 0, SAFETY_MAXIMUM_S)?;
    if let Some(tunables) = &plan.tunables
        && let Err(problem) = tunables.check()
    {
        return Err(TapeError::field("plan.tunables", problem));
    }
    within("service", script.service, 0, 10_000_u64)?;
    let block_size = u64::from(plan.policy.block_size);
    if ![512, 4_096, 65_536].contains(&block_size) {
        let reason = format!("a block has 512, 4096 or 65536 bytes, not {block_size}");
        return Err(TapeError::field("plan.policy.block_size", reason));
    }
    let bytes = plan.container_bytes;
    if bytes == 0 || !bytes.is_multiple_of(65_536) || bytes > 1 << 40 {
        let reason = format!("{bytes} is not a multiple of 65536 up to 1 TiB");
        return Err(TapeError::field("plan.container_bytes", reason));
    }
    within(
        "plan.hot_blocks",
        plan.hot_blocks,
        1,
        plan.room().min(BLOCKS_MAXIMUM),
    )?;
    for (at, drift) in plan.drift_ppm.iter().enumerate() {
        let place = format!("plan.drift_ppm[{at}]");
        within(&place, drift.unsigned_abs(), 0, DRIFT_MAXIMUM_PPM)?;
    }
    Ok(())
}

fn check_operations(script: &Script) -> Result<(), TapeError> {
    let operations = script.operations.as_deref().unwrap_or_default();
    if operations.len() > OPERATIONS_MAXIMUM {
        let reason = format!("{} are more than {OPERATIONS_MAXIMUM}", operations.len());
        return Err(TapeError::field("operations", reason));
    }
    let mut seen: BTreeSet<(ClientId, u64)> = BTreeSet::new();
    for (at, operation) in operations.iter().enumerate() {
        let place = |field: &str| format!("operations[{at}].{field}");
        within(&place("at_ns"), operation.at_ns, 0, TIME_MAXIMUM_NS)?;
        known(script.plan.nodes, operation.node, || place("node"))?;
        let (first, most) = match operation.client {
            ClientId::FIRST_INITIATOR.. => {
                let most = ClientId::FIRST_INITIATOR + script.plan.initiators;
                (u64::from(ClientId::FIRST_INITIATOR), u64::from(most))
            }
            _ => (0, u64::from(script.plan.clients)),
        };
        within(&place("client"), operation.client, first, most)?;
        let last = script.plan.hot_blocks - 1;
        within(&place("block"), operation.block, 0, last)?;
        let window = script.plan.window_blocks();
        let left = (window - operation.block % window).min(last - operation.block + 1);
        let most = left.min(script.plan.most_blocks());
        within(&place("count"), operation.count, 1, most)?;
        within(&place("number"), operation.number, 0, NUMBERS_MAXIMUM - 2)?;
        if !seen.insert((operation.id(), operation.number)) {
            let reason = "its client has this number already";
            return Err(TapeError::field(place("number"), reason));
        }
    }
    Ok(())
}
