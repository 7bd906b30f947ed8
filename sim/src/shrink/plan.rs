//! The order in which the search tries to leave things out: steps, gone through in rounds.
//!
//! Operations go before faults: without faults some failures still come of sheer load, and then
//! each of many operations is needed, whereas beside a fault a few are enough. Time, operations in
//! bulk and shards go early, since that makes every later run quick; what only makes a tape easier
//! to read goes last.

use std::collections::BTreeSet;

use crate::scenario::{ClientOperation, Script};
use crate::world::NodeIndex;

use super::deletion::Deletion;
use super::edit::{DeedKind, Edit, Feature, covers};
use super::episodes::{episodes, is_one_event};
use super::outcome::Outcome;
use super::{nodes, rules, times};

/// A wait longer than this is worth cutting.
const LONG_WAIT_NS: u64 = 400_000_000;
/// What a cut wait is cut to, at first and if that fails: a failure that hangs on a race shows at
/// some lengths alone.
const SHORT_WAITS_NS: [u64; 8] = [
    50_000_000,
    80_000_000,
    130_000_000,
    210_000_000,
    340_000_000,
    550_000_000,
    1_000_000_000,
    3_000_000_000,
];
/// The safety phase goes on for so long after the last thing that happens in it.
const LAST_WAITS_NS: [u64; 3] = [0, 500_000_000, 2_000_000_000];
/// More strikes than this are not worth listing in the place of rates.
const STRIKES_MAXIMUM: usize = 5_000;
/// In bulk: pieces down to this part of the list.
const BULK_PARTS: usize = 8;

/// The steps of a round, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Only what clients did before the end of the faults.
    List,
    /// An early end.
    Truncate,
    /// Operations in large pieces.
    Bulk,
    /// One shard, one rack, one data centre, no moves.
    Shape,
    /// Fault episodes of the formation.
    Formation,
    /// Fault episodes in large pieces: fewer faults make every later run quicker.
    BulkEpisodes,
    /// Fault episodes.
    Episodes,
    /// Alike faults of several moments become one.
    Gather,
    /// Whole kinds of operations, all but one block.
    Kinds,
    /// Moves of the disk.
    Moves,
    /// What operators do.
    Operators,
    /// Operations one by one.
    Operations,
    /// Nodes.
    Nodes,
    /// Everything in the plan that may be plain.
    Features,
    /// Waits.
    Waits,
    /// Rates give way to strikes.
    Rates,
    /// Strikes one by one.
    Strikes,
    /// Whether the strikes were worth it.
    Weigh,
    /// Single links, ends of episodes.
    Faults,
    /// Fields of rules.
    Rules,
    /// Round figures.
    Tidy,
}

/// A round.
pub(super) const STEPS: [Step; 21] = [
    Step::List,
    Step::Truncate,
    Step::Bulk,
    Step::Kinds,
    Step::Shape,
    Step::BulkEpisodes,
    Step::Operations,
    Step::Moves,
    Step::Operators,
    Step::Formation,
    Step::Episodes,
    Step::Nodes,
    Step::Features,
    Step::Waits,
    Step::Gather,
    Step::Rates,
    Step::Strikes,
    Step::Weigh,
    Step::Faults,
    Step::Rules,
    Step::Tidy,
];

/// What a step tries: alternatives one after the other, or a deletion from a list.
#[derive(Debug)]
pub(super) enum Walk {
    /// Each is some edits at once, in their order, applied to the best script of that time.
    Each(Vec<Vec<Edit>>),
    /// The edit that deletes a range, and how far the deletion is.
    Delete(fn(std::ops::Range<usize>) -> Edit, Deletion),
}

