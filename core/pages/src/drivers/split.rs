//! The split of a shard, as far as it is done to shards: the new one begins, the old one lets go,
//! rows are copied, the new one opens, the table shows it, the old one is cleared.
//!
//! Invariants: each step may be repeated, and a leader that comes later begins at the first one: the
//! shards say how far they are; rows are read from a state that holds the split; nothing is cleared
//! before the root's log shows the new shard.
//! Does not: keep anything that must survive the leader (the root and the shards do).

use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::{GroupId, MapEpoch, Phase, event};
use hedgerow_protocol::{
    PendingShardWork, ROOT_GROUP, RootAnswer, RootCommand, RootQuery, ShardCommand, ShardOutcome,
    ShardReply, ShardRequest, SplitRecord,
};

use super::Drivers;
use crate::GroupReplica;

/// One page of rows, read.
const PAGE_LIMIT: Duration = Duration::from_secs(2);
/// Pages copied in one round, after which is seen whether this node leads the root still.
const ROUND_PAGES: usize = 32;
/// Steps of clearing in one round.
const ROUND_CLEARS: usize = 32;

impl Drivers {
    /// The rounds of the root's leader.
    pub(super) async fn splitting(self) {
        // The term and the applied index at which there was last no split.
        let mut at_rest = None;
        loop {
            self.env.sleep(self.config.round / 2).await;
            let Some((replica, term)) = self.leading(ROOT_GROUP) else {
                continue;
            };
            let now = (term, replica.applied_index());
            if at_rest == Some(now) {
                continue;
            }
            match self.root_answer(&replica, RootQuery::Split).await {
                Some(RootAnswer::Split(Some(split))) => self.advance(&replica, &split).await,
                Some(RootAnswer::Split(None)) => at_rest = Some(now),
                _ => {}
            }
        }
    }

    /// The work without that of a shard which a split makes and which receives yet: it is told when
    /// it serves. Whatever waits for such a shard was read after its split began, so that a look at
    /// the split afterwards misses none.
    pub(super) async fn opened(
        &self,
        replica: &Arc<dyn GroupReplica>,
        mut work: Vec<PendingShardWork>,
    ) -> Vec<PendingShardWork> {
        match self.root_answer(replica, RootQuery::Split).await {
            Some(RootAnswer::Split(None)) => return work,
            Some(RootAnswer::Split(Some(split))) => {
                if !split.opened {
                    for item in &mut work {
                        item.groups.retain(|group| *group != split.to.group);
                    }
                }
                return work;
            }
            _ => {}
        }
        Vec::new()
    }

    /// Goes on with a split for a bounded number of steps.
    async fn advance(&self, replica: &Arc<dyn GroupReplica>, split: &SplitRecord) {
        let done = if split.opened {
            let _phase = self.env.phase(Phase::SplitClear);
            self.clear(replica, split).await
        } else {
            let _phase = self.env.phase(Phase::SplitCopy);
            self.copy(replica, split).await
        };
        let (from, to) = (split.from, split.to.group);
        match done {
            Ok(Some(command)) => {
                event!(
                    self.env,
                    Info,
                    "pages",
                    "split of {from} into {to}: {command:?}"
                );
                self.propose_root(vec![command]).await;
            }
            Ok(None) => {}
            Err(reason) => event!(
                self.env,
                Info,
                "pages",
                "split of {from} into {to}: {reason}"
            ),
        }
    }

    /// Up to the new shard's opening; answers what to tell the root then.
    async fn copy(
        &self,
        replica: &Arc<dyn GroupReplica>,
        split: &SplitRecord,
    ) -> Result<Option<RootCommand>, String> {
        let (from, to) = (split.from, split.to.group);
        let directory = self.client.directory();
        directory.expect_shard(split.to.clone());
        let topology = self.topology(replica).await;
        let topology = topology.ok_or("no topology is known")?;
        let table = directory.table();
        if self
            .start_shard(&split.to, &topology, &table)
            .await
            .is_none()
        {
            return Ok(None);
        }
        // Only then: whatever moves waits until the new shard serves.
        let epoch = MapEpoch(split.began.0 + 1);
        let range = split.range;
        let command = ShardCommand::Split { to, range, epoch };
        let base = match self.shard_command(from, command).await {
            Some(ShardOutcome::Split { position }) => position,
            other => return Err(format!("{from} is not split: {other:?}")),
        };
        let command = ShardCommand::Begin { range, base, epoch };
        let mut next = self.adopted(to, command).await?;
        for _ in 0..ROUND_PAGES {
            let Some(key) = next else {
                return match self.shard_command(to, ShardCommand::Open).await {
                    Some(ShardOutcome::Done) => Ok(Some(RootCommand::ShardOpened { group: to })),
                    other => Err(format!("{to} does not open: {other:?}")),
                };
            };
            let (rows, after) = self.page(from, to, key.clone()).await?;
            let command = ShardCommand::Adopt {
                from: key,
                rows,
                next: after,
            };
            next = self.adopted(to, command).await?;
        }
        Ok(None)
    }

    /// Where the next page begins.
    async fn adopted(
        &self,
        group: GroupId,
        command: ShardCommand,
    ) -> Result<Option<Vec<u8>>, String> {
        match self.shard_command(group, command).await {
            Some(ShardOutcome::Adopted { next }) => Ok(next),
            other => Err(format!("{group} does not receive: {other:?}")),
        }
    }

    async fn page(&self, group: GroupId, to: GroupId, from: Vec<u8>) -> Result<Page, String> {
        let request = ShardRequest::Moving { to, from };
        match self.client.shard(group, request, PAGE_LIMIT).await {
            Ok(ShardReply::Moving { rows, next }) => Ok((rows, next)),
            Ok(other) => Err(format!("{group} hands nothing over: {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes what moved from the old shard; answers what to tell the root at the end.
    async fn clear(
        &self,
        replica: &Arc<dyn GroupReplica>,
        split: &SplitRecord,
    ) -> Result<Option<RootCommand>, String> {
        let (from, to) = (split.from, split.to.group);
        let Some(RootAnswer::Table(table)) = self.root_answer(replica, RootQuery::Table).await
        else {
            return Ok(None);
        };
        let epoch = table.epoch;
        self.client.directory().learn_table(table);
        for _ in 0..ROUND_CLEARS {
            let command = ShardCommand::Clear { to, epoch };
            match self.shard_command(from, command).await {
                Some(ShardOutcome::Cleared { finished: true }) => {
                    return Ok(Some(RootCommand::SplitDone { group: to }));
                }
                Some(ShardOutcome::Cleared { finished: false }) => {}
                other => return Err(format!("{from} is not cleared: {other:?}")),
            }
        }
        Ok(None)
    }
}

/// Rows, and where the next page begins.
type Page = (Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>);
