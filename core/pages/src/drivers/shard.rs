//! The duties of a shard's leader: collect what is free, go on with feeds, let drained members go
//! and take returned ones back.

use std::sync::Arc;

use hedgerow_env::{GroupId, StoreId, event};
use hedgerow_protocol::{GroupBody, NodeState, ShardCommand, ShardRequest};

use super::Drivers;
use crate::service::read_local;
use crate::shard::work::{self, Cursor};
use crate::{GroupReplica, View};

/// Commands of one round in one proposal; more wait for the next.
const ROUND_COMMANDS: usize = 256;
/// Steps of feeds that follow one another in one round, while there is nothing else to do.
const SWEEP_STEPS: usize = 16;

/// Where the walks over a shard's tables go on.
#[derive(Debug, Clone, Default)]
struct Cursors {
    free: Cursor,
    containers: Cursor,
}

impl Cursors {
    fn are_at_the_beginning(&self) -> bool {
        self.free.is_empty() && self.containers.is_empty()
    }
}

/// What decides whether a shard's leader has anything to do: its term, the index that it applied
/// last, and the topology's.
type Standing = (u64, u64, u64);

impl Drivers {
    /// The rounds of one shard, as long as it is led here.
    pub(super) async fn shard_work(self, group: GroupId) {
        let mut cursors = Cursors::default();
        let mut at_rest = None;
        while let Some((replica, term)) = self.leading(group) {
            // Taken before the state is read: an entry applied in between is looked at again.
            let topology = self.client.directory().topology().index;
            let standing: Standing = (term, replica.applied_index(), topology);
            if at_rest != Some(standing) {
                let mut rests = self.work_on(group, &replica, &mut cursors).await;
                rests &= self.sweep(group, &replica).await;
                at_rest = rests.then_some(standing);
            }
            self.env.sleep(self.config.round).await;
        }
    }

    /// Whether the tables were walked from end to end and nothing was to be done.
    async fn work_on(
        &self,
        group: GroupId,
        replica: &Arc<dyn GroupReplica>,
        cursors: &mut Cursors,
    ) -> bool {
        let topology = self.client.directory().topology();
        let from_the_beginning = cursors.are_at_the_beginning();
        let mut at = std::mem::take(cursors);
        let ask = move |view: &dyn View, _| {
            let is_up = |store: StoreId| {
                let node = topology.node_of(store);
                node.is_some_and(|node| node.state == NodeState::Up)
            };
            let mut commands = work::collectable(view, &mut at.free)?;
            commands.extend(work::resting(view, &mut at.containers, &is_up)?);
            Ok((commands, at))
        };
        match read_local(replica, ask).await {
            Ok((commands, at)) => {
                *cursors = at;
                let whole = from_the_beginning && cursors.are_at_the_beginning();
                let rests = whole && commands.is_empty();
                self.propose_shard(group, commands).await;
                rests
            }
            Err(reason) => {
                event!(self.env, Warn, "pages", "{group}: {reason}");
                false
            }
        }
    }

    /// Whether no feed is being filled.
    async fn sweep(&self, group: GroupId, replica: &Arc<dyn GroupReplica>) -> bool {
        for _ in 0..SWEEP_STEPS {
            let ask = |view: &dyn View, _| work::sweeping(view);
            match read_local(replica, ask).await {
                Ok(commands) if !commands.is_empty() => {
                    if !self.propose_shard(group, commands).await {
                        return false;
                    }
                }
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    /// Whether the first of them were proposed. What was lost is found again in a later round.
    async fn propose_shard(&self, group: GroupId, mut commands: Vec<ShardCommand>) -> bool {
        commands.truncate(ROUND_COMMANDS);
        if commands.is_empty() {
            return true;
        }
        let body = GroupBody::Shard(ShardRequest::Propose(commands));
        matches!(
            self.ask(group, body).await,
            hedgerow_protocol::GroupReply::Shard(_)
        )
    }
}