/// What `step` tries on `script`, whose run had this outcome.
pub(super) fn walk(step: Step, script: &Script, outcome: &Outcome) -> Walk {
    let count = |operations: &Option<Vec<ClientOperation>>| operations.iter().flatten().count();
    let each = |edits: Vec<Edit>| Walk::Each(edits.into_iter().map(|edit| vec![edit]).collect());
    match step {
        Step::List => Walk::Each(lists(script, outcome)),
        Step::Truncate => each(truncations(script)),
        Step::Bulk => {
            let length = count(&script.operations);
            let coarse = Deletion::coarse(length, length.div_ceil(BULK_PARTS));
            Walk::Delete(Edit::DeleteOperations, coarse)
        }
        Step::Shape => Walk::Each(shapes()),
        Step::Formation => {
            let length = episodes(&script.plan.formation).len();
            Walk::Delete(Edit::DeleteFormation, Deletion::new(length))
        }
        Step::Episodes => {
            let length = episodes(&script.plan.faults).len();
            Walk::Delete(Edit::DeleteEpisodes, Deletion::new(length))
        }
        Step::BulkEpisodes => {
            let length = episodes(&script.plan.faults).len();
            let coarse = Deletion::coarse(length, length.div_ceil(BULK_PARTS));
            Walk::Delete(Edit::DeleteEpisodes, coarse)
        }
        Step::Gather => each(gatherings(script)),
        Step::Kinds => each(kinds(script, outcome)),
        Step::Moves => Walk::Delete(Edit::DeleteMoves, Deletion::new(script.plan.moves.len())),
        Step::Operators => Walk::Delete(
            Edit::DeleteOperators,
            Deletion::new(script.plan.operators.len()),
        ),
        Step::Operations => {
            let length = count(&script.operations);
            Walk::Delete(Edit::DeleteOperations, Deletion::new(length))
        }
        Step::Nodes => Walk::Each(fewer_nodes(script)),
        Step::Features => each(features(script)),
        Step::Waits => each(waits(script)),
        Step::Rates => each(strikes(script, outcome)),
        Step::Strikes => Walk::Delete(Edit::DeleteStrikes, Deletion::new(script.strikes.len())),
        Step::Weigh => Walk::Each(Vec::new()),
        Step::Faults => Walk::Delete(Edit::DeleteFaults, Deletion::new(script.plan.faults.len())),
        Step::Rules => each(plain_rules(script)),
        Step::Tidy => each(vec![Edit::RoundTimes, Edit::Plain(Feature::Numbers)]),
    }
}

fn lists(script: &Script, outcome: &Outcome) -> Vec<Vec<Edit>> {
    let end_ns = times::end_ns(script);
    let early = |operation: &ClientOperation| operation.at_ns <= end_ns;
    let all = outcome.performed.clone();
    let early: Vec<_> = all.iter().copied().filter(early).collect();
    vec![
        vec![Edit::Service(0), Edit::Operations(early.clone())],
        vec![Edit::Service(1), Edit::Operations(early.clone())],
        vec![Edit::Service(0), Edit::Operations(all.clone())],
        vec![Edit::Service(1), Edit::Operations(all.clone())],
        vec![Edit::Operations(early)],
        vec![Edit::Operations(all)],
    ]
}

fn truncations(script: &Script) -> Vec<Edit> {
    let end_ns = times::end_ns(script);
    (1..16)
        .map(|part| Edit::Truncate(end_ns / 16 * part))
        .collect()
}

fn shapes() -> Vec<Vec<Edit>> {
    vec![
        vec![
            Edit::Plain(Feature::Shards),
            Edit::Plain(Feature::DataCentres),
            Edit::Plain(Feature::Placement),
            Edit::Plain(Feature::Compression),
            Edit::Plain(Feature::Drift),
        ],
        vec![Edit::Plain(Feature::Shards)],
        vec![Edit::Plain(Feature::Tunables)],
        vec![Edit::StayAtNode(NodeIndex(0))],
        vec![Edit::NobodyGoesOn],
        vec![Edit::Plain(Feature::Abandonment)],
        vec![Edit::Plain(Feature::Restoration)],
        vec![Edit::Plain(Feature::Splits)],
        vec![Edit::Plain(Feature::Additions)],
    ]
}

fn kinds(script: &Script, outcome: &Outcome) -> Vec<Edit> {
    let operations = script.operations.iter().flatten();
    let blocks: BTreeSet<u64> = operations.flat_map(covers).collect();
    let mut blocks: Vec<u64> = blocks.into_iter().collect();
    let mut edits = Vec::new();
    if blocks.len() > 1 {
        // The failure may name the block.
        let text = outcome.failure.as_ref().map_or("", |failure| &failure.text);
        let numbers: Vec<&str> = text
            .split(|letter: char| !letter.is_ascii_digit())
            .collect();
        blocks.sort_by_key(|block| {
            let block = block.to_string();
            numbers
                .iter()
                .position(|number| *number == block)
                .unwrap_or(usize::MAX)
        });
        edits.extend(blocks.into_iter().map(Edit::OnlyBlock));
    }
    edits.extend([
        Edit::DeleteDeeds(DeedKind::Read),
        Edit::DeleteDeeds(DeedKind::Zero),
        Edit::DeleteDeeds(DeedKind::FormerHolder),
        Edit::SingleBlocks,
        Edit::NoInitiators,
        Edit::CancelNothing,
        Edit::NobodyGoesOn,
    ]);
    edits
}

