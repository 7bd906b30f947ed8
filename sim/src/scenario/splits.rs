//! An operator who has shards split while faults strike.
//!
//! Invariants: a split is asked for until the root has it, or the safety phase is over; it is asked
//! for beside everything else, so that a root without a leader holds up no other fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hedgerow_env::{Random, event};
use hedgerow_net::GroupClient;
use hedgerow_protocol::{RootAnswer, RootCommand, RootOutcome, RootQuery};
use serde::{Deserialize, Serialize};

use crate::world::World;

use super::Cluster;

/// One question of the operator to the root.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts of the operator.
const AGAIN_NS: u64 = 1_000_000_000;

/// A shard is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// When, from the beginning of the safety phase.
    pub at_ns: u64,
    /// Which shard of the table as it is then; counted round.
    pub which: u32,
}

/// One or two in one seed of three.
pub(super) fn draw(random: &mut Random, safety: Duration) -> Vec<Split> {
    if !random.chance(1, 3) {
        return Vec::new();
    }
    let end = u64::try_from(safety.as_nanos()).expect("a run is short");
    let count = 1 + random.below(2);
    let split = |_| Split {
        at_ns: random.below(end * 3 / 4),
        which: u32::try_from(random.below(8)).expect("small"),
    };
    let mut splits: Vec<Split> = (0..count).map(split).collect();
    splits.sort_by_key(|split| split.at_ns);
    splits
}

/// What the operator has asked for.
pub(super) struct Splitter {
    due: Vec<(Split, Arc<AtomicBool>)>,
    again_ns: u64,
}

impl Splitter {
    pub(super) fn new(splits: &[Split]) -> Self {
        let due = splits.iter().map(|split| (*split, Arc::default()));
        Self {
            due: due.collect(),
            again_ns: 0,
        }
    }

    /// Asks for the first split that is due and that the root does not have yet.
    pub(super) fn look(&mut self, world: &World, cluster: &Cluster, began_ns: u64) {
        let now = world.now_ns();
        let mut waiting = self.due.iter();
        let Some((split, done)) = waiting.find(|(_, done)| !done.load(Ordering::SeqCst)) else {
            return;
        };
        if now < self.again_ns.max(began_ns + split.at_ns) {
            return;
        }
        self.again_ns = now + AGAIN_NS;
        let nodes = cluster.nodes();
        let turn = usize::try_from(now / AGAIN_NS).expect("64 bits");
        let Some((_, node)) = nodes.get(turn % nodes.len().max(1)) else {
            return;
        };
        let (split, done) = (*split, Arc::clone(done));
        let (env, groups) = (node.env().clone(), node.groups().clone());
        node.env().spawn("operator-split", async move {
            match ask(&groups, split).await {
                Some(outcome @ RootOutcome::Splitting(_)) => {
                    event!(env, Info, "operator", "{outcome:?}");
                    done.store(true, Ordering::SeqCst);
                }
                other => event!(env, Debug, "operator", "no split yet: {other:?}"),
            }
        });
    }
}

async fn ask(groups: &GroupClient, split: Split) -> Option<RootOutcome> {
    let asked = groups.root_query(RootQuery::Table, ASK_LIMIT).await;
    let Ok(RootAnswer::Table(table)) = asked else {
        return None;
    };
    let shards = table.distinct();
    let which = usize::try_from(split.which).expect("32 bits");
    let shard = shards.get(which % shards.len().max(1))?;
    let command = RootCommand::SplitShard {
        group: shard.group,
        epoch: table.epoch,
    };
    groups.root_command(command, ASK_LIMIT).await.ok()
}