/// Fewest first: only those that the script names, these and some others, all but one.
fn fewer_nodes(script: &Script) -> Vec<Vec<Edit>> {
    let all: Vec<NodeIndex> = (0..script.plan.nodes).map(NodeIndex).collect();
    let named = nodes::named(script);
    let factor = script.plan.policy.replication_factor;
    let mut edits = Vec::new();
    for fewer in 1..factor {
        let lower = Edit::Plain(Feature::Replication(fewer));
        edits.push(vec![
            lower.clone(),
            keep_at_least(&named, &all, usize::from(fewer)),
        ]);
        edits.push(vec![lower]);
    }
    for count in named.len()..all.len() {
        edits.push(vec![keep_at_least(&named, &all, count)]);
    }
    // Also nodes that are named, with all that happens to them.
    for node in all.iter().rev() {
        let rest = all.iter().copied().filter(|other| other != node).collect();
        edits.push(vec![Edit::KeepNodes(rest)]);
    }
    edits
}

fn keep_at_least(named: &[NodeIndex], all: &[NodeIndex], count: usize) -> Edit {
    let mut kept = named.to_vec();
    let others = all.iter().filter(|node| !named.contains(node));
    kept.extend(others.take(count.saturating_sub(named.len())));
    Edit::KeepNodes(kept)
}

fn features(script: &Script) -> Vec<Edit> {
    let mut features = vec![
        Feature::Shards,
        Feature::DataCentres,
        Feature::Racks,
        Feature::Placement,
        Feature::Compression,
        Feature::Numbers,
        Feature::Containers(1),
        Feature::Containers(2),
        Feature::Drift,
    ];
    features.extend([512, 4_096].map(Feature::BlockSize));
    features.extend((1..script.plan.policy.replication_factor).map(Feature::Replication));
    features.into_iter().map(Edit::Plain).collect()
}

fn waits(script: &Script) -> Vec<Edit> {
    let moments = times::sorted_moments(script);
    let last_ns = moments.last().copied().unwrap_or_default();
    let mut edits: Vec<Edit> = LAST_WAITS_NS
        .map(|wait_ns| Edit::Truncate(last_ns + wait_ns))
        .to_vec();
    // From the end, so that a cut does not move the moments of the cuts to come.
    let before = [0].into_iter().chain(moments.iter().copied());
    let pairs: Vec<(u64, u64)> = before.zip(moments.iter().copied()).collect();
    for (since_ns, until_ns) in pairs.into_iter().rev() {
        let wait_ns = until_ns - since_ns;
        for to_ns in SHORT_WAITS_NS {
            if wait_ns > LONG_WAIT_NS && wait_ns > to_ns {
                edits.push(Edit::CutWait { until_ns, to_ns });
            }
        }
    }
    edits
}

fn strikes(script: &Script, outcome: &Outcome) -> Vec<Edit> {
    if !rules::has_rates(script) || outcome.strikes.len() > STRIKES_MAXIMUM {
        return Vec::new();
    }
    vec![Edit::Strikes(outcome.strikes.clone())]
}

/// Each episode together with an earlier one of its like, the nearest first.
fn gatherings(script: &Script) -> Vec<Edit> {
    let faults = &script.plan.faults;
    let episodes = episodes(faults);
    let mut edits = Vec::new();
    for (late, episode) in episodes.iter().enumerate() {
        let like = |early: &usize| {
            let (one, other) = (episodes[*early][0], episode[0]);
            is_one_event(faults[one].action.deed(), faults[other].action.deed())
        };
        let early = (0..late).rev().filter(like);
        edits.extend(early.map(|early| Edit::Gather { early, late }));
    }
    edits
}

fn plain_rules(script: &Script) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (fault, one) in script.plan.faults.iter().enumerate() {
        let fields = rules::broken_fields(&one.action);
        edits.extend(
            fields
                .into_iter()
                .map(|field| Edit::PlainRule { fault, field }),
        );
    }
    edits
}
